#!/usr/bin/env python3
"""Measures the CPU time of a paced token over TLS beside nginx, over HTTP/1.1 and HTTP/2.

    cargo build --profile dist -p tokenwire -p tokenwire-simulator
    python3 benches/tls.py target/dist/tokenwire target/dist/tokenwire-simulator [--plain-upstream]

h2load reads chat completions of the simulator through the gateway and through nginx, in turn and over
the same certificate. The upstream is behind TLS too: another nginx, whose CPU time is not counted. With
`--plain-upstream` it is not. One worker each. A line has the median of the rounds in microseconds of
CPU per token. The exit status is 1 if an answer is lost, or the gateway takes more than 1.15 times what
nginx does. Needs Linux, Python 3.9, openssl, nginx and h2load (`nghttp2-client`).
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile

from ports import free_port, wait

MOST = 1.15
TOKENS, PAUSE = 400, "20ms"
TICK = os.sysconf("SC_CLK_TCK")


def nginx_conf(port, target, pair):
    cert, key = pair
    return f"""
worker_processes 1; master_process off; daemon off; pid nginx.pid; error_log stderr error;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 100000000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  upstream target {{ server 127.0.0.1:{target[1]}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} ssl http2 backlog=4096;
    ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
    http2_max_concurrent_streams 128;
    location / {{
      proxy_pass {target[0]}://target; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 300s; tcp_nodelay on;
    }}
  }}
}}
"""


class Servers:
    def __init__(self, gateway, simulator, plain):
        self.folder = tempfile.TemporaryDirectory()
        place = self.folder.name
        self.processes = []
        pair = f"{place}/cert.pem", f"{place}/key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-addext", "basicConstraints=critical,CA:FALSE", "-out", pair[0], "-keyout", pair[1]],
            check=True, stderr=subprocess.DEVNULL)
        upstream = free_port()
        self.start([simulator, "--port", str(upstream)], upstream)
        target = "http", upstream
        if not plain:
            front = free_port()
            self.nginx("front", front, target, pair)
            target = "https", front
        ports = {"nginx": free_port(), "tokenwire": free_port()}
        process = self.nginx("peer", ports["nginx"], target, pair)
        self.targets = {"nginx": (ports["nginx"], process.pid)}
        config = {
            "server": {"workers": 1, "port": ports["tokenwire"], "tls": {"cert": pair[0], "key": pair[1]}},
            "log": {"filter": "error"},
            "upstreams": [{"name": "simulator", "base_url": f"{target[0]}://localhost:{target[1]}/v1"}],
        }
        with open(f"{place}/tokenwire.yaml", "w", encoding="utf-8") as file:
            json.dump(config, file)
        process = self.start([gateway, "--config", f"{place}/tokenwire.yaml"], ports["tokenwire"], SSL_CERT_FILE=pair[0])
        self.targets["tokenwire"] = ports["tokenwire"], process.pid
        self.body = f"{place}/body.json"
        steering = f"[[tokens={TOKENS} tbt={PAUSE}]]"
        with open(self.body, "w", encoding="utf-8") as file:
            json.dump({"model": "simulator", "stream": True, "messages": [{"role": "user", "content": steering}]}, file)

    def nginx(self, name, port, target, pair):
        folder = f"{self.folder.name}/{name}"
        os.makedirs(folder)
        with open(f"{folder}/nginx.conf", "w", encoding="utf-8") as file:
            file.write(nginx_conf(port, target, pair))
        return self.start(["nginx", "-p", folder, "-e", "stderr", "-c", f"{folder}/nginx.conf"], port)

    def start(self, command, port, **environment):
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
        self.processes.append(process)
        wait(port)
        return process

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()


def cpu(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def shapes(streams):
    """Returns the connections of h2load, and the streams on each, by protocol."""
    return {"HTTP/1.1": ["--h1", "-c", str(streams)], "h2": ["-c", "10", "-m", str(streams // 10)]}


def run(servers, name, shape, streams):
    port, pid = servers.targets[name]
    command = ["h2load", *shape, "-t", "1", "-n", str(streams), "-d", servers.body,
               "-H", "content-type: application/json", f"https://localhost:{port}/v1/chat/completions"]
    before = cpu(pid)
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    spent = cpu(pid) - before
    done = re.search(r"status codes: (\d+) 2xx", out)
    failed = re.search(r"(\d+) failed", out)
    if not done or int(done[1]) != streams or not failed or int(failed[1]):
        raise SystemExit(f"{name} lost answers with {shape}:\n{out}")
    return spent / (streams * TOKENS) * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gateway")
    parser.add_argument("simulator")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=300, help="at once, a multiple of ten; 50 tokens/s each")
    parser.add_argument("--plain-upstream", action="store_true")
    options = parser.parse_args()
    servers = Servers(options.gateway, options.simulator, options.plain_upstream)
    missed = False
    try:
        for protocol, shape in shapes(options.streams).items():
            figures = {name: [] for name in servers.targets}
            for name in servers.targets:
                run(servers, name, shape, options.streams)
            for _ in range(options.rounds):
                for name in servers.targets:
                    figures[name].append(run(servers, name, shape, options.streams))
            nginx, own = (statistics.median(figures[name]) for name in ("nginx", "tokenwire"))
            missed |= own > MOST * nginx
            print(f"{protocol:8}  nginx {nginx:5.1f} µs  tokenwire {own:5.1f} µs  {own / nginx:.2f} × (at most {MOST})", flush=True)
    finally:
        servers.close()
    raise SystemExit(1 if missed else 0)


main()
