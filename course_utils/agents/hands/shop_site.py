"""A small web site of the shop, for tools that read the web and fill in forms (Unit 7.2).

Beside its pages it has what the web has, too: redirects that lead elsewhere, pages that are too large or never end, a
picture from another host.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from html import escape

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route

from course_utils.agents.loop import Tools

ELSEWHERE = "http://tracker.example"
FRAME = """<!doctype html><html lang="en"><head><title>Prisma</title></head><body><h1>{title}</h1>{body}
<img src="{elsewhere}/dot.png" alt=""></body></html>"""
SEARCH = """<form action="/order"><label>Order number <input name="number"></label>
<button>Look up</button></form>"""
RETURN = """<p>{record}</p><form action="/returns" method="post"><input type="hidden" name="number" value="{number}">
<label>Reason <input name="reason"></label><button>Send it back</button></form>"""


def page(title: str, body: str, status: int = 200) -> HTMLResponse:
    """A page of the site."""
    return HTMLResponse(FRAME.format(title=escape(title), body=body, elsewhere=ELSEWHERE), status)


@dataclass
class Site:
    """The site over a toolbox. It remembers what was asked, and which returns were filed."""

    toolbox: Tools
    asked: list[str] = field(default_factory=list)
    returns: list[tuple[str, str]] = field(default_factory=list)

    def application(self) -> Starlette:
        """The site as a web application."""
        routes = [
            Route("/", self.home),
            Route("/order", self.order),
            Route("/returns", self.file_return, methods=["POST"]),
            Route("/api/{tool}/{argument}", self.api),
            Route("/secret", self.secret),
            Route("/to/{target:path}", self.redirect),
            Route("/large", self.large),
            Route("/slow", self.slow),
            Route("/film", self.film),
        ]
        return Starlette(routes=routes)

    async def home(self, request: Request) -> HTMLResponse:
        self.asked.append("/")
        return page("The toy shop Prisma", SEARCH)

    async def order(self, request: Request) -> HTMLResponse:
        number = request.query_params.get("number", "")
        self.asked.append(f"/order {number}")
        result = self.toolbox("orders", number)
        if not result.ok:
            return page("No such order", SEARCH, 404)
        return page("Your order", RETURN.format(record=escape(result.text), number=escape(number)))

    async def file_return(self, request: Request) -> HTMLResponse:
        async with request.form() as form:
            number, reason = str(form["number"]), str(form["reason"])
        self.returns.append((number, reason))
        return page("Thank you", f"<p>Return of order {escape(number)} is filed.</p>")

    async def api(self, request: Request) -> JSONResponse:
        tool, argument = request.path_params["tool"], request.path_params["argument"]
        self.asked.append(f"/api/{tool}")
        result = self.toolbox(tool, argument)
        return JSONResponse({"text": result.text}, 200 if result.ok else 404)

    async def secret(self, request: Request) -> PlainTextResponse:
        self.asked.append("/secret")
        return PlainTextResponse("what only this machine may see")

    async def redirect(self, request: Request) -> RedirectResponse:
        return RedirectResponse(request.path_params["target"])

    async def large(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("x" * 1_000_000)

    async def slow(self, request: Request) -> StreamingResponse:
        return StreamingResponse(_drops(), media_type="text/plain")

    async def film(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("x", media_type="video/mp4")


async def _drops() -> AsyncIterator[str]:
    """A letter now and then, for a minute: each comes in time, and the page never ends."""
    for _ in range(300):
        yield "x"
        await asyncio.sleep(0.2)
