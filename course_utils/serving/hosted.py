"""A stand-in for a hosted API, on loopback: it refuses, meters and filters as the providers publish it.

It has accounts with keys, a limit of requests, a filter, and an invoice. The model behind it is a server of ours.
Errors have the form of OpenAI's API: status, and `{"error": {"message", "type", "param", "code"}}`.
"""

import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from course_utils.serving.lifecycle import Server

CHAT = "/v1/chat/completions"
FORBIDDEN = ("poison",)  # words that this filter stops; a provider's is a model


@dataclass
class Account:
    """A customer: the key, how many requests in `window` seconds, and what was used so far."""

    key: str = field(repr=False)
    per_window: int
    window: float
    read: int = 0
    written: int = 0
    times: deque[float] = field(default_factory=deque, repr=False)

    def wait(self, now: float) -> float:
        """Seconds until the next request is allowed; 0 counts this one."""
        while self.times and now - self.times[0] >= self.window:
            self.times.popleft()
        if len(self.times) < self.per_window:
            self.times.append(now)
            return 0.0
        return self.window - (now - self.times[0])


def error(status: int, message: str, kind: str, code: str | None, headers: dict[str, str] | None = None) -> Response:
    """A refusal in the published form."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return JSONResponse(body, status, headers)


def provider(server: Server, account: Account) -> FastAPI:
    """The hosted API as a web application, with one account, and `server` behind it."""

    @asynccontextmanager
    async def client(app: FastAPI) -> AsyncIterator[None]:
        headers = {"Authorization": f"Bearer {server.key}"}
        async with httpx.AsyncClient(
            base_url=server.url, headers=headers, timeout=60, trust_env=False
        ) as app.state.web:
            yield

    async def chat(request: Request) -> Response:
        refused = refusal(request.headers.get("authorization"), account)
        if refused:
            return refused
        asked = await request.json()
        if is_forbidden(asked):
            return error(
                400, "The prompt was stopped by the content filter.", "invalid_request_error", "content_filter"
            )
        reply = await request.app.state.web.post(CHAT, json=asked)
        content = reply.json()
        if reply.status_code == 200:
            account.read += content["usage"]["prompt_tokens"]
            account.written += content["usage"]["completion_tokens"]
        return JSONResponse(content, reply.status_code)

    app = FastAPI(lifespan=client, openapi_url=None)
    app.add_api_route(CHAT, chat, methods=["POST"], response_model=None)
    return app


def refusal(authorization: str | None, account: Account) -> Response | None:
    """The answer to a wrong key or one request too many, None for a good one."""
    if authorization != f"Bearer {account.key}":
        return error(401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key")
    wait = account.wait(time.monotonic())
    if wait == 0:
        return None
    headers = {"retry-after": str(int(wait) + 1), "x-ratelimit-remaining-requests": "0"}
    return error(429, "Rate limit reached for requests.", "requests", "rate_limit_exceeded", headers)


def is_forbidden(asked: dict[str, Any]) -> bool:
    """Whether the filter stops this request."""
    texts = [str(message.get("content", "")).lower() for message in asked.get("messages", [])]
    return any(word in text for word in FORBIDDEN for text in texts)
