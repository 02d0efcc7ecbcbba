#!/usr/bin/env python3
"""Measures the disk store beside the memory store, in the same run and in turn.

    cargo build --release -p tokenwire -p tokenwire-simulator -p tokenwire-bench
    python3 benches/store.py --programs target/release

Prints a table for RESULTS.md. Exits with 1 if a budget is missed.

* CPU and delay: two gateways, one with `store.kind: memory` and one with `disk`, read in turn by `tokenwire-bench`.
* Written: `tokenwire_store_written_bytes_total` per token. Kept: the bytes of `logs-*` and `objects-*` once all streams are stored.
* Index: the anonymous memory of a gateway that starts on a folder with many kept streams, less that of one that starts on an empty folder.
* Ready: from the start of the process to the first 200 of `/readyz`.
* Journal: a stream that runs all the time keeps the journal of many saturated ones, until it has almost the eight files that it may have.
* Foreign reader: streams of one gateway are read from another one on the same folder. The CPU of both, beside that of one whose readers are its own.
"""

import argparse
import pathlib
import shutil
import signal
import statistics
import sys
import tempfile
import time

from gateways import Gateway, cpu_ratio, in_turn, read_all, simulator, table
from ports import free_port


def on_disk(folder):
    """Settings of a gateway that keeps its streams in this folder."""
    return {
        "store": {"kind": "disk", "path": str(folder)},
        "streams": {"retain_events": "30m", "retain_responses": "1h"},
    }


IN_MEMORY = {"streams": {"retain_events": "30m", "retain_responses": "1h"}}


def kept_bytes(folder):
    kept = [file for kind in ("logs-*", "objects-*") for file in folder.glob(f"*/{kind}")]
    return sum(file.stat().st_size for file in kept)


def compare(programs, port, scenario, route, rounds, more=()):
    """Runs a scenario against both stores. Returns the ratio of CPU, the added p99, and the bytes of a token."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="store-"))
    memory, disk = Gateway(programs, port, IN_MEMORY), Gateway(programs, port, on_disk(folder))
    own, other = in_turn(programs, port, [memory, disk], scenario, route, rounds, more)
    # Streams as fast as they go have no time at which a token is due.
    delay = lambda run: (run.get("token_delay") or {"p99": 0})["p99"]
    tokens = sum(run["tokens"] for run in other)
    disk.stored(sum(run["streams"] for run in other))
    written = disk.metric("tokenwire_store_written_bytes_total")
    result = {
        "cpu": cpu_ratio(own, other),
        "cpu_memory": statistics.median(run["cpu"]["us_per_token"] for run in own),
        "cpu_disk": statistics.median(run["cpu"]["us_per_token"] for run in other),
        "p99": statistics.median(delay(b) - delay(a) for a, b in zip(own, other, strict=True)) / 1000,
        "written": written / tokens,
        "kept": kept_bytes(folder) / tokens,
    }
    memory.end()
    disk.end()
    shutil.rmtree(folder)
    print(scenario, route, result, file=sys.stderr)
    return result


def starts(programs, port, streams):
    """Returns the index's bytes per kept stream and the time to a start with this many, after a stop and after kill -9."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="store-"))
    gateway = Gateway(programs, port, on_disk(folder))
    in_turn(programs, port, [gateway], "short", "responses", 1, ["--requests", str(streams)])
    gateway.stored(streams)
    gateway.end(signal.SIGKILL)
    killed = Gateway(programs, port, on_disk(folder))
    assert killed.metric("tokenwire_store_kept_streams") >= streams
    killed.end()
    after = []
    for path in (folder, pathlib.Path(tempfile.mkdtemp(prefix="store-"))):
        samples = []
        for _ in range(3):
            gateway = Gateway(programs, port, on_disk(path))
            # Until what the start itself needed is given back.
            time.sleep(5)
            samples.append((gateway.memory(), gateway.ready))
            gateway.end()
        after.append([statistics.median(sample) for sample in zip(*samples)])
        shutil.rmtree(path)
    (full, ready), (empty, _) = after
    result = {"index": (full - empty) / streams, "ready": ready, "ready_killed": killed.ready}
    print(streams, result, file=sys.stderr)
    return result


def journal(programs, port, streams):
    """Returns the journal's bytes and the time to a start with it and this many kept streams, after kill -9."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="store-"))
    gateway = Gateway(programs, port, on_disk(folder))
    in_turn(programs, port, [gateway], "short", "responses", 1, ["--requests", str(streams)])
    gateway.stored(streams)
    upstream = simulator(programs, port)
    gateway.start_stream("tokens=100000 tbt=1s text=count")
    written = lambda: sum(file.stat().st_size for file in folder.glob("*/journal-*"))
    kept = streams
    while written() < 480 << 20:
        for _ in range(4):
            gateway.start_stream("tokens=200000 text=count")
        kept += 4
        gateway.stored(kept)
    size = written()
    gateway.end(signal.SIGKILL)
    killed = Gateway(programs, port, on_disk(folder))
    assert killed.metric("tokenwire_store_kept_streams") >= kept
    result = {"journal": size, "ready": killed.ready}
    killed.end()
    upstream.kill()
    shutil.rmtree(folder)
    print(result, file=sys.stderr)
    return result


def foreign(programs, port, streams):
    """Returns the CPU of two gateways, of which one reads the streams of the other, beside that of one alone."""
    ratios = []
    upstream = simulator(programs, port)
    for _ in range(3):
        cpu = {}
        for kind in ("own", "foreign"):
            folder = pathlib.Path(tempfile.mkdtemp(prefix="store-"))
            gateways = [Gateway(programs, port, on_disk(folder))]
            if kind == "foreign":
                gateways.append(Gateway(programs, port, on_disk(folder)))
                time.sleep(1)
            before = [gateway.cpu() for gateway in gateways]
            ids = [gateways[0].start_stream("tokens=500 tbt=20ms text=count ttft=1s") for _ in range(streams)]
            lengths = read_all(gateways[-1], ids)
            assert len(lengths) == streams and min(lengths) > 10_000, lengths
            cpu[kind] = sum(gateway.cpu() for gateway in gateways) - sum(before)
            for gateway in gateways:
                gateway.end()
            shutil.rmtree(folder)
        ratios.append(cpu["foreign"] / cpu["own"])
        print(cpu, file=sys.stderr)
    upstream.kill()
    return statistics.median(ratios)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, default=pathlib.Path("target/release"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    programs = options.programs.resolve()
    port = free_port()
    paced = compare(programs, port, "paced", "chat", options.rounds)
    objects = compare(programs, port, "paced", "responses", 1)
    saturated = compare(programs, port, "saturated", "responses", 1, ["--tokens", "5000"])
    many = starts(programs, port, 10_000)
    more = starts(programs, port, 50_000)
    long = journal(programs, port, 10_000)
    both = foreign(programs, port, 200)
    rows = [
        ("CPU of a paced token, disk beside memory", paced["cpu"], 1.10, "×"),
        ("added delay of a paced token, 99th percentile", paced["p99"], 1, "ms"),
        ("written per paced token, chat", paced["written"], 64, "bytes"),
        ("kept per paced token, chat", paced["kept"], 32, "bytes"),
        ("written per paced token, Responses with its object", objects["written"], 64, "bytes"),
        ("kept per paced token, Responses with its object", objects["kept"], 32, "bytes"),
        ("written per saturated token, Responses with its object", saturated["written"], 64, "bytes"),
        ("kept per saturated token, Responses with its object", saturated["kept"], 32, "bytes"),
        ("index per kept stream, 10,000 streams", many["index"], 200, "bytes"),
        ("index per kept stream, 50,000 streams", more["index"], 200, "bytes"),
        ("ready with 10,000 kept streams, after a stop", many["ready"], 2, "s"),
        ("the same after kill -9", many["ready_killed"], 2, "s"),
        (f"ready with 10,000 kept streams and a journal of {long['journal'] >> 20} MiB, after kill -9", long["ready"], 2, "s"),
        ("CPU of owner and foreign reader beside that of a local reader", both, 2.2, "×"),
    ]
    met = table(rows)
    print(f"\nCPU of a paced token: memory {paced['cpu_memory']:.2f} µs, disk {paced['cpu_disk']:.2f} µs")
    sys.exit(not met)


if __name__ == "__main__":
    main()
