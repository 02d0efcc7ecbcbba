#!/usr/bin/env python3
"""Measures what several nodes cost: the constants of deploy/SCALING.md, and the readers of another node.

    cargo build --profile dist -p tokenwire -p tokenwire-simulator
    python3 benches/cluster.py --programs target/dist [--readers | --redis]

Needs `redis-server`. Prints tables. Exits with 1 if a budget is missed.

* Redis, for each kind of stream, per stream: entries of its log in Redis, processor time of Redis, bytes that Redis received and sent, and
  bytes of memory that are left after the end: the log, kept for `streams.retain_events`, and the object, kept for
  `streams.retain_responses`. The figures are those of Redis, so the profile of the gateway does not matter. Idle is two nodes without streams.
* Readers: streams of one node are read from another one. The CPU of both together, beside that with readers on the first; once with one reader
  of each stream, and once with 500 readers of one stream. Both nodes run in any case.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import urllib.request

from gateways import Gateway, in_cluster, read_all, redis, simulator, table
from ports import free_port

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


class Counters:
    """What the Redis at a port counts."""

    def __init__(self, port):
        self.port = port

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


def stream(node, members, key):
    """Reads a stream to its end."""
    steering = f"[[tokens={TOKENS} text=count tbt=20ms]]"
    body = json.dumps({"model": "simulator", "input": steering, "stream": True} | members).encode()
    headers = {"content-type": "application/json"}
    if key:
        headers["idempotency-key"] = key
    request = urllib.request.Request(f"{node.url}/streams", body, headers)
    with urllib.request.urlopen(request) as answer:
        assert b"response.completed" in answer.read()


def measure(counters, node, members, keyed, streams):
    def one(number):
        stream(node, members, f"key-{os.getpid()}-{number}" if keyed else None)

    one(-1)
    time.sleep(1.5)
    before = counters.state()
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        list(pool.map(one, range(streams)))
    time.sleep(1.5)
    after = counters.state()
    difference = {name: after[name] - before[name] for name in after}
    return difference


@contextlib.contextmanager
def two_nodes(programs, upstream, replicate):
    """Two nodes that know each other, on a Redis of their own. Gives its port and the nodes."""
    with redis() as port:
        nodes = []
        try:
            for _ in range(2):
                nodes.append(Gateway(programs, upstream, in_cluster(port, replicate)))
            # Until they know each other.
            time.sleep(3)
            yield port, nodes
        finally:
            for node in nodes:
                node.end()


def of_redis(programs, upstream, streams):
    """Prints what streams cost in Redis."""
    print(f"| {streams} streams of {TOKENS} tokens, each | entries | µs of Redis | bytes in | bytes out | bytes kept | of these the object |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind, members, replicate in KINDS:
        with two_nodes(programs, upstream, replicate) as (port, nodes):
            counters = Counters(port)
            before = counters.state()
            time.sleep(5)
            idle = {name: (value - before[name]) / 5 for name, value in counters.state().items()}
            found = measure(counters, nodes[0], members, "key" in kind, streams)
            for name in ("cpu", "in", "out"):
                found[name] -= idle[name] * found["time"]
            each = [found[name] / streams for name in ("entries", "cpu", "in", "out", "memory")]
            print(f"| {kind} | " + " | ".join(f"{value:,.0f}" for value in each + [counters.object_size()]) + " |")
    print(f"| two idle nodes, a second | | {idle['cpu']:,.0f} | {idle['in']:,.0f} | {idle['out']:,.0f} | | |")


def both_cpu(programs, upstream, ids, readers, foreign):
    """Returns the CPU of two nodes, of which the first runs these streams and one has their readers."""
    with two_nodes(programs, upstream, "background") as (_, nodes):
        before = sum(node.cpu() for node in nodes)
        started = [nodes[0].leave_stream("tokens=500 tbt=20ms text=count ttft=2s") for _ in range(ids)]
        lengths = read_all(nodes[foreign], started * readers, 0.05)
        assert len(lengths) == ids * readers and min(lengths) > 10_000, lengths
        return sum(node.cpu() for node in nodes) - before


def of_readers(programs, upstream, rounds):
    """Prints what readers on another node cost. Returns whether the budgets are met."""
    one, many = [], []
    for _ in range(rounds):
        # Streams, readers of each; on the node that runs them, or on the other one.
        own, other = (both_cpu(programs, upstream, 200, 1, foreign) for foreign in (0, 1))
        one.append(other / own)
        local, foreign = (both_cpu(programs, upstream, 1, 500, foreign) for foreign in (0, 1))
        hop = (other - own) / 200
        many.append((foreign - hop) / local)
        print(f"{own:.2f} s, {other:.2f} s; {local:.2f} s, {foreign:.2f} s", file=sys.stderr)
    rows = [
        ("both nodes, a reader on another node beside one on the same", statistics.median(one), 2.2, "×"),
        ("both nodes less one hop, 500 readers on another node beside 500 on the same", statistics.median(many), 1.1, "×"),
    ]
    return table(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, default=pathlib.Path("target/dist"))
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3, help="of the readers")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--readers", action="store_true", help="only the readers of another node")
    only.add_argument("--redis", action="store_true", help="only what streams cost in Redis")
    options = parser.parse_args()
    programs = options.programs.resolve()
    upstream = free_port()
    process = simulator(programs, upstream)
    met = True
    try:
        if not options.readers:
            of_redis(programs, upstream, options.streams)
        if not options.redis:
            met = of_readers(programs, upstream, options.rounds)
    finally:
        process.kill()
        process.wait()
    sys.exit(not met)


if __name__ == "__main__":
    main()
