"""What the acceptance tests of Open Responses ask for (openresponses.org/compliance), by the same ids, over both kinds of upstream.

Each answer is checked against the models of `openresponses-types`. Compaction needs an upstream that has it.
"""

import contextlib
import json
import uuid

import httpx
import openresponses_types.types as models
import pytest
from websockets.sync.client import connect

from openresponses import TERMINAL, check_error_frame, check_response, check_stream
from own import gateway
from scenarios import PIXEL
from sse import blocks

MODEL = "simulator"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}
CODE_WORD = "Remember the code word: cobalt. Reply with OK."


def message(role: str, content, **members) -> dict:
    return {"type": "message", "role": role, "content": content, **members}


@pytest.fixture(scope="module", params=["chat", "responses"])
def api(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def url(simulator, api):
    with gateway(f"{simulator.url}/v1", api) as url:
        yield url


@pytest.fixture
def create(http):
    """Creates a response, checks its object and returns it."""

    def create(input, **members) -> dict:
        answer = http.post("/v1/responses", json={"model": MODEL, "input": input, **members})
        assert answer.status_code == 200, answer.text
        response = answer.json()
        check_response(response)
        assert response["status"] == "completed" and response["output"]
        return response

    return create


def streamed(http, input, **members) -> list[dict]:
    answer = http.post("/v1/responses", json={"model": MODEL, "input": input, "stream": True, **members})
    assert answer.status_code == 200, answer.text
    found = blocks(answer.text)
    assert found[-1].data == "[DONE]"
    return [block.json for block in found[:-1]]


class Socket:
    def __init__(self, connection) -> None:
        self.connection = connection

    def create(self, **members) -> dict:
        """Sends a `store: false` request. Returns its response object, or the error."""
        self.connection.send(json.dumps({"type": "response.create", "model": MODEL, "store": False, **members}))
        events = []
        while True:
            event = json.loads(self.connection.recv(timeout=30))
            if event["type"] == "error":
                assert not events, "an error after events"
                check_error_frame(event)
                return event
            events.append(event)
            if event["type"] in TERMINAL:
                check_stream(events, gapless=False)
                return event["response"]

    def completes(self, **members) -> dict:
        response = self.create(**members)
        assert response.get("status") == "completed" and response["output"], response
        return response

    def is_not_found(self, **members) -> None:
        response = self.create(**members)
        assert response["error"]["code"] == "previous_response_not_found", response


@pytest.fixture
def socket(url):
    """Connects on the path that OpenAI's WebSocket mode has."""

    @contextlib.contextmanager
    def socket():
        with connect(url.replace("http", "ws", 1) + "/v1/responses") as connection:
            yield Socket(connection)

    return socket


def test_basic_response(create):
    create([message("user", "Say hello in exactly 3 words.")])


def test_assistant_phase(create, simulator, api):
    before = message("assistant", [{"type": "output_text", "text": "Checking."}], phase="commentary")
    create([message("user", "2 + 2?"), before, message("assistant", "Four.", phase="final_answer"), message("user", "Sure?")])


def test_streaming_response(http):
    assert check_stream(streamed(http, [message("user", "Count from 1 to 5.")]), gapless=False)["status"] == "completed"


def test_websocket_response(socket):
    with socket() as live:
        live.completes(input=[message("user", "Count from 1 to 3.")], store=True)


def test_websocket_sequential_responses(socket):
    with socket() as live:
        first, second = live.completes(input="first"), live.completes(input="second")
        assert first["id"] != second["id"]


def test_websocket_continuation(socket):
    with socket() as live:
        first = live.completes(input=CODE_WORD)
        second = live.completes(input="What did I ask before? [[calls=0]]", previous_response_id=first["id"])
        assert second["previous_response_id"] == first["id"]
        assert "cobalt" in json.dumps(second["output"]), "the model saw the first turn"


def test_websocket_reconnect_store_false_recovery(socket):
    with socket() as live:
        first = live.completes(input=CODE_WORD)
    with socket() as live:
        live.is_not_found(input="Go on.", previous_response_id=first["id"])
        live.completes(input=[message("user", "Start again.")])


def test_websocket_generate_false(socket):
    with socket() as live:
        first = live.create(input=CODE_WORD, generate=False)
        assert (first["status"], first["output"]) == ("completed", [])
        second = live.completes(input="What did I ask before? [[calls=0]]", previous_response_id=first["id"])
        assert "cobalt" in json.dumps(second["output"])


def test_websocket_previous_response_not_found(socket):
    with socket() as live:
        live.is_not_found(input="x", previous_response_id=f"resp_openresponses_missing_{uuid.uuid4().hex}")


def test_websocket_failed_continuation_evicts_cache(socket):
    with socket() as live:
        first = live.completes(input=CODE_WORD)
        output = {"type": "function_call_output", "call_id": "call_openresponses_missing", "output": "No such call."}
        failed = live.create(input=[output], previous_response_id=first["id"])
        assert failed.get("status", "failed") != "completed", failed
        live.is_not_found(input="Go on.", previous_response_id=first["id"])


def test_system_prompt(create):
    create([message("system", "You are a pirate."), message("user", "Say hello.")])


def test_tool_calling(create):
    response = create([message("user", "What's the weather like in San Francisco?")], tools=[WEATHER])
    assert "function_call" in [item["type"] for item in response["output"]]


def test_tool_calling_streaming(http):
    events = streamed(http, [message("user", "What's the weather like in San Francisco?")], tools=[WEATHER])
    check_stream(events, gapless=False)
    kinds = [(event["type"], event.get("item", {}).get("type")) for event in events]
    assert ("response.output_item.added", "function_call") in kinds
    assert ("response.function_call_arguments.delta", None) in kinds
    assert ("response.function_call_arguments.done", None) in kinds
    assert ("response.output_item.done", "function_call") in kinds


def test_image_input(create):
    create([message("user", [{"type": "input_text", "text": "What do you see?"}, {"type": "input_image", "image_url": PIXEL}])])


def test_multi_turn(create):
    create([message("user", "My name is Alice."), message("assistant", "Hello Alice!"), message("user", "What is my name?")])


class TestCompaction:
    CONVERSATION = [message("user", "We launch on Tuesday."), message("assistant", "Understood: Tuesday.")]

    @pytest.fixture(autouse=True)
    def _has_compaction(self, api, http):
        if api == "chat":
            answer = http.post("/v1/responses/compact", json={"model": MODEL, "input": self.CONVERSATION})
            assert answer.status_code == 404, answer.text
            pytest.skip("chat completions have no compaction")

    def compact(self, http, **members) -> httpx.Response:
        return http.post("/v1/responses/compact", json={"input": self.CONVERSATION, **members})

    def test_compact_response(self, http):
        answer = self.compact(http, model=MODEL, prompt_cache_key="openresponses-compact-test")
        assert answer.status_code == 200, answer.text
        models.CompactResource.model_validate(answer.json())
        assert "compaction" in [item["type"] for item in answer.json()["output"]]

    def test_compact_missing_model(self, http):
        assert self.compact(http).status_code in (400, 422)

    def test_websocket_compact_new_chain(self, http, socket):
        output = self.compact(http, model=MODEL).json()["output"]
        with socket() as live:
            live.completes(input=[*output, message("user", "When do we launch?")])
