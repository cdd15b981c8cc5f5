"""An agent that other agents ask over A2A: prisma-lm in its executor's role, behind a key (Unit 7.2).

    python -m course_utils.agents.protocols.a2a_agents PORT

It listens on loopback only, and wants the key that its environment holds in COURSE_A2A_KEY.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial

from a2a import helpers
from a2a.client import Client, ClientConfig, create_client
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2 as types
from anyio.from_thread import start_blocking_portal
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from course_utils.agents.loop import use
from course_utils.agents.many_agents.task_queue import call_in
from course_utils.prisma import shop, text
from course_utils.prisma.tools import Toolbox

LOOPBACK = "127.0.0.1"
KEY = "COURSE_A2A_KEY"  # in the environment, because everybody on a machine can read a command line
CARD = "/.well-known/agent-card.json"
LONGEST = 4000  # characters of a message
WRITE = 64  # tokens of an executor's turn
Reply = Callable[[str], str]


# ---------------------------------------------------------------- the agent


def executor(chat: object) -> Reply:
    """prisma-lm as an executor: it does the last line of a task with one tool, or answers."""
    toolbox = Toolbox(shop.open_database(shop.make_shop()))

    def reply(asked: str) -> str:
        written = chat.complete(text.prompt("executor", asked), WRITE).strip()
        call = call_in(written)
        return use(toolbox, *call).text if call else written

    return reply


def card(url: str) -> types.AgentCard:
    """What the agent at `url` says of itself: who it is, what it can do, where and how it is asked."""
    skill = types.AgentSkill(
        id="do-a-step",
        name="Do a step",
        description="Does the last line of a task about the shop Prisma with one tool, or answers.",
        tags=["orders", "prices"],
        examples=["What does order 1234 cost?\n1. Look up order 1234."],
    )
    address = types.AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")
    bearer = types.SecurityScheme(http_auth_security_scheme=types.HTTPAuthSecurityScheme(scheme="bearer"))
    return types.AgentCard(
        name="executor",
        description="Does single steps for the toy shop Prisma.",
        version="1.0.0",
        supported_interfaces=[address],
        capabilities=types.AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[skill],
        security_schemes={"key": bearer},
    )


class ShopAgent(AgentExecutor):
    """Answers each message as a task: submitted, working, an artifact with the reply, completed."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Do one task. One that is too long, or goes wrong, fails with a sentence that says why."""
        task = context.current_task or helpers.new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        asked = helpers.get_message_text(context.message)
        if len(asked) > LONGEST:
            words = f"a message has at most {LONGEST} characters"
            await updater.reject(updater.new_agent_message([helpers.new_text_part(words)]))
            return
        await updater.start_work()
        # The model works in a thread, so that the server can answer others meanwhile.
        try:
            said = await asyncio.to_thread(self.reply, asked)
        except Exception as error:  # left alone, it would end the client's stream without a state
            words = f"the agent failed: {type(error).__name__}"
            await updater.failed(updater.new_agent_message([helpers.new_text_part(words)]))
            return
        await updater.add_artifact([helpers.new_text_part(said)], name="reply")
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Not offered: a step takes less than a second."""
        raise NotImplementedError("a step can't be cancelled")


# ---------------------------------------------------------------- the server


class Doorkeeper:
    """Lets a request in only with the key, and none that a web page of elsewhere sends. The card is public."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.refusal(scope) if scope["type"] == "http" else ""
        if not refusal:
            await self.app(scope, receive, send)
            return
        status = 401 if refusal == "key" else 403
        await JSONResponse({"error": f"wrong {refusal}"}, status)(scope, receive, send)

    def refusal(self, scope: Scope) -> str:
        """What is wrong with a request: "origin", "host", "key"; "" for nothing."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "").rpartition(":")[0]
        if "origin" in headers:  # only browsers send it, and no page has a reason to
            return "origin"
        if host != LOOPBACK:
            return "host"
        if scope["path"] == CARD:
            return ""
        given = headers.get("authorization", "")
        is_right = secrets.compare_digest(given.encode(), f"Bearer {self.key}".encode())
        return "" if is_right else "key"


def application(reply: Reply, url: str, key: str) -> Starlette:
    """The agent as a web application."""
    about = card(url)
    handler = DefaultRequestHandler(ShopAgent(reply), InMemoryTaskStore(), about)
    routes = create_agent_card_routes(about) + create_jsonrpc_routes(handler, "/")
    return Starlette(routes=routes, middleware=[Middleware(Doorkeeper, key=key)])


def main(arguments: list[str]) -> int:
    """The program. Its exit status."""
    key = os.environ.get(KEY, "")
    if len(arguments) != 1 or not arguments[0].isdigit() or not key:
        print(__doc__)
        return 2
    import torch
    import uvicorn

    from course_utils.models import loaders

    torch.set_num_threads(1)
    chat = loaders.load("chat", tier="bundled", say=lambda line: None)
    port = int(arguments[0])
    app = application(executor(chat), f"http://{LOOPBACK}:{port}/", key)
    uvicorn.run(app, host=LOOPBACK, port=port, log_level="error")
    return 0


# ---------------------------------------------------------------- the client


@dataclass
class Exchange:
    """One message to an agent and what came back: the states of its task, in order, and the reply."""

    asked: str
    states: list[str] = field(default_factory=list)
    task: str = ""
    reply: str = ""


@contextmanager
def connect(url: str, key: str) -> Iterator[Callable[[str], Exchange]]:
    """A function that sends a message to the agent whose card lies below `url`, and waits for its task to end."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_opened(url, key)) as client:
        yield partial(portal.call, send, client)


@asynccontextmanager
async def _opened(url: str, key: str) -> AsyncIterator[Client]:
    """The SDK's own client: it reads the card first, and asks at the address that stands there."""
    import httpx

    headers = {"Authorization": f"Bearer {key}"}
    # trust_env: no proxy stands between this machine and itself.
    async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=60) as http:
        client = await create_client(url, ClientConfig(httpx_client=http))
        yield client
        await client.close()


async def send(client: Client, words: str) -> Exchange:
    """Send a message and follow its task to the end."""
    exchange = Exchange(words)
    message = helpers.new_text_message(words, role=types.ROLE_USER)
    async for event in client.send_message(types.SendMessageRequest(message=message)):
        note(exchange, event)
    return exchange


def note(exchange: Exchange, event: types.StreamResponse) -> None:
    """Write down what an event of a task says."""
    if event.HasField("task"):
        exchange.task = event.task.id
        exchange.states.append(state_name(event.task.status))
    elif event.HasField("status_update"):
        exchange.states.append(state_name(event.status_update.status))
    elif event.HasField("artifact_update"):
        exchange.reply += helpers.get_artifact_text(event.artifact_update.artifact)


def state_name(status: types.TaskStatus) -> str:
    """ "working" for TASK_STATE_WORKING."""
    name = types.TaskState.Name(status.state)
    return name.removeprefix("TASK_STATE_").lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
