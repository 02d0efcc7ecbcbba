"""Chat completions of the unmodified openai-python over an upstream that speaks Responses."""

import asyncio
import json

import httpx
import openai
import pytest
from pydantic import BaseModel

from conftest import eventually
from own import gateway
from scenarios import CHAT_TOOL, PIXEL

COUNTED = "".join(f" t{number}" for number in range(6))


class Weather(BaseModel):
    city: str
    days: int


def ask(text: str) -> list:
    return [{"role": "user", "content": text}]


def content(chunks) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.fixture(scope="module")
def url(simulator):
    with gateway(f"{simulator.url}/v1", "responses", STREAMS__DISCONNECT_GRACE="0s") as url:
        yield url


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-of-a-test", max_retries=0) as client:
        yield client


def test_stream_delivers_every_token_once(client):
    chunks = list(client.chat.completions.create(model="simulator", messages=ask("[[tokens=6 text=count]]"), stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert content(chunks) == COUNTED
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].id.startswith("chatcmpl-")
    assert all(chunk.usage is None for chunk in chunks)


def test_unstreamed_answer_is_one_stored_object(client):
    raw = client.chat.completions.with_raw_response.create(model="simulator", messages=ask("[[tokens=6 text=count]]"))
    completion = raw.parse()
    assert completion.object == "chat.completion"
    assert completion.choices[0].message.content == COUNTED
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    response = client.responses.retrieve(raw.headers["location"].rsplit("/", 1)[1])
    assert response.output_text == COUNTED
    assert completion.id.removeprefix("chatcmpl-") == response.id.removeprefix("resp_")


@pytest.mark.parametrize("stream", [True, False])
def test_the_async_client(url, stream):
    async def talk():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-of-a-test") as client:
            for _ in range(3):
                answer = await client.chat.completions.create(
                    model="simulator", messages=ask("[[tokens=6 text=count]]"), stream=stream
                )
                if stream:
                    assert content([chunk async for chunk in answer]) == COUNTED
                else:
                    assert answer.choices[0].message.content == COUNTED

    asyncio.run(talk())


def test_usage_is_last_if_requested(client):
    chunks = list(
        client.chat.completions.create(
            model="simulator",
            messages=ask("[[reasoning=2 tokens=6]]"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 8
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 2
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("calls", [1, 3])
def test_tool_calls_are_complete_and_can_be_answered(client, calls):
    question = ask(f"weather? [[calls={calls}]]")
    with client.chat.completions.stream(model="simulator", messages=question, tools=[CHAT_TOOL]) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        streamed = stream.get_final_completion().choices[0]
    assert len(done) == calls
    whole = client.chat.completions.create(model="simulator", messages=question, tools=[CHAT_TOOL]).choices[0]
    for choice in (streamed, whole):
        assert choice.finish_reason == "tool_calls" and not choice.message.content
        assert len({call.id for call in choice.message.tool_calls}) == calls
        for call in choice.message.tool_calls:
            assert call.function.name == "get_weather"
            Weather.model_validate_json(call.function.arguments)
        results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in choice.message.tool_calls]
        messages = [*question, choice.message, *results, *ask("[[tokens=6 text=count calls=0]]")]
        answer = client.chat.completions.create(model="simulator", messages=messages, tools=[CHAT_TOOL])
        assert answer.choices[0].message.content == COUNTED


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_tool_choice_is_translated(client, choice):
    completion = client.chat.completions.create(
        model="simulator", messages=ask("hi"), tools=[CHAT_TOOL], tool_choice=choice, parallel_tool_calls=False
    )
    assert completion.choices[0].finish_reason == "tool_calls"


def test_structured_output_is_parsed(client):
    completion = client.chat.completions.parse(model="simulator", messages=ask("weather?"), response_format=Weather)
    assert isinstance(completion.choices[0].message.parsed, Weather)
    with client.chat.completions.stream(model="simulator", messages=ask("weather?"), response_format=Weather) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Weather)
    loose = client.chat.completions.create(
        model="simulator", messages=ask("weather, as JSON"), response_format={"type": "json_object"}
    )
    json.loads(loose.choices[0].message.content)


def test_reasoning_and_refusals(client):
    chunks = list(client.chat.completions.create(model="simulator", messages=ask("[[reasoning=4 tokens=6]]"), stream=True))
    reasoning = [getattr(chunk.choices[0].delta, "reasoning_content", None) for chunk in chunks if chunk.choices]
    whole = client.chat.completions.create(model="simulator", messages=ask("[[reasoning=4 tokens=6]]"))
    assert "".join(filter(None, reasoning)) == whole.choices[0].message.reasoning_content
    with client.chat.completions.stream(model="simulator", messages=ask("[[refusal]]")) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert message.refusal and not message.content and "refusal.done" in kinds


def test_every_role_and_part_is_sent_upstream(client):
    parts = [{"type": "text", "text": "what is this? [[tokens=6 text=count]]"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": parts},
    ]
    completion = client.chat.completions.create(
        model="simulator", messages=messages, temperature=0.5, top_p=0.9, user="u", metadata={"a": "b"}, max_completion_tokens=50,
        reasoning_effort="none", verbosity="low", service_tier="auto", store=False, safety_identifier="s", prompt_cache_key="k", n=1,
    )
    assert completion.choices[0].message.content == COUNTED


@pytest.mark.parametrize(
    ("steering", "params", "reason"),
    [
        ("tokens=50", {"max_completion_tokens": 5}, "length"),
        ("tokens=50", {"max_tokens": 5}, "length"),
        ("tokens=5 finish=content_filter", {}, "content_filter"),
    ],
)
def test_finish_reasons(client, steering, params, reason):
    messages = ask(f"[[{steering}]]")
    assert client.chat.completions.create(model="simulator", messages=messages, **params).choices[0].finish_reason == reason
    chunks = list(client.chat.completions.create(model="simulator", messages=messages, stream=True, **params))
    assert chunks[-1].choices[0].finish_reason == reason


@pytest.mark.parametrize("fault", ["cut", "reset", "end", "error", "malformed", "bad_utf8"])
def test_broken_answer_raises(client, fault):
    messages = ask(f"[[tokens=20 text=count fault={fault} after=3]]")
    seen = []
    with pytest.raises(openai.APIError) as raised:
        for chunk in client.chat.completions.create(model="simulator", messages=messages, stream=True):
            seen.append(chunk)
    assert content(seen) == " t0 t1 t2" and raised.value.code
    assert not any(choice.finish_reason for chunk in seen for choice in chunk.choices)
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model="simulator", messages=messages)
    assert raised.value.status_code == 502


@pytest.mark.parametrize("stream", [True, False])
def test_untranslatable_parameters_are_rejected_without_an_upstream_request(client, simulator, stream):
    before = simulator.requests()
    for name, value in [("n", 2), ("stop", ["x"]), ("seed", 7), ("logit_bias", {"1": 1}), ("frequency_penalty", 1), ("audio", {})]:
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(model="simulator", messages=ask("hi"), stream=stream, extra_body={name: value})
        assert (raised.value.code, raised.value.param) == ("unsupported_parameter", name)
    assert simulator.requests() == before


def test_eventsource_reader_resumes_after_its_number(url):
    body = {"messages": ask("[[tokens=6 text=count]]"), "model": "simulator", "stream_options": {"include_usage": True}}
    with httpx.stream("POST", f"{url}/v1/streams?dialect=chat", json=body, timeout=30) as answer:
        blocks = [block for block in answer.read().decode().split("\n\n") if "data:" in block]

    def parse(block: str):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line)
        return fields["id"], fields["data"]

    events = [parse(block) for block in blocks]
    assert events[-1][1] == "[DONE]" and json.loads(events[-2][1])["choices"] == []
    stream, _ = events[0][0].rsplit(".", 1)
    for position in range(len(events) - 4):
        last = events[position][0]
        headers = {"Last-Event-ID": last}
        with httpx.stream("GET", f"{url}/v1/streams/{stream}?dialect=chat", headers=headers, timeout=30) as answer:
            again = [parse(block) for block in answer.read().decode().split("\n\n") if "data:" in block]
        assert again == [event for event in events if int(event[0].rsplit(".", 1)[1]) > int(last.rsplit(".", 1)[1])]


def test_leaving_client_cancels_the_upstream_request(client, simulator):
    before = simulator.under_way()
    stream = client.chat.completions.create(model="simulator", messages=ask("[[tokens=100000 tbt=20ms]]"), stream=True)
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    assert simulator.under_way() == before + 1
    stream.close()
    eventually(simulator.under_way, lambda count: count == before, "the end of the request")
