"""Unmodified LangChain with Tokenwire: text over both of OpenAI's APIs, and a tool call."""

import os
import sys

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

URL = os.environ.get("GATEWAY_URL", "http://localhost:3000") + "/v1"
MODEL = os.environ.get("MODEL", "simulator")


def model(use_responses_api: bool) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=URL, api_key="unused", use_responses_api=use_responses_api)


@tool
def weather(city: str) -> str:
    """Returns the weather of a city."""
    return f"sunny in {city}"


def chat(question: str) -> None:
    for chunk in model(use_responses_api=False).stream(question):
        print(chunk.text, end="", flush=True)


def responses(question: str) -> None:
    for chunk in model(use_responses_api=True).stream(question):
        print(chunk.text, end="", flush=True)


def tools(_question: str) -> None:
    answer = model(use_responses_api=False).bind_tools([weather], tool_choice="any").invoke("What is the weather in Lisbon?")
    for call in answer.tool_calls:
        print(call["name"], call["args"], "→", weather.invoke(call["args"]))


WAYS = {"chat": chat, "responses": responses, "tools": tools}

if __name__ == "__main__":
    question = sys.argv[1] if len(sys.argv) > 1 else "Tell me something"
    for name in sys.argv[2:] or WAYS:
        print(f"== {name}")
        WAYS[name](question)
        print()
