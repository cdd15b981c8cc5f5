"""Other servers on this machine: who is found, who is asked, and that none of them can end or hang the cell."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from course_utils import serving
from course_utils.serving import lifecycle
from course_utils.serving.lifecycle import Server

HELLO = [{"role": "user", "content": "the question"}]


@contextmanager
def answering(replies, status=200):
    """A server on loopback; gives its port and the bodies that it was sent.

    `replies` has the reply for each path, or one for all of them: what is JSON, bytes, or (status, JSON).
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            whole = isinstance(replies, dict) and all(str(path).startswith("/") for path in replies)
            reply = replies.get(self.path, (404, {})) if whole and replies else replies
            code, reply = reply if isinstance(reply, tuple) else (status, reply)
            body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(code)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(sent | {"path": self.path, "key": self.headers["authorization"]})
            if self.path == "/api/show" and isinstance(replies, dict) and "show" in replies.get("/api/show", {}):
                self.path = "/api/show/" + sent["model"]
                replies[self.path] = replies["/api/show"]["show"].get(sent["model"], {})
            self.do_GET()

        def log_message(self, *parts):
            pass

    asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def sending(pieces, pause=0.0):
    """A server that sends these bytes to whoever connects, with a pause after each."""

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection):
        with connection:
            try:
                for piece in pieces():
                    connection.sendall(piece)
                    time.sleep(pause)
            except OSError:
                return

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def models(owner, *names):
    return {"object": "list", "data": [{"id": n, "object": "model", "created": 1, "owned_by": owner} for n in names]}


def chat(text):
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def asked_at(port, name="vLLM", seconds=5):
    """The row of `ask_all` for a server on `port`, where `name` would be."""
    (row,) = serving.ask_all(HELLO, ports={name: port}, seconds=seconds)
    return row


# --- who is found ---------------------------------------------------------------------------------------


SIGNED = [("library", "Ollama"), ("vllm", "vLLM"), ("llamacpp", "llama.cpp"), ("organization_owner", "LM Studio")]


@pytest.mark.parametrize(("owner", "name"), SIGNED)
def test_a_server_is_known_by_how_it_signs_its_models(owner, name):
    with answering({"/v1/models": models(owner, "qwen2.5:0.5b", "mistral")}) as (port, _):
        found = serving.knock("guess", port)
    assert (found.name, found.models, found.note) == (name, ("qwen2.5:0.5b", "mistral"), "")


def test_a_server_that_does_not_say_what_it_is_is_not_asked():
    """It may be a proxy, which sends the question out."""
    with answering({"/v1/models": models("someone", "gpt-5"), "/v1/chat/completions": chat("hi")}) as (port, asked):
        row = asked_at(port)
    assert row["server"] == f"port {port}" and "might pass a question on" in row["answer"]
    assert not asked


def test_local_ai_signs_nothing_and_is_not_asked():
    unsigned = {"object": "list", "data": [{"id": "qwen3-4b", "object": "model"}]}
    with answering({"/v1/models": unsigned, "/v1/chat/completions": chat("hi")}) as (port, asked):
        row = asked_at(port, "llama.cpp")
    assert row["server"] == f"port {port}" and "does not say what it is" in row["answer"] and not asked


def test_a_model_is_asked_with_the_likeliest_answer():
    with answering({"/v1/models": models("vllm", "qwen"), "/v1/chat/completions": chat("an answer")}) as (port, asked):
        row = asked_at(port)
    assert row == {"server": "vLLM", "model": "qwen", "answer": "an answer", "note": ""}
    assert asked[0]["temperature"] == 0 and asked[0]["messages"] == HELLO and asked[0]["max_tokens"] == 48


def test_embedding_and_cloud_models_are_never_asked():
    names = [
        "mxbai-embed-large:latest",
        "renamed",
        "gpt-oss:120b-cloud",
        "deepseek:cloud",
        "hidden",
        "plain",
        "qwen3:4b",
    ]
    shown = {"renamed": {"remote_host": "https://ollama.com"}, "hidden": {"capabilities": ["embedding"]}}
    shown["qwen3:4b"] = {"capabilities": ["completion", "tools"]}
    tags = {"models": [{"name": name} for name in names] + [{"name": "plain", "remote_host": "https://ollama.com"}]}
    replies = {"/v1/models": models("library", *names), "/api/tags": tags, "/api/show": {"show": shown}}
    with answering(replies | {"/v1/chat/completions": chat("hi")}) as (port, asked):
        found = serving.knock("Ollama", port)
        row = asked_at(port, "Ollama")
    assert found.models == ("qwen3:4b",)
    assert "mxbai-embed-large:latest (turns text into numbers" in found.note and "and 3 more" in found.note
    assert row["model"] == "qwen3:4b" and row["answer"] == "hi" and row["note"] == found.note
    assert [one["model"] for one in asked if one["path"] == "/v1/chat/completions"] == ["qwen3:4b"]


def test_a_server_of_embeddings_only_is_named_and_not_asked():
    with answering({"/v1/models": models("vllm", "BAAI/bge-m3")}) as (port, asked):
        row = asked_at(port)
    assert row["server"] == "vLLM" and "BAAI/bge-m3 (turns text into numbers" in row["answer"] and not asked


def test_empty_locked_loading_and_closed_ports_are_told_apart():
    empty = {"/v1/models": {"object": "list", "data": None}, "/api/tags": {"models": []}}
    with (
        answering(empty) as (none, _),
        answering({}, status=401) as (locked, _),
        answering({}, status=503) as (loads, _),
    ):
        ports = {"Ollama": none, "vLLM": locked, "llama.cpp": loads, "other": serving.free_port()}
        rows = serving.ask_all(HELLO, ports=ports)
    answers = {row["server"]: row["answer"] for row in rows}
    assert answers == {
        "Ollama": "has no model yet",
        f"port {locked}": "a server that needs a key (vLLM would be here)",
        "llama.cpp": "it is loading: run the cell again in a minute",
        "other": "not found",
    }


def test_installed_programs_are_found_when_nothing_runs(tmp_path):
    for program in ("vllm", "llama-server", "ollama"):
        (tmp_path / program).write_text("#!/bin/sh")
        (tmp_path / program).chmod(0o755)
    found = serving.find_backends({"vLLM": serving.free_port()})
    assert [(one.name, one.url, one.models) for one in found] == [
        ("Ollama", None, ()),
        ("llama.cpp", None, ()),
        ("vLLM", None, ()),
    ]
    assert found[2].note == "installed as `vllm`, not running"


# --- what they answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "listing",
    [
        b"<html>a web page</html>",
        b"",
        [],
        {},
        "text",
        {"data": "strings"},
        {"data": ["strings"]},
        {"data": [{"id": 5}]},
        {"data": {"id": "x"}},
        {"data": [{"id": "\ud800", "owned_by": "vllm"}]},
        {"data": [{"id": "x" * 500, "owned_by": "vllm"}]},
        b"[" * 100_000,
        b"x" * 1_100_000,
        (404, {}),
        (500, {}),
        (200, {"data": [{"id": "x", "owned_by": ["vllm"]}]}),
    ],
)
def test_a_list_of_models_that_is_none_becomes_a_sentence(listing):
    with answering({"/v1/models": listing, "/v1/chat/completions": chat("hi")}) as (port, asked):
        row = asked_at(port)
    assert row["server"] == f"port {port}" and "no model server that could be asked" in row["answer"]
    assert len(row["answer"]) < 200 and not asked


@pytest.mark.parametrize(
    ("reply", "part"),
    [
        ({}, "holds no choices"),
        ({"choices": []}, "holds no choices"),
        ({"choices": {"a": 1}}, "holds no choices"),
        ({"choices": [{"message": "text"}]}, "holds no choices"),
        ([], "holds no choices"),
        ("text", "holds no choices"),
        (chat(None), "holds no text"),
        (chat(["a"]), "holds no text"),
        (b"<html>", "does not send JSON"),
        (b"\xff\xfe", "does not send JSON"),
        (b"x" * 1_100_000, "longer than 1,000,000 bytes"),
        ((401, {}), "it needs a key"),
        ((503, {}), "it is loading"),
        ((500, b"<html>"), "status 500"),
        ((302, {}), "status 302"),
    ],
)
def test_an_answer_that_is_none_becomes_a_sentence(reply, part):
    with answering({"/v1/models": models("vllm", "qwen"), "/v1/chat/completions": reply}) as (port, _):
        row = asked_at(port)
    assert row["model"] == "qwen" and row["answer"].startswith("no answer: ") and part in row["answer"]


def test_half_a_character_can_be_printed():
    with answering({"/v1/models": models("vllm", "qwen"), "/v1/chat/completions": chat("\ud800!")}) as (port, _):
        assert asked_at(port)["answer"] == "?!"


def test_the_courses_own_server_is_asked_with_its_key(tmp_path, monkeypatch):
    """Also on a port of its own choice, and never knocked at."""
    with answering({"/v1/chat/completions": chat("from here")}) as (port, asked):
        own = Server("vllm", f"http://127.0.0.1:{port}", "prisma-lm", "the key", tmp_path / "log", None)
        monkeypatch.setattr(lifecycle, "running", lambda: [own])
        rows = serving.ask_all(HELLO, ports={"vLLM": port})
    assert rows == [{"server": "vLLM", "model": "prisma-lm", "answer": "from here", "note": "started here"}]
    assert [one["key"] for one in asked] == ["Bearer the key"]
    assert "the key" not in repr(rows)


def test_a_long_answer_is_cut():
    with answering({"/v1/models": models("vllm", "qwen"), "/v1/chat/completions": chat("x" * 10_000)}) as (port, _):
        assert len(asked_at(port)["answer"]) == 500


def drip(text):
    return lambda: (text[i : i + 1] for i in range(len(text)))


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n"


@pytest.mark.parametrize(
    "pieces", [drip(HEAD + b"[" * 5000), drip(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500), lambda: iter([b""] * 100)]
)
def test_a_server_that_sends_a_byte_at_a_time_or_nothing_is_left_after_the_time(pieces):
    with sending(pieces, pause=0.05) as port:
        began = time.perf_counter()
        found = serving.knock("vLLM", port, timeout=0.5)
        assert time.perf_counter() - began < 1.5
    assert "no reply within 0.5 s" in found.note


def test_one_that_hangs_up_or_speaks_another_language_is_no_server():
    for said in (b"", b"SSH-2.0-OpenSSH_9\r\n", b"\x00" * 100):
        with sending(lambda said=said: iter([said])) as port:
            assert "no model server" in serving.knock("vLLM", port).note


def test_an_endless_reply_is_left_when_it_is_too_long():
    def pieces():
        yield b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        while True:
            yield b"ffff\r\n" + b"x" * 65535 + b"\r\n"

    with sending(pieces) as port:
        assert "longer than" in serving.knock("vLLM", port, timeout=20).note


def test_it_works_inside_a_running_loop_as_in_a_notebook():
    import asyncio

    async def cell():
        return serving.find_backends({"vLLM": serving.free_port()})

    assert asyncio.run(cell()) == []
