"""Heads and framing, to the byte."""

import re

import httpx
import pytest

from openresponses import TERMINAL, check_stream
from scenarios import SCENARIOS, names
from sse import blocks, events

ID = re.compile(r"resp_[A-Za-z0-9]{22,}")
WAYS = {
    "GET": lambda http, text, **more: http.get("/v1/streams", params={"input": text}, **more),
    "POST responses": lambda http, text, **more: http.post("/v1/streams", json={"input": text}, **more),
    "POST chat": lambda http, text, **more: http.post(
        "/v1/streams", json={"messages": [{"role": "user", "content": text}]}, **more
    ),
    "POST as curl does": lambda http, text, **more: http.post(
        "/v1/streams",
        content=f'{{"input": "{text}"}}',
        headers={"content-type": "application/x-www-form-urlencoded", **more.pop("headers", {})},
        **more,
    ),
}


def check_head(answer: httpx.Response) -> str:
    """The head every stream has; gives the id of its generation."""
    assert answer.status_code == 200, answer.text
    head = answer.headers
    assert head["content-type"].split(";")[0] == "text/event-stream"
    assert {part.strip() for part in head["cache-control"].split(",")} == {"no-cache", "no-transform"}
    assert head["x-accel-buffering"] == "no"
    assert head["x-content-type-options"] == "nosniff"
    assert "content-encoding" not in head and "content-length" not in head
    assert head["x-request-id"]
    path, _, name = head["location"].rpartition("/")
    assert path == "/v1/streams" and ID.fullmatch(name), head["location"]
    return name


class TestEventSource:
    @pytest.mark.parametrize("way", WAYS)
    def test_every_block_has_data_and_an_id_but_no_event_name(self, http, way):
        answer = WAYS[way](http, "hello [[tokens=5]]")
        name = check_head(answer)
        found = blocks(answer.text)
        assert answer.text.startswith("retry: 2000\n"), answer.text[:100]
        assert [block.retry for block in found] == ["2000"] + [None] * (len(found) - 1)
        for block in found:
            assert block.event is None and block.data is not None, block.lines
            assert re.fullmatch(rf"{name}\.\d+", block.id) and len(block.id) < 128, block.id

    def test_events_equal_those_of_responses(self, http):
        found = blocks(http.get("/v1/streams", params={"input": "hello [[tokens=5]]"}).text)
        response = check_stream(events(found))
        assert response["status"] == "completed"
        assert [block.number for block in found] == [event["sequence_number"] for event in events(found)]
        assert found[0].json["type"] == "response.created"
        assert found[-1].json["type"] in TERMINAL, "no marker may follow the terminal event in this dialect"

    @pytest.mark.parametrize("scenario", SCENARIOS, ids=names)
    def test_every_scenario_is_valid_and_without_gaps(self, http, scenario):
        answer = http.post("/v1/streams", json={"model": "simulator", **scenario.body})
        check_head(answer)
        assert check_stream(events(blocks(answer.text)))["status"] == scenario.status

    def test_the_head_and_the_first_event_come_before_the_upstream_answers(self, http):
        with http.stream("GET", "/v1/streams", params={"input": "[[fault=stall_head]]"}) as answer:
            check_head(answer)
            first = next(answer.iter_text())
            assert first.startswith("retry: 2000\n") and '"response.created"' in first

    def test_failure_after_the_head_is_an_event(self, http):
        answer = http.get("/v1/streams", params={"input": "[[fault=status code=400]]"})
        check_head(answer)
        last = events(blocks(answer.text))[-1]
        assert last["type"] == "response.failed" and last["response"]["error"]["code"]

    def test_the_chat_dialect_ends_with_its_marker_under_the_last_number(self, http):
        name = check_head(http.get("/v1/streams", params={"input": "hello [[tokens=5]]"}))
        own = blocks(http.get(f"/v1/streams/{name}").text)
        chat = blocks(http.get(f"/v1/streams/{name}", params={"dialect": "chat"}).text)
        # The first block has no data. It sets the id that a reconnect needs before the first chunk.
        assert chat[0].data is None and chat[0].id == own[0].id
        chat = chat[1:]
        assert chat[-1].data == "[DONE]" and chat[-1].id == own[-1].id
        # The last chunk may share its record, and so its number, with the terminal event.
        numbers = [block.number for block in chat[:-1]]
        assert numbers == sorted(set(numbers)) and numbers[-1] <= chat[-1].number
        assert {block.json["object"] for block in chat[:-1]} == {"chat.completion.chunk"}

    def test_broken_stream_ends_with_an_error_in_the_chat_dialect(self, http):
        name = check_head(http.get("/v1/streams", params={"input": "[[tokens=9 fault=cut after=3]]"}))
        own = blocks(http.get(f"/v1/streams/{name}").text)
        chat = blocks(http.get(f"/v1/streams/{name}", params={"dialect": "chat"}).text)
        assert chat[-1].json["error"]["code"] and chat[-1].id == own[-1].id
        assert "[DONE]" not in [block.data for block in chat]

    def test_a_missing_input_is_an_error_before_the_head(self, http):
        answer = http.get("/v1/streams")
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "input"


class TestSdk:
    def test_chat_has_data_only(self, http):
        body = {"messages": [{"role": "user", "content": "[[tokens=5]]"}], "stream": True}
        answer = http.post("/v1/chat/completions", json=body)
        check_head(answer)
        found = blocks(answer.text)
        assert all(block.lines == [f"data: {block.data}"] for block in found), answer.text
        assert found[-1].data == "[DONE]"

    def test_responses_has_event_and_data(self, http):
        answer = http.post("/v1/responses", json={"input": "[[tokens=5]]", "stream": True})
        check_head(answer)
        *found, done = blocks(answer.text)
        assert all(block.lines == [f"event: {block.event}", f"data: {block.data}"] for block in found)
        assert done.lines == ["data: [DONE]"]

    @pytest.mark.parametrize("fault", ["cut", "end", "error", "malformed", "bad_utf8"])
    def test_a_broken_chat_stream_has_no_marker(self, http, fault):
        body = {"messages": [{"role": "user", "content": f"[[tokens=9 fault={fault} after=3]]"}], "stream": True}
        found = blocks(http.post("/v1/chat/completions", json=body).text)
        assert "[DONE]" not in [block.data for block in found]
        error = found[-1].json["error"]
        assert error["message"] and error["type"] and (error["code"] or fault == "error"), error

    @pytest.mark.parametrize("fault", ["no_done", "split", "crlf", "cr", "nospace", "bom", "comments", "multi", "gzip"])
    def test_upstream_framing_is_normalized(self, http, fault):
        body = {"messages": [{"role": "user", "content": f"[[tokens=6 text=count fault={fault}]]"}], "stream": True}
        answer = http.post("/v1/chat/completions", json=body)
        check_head(answer)
        *found, done = blocks(answer.text)
        assert done.data == "[DONE]"
        tokens = [block.json["choices"][0]["delta"].get("content") or "" for block in found if block.json["choices"]]
        assert "".join(tokens) == " t0 t1 t2 t3 t4 t5"

    def test_start_has_a_location_header(self, http):
        answer = http.post("/v1/responses", json={"input": "[[tokens=2]]"})
        assert answer.headers["location"] == f"/v1/streams/{answer.json()['id']}"
        chat = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "[[tokens=2]]"}]})
        assert ID.fullmatch(chat.headers["location"].removeprefix("/v1/streams/"))


class TestHeartbeat:
    """The gateways under test send one after a second of silence."""

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/streams", {"input": "[[ttft=2500ms tokens=3]]"}),
            ("/v1/responses", {"input": "[[ttft=2500ms tokens=3]]", "stream": True}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "[[ttft=2500ms tokens=3]]"}], "stream": True}),
        ],
    )
    def test_it_is_a_comment_without_a_blank_line(self, http, path, body):
        answer = http.post(path, json=body)
        check_head(answer)
        lines = answer.text.split("\n")
        beats = [number for number, line in enumerate(lines) if line.startswith(":")]
        assert len(beats) >= 2, answer.text
        for beat in beats:
            assert lines[beat] == ":" and lines[beat + 1] != "", "a blank line after a comment makes openai-python raise"
        assert blocks(answer.text)[-1].data

    def test_sdk_ignores_it(self, client):
        stream = client.responses.create(model="simulator", input="[[ttft=2500ms tokens=3 text=count]]", stream=True)
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == " t0 t1 t2"
        chunks = client.chat.completions.create(
            model="simulator", messages=[{"role": "user", "content": "[[ttft=2500ms tokens=3 text=count]]"}], stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == " t0 t1 t2"

    def test_there_is_none_in_text(self, http):
        answer = http.post("/v1/streams", json={"input": "[[ttft=2500ms tokens=3 text=count]]"}, headers={"accept": "text/plain"})
        assert answer.text.rstrip("\n") == " t0 t1 t2"


class TestText:
    @pytest.mark.parametrize("way", WAYS)
    def test_body_is_the_plain_answer(self, http, way):
        answer = WAYS[way](http, "[[tokens=6 text=count]]", headers={"accept": "text/plain"})
        assert answer.status_code == 200
        assert answer.headers["content-type"].replace(" ", "").lower() == "text/plain;charset=utf-8"
        assert answer.text.rstrip("\n") == " t0 t1 t2 t3 t4 t5"

    def test_a_refusal_is_text_too(self, http):
        answer = http.post("/v1/streams", json={"input": "[[refusal]]"}, headers={"accept": "text/plain"})
        assert answer.status_code == 200 and answer.text.strip()

    def test_a_failure_breaks_the_transfer(self, http):
        with pytest.raises(httpx.RemoteProtocolError):
            http.post("/v1/streams", json={"input": "[[tokens=20 fault=cut after=3]]"}, headers={"accept": "text/plain"})

    def test_a_failure_before_the_head_is_a_status(self, http):
        answer = http.post("/v1/streams", json={"input": "[[fault=status code=400]]"}, headers={"accept": "text/plain"})
        assert answer.status_code == 400


def test_operations_endpoints_answer(http):
    assert http.get("/healthz").status_code == 200
    assert http.get("/readyz").status_code == 200


def test_cors_allows_what_the_sdks_send(http):
    headers = {
        "origin": "http://localhost:5173",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os,x-stainless-retry-count",
    }
    answer = http.options("/v1/responses", headers=headers)
    assert answer.status_code in (200, 204), answer.text
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert "x-stainless-os" in allowed and "authorization" in allowed
    real = http.post("/v1/responses", json={"input": "[[tokens=2]]"}, headers={"origin": "http://localhost:5173"})
    exposed = {name.strip().lower() for name in real.headers["access-control-expose-headers"].split(",")}
    assert {"location", "x-request-id"} <= exposed
