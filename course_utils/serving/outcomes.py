"""What becomes of each request that is sent to a server or a balancer: answered or lost, and when."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from course_utils.models.inputs import as_texts

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class Outcome:
    """What became of one request: the status that came back (0 for none), seconds, and when it ended."""

    status: int
    seconds: float
    ended: float  # seconds since the first request

    @property
    def is_lost(self) -> bool:
        return self.status != 200


def send(
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
    """Send each prompt at its time (seconds from the start), whether earlier ones are answered or not.

    ValueError if there are not as many times as prompts.
    """
    prompts = as_texts(prompts, "prompts")
    if len(prompts) != len(times):
        raise ValueError(f"{len(prompts)} prompts and {len(times)} times: each prompt needs one.")

    def one(prompt: str, at: float) -> Outcome:
        time.sleep(max(0.0, began + at - time.perf_counter()))
        return _ask(web, prompt, max_tokens, began)

    with _web(url, key) as web, ThreadPoolExecutor(len(prompts)) as users:
        began = time.perf_counter()
        return list(users.map(one, prompts, times))


def _web(url: str, key: str) -> "httpx.Client":
    import httpx

    headers = {"Authorization": f"Bearer {key}"}
    unlimited = httpx.Limits(max_connections=None)  # a wait for a connection would be counted as the server's
    return httpx.Client(base_url=url, headers=headers, timeout=120, trust_env=False, limits=unlimited)


def _ask(web: "httpx.Client", prompt: str, max_tokens: int, began: float) -> Outcome:
    import httpx

    start = time.perf_counter()
    try:
        status = web.post("/v1/completions", json={"prompt": prompt, "max_tokens": max_tokens}).status_code
    except httpx.HTTPError:
        status = 0
    end = time.perf_counter()
    return Outcome(status, end - start, end - began)
