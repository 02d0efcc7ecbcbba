#!/usr/bin/env python3
"""Measures what settings cost per paced token, beside a gateway without them, in the same run and in turn.

    cargo build --profile dist -p tokenwire -p tokenwire-simulator -p tokenwire-bench
    python3 benches/settings.py --programs target/dist [NAME ...]

Prints a table for RESULTS.md: CPU of a paced token, median over the rounds of the ratio. Exits with 1 if a budget is missed.

* watchers: ten clients read `/v1/activity`, each with what an operator sees.
* words: a watch rule with 100 words, none of which occurs.
* telemetry: metrics every 10 s and 1 % of the traces go to a receiver.
* keys: a key with limits, beside anonymous requests of five tokens.
* redis: one node of a cluster on a Redis of its own, with `store.replicate: all`.
"""

import argparse
import contextlib
import http.server
import os
import pathlib
import shutil
import socket
import sys
import threading

from gateways import Gateway, cpu_ratio, in_cluster, in_turn, redis, table
from ports import free_port

KEY = "sk-tw-a-key-of-the-bench-only"
LIMITS = {"requests_per_minute": 1_000_000_000, "tokens_per_minute": 1_000_000_000_000, "streams": 10_000}


@contextlib.contextmanager
def receiver():
    """A receiver of telemetry, in a thread. Gives its URL and what it counts."""
    counted = {"requests": 0}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            counted["requests"] += 1
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", counted
    server.shutdown()


class Watchers:
    """Clients that read `/v1/activity` and throw it away."""

    def __init__(self, gateway, count):
        self.lines = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(count)]
        self.bytes = 0
        for line in self.lines:
            line.sendall(b"GET /v1/activity HTTP/1.1\r\nhost: localhost\r\n\r\n")
            threading.Thread(target=self.read, args=[line], daemon=True).start()

    def read(self, line):
        while data := line.recv(1 << 16):
            self.bytes += len(data)

    def close(self):
        for line in self.lines:
            line.shutdown(socket.SHUT_RDWR)
            line.close()


class Bench:
    def __init__(self, programs, rounds, streams, tokens):
        self.programs, self.rounds = programs, rounds
        self.port = free_port()
        self.more = ["-n", str(streams), "--tokens", str(tokens)]

    def compare(self, route, settings, prepare=None):
        """Returns the CPU of a paced token with these settings beside that without."""
        plain = Gateway(self.programs, self.port)
        other = Gateway(self.programs, self.port, settings)
        done = prepare(other) if prepare else None
        own, with_it = in_turn(self.programs, self.port, [plain, other], "paced", route, self.rounds, self.more)
        if done:
            done()
        plain.end()
        other.end()
        ratio = cpu_ratio(own, with_it)
        print(route, [round(run["cpu"]["us_per_token"], 2) for run in own], [round(run["cpu"]["us_per_token"], 2) for run in with_it],
              f"{ratio:.3f}", file=sys.stderr)
        return ratio

    def watchers(self):
        def prepare(gateway):
            watchers = Watchers(gateway, 10)

            def done():
                watchers.close()
                if watchers.bytes < 10_000:
                    raise SystemExit(f"the watchers read {watchers.bytes} bytes")

            return done

        yield "ten watchers of the activity, SSE", self.compare("chat", {}, prepare), 1.02

    def words(self):
        words = [f"forbidden{number:03}" for number in range(100)]
        settings = {"watch": [{"name": "words", "words": words, "action": "notify"}]}
        yield "a rule with 100 words, SSE", self.compare("chat", settings), 1.05
        yield "a rule with 100 words, WebSocket", self.compare("ws", settings), 1.05

    def telemetry(self):
        with receiver() as (url, counted):
            settings = {"telemetry": {"otlp": {"endpoint": url, "traces": 0.01, "metrics": True, "interval": "10s"}}}
            yield "telemetry of 1 % of the requests, SSE", self.compare("chat", settings), 1.03
            if not counted["requests"]:
                raise SystemExit("nothing was sent to the receiver")

    def redis(self):
        with redis() as port:
            yield "replicated to Redis as it comes, SSE", self.compare("chat", in_cluster(port, "all")), 1.25

    def keys(self):
        auth = {"keys": [{"owner": "bench", "key": KEY, "limits": LIMITS}]}
        plain, keyed = Gateway(self.programs, self.port), Gateway(self.programs, self.port, {"auth": auth})
        # The one without credentials ignores the key.
        os.environ["TOKENWIRE_BENCH_KEY"] = KEY
        for route, name in [("responses", "Responses"), ("chat", "chat, for which the upstream is asked to report usage")]:
            own, with_it = in_turn(self.programs, self.port, [plain, keyed], "short", route, self.rounds)
            yield f"a five-token request with a key and its limits, {name}", cpu_ratio(own, with_it, "us_per_stream"), 1.10
        plain.end()
        keyed.end()
        del os.environ["TOKENWIRE_BENCH_KEY"]


KINDS = ["watchers", "words", "telemetry", "keys", "redis"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="NAME", help=f"what to measure, of {', '.join(KINDS)}; otherwise all")
    parser.add_argument("--programs", type=pathlib.Path, default=pathlib.Path("target/dist"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=300, help="at once")
    parser.add_argument("--tokens", type=int, default=500, help="of each stream, 50 a second")
    options = parser.parse_args()
    unknown = set(options.kinds) - set(KINDS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))} is none of {', '.join(KINDS)}")
    if "redis" in (options.kinds or KINDS) and not shutil.which("redis-server"):
        parser.error("redis-server is not installed (Debian: redis-server)")
    bench = Bench(options.programs.resolve(), options.rounds, options.streams, options.tokens)
    rows = []
    for kind in options.kinds or KINDS:
        rows += [(name, ratio, most, "×") for name, ratio, most in getattr(bench, kind)()]
    sys.exit(not table(rows))


if __name__ == "__main__":
    main()
