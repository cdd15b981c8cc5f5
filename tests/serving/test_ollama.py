"""Ollama's client against a stand-in that follows its published REST interface (docs.ollama.com/api)."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from course_utils.prisma import ollama_recipe
from course_utils.serving import ollama
from course_utils.serving.ollama import Ollama, OllamaError

GGUF = b"GGUF" + bytes(range(200))


class StandIn(BaseHTTPRequestHandler):
    """Blobs by their digest, models with a window, a memory that empties after keep_alive 0."""

    blobs: dict = {}
    models: dict = {}
    memory: list = []
    asked: list = []

    def do_HEAD(self):
        self.answer(200 if self.path.rsplit("/", 1)[1] in self.blobs else 404)

    def do_GET(self):
        if self.path == "/v1/models":
            rows = [{"id": name, "object": "model", "owned_by": "library"} for name in self.models]
            self.answer(200, {"object": "list", "data": rows or None})
        elif self.path == "/api/tags":
            self.answer(200, {"models": [{"name": name} for name in self.models]})
        else:
            self.answer(200, {"models": [{"name": name} for name in self.memory]})

    def do_DELETE(self):
        found = self.models.pop(self.body()["model"], None)
        self.answer(200 if found else 404, {} if found else {"error": "model not found"})

    def do_POST(self):
        if self.path.startswith("/api/blobs/"):
            content = self.rfile.read(int(self.headers["content-length"]))
            digest = "sha256:" + hashlib.sha256(content).hexdigest()
            self.blobs[digest] = content
            return self.answer(201 if self.path.endswith(digest) else 400)
        wanted = self.body()
        self.asked.append((self.path, wanted))
        if self.path == "/api/show":
            return self.answer(200, {"capabilities": ["completion"]})
        if self.path == "/api/create":
            whole = all(digest in self.blobs for digest in wanted["files"].values())
            self.models[f"{wanted['model']}:latest"] = wanted
            return self.answer(200 if whole else 400, {"status": "success"})
        name = f"{wanted['model']}:latest"
        if name not in self.models:
            return self.answer(404, {"error": f"model '{wanted['model']}' not found"})
        self.memory[:] = [] if wanted.get("keep_alive") == 0 else [name]
        if self.path == "/api/generate":
            return self.answer(200, {"done": True, "done_reason": "unload"})
        window = wanted["options"]["num_ctx"]
        read = sum(len(message["content"].split()) for message in wanted["messages"])
        reply = {"message": {"role": "assistant", "content": "hi"}, "done": True, "eval_count": 1}
        return self.answer(200, reply | {"prompt_eval_count": min(read, window)})  # silently

    def body(self):
        return json.loads(self.rfile.read(int(self.headers["content-length"])))

    def answer(self, status, content=None):
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts):
        pass


@pytest.fixture
def standing_in():
    """A stand-in on loopback; gives its handler, whose fields are its state, and its port."""
    fresh = {"blobs": {}, "models": {}, "memory": [], "asked": []}
    handler = type("Handler", (StandIn,), fresh)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler, server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "toy.gguf"
    path.write_bytes(GGUF)
    return path


def test_a_file_becomes_a_model_that_answers_and_goes_again(standing_in, file):
    state, port = standing_in
    here = ollama.find(port)
    assert isinstance(here, Ollama)
    here.create("toy", file, "Answer.", window=64)
    assert list(state.blobs.values()) == [GGUF]
    recipe = dict(state.asked)["/api/create"]
    assert recipe["files"] == {"toy.gguf": next(iter(state.blobs))} and recipe["stream"] is False
    assert recipe["parameters"] == {"num_ctx": 64, "stop": ["<|end|>"], "temperature": 0}
    reply = here.chat("toy", [{"role": "user", "content": "hello you"}], window=64)
    assert (reply.text, reply.read, reply.written) == ("hi", 2, 1)
    assert here.loaded() == ["toy:latest"]
    here.unload("toy")
    assert here.loaded() == []
    state.models["toy"] = state.models.pop("toy:latest")
    here.delete("toy")
    assert state.models == {}


def test_a_second_model_of_the_same_file_does_not_send_it_again(standing_in, file):
    state, port = standing_in
    here = Ollama(f"http://127.0.0.1:{port}")
    here.create("one", file, "", window=64)
    state.blobs = {digest: b"kept" for digest in state.blobs}
    here.create("two", file, "", window=64)
    assert list(state.blobs.values()) == [b"kept"] and len(state.models) == 2


def test_what_was_left_out_of_the_prompt_can_be_seen(standing_in, file):
    state, port = standing_in
    here = Ollama(f"http://127.0.0.1:{port}")
    here.create("toy", file, "", window=64)
    long = [{"role": "user", "content": "cube " * 500}]
    assert here.chat("toy", long, window=64, keep=0).read == 64
    assert here.chat("toy", long, window=1024).read == 500
    (_, asked), _ = [one for one in state.asked if one[0] == "/api/chat"]
    assert asked["options"] == {"num_ctx": 64, "temperature": 0, "num_predict": 48} and asked["keep_alive"] == 0


def test_what_it_refuses_is_said_in_its_words(standing_in):
    _, port = standing_in
    with pytest.raises(OllamaError, match="404: .*model 'toy' not found"):
        Ollama(f"http://127.0.0.1:{port}").chat("toy", [{"role": "user", "content": "x"}], window=64)


def test_nobody_and_another_server_are_no_ollama():
    from course_utils import serving

    assert ollama.find(serving.free_port()) is None


def test_the_recipe_writes_turns_as_the_model_learned_them():
    text = ollama_recipe.modelfile("toy.gguf", "Think.", window=256)
    lines = text.splitlines()
    assert lines[0] == "FROM ./toy.gguf" and "ADAPTER" not in text
    assert 'PARAMETER stop "<|end|>"' in lines and "PARAMETER num_ctx 256" in lines
    assert 'SYSTEM """Think."""' in lines and "PARAMETER temperature 0" in lines
