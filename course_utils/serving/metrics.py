"""What a server measures of itself, as Prometheus reads it: counters, a gauge, histograms. No content, no names.

The labels come from short fixed lists. A label that a client could choose would be a new row of memory each time.
"""

import json
import math
import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)  # upper ends of the buckets
TOKEN_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
AHEAD = (0, 1, 2, 4, 8, 16, 32, 64)

disable_created_metrics()  # when each row began: as many rows again, and nobody asks


class Metrics:
    """The instruments of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = {"registry": self.registry}
        labels = ["path", "status"]
        self.requests = Counter("server_requests_total", "Requests that have ended.", labels, **here)
        self.tokens = Counter("server_tokens_total", "Tokens sent to clients.", **here)
        self.passes = Counter("server_model_passes_total", "Times that the model was run.", **here)
        self.in_work = Gauge("server_requests_in_work", "Requests in the queue or in the model now.", **here)
        self.ahead = Histogram("server_requests_ahead", "Requests in work when one more came.", buckets=AHEAD, **here)
        self.whole = Histogram("server_request_seconds", "From request to last byte.", buckets=SECONDS, **here)
        self.first = Histogram("server_first_token_seconds", "From request to first token.", buckets=SECONDS, **here)
        self.each = Histogram("server_token_seconds", "From token to token in a stream.", buckets=TOKEN_SECONDS, **here)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)

    def watch(self) -> "Answer":
        """What measures one answer on its way out."""
        return Answer(self)

    def ended(self, path: str, status: int, answer: "Answer") -> None:
        """Count one request; status 0 is a client that left before it had all of its answer."""
        label = str(status) if status else "left"
        self.requests.labels(path, label).inc()
        self.tokens.inc(answer.tokens)
        if status and answer.tokens:
            self.whole.observe(time.perf_counter() - answer.start)


class Answer:
    """Watches one answer on its way out: when its tokens left, and how many they were. It keeps no text."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.start = time.perf_counter()
        self.last: float | None = None
        self.tokens = 0

    def __call__(self, body: bytes) -> None:
        """A part of the answer: events of a stream, or a whole answer as JSON."""
        for line in body.splitlines():
            event = _object(line.removeprefix(b"data: "))
            if _writes(event):
                self.piece(line.startswith(b"data: "))
            counted = (event.get("usage") or {}).get("completion_tokens")
            if isinstance(counted, int):
                self.tokens = counted  # exact; until it comes, a piece counts as a token

    def piece(self, streamed: bool) -> None:
        """One piece of text has left."""
        self.tokens += 1
        if not streamed:
            return
        now = time.perf_counter()
        if self.last is None:
            self.metrics.first.observe(now - self.start)
        else:
            self.metrics.each.observe(now - self.last)
        self.last = now


def quantile(bounds: Sequence[float], counts: Sequence[float], q: float) -> float:
    """The value below which a share `q` of what a histogram counted lies; NaN if it counted nothing.

    `counts` rise: each says how many were at most its bound, and the last bound is infinite. Inside a bucket they are
    taken to lie evenly, as Prometheus does. ValueError if `q` is no share.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q is {q}, and must be from 0 to 1.")
    if not counts or counts[-1] == 0:
        return math.nan
    rank = q * counts[-1]
    place = bisect_left(counts, rank)
    if math.isinf(bounds[place]):
        return bounds[place - 1]
    low, before = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0.0)
    inside = counts[place] - before
    part = (rank - before) / inside if inside else 0.0
    return low + part * (bounds[place] - low)


def _object(text: bytes) -> dict:
    """The JSON object in `text`, an empty one where there is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _writes(event: dict) -> bool:
    """Whether an answer, or an event of a stream, holds text."""
    choices: Any = event.get("choices")
    if not choices:
        return False
    first = choices[0]
    message = first.get("delta") or first.get("message") or {}
    return bool(first.get("text") or message.get("content"))
