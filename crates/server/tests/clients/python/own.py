"""Servers for one test: a gateway and its upstream."""

import contextlib
import os
import random
import re
import socket
import subprocess
import tempfile
import time

import httpx
import pytest

PATIENCE = 90.0


def program(name: str) -> str:
    path = os.environ.get(name)
    if not path:
        pytest.exit(f"{name} is not set; run these tests with `cargo xtask test --only python`", returncode=2)
    return path


def free_port() -> int:
    """Returns a free port below those that the kernel gives to outgoing connections, which could take it before the server does."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def running(command: list[str], ready: str, environment: dict[str, str]):
    """Runs a server until the block is left. It is ready once `ready` is answered with 200."""
    foreign = re.compile("TOKENWIRE_|OPENAI_|LITELLM_|DATABASE_URL|.*_proxy$", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not foreign.match(name)}
    # In an empty folder, so that no configuration file is found.
    with tempfile.TemporaryDirectory(prefix="tokenwire-") as folder, tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command, env={**kept, **environment}, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(ready, timeout=5).status_code == 200:
                        break
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    pytest.fail(f"{command[0]} did not become ready:\n{log.read()[-5000:].decode(errors='replace')}")
                time.sleep(0.1)
            yield
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextlib.contextmanager
def gateway(base_url: str, api: str, **settings: str):
    """Runs a gateway over one upstream and yields its URL. Settings are written `TIMEOUTS__FIRST_TOKEN="1s"`."""
    port = free_port()
    upstream = {"UPSTREAMS__0__NAME": "upstream", "UPSTREAMS__0__BASE_URL": base_url, "UPSTREAMS__0__API": api, **settings}
    environment = {f"TOKENWIRE_{name}": value for name, value in upstream.items()}
    command = [program("TOKENWIRE_PROGRAM"), "--host", "127.0.0.1", "--port", str(port)]
    with running(command, f"http://127.0.0.1:{port}/readyz", environment):
        yield f"http://127.0.0.1:{port}"
