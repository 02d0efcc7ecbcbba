"""What openai-python gets over one node of what another one has made: nodes.py <base URL> <base URL>."""

import sys

import openai

FIRST, SECOND = (openai.OpenAI(base_url=url, api_key="none", max_retries=0) for url in sys.argv[1:3])
TEXT = "".join(f" t{at}" for at in range(60)).strip()


def deltas(events):
    return "".join(event.delta for event in events if event.type == "response.output_text.delta").strip()


def main():
    # A stream is read on from the middle, while it runs.
    stream = FIRST.responses.create(model="simulator", stream=True, input="[[tokens=60 tbt=50ms text=count]]")
    head = [next(stream) for _ in range(12)]
    id, after = head[0].response.id, head[-1].sequence_number
    assert SECOND.responses.retrieve(id).status == "in_progress"
    rest = list(SECOND.responses.retrieve(id, stream=True, starting_after=after))
    numbers = [event.sequence_number for event in head + rest]
    assert numbers == sorted(set(numbers)), numbers
    assert deltas(head + rest) == TEXT, deltas(head + rest)
    assert rest[-1].type == "response.completed", rest[-1]
    assert deltas(head + list(stream)) == TEXT
    # The object, its input and the conversation.
    whole = SECOND.responses.retrieve(id)
    assert (whole.status, whole.output_text.strip()) == ("completed", TEXT), whole
    assert whole == FIRST.responses.retrieve(id)
    assert len(SECOND.responses.input_items.list(id).data) == 1
    turn = SECOND.responses.create(model="simulator", input="and now? [[tokens=2]]", previous_response_id=id)
    assert FIRST.responses.retrieve(turn.id).previous_response_id == id
    # A background response is polled and cancelled.
    job = FIRST.responses.create(model="simulator", background=True, input="[[tokens=2000 tbt=50ms]]")
    assert SECOND.responses.retrieve(job.id).status in ("queued", "in_progress")
    assert SECOND.responses.cancel(job.id).status == "cancelled"
    assert FIRST.responses.retrieve(job.id).status == "cancelled"
    # What is deleted at one node is gone at both.
    SECOND.responses.delete(id)
    for client in (FIRST, SECOND):
        try:
            client.responses.retrieve(id)
        except openai.NotFoundError:
            continue
        raise AssertionError("a deleted response was found")


main()
