"""A model of the course as a LangChain chat model, and the shop's tools as LangChain tools (Unit 7.2)."""

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import create_model

from course_utils import compat
from course_utils.agents.function_calls import CallError, parse_call, written_calls
from course_utils.agents.instructions import INSTRUCTIONS
from course_utils.agents.loop import WRITE, Step, Tools, Trace, count, fits, use, without_thoughts
from course_utils.prisma import text
from course_utils.prisma.tools import SIGNATURES

ROLES = {"human": "user", "ai": "assistant"}
TYPES = {"integer": int, "string": str}
TEXT_BLOCKS = ("text", "reasoning", "thinking", "tool_use", "tool_call")  # only the first is read; calls come apart


UNREADABLE = "a call that can't be read"  # why an agent of LangChain's ends after invalid calls alone


class WindowFull(ValueError):
    """A conversation that leaves the model no room for its next turn."""


class PrismaChatModel(BaseChatModel):
    """Wraps a `Chat` of `models/roles.py`; it works at every tier."""

    chat: Any

    @property
    def _llm_type(self) -> str:
        return "prisma"

    def bind_tools(
        self,
        tools: Sequence[BaseTool | Callable | dict | type],
        *,
        tool_choice: str | dict | bool | None = None,
        **kwargs: Any,
    ) -> Runnable:
        """The model with tools to choose from. `create_agent` asks for this; the base class only raises.

        `tool_choice` may be "auto" or "none". ValueError for a choice that would force a call.
        """
        return self.bind(tools=_offered([convert_to_openai_tool(tool) for tool in tools], tool_choice), **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        tools: Sequence[dict] | None = None,
        tool_choice: str | dict | bool | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        prompt = self.chat.prompt([as_dict(m) for m in messages], _offered(tools, tool_choice))
        if not fits(self.chat, prompt):
            raise WindowFull(
                f"The conversation has {count(self.chat, prompt)} tokens, which leaves no room for {WRITE} more: "
                "shorten it, or let the tools say less."
            )
        reply = self.chat.complete(prompt, max_new_tokens=WRITE, stop=stop or ())
        message = as_message(reply, number=len(messages))
        return ChatResult(generations=[ChatGeneration(message=message)])


def _offered(tools: Sequence[dict] | None, choice: str | dict | bool | None) -> list[dict]:
    """The tools that the model is told of. ValueError for a choice that cannot be kept."""
    if choice in ("none", False):
        return []
    if choice not in (None, "auto"):
        raise ValueError(
            f"tool_choice={choice!r} would force a call, and these models decide for themselves: leave it out, "
            'or write "auto", or "none" for an answer without tools. Structured output needs a forced call, too.'
        )
    return list(tools or [])


def as_dict(message: BaseMessage) -> dict:
    """A LangChain message in the form that chat templates read. ValueError for a picture, a sound or a file."""
    said = {"role": ROLES.get(message.type, message.type), "content": _text(message.content)}
    calls = getattr(message, "tool_calls", [])
    if calls:
        named = [{"name": call["name"], "arguments": call["args"]} for call in calls]
        said["tool_calls"] = [{"type": "function", "function": call} for call in named]
    return said


def _text(content: str | list[str | dict]) -> str:
    """The text of a message; one that comes in blocks, as some services write it, is joined."""
    if isinstance(content, str):
        return content
    blocks = [{"type": "text", "text": block} if isinstance(block, str) else block for block in content]
    for block in blocks:
        if block.get("type") not in TEXT_BLOCKS:
            raise ValueError(f"A message holds a block of type {block.get('type')}: this model reads text alone.")
    return "".join(block["text"] for block in blocks if block["type"] == "text")


def as_message(reply: str, number: int) -> AIMessage:
    """What the model wrote as a LangChain message: an answer, or calls; those that can't be read are told apart."""
    calls, broken = [], []
    for place, written in enumerate(written_calls(reply)):
        call = {"id": f"call_{number}_{place}"}
        try:
            name, arguments = parse_call(written)
            calls.append(call | {"name": name, "args": arguments, "type": "tool_call"})
        except CallError as error:
            broken.append(call | {"name": None, "args": written, "error": str(error), "type": "invalid_tool_call"})
    content = "" if calls else without_thoughts(reply).strip()
    return AIMessage(content, tool_calls=calls, invalid_tool_calls=broken)


def shop_tools(toolbox: Tools) -> list[BaseTool]:
    """The tools of `toolbox` for LangChain, which checks the arguments against their types."""
    return [_tool(toolbox, name, *signature) for name, signature in SIGNATURES.items()]


def _tool(toolbox: Tools, name: str, argument: str, kind: str, description: str) -> BaseTool:
    def call(**arguments: Any) -> str:
        return use(toolbox, name, str(arguments[argument])).text

    schema = create_model(name, **{argument: (TYPES[kind], ...)})
    return StructuredTool.from_function(call, name=name, description=description, args_schema=schema)


def make_agent(chat: Any, toolbox: Tools, max_steps: int = 8) -> Runnable:
    """LangChain's own agent loop around our model and tools, with `max_steps` model calls at most."""
    return compat.create_agent(
        PrismaChatModel(chat=chat), shop_tools(toolbox), INSTRUCTIONS["calls"], max_model_calls=max_steps
    )


def run_langchain(agent: Runnable, question: str) -> Trace:
    """Ask LangChain's agent, and read its messages as a trace like that of our own loop, which stops as that does."""
    messages: list[BaseMessage] = []
    trace = Trace(question)
    try:
        for state in agent.stream({"messages": [{"role": "user", "content": question}]}, stream_mode="values"):
            messages = state["messages"]
    except WindowFull:
        trace.stopped = "window full"
    trace.steps = _steps(messages)
    if not trace.stopped:
        _end(trace, messages[-1])
    return trace


def _steps(messages: Sequence[BaseMessage]) -> list[Step]:
    calls = {}
    steps = []
    for message in messages:
        if isinstance(message, AIMessage):
            calls |= {call["id"]: call for call in message.tool_calls}
        elif isinstance(message, ToolMessage):
            call = calls[message.tool_call_id]
            argument = next(iter(call["args"].values()), "")
            steps.append(Step("", call["name"], str(argument), message.text))
    return steps


def _end(trace: Trace, last: BaseMessage) -> None:
    """Why the agent ended, from its last message, and its answer if that is one."""
    said = last.text
    if not isinstance(last, AIMessage) or said.startswith("Model call limits exceeded"):
        trace.stopped = "step budget spent"
    elif last.invalid_tool_calls:
        trace.stopped = UNREADABLE
    else:
        trace.answer = text.final_answer(said)
        trace.stopped = "answered" if trace.answer else "nothing written"
