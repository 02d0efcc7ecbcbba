"""Limits of keys are the SDK's own exceptions, with OpenAI's headers."""

import openai
import pytest

FIRST = "sk-tw-limited-first-first"
SECOND = "sk-tw-limited-second-second"
POOR = "sk-tw-limited-poor-poor"


def client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def test_rate_limit_is_raised_with_its_headers(limited_url):
    with client(limited_url, FIRST) as first:
        for remaining in ["1", "0"]:
            answer = first.responses.with_raw_response.create(model="simulator", input="[[tokens=1]]", max_output_tokens=1)
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            assert answer.headers["x-ratelimit-remaining-requests"] == remaining
        with pytest.raises(openai.RateLimitError) as raised:
            first.responses.create(model="simulator", input="[[tokens=1]]")
    error = raised.value
    assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    headers = error.response.headers
    assert 1 <= int(headers["retry-after"]) <= 30
    assert headers["x-should-retry"] == "true"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert int(headers["x-ratelimit-remaining-tokens"]) <= int(headers["x-ratelimit-limit-tokens"]) == 100000


def test_stream_is_counted_and_shows_no_usage_that_was_not_asked_for(limited_url):
    with client(limited_url, SECOND) as second:
        ask = [{"role": "user", "content": "[[tokens=3]]"}]
        chunks = list(second.chat.completions.create(model="simulator", messages=ask, stream=True, max_tokens=3))
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
        with pytest.raises(openai.BadRequestError) as raised:
            second.chat.completions.create(model="simulator", messages=ask, max_tokens=200000)
        assert raised.value.code == "request_too_large_for_limit"
        usage = second.get("/usage", cast_to=object)
    (row,) = usage["data"]
    assert (row["owner"], row["requests"], row["output_tokens"], row["estimated_requests"]) == ("second", 1, 3, 0)


def test_spent_budget_is_not_retried(limited_url, simulator):
    before = simulator.requests()
    with openai.OpenAI(base_url=f"{limited_url}/v1", api_key=POOR) as poor, pytest.raises(openai.APIStatusError) as raised:
        poor.responses.create(model="simulator", input="hi", max_output_tokens=1)
    assert raised.value.status_code == 400, "one token costs a thousand times the budget"
    assert raised.value.code == "request_too_large_for_limit"
    assert simulator.requests() == before
