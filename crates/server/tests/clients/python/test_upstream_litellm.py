"""LiteLLM's proxy, an independent server, as the upstream: with its own mocks, and as a proxy of the simulator.

It cuts, joins and decorates what it passes on in ways of its own, in both of the languages that it speaks.
"""

import json

import httpx
import openai
import pytest
from pydantic import BaseModel

from conftest import eventually
from own import free_port, gateway, program, running
from scenarios import CHAT_TOOL, TOOL

KEY = "sk-of-the-upstream-0123456789abcdef"
SENTENCE = "Now is the winter of our discontent. “Ünïcödé” 😀"
COUNTED = "".join(f" t{number}" for number in range(6))


class Weather(BaseModel):
    city: str
    days: int


def ask(text: str) -> list:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def litellm(simulator, tmp_path_factory):
    mocked = {"model": "openai/mock", "api_key": "none"}
    models = {
        "mock": {**mocked, "mock_response": SENTENCE},
        "limited": {**mocked, "mock_response": "litellm.RateLimitError"},
        "broken": {**mocked, "mock_response": "litellm.InternalServerError"},
        "too-long": {**mocked, "mock_response": "litellm.ContextWindowExceededError"},
        "simulator": {"model": "openai/simulator", "api_base": f"{simulator.url}/v1", "api_key": "none"},
    }
    config = {
        "model_list": [{"model_name": name, "litellm_params": params} for name, params in models.items()],
        "litellm_settings": {"telemetry": False, "num_retries": 0},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": KEY},
    }
    file = tmp_path_factory.mktemp("litellm") / "config.yaml"
    # JSON is YAML except for surrogate pairs.
    file.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    port = free_port()
    command = [program("LITELLM_PROGRAM"), "--config", str(file), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    # Prices are read from the package instead of the network.
    with running(command, f"http://127.0.0.1:{port}/health/liveliness", {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module", params=["chat", "responses"])
def over(request, litellm):
    with gateway(litellm, request.param, UPSTREAMS__0__API_KEY=KEY, STREAMS__DISCONNECT_GRACE="0s") as url:
        yield url


@pytest.fixture(scope="module")
def over_chat(litellm):
    """Its mocks serve chat completions only."""
    with gateway(litellm, "chat", UPSTREAMS__0__API_KEY=KEY) as url:
        yield url


def sdk(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sk-of-a-test", max_retries=0)


def content(chunks) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


class TestMocks:
    def test_streamed_and_unstreamed_over_both_apis(self, over_chat):
        client = sdk(over_chat)
        chunks = list(client.chat.completions.create(model="mock", messages=ask("hi"), stream=True))
        assert content(chunks) == SENTENCE
        assert chunks[-1].choices[0].finish_reason == "stop"
        whole = client.chat.completions.create(model="mock", messages=ask("hi"))
        assert whole.choices[0].message.content == SENTENCE and whole.usage.total_tokens > 0
        with client.responses.stream(model="mock", input="hi") as stream:
            for _ in stream:
                pass
            streamed = stream.get_final_response()
        assert streamed.output_text == client.responses.create(model="mock", input="hi").output_text == SENTENCE
        assert client.responses.retrieve(streamed.id).output_text == SENTENCE

    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize(
        ("model", "error"),
        [
            ("limited", openai.RateLimitError),
            ("broken", openai.InternalServerError),
            ("too-long", openai.BadRequestError),
            ("no-such-model", openai.BadRequestError),
        ],
    )
    def test_errors_keep_status_and_message(self, over_chat, model, error, stream):
        client = sdk(over_chat)
        for create in (
            lambda: client.chat.completions.create(model=model, messages=ask("hi"), stream=stream),
            lambda: client.responses.create(model=model, input="hi", stream=stream),
        ):
            with pytest.raises(error) as raised:
                create()
            assert model in str(raised.value) or "litellm" in str(raised.value)

    def test_errors_are_events_after_the_head(self, over_chat):
        with httpx.stream("POST", f"{over_chat}/v1/streams", json={"model": "broken", "input": "hi"}, timeout=30) as answer:
            assert answer.status_code == 200
            payloads = [line[5:] for line in answer.iter_lines() if line.startswith("data:")]
        last = json.loads(payloads[-1])
        assert last["type"] == "response.failed"
        assert last["response"]["error"]["retryable"] is True and "mock internal server error" in last["response"]["error"]["message"]

    def test_its_models_are_listed(self, over_chat):
        assert {"mock", "simulator"} <= {model.id for model in sdk(over_chat).models.list()}


class TestBeforeTheSimulator:
    """The gateway over LiteLLM over the simulator; LiteLLM is asked for chat completions and for responses."""

    def test_streamed_and_unstreamed_over_both_apis(self, over):
        client = sdk(over)
        asked = "[[tokens=6 text=count]]"
        chunks = list(client.chat.completions.create(model="simulator", messages=ask(asked), stream=True))
        assert content(chunks) == COUNTED
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        whole = client.chat.completions.create(model="simulator", messages=ask(asked))
        assert whole.choices[0].message.content == COUNTED and whole.usage.total_tokens > 0
        events = list(client.responses.create(model="simulator", input=asked, stream=True))
        assert events[0].type == "response.created" and events[-1].type == "response.completed"
        assert events[-1].response.output_text == client.responses.create(model="simulator", input=asked).output_text == COUNTED

    def test_usage_if_requested(self, over):
        chunks = list(
            sdk(over).chat.completions.create(
                model="simulator", messages=ask("[[tokens=6]]"), stream=True, stream_options={"include_usage": True}
            )
        )
        # Its last chunk has an empty choice.
        assert content(chunks[-1:]) == "" and chunks[-1].usage.completion_tokens == 6

    @pytest.mark.parametrize("calls", [1, 2])
    def test_tools(self, over, calls):
        client = sdk(over)
        question = ask(f"weather? [[calls={calls}]]")
        with client.chat.completions.stream(model="simulator", messages=question, tools=[CHAT_TOOL]) as stream:
            for _ in stream:
                pass
            streamed = stream.get_final_completion()
        whole = client.chat.completions.create(model="simulator", messages=question, tools=[CHAT_TOOL])
        for completion in (streamed, whole):
            choice = completion.choices[0]
            assert choice.finish_reason == "tool_calls"
            assert len({call.id for call in choice.message.tool_calls}) == calls
            for call in choice.message.tool_calls:
                Weather.model_validate_json(call.function.arguments)
        results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in whole.choices[0].message.tool_calls]
        messages = [*question, whole.choices[0].message, *results, *ask("And now? [[tokens=6 text=count calls=0]]")]
        answer = client.chat.completions.create(model="simulator", messages=messages, tools=[CHAT_TOOL])
        assert answer.choices[0].message.content == COUNTED
        response = client.responses.create(model="simulator", input=f"weather? [[calls={calls}]]", tools=[TOOL])
        assert [item.type for item in response.output] == ["function_call"] * calls

    def test_structured_output(self, over):
        client = sdk(over)
        completion = client.chat.completions.parse(model="simulator", messages=ask("weather?"), response_format=Weather)
        assert isinstance(completion.choices[0].message.parsed, Weather)
        with client.chat.completions.stream(model="simulator", messages=ask("weather?"), response_format=Weather) as stream:
            assert isinstance(stream.get_final_completion().choices[0].message.parsed, Weather)

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_refusal_of_the_model_passes_through_both(self, over, stream):
        with pytest.raises(openai.RateLimitError):
            sdk(over).chat.completions.create(model="simulator", messages=ask("[[fault=status code=429]]"), stream=stream)

    @pytest.mark.parametrize("fault", ["error", "cut"])
    def test_error_within_a_stream_is_a_failure(self, over, fault):
        asked = f"[[tokens=20 text=count tbt=30ms fault={fault} after=5]]"
        client = sdk(over)
        seen = []
        with pytest.raises(openai.APIError):
            for chunk in client.chat.completions.create(model="simulator", messages=ask(asked), stream=True):
                seen.append(chunk)
        assert not any(choice.finish_reason for chunk in seen for choice in chunk.choices)
        assert COUNTED.startswith(content(seen)) and len(content(seen)) <= len(" t0") * 5
        events = list(client.responses.create(model="simulator", input=asked, stream=True))
        assert events[-1].type == "response.failed" and events[-1].response.error.code

    def test_leaving_client_cancels_through_both_servers(self, over, simulator):
        before = simulator.under_way()
        stream = sdk(over).chat.completions.create(model="simulator", messages=ask("[[tokens=100000 tbt=20ms]]"), stream=True)
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        assert simulator.under_way() == before + 1
        stream.close()
        eventually(simulator.under_way, lambda count: count == before, "the end of the request")
