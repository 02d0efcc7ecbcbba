"""`/metrics` parsed with Prometheus' own parsers: the strict OpenMetrics one and the older one."""

import re

import pytest
from openresponses import check_stream
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from sse import blocks, events

from conftest import eventually

OPEN_METRICS = "application/openmetrics-text"
FORMATS = {"text/plain": parse_text, OPEN_METRICS: parse_open_metrics}

# Every label with its possible values. Any other value came from a client or an upstream.
LABELS = {
    "api": "chat|responses",
    "clock": "connect|first_token|between_tokens|total",
    "kind": "bodies|messages|queued|inputs|requests|logs|objects|frames|reserved|input|cached|output",
    "le": r"[0-9.]+|\+Inf",
    "limit": "requests|tokens|streams|budget|size|price",
    "model": "simulator|other",
    "result": "hit|miss|coalesced|bypass|applied|refused|read|nothing_left|reset|lost|sent|dropped|rejected|failed"
    "|completed|disconnected|plain_http|timeout",
    "status": "completed|incomplete|failed|cancelled",
    "transport": "sse|text|websocket",
    "upstream": r"[A-Za-z0-9_.-]+",
    "version": r"[0-9.]+",
}


def scrape(http, accept):
    response = http.get("/metrics", headers={"accept": accept}).raise_for_status()
    assert response.headers["content-type"].startswith(accept)
    return {family.name: family for family in FORMATS[accept](response.text)}


def total(families, name, **labels):
    samples = [sample for family in families.values() for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@pytest.mark.parametrize("accept", FORMATS)
def test_prometheus_parses_the_exposition(http, url, accept):
    before = scrape(http, accept)
    body = http.post("/v1/streams", json={"input": "hello [[tokens=5]]"}).text
    assert check_stream(events(blocks(body)))["status"] == "completed"
    http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "[[fault=status code=500]]"}]})

    def is_counted(after):
        def grown(name, **labels):
            return total(after, name, **labels) - total(before, name, **labels)

        ended = "tokenwire_generations_ended_total"
        return (
            grown(ended, api="responses", status="completed") == 1
            and grown(ended, api="chat", status="failed", code="other") == 1
            and grown("tokenwire_tokens_total") == 5
            and grown("tokenwire_first_token_seconds_count") == 1
        )

    eventually(lambda: scrape(http, accept), is_counted, "the two that were asked for")


@pytest.mark.parametrize("accept", FORMATS)
def test_names_types_and_labels_are_valid(http, accept):
    codes = [error["code"] for error in http.get("/openapi.json").json()["x-error-codes"]]
    said = LABELS | {"code": "|".join(["", "other", *codes])}
    families = scrape(http, accept)
    assert len(families) > 15
    for name, family in families.items():
        assert re.fullmatch(r"(tokenwire|process)_[a-z0-9_]+", name)
        assert family.type in ("counter", "gauge", "histogram"), f"{name} is {family.type}"
        assert family.documentation.endswith("."), f"{name} has no description"
        suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}[family.type]
        for sample in family.samples:
            assert sample.name in [name + suffix for suffix in suffixes], f"{sample.name} stands under {name}"
            for label, value in sample.labels.items():
                assert re.fullmatch(said[label], value), f"{sample.name} has {label}={value!r}"


def test_both_formats_have_the_same_metrics(http):
    assert set(scrape(http, "text/plain")) == set(scrape(http, OPEN_METRICS))
