"""Tools for a model whose chat template knows none: told in the system message, in plain text.

Without this such a template leaves the schemas out of the prompt, and nobody is told: the model cannot know that it
has tools. The words are those that Hermes and Qwen were trained on, and that many models have met since.
"""

import json
from collections.abc import Sequence

HEADING = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nThese are the functions:"
FORM = (
    "For each function call, write a JSON object with the function's name and its arguments, like this:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def knows_tools(template: str) -> bool:
    """Whether a chat template puts tools into the prompt: then it names the variable that holds them."""
    return "tools" in template


def told(messages: Sequence[dict], tools: Sequence[dict]) -> list[dict]:
    """The conversation in messages of the roles system, user and assistant alone, with `tools` in the first."""
    schemas = "\n".join(json.dumps(tool) for tool in tools)
    about = f"{HEADING}\n<tools>\n{schemas}\n</tools>\n\n{FORM}"
    first, rest = {"role": "system", "content": about}, list(messages)
    if rest and rest[0]["role"] == "system":
        first["content"] = f"{rest[0]['content']}\n\n{about}"
        rest = rest[1:]
    return [first, *map(_plain, rest)]


def _plain(message: dict) -> dict:
    """A message with its calls or a tool's result as text, in the roles that most templates have."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = [call["function"] for call in message.get("tool_calls", ())]
    written = [f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls]
    said = [message["content"]] if message.get("content") else []
    return {"role": message["role"], "content": "\n".join([*said, *written])}
