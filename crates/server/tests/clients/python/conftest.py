"""Where the servers are, and the clients that talk to them.

`cargo xtask test --only python` starts a simulator and two gateways and tells their addresses in the environment.
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
    """The upstream, as seen past the gateway."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=30)

    def stats(self) -> dict:
        return self._http.get("/stats").raise_for_status().json()

    def requests(self) -> int:
        """How often anybody asked for a generation, whatever the answer was."""
        stats = self.stats()
        return stats["chat_completions"] + stats["responses"]

    def under_way(self) -> int:
        """How many are being answered now, whether their head has left or not."""
        stats = self.stats()
        return stats["requests"] - stats["completed"] - stats["aborted"] - stats["faulted"]


@pytest.fixture(scope="session")
def url() -> str:
    return address("TOKENWIRE_URL")


@pytest.fixture(scope="session")
def forgetful_url() -> str:
    return address("TOKENWIRE_FORGETFUL_URL")


@pytest.fixture(scope="session")
def simulator() -> Simulator:
    return Simulator(address("SIMULATOR_URL"))


@pytest.fixture
def http(url: str):
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def client(url: str):
    """The SDK as its users make it: retries and all."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-of-a-test") as client:
        yield client


@pytest.fixture
def unique() -> str:
    """A name that no other test uses."""
    return uuid.uuid4().hex


def eventually(ask, is_enough, what: str, within: float = 30.0):
    """Asks again and again until the answer is enough, as somebody who polls does; fails with the last answer."""
    deadline = time.monotonic() + within
    while True:
        answer = ask()
        if is_enough(answer):
            return answer
        assert time.monotonic() < deadline, f"{what} did not come within {within:.0f} s; last seen: {answer!r}"
        time.sleep(0.05)
