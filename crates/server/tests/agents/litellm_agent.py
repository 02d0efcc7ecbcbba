"""LiteLLM's bridge from Anthropic's Messages API, with the gateway as its OpenAI-compatible backend."""

import json

import litellm

import agent

TOOL = {
    "name": "get_weather",
    "description": "Returns the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


async def turns(case: dict, *, over_chat: bool) -> list[str]:
    litellm.use_chat_completions_url_for_anthropic_messages = over_chat
    texts, messages = [], []
    for question in case["questions"]:
        messages.append({"role": "user", "content": question})
        while True:
            content = await answer(case, messages)
            messages.append({"role": "assistant", "content": content})
            calls = [block for block in content if block["type"] == "tool_use"]
            if not calls:
                break
            results = [
                {"type": "tool_result", "tool_use_id": call["id"], "content": agent.get_weather(**call["input"])} for call in calls
            ]
            messages.append({"role": "user", "content": results})
        texts.append("".join(block["text"] for block in content if block["type"] == "text"))
    return texts


async def answer(case: dict, messages: list) -> list[dict]:
    response = await litellm.anthropic.messages.acreate(
        model=f"openai/{case['model']}",
        api_base=case["url"],
        api_key=agent.API_KEY,
        max_tokens=5000,
        system="Be brief.",
        messages=messages,
        tools=[TOOL],
        thinking={"type": "enabled", "budget_tokens": 1024},
        stream=case["stream"],
    )
    if not case["stream"]:
        return response["content"]
    blocks: list[dict] = []
    async for event in events(response):
        if event["type"] == "content_block_start":
            blocks.append({**event["content_block"], "partial": ""})
        elif event["type"] == "content_block_delta":
            add(blocks[event["index"]], event["delta"])
    for block in blocks:
        partial = block.pop("partial")
        if block["type"] == "tool_use":
            block["input"] = json.loads(partial or "{}")
    return blocks


def add(block: dict, delta: dict) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] = block.get("text", "") + delta["text"]
        case "thinking_delta":
            block["thinking"] = block.get("thinking", "") + delta["thinking"]
        case "signature_delta":
            block["signature"] = block.get("signature", "") + delta["signature"]
        case "input_json_delta":
            block["partial"] += delta["partial_json"]


async def events(stream):
    """The bridge yields server-sent events as bytes."""
    pending = b""
    async for piece in stream:
        if isinstance(piece, dict):
            yield piece
            continue
        pending += piece
        while b"\n\n" in pending:
            event, pending = pending.split(b"\n\n", 1)
            for line in event.splitlines():
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])


agent.run({"chat": lambda case: turns(case, over_chat=True), "responses": lambda case: turns(case, over_chat=False)})
