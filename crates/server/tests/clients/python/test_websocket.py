"""WebSockets: openai-python's `responses.connect()` with and without lanes, and `websockets` for messages that the SDK cannot send."""

import contextlib
import json

import pytest
import websockets.exceptions
from openai.lib.responses_websocket import ResponsesWebSocketError, ResponsesWebSocketLimits, ResponsesWebSocketSession
from websockets.sync.client import connect

from conftest import eventually
from openresponses import TERMINAL, check_error_frame, check_response, check_stream
from scenarios import SCENARIOS, names
from sse import blocks, events

COUNTED = "".join(f" t{number}" for number in range(6))
ASK = "[[tokens=6 text=count]]"
LIMITS = ResponsesWebSocketLimits(
    max_lanes=64, max_events_per_lane=10_000, max_events=50_000, max_bytes_per_lane=2**26, max_bytes=2**27
)


class TestTheSdksConnection:
    @pytest.mark.parametrize("scenario", SCENARIOS, ids=names)
    def test_every_event_is_an_open_responses_event(self, client, scenario):
        with client.responses.connect() as connection:
            connection.response.create(model="simulator", **scenario.body)
            seen = []
            while not seen or seen[-1]["type"] not in TERMINAL:
                seen.append(json.loads(connection.recv_bytes()))
                assert seen[-1]["type"] != "error", seen[-1]
                assert seen[-1].get("stream_id") is None
        assert check_stream(seen, gapless=False)["status"] == scenario.status

    def test_sequential_creates_on_one_connection(self, client):
        with client.responses.connect() as connection:
            previous = None
            for _ in range(4):
                create = {"model": "simulator", "input": ASK}
                if previous:
                    create["previous_response_id"] = previous
                connection.response.create(**create)
                for event in connection:
                    if event.type in TERMINAL:
                        break
                assert event.type == "response.completed" and event.response.output_text == COUNTED
                assert event.response.previous_response_id == previous
                previous = event.response.id

    def test_without_lanes_creates_run_in_order(self, client):
        with client.responses.connect() as connection:
            for number in range(3):
                connection.response.create(model="simulator", input=ASK, metadata={"number": str(number)})
            order = []
            while len(order) < 6:
                event = connection.recv()
                if event.type in ("response.created", *TERMINAL):
                    order.append((event.type, event.response.metadata["number"]))
        assert order == [(kind, number) for number in "012" for kind in ("response.created", "response.completed")]

    def test_invalid_create_is_an_error_frame_and_keeps_the_socket_open(self, client):
        with client.responses.connect() as connection:
            connection.response.create(model="simulator")
            event = connection.recv()
            assert event.type == "error" and event.error.param == "input" and event.status == 400
            connection.response.create(model="simulator", input=ASK)
            assert connection.recv().type == "response.created"

    @pytest.mark.parametrize("extra", [{"conversation": "conv_1"}, {"tools": [{"type": "web_search"}]}])
    def test_unsupported_parameter_is_rejected(self, client, extra):
        with client.responses.connect() as connection:
            connection.response.create(model="simulator", input=ASK, **extra)
            event = json.loads(connection.recv_bytes())
            check_error_frame(event)
            assert event["status"] == 400 and event["error"]["param"].split("[")[0] in extra, event

    def test_response_that_generates_nothing_can_be_continued(self, client):
        with client.responses.connect() as connection:
            connection.response.create(model="simulator", input="remember this", generate=False, store=False)
            events = [connection.recv()]
            while events[-1].type != "response.completed":
                events.append(connection.recv())
            assert events[0].type == "response.created" and events[-1].response.output == []
            connection.response.create(model="simulator", input=ASK, previous_response_id=events[-1].response.id, store=False)
            event = connection.recv()
            while event.type != "response.completed":
                event = connection.recv()
            assert event.response.output_text

    def test_steer_is_an_error(self, client):
        with client.responses.connect() as connection:
            connection.response.steer(input=[{"role": "user", "content": "hm"}], previous_response_id="resp_1")
            event = json.loads(connection.recv_bytes())
            check_error_frame(event)
            assert "response.steer" in event["error"]["message"]

    def test_unknown_previous_response_has_openais_code(self, client):
        with client.responses.connect() as connection:
            connection.response.create(model="simulator", input=ASK, previous_response_id="resp_doesnotexist")
            event = json.loads(connection.recv_bytes())
            check_error_frame(event)
            assert event["error"]["code"] == "previous_response_not_found"


class TestLanes:
    @pytest.fixture
    def session(self, client):
        with client.responses.connect() as connection, ResponsesWebSocketSession(connection, limits=LIMITS) as session:
            yield session

    def test_lanes_run_concurrently(self, session):
        lanes = {name: session.lane(name) for name in ("a", "b.c", "D-3_x")}
        for name, lane in lanes.items():
            lane.send({"type": "response.create", "model": "simulator", "input": "[[tokens=20 text=count tbt=5ms]]", "metadata": {"lane": name}})
        for name, lane in lanes.items():
            response = lane.get_final_response(timeout=30)
            assert response.status == "completed" and response.metadata == {"lane": name}
            assert response.output_text.endswith(" t19")

    def test_slow_lane_does_not_block_a_fast_one(self, session):
        slow, fast = session.lane("slow"), session.lane("fast")
        slow.send({"type": "response.create", "model": "simulator", "input": "[[ttft=1h]]"})
        fast.send({"type": "response.create", "model": "simulator", "input": ASK})
        assert fast.get_final_response(timeout=30).output_text == COUNTED

    def test_lane_continues_after_a_failure_and_an_error(self, session):
        lane = session.lane("a")
        lane.send({"type": "response.create", "model": "simulator", "input": "[[tokens=20 fault=cut after=5]]"})
        failed = lane.get_final_response(timeout=30)
        assert failed.status == "failed" and failed.error.code
        lane.send({"type": "response.create", "model": "simulator", "input": 5})
        with pytest.raises(ResponsesWebSocketError) as raised:
            lane.get_final_response(timeout=30)
        assert raised.value.event.stream_id == "a"
        lane.send({"type": "response.create", "model": "simulator", "input": ASK})
        assert lane.get_final_response(timeout=30).output_text == COUNTED

    @pytest.mark.parametrize("steer", ["fault=status code=404", "fault=status code=503", "fault=refuse"])
    def test_refusing_upstream_ends_the_lane_with_an_error(self, session, steer):
        lane = session.lane("a")
        lane.send({"type": "response.create", "model": "simulator", "input": f"[[{steer}]]"})
        try:
            response = lane.get_final_response(timeout=30)
        except ResponsesWebSocketError as error:
            assert error.event.error.code
        else:
            assert response.status == "failed" and response.error.code

    def test_default_lane_gets_no_events_of_other_lanes(self, session):
        lane = session.lane("a")
        lane.send({"type": "response.create", "model": "simulator", "input": ASK})
        lane.get_final_response(timeout=30)
        with pytest.raises(TimeoutError):
            session.default.recv(timeout=0)


class Socket:
    """A raw client, for messages that the SDK cannot send."""

    def __init__(self, url: str, path: str = "/v1/ws", **options) -> None:
        self._open = contextlib.ExitStack()
        self.connection = self._open.enter_context(connect(f"ws{url.removeprefix('http')}{path}", max_size=None, **options))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._open.close()

    def send(self, message: dict) -> None:
        self.connection.send(json.dumps(message))

    def receive(self) -> dict:
        return json.loads(self.connection.recv(timeout=30))

    def until(self, *kinds: str) -> list[dict]:
        seen = []
        while not seen or seen[-1]["type"] not in kinds:
            seen.append(self.receive())
            assert seen[-1]["type"] in kinds or not seen[-1]["type"].endswith("error"), seen[-1]
        return seen


class TestTheProtocol:
    @pytest.fixture
    def socket(self, url):
        with Socket(url) as socket:
            yield socket

    @pytest.mark.parametrize("path", ["/v1/ws", "/v1/responses"])
    def test_both_paths_serve(self, url, path):
        with Socket(url, path) as socket:
            socket.send({"type": "response.create", "input": ASK})
            assert check_stream(socket.until(*TERMINAL), gapless=False)["status"] == "completed"

    def test_compression_is_declined(self, url):
        with Socket(url, compression="deflate") as socket:
            assert "Sec-WebSocket-Extensions" in socket.connection.request.headers
            assert "Sec-WebSocket-Extensions" not in socket.connection.response.headers

    def test_the_subprotocol_is_echoed_and_a_ticket_is_not(self, url):
        with Socket(url, subprotocols=["tokenwire-ticket.abc", "tokenwire.v1"]) as socket:
            assert socket.connection.subprotocol == "tokenwire.v1"
        with Socket(url) as socket:
            assert socket.connection.subprotocol is None

    def test_events_name_their_lane(self, socket):
        socket.send({"type": "response.create", "input": ASK, "stream_id": "lane.1"})
        assert {event["stream_id"] for event in socket.until(*TERMINAL)} == {"lane.1"}

    @pytest.mark.parametrize("lane", ["", "a b", "ä", "x" * 257, 5])
    def test_a_bad_lane_is_refused(self, socket, lane):
        socket.send({"type": "response.create", "input": ASK, "stream_id": lane})
        frame = socket.receive()
        check_error_frame(frame)
        assert frame["error"]["code"] == "invalid_stream_id"

    def test_ping(self, socket):
        socket.send({"type": "tokenwire:ping"})
        assert socket.receive()["type"] == "tokenwire:pong"

    def test_a_protocol_ping_is_answered(self, socket):
        assert socket.connection.ping(b"hello").wait(30)

    @pytest.mark.parametrize("text", ["{", "[]", "5", '{"input":"hi"}', '{"type":"no.such.type"}', '{"type":5}'])
    def test_malformed_message_is_an_error_and_keeps_the_socket_open(self, socket, text):
        socket.connection.send(text)
        assert socket.receive()["type"] in ("error", "tokenwire:error")
        socket.send({"type": "tokenwire:ping"})
        assert socket.receive()["type"] == "tokenwire:pong"

    def test_a_binary_frame_closes_with_1003(self, socket):
        socket.connection.send(b"\x00\x01")
        self.check_close(socket, 1003)

    def test_oversized_frame_closes_with_1009_before_it_is_received(self, socket):
        # A text frame that announces 64 MiB, followed by its first bytes only.
        header = b"\x81\xff" + (64 * 1024 * 1024).to_bytes(8, "big") + b"\0\0\0\0"
        socket.connection.socket.sendall(header + b'{"type":')
        self.check_close(socket, 1009)

    @staticmethod
    def check_close(socket, code: int) -> None:
        with pytest.raises(websockets.exceptions.ConnectionClosed) as raised:
            socket.connection.recv(timeout=30)
        assert raised.value.rcvd is not None and raised.value.rcvd.code == code, raised.value

    def test_sse_stream_resumes_on_a_socket(self, socket, http):
        whole = events(blocks(http.get("/v1/streams", params={"input": ASK}).text))
        name = whole[0]["response"]["id"]
        for after in (None, 0, 4):
            socket.send({"type": "tokenwire:resume", "response_id": name, **({} if after is None else {"starting_after": after})})
            resumed, *rest = socket.until(*TERMINAL)
            assert resumed["type"] == "tokenwire:resumed" and resumed["response_id"] == name
            assert resumed["head"] == whole[-1]["sequence_number"] and resumed["status"] == "completed"
            assert rest == whole[0 if after is None else after + 1 :]

    def test_socket_stream_resumes_over_sse(self, url, http):
        with Socket(url) as socket:
            socket.send({"type": "response.create", "input": "[[tokens=30 text=count tbt=10ms]]"})
            seen = [socket.receive() for _ in range(8)]
        name = seen[0]["response"]["id"]
        answer = http.get(f"/v1/streams/{name}", headers={"Last-Event-ID": f"{name}.{seen[-1]['sequence_number']}"})
        assert check_stream(seen + events(blocks(answer.text)))["status"] == "completed"

    def test_resume_at_the_end_gets_only_the_status(self, socket, http):
        whole = events(blocks(http.get("/v1/streams", params={"input": ASK}).text))
        name, head = whole[0]["response"]["id"], whole[-1]["sequence_number"]
        socket.send({"type": "tokenwire:resume", "response_id": name, "starting_after": head})
        resumed = socket.receive()
        assert resumed["type"] == "tokenwire:resumed" and resumed["status"] == "completed"
        socket.send({"type": "tokenwire:ping"})
        assert socket.receive()["type"] == "tokenwire:pong", "no event may follow"

    def test_resume_past_the_head_gets_a_reset(self, socket, http):
        whole = events(blocks(http.get("/v1/streams", params={"input": ASK}).text))
        socket.send({"type": "tokenwire:resume", "response_id": whole[0]["response"]["id"], "starting_after": 10_000})
        reset = socket.until("tokenwire:reset")[-1]
        check_response(reset["response"])
        assert reset["sequence_number"] == whole[-1]["sequence_number"]

    @pytest.mark.parametrize("command", ["tokenwire:resume", "tokenwire:cancel"])
    def test_unknown_id_is_404(self, socket, command):
        socket.send({"type": command, "response_id": "resp_doesnotexist"})
        error = socket.receive()
        assert error["type"] == "tokenwire:error" and error["status"] == 404 and error["response_id"] == "resp_doesnotexist"
        assert error["error"]["message"]

    def test_cancel_ends_the_stream(self, socket, simulator):
        before = simulator.under_way()
        socket.send({"type": "response.create", "input": "[[tokens=1000 tbt=50ms]]"})
        name = socket.receive()["response"]["id"]
        socket.until("response.output_text.delta")
        socket.send({"type": "tokenwire:cancel", "response_id": name})
        last = socket.until(*TERMINAL)[-1]
        assert last["type"] == "response.incomplete" and last["response"]["status"] == "cancelled"
        eventually(simulator.under_way, lambda count: count <= before, "the end of the request at the upstream")

    def test_unsubscribe_stops_the_events_but_not_the_generation(self, socket, http):
        socket.send({"type": "response.create", "input": "[[tokens=60 tbt=20ms]]", "background": False})
        name = socket.receive()["response"]["id"]
        socket.send({"type": "tokenwire:unsubscribe", "response_id": name})
        socket.send({"type": "tokenwire:ping"})
        socket.until("tokenwire:pong")
        socket.send({"type": "tokenwire:ping"})
        assert socket.receive()["type"] == "tokenwire:pong", "no event of the stream may follow"
        assert events(blocks(http.get(f"/v1/streams/{name}").text))[-1]["type"] == "response.completed"

    def test_an_idempotency_key_attaches(self, socket, simulator, unique):
        before = simulator.requests()
        streams = []
        for _ in range(2):
            socket.send({"type": "response.create", "input": ASK, "idempotency_key": unique})
            seen = socket.until(*TERMINAL)
            streams.append([event for event in seen if not event["type"].startswith("tokenwire:")])
        assert streams[0] == streams[1]
        assert simulator.requests() == before + 1

    @pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}])
    def test_foreign_origin_is_refused_before_the_upgrade(self, url, headers):
        with pytest.raises(websockets.exceptions.InvalidStatus) as raised:
            Socket(url, additional_headers=headers)
        assert raised.value.response.status_code == 403
