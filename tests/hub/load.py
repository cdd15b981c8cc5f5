"""The shared model server under thirty clients, one of them greedy: who waits how long, who gets how much.

    python tests/hub/load.py [--seconds 60]

By hand, on a quiet machine, three to five minutes. It starts llama.cpp with prisma-lm behind the class's gate, on
loopback, and sends it bounded traffic from this process.
"""

import argparse
import asyncio
import json
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from course_utils.classroom.hub import PER_MINUTE, sharing
from course_utils.models import gguf_file
from course_utils.prisma import text
from course_utils.serving import balancer, lifecycle
from course_utils.serving.clients import hashed
from course_utils.serving.gate import Gate
from course_utils.serving.upstream import Upstream
from course_utils.settings import MODELS, SEED

STUDENTS = 30
GREEDY = "greedy"
THINKS = 6.0  # seconds, on average, between an answer and the next question
TOKENS = 48  # of an answer
AT_ONCE = 12  # questions that the greedy one keeps open, without a pause
PLACES = 4


@dataclass
class Client:
    """One student: what came back, and when."""

    name: str
    key: str
    waits: list[float] = field(default_factory=list)  # seconds until an answer was whole
    accepted: list[float] = field(default_factory=list)  # when an answered question was sent
    refused: int = 0
    errors: list[str] = field(default_factory=list)


async def ask(web: httpx.AsyncClient, client: Client, question: str) -> None:
    """One question. A refusal counts as announced if it says so in words, and when to come again."""
    began = time.monotonic()
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": TOKENS, "temperature": 0}
    headers = {"authorization": f"Bearer {client.key}"}
    try:
        reply = await web.post("/v1/chat/completions", json=body, headers=headers)
    except httpx.HTTPError as error:
        client.errors.append(type(error).__name__)
        return
    if reply.status_code == 200:
        client.waits.append(time.monotonic() - began)
        client.accepted.append(began)
    elif reply.status_code == 429 and "retry-after" in reply.headers and reply.json()["error"]["message"]:
        client.refused += 1
    else:
        client.errors.append(f"{reply.status_code} {reply.text[:80]}")


async def student(web: httpx.AsyncClient, client: Client, until: float, draw: random.Random) -> None:
    """Asks, reads the answer, thinks, asks again."""
    while True:
        await asyncio.sleep(draw.expovariate(1 / THINKS))
        if time.monotonic() > until:
            return
        await ask(web, client, text.shopping_sum(draw).question)


async def hog(web: httpx.AsyncClient, client: Client, until: float, draw: random.Random) -> None:
    """Asks again at once, whatever came back."""
    while time.monotonic() < until:
        before = client.refused
        await ask(web, client, text.shopping_sum(draw).question)
        if client.refused > before:
            await asyncio.sleep(0.25)


async def crowd(url: str, clients: list[Client], seconds: float, greedy: bool) -> None:
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False, limits=limits) as web:
        calm = [student(web, one, until, random.Random(SEED + i)) for i, one in enumerate(clients[1:])]
        draws = [random.Random(SEED - i - 1) for i in range(AT_ONCE if greedy else 0)]
        await asyncio.gather(*calm, *(hog(web, clients[0], until, draw) for draw in draws))


def busiest_minute(times: list[float]) -> int:
    """The most questions of a client that were let through in any sixty seconds."""
    return max((sum(begin <= one < begin + 60 for one in times) for begin in times), default=0)


def row(label: str, clients: list[Client], seconds: float) -> dict:
    greedy, calm = clients[0], clients[1:]
    waits = np.array([wait for one in calm for wait in one.waits])
    answers = [len(one.waits) for one in calm]
    total = sum(answers) + len(greedy.waits)
    return {
        "run": label,
        "answers of the 29": len(waits),
        "each of them, fewest to most": [min(answers), max(answers)],
        "their wait, s (median, 95 %, longest)": [round(float(q), 2) for q in np.quantile(waits, [0.5, 0.95, 1])],
        "refused of theirs": sum(one.refused for one in calm),
        "answers of the greedy one": len(greedy.waits),
        "its share": round(len(greedy.waits) / max(1, total), 3),
        "refused of it, announced": greedy.refused,
        "its busiest minute": busiest_minute(greedy.accepted),
        "errors that were not announced": [error for one in clients for error in one.errors],
        "answers a second": round(total / seconds, 1),
    }


def without_fairness(engine: lifecycle.Server, names: Mapping[str, str]) -> Gate:
    """What a gate with keys alone does: first come, first served."""
    return Gate(Upstream(engine.url, engine.key), names, engine.model, per_minute=100_000, at_once=1000)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    keys = {name: secrets.token_urlsafe(24) for name in [GREEDY, *(f"student{i}" for i in range(1, STUDENTS))]}
    names = {hashed(key.encode()): name for name, key in keys.items()}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = gguf_file.write_gguf(MODELS / "prisma-lm", Path(folder) / "prisma.gguf")
        with lifecycle.serve(file, backend="llama.cpp", users=PLACES) as engine:
            runs = {
                "29 alone": (sharing.gate_for(engine, names, PLACES, PER_MINUTE), False),
                "greedy, as shipped": (sharing.gate_for(engine, names, PLACES, PER_MINUTE), True),
                "greedy, turns without a limit a minute": (sharing.gate_for(engine, names, PLACES, 100_000), True),
                "greedy, first come first served": (without_fairness(engine, names), True),
            }
            for label, (gate, greedy) in runs.items():
                clients = [Client(name, key) for name, key in keys.items()]
                with balancer.in_thread(gate) as url:
                    asyncio.run(crowd(url, clients, seconds, greedy))
                rows.append(row(label, clients, seconds))
                print(json.dumps(rows[-1], indent=1), flush=True)
    shipped = rows[1]
    kept = shipped["its busiest minute"] <= PER_MINUTE
    quiet = not any(one["errors that were not announced"] for one in rows[:3])
    return 0 if kept and quiet else 1


if __name__ == "__main__":
    sys.exit(main())
