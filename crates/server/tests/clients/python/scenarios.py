"""Requests that together produce every type of event, with the expected results."""

from dataclasses import dataclass, field

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "name": "get_weather", "description": "The weather of the coming days", "parameters": WEATHER, "strict": True}
CHAT_TOOL = {"type": "function", "function": {key: TOOL[key] for key in ("name", "description", "parameters", "strict")}}
# One red pixel.
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True)
class Scenario:
    name: str
    body: dict
    status: str = "completed"
    # Types of the output items, in order.
    items: tuple[str, ...] = ("message",)
    # Event types that must occur.
    kinds: tuple[str, ...] = ("response.output_text.delta", "response.output_text.done", "response.content_part.done")
    absent: tuple[str, ...] = field(default=())


SCENARIOS = [
    Scenario("text", {"input": "hello [[tokens=8]]"}),
    Scenario("one token", {"input": "hello [[tokens=1]]"}),
    Scenario(
        "messages and instructions",
        {
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "Hello. What may I do?"},
                {"role": "user", "content": [{"type": "input_text", "text": "count [[tokens=4]]"}]},
            ],
        },
    ),
    Scenario(
        "reasoning",
        {"input": "think [[reasoning=4 tokens=4]]", "reasoning": {"effort": "low"}},
        items=("reasoning", "message"),
        kinds=("response.reasoning_text.delta", "response.reasoning_text.done", "response.output_text.delta"),
    ),
    Scenario(
        "a function call",
        {"input": "weather? [[calls=1]]", "tools": [TOOL]},
        items=("function_call",),
        kinds=("response.function_call_arguments.delta", "response.function_call_arguments.done"),
    ),
    Scenario(
        "parallel function calls",
        {"input": "weather? [[calls=3]]", "tools": [TOOL], "parallel_tool_calls": True},
        items=("function_call", "function_call", "function_call"),
        kinds=("response.function_call_arguments.delta", "response.function_call_arguments.done"),
    ),
    Scenario(
        "a function's result",
        {
            "input": [
                {"role": "user", "content": "weather? [[tokens=4]]"},
                {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"city":"Oslo","days":1}'},
                {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
            ],
            "tools": [TOOL],
        },
    ),
    Scenario(
        "a refusal",
        {"input": "do something bad [[refusal]]"},
        kinds=("response.refusal.delta", "response.refusal.done", "response.content_part.done"),
        absent=("response.output_text.delta",),
    ),
    Scenario("cut off at the limit", {"input": "hello [[tokens=50]]", "max_output_tokens": 5}, status="incomplete"),
    Scenario("filtered", {"input": "hello [[tokens=5 finish=content_filter]]"}, status="incomplete"),
    Scenario("cut by the upstream", {"input": "hello [[tokens=20 fault=cut after=5]]"}, status="failed"),
    Scenario("an end without a finish", {"input": "hello [[tokens=20 fault=end after=5]]"}, status="failed"),
    Scenario("an error object in the stream", {"input": "hello [[tokens=20 fault=error after=5]]"}, status="failed"),
    Scenario(
        "structured output",
        {
            "input": "weather?",
            "text": {"format": {"type": "json_schema", "name": "weather", "schema": WEATHER, "strict": True}},
        },
    ),
    Scenario("a JSON object", {"input": "weather, as JSON [[tokens=4]]", "text": {"format": {"type": "json_object"}}}),
    Scenario("logprobs", {"input": "hello [[tokens=4]]", "top_logprobs": 2, "include": ["message.output_text.logprobs"]}),
    Scenario(
        "an image",
        {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "what is this? [[tokens=4]]"},
                        {"type": "input_image", "image_url": PIXEL, "detail": "low"},
                    ],
                }
            ]
        },
    ),
    Scenario(
        "every parameter",
        {
            "input": "hello [[tokens=4]]",
            "metadata": {"test": "yes"},
            "temperature": 0.5,
            "top_p": 0.9,
            "max_output_tokens": 100,
            "parallel_tool_calls": False,
            "tool_choice": "auto",
            "tools": [TOOL],
            "truncation": "disabled",
            "safety_identifier": "user-1",
            "prompt_cache_key": "here",
            "service_tier": "auto",
            "store": False,
        },
        items=(),
        kinds=(),
    ),
]


def names(scenario: Scenario) -> str:
    return scenario.name
