"""How many tokens a second a server makes, and how long each of its users waits."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from course_utils.models.inputs import as_texts
from course_utils.serving.engines import Backend
from course_utils.serving.lifecycle import Server

if TYPE_CHECKING:
    from openai import OpenAI

PATIENCE = 300  # seconds for one answer: on a busy machine many users wait long


@dataclass(frozen=True)
class Load:
    """One burst of requests: how many at once, tokens a second of all together, seconds each one took.

    `first` holds the seconds until each one's first piece of text, `texts` the answers, where they were streamed.
    """

    at_once: int
    rate: float
    seconds: tuple[float, ...]
    first: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A streamed answer: its text and tokens, and the seconds until its first piece and its end."""

    text: str
    tokens: int
    first: float
    seconds: float


def burst(server: Server, prompts: Sequence[str], at_once: int, max_tokens: int = 24) -> Load:
    """Send the prompts, `at_once` at a time, and count the tokens that come back."""
    prompts = as_texts(prompts, "prompts")
    ask = server.client(timeout=PATIENCE)

    def one(prompt: str) -> tuple[int, float]:
        began = time.perf_counter()
        reply = ask.completions.create(model=server.model, prompt=prompt, max_tokens=max_tokens)
        return reply.usage.completion_tokens, time.perf_counter() - began

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as crowd:
        replies = list(crowd.map(one, prompts))
    total = sum(tokens for tokens, _ in replies)
    return Load(at_once, total / (time.perf_counter() - began), tuple(seconds for _, seconds in replies))


def crowd(engine: Server | Backend, chats: Sequence[list[dict]], at_once: int, max_tokens: int = 24) -> Load:
    """Send the conversations to any server, `at_once` at a time: streamed, always the likeliest answer.

    So servers are compared: by the same client, the same questions, the same settings.
    """
    client = engine.client(timeout=PATIENCE)
    model = engine.model if isinstance(engine, Server) else engine.models[0]

    def one(messages: list[dict]) -> Answer:
        return streamed(client, model, messages, max_tokens)

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        answers = list(threads.map(one, chats))
    passed = time.perf_counter() - began
    tokens = sum(answer.tokens for answer in answers)
    seconds = tuple(answer.seconds for answer in answers)
    first = tuple(answer.first for answer in answers)
    texts = tuple(answer.text for answer in answers)
    return Load(at_once, tokens / passed, seconds, first, texts)


def streamed(client: "OpenAI", model: str, messages: list[dict], max_tokens: int) -> Answer:
    """One greedy answer, token by token. ValueError from a server that does not say how many tokens it wrote."""
    began = time.perf_counter()
    events = client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, first, usage = "", None, None
    for event in events:
        usage = event.usage or usage
        piece = event.choices[0].delta.content if event.choices else None
        if piece and first is None:
            first = time.perf_counter() - began
        text += piece or ""
    seconds = time.perf_counter() - began
    if usage is None:
        raise ValueError("this server does not count the tokens of a streamed answer, so its speed is not known")
    return Answer(text, usage.completion_tokens, seconds if first is None else first, seconds)
