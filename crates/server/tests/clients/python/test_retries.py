"""An upstream that fails before its first token: the gateway retries, the SDK does not."""

import openai
import own
import pytest

TEXT = " t0 t1 t2"
FAULTS = ["status code=503", "refuse", "cut after=0"]
ROUTES = pytest.mark.parametrize("route", ["chat", "responses"])
STREAM = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
FAULT = pytest.mark.parametrize("fault", FAULTS)


class Failed(Exception):
    """A failed response, for which the SDK raises nothing."""


def answer(client: openai.OpenAI, route: str, stream: bool, steer: str) -> str:
    content = f"[[tokens=3 text=count {steer}]]"
    if route == "chat":
        ask = {"model": "simulator", "messages": [{"role": "user", "content": content}]}
        if not stream:
            return client.chat.completions.create(**ask).choices[0].message.content
        chunks = list(client.chat.completions.create(**ask, stream=True))
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    if not stream:
        response = client.responses.create(model="simulator", input=content)
        last = response
    else:
        events = list(client.responses.create(model="simulator", input=content, stream=True))
        ends = [event for event in events if event.type in ("response.completed", "response.failed", "response.incomplete")]
        assert ends == events[-1:], [event.type for event in events]
        last = ends[0].response
    if last.status == "failed":
        raise Failed(last.error.code)
    return last.output_text


@FAULT
@STREAM
@ROUTES
def test_one_failure_is_hidden_by_a_retry(client, simulator, unique, route, stream, fault):
    before = simulator.requests()
    assert answer(client, route, stream, f"fault={fault} times=1 id={unique}") == TEXT
    assert simulator.requests() - before == 2


@pytest.fixture(scope="module")
def unforgiving(simulator):
    """The SDK with its defaults, over a gateway without retries."""
    with (
        own.gateway(f"{simulator.url}/v1", "chat", RETRY__ATTEMPTS="0") as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="sk-of-a-test") as client,
    ):
        yield client


@FAULT
@STREAM
@ROUTES
def test_failure_is_reported_once_without_retries(unforgiving, simulator, route, stream, fault):
    before = simulator.requests()
    with pytest.raises((openai.APIError, Failed)) as raised:
        answer(unforgiving, route, stream, f"fault={fault}")
    if isinstance(raised.value, openai.APIStatusError):
        assert raised.value.response.headers["x-should-retry"] == "false"
    # A failure before the head has a status. After it there is an event or the object; an unstreamed chat completion has neither.
    by_status = fault != "cut after=0" or (route == "chat" and not stream)
    assert isinstance(raised.value, openai.APIStatusError) == by_status, raised.value
    # A request on an idle connection may not have been read. It is sent once more.
    assert simulator.requests() - before in ((1, 2) if fault == "refuse" else (1,))
