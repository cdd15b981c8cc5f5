"""The group of roles once more, in AG2: agents on a hub, whose tools hand the work over (Unit 7.2).

AG2 calls a model through a small protocol (`ag2.config.LLMClient`). `PrismaModel` keeps it with a model of this
course, so nothing leaves the machine. The hub and its channel live in memory, for one question.
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

from ag2 import Agent, Context, Middleware, ToolResult, tool
from ag2.events import (
    BaseEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextInput,
    ToolCallEvent,
    ToolCallsEvent,
    ToolErrorEvent,
    ToolResultEvent,
    ToolResultsEvent,
)
from ag2.knowledge import MemoryKnowledgeStore
from ag2.middleware import BaseMiddleware
from ag2.network import (
    EV_CHANNEL_CLOSED,
    EV_PACKET,
    AgentClient,
    AgentTarget,
    Envelope,
    FromSpeaker,
    Handoff,
    Hub,
    HubClient,
    HubListener,
    HumanClient,
    LocalLink,
    Passport,
    TerminateTarget,
    Transition,
    TransitionGraph,
)
from ag2.network.policies import CHANNEL_DEP, CHANNEL_STATE_DEP
from ag2.network.workflow_helpers import set_context
from ag2.tools.final import FunctionTool
from pydantic import Field

from course_utils.agents.function_calls import CallError, parse_call, written_calls
from course_utils.agents.instructions import INSTRUCTIONS
from course_utils.agents.loop import WRITE, Step, Tools, Trace, fits, use, without_thoughts
from course_utils.agents.many_agents.teams import ROLES, owner
from course_utils.models.inputs import as_texts
from course_utils.prisma import text
from course_utils.prisma.tools import SIGNATURES

if TYPE_CHECKING:
    from course_utils.models.roles import Chat

# What the next colleague gets to read: what was said on the channel, as AG2 has it, or also what the tools found.
HANDED = ("what is said", "what was found")
TYPES = {"integer": int, "string": str}
ANSWERED = "answered"
LONGEST_ERROR = 160  # characters of an error that a model gets to read
PATIENCE = 600  # seconds until a question is given up


# ---------------------------------------------------------------- a model of the course for AG2


@dataclass
class PrismaModel:
    """A `Chat` of `models/roles.py` for AG2: the configuration that an agent wants, and the client that it makes.

    Prompts and replies go into the trace. After `max_turns` replies, in a full window or with nothing to say it
    writes why it stops, and that ends the agent's turn: on silence AG2 would wait.
    """

    chat: "Chat"
    trace: Trace
    max_turns: int
    provider: str = "prisma"

    @property
    def model(self) -> str:
        return self.chat.name

    def copy(self) -> "PrismaModel":
        return self

    def create(self) -> "PrismaModel":
        return self

    async def __call__(
        self, messages: Sequence[BaseEvent], context: Context, *, tools: Iterable[Any], **_: Any
    ) -> ModelResponse:
        """The next message of an agent: an answer, or calls of its tools."""
        system = {"role": "system", "content": "\n".join(context.prompt)}
        schemas = [as_schema(schema) for schema in tools]
        prompt = self.chat.prompt([system, *as_messages(messages)], schemas)
        if len(self.trace.log) >= self.max_turns:
            return self.stop("step budget spent")
        if not fits(self.chat, prompt):
            return self.stop("window full")
        # In a thread of its own: an agent that keeps the loop waiting keeps its colleagues from reading their mail.
        reply = await asyncio.to_thread(self.chat.complete, prompt, max_new_tokens=WRITE)
        self.trace.log.append((prompt, reply))
        try:
            calls = as_calls(reply)
        except CallError:
            return self.stop("a call that can't be read")
        if calls:
            return ModelResponse(tool_calls=ToolCallsEvent(calls))
        answer = text.final_answer(without_thoughts(reply))
        return ModelResponse(ModelMessage(answer)) if answer else self.stop("nothing written")

    def stop(self, why: str) -> ModelResponse:
        """A last message that says why there is no other; the trace says so, too."""
        self.trace.stopped = why
        return ModelResponse(ModelMessage(f"({why})"))


def as_calls(reply: str) -> list[ToolCallEvent]:
    """The function calls in a reply as AG2's events. CallError for one that can't be read."""
    calls = []
    for written in written_calls(reply):
        name, arguments = parse_call(written)
        calls.append(ToolCallEvent(name, arguments=json.dumps(arguments)))
    return calls


def as_schema(schema: Any) -> dict:
    """A tool's schema of AG2 in the form that chat templates read."""
    function = schema.function
    told = {"name": function.name, "description": function.description, "parameters": function.parameters}
    return {"type": "function", "function": told}


def as_messages(events: Sequence[BaseEvent]) -> list[dict]:
    """What happened in AG2's words, in the form that chat templates read. What no model reads is left out."""
    messages = []
    for event in events:
        if isinstance(event, ModelRequest):
            words = [part.content for part in event.parts]
            messages.append({"role": "user", "content": "\n".join(words)})
        elif isinstance(event, ModelMessage):
            messages.append({"role": "assistant", "content": event.content})
        elif isinstance(event, ModelResponse):
            messages.append(_said(event))
        elif isinstance(event, ToolResultsEvent):
            messages += [{"role": "tool", "content": seen_in(result)} for result in event.results]
    return messages


def _said(response: ModelResponse) -> dict:
    """An earlier message of the model: its words, or its calls."""
    said = {"role": "assistant", "content": response.content or ""}
    calls = []
    for call in response.tool_calls.calls:
        function = {"name": call.name, "arguments": call.serialized_arguments}
        calls.append({"type": "function", "function": function})
    return said | {"tool_calls": calls} if calls else said


def seen_in(result: ToolResultEvent) -> str:
    """What a model reads of a tool's result: of an error its words, where AG2 has the whole traceback."""
    if isinstance(result, ToolErrorEvent):
        return shorten(f"error: {result.error}", LONGEST_ERROR, placeholder=" ...")
    return result.result.parts[0].content


# ---------------------------------------------------------------- roles and their tools


def make_agent(role: str, model: PrismaModel, toolbox: Tools, handed: str) -> Agent:
    """A role as an agent of AG2. It knows all tools, but those of its colleagues only hand over."""
    tools = []
    for name in SIGNATURES:
        colleague = owner(name)
        if colleague == role:
            tools.append(own_tool(role, name, toolbox, model.trace))
        else:
            tools.append(handing_tool(role, name, colleague, model.trace))
    middleware = [Middleware(Record)] if handed == "what was found" else []
    return Agent(role, INSTRUCTIONS["calls"], config=model, tools=tools, middleware=middleware)


def own_tool(role: str, name: str, toolbox: Tools, trace: Trace) -> FunctionTool:
    """A tool that does its work."""
    argument, kind, description = SIGNATURES[name]

    async def work(value: Annotated[TYPES[kind], Field(alias=argument)]) -> str:
        seen = use(toolbox, name, str(value)).text
        trace.steps.append(Step(role, name, str(value), seen))
        return seen

    return tool(work, name=name, description=description)


def handing_tool(role: str, name: str, colleague: str, trace: Trace) -> FunctionTool:
    """A tool of a colleague: its call ends the turn and hands over, with the call as the reason."""
    argument, kind, description = SIGNATURES[name]

    async def hand_over(value: Annotated[TYPES[kind], Field(alias=argument)]) -> ToolResult:
        trace.steps.append(Step(role, name, str(value), f"hands over to {colleague}"))
        handoff = Handoff(colleague, reason=f"{name}({value})")
        return ToolResult(handoff, final=True)

    return tool(hand_over, name=name, description=description)


class Record(BaseMiddleware):
    """Writes what the tools found into the channel's variables; whoever speaks next reads it there.

    The model then reads the question and all calls with their results, as if it had made them.
    """

    async def on_tool_execution(self, call_next: Any, event: ToolCallEvent, context: Context):
        """Run a tool and keep what it found; a hand-off finds nothing."""
        result = await call_next(event, context)
        if not result.result.final:
            found = [event.name, event.arguments, seen_in(result)]
            await set_context(context.dependencies[CHANNEL_DEP], event.id, found)
        return result

    async def on_llm_call(self, call_next: Any, events: Sequence[BaseEvent], context: Context):
        """Ask the model with the others' record and this turn's events, not with what was said."""
        variables = dict(context.dependencies[CHANNEL_STATE_DEP].context_vars)
        record: list[BaseEvent] = [ModelRequest([TextInput(variables.pop("question"))])]
        for found in variables.values():
            record += as_events(*found)
        return await call_next([*record, *this_turn(events)], context)


def this_turn(events: Sequence[BaseEvent]) -> list[BaseEvent]:
    """What happened since the last message from outside: the calls of this turn and their results."""
    turn: list[BaseEvent] = []
    for event in events:
        turn = [] if isinstance(event, ModelRequest) else [*turn, event]
    return turn


def as_events(name: str, arguments: str, seen: str) -> list[BaseEvent]:
    """A call of the record as AG2 tells it: the model's message, then the result."""
    call = ToolCallEvent(name, arguments=arguments)
    result = ToolResultEvent.from_call(call, seen)
    return [ModelResponse(tool_calls=ToolCallsEvent([call])), ToolResultsEvent([result])]


# ---------------------------------------------------------------- the group on its hub


@dataclass
class Failures(HubListener):
    """Closes a channel on which an agent's turn failed: AG2 would write the error into its log, and wait."""

    hub: Hub
    error: BaseException | None = None

    async def on_turn_failed(self, channel_id: str, agent_id: str, envelope_id: str, exc: BaseException) -> None:
        self.error = exc
        await self.hub.close_channel(channel_id, reason="failed")


async def ask_group(
    chat: "Chat", toolbox: Tools, question: str, handed: str = "what was found", max_turns: int = 14
) -> Trace:
    """Ask the group, and wait for its answer. The steps of the trace are its calls; their thought is who speaks.

    `handed` is one of HANDED. The group stops after `max_turns` replies. ValueError for anything else; what a model
    raises is raised here, too.
    """
    [question] = as_texts([question], "questions")
    if handed not in HANDED:
        raise ValueError(f"handed is {handed!r}: choose one of {', '.join(HANDED)}.")
    if max_turns < 1:
        raise ValueError(f"max_turns is {max_turns}: a group needs one turn at least.")
    trace = Trace(question)
    model = PrismaModel(chat, trace, max_turns)
    agents = [make_agent(role, model, toolbox, handed) for role in ROLES]
    async with await Hub.open(MemoryKnowledgeStore()) as hub:
        failures = Failures(hub)
        hub.register_listener(failures)
        # Each has a connection of its own: on a shared one a message waits until the turn before it is over, and
        # is then taken for a new one. The plugin would add tools and words that a small model does not know.
        members = [await hub.register(agent, attach_plugin=False) for agent in agents]
        async with HubClient(LocalLink(hub), hub=hub) as connection:
            customer = await connection.register_human(Passport(name="customer"))
            await _talk(customer, members, trace, max_turns)
    if failures.error:
        raise failures.error
    return trace


def transitions(customer: HumanClient, first: AgentClient, max_turns: int) -> TransitionGraph:
    """Who speaks next: `first` after the customer, then whoever a tool hands over to. Words alone end it."""
    start = Transition(FromSpeaker(customer.agent_id), AgentTarget(first.agent_id))
    # The customer's message is a turn, too.
    return TransitionGraph(customer.agent_id, [start], TerminateTarget(ANSWERED), max_turns=max_turns + 1)


async def _talk(customer: HumanClient, members: Sequence[AgentClient], trace: Trace, max_turns: int) -> None:
    """Send the question on a channel of its own, wait until that is closed, and read the answer from it."""
    graph = transitions(customer, members[0], max_turns)
    names = [member.agent_id for member in members]
    knobs = {"graph": graph.to_dict(), "context_vars": {"question": trace.question}}
    channel = await customer.open(type="workflow", target=names, knobs=knobs)
    await channel.send(trace.question)
    closed = await customer.wait_for_channel_event(channel_id=channel.channel_id, predicate=_closes, timeout=PATIENCE)
    reason = closed.event_data["reason"]
    if trace.stopped or reason != ANSWERED:
        trace.stopped = trace.stopped or reason
        return
    said = await customer.hub.read_wal(channel.channel_id)
    packets = [envelope for envelope in said if envelope.event_type == EV_PACKET]
    trace.answer, trace.stopped = packets[-1].event_data["body"], ANSWERED


def _closes(envelope: Envelope) -> bool:
    return envelope.event_type == EV_CHANNEL_CLOSED
