"""Every call whose keyword arguments change between library versions, in one place.

`tests` hold each keyword used here against the installed library. Libraries are imported where they are used.
"""

from collections.abc import Sequence
from typing import Any


def create_agent(model: Any, tools: Sequence[Any], system_prompt: str, max_model_calls: int) -> Any:
    """LangChain's agent loop (`create_react_agent` is deprecated), ended after `max_model_calls`."""
    from langchain.agents import create_agent
    from langchain.agents.middleware import ModelCallLimitMiddleware

    limit = ModelCallLimitMiddleware(run_limit=max_model_calls, exit_behavior="end")
    return create_agent(model=model, tools=list(tools), system_prompt=system_prompt, middleware=[limit])
