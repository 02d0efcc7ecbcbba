"""LangChain over both APIs."""

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

import agent


def turns(case: dict, **options) -> list[str]:
    model = ChatOpenAI(model=case["model"], base_url=case["url"], api_key=agent.API_KEY, streaming=case["stream"], **options)
    assistant = create_agent(model, tools=[tool(agent.get_weather)], system_prompt="Be brief.")
    texts, messages = [], []
    for question in case["questions"]:
        messages = assistant.invoke({"messages": [*messages, {"role": "user", "content": question}]})["messages"]
        texts.append(messages[-1].text)
    return texts


agent.run(
    {
        "chat": lambda case: turns(case, use_responses_api=False),
        "responses": lambda case: turns(case, use_responses_api=True),
        "previous response": lambda case: turns(case, use_responses_api=True, use_previous_response_id=True),
        "not stored": lambda case: turns(case, use_responses_api=True, store=False, include=["reasoning.encrypted_content"]),
    }
)
