"""Unmodified openai-python with Tokenwire: only the base URL differs."""

import os
import sys

from openai import OpenAI

MODEL = os.environ.get("MODEL", "simulator")
client = OpenAI(base_url=os.environ.get("GATEWAY_URL", "http://localhost:3000") + "/v1", api_key="unused")


def chat(question: str) -> None:
    for chunk in client.chat.completions.create(model=MODEL, stream=True, messages=[{"role": "user", "content": question}]):
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)


def responses(question: str) -> None:
    with client.responses.stream(model=MODEL, input=question) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
        stream.get_final_response()


def websocket(question: str) -> None:
    """OpenAI's WebSocket mode: one connection for many answers."""
    with client.responses.connect() as connection:
        connection.response.create(model=MODEL, input=question)
        for event in connection:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
            elif event.type in ("response.completed", "response.incomplete", "response.failed"):
                break
            elif event.type == "error":
                raise SystemExit(event.error.message)


def background(question: str) -> None:
    """Starts a background answer, drops the connection after the first token, and resumes after its number."""
    job = client.responses.create(model=MODEL, input=question, background=True)
    last = None
    for event in client.responses.retrieve(job.id, stream=True):
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
            last = event.sequence_number
            break  # drops the connection
    for event in client.responses.retrieve(job.id, stream=True, starting_after=last):
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)


WAYS = {"chat": chat, "responses": responses, "websocket": websocket, "background": background}

if __name__ == "__main__":
    question = sys.argv[1] if len(sys.argv) > 1 else "Tell me something"
    for name in sys.argv[2:] or WAYS:
        print(f"== {name}")
        WAYS[name](question)
        print()
