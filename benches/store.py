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
import json
import os
import pathlib
import random
import re
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request


class Gateway:
    """A gateway of its own process, with the simulator of the bench as its upstream."""

    def __init__(self, programs, upstream, folder=None):
        self.port = random.randint(20_000, 32_000)
        environment = dict(os.environ, TOKENWIRE_STREAMS__RETAIN_EVENTS="30m", TOKENWIRE_STREAMS__RETAIN_RESPONSES="1h")
        if folder:
            environment |= {"TOKENWIRE_STORE__KIND": "disk", "TOKENWIRE_STORE__PATH": str(folder)}
        command = [programs / "tokenwire", "--port", str(self.port), "--workers", "1", "--log", "error"]
        command += ["--base-url", f"http://127.0.0.1:{upstream}/v1", "--model", "simulator"]
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.DEVNULL)
        while True:
            try:
                self.get("/readyz")
                break
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None:
                    raise SystemExit("the gateway did not start")
                time.sleep(0.002)
        self.ready = time.monotonic() - self.started

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
            return answer.read().decode()

    def metric(self, name):
        found = re.search(rf"^{name}(?:{{.*}})? ([0-9.e+]+)$", self.get("/metrics"), re.M)
        return float(found[1])

    def stored(self, streams):
        """Waits until this many streams are kept."""
        until = time.monotonic() + 60
        while self.metric("tokenwire_store_kept_streams") < streams:
            if time.monotonic() > until:
                raise SystemExit(f"{self.metric('tokenwire_store_kept_streams')} of {streams} streams are stored")
            time.sleep(0.1)

    def memory(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Anonymous:\s+(\d+) kB", text, re.M)[1]) * 1024

    def cpu(self):
        """Seconds of CPU so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def start_stream(self, steering):
        """Starts a background stream. Returns its id."""
        body = {"model": "simulator", "input": f"Go [[{steering}]]", "background": True}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/responses", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["id"]

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait()


def bench(programs, port, arguments):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [programs / "tokenwire-bench", *arguments, "--no-build", "--simulator-port", str(port), "--json", out.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.load(open(out.name))


def kept_bytes(folder):
    kept = [file for kind in ("logs-*", "objects-*") for file in folder.glob(f"*/{kind}")]
    return sum(file.stat().st_size for file in kept)


def compare(programs, port, scenario, route, rounds, more=()):
    """Runs a scenario against both stores. Returns the ratio of CPU, the added p99, and the bytes of a token."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="store-"))
    memory, disk = Gateway(programs, port), Gateway(programs, port, folder)
    arguments = [scenario, "-r", route, "--rounds", str(rounds), *more]
    for gateway in (memory, disk):
        arguments += ["--url", f"http://127.0.0.1:{gateway.port}/v1", "--pid", str(gateway.process.pid)]
    record = bench(programs, port, arguments)
    runs = lambda gateway: [run for run in record["runs"] if f":{gateway.port}/" in run["target"]]
    pairs = list(zip(runs(memory), runs(disk), strict=True))
    # Streams as fast as they go have no time at which a token is due.
    delay = lambda run: (run.get("token_delay") or {"p99": 0})["p99"]
    tokens = sum(run["tokens"] for run in runs(disk))
    disk.stored(sum(run["streams"] for run in runs(disk)))
    written = disk.metric("tokenwire_store_written_bytes_total")
    result = {
        "cpu": statistics.median(b["cpu"]["us_per_token"] / a["cpu"]["us_per_token"] for a, b in pairs),
        "cpu_memory": statistics.median(a["cpu"]["us_per_token"] for a, _ in pairs),
        "cpu_disk": statistics.median(b["cpu"]["us_per_token"] for _, b in pairs),
        "p99": statistics.median(delay(b) - delay(a) for a, b in pairs) / 1000,
        "written": written / tokens,
        "kept": kept_bytes(folder) / tokens,
        "lost": sum(run["lost"] + run["doubled"] + run["broken"] for run in runs(disk)),
    }
    memory.end()
    disk.end()
    shutil.rmtree(folder)
    print(scenario, route, result, file=sys.stderr)
    return result


def starts(programs, port, streams):
    """Returns the index's bytes per kept stream and the time to a start with this many, after a stop and after kill -9."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="store-"))
    gateway = Gateway(programs, port, folder)
    url = f"http://127.0.0.1:{gateway.port}/v1"
    bench(programs, port, ["short", "-r", "responses", "--rounds", "1", "--requests", str(streams), "--url", url, "--alone"])
    gateway.stored(streams)
    gateway.end(signal.SIGKILL)
    killed = Gateway(programs, port, folder)
    assert killed.metric("tokenwire_store_kept_streams") >= streams
    killed.end()
    after = []
    for path in (folder, pathlib.Path(tempfile.mkdtemp(prefix="store-"))):
        samples = []
        for _ in range(3):
            gateway = Gateway(programs, port, path)
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


def simulator(programs, port):
    command = [programs / "tokenwire-simulator", "--port", str(port), "--answer-pace", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models").read()
            return process
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)


def journal(programs, port, streams):
    """Returns the journal's bytes and the time to a start with it and this many kept streams, after kill -9."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="store-"))
    gateway = Gateway(programs, port, folder)
    url = f"http://127.0.0.1:{gateway.port}/v1"
    bench(programs, port, ["short", "-r", "responses", "--rounds", "1", "--requests", str(streams), "--url", url, "--alone"])
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
    killed = Gateway(programs, port, folder)
    assert killed.metric("tokenwire_store_kept_streams") >= kept
    result = {"journal": size, "ready": killed.ready}
    killed.end()
    upstream.kill()
    shutil.rmtree(folder)
    print(result, file=sys.stderr)
    return result


def read_all(gateway, ids):
    """Reads these streams beside one another. Returns the bytes of each."""
    readers = selectors.DefaultSelector()
    for id in ids:
        line = socket.create_connection(("127.0.0.1", gateway.port))
        line.sendall(f"GET /v1/streams/{id} HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n".encode())
        readers.register(line, selectors.EVENT_READ, bytearray())
    ended = []
    while readers.get_map():
        for key, _ in readers.select():
            key.data.extend(key.fileobj.recv(1 << 16))
            if b"response.completed" in key.data[-4096:] and key.data.endswith(b"0\r\n\r\n"):
                readers.unregister(key.fileobj)
                key.fileobj.close()
                ended.append(len(key.data))
    return ended


def foreign(programs, port, streams):
    """Returns the CPU of two gateways, of which one reads the streams of the other, beside that of one alone."""
    ratios = []
    upstream = simulator(programs, port)
    for _ in range(3):
        cpu = {}
        for kind in ("own", "foreign"):
            folder = pathlib.Path(tempfile.mkdtemp(prefix="store-"))
            gateways = [Gateway(programs, port, folder)]
            if kind == "foreign":
                gateways.append(Gateway(programs, port, folder))
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
    port = random.randint(20_000, 32_000)
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
        ("lost or doubled tokens", paced["lost"] + objects["lost"] + saturated["lost"], 0, ""),
    ]
    print("| figure | at most | measured | |")
    print("| --- | ---: | ---: | --- |")
    for name, measured, budget, unit in rows:
        print(f"| {name} | {budget} {unit} | {measured:.2f} | {'met' if measured <= budget else 'missed'} |")
    print(f"\nCPU of a paced token: memory {paced['cpu_memory']:.2f} µs, disk {paced['cpu_disk']:.2f} µs")
    sys.exit(any(measured > budget for _, measured, budget, _ in rows))


if __name__ == "__main__":
    main()
