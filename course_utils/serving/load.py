"""How many tokens a second a server makes, and how long each of its users waits."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from course_utils.models.inputs import as_texts
from course_utils.serving.lifecycle import Server


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
