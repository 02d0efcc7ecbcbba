"""Validation against the Open Responses models of PyPI's `openresponses-types`."""

import enum
import inspect

import openresponses_types.types as models
from pydantic import BaseModel

TERMINAL = ("response.completed", "response.incomplete", "response.failed")
LIFECYCLE = ("response.created", "response.queued", "response.in_progress", *TERMINAL)


def _by_type() -> dict[str, type[BaseModel]]:
    found = {}
    for name, model in inspect.getmembers(models, inspect.isclass):
        if name.endswith("StreamingEvent") and issubclass(model, BaseModel):
            kind = model.model_fields["type"].annotation
            assert inspect.isclass(kind) and issubclass(kind, enum.StrEnum), f"{name} has no type of its own"
            (value,) = list(kind)
            found[value.value] = model
    assert len(found) > 20, f"the package has changed; only these events were found: {sorted(found)}"
    return found


EVENTS = _by_type()


def renamed(kind: str) -> str:
    """Maps OpenAI's `response.reasoning_text.delta` to Open Responses' `response.reasoning.delta`."""
    return kind.replace("response.reasoning_text.", "response.reasoning.")


def check_event(event: dict) -> None:
    kind = renamed(event["type"])
    assert kind in EVENTS, f"Open Responses knows no event {kind!r}"
    EVENTS[kind].model_validate({**event, "type": kind})
    if event["type"] in LIFECYCLE:
        check_response(event["response"])


def check_response(response: dict) -> None:
    models.ResponseResource.model_validate(response)
    missing = set(models.ResponseResource.model_fields) - set(response)
    assert not missing, f"the response object lacks {sorted(missing)}"


def check_error_frame(frame: dict) -> None:
    models.WebSocketErrorEvent.model_validate(frame)


def check_stream(events: list[dict], gapless: bool = True) -> dict:
    """Checks a whole stream: valid events, numbered from 0, one terminal event at the end. Returns the final response object.

    `gapless` is false where extension events are left out, so that numbers skip.
    """
    assert events, "the stream is empty"
    own = [event for event in events if event["type"].startswith("tokenwire:")]
    numbers = [event["sequence_number"] for event in events]
    if gapless:
        assert numbers == list(range(len(events))), f"numbers must run from 0 without gaps: {numbers}"
    else:
        assert numbers[0] == 0 and numbers == sorted(set(numbers)), f"numbers must rise from 0: {numbers}"
    for event in own:
        assert "error" not in event, f"a top-level error makes SDKs raise: {event}"
    standard = [event for event in events if event not in own]
    for event in standard:
        check_event(event)

    kinds = [event["type"] for event in standard]
    assert kinds[0] == "response.created", kinds
    assert [kind for kind in kinds if kind in TERMINAL] == [kinds[-1]], f"expected one terminal event, at the end: {kinds}"
    assert kinds.count("response.created") == 1 and kinds.count("response.in_progress") <= 1, kinds
    ids = {event["response"]["id"] for event in standard if event["type"] in LIFECYCLE}
    assert len(ids) == 1, f"the response changed its id: {ids}"
    response = standard[-1]["response"]
    check_fold(standard, response)
    return response


def check_fold(events: list[dict], response: dict) -> None:
    """Checks that the deltas, the `done` events and the final object agree."""
    items: dict[int, dict] = {}
    texts: dict[tuple, str] = {}
    for event in events:
        kind = event["type"]
        where = (event.get("output_index"), event.get("content_index"), kind.rpartition(".")[0])
        if kind == "response.output_item.added":
            assert event["output_index"] == len(items), f"items open in the order of their index: {event}"
            items[event["output_index"]] = event["item"]
        elif kind.endswith(".delta"):
            assert event["output_index"] in items, f"a delta before its item: {event}"
            assert event["item_id"] == items[event["output_index"]]["id"], event
            texts[where] = texts.get(where, "") + event["delta"]
        elif kind.endswith(".done") and kind not in ("response.output_item.done", "response.content_part.done"):
            said = event.get("text", event.get("refusal", event.get("arguments")))
            assert said == texts.get(where, ""), f"the deltas add up to {texts.get(where)!r}, but {event}"
        elif kind == "response.output_item.done":
            index = event["output_index"]
            assert event["item"]["id"] == items[index]["id"] and event["item"]["type"] == items[index]["type"], event
            assert event["item"].get("call_id") == items[index].get("call_id"), event
            assert event["item"] == response["output"][index], "an item differs from the one in the final object"
    assert len(response["output"]) == len(items), "the final object has other items than were opened"


def outputs(response: dict, kind: str) -> list[dict]:
    return [item for item in response["output"] if item["type"] == kind]


def text(response: dict) -> str:
    parts = [part for item in outputs(response, "message") for part in item["content"]]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")
