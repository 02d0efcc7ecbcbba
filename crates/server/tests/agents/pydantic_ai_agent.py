"""pydantic-ai over both APIs."""

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

import agent


async def turns(case: dict, model_class: type, settings: dict | None = None) -> list[str]:
    provider = OpenAIProvider(base_url=case["url"], api_key=agent.API_KEY)
    assistant = Agent(
        model_class(case["model"], provider=provider), instructions="Be brief.", tools=[agent.get_weather], model_settings=settings
    )
    texts, history = [], None
    for question in case["questions"]:
        if case["stream"]:
            async with assistant.run_stream(question, message_history=history) as result:
                texts.append(await result.get_output())
        else:
            result = await assistant.run(question, message_history=history)
            texts.append(result.output)
        history = result.all_messages()
    return texts


agent.run(
    {
        "chat": lambda case: turns(case, OpenAIChatModel),
        "responses": lambda case: turns(case, OpenAIResponsesModel),
        "previous response": lambda case: turns(
            case, OpenAIResponsesModel, OpenAIResponsesModelSettings(openai_previous_response_id="auto")
        ),
        "not stored": lambda case: turns(case, OpenAIResponsesModel, OpenAIResponsesModelSettings(openai_store=False)),
    }
)
