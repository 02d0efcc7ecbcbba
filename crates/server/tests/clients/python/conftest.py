"""Addresses of the servers, and clients for them.

`cargo xtask test --only python` starts a simulator and two gateways, and passes their addresses in the environment.
"""

import os
import time
import uuid

import httpx
import openai
import pytest


def address(name: str) -> str:
    url = os.environ.get(name)
    if not url:
        pytest.exit(f"{name} is not set; run these tests with `cargo xtask test --only python`", returncode=2)
    return url.rstrip("/")


class Simulator:
    """The upstream, queried directly."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=30)

    def stats(self) -> dict:
        return self._http.get("/stats").raise_for_status().json()

    def requests(self) -> int:
        """Returns the number of requests for a generation, whatever the answer was."""
        stats = self.stats()
        return stats["chat_completions"] + stats["responses"]

    def under_way(self) -> int:
        """Returns the number of requests that are not finished."""
        stats = self.stats()
        return stats["requests"] - stats["completed"] - stats["aborted"] - stats["faulted"]


@pytest.fixture(scope="session")
def url() -> str:
    return address("TOKENWIRE_URL")


@pytest.fixture(scope="session")
def forgetful_url() -> str:
    return address("TOKENWIRE_FORGETFUL_URL")


@pytest.fixture(scope="session")
def limited_url() -> str:
    return address("TOKENWIRE_LIMITED_URL")


@pytest.fixture(scope="session")
def simulator() -> Simulator:
    return Simulator(address("SIMULATOR_URL"))


@pytest.fixture
def http(url: str):
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def client(url: str):
    """The SDK with its defaults, retries included."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-of-a-test") as client:
        yield client


@pytest.fixture
def unique() -> str:
    """A name that no other test uses."""
    return uuid.uuid4().hex


def eventually(ask, is_enough, what: str, within: float = 30.0):
    """Polls `ask` until `is_enough` accepts its result, and returns that. Fails with the last result."""
    deadline = time.monotonic() + within
    while True:
        answer = ask()
        if is_enough(answer):
            return answer
        assert time.monotonic() < deadline, f"{what} did not come within {within:.0f} s; last seen: {answer!r}"
        time.sleep(0.05)
