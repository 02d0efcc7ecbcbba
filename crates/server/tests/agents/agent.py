"""The frame of an agent's program in Python: reads the cases, runs each, prints one line of JSON per case."""

import asyncio
import inspect
import json
import sys
import traceback

# The gateway takes any key.
API_KEY = "sk-of-a-test"


def get_weather(city: str) -> str:
    """Returns the weather of a city."""
    return f"rain in {city}"


def run(ways: dict) -> None:
    """Runs each case of the standard input with the function that `ways` has under its name.

    A function takes the case (`url`, `model`, `stream`, `questions`) and returns the text of each turn.
    """
    asyncio.run(_run(ways, json.load(sys.stdin)))


async def _run(ways: dict, cases: list) -> None:
    for case in cases:
        try:
            texts = ways[case["way"]](case)
            result = {"texts": await texts if inspect.isawaitable(texts) else texts}
        except Exception:
            result = {"error": traceback.format_exc()}
        print(json.dumps(result), flush=True)
