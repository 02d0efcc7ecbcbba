#!/usr/bin/env python3
"""Measures what several nodes cost in Redis: the constants of deploy/SCALING.md.

    cargo build --profile dist -p tokenwire
    python3 benches/cluster.py --programs target/dist

Needs `redis-server`. Prints a table. For each kind of stream, per stream: entries of its log in Redis, processor time of Redis, bytes that Redis received
and sent, and bytes of memory that are left after the end: the log, kept for `streams.retain_events`, and the object, kept for
`streams.retain_responses`. The figures are those of Redis, so the profile of the gateway does not matter. Idle is two nodes without streams.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import subprocess
import tempfile
import time
import urllib.request

TOKENS = 250
"""Tokens of a stream, at 50 a second."""

# Kind, members of the request, value of store.replicate.
KINDS = [
    ("not stored", {"store": False}, "background"),
    ("stored, copied at its end", {}, "background"),
    ("stored, with an idempotency key", {}, "background"),
    ("background, replicated", {"background": True}, "background"),
    ("replicate: all", {}, "all"),
]


def port():
    return random.randint(20_000, 60_000)


class Redis:
    def __init__(self):
        self.port = port()
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(0.5)

    def ask(self, *command):
        return subprocess.run(["redis-cli", "-p", str(self.port), *command], capture_output=True, text=True, check=True).stdout

    def state(self):
        info = dict(line.split(":", 1) for line in self.ask("info", "everything").splitlines() if ":" in line)
        appends = info.get("cmdstat_xadd", "calls=0").split(",")[0].split("=")[1]
        return {
            "entries": int(appends),
            "cpu": (float(info["used_cpu_user"]) + float(info["used_cpu_sys"])) * 1e6,
            "in": int(info["total_net_input_bytes"]),
            "out": int(info["total_net_output_bytes"]),
            "memory": int(info["used_memory"]),
            "time": time.monotonic(),
        }

    def object_size(self):
        """Returns the bytes of a response object, 0 if none is stored."""
        keys = self.ask("keys", "tw:*:object:*").split()
        return int(self.ask("memory", "usage", keys[0])) if keys else 0


class Node:
    def __init__(self, program, redis, replicate):
        self.port = port()
        environment = dict(
            os.environ,
            TOKENWIRE_CLUSTER__URL=f"redis://127.0.0.1:{redis.port}",
            TOKENWIRE_CLUSTER__LISTEN="127.0.0.1:0",
            TOKENWIRE_CLUSTER__SECRET="a secret that all nodes of the bench share",
            TOKENWIRE_STORE__REPLICATE=replicate,
        )
        command = [program, "--port", str(self.port), "--log", "error"]
        self.process = subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz").close()
                return
            except OSError:
                time.sleep(0.05)
        self.process.kill()
        raise SystemExit("the gateway did not start")

    def stream(self, members, key):
        steering = f"[[tokens={TOKENS} text=count tbt=20ms]]"
        body = json.dumps({"model": "simulator", "input": steering, "stream": True} | members).encode()
        headers = {"content-type": "application/json"}
        if key:
            headers["idempotency-key"] = key
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/streams", body, headers)
        with urllib.request.urlopen(request) as answer:
            assert b"response.completed" in answer.read()


def measure(redis, node, members, keyed, streams):
    def one(number):
        node.stream(members, f"key-{os.getpid()}-{number}" if keyed else None)

    one(-1)
    time.sleep(1.5)
    before = redis.state()
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        list(pool.map(one, range(streams)))
    time.sleep(1.5)
    after = redis.state()
    difference = {name: after[name] - before[name] for name in after}
    return difference


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", type=pathlib.Path, default=pathlib.Path("target/dist"))
    parser.add_argument("--streams", type=int, default=50)
    options = parser.parse_args()
    program = (options.programs / "tokenwire").resolve()
    print(f"| {options.streams} streams of {TOKENS} tokens, each | entries | µs of Redis | bytes in | bytes out | bytes kept | of these the object |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind, members, replicate in KINDS:
        redis = Redis()
        nodes = []
        try:
            for _ in range(2):
                nodes.append(Node(program, redis, replicate))
            time.sleep(3)
            before = redis.state()
            time.sleep(5)
            idle = {name: (value - before[name]) / 5 for name, value in redis.state().items()}
            found = measure(redis, nodes[0], members, "key" in kind, options.streams)
            for name in ("cpu", "in", "out"):
                found[name] -= idle[name] * found["time"]
            each = [found[name] / options.streams for name in ("entries", "cpu", "in", "out", "memory")]
            print(f"| {kind} | " + " | ".join(f"{value:,.0f}" for value in each + [redis.object_size()]) + " |")
        finally:
            for process in [node.process for node in nodes] + [redis.process]:
                process.kill()
                process.wait()
    print(f"| two idle nodes, a second | | {idle['cpu']:,.0f} | {idle['in']:,.0f} | {idle['out']:,.0f} | | |")


if __name__ == "__main__":
    main()
