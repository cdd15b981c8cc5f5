"""A balancer in the open: one address in front of several replicas of a model server.

    with in_thread(application(replicas, tries=2)) as url:
        ...

The lab on replicas shows `Replica`, `choose` and `pass_on`. It serves this machine only, and takes answers as a whole.
"""

import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from course_utils.serving.lifecycle import ServerError, free_port
from course_utils.serving.settings import LOOPBACK

if TYPE_CHECKING:
    from uvicorn import Server as WebServer

REST = 2.0  # seconds without requests for a replica that did not answer
PASSED_ON = ("authorization", "content-type")  # headers of a request
PASSED_BACK = ("content-type", "retry-after")  # headers of an answer


@dataclass
class Replica:
    """One of several equal servers: its address, requests in work, until when it is left alone."""

    url: str
    in_work: int = 0
    rests_until: float = 0.0


def choose(replicas: Sequence[Replica]) -> Replica:
    """The replica with the fewest requests in work, among those that did not fail a moment ago."""
    now = time.monotonic()
    awake = [replica for replica in replicas if replica.rests_until <= now]
    return min(awake or replicas, key=lambda replica: replica.in_work)


async def pass_on(
    request: Request,
    replicas: Sequence[Replica],
    web: httpx.AsyncClient,
    tries: int,
) -> Response:
    """The answer of one replica; if it fails, another is asked, until `tries` are used up."""
    body = await request.body()  # kept, because a second try has to send it again
    headers = {name: value for name, value in request.headers.items() if name in PASSED_ON}
    for _ in range(tries):
        replica = choose(replicas)
        replica.in_work += 1
        address = replica.url + request.url.path
        try:
            reply = await web.request(request.method, address, content=body, headers=headers)
            told = {name: value for name, value in reply.headers.items() if name in PASSED_BACK}
            return Response(reply.content, reply.status_code, told)
        except httpx.TransportError:  # nobody listens, or the connection broke in the middle
            replica.rests_until = time.monotonic() + REST
        finally:
            replica.in_work -= 1
    return JSONResponse({"error": {"message": "No replica answered."}}, 502)


def application(replicas: Sequence[Replica], tries: int) -> FastAPI:
    """The balancer as a web application."""

    @asynccontextmanager
    async def client(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as app.state.web:
            yield

    async def answer(request: Request) -> Response:
        return await pass_on(request, replicas, request.app.state.web, tries)

    app = FastAPI(lifespan=client, openapi_url=None)
    app.add_api_route("/{path:path}", answer, methods=["GET", "POST"], response_model=None)
    return app


@contextmanager
def in_thread(app: Any) -> Iterator[str]:
    """Serve a web application on a free port of loopback, in a thread of this process; its address.

    It ends with the block, or with the process. ServerError if it does not start.
    """
    import uvicorn

    port = free_port()
    config = uvicorn.Config(app, host=LOOPBACK, port=port, log_level="error", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        _wait_for(server, thread)
        yield f"http://{LOOPBACK}:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


def _wait_for(server: "WebServer", thread: threading.Thread) -> None:
    while not server.started:
        if not thread.is_alive():
            raise ServerError("The web application did not start; the lines above say why.")
        time.sleep(0.02)
