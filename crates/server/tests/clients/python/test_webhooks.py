"""Webhooks verified by openai-python and by the library of Standard Webhooks."""

import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from openai import InvalidWebhookSignatureError
from standardwebhooks import Webhook, WebhookVerificationError

from conftest import eventually

# The secret in gateway.yaml.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OWN_SECRET = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
ANOTHER_SECRET = "whsec_WllYV1ZVVFNSUVBPTk1MS0pJSEdGRURDQkE="


class Receiver:
    """Listens on this machine, answers with the given statuses and then 204, and records deliveries."""

    def __init__(self) -> None:
        self.received: queue.Queue[tuple[bytes, dict[str, str]]] = queue.Queue()
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.end_headers()
                receiver.received.put((body, dict(self.headers)))

            def log_message(self, *_) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def next(self) -> tuple[bytes, dict[str, str]]:
        return self.received.get(timeout=30)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


def begin(client: openai.OpenAI, steering: str, **webhook: str):
    return client.responses.create(model="simulator", input=f"[[{steering}]]", background=True, extra_body={"webhook": webhook})


@pytest.mark.parametrize(
    ("steering", "kind"),
    [("tokens=3", "completed"), ("tokens=9 fault=cut after=3", "failed"), ("tokens=3 finish=length", "incomplete"), ("ttft=1h", "cancelled")],
)
def test_sdk_unwraps_every_end(client, receiver, steering, kind):
    job = begin(client, steering, url=receiver.url)
    if kind == "cancelled":
        client.responses.cancel(job.id)
    body, headers = receiver.next()
    event = client.webhooks.unwrap(body, headers, secret=SECRET)
    assert (event.type, event.object, event.data.id) == (f"response.{kind}", "event", job.id)
    assert event.id == headers["webhook-id"]
    assert client.responses.retrieve(event.data.id).status == kind


def test_standard_webhooks_library_verifies(client, receiver):
    job = begin(client, "tokens=3", url=receiver.url)
    body, headers = receiver.next()
    assert Webhook(SECRET).verify(body, headers)["data"]["id"] == job.id
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)


def test_request_can_set_its_own_secret(client, receiver):
    begin(client, "tokens=3", url=receiver.url, secret=OWN_SECRET)
    body, headers = receiver.next()
    assert client.webhooks.unwrap(body, headers, secret=OWN_SECRET).type == "response.completed"
    assert Webhook(OWN_SECRET).verify(body, headers)
    for secret in (SECRET, ANOTHER_SECRET):
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.unwrap(body, headers, secret=secret)


def test_failed_delivery_is_repeated_with_the_same_id(client, http, receiver):
    receiver.answers = [500]
    job = begin(client, "tokens=3", url=receiver.url)
    first, headers = receiver.next()

    def delivery() -> dict:
        listed = http.get("/v1/webhooks/deliveries", params={"limit": 100}).raise_for_status().json()["data"]
        (found,) = [delivery for delivery in listed if delivery["response_id"] == job.id]
        return found

    # A manual retry does not wait. If it is refused, the delivery is already being sent.
    failed = eventually(delivery, lambda found: found["last_status"] is not None, "the failure on record")
    if failed["status"] == "pending":
        http.post(f"/v1/webhooks/deliveries/{failed['id']}/retry").raise_for_status()
    second, again = receiver.next()
    assert (second, again["webhook-id"]) == (first, headers["webhook-id"])
    assert client.webhooks.unwrap(second, again, secret=SECRET).data.id == job.id
    assert eventually(delivery, lambda found: found["status"] == "delivered", "the delivery")["attempts"] >= 2


def test_invalid_webhook_is_an_sdk_error(client):
    with pytest.raises(openai.BadRequestError) as raised:
        begin(client, "tokens=3", url="ftp://example.com/")
    assert (raised.value.code, raised.value.param) == ("invalid_value", "webhook.url")
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model="simulator", input="hi", extra_body={"webhook": {"url": "https://example.com/"}})
    assert (raised.value.code, raised.value.param) == ("invalid_value", "webhook")
