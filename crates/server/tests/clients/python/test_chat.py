"""Chat completions of the unmodified openai-python."""

import asyncio
import json

import httpx
import openai
import pytest
from pydantic import BaseModel

from scenarios import CHAT_TOOL, PIXEL
from sse import blocks


class Weather(BaseModel):
    city: str
    days: int


def ask(text: str) -> list:
    return [{"role": "user", "content": text}]


def content(chunks, index: int = 0) -> str:
    choices = (choice for chunk in chunks for choice in chunk.choices if choice.index == index)
    return "".join(choice.delta.content or "" for choice in choices)


COUNTED = "".join(f" t{number}" for number in range(6))


def test_stream_delivers_every_token_once(client):
    chunks = list(client.chat.completions.create(model="simulator", messages=ask("[[tokens=6 text=count]]"), stream=True))
    assert content(chunks) == COUNTED
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1


def test_unstreamed_answer_is_one_object(client):
    completion = client.chat.completions.create(model="simulator", messages=ask("[[tokens=6 text=count]]"))
    assert completion.object == "chat.completion"
    assert completion.choices[0].message.content == COUNTED
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_default_model_is_used_without_a_model(http):
    answer = http.post("/v1/chat/completions", json={"messages": ask("[[tokens=6 text=count]]")})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == COUNTED


@pytest.mark.parametrize("stream", [True, False])
def test_async_client_reads_to_the_end_and_reuses_its_connection(url, stream):
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


def test_stream_helper_reads_to_the_end(client):
    with client.chat.completions.stream(model="simulator", messages=ask("[[tokens=6 text=count]]")) as stream:
        kinds = [event.type for event in stream]
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == COUNTED
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)


@pytest.mark.parametrize("calls", [1, 3])
def test_tool_calls_are_complete(client, calls):
    with client.chat.completions.stream(
        model="simulator", messages=ask(f"weather? [[calls={calls}]]"), tools=[CHAT_TOOL]
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    assert len(choice.message.tool_calls) == calls == len(done)
    assert len({call.id for call in choice.message.tool_calls}) == calls
    for call in choice.message.tool_calls:
        assert call.function.name == "get_weather"
        Weather.model_validate_json(call.function.arguments)


def test_choices_are_kept_separate(client):
    messages = ask("[[tokens=6 text=count]]")
    chunks = list(client.chat.completions.create(model="simulator", messages=messages, n=2, stream=True))
    assert content(chunks, 0) == COUNTED and content(chunks, 1) == COUNTED
    whole = client.chat.completions.create(model="simulator", messages=messages, n=2)
    assert [choice.index for choice in whole.choices] == [0, 1]


def test_usage_is_sent_only_if_requested(client):
    messages = ask("[[tokens=6]]")
    plain = list(client.chat.completions.create(model="simulator", messages=messages, stream=True))
    assert all(chunk.usage is None for chunk in plain)
    asked = list(
        client.chat.completions.create(
            model="simulator", messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    assert asked[-1].choices == [] and asked[-1].usage.completion_tokens > 0


def test_logprobs_are_relayed(client):
    chunks = client.chat.completions.create(
        model="simulator", messages=ask("[[tokens=6]]"), stream=True, logprobs=True, top_logprobs=2
    )
    found = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices and chunk.choices[0].logprobs]
    tokens = [token for logprobs in found for token in logprobs.content or []]
    assert len(tokens) == 6 and all(len(token.top_logprobs) == 2 for token in tokens)


def test_reasoning_is_relayed_in_the_upstreams_field(client):
    chunks = list(client.chat.completions.create(model="simulator", messages=ask("[[reasoning=4 tokens=6]]"), stream=True))
    reasoning = [getattr(chunk.choices[0].delta, "reasoning_content", None) for chunk in chunks if chunk.choices]
    assert len([token for token in reasoning if token]) == 4


def test_refusal_is_relayed(client):
    with client.chat.completions.stream(model="simulator", messages=ask("[[refusal]]")) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert message.refusal and not message.content
    assert "refusal.done" in kinds


def test_structured_output_is_parsed(client):
    completion = client.chat.completions.parse(model="simulator", messages=ask("weather?"), response_format=Weather)
    assert isinstance(completion.choices[0].message.parsed, Weather)
    with client.chat.completions.stream(model="simulator", messages=ask("weather?"), response_format=Weather) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Weather)


def test_images_are_sent_upstream(client):
    parts = [{"type": "text", "text": "what is this? [[tokens=6 text=count]]"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    completion = client.chat.completions.create(model="simulator", messages=[{"role": "user", "content": parts}])
    assert completion.choices[0].message.content == COUNTED


@pytest.mark.parametrize("fault", ["cut", "reset", "end", "error", "malformed", "bad_utf8"])
def test_broken_stream_raises(client, fault):
    stream = client.chat.completions.create(
        model="simulator", messages=ask(f"[[tokens=20 text=count fault={fault} after=3]]"), stream=True
    )
    seen = []
    with pytest.raises(openai.APIError) as raised:
        for chunk in stream:
            seen.append(chunk)
    assert content(seen).startswith(" t0 t1 t2")
    # An error object of the upstream is passed on as it is, which need not have a code.
    assert raised.value.message and (raised.value.code or fault == "error")


def test_stream_helper_raises_on_a_broken_stream(client):
    with pytest.raises(openai.APIError):
        with client.chat.completions.stream(model="simulator", messages=ask("[[tokens=20 fault=cut after=3]]")) as stream:
            stream.until_done()


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"n": 2},
        {"stream_options": {"include_usage": True}},
        {"logprobs": True, "top_logprobs": 2},
        {"tools": [CHAT_TOOL]},
        {"an_unknown_parameter": {"of": ["any", 1, None]}},
    ],
    ids=["plain", "n", "usage", "logprobs", "tools", "unknown parameter"],
)
def test_chunks_are_relayed_byte_for_byte(url, simulator, extra):
    body = {"model": "simulator", "messages": ask("hello [[seed=7 tokens=9 reasoning=2]]"), "stream": True, **extra}
    direct = httpx.post(f"{simulator.url}/v1/chat/completions", json=body, timeout=30)
    through = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)
    expected = [block.data for block in blocks(direct.text)]
    assert [block.data for block in blocks(through.text)] == expected
    assert expected[-1] == "[DONE]" and len(expected) > 3


def test_unstreamed_answer_is_relayed_byte_for_byte(url, simulator):
    body = {"model": "simulator", "messages": ask("hello [[seed=7 tokens=9]]")}
    direct = httpx.post(f"{simulator.url}/v1/chat/completions", json=body, timeout=30)
    through = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)
    assert json.loads(through.text) == json.loads(direct.text)
    assert through.content == direct.content
