"""A model server on this machine as an ASGI application: each request is passed on, the answer streamed back."""

from collections.abc import Awaitable, Callable
from typing import Any

PASSED_BACK = (b"content-type", b"retry-after")  # headers of an answer


class Upstream:
    """What a gate can stand in front of, where the server is another program.

    `url` is the server's address, `key` its own key, which no client learns. If the server cannot be reached, an
    `httpx` error is raised: the gate tells the client.
    """

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.web: Any = None

    async def __call__(
        self, scope: dict, receive: Callable[[], Awaitable[dict]], send: Callable[[dict], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            return await self.live(receive, send)
        body = (await receive())["body"]
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        address = self.url + scope["path"]
        async with self.web.stream(scope["method"], address, content=body, headers=headers) as answer:
            kept = [(name, value) for name, value in answer.headers.raw if name.lower() in PASSED_BACK]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
            async for piece in answer.aiter_bytes():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def live(self, receive: Callable[[], Awaitable[dict]], send: Callable[[dict], Awaitable[None]]) -> None:
        """Keep connections to the server open, from the start of the web server to its end."""
        import httpx

        await receive()
        # The gate limits the time of an answer, and how many are in work.
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=None, trust_env=False, limits=limits) as self.web:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
