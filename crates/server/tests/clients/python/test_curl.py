"""The curl commands of the README."""

import json
import subprocess

from openresponses import check_stream
from sse import blocks, events


def curl(*arguments: str) -> str:
    done = subprocess.run(["curl", "-sN", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"curl ended with {done.returncode}: {done.stderr}{done.stdout}"
    return done.stdout


def test_events_without_a_single_header(url):
    body = curl(f"{url}/v1/streams", "-d", '{"input":"hello [[tokens=5]]"}')
    assert body.startswith("retry: 2000\n")
    assert check_stream(events(blocks(body)))["status"] == "completed"


def test_plain_text_answer(url):
    answer = curl(f"{url}/v1/streams", "-H", "Accept: text/plain", "-d", '{"input":"[[tokens=4 text=count]]"}')
    assert answer.rstrip("\n") == " t0 t1 t2 t3"


def test_get_without_a_header(url):
    assert check_stream(events(blocks(curl(f"{url}/v1/streams?input=hello"))))["status"] == "completed"


def test_unsteered_answers_have_markdown(url):
    def answer(question: str) -> str:
        return curl(f"{url}/v1/streams", "-H", "Accept: text/plain", "-d", json.dumps({"input": question}))

    hello = answer("hello")
    assert "| --- |" in hello and "\n1. " in hello, hello
    assert "\n```" in answer("show me some code")


def test_chat_completions(url):
    body = '{"messages":[{"role":"user","content":"hi [[tokens=3]]"}],"stream":true}'
    found = blocks(curl(f"{url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body))
    assert found[-1].data == "[DONE]"


def test_resuming_after_an_id(url):
    found = blocks(curl(f"{url}/v1/streams?input=hello%20%5B%5Btokens=5%5D%5D"))
    name = found[0].id.rpartition(".")[0]
    again = blocks(curl(f"{url}/v1/streams/{name}", "-H", f"Last-Event-ID: {name}.3"))
    assert [block.id for block in again] == [block.id for block in found[4:]]


def test_an_error_is_json(url):
    error = json.loads(curl(f"{url}/v1/responses", "-H", "Content-Type: application/json", "-d", "{}"))["error"]
    assert error["param"] == "input"
