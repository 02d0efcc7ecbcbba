"""Gateways and their upstream, as the scripts in this folder start, load and measure them."""

import contextlib
import json
import os
import pathlib
import re
import selectors
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from ports import free_port, wait

TICK = os.sysconf("SC_CLK_TCK")


class Gateway:
    """A gateway with one worker, over the simulator at a port. `settings` is its configuration."""

    def __init__(self, programs, upstream, settings=None):
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory()
        file = f"{self.folder.name}/tokenwire.json"
        config = {
            "server": {"port": self.port, "workers": 1},
            "log": {"filter": "error"},
            "default_model": "simulator",
            "upstreams": [{"name": "simulator", "base_url": f"http://127.0.0.1:{upstream}/v1"}],
        }
        with open(file, "w", encoding="utf-8") as out:
            json.dump(config | (settings or {}), out)
        self.started = time.monotonic()
        command = [programs / "tokenwire", "--config", file]
        self.process = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL)
        while True:
            try:
                self.get("/readyz")
                break
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None:
                    raise SystemExit("the gateway did not start")
                time.sleep(0.002)
        self.ready = time.monotonic() - self.started

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
            return answer.read().decode()

    def metric(self, name):
        found = re.search(rf"^{name}(?:{{.*}})? ([0-9.e+]+)$", self.get("/metrics"), re.M)
        return float(found[1])

    def stored(self, streams):
        """Waits until this many streams are kept on disk."""
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
        return (int(fields[11]) + int(fields[12])) / TICK

    def start_stream(self, steering):
        """Starts a background stream. Returns its id."""
        body = {"model": "simulator", "input": f"Go [[{steering}]]", "background": True}
        request = urllib.request.Request(f"{self.url}/responses", json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["id"]

    def leave_stream(self, steering):
        """Starts a stream, and leaves once its answer has begun. Returns its id: there is time to come back."""
        body = {"model": "simulator", "input": f"Go [[{steering}]]", "stream": True}
        request = urllib.request.Request(f"{self.url}/streams", json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return answer.headers["location"].rsplit("/", 1)[1]

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait()


def simulator(programs, port):
    """Starts the upstream."""
    command = [programs / "tokenwire-simulator", "--port", str(port), "--answer-pace", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models").read()
            return process
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)


@contextlib.contextmanager
def redis():
    """A Redis of its own. Gives its port."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait(port)
        yield port
    finally:
        process.terminate()
        process.wait()


def in_cluster(port, replicate):
    """Returns the settings of a node of the cluster on the Redis at this port."""
    cluster = {
        "url": f"redis://127.0.0.1:{port}",
        "listen": "127.0.0.1:0",
        "secret": "a secret that all nodes of the bench share",
    }
    return {"cluster": cluster, "store": {"replicate": replicate}}


def bench(programs, port, arguments):
    """Runs `tokenwire-bench`, whose simulator listens at this port. Returns its record."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [programs / "tokenwire-bench", *arguments, "--no-build", "--simulator-port", str(port), "--json", out.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.load(open(out.name, encoding="utf-8"))


def in_turn(programs, port, gateways, scenario, route, rounds, more=()):
    """Runs a scenario against these gateways in turn. Returns the runs of each, one per round."""
    arguments = [scenario, "--alone", "-r", route, "--rounds", str(rounds), *more]
    for gateway in gateways:
        arguments += ["--url", gateway.url, "--pid", str(gateway.process.pid)]
    runs = bench(programs, port, arguments)["runs"]
    for run in runs:
        if run["lost"] or run["doubled"] or run["broken"]:
            raise SystemExit(f"{run['target']} lost {run['lost']}, doubled {run['doubled']}, broke {run['broken']}")
    return [[run for run in runs if f":{gateway.port}/" in run["target"]] for gateway in gateways]


def cpu_ratio(own, other, unit="us_per_token"):
    """Returns the median over the rounds of the CPU of `other` beside `own`."""
    pairs = zip(own, other, strict=True)
    return statistics.median(b["cpu"][unit] / a["cpu"][unit] for a, b in pairs)


def read_all(gateway, ids, pause=0):
    """Reads these streams beside one another, with a pause between two looks. Returns the bytes of each."""
    readers = selectors.DefaultSelector()
    for id in ids:
        line = socket.create_connection(("127.0.0.1", gateway.port))
        line.sendall(f"GET /v1/streams/{id} HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n".encode())
        readers.register(line, selectors.EVENT_READ, bytearray())
    ended = []
    while readers.get_map():
        time.sleep(pause)
        for key, _ in readers.select():
            key.data.extend(key.fileobj.recv(1 << 16))
            if b"response.completed" in key.data[-4096:] and key.data.endswith(b"0\r\n\r\n"):
                readers.unregister(key.fileobj)
                key.fileobj.close()
                ended.append(len(key.data))
    return ended


def table(rows):
    """Prints figures beside their budgets. Returns whether all are met."""
    print("| figure | at most | measured | |")
    print("| --- | ---: | ---: | --- |")
    for name, measured, budget, unit in rows:
        print(f"| {name} | {budget} {unit} | {measured:.2f} | {'met' if measured <= budget else 'missed'} |")
    return all(measured <= budget for _, measured, budget, _ in rows)
