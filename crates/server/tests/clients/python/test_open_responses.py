"""What the compliance suite of Open Responses asks of a server, over both kinds of upstream: 17 cases, here in our own words.

Compaction is the upstream's: over a chat upstream `/v1/responses/compact` is an unknown path.
"""

import json

import httpx
import pytest
from websockets.sync.client import connect

from openresponses import TERMINAL, check_error_frame, check_event, check_response, check_stream, outputs, text
from sse import blocks, events

MODEL = "simulator"
# A short answer at once.
ASK = "[[tokens=4 ttft=0 tbt=0]]"
HEART = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Returns the weather of a place",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}


@pytest.fixture(params=["chat", "responses"])
def upstream(request) -> str:
    return request.param


@pytest.fixture
def base(upstream, url, responses_url) -> str:
    return {"chat": url, "responses": responses_url}[upstream]


def user(content) -> dict:
    """Returns a message of the user; a text is answered at once."""
    content = f"{ASK} {content}" if isinstance(content, str) else content
    return {"type": "message", "role": "user", "content": content}


def respond(base: str, **body) -> dict:
    answer = httpx.post(f"{base}/v1/responses", json={"model": MODEL, **body}, timeout=30)
    assert answer.status_code == 200, answer.text
    response = answer.json()
    check_response(response)
    assert response["output"], response
    return response


class Socket:
    """`/v1/responses` over a WebSocket, one turn at a time."""

    def __init__(self, base: str) -> None:
        self._socket = connect(base.replace("http", "ws", 1) + "/v1/responses")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def turn(self, **body) -> dict:
        """Returns the response object of a turn, or its error event."""
        self._socket.send(json.dumps({"type": "response.create", "model": MODEL, **body}))
        seen = []
        while True:
            seen.append(json.loads(self._socket.recv(timeout=30)))
            if seen[-1]["type"] == "error":
                check_error_frame(seen[-1])
                return seen[-1]
            check_event(seen[-1])
            if seen[-1]["type"] in TERMINAL:
                return check_stream(seen, gapless=False)


def assert_not_found(turn: dict) -> None:
    assert turn.get("type") == "error" and turn["error"]["code"] == "previous_response_not_found", turn


class TestHttp:
    def test_text(self, base):
        response = respond(base, input=[user("Say hello in three words.")])
        assert response["status"] == "completed" and text(response)

    def test_assistant_message_with_a_phase(self, base):
        said = {"type": "message", "role": "assistant", "phase": "commentary", "content": "I will look that up."}
        response = respond(base, input=[user("What is new?"), said, user("And?")])
        assert response["status"] == "completed"

    def test_events(self, base):
        body = {"model": MODEL, "input": [user("Count from 1 to 5.")], "stream": True}
        answer = httpx.post(f"{base}/v1/responses", json=body, timeout=30)
        response = check_stream(events(blocks(answer.text)), gapless=False)
        check_response(response)
        assert response["status"] == "completed"

    def test_system_message(self, base):
        system = {"type": "message", "role": "system", "content": "You are a pirate."}
        assert respond(base, input=[system, user("Say hello.")])["status"] == "completed"

    def test_function_call(self, base):
        response = respond(base, input=[user("What is the weather in Rome?")], tools=[WEATHER])
        assert outputs(response, "function_call"), response

    def test_image(self, base):
        parts = [{"type": "input_text", "text": f"{ASK} What is this?"}, {"type": "input_image", "image_url": HEART}]
        assert respond(base, input=[user(parts)])["status"] == "completed"

    def test_conversation_in_the_input(self, base):
        said = {"type": "message", "role": "assistant", "content": "Hello Alice."}
        assert respond(base, input=[user("My name is Alice."), said, user("What is my name?")])["status"] == "completed"

    def test_compaction(self, base, upstream):
        answer = httpx.post(f"{base}/v1/responses/compact", json={"model": MODEL, "input": [user("Remember slate.")]})
        if upstream == "chat":
            assert answer.status_code == 404
            return
        assert answer.status_code == 200 and answer.json()["output"], answer.text

    def test_compaction_without_a_model(self, upstream, base):
        answer = httpx.post(f"{base}/v1/responses/compact", json={"input": [user("Remember slate.")]})
        assert answer.status_code in ((404,) if upstream == "chat" else (400, 422)), answer.text


class TestWebSocket:
    def test_one_response(self, base):
        with Socket(base) as socket:
            assert socket.turn(input=[user("Count from 1 to 3.")])["status"] == "completed"

    def test_two_in_a_row(self, base):
        with Socket(base) as socket:
            for word in ("first", "second"):
                assert socket.turn(store=False, input=f"{ASK} Reply with {word}")["status"] == "completed"

    def test_unstored_response_is_continued_on_its_socket(self, base):
        with Socket(base) as socket:
            first = socket.turn(store=False, input=f"{ASK} Remember cobalt.")
            second = socket.turn(store=False, previous_response_id=first["id"], input=f"{ASK} What is the word?")
        assert second["status"] == "completed" and second["previous_response_id"] == first["id"]

    def test_unstored_response_is_unknown_on_another_socket(self, base):
        with Socket(base) as socket:
            first = socket.turn(store=False, input=f"{ASK} Remember copper.")
        with Socket(base) as socket:
            assert_not_found(socket.turn(store=False, previous_response_id=first["id"], input=f"{ASK} Go on."))
            assert socket.turn(store=False, input=[user("Start again.")])["status"] == "completed"

    def test_unknown_previous_response(self, base):
        with Socket(base) as socket:
            assert_not_found(socket.turn(store=False, previous_response_id="resp_missing0", input=f"{ASK} Go on."))

    def test_failed_turn_makes_the_socket_forget_its_predecessor(self, base):
        orphan = {"type": "function_call_output", "call_id": "call_missing", "output": "There was no such call."}
        with Socket(base) as socket:
            first = socket.turn(store=False, input=f"{ASK} Remember ember.")
            failed = socket.turn(store=False, previous_response_id=first["id"], input=[orphan])
            assert failed.get("type") == "error" or failed["status"] == "failed", failed
            assert_not_found(socket.turn(store=False, previous_response_id=first["id"], input=f"{ASK} Go on."))

    def test_turn_that_fails_upstream_makes_the_socket_forget_its_predecessor(self, base):
        with Socket(base) as socket:
            first = socket.turn(store=False, input=f"{ASK} Remember ember.")
            failed = socket.turn(store=False, previous_response_id=first["id"], input="[[tokens=20 fault=cut after=5]]")
            assert failed["status"] == "failed", failed
            assert_not_found(socket.turn(store=False, previous_response_id=first["id"], input=f"{ASK} Go on."))

    def test_compacted_conversation_starts_a_chain(self, base, upstream):
        if upstream == "chat":
            pytest.skip("compaction is the upstream's, and a chat upstream has none")
        said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "OK."}]}
        body = {"model": MODEL, "input": [user([{"type": "input_text", "text": f"{ASK} Remember slate."}]), said]}
        compacted = httpx.post(f"{base}/v1/responses/compact", json=body).json()["output"]
        with Socket(base) as socket:
            response = socket.turn(store=False, input=[*compacted, user("Continue.")], tools=[])
        assert response["status"] == "completed"
