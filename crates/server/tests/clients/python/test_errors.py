"""Errors are the SDK's own exceptions. Invalid requests never reach the upstream, and failed ones are not retried twice."""

import httpx
import openai
import pytest

ASK = [{"role": "user", "content": "hi"}]


def check_shape(answer: httpx.Response) -> dict:
    assert answer.headers["content-type"].startswith("application/json"), answer.headers
    error = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error), error
    assert error["message"], error
    assert answer.headers.get("x-request-id"), answer.headers
    return error


class TestBadRequests:
    """Each is answered without an upstream request."""

    @pytest.fixture(autouse=True)
    def upstream_is_left_alone(self, simulator):
        before = simulator.requests()
        yield
        assert simulator.requests() == before

    @pytest.mark.parametrize(
        ("path", "body", "param"),
        [
            ("/v1/responses", {"model": "simulator"}, "input"),
            ("/v1/chat/completions", {"model": "simulator"}, "messages"),
            ("/v1/responses", {"input": "hi", "conversation": "conv_1"}, "conversation"),
            ("/v1/responses", {"input": "hi", "tools": [{"type": "web_search"}]}, "tools"),
            ("/v1/responses", {"input": 5}, "input"),
            ("/v1/responses", {"input": "hi", "stream": "yes"}, "stream"),
        ],
    )
    def test_invalid_parameter_is_named(self, http, path, body, param):
        answer = http.post(path, json=body)
        assert answer.status_code == 400, answer.text
        error = check_shape(answer)
        assert (error["param"] or "").split("[")[0].split(".")[0] == param, error
        assert param in error["message"], error

    def test_unsupported_parameter_is_rejected(self, client):
        with pytest.raises(openai.BadRequestError) as raised:
            client.responses.create(model="simulator", input="hi", conversation="conv_1")
        assert raised.value.code == "unsupported_parameter" and raised.value.param == "conversation"

    def test_sdk_raises_bad_request(self, client):
        with pytest.raises(openai.BadRequestError) as raised:
            client.responses.create(model="simulator")
        assert raised.value.param == "input" and raised.value.type == "invalid_request_error" and raised.value.request_id

    def test_bad_json_is_reported_with_its_position(self, http):
        answer = http.post("/v1/responses", content=b'{"input": "hi",,}', headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert "column 16" in check_shape(answer)["message"], answer.text

    def test_invalid_utf8_is_rejected(self, http):
        answer = http.post("/v1/responses", content=b'{"input": "\xff\xfe"}', headers={"content-type": "application/json"})
        assert answer.status_code == 400
        check_shape(answer)

    @pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
    def test_another_content_type_is_415(self, http, path):
        answer = http.post(path, content=b"<input/>", headers={"content-type": "application/xml"})
        assert answer.status_code == 415
        check_shape(answer)

    @pytest.mark.parametrize("path", ["/v1/no-such-path", "/nothing", "/v1/embeddings", "/v1/responses/resp_1/nothing"])
    def test_an_unknown_path_is_404(self, http, path):
        answer = http.post(path, json={})
        assert answer.status_code == 404
        check_shape(answer)

    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/v1/chat/completions"), ("PUT", "/v1/responses"), ("POST", "/v1/models"), ("DELETE", "/v1/streams")]
    )
    def test_a_wrong_method_is_405(self, http, method, path):
        answer = http.request(method, path)
        assert answer.status_code == 405, answer.text
        assert answer.headers["allow"]
        check_shape(answer)

    @pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/streams"])
    @pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}])
    def test_foreign_origin_is_rejected(self, http, path, headers):
        answer = http.post(path, json={"input": "hi", "messages": ASK}, headers=headers)
        assert answer.status_code == 403
        check_shape(answer)

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/v1/responses/resp_doesnotexist"),
            ("GET", "/v1/responses/resp_doesnotexist?stream=true"),
            ("GET", "/v1/responses/resp_doesnotexist/input_items"),
            ("POST", "/v1/responses/resp_doesnotexist/cancel"),
            ("DELETE", "/v1/responses/resp_doesnotexist"),
            ("GET", "/v1/streams/resp_doesnotexist"),
        ],
    )
    def test_unknown_id_is_404(self, http, method, path):
        answer = http.request(method, path)
        assert answer.status_code == 404, answer.text
        check_shape(answer)

    def test_the_sdk_raises_not_found(self, client):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve("resp_doesnotexist")

    def test_a_body_over_the_limit_is_413(self, url):
        # 64 MiB is above any sensible limit. The answer may come before all of it is sent.
        body = b'{"input": "' + b"x" * (64 * 1024 * 1024) + b'"}'
        try:
            answer = httpx.post(f"{url}/v1/responses", content=body, headers={"content-type": "application/json"}, timeout=60)
        except httpx.WriteError:
            pytest.fail("the gateway hung up without an answer")
        assert answer.status_code == 413
        check_shape(answer)


class TestTheUpstreamsErrors:
    @pytest.mark.parametrize("route", ["chat", "responses"])
    @pytest.mark.parametrize("stream", [True, False])
    def test_an_unknown_model_is_the_upstreams_404(self, client, route, stream):
        with pytest.raises(openai.NotFoundError) as raised:
            self.ask(client, route, "hi", stream, model="unknown-model")
        assert "unknown-model" in raised.value.message

    @pytest.mark.parametrize("route", ["chat", "responses"])
    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize(("code", "exception"), [(429, openai.RateLimitError), (503, openai.InternalServerError)])
    def test_sdk_does_not_retry_after_the_gateways_retries(self, client, simulator, route, stream, code, exception):
        before = simulator.requests()
        with pytest.raises(exception) as raised:
            self.ask(client, route, f"[[fault=status code={code}]]", stream)
        assert raised.value.status_code == code
        assert raised.value.response.headers["retry-after"]
        # The gateway retries. If the SDK retried too, there would be three times as many requests.
        assert raised.value.response.headers["x-should-retry"] == "false"
        asked = simulator.requests() - before
        assert asked == self.rounds(simulator, code), f"the upstream got {asked} requests"

    @staticmethod
    def rounds(simulator, code) -> int:
        """Returns the number of upstream requests for one request of a client without retries."""
        import conftest

        before = simulator.requests()
        body = {"model": "simulator", "messages": [{"role": "user", "content": f"[[fault=status code={code}]]"}]}
        httpx.post(f"{conftest.address('TOKENWIRE_URL')}/v1/chat/completions", json=body, timeout=30)
        return simulator.requests() - before

    @pytest.mark.parametrize("code", [400, 404, 409, 422, 500, 502])
    def test_a_status_passes_through(self, http, code):
        body = {"model": "simulator", "messages": [{"role": "user", "content": f"[[fault=status code={code}]]"}]}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == code
        check_shape(answer)

    @pytest.mark.parametrize("code", [401, 403])
    def test_a_refused_key_of_the_gateway_is_not_the_clients_fault(self, http, code):
        body = {"model": "simulator", "messages": [{"role": "user", "content": f"[[fault=status code={code}]]"}]}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 502
        assert check_shape(answer)["code"] == "upstream_auth"

    def test_an_error_under_200_is_an_error(self, http):
        body = {"model": "simulator", "messages": [{"role": "user", "content": "[[fault=json_error]]"}], "stream": True}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code >= 400 or '"error"' in answer.text, answer.text
        assert "[DONE]" not in answer.text

    @staticmethod
    def ask(client, route, text, stream, model="simulator"):
        if route == "chat":
            answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], stream=stream)
        else:
            answer = client.responses.create(model=model, input=text, stream=stream)
        return list(answer) if stream else answer
