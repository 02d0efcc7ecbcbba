"""Streams of openai-python during a restart: sdk.py <base URL> <streams of each kind>.

Prints a line once the first token of a stream has come. Fails unless every stream is complete.
"""

import asyncio
import sys

from openai import AsyncOpenAI

STEERING = "[[tokens=20 tbt=100ms text=count]]"
TEXT = " ".join(f"t{at}" for at in range(20))


async def chat(client):
    stream = await client.chat.completions.create(
        model="simulator", stream=True, messages=[{"role": "user", "content": STEERING}]
    )
    text, finishes = "", []
    async for chunk in stream:
        for choice in chunk.choices:
            if choice.delta.content and not text:
                print("begun", flush=True)
            text += choice.delta.content or ""
            finishes += [choice.finish_reason] if choice.finish_reason else []
    assert (text.strip(), finishes) == (TEXT, ["stop"]), (text, finishes)


async def responses(client):
    stream = await client.responses.create(model="simulator", stream=True, input=STEERING)
    text, ends = "", []
    async for event in stream:
        if event.type == "response.output_text.delta":
            if not text:
                print("begun", flush=True)
            text += event.delta
        if event.type in ("response.completed", "response.incomplete", "response.failed"):
            ends.append(event.type)
    assert (text.strip(), ends) == (TEXT, ["response.completed"]), (text, ends)


async def main(base_url, count):
    # No retries: each would hide an error, and ask the upstream twice.
    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        streams = [kind(client) for _ in range(count) for kind in (chat, responses)]
        await asyncio.gather(*streams)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
