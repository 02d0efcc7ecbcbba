"""The OpenAI Agents SDK for Python over both APIs, and over a WebSocket."""

from agents import Agent, OpenAIProvider, RunConfig, Runner, function_tool, set_tracing_disabled

import agent

# Traces would go to OpenAI.
set_tracing_disabled(True)


async def turns(case: dict, *, by_id: bool = False, **options: bool) -> list[str]:
    provider = OpenAIProvider(base_url=case["url"], api_key=agent.API_KEY, **options)
    assistant = Agent(
        name="assistant", instructions="Be brief.", model=case["model"], tools=[function_tool(agent.get_weather)]
    )
    config = RunConfig(model_provider=provider)
    texts, history, previous = [], [], None
    for question in case["questions"]:
        said = history + [{"role": "user", "content": question}]
        if case["stream"]:
            result = Runner.run_streamed(assistant, said, run_config=config, previous_response_id=previous)
            async for _ in result.stream_events():
                pass
        else:
            result = await Runner.run(assistant, said, run_config=config, previous_response_id=previous)
        texts.append(result.final_output)
        if by_id:
            previous = result.last_response_id
        else:
            history = result.to_input_list()
    await provider.aclose()
    return texts


agent.run(
    {
        "chat": lambda case: turns(case, use_responses=False),
        "responses": lambda case: turns(case, use_responses=True),
        "previous response": lambda case: turns(case, use_responses=True, by_id=True),
        "websocket": lambda case: turns(case, use_responses=True, use_responses_websocket=True),
    }
)
