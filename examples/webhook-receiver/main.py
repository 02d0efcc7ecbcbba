"""Asks a question in the background and receives a webhook when the answer is complete."""

import base64
import os
import queue
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

from openai import InvalidWebhookSignatureError, OpenAI

MODEL = os.environ.get("MODEL", "simulator")
client = OpenAI(base_url=os.environ.get("GATEWAY_URL", "http://localhost:3000") + "/v1", api_key="unused")

# Sent to the gateway with the request. A permanent receiver keeps one secret and configures it in the gateway as `webhooks.secret`.
SECRET = "whsec_" + base64.b64encode(os.urandom(32)).decode()

ended: queue.Queue = queue.Queue()
seen: set[str] = set()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            event = client.webhooks.unwrap(body, self.headers, secret=SECRET)
        except (InvalidWebhookSignatureError, ValueError) as error:
            print(f"rejected: {error}", file=sys.stderr)
            return self.answer(400)
        # If the reply is lost, the gateway sends the event again with the same id.
        if event.id not in seen:
            seen.add(event.id)
            ended.put(event)
        # Reply at once and process the event in another thread.
        self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


if __name__ == "__main__":
    question = sys.argv[1] if len(sys.argv) > 1 else "Tell me something"
    server = HTTPServer(("127.0.0.1", int(os.environ.get("PORT", "0"))), Receiver)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    job = client.responses.create(model=MODEL, input=question, background=True, extra_body={"webhook": {"url": url, "secret": SECRET}})
    print(f"{job.id} is {job.status}")
    try:
        event = ended.get(timeout=1800)
    except queue.Empty:
        sys.exit("No webhook within half an hour; GET /v1/webhooks/deliveries of the gateway shows the reason.")
    # The event has no content. The answer is fetched with the id.
    response = client.responses.retrieve(event.data.id)
    print(f"{response.id} is {response.status} ({event.type})")
    print(f"== answer\n{response.output_text}")
    if response.status != "completed":
        sys.exit(1)
