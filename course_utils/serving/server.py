"""The embedded server: `transformers serve` behind the gate, on connections that cannot be held without asking."""

import argparse
import json
import logging
import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from course_utils import compat
from course_utils.models import loaders
from course_utils.serving import bodies
from course_utils.serving.gate import Gate, UsageFile
from course_utils.serving.metrics import Metrics
from course_utils.serving.settings import KEY, LOOPBACK

PATIENCE = 10.0  # seconds in which the head of a request must be there
FILES = 1024  # that the server may have open at once; half of them for connections without a request


class Connection(H11Protocol):
    """A connection that is closed when it stays without a request, the one that waits longest first.

    uvicorn itself begins to count only after the first answer. A crowd that comes at one moment has not sent its
    requests yet, so `most_idle` must be larger than any crowd that shall be answered.
    """

    most_idle = FILES // 2

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.wait_for_request()
        idle = [one for one in self.connections if one.is_idle()]
        if len(idle) > self.most_idle:
            longest = min(idle, key=lambda one: one.idle_since)
            longest.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.wait_for_request()

    def wait_for_request(self) -> None:
        self.idle_since = self.loop.time()
        self.loop.call_later(PATIENCE, self.close_if_idle, self.idle_since)

    def close_if_idle(self, since: float) -> None:
        if self.is_idle() and self.idle_since == since:
            self.transport.close()

    def is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete


class Prompts:
    """Counts the tokens of a request's prompt, as the server will read it. The folder's own tokenizer and template."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.chat_template = loaders.thinking_when_asked(self.tokenizer.chat_template)
        config = AutoConfig.from_pretrained(folder)
        self.window: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)

    def count(self, wanted: dict) -> int:
        """Tokens of `prompt` or `messages`. ValueError if the template does not take the messages."""
        if "prompt" in wanted:
            return len(self.tokenizer(wanted["prompt"])["input_ids"])
        messages = [as_the_server_reads(message) for message in wanted["messages"]]
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tools=wanted.get("tools"), add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # a template may raise anything
            raise ValueError(str(error)[:200]) from error
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def as_the_server_reads(message: dict) -> dict:
    """Parts of text are joined, and the arguments of calls are objects: so does `transformers serve`."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = " ".join(part["text"] for part in content)
    calls = [as_object(call) for call in message.get("tool_calls", [])]
    return message | {"content": content} | ({"tool_calls": calls} if calls else {})


def as_object(call: dict) -> dict:
    function = call["function"]
    return call | {"function": function | {"arguments": json.loads(function["arguments"])}}


class Log:
    """Rows for the usage file; and silence everywhere else, once the server has answered.

    Until then its output explains a start that fails. Afterwards a message about an error may hold what was asked.
    """

    def __init__(self, file: UsageFile) -> None:
        self.file, self.started = file, False

    def __call__(self, row: dict) -> None:
        self.file(row)
        if row["status"] == 200 and row["path"] in bodies.KINDS and not self.started:
            self.started = True
            logging.disable(logging.CRITICAL)

    def report(self, error: Exception) -> None:
        """Print what the server raised, while it starts."""
        if not self.started:
            traceback.print_exception(error)


def gate_for(asked: argparse.Namespace) -> Callable[[Any], None]:
    """What puts the gate in front of the server's application."""
    prompts, log = Prompts(asked.model), Log(UsageFile(asked.usage))
    metrics = Metrics()
    compat.count_passes(metrics.passes.inc)
    window = prompts.window
    if asked.batching:
        window = min(window or compat.BATCHED_TOKENS, compat.BATCHED_TOKENS)
    rules = {"count": prompts.count, "window": window, "per_minute": asked.per_minute, "batching": asked.batching}
    named = {"key": os.environ[KEY], "model": asked.model, "log": log, "report": log.report}
    named["metrics"] = metrics

    def add(app: Any) -> None:
        app.add_middleware(Gate, **named, **rules)

    return add


def allow_files(wanted: int = FILES) -> int:
    """Let this process open `wanted` files at once, or as many as the system grants (some begin with 256); how many."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    kind = resource.RLIMIT_NOFILE
    soft, hard = resource.getrlimit(kind)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return wanted
    most = wanted if hard == unlimited else min(wanted, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (most, hard))
    return resource.getrlimit(kind)[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--usage", type=Path, required=True)
    parser.add_argument("--batching", action="store_true")
    parser.add_argument("--nf4", action="store_true")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--per-minute", type=int, required=True)
    asked = parser.parse_args(arguments)
    Connection.most_idle = allow_files() // 2
    formats = (asked.nf4, asked.exact)
    compat.serve(asked.model, LOOPBACK, asked.port, *formats, asked.batching, gate_for(asked), Connection)
