"""Responses of the unmodified openai-python, and every event validated against Open Responses."""

import asyncio
import json

import httpx
import openai
import pytest
from pydantic import BaseModel

import openresponses
from openresponses import TERMINAL, check_response, check_stream, outputs
from scenarios import SCENARIOS, TOOL, WEATHER, names
from sse import blocks, events

COUNTED = "".join(f" t{number}" for number in range(6))


class Weather(BaseModel):
    city: str
    days: int


def check_outcome(scenario, response: dict, kinds: set[str]) -> None:
    assert response["status"] == scenario.status, response
    if scenario.items:
        assert tuple(item["type"] for item in response["output"]) == scenario.items, response["output"]
    assert set(scenario.kinds) <= kinds, f"{set(scenario.kinds) - kinds} is missing among {kinds}"
    assert not set(scenario.absent) & kinds, kinds
    if scenario.status == "failed":
        assert response["error"]["code"] and response["error"]["message"], response
    if scenario.status == "incomplete":
        assert response["incomplete_details"]["reason"] in ("max_output_tokens", "content_filter"), response


@pytest.mark.parametrize("scenario", SCENARIOS, ids=names)
def test_every_event_is_an_open_responses_event(http, scenario):
    answer = http.post("/v1/responses", json={"model": "simulator", "stream": True, **scenario.body})
    assert answer.status_code == 200, answer.text
    found = blocks(answer.text)
    assert found[-1].data == "[DONE]"
    assert all(block.event == block.json["type"] for block in found[:-1]), "event: must name the type"
    assert all(block.id is None for block in found)
    sent = events(found)
    assert not [event for event in sent if event["type"].startswith("tokenwire:")], "openai-node raises on unknown types"
    check_outcome(scenario, check_stream(sent, gapless=False), {event["type"] for event in sent})


@pytest.mark.parametrize("scenario", SCENARIOS, ids=names)
def test_unstreamed_answer_is_the_same_object(http, scenario):
    answer = http.post("/v1/responses", json={"model": "simulator", **scenario.body})
    assert answer.status_code == 200, answer.text
    response = answer.json()
    check_response(response)
    assert response["status"] == scenario.status, response
    if scenario.items:
        assert tuple(item["type"] for item in response["output"]) == scenario.items, response["output"]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=names)
def test_poll_returns_the_terminal_events_object(http, scenario):
    answer = http.post("/v1/responses", json={"model": "simulator", "stream": True, **scenario.body})
    terminal = events(blocks(answer.text))[-1]
    assert terminal["type"] in TERMINAL
    poll = http.get(f"/v1/responses/{terminal['response']['id']}")
    assert poll.status_code == 200, poll.text
    assert poll.json() == terminal["response"]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=names)
def test_stream_helper_reads_to_the_end(client, scenario):
    with client.responses.stream(model="simulator", **scenario.body) as stream:
        seen = list(stream)
        if scenario.status == "completed":
            response = stream.get_final_response()
            assert response.status == "completed"
            assert tuple(item.type for item in response.output)[: len(scenario.items)] == scenario.items
        else:
            # The helper has no final response unless it completed.
            with pytest.raises(RuntimeError, match="response.completed"):
                stream.get_final_response()
    assert seen[-1].type == f"response.{scenario.status}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=names)
def test_sdk_models_parse_the_answer(client, scenario):
    response = client.responses.create(model="simulator", **scenario.body)
    assert response.status == scenario.status
    assert response.object == "response"


def test_sdk_returns_the_text(client):
    response = client.responses.create(model="simulator", input="[[tokens=6 text=count]]")
    assert response.output_text == COUNTED
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response._request_id


def test_deltas_add_up(client):
    stream = client.responses.create(model="simulator", input="[[tokens=6 text=count]]", stream=True)
    deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == COUNTED and len(deltas) == 6


def test_the_async_helper_reads_to_its_end(url):
    async def talk():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-of-a-test") as client:
            for _ in range(3):
                async with client.responses.stream(model="simulator", input="[[tokens=6 text=count]]") as stream:
                    assert (await stream.get_final_response()).output_text == COUNTED

    asyncio.run(talk())


def test_structured_output_is_parsed(client):
    response = client.responses.parse(model="simulator", input="weather?", text_format=Weather)
    assert isinstance(response.output_parsed, Weather)
    with client.responses.stream(model="simulator", input="weather?", text_format=Weather) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Weather)


def test_calls_have_distinct_ids_and_complete_arguments(http):
    response = http.post("/v1/responses", json={"input": "weather? [[calls=3]]", "tools": [TOOL]}).json()
    calls = outputs(response, "function_call")
    assert len({call["call_id"] for call in calls}) == len({call["id"] for call in calls}) == 3
    for call in calls:
        assert set(json.loads(call["arguments"])) == set(WEATHER["required"]) and call["status"] == "completed"


def test_logprobs_reach_the_deltas_and_the_object(http):
    body = {"input": "[[tokens=4]]", "top_logprobs": 2, "include": ["message.output_text.logprobs"], "stream": True}
    sent = events(blocks(http.post("/v1/responses", json=body).text))
    deltas = [event for event in sent if event["type"] == "response.output_text.delta"]
    assert all(len(event["logprobs"]) == 1 for event in deltas)
    assert all(len(event["logprobs"][0]["top_logprobs"]) == 2 for event in deltas)
    (part,) = outputs(sent[-1]["response"], "message")[0]["content"]
    assert len(part["logprobs"]) == 4


@pytest.mark.parametrize("after", [0, 3])
def test_failure_keeps_the_text_before_it(http, after):
    body = {"input": f"[[tokens=20 text=count fault=cut after={after}]]", "stream": True}
    response = events(blocks(http.post("/v1/responses", json=body).text))[-1]["response"]
    assert response["status"] == "failed"
    assert openresponses.text(response) == "".join(f" t{number}" for number in range(after))
    assert "retryable" in response["error"], response["error"]


class TestConversations:
    def test_next_turn_includes_the_history(self, client):
        first = client.responses.create(model="simulator", input="a long story about a river and a bridge [[tokens=30]]")
        alone = client.responses.create(model="simulator", input="and then? [[tokens=2]]")
        second = client.responses.create(model="simulator", input="and then? [[tokens=2]]", previous_response_id=first.id)
        assert second.previous_response_id == first.id
        # The upstream counts its input: the first question, its answer, and the second question.
        assert second.usage.input_tokens > alone.usage.input_tokens + 30

    def test_third_turn_includes_both_turns(self, client):
        ids = [None]
        counts = []
        for _ in range(3):
            response = client.responses.create(model="simulator", input="more [[tokens=20]]", previous_response_id=ids[-1])
            ids.append(response.id)
            counts.append(response.usage.input_tokens)
        assert counts[2] - counts[1] >= 20 and counts[1] - counts[0] >= 20, counts

    def test_function_result_alone_is_a_valid_turn(self, client):
        first = client.responses.create(model="simulator", input="weather?", tools=[TOOL])
        (call,) = first.output
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        second = client.responses.create(model="simulator", input=[result], previous_response_id=first.id, tools=[TOOL])
        assert second.status == "completed" and second.output_text

    def test_input_items_are_listed(self, client):
        response = client.responses.create(
            model="simulator",
            input=[{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three [[tokens=2]]"}],
        )
        items = list(client.responses.input_items.list(response.id, order="asc"))
        assert [item.role for item in items] == ["user", "assistant", "user"]
        assert len({item.id for item in items}) == 3
        newest_first = list(client.responses.input_items.list(response.id))
        assert [item.id for item in newest_first] == [item.id for item in reversed(items)]
        paged = list(client.responses.input_items.list(response.id, order="asc", limit=1))
        assert [item.id for item in paged] == [item.id for item in items]

    def test_unknown_previous_response_is_an_error(self, client):
        with pytest.raises(openai.APIStatusError) as raised:
            client.responses.create(model="simulator", input="hi", previous_response_id="resp_doesnotexist")
        assert raised.value.status_code in (400, 404)
        assert raised.value.code == "previous_response_not_found" and raised.value.param == "previous_response_id"

    def test_unstored_response_cannot_be_continued(self, client):
        first = client.responses.create(model="simulator", input="hi [[tokens=2]]", store=False)
        assert first.store is False
        with pytest.raises(openai.APIStatusError) as raised:
            client.responses.create(model="simulator", input="hi", previous_response_id=first.id)
        assert raised.value.code == "previous_response_not_found"


class TestBackground:
    def test_a_job_is_queued_then_done(self, client):
        from conftest import eventually

        job = client.responses.create(model="simulator", input="[[tokens=6 text=count tbt=20ms]]", background=True)
        assert job.status == "queued" and job.background is True
        check_response(job.to_dict(mode="json"))
        done = eventually(
            lambda: client.responses.retrieve(job.id), lambda now: now.status not in ("queued", "in_progress"), "the end of the job"
        )
        assert done.status == "completed" and done.output_text == COUNTED

    def test_a_job_is_streamed_from_any_position(self, client):
        job = client.responses.create(model="simulator", input="[[tokens=20 text=count tbt=10ms]]", background=True)
        whole = list(client.responses.retrieve(job.id, stream=True))
        assert [event.type for event in whole[:2]] == ["response.created", "response.queued"]
        check_stream([event.to_dict(mode="json") for event in whole], gapless=False)
        for after in (0, 7, whole[-2].sequence_number):
            tail = list(client.responses.retrieve(job.id, stream=True, starting_after=after))
            expected = [event for event in whole if event.sequence_number > after]
            assert [event.to_dict() for event in tail] == [event.to_dict() for event in expected]
        assert list(client.responses.retrieve(job.id, stream=True, starting_after=whole[-1].sequence_number)) == []

    def test_helper_resumes_a_job(self, client):
        job = client.responses.create(model="simulator", input="[[tokens=20 text=count tbt=10ms]]", background=True)
        with client.responses.stream(response_id=job.id, starting_after=5) as stream:
            numbers = [event.sequence_number for event in stream]
            assert stream.get_final_response().output_text.endswith(" t19")
        assert numbers[0] == 6

    def test_a_background_stream_outlives_its_reader(self, client, simulator):
        from conftest import eventually

        stream = client.responses.create(
            model="simulator", input="[[tokens=30 text=count tbt=20ms]]", background=True, stream=True
        )
        first = next(iter(stream))
        stream.close()
        done = eventually(
            lambda: client.responses.retrieve(first.response.id), lambda now: now.status == "completed", "the end of the job"
        )
        assert done.output_text.endswith(" t29")

    @pytest.mark.parametrize("steer", ["tokens=1000 tbt=50ms", "ttft=1h", "fault=stall_head", "fault=stall after=2"])
    def test_cancel_works_in_every_phase(self, client, simulator, steer):
        from conftest import eventually

        before = simulator.under_way()
        job = client.responses.create(model="simulator", input=f"[[{steer}]]", background=True)
        eventually(simulator.under_way, lambda count: count > before, "the request at the upstream")
        cancelled = client.responses.cancel(job.id)
        assert cancelled.status == "cancelled"
        check_response(cancelled.to_dict(mode="json"))
        assert client.responses.retrieve(job.id).status == "cancelled"
        last = list(client.responses.retrieve(job.id, stream=True))[-1]
        assert last.type == "response.incomplete" and last.response.status == "cancelled"
        eventually(simulator.under_way, lambda count: count <= before, "the end of the request at the upstream")

    def test_delete_forgets(self, client):
        job = client.responses.create(model="simulator", input="[[tokens=2]]", background=True)
        client.responses.delete(job.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(job.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.delete(job.id)

    def test_delete_has_openais_body(self, http):
        made = http.post("/v1/responses", json={"input": "[[tokens=2]]"}).json()
        gone = http.delete(f"/v1/responses/{made['id']}")
        assert gone.status_code == 200
        assert gone.json() == {"id": made["id"], "object": "response", "deleted": True}


def test_models_are_listed(client):
    models = list(client.models.list())
    assert "simulator" in [model.id for model in models]
    assert all(model.object == "model" for model in models)
    assert client.models.retrieve("simulator").id == "simulator"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_no_header_is_required(url):
    answer = httpx.post(f"{url}/v1/responses", json={"input": "[[tokens=2]]"}, headers={"accept": "*/*"}, timeout=30)
    assert answer.status_code == 200
    check_response(answer.json())
