"""Other model servers on this machine: which there are, what they may be asked, and what they answer.

Whatever such a program sends, and however slowly, costs a bounded time and memory, and becomes a sentence.
"""

import asyncio
import json
import shutil
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from course_utils.serving import lifecycle, programs
from course_utils.serving.settings import LOOPBACK

if TYPE_CHECKING:
    import httpx
    from openai import OpenAI

# The ports that these programs use unless told otherwise.
PORTS = {"Ollama": 11434, "vLLM": 8000, "llama.cpp": 8080, "LM Studio": 1234}
# As they sign their lists of models. LocalAI signs nothing, and so is named and not asked.
OWNERS = {"library": "Ollama", "vllm": "vLLM", "llamacpp": "llama.cpp", "organization_owner": "LM Studio"}
PROGRAMS = {"Ollama": "ollama", "llama.cpp": "llama-server"}
OWN = {"transformers": "transformers serve", "vllm": "vLLM", "llama.cpp": "llama.cpp"}
MOST_BYTES = 1_000_000  # of a reply
MOST_ROWS = 50  # of a list of models
LONGEST_NAME = 200  # of a model
MOST_SHOWN = 500  # characters of an answer in a table
# Models that turn a text into numbers, by the names that they are given.
EMBEDDERS = ("embed", "bge-", "minilm", "e5-", "gte-", "rerank")


class Unanswered(Exception):
    """No usable reply; the message is a clause that says why."""


class NobodyThere(Unanswered):
    """Nothing listens on the port."""


@dataclass(frozen=True)
class Backend:
    """A model server that was found: running (with its address), or installed only.

    `models` are those that may be asked: they chat, and on this machine. `note` says what else there is to know.
    """

    name: str
    url: str | None
    models: tuple[str, ...] = ()
    note: str = ""
    key: str = field(default="none", repr=False)

    def client(self, **options: Any) -> "OpenAI":
        """An `openai` client of this server."""
        return lifecycle.client(self.url, self.key, **options)


@dataclass(frozen=True)
class Reply:
    """Status and JSON of a reply; None for what is no JSON."""

    status: int
    content: Any


# --- looking --------------------------------------------------------------------------------------------


def find_backends(ports: dict[str, int] = PORTS, timeout: float = 2.0) -> list[Backend]:
    """This process's own servers, those on the usual ports of this machine, and programs that could be started.

    `timeout` is for all of one port, in seconds.
    """
    servers = lifecycle.running()
    own = [Backend(OWN[one.backend], one.url, (one.model,), "started here", one.key) for one in servers]
    taken = {one.port for one in servers}
    others = {name: port for name, port in ports.items() if port not in taken}
    found = own + [one for one in _wait_for(_look_all(others, timeout)) if one]
    names = {one.name for one in found}
    return found + [one for one in installed() if one.name not in names]


def knock(name: str, port: int, timeout: float = 2.0) -> Backend | None:
    """What answers on a port of this machine, None for nothing; `name` is the guess, its signature decides."""
    return _wait_for(_look_all({name: port}, timeout))[0]


def installed() -> list[Backend]:
    """Programs that could be started, running or not."""
    found = [
        Backend(name, None, note=f"installed as `{program}`, not running")
        for name, program in PROGRAMS.items()
        if shutil.which(program)
    ]
    if programs.find("vllm"):
        found.append(Backend("vLLM", None, note="installed as `vllm`, not running"))
    return found


async def _look_all(ports: dict[str, int], timeout: float) -> list[Backend | None]:
    async with _web() as web:
        return await asyncio.gather(*[_look(web, name, port, timeout) for name, port in ports.items()])


async def _look(web: "httpx.AsyncClient", name: str, port: int, timeout: float) -> Backend | None:
    url = f"http://{LOOPBACK}:{port}"
    try:
        reply = await _send(web, "GET", f"{url}/v1/models", timeout)
        if reply.status in (401, 403):
            return Backend(f"port {port}", url, note=f"a server that needs a key ({name} would be here)")
        if reply.status == 503:
            return Backend(name, url, note="it is loading: run the cell again in a minute")
        return await _introduce(web, name, url, _rows(reply), timeout)
    except NobodyThere:
        return None
    except Unanswered as problem:
        return Backend(
            f"port {port}", url, note=f"no model server that could be asked: {problem} ({name} would be here)"
        )


def _rows(reply: Reply) -> list[dict]:
    """The models of a list as the API of OpenAI gives it."""
    if reply.status != 200:
        raise Unanswered(f"status {reply.status}")
    if not isinstance(reply.content, dict) or "data" not in reply.content:
        raise Unanswered("its list of models is none")
    rows = reply.content["data"] or []  # Ollama without a model says null
    if not isinstance(rows, list):
        raise Unanswered("its list of models is none")
    rows = rows[:MOST_ROWS]
    if not all(_names_a_model(row) for row in rows):
        raise Unanswered("its list of models is none")
    return rows


def _names_a_model(row: Any) -> bool:
    name = row.get("id") if isinstance(row, dict) else None
    return isinstance(name, str) and len(name) <= LONGEST_NAME and name.isprintable()


async def _introduce(web: "httpx.AsyncClient", guess: str, url: str, rows: list[dict], timeout: float) -> Backend:
    """The server whose list of models this is, with those of them that may be asked."""
    name = _signature(rows)
    tags = await _ollama_tags(web, url, timeout) if name in (None, "Ollama") else None
    name = name if tags is None else "Ollama"
    if not rows:
        return Backend(name or guess, url, note="has no model yet")
    if name is None:
        raise Unanswered("it does not say what it is, and might pass a question on to others")
    models = [row["id"] for row in rows]
    if name == "Ollama":
        questions = [_ollama_reason(web, url, one, (tags or {}).get(one), timeout) for one in models]
        reasons = await asyncio.gather(*questions)
    else:
        reasons = [reason_by_name(one) for one in models]
    reasoned = list(zip(models, reasons, strict=True))
    fit = tuple(one for one, reason in reasoned if not reason)
    left = [f"{one} ({reason})" for one, reason in reasoned if reason]
    return Backend(name, url, fit, _left_out(left))


def _signature(rows: list[dict]) -> str | None:
    for row in rows:
        owner = row.get("owned_by")
        if isinstance(owner, str) and owner in OWNERS:
            return OWNERS[owner]
    return None


def _left_out(left: list[str]) -> str:
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    return "not asked: " + ", ".join(left[:3]) + more if left else ""


def reason_by_name(model: str) -> str:
    """Why a model is not asked, as far as its name tells; empty if it may be."""
    if model.endswith(("-cloud", ":cloud")):
        return "runs elsewhere, and would send the question there"
    if any(part in model.lower() for part in EMBEDDERS):
        return "turns text into numbers, does not chat"
    return ""


async def _ollama_tags(web: "httpx.AsyncClient", url: str, timeout: float) -> dict[str, dict] | None:
    """Ollama's own list of models by name, None from another server."""
    try:
        reply = await _send(web, "GET", f"{url}/api/tags", timeout)
    except Unanswered:
        return None
    rows = reply.content.get("models") if isinstance(reply.content, dict) else None
    if not isinstance(rows, list):
        return None
    return {row["name"]: row for row in rows[:MOST_ROWS] if isinstance(row, dict) and isinstance(row.get("name"), str)}


async def _ollama_reason(web: "httpx.AsyncClient", url: str, model: str, tag: dict | None, timeout: float) -> str:
    """Why a model of Ollama is not asked; empty if it may be."""
    try:
        reply = await _send(web, "POST", f"{url}/api/show", timeout, {"model": model})
    except Unanswered:
        reply = Reply(0, None)
    shown = reply.content if isinstance(reply.content, dict) else {}
    if (tag or {}).get("remote_host") or shown.get("remote_host"):
        return "runs elsewhere, and would send the question there"
    can = shown.get("capabilities")  # older ones do not say
    if isinstance(can, list) and "completion" not in can:
        return "turns text into numbers, does not chat"
    return reason_by_name(model)


# --- asking ---------------------------------------------------------------------------------------------


def ask_all(
    messages: Sequence[dict], max_tokens: int = 48, ports: dict[str, int] = PORTS, seconds: float = 60
) -> list[dict]:
    """The same question to the first model of each server that `find_backends` finds, always the likeliest answer.

    One row for each, with `server`, `model`, `answer` (or why there is none) and a `note`, which names models that
    were left out. `seconds` is for each of them.
    """
    found = find_backends(ports)
    running = [one for one in found if one.models]
    answers = _wait_for(_ask_each(running, list(messages), max_tokens, seconds))
    rows = [_row(one.name, answer, one.models[0], one.note) for one, answer in zip(running, answers, strict=True)]
    rows += [_row(one.name, one.note) for one in found if not one.models]
    names, urls = {one.name for one in found}, {one.url for one in found}
    absent = [name for name, port in ports.items() if name not in names and f"http://{LOOPBACK}:{port}" not in urls]
    return rows + [_row(name, "not found") for name in absent]


def _row(server: str, answer: str, model: str = "", note: str = "") -> dict:
    return {"server": server, "model": model, "answer": answer, "note": note}


async def _ask_each(servers: list[Backend], messages: list[dict], max_tokens: int, seconds: float) -> list[str]:
    """One after the other: two models at once would only make each other slower."""
    async with _web() as web:
        return [await _ask(web, one, messages, max_tokens, seconds) for one in servers]


async def _ask(web: "httpx.AsyncClient", server: Backend, messages: list, max_tokens: int, seconds: float) -> str:
    # Without a temperature vLLM and Ollama draw lots: four questions, four answers.
    question = {"model": server.models[0], "messages": messages, "max_tokens": max_tokens, "temperature": 0}
    try:
        reply = await _send(web, "POST", f"{server.url}/v1/chat/completions", seconds, question, server.key)
        text = _said(reply)[:MOST_SHOWN]
        return text.encode("utf-8", "replace").decode()  # halves of characters cannot be printed
    except Unanswered as problem:
        return f"no answer: {problem}"


def _said(reply: Reply) -> str:
    """The text of a chat's reply."""
    if reply.status in (401, 403):
        raise Unanswered("it needs a key")
    if reply.status == 503:
        raise Unanswered("it is loading, run the cell again in a minute")
    if reply.status != 200:
        raise Unanswered(f"status {reply.status}")
    try:
        text = reply.content["choices"][0]["message"]["content"]
    except (TypeError, KeyError, IndexError):
        raise Unanswered("its reply holds no choices") from None
    if not isinstance(text, str):
        raise Unanswered("its reply holds no text")
    return text


# --- the wire -------------------------------------------------------------------------------------------


def _web() -> "httpx.AsyncClient":
    import httpx

    return httpx.AsyncClient(timeout=None, trust_env=False)  # the time of the whole reply is limited instead


async def _send(
    web: "httpx.AsyncClient", method: str, url: str, seconds: float, content: dict | None = None, key: str = "none"
) -> Reply:
    """One request. Unanswered if its reply is not there, whole, after `seconds`, or is too long."""
    import httpx

    headers = {"Authorization": f"Bearer {key}"}
    try:
        async with asyncio.timeout(seconds), web.stream(method, url, json=content, headers=headers) as reply:
            body = bytearray()
            async for piece in reply.aiter_bytes():
                body += piece
                if len(body) > MOST_BYTES:
                    raise Unanswered(f"its reply is longer than {MOST_BYTES:,} bytes")
            status = reply.status_code
    except TimeoutError:
        raise Unanswered(f"no reply within {seconds:g} s") from None
    except httpx.ConnectError:
        raise NobodyThere("nobody listens there") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        raise Unanswered("what it sends is no HTTP") from None
    return _read(status, bytes(body))


def _read(status: int, body: bytes) -> Reply:
    try:
        return Reply(status, json.loads(body))
    except (ValueError, RecursionError):
        if status == 200:
            raise Unanswered("it does not send JSON") from None
        return Reply(status, None)


def _wait_for(work: Coroutine) -> Any:
    """Run a coroutine to its end in a thread of its own: a notebook has a loop that runs already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
