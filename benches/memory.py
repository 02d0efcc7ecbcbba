#!/usr/bin/env python3
"""Measures the resident memory of a gateway under loads that hold many times `streams.max_memory`.

    cargo build --release -p tokenwire -p tokenwire-simulator
    python3 benches/memory.py target/release/tokenwire target/release/tokenwire-simulator [LOAD...]

Each load runs against a gateway and a simulator of its own, on 127.0.0.1, with `max_memory: 64MiB`
and two workers. A line says the size before the load, the largest one, the one 10 s after the load
without further requests, and what the requests were answered. An answer that began and is not
complete is `LOST`. The exit status is 1 if a load exceeds 200 MiB, leaves more than 64 MiB, or
loses an answer. Needs Linux and Python 3.9, no packages.
"""
import asyncio
import collections
import json
import subprocess
import sys
import tempfile
import time

from ports import free_port, wait

MIB = 1 << 20
MOST, LEFT = 200, 64


class Gateway:
    def __init__(self, gateway, simulator, api):
        self.folder = tempfile.TemporaryDirectory()
        upstream, self.port = free_port(), free_port()
        config = f"""
server: {{workers: 2}}
log: {{filter: error}}
streams: {{max_memory: 64MiB}}
upstreams: [{{name: simulator, base_url: "http://127.0.0.1:{upstream}/v1", api: {api}}}]
"""
        path = f"{self.folder.name}/tokenwire.yaml"
        with open(path, "w", encoding="utf-8") as file:
            file.write(config)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.simulator = subprocess.Popen([simulator, "--port", str(upstream)], **quiet)
        command = [gateway, "--port", str(self.port), "--config", path]
        self.process = subprocess.Popen(command, **quiet)
        for port in (upstream, self.port):
            wait(port)

    def size(self, name="VmRSS"):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith(name + ":"):
                    return int(line.split()[1]) // 1024
        raise SystemExit("the gateway ended")

    def stop(self):
        for process in (self.process, self.simulator):
            process.kill()
            process.wait()
        self.folder.cleanup()


async def request(port, method, path, body=b"", pause=0.0):
    """Returns the status and the body. Waits `pause` seconds after each chunk."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=32 * MIB)
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, answer = int(head.split()[1]), bytearray()
        while data := await reader.read(MIB // 4):
            answer += data
            if pause:
                await asyncio.sleep(pause)
        return status, bytes(answer)
    finally:
        writer.close()


def steered(steering, **members):
    return json.dumps({"model": "simulator", "input": f"[[{steering}]]", **members}).encode()


async def create(port, body, pause=0.0):
    """Returns what became of an answer."""
    try:
        status, answer = await request(port, "POST", "/v1/responses", body, pause)
    except (OSError, asyncio.IncompleteReadError) as error:
        return f"LOST: {type(error).__name__}"
    if status != 200:
        return str(status)
    ended = b'"response.completed"' in answer or b'"status":"completed"' in answer
    return "complete" if ended else "LOST"


def many(count, steering, pause=0.0, **members):
    async def load(port):
        body = steered(steering, **members)
        return await asyncio.gather(*(create(port, body, pause) for _ in range(count)))

    return load


async def chain(port):
    """Twelve turns of 2 MiB, each of which continues the one before."""
    previous, results = None, []
    for _ in range(12):
        body = {"model": "simulator", "input": "x" * (2 * MIB) + " [[tokens=3]]"}
        if previous:
            body["previous_response_id"] = previous
        status, answer = await request(port, "POST", "/v1/responses", json.dumps(body).encode())
        results.append("complete" if status == 200 else str(status))
        if status == 200:
            previous = json.loads(answer)["id"]
    return results


async def polls(port):
    """Sixteen readers at a time get an object of 4 MiB again and again."""
    _, answer = await request(port, "POST", "/v1/responses", steered("tokens=4096 size=1024"))
    path = "/v1/responses/" + json.loads(answer)["id"]

    async def poll():
        status, answer = await request(port, "GET", path)
        return "complete" if status == 200 and len(answer) > 4 * MIB else f"LOST: {status}"

    results = []
    for _ in range(10):
        results += await asyncio.gather(*(poll() for _ in range(16)))
    return results


async def bodies(port):
    """Requests of 2 MiB whose tokens are counted only."""
    body = json.dumps({"model": "simulator", "input": "x" * (2 * MIB)}).encode()

    async def count():
        status, _ = await request(port, "POST", "/v1/responses/input_tokens", body)
        return "complete" if status == 200 else str(status)

    return await asyncio.gather(*(count() for _ in range(40)))


def arguments(count):
    """Calls with arguments of 300 KB, in pieces of some bytes."""
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    text = "%7B%22x%22%3A%22" + "y" * 300_000 + "%22%7D"
    return many(count, f"calls=4 arguments={text}", stream=True, tools=[tool])


LOADS = {
    "streams": ("160 streams of 1 MiB", many(160, "tokens=1024 size=1024", stream=True)),
    "whole": ("40 whole answers of 1 MiB", many(40, "tokens=1024 size=1024")),
    "slow": (
        "40 slow readers of 4 MiB",
        many(40, "tokens=1024 size=4096", pause=0.01, stream=True),
    ),
    "reasoning": (
        "40 streams with 1 MiB of reasoning",
        many(40, "reasoning=1024 tokens=3 size=1024", stream=True),
    ),
    "small": ("40 streams of 20,000 tokens", many(40, "tokens=20000", stream=True)),
    "long": ("40 streams of 100,000 tokens", many(40, "tokens=100000", stream=True)),
    "arguments": ("24 answers with 4 calls of 300 KB", arguments(24)),
    "polls": ("160 polls of an object of 4 MiB", polls),
    "bodies": ("40 token counts of 2 MiB", bodies),
    "chain": ("a chain of 12 turns of 2 MiB", chain),
}


async def measure(gateway, load):
    await create(gateway.port, steered("tokens=3"))
    idle, start = gateway.size(), time.monotonic()
    results = await asyncio.wait_for(load(gateway.port), 300)
    took = time.monotonic() - start
    await asyncio.sleep(10)
    return idle, gateway.size("VmHWM"), gateway.size(), took, collections.Counter(results)


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    gateway, simulator, *names = sys.argv[1:]
    failed = False
    for name in names or LOADS:
        what, load = LOADS[name]
        for api in ("chat", "responses"):
            process = Gateway(gateway, simulator, api)
            try:
                idle, most, left, took, results = asyncio.run(measure(process, load))
            finally:
                process.stop()
            lost = any(result.startswith("LOST") for result in results)
            bad = most > MOST or left - idle > LEFT or lost
            failed |= bad
            told = ", ".join(f"{count} {result}" for result, count in sorted(results.items()))
            mark = "**" if bad else ""
            print(f"| {what}, {api} | {idle} | {mark}{most}{mark} | {left} | {took:.0f} s | {told} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
