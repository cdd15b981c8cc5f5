"""MCP servers used from plain Python: a session is a toolbox, and a host stands between model and servers (Unit 7.2).

The SDK is asynchronous and agents are not, so each session has an event loop in a thread of its own.
"""

import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp_types import CallToolResult, Tool

from course_utils.agents.function_calls import act_on_call
from course_utils.agents.instructions import INSTRUCTIONS
from course_utils.agents.loop import Trace, think
from course_utils.agents.toolboxes import Guarded
from course_utils.models.inputs import as_texts
from course_utils.prisma.tools import Result, failed

if TYPE_CHECKING:
    from course_utils.models.roles import Chat

Server = StdioServerParameters | MCPServer | str  # a program to start, a server in this process, an address
PATIENCE = 30.0  # seconds for one answer
LONGEST = 200  # characters of a result that an agent gets to read
REFUSED = "is not what was approved"


def as_schema(tool: Tool) -> dict:
    """A tool of MCP in the form that chat templates read: the way back."""
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": function}


# ---------------------------------------------------------------- a session


class Session:
    """A connected MCP server. Call it as a toolbox: `session("orders", "4821")`."""

    def __init__(self, portal: BlockingPortal, client: Client) -> None:
        self.portal, self.client = portal, client
        self.known = {tool.name: tool for tool in self.tools()}

    def tools(self) -> list[Tool]:
        """What the server offers now; it is asked each time."""
        found: list[Tool] = []
        page = None
        while page is None or page.next_cursor:
            cursor = page.next_cursor if page else None
            page = self.portal.call(self._page, cursor)
            found += page.tools
        return found

    async def _page(self, cursor: str | None) -> Any:
        return await self.client.list_tools(cursor=cursor, cache_mode="refresh")

    def schemas(self) -> list[dict]:
        """The tools for a chat template."""
        return [as_schema(tool) for tool in self.known.values()]

    def call(self, name: str, arguments: dict) -> CallToolResult:
        """The server's whole answer to one call. MCPError if it refuses the request itself."""
        return self.portal.call(self.client.call_tool, name, arguments)

    def __call__(self, name: str, argument: str) -> Result:
        """Call a tool that takes one argument, as agents of this unit do."""
        if name not in self.known:
            return failed(f"no tool {name}")
        arguments = as_arguments(self.known[name].input_schema, argument)
        return as_text(self.call(name, arguments))


def as_arguments(schema: dict, argument: str) -> dict:
    """The one argument of a tool under its name, and as a number where the schema wants one. {} for a tool without."""
    properties = schema.get("properties", {})
    if not properties:
        return {}
    [name, about] = next(iter(properties.items()))
    is_number = about.get("type") == "integer" and re.fullmatch(r"-?\d+", argument)
    return {name: int(argument) if is_number else argument}


def as_text(answer: CallToolResult) -> Result:
    """The text of a tool's answer; pictures and sounds are left out."""
    blocks = [block.text for block in answer.content if block.type == "text"]
    return Result("".join(blocks), ok=not answer.is_error)


@contextmanager
def connect(server: Server, key: str = "", log: Path | None = None) -> Iterator[Session]:
    """A session with `server`, which ends with the block: a program that was started for it ends, too.

    An address wants the `key`; what a program writes to stderr goes to the file `log`. ConnectionError if nobody
    answers as an MCP server.
    """
    with start_blocking_portal() as portal:
        opened = portal.wrap_async_context_manager(_opened(server, key, log))
        try:
            client = opened.__enter__()
        except Exception as error:
            raise ConnectionError(f"No MCP server answers there: {_cause(error)}.") from error
        try:
            yield Session(portal, client)
        finally:
            opened.__exit__(None, None, None)


def _cause(error: BaseException) -> str:
    """The first cause in a group of errors that tasks side by side have raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


@asynccontextmanager
async def _opened(server: Server, key: str, log: Path | None) -> AsyncIterator[Client]:
    """The SDK's own client, connected."""
    import httpx2

    async with AsyncExitStack() as stack:
        if isinstance(server, StdioServerParameters):
            # Not sys.stderr: in a notebook that is no file which a program could write to.
            path = Path(log or os.devnull)
            errors = stack.enter_context(path.open("a", encoding="utf-8"))  # noqa: SIM115
            server = stdio_client(server, errors)
        elif isinstance(server, str):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            # trust_env: no proxy stands between this machine and itself.
            http = httpx2.AsyncClient(headers=headers, trust_env=False, timeout=PATIENCE)
            await stack.enter_async_context(http)
            server = streamable_http_client(server, http_client=http)
        client = Client(server, read_timeout_seconds=PATIENCE)
        yield await stack.enter_async_context(client)


# ---------------------------------------------------------------- a host with several servers


class TrustingHost:
    """Joins servers without a question: all that they list goes to the model, and of equal names the last counts."""

    def __init__(self, servers: Mapping[str, Session]) -> None:
        self.owners = {}
        for session in servers.values():
            self.owners |= dict.fromkeys(session.known, session)

    def schemas(self) -> list[dict]:
        """The tools for a chat template."""
        return [as_schema(session.known[name]) for name, session in self.owners.items()]

    def __call__(self, name: str, argument: str) -> Result:
        """Ask whoever has the name."""
        if name not in self.owners:
            return failed(f"no tool {name}")
        return self.owners[name](name, argument)


@dataclass(frozen=True)
class Pin:
    """What a person has approved: the tool of this server, as it was shown."""

    server: str
    fingerprint: str


def fingerprint(tool: Tool) -> str:
    """A hash of all that a server says about a tool: name, description, schema, hints."""
    shown = tool.model_dump(mode="json", by_alias=True, exclude_none=True)
    written = json.dumps(shown, sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()


def approve(servers: Mapping[str, Session], agree: Callable[[str, Tool], bool]) -> dict[str, Pin]:
    """Show each tool of each server to `agree(server, tool)`, and pin what it accepts, by name.

    ValueError if two accepted ones have the same name: the model could not say which one it means.
    """
    pins: dict[str, Pin] = {}
    for server, session in servers.items():
        for tool in session.tools():
            if not agree(server, tool):
                continue
            if tool.name in pins:
                both = f"{pins[tool.name].server} and {server}"
                raise ValueError(f"{tool.name} is offered by {both}: accept one of them")
            pins[tool.name] = Pin(server, fingerprint(tool))
    return pins


class PinningHost:
    """Joins servers, and lets through what was approved: these tools, of these servers, unchanged.

    A changed tool is refused until it is approved again. Of a result only the first line is passed
    on, up to LONGEST characters, which is all that the shop's tools ever say, and without what
    could pass for the model's own lines.
    """

    def __init__(self, servers: Mapping[str, Session], pins: Mapping[str, Pin]) -> None:
        self.servers, self.pins = servers, pins

    def unchanged(self, name: str) -> Tool | None:
        """The approved tool as its server offers it now; None if it is gone or another one."""
        pin = self.pins[name]
        for tool in self.servers[pin.server].tools():
            if tool.name == name and fingerprint(tool) == pin.fingerprint:
                return tool
        return None

    def schemas(self) -> list[dict]:
        """The approved and unchanged tools for a chat template."""
        tools = [self.unchanged(name) for name in self.pins]
        return [as_schema(tool) for tool in tools if tool]

    def __call__(self, name: str, argument: str) -> Result:
        """Ask the server that was approved for this name."""
        return Guarded(self._ask)(name, argument)

    def _ask(self, name: str, argument: str) -> Result:
        if name not in self.pins:
            return failed(f"no tool {name}")
        tool = self.unchanged(name)
        if tool is None:
            return failed(f"{name} {REFUSED}")
        session = self.servers[self.pins[name].server]
        arguments = as_arguments(tool.input_schema, argument)
        result = as_text(session.call(name, arguments))
        first_line = result.text.partition("\n")[0]
        return Result(first_line[:LONGEST], ok=result.ok)


# ---------------------------------------------------------------- agents


def run_over(
    chat: "Chat",
    host: Any,
    questions: Sequence[str],
    offered: Sequence[dict] | None = None,
    max_steps: int = 8,
    max_repeats: int = 3,
) -> list[Trace]:
    """Agents that call the functions of `host`, a session or a host; all take their turns together.

    Like `function_calls.run_calls`, but the model is told what the servers list, or `offered` instead.
    """
    tools = host.schemas() if offered is None else list(offered)
    system = {"role": "system", "content": INSTRUCTIONS["calls"]}
    questions = as_texts(questions, "questions")
    traces = [Trace(q, messages=[system, {"role": "user", "content": q}]) for q in questions]
    while going := [trace for trace in traces if not trace.stopped]:
        for trace in going:
            trace.prompt = chat.prompt(trace.messages, tools)
        for trace, reply in zip(going, think(chat, going, stop=()), strict=True):
            act_on_call(trace, reply, host, tools, max_steps, max_repeats)
            if trace.steps and trace.steps[-1].observation.endswith(REFUSED):
                # A model that is told of the refusal makes an answer up.
                trace.stopped = trace.stopped or "a tool has changed"
    return traces
