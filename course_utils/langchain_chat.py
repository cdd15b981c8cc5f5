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
from course_utils.agents import INSTRUCTIONS, WRITE, CallError, Step, Tools, Trace, is_call, parse_call
from course_utils.prisma import text
from course_utils.prisma.tools import SIGNATURES

ROLES = {"human": "user", "ai": "assistant"}
TYPES = {"integer": int, "string": str}


class PrismaChatModel(BaseChatModel):
    """Wraps a `Chat` of `course_utils.loaders`; it works at every tier."""

    chat: Any

    @property
    def _llm_type(self) -> str:
        return "prisma"

    def bind_tools(
        self,
        tools: Sequence[BaseTool | Callable | dict | type],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable:
        """The model with tools to choose from. `create_agent` asks for this; the base class only raises."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        tools: Sequence[dict] | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        reply = self.chat.chat([as_dict(m) for m in messages], tools, max_new_tokens=WRITE, stop=stop or ())
        message = as_message(reply, number=len(messages))
        return ChatResult(generations=[ChatGeneration(message=message)])


def as_dict(message: BaseMessage) -> dict:
    """A LangChain message in the form that chat templates read."""
    said = {"role": ROLES.get(message.type, message.type), "content": message.content}
    calls = getattr(message, "tool_calls", [])
    if calls:
        named = [{"name": call["name"], "arguments": call["args"]} for call in calls]
        said["tool_calls"] = [{"type": "function", "function": call} for call in named]
    return said


def as_message(reply: str, number: int) -> AIMessage:
    """What the model wrote as a LangChain message: an answer, a tool call, or a call that can't be read."""
    if not is_call(reply):
        return AIMessage(reply)
    call = {"id": f"call_{number}"}
    try:
        call["name"], call["args"] = parse_call(reply)
    except CallError as error:
        broken = call | {"name": None, "args": reply, "error": str(error), "type": "invalid_tool_call"}
        return AIMessage(reply, invalid_tool_calls=[broken])
    return AIMessage("", tool_calls=[call | {"type": "tool_call"}])


def shop_tools(toolbox: Tools) -> list[BaseTool]:
    """The tools of `toolbox` for LangChain, which checks the arguments against their types."""
    return [_tool(toolbox, name, *signature) for name, signature in SIGNATURES.items()]


def _tool(toolbox: Tools, name: str, argument: str, kind: str, description: str) -> BaseTool:
    def call(**arguments: Any) -> str:
        return toolbox(name, str(arguments[argument])).text

    schema = create_model(name, **{argument: (TYPES[kind], ...)})
    return StructuredTool.from_function(call, name=name, description=description, args_schema=schema)


def make_agent(chat: Any, toolbox: Tools, max_steps: int = 8) -> Runnable:
    """LangChain's own agent loop around our model and tools, with `max_steps` model calls at most."""
    return compat.create_agent(
        PrismaChatModel(chat=chat), shop_tools(toolbox), INSTRUCTIONS["calls"], max_model_calls=max_steps
    )


def run_langchain(agent: Runnable, question: str) -> Trace:
    """Ask LangChain's agent, and read its messages as a trace like that of our own loop."""
    messages = agent.invoke({"messages": [{"role": "user", "content": question}]})["messages"]
    trace = Trace(question, stopped="answered")
    calls = {call["id"]: call for m in messages if isinstance(m, AIMessage) for call in m.tool_calls}
    for message in messages:
        if isinstance(message, ToolMessage):
            call = calls[message.tool_call_id]
            argument = str(next(iter(call["args"].values()), ""))
            trace.steps.append(Step("", call["name"], argument, message.content))
    last = messages[-1]
    if isinstance(last, AIMessage) and not last.content.startswith("Model call limits exceeded"):
        trace.answer = text.final_answer(last.content)
    else:
        trace.stopped = "step budget spent"
    return trace
