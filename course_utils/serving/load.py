"""How many tokens a second a server makes, and how long each of its users waits."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from course_utils.models.inputs import as_texts
from course_utils.serving.lifecycle import Server

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class Load:
    """One burst of requests: how many at once, tokens a second of all together, seconds each one took."""

    at_once: int
    rate: float
    seconds: tuple[float, ...]


def burst(server: Server, prompts: Sequence[str], at_once: int, max_tokens: int = 24) -> Load:
    """Send the prompts, `at_once` at a time, and count the tokens that come back."""
    prompts = as_texts(prompts, "prompts")
    ask = server.client(timeout=300)

    def one(prompt: str) -> tuple[int, float]:
        began = time.perf_counter()
        reply = ask.completions.create(model=server.model, prompt=prompt, max_tokens=max_tokens)
        return reply.usage.completion_tokens, time.perf_counter() - began

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as crowd:
        replies = list(crowd.map(one, prompts))
    total = sum(tokens for tokens, _ in replies)
    return Load(at_once, total / (time.perf_counter() - began), tuple(seconds for _, seconds in replies))


@dataclass(frozen=True)
class Outcome:
    """What became of one request: the status that came back (0 for none), seconds, and when it ended."""

    status: int
    seconds: float
    ended: float  # seconds since the first request

    @property
    def is_lost(self) -> bool:
        return self.status != 200


def crowd(
    url: str,
    key: str,
    prompts: Sequence[str],
    at_once: int,
    max_tokens: int = 16,
    answered: Callable[[int], None] = lambda count: None,
) -> list[Outcome]:
    """Send the prompts to a server or balancer on this machine, `at_once` at a time; no request is sent twice.

    `answered` is called after each outcome with how many there are.
    """
    prompts, lock, count = as_texts(prompts, "prompts"), threading.Lock(), 0

    def one(prompt: str) -> Outcome:
        nonlocal count
        outcome = _ask(web, prompt, max_tokens, began)
        with lock:
            count += 1
            answered(count)
        return outcome

    with _web(url, key) as web, ThreadPoolExecutor(at_once) as users:
        began = time.perf_counter()
        return list(users.map(one, prompts))


def arrivals(url: str, key: str, prompts: Sequence[str], times: Sequence[float], max_tokens: int = 16) -> list[Outcome]:
    """Send each prompt at its time (seconds from the start), whether earlier ones are answered or not."""
    prompts = as_texts(prompts, "prompts")

    def one(prompt: str, at: float) -> Outcome:
        time.sleep(max(0.0, began + at - time.perf_counter()))
        return _ask(web, prompt, max_tokens, began)

    with _web(url, key) as web, ThreadPoolExecutor(len(prompts)) as users:
        began = time.perf_counter()
        return list(users.map(one, prompts, times))


def _web(url: str, key: str) -> "httpx.Client":
    import httpx

    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=url, headers=headers, timeout=120, trust_env=False)


def _ask(web: "httpx.Client", prompt: str, max_tokens: int, began: float) -> Outcome:
    import httpx

    start = time.perf_counter()
    try:
        status = web.post("/v1/completions", json={"prompt": prompt, "max_tokens": max_tokens}).status_code
    except httpx.HTTPError:
        status = 0
    end = time.perf_counter()
    return Outcome(status, end - start, end - began)
