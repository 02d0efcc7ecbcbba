"""Resuming over HTTP: every cell of the protocol's table of positions."""

import httpx
import pytest

from conftest import eventually
from openresponses import check_response, check_stream
from sse import blocks, events

ENDED = "[[tokens=10 text=count]]"


def started(http, text: str = ENDED) -> tuple[str, list]:
    """Runs a stream to its end. Returns its id and its blocks."""
    answer = http.get("/v1/streams", params={"input": text})
    assert answer.status_code == 200, answer.text
    found = blocks(answer.text)
    return found[0].id.rpartition(".")[0], found


@pytest.fixture(scope="module")
def late(forgetful_url):
    """A stream whose log was removed while its response object is kept."""
    with httpx.Client(base_url=forgetful_url, timeout=30) as http:
        name, whole = started(http)
        ask = lambda: http.get(f"/v1/responses/{name}", params={"stream": "true", "starting_after": 0})  # noqa: E731
        gone = eventually(ask, lambda answer: answer.status_code != 200, "the end of the log")
        yield http, name, whole, gone


class TestAPositionInTheLog:
    @pytest.mark.parametrize("after", [0, 1, 5])
    @pytest.mark.parametrize("how", ["Last-Event-ID", "after"])
    def test_rest_is_replayed_byte_for_byte(self, http, after, how):
        name, whole = started(http)
        if how == "after":
            answer = http.get(f"/v1/streams/{name}", params={"after": after})
        else:
            answer = http.get(f"/v1/streams/{name}", headers={"Last-Event-ID": f"{name}.{after}"})
        assert answer.status_code == 200
        again = blocks(answer.text)
        assert [(block.id, block.data) for block in again] == [(block.id, block.data) for block in whole[after + 1 :]]
        assert again[0].retry == "2000"

    def test_the_header_wins_over_the_query(self, http):
        name, whole = started(http)
        answer = http.get(f"/v1/streams/{name}", params={"after": 0}, headers={"Last-Event-ID": f"{name}.5"})
        assert blocks(answer.text)[0].number == 6

    def test_everything_is_replayed_without_a_position(self, http):
        name, whole = started(http)
        assert [block.data for block in blocks(http.get(f"/v1/streams/{name}").text)] == [block.data for block in whole]

    def test_cut_reader_resumes_at_the_exact_token(self, http, simulator):
        before = simulator.requests()
        seen, last, name = [], None, None
        for _ in range(40):
            headers = {"Last-Event-ID": last} if last else {}
            # The URL of the start is kept, as an EventSource does.
            with http.stream("GET", "/v1/streams", params={"input": "[[tokens=30 text=count tbt=10ms]]"}, headers=headers) as answer:
                if answer.status_code == 204:
                    break
                assert answer.status_code == 200
                text = ""
                for piece in answer.iter_text():
                    text += piece
                    if text.count("\n\n") >= 4:
                        break
            for block in blocks(text[: text.rfind("\n\n") + 2]):
                seen.append(block.json)
                last = block.id
        else:
            pytest.fail("the stream never ended with 204")
        response = check_stream(seen)
        assert response["output"][0]["content"][0]["text"] == "".join(f" t{number}" for number in range(30))
        assert simulator.requests() == before + 1, "resuming must not start a generation"

    def test_late_readers_get_the_same_bytes(self, http, url):
        from concurrent.futures import ThreadPoolExecutor

        job = http.post("/v1/responses", json={"input": "[[tokens=40 text=count tbt=10ms]]", "background": True}).json()
        read = lambda _: httpx.get(f"{url}/v1/streams/{job['id']}", timeout=30).text  # noqa: E731
        with ThreadPoolExecutor(8) as readers:
            bodies = set(readers.map(lambda text: "\n".join(block.data for block in blocks(text)), readers.map(read, range(8))))
        assert len(bodies) == 1

    def test_the_chat_dialect_resumes_by_the_same_numbers(self, http):
        name, _ = started(http)
        chat = blocks(http.get(f"/v1/streams/{name}", params={"dialect": "chat"}).text)
        middle = chat[4].number
        again = blocks(http.get(f"/v1/streams/{name}", params={"dialect": "chat", "after": middle}).text)
        assert [(block.id, block.data) for block in again] == [(block.id, block.data) for block in chat[5:]]

    def test_stream_started_as_chat_is_read_as_responses(self, http):
        body = {"messages": [{"role": "user", "content": "[[tokens=10 text=count]]"}], "stream": True}
        answer = http.post("/v1/chat/completions", json=body)
        found = blocks(http.get(answer.headers["location"]).text)
        assert check_stream(events(found))["status"] == "completed"


class TestAtTheEnd:
    def test_eventsource_gets_204_and_stops(self, http, simulator):
        name, whole = started(http)
        before = simulator.requests()
        for path in (f"/v1/streams/{name}", "/v1/streams?input=hello"):
            answer = http.get(path, headers={"Last-Event-ID": whole[-1].id})
            assert answer.status_code == 204 and answer.content == b""
        assert simulator.requests() == before

    def test_the_chat_dialect_gets_204_also(self, http):
        name, whole = started(http)
        answer = http.get(f"/v1/streams/{name}", params={"dialect": "chat", "after": whole[-1].number})
        assert answer.status_code == 204

    def test_sdk_gets_the_marker(self, http):
        name, whole = started(http)
        answer = http.get(f"/v1/responses/{name}", params={"stream": "true", "starting_after": whole[-1].number})
        assert answer.status_code == 200 and answer.text == "data: [DONE]\n\n"


class TestNotInTheLog:
    def test_eventsource_past_the_head_gets_a_reset(self, http):
        name, whole = started(http)
        found = blocks(http.get(f"/v1/streams/{name}", params={"after": 10_000}).text)
        self.check_reset(found[0].json, whole[-1].number)
        assert found[0].number == whole[-1].number

    def test_past_the_head_sdk_gets_400(self, http):
        name, _ = started(http)
        answer = http.get(f"/v1/responses/{name}", params={"stream": "true", "starting_after": 10_000})
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_cursor"

    def test_removed_log_is_410_for_sdks(self, late):
        _, _, _, gone = late
        assert gone.status_code == 410 and gone.json()["error"]["code"] == "position_gone"

    def test_the_response_object_outlives_the_log(self, late):
        http, name, whole, _ = late
        assert http.get(f"/v1/responses/{name}").json() == whole[-1].json["response"]

    def test_removed_log_is_a_reset_for_eventsource(self, late):
        http, name, whole, _ = late
        found = blocks(http.get(f"/v1/streams/{name}", headers={"Last-Event-ID": f"{name}.2"}).text)
        self.check_reset(found[0].json, whole[-1].number)
        assert len(found) == 1

    def test_end_of_a_removed_log_is_204(self, late):
        http, name, whole, _ = late
        assert http.get(f"/v1/streams/{name}", headers={"Last-Event-ID": whole[-1].id}).status_code == 204

    @staticmethod
    def check_reset(event: dict, number: int) -> None:
        assert event["type"] == "tokenwire:reset" and event["sequence_number"] == number, event
        assert "error" not in event
        check_response(event["response"])


class TestInvalidIds:
    @pytest.mark.parametrize("value", ["nonsense", "resp_x", "resp_x.", "resp_x.-1", "resp_x.1.5", "resp_x.99999999999999999999999"])
    @pytest.mark.parametrize("path", ["/v1/streams?input=hello", "/v1/streams/{}"])
    def test_a_malformed_id_is_400(self, http, simulator, path, value):
        name, _ = started(http)
        before = simulator.requests()
        answer = http.get(path.format(name), headers={"Last-Event-ID": value})
        assert answer.status_code == 400, answer.text
        assert simulator.requests() == before

    def test_an_id_of_another_stream_is_400(self, http):
        (one, _), (other, _) = started(http), started(http)
        assert http.get(f"/v1/streams/{one}", headers={"Last-Event-ID": f"{other}.3"}).status_code == 400

    def test_an_unknown_id_is_404_and_starts_nothing(self, http, simulator):
        before = simulator.requests()
        unknown = "resp_0000000000000000000000000000000A"
        for method, path in (("GET", "/v1/streams?input=hello"), ("GET", f"/v1/streams/{unknown}"), ("POST", "/v1/streams")):
            body = {"input": "hello"} if method == "POST" else None
            answer = http.request(method, path, json=body, headers={"Last-Event-ID": f"{unknown}.3"})
            assert answer.status_code == 404, answer.text
        assert simulator.requests() == before

    @pytest.mark.parametrize("query", ["after=x", "after=-1", "dialect=morse"])
    def test_invalid_parameter_is_400(self, http, query):
        name, _ = started(http)
        answer = http.get(f"/v1/streams/{name}?{query}")
        assert answer.status_code == 400 and answer.json()["error"]["param"] == query.partition("=")[0]


class TestIdempotency:
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/streams", {"input": "[[tokens=5]]"}),
            ("/v1/responses", {"input": "[[tokens=5]]"}),
            ("/v1/responses", {"input": "[[tokens=5]]", "stream": True}),
            ("/v1/responses", {"input": "[[tokens=5]]", "background": True}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "[[tokens=5]]"}]}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "[[tokens=5]]"}], "stream": True}),
        ],
    )
    def test_the_same_key_attaches(self, http, simulator, unique, path, body):
        before = simulator.requests()
        answers = [http.post(path, json=body, headers={"Idempotency-Key": unique}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
        assert answers[0].headers["location"] == answers[1].headers["location"]
        if not body.get("background"):
            assert answers[0].text == answers[1].text
        http.get(answers[0].headers["location"])
        assert simulator.requests() == before + 1

    def test_the_key_of_a_get_attaches(self, http, simulator, unique):
        before = simulator.requests()
        bodies = {http.get("/v1/streams", params={"input": "[[tokens=5]]", "key": unique}).text for _ in range(2)}
        assert len(bodies) == 1 and simulator.requests() == before + 1

    def test_another_body_is_422(self, http, unique):
        headers = {"Idempotency-Key": unique}
        assert http.post("/v1/responses", json={"input": "one [[tokens=2]]"}, headers=headers).status_code == 200
        answer = http.post("/v1/responses", json={"input": "two [[tokens=2]]"}, headers=headers)
        assert answer.status_code == 422 and answer.json()["error"]["code"] == "idempotency_mismatch"

    def test_a_failure_before_the_first_chunk_releases_the_key(self, http, unique):
        body = {"messages": [{"role": "user", "content": f"[[tokens=2 fault=status code=400 times=1 id={unique}]]"}]}
        headers = {"Idempotency-Key": unique}
        assert http.post("/v1/chat/completions", json=body, headers=headers).status_code == 400
        assert http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200


def test_a_post_with_a_last_event_id_attaches(http, simulator):
    name, whole = started(http)
    before = simulator.requests()
    answer = http.post("/v1/streams", json={"input": ENDED}, headers={"Last-Event-ID": f"{name}.3"})
    assert [block.id for block in blocks(answer.text)] == [block.id for block in whole[4:]]
    assert simulator.requests() == before
