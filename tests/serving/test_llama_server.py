"""llama.cpp's server as a process of its own: the same answers as transformers, its memory, and nothing left behind."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import psutil
import pytest
from listening import addresses

from course_utils import serving
from course_utils.memory import formulas, shapes
from course_utils.models import gguf_file
from course_utils.prisma import text
from course_utils.serving import programs
from course_utils.settings import MODELS, ROOT

pytest.importorskip("xllamacpp")
FOLDER = MODELS / "prisma-lm"
HELLO = [{"role": "user", "content": "where is my order 4711?"}]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return gguf_file.write_gguf(FOLDER, tmp_path_factory.mktemp("gguf") / "prisma.gguf")


@pytest.fixture(scope="module")
def server(file):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent))  # no `llama-server` of this machine
        with serving.serve(file, backend="llama.cpp", users=4) as server:
            yield server


def chats(n):
    """Of each kind that the agents ask."""
    kinds = list(text.SYSTEM)
    found = []
    for i in range(n):
        question = text.shopping_sum(random.Random(i)).question
        system = {"role": "system", "content": text.SYSTEM[kinds[i % len(kinds)]]}
        found.append([system, {"role": "user", "content": question}])
    return found


def answers(server):
    """Texts, tokens read and tokens written of twenty conversations."""
    client, found = server.client(timeout=300), []
    for messages in chats(20):
        reply = client.chat.completions.create(model=server.model, messages=messages, max_tokens=32, temperature=0)
        found.append((reply.choices[0].message.content, reply.usage.prompt_tokens, reply.usage.completion_tokens))
    return found


def test_it_gives_the_same_tokens_as_transformers(server):
    """Whole conversations as text, so that templates and word splitting are compared, too; and vLLM where it is."""
    expected = answers(server)
    assert len({text for text, _, _ in expected}) > 10
    others = ["transformers"] + ["vllm"] * (programs.find("vllm") is not None)
    for backend in others:
        with serving.serve(FOLDER, backend=backend, timeout=900) as other:
            assert answers(other) == expected, backend


def test_it_wants_its_key_and_listens_on_loopback_only(server):
    tree = psutil.Process(server.process.pid).children(recursive=True)
    assert addresses(*tree) == {"127.0.0.1"}
    with pytest.raises(openai.AuthenticationError):
        serving.client(server.url, "wrong").chat.completions.create(model=server.model, messages=HELLO)
    words = [word for one in tree for word in one.cmdline()]
    assert server.key not in " ".join(words) and "course_utils.serving.llama_server" in words
    allowed = {"Authorization": f"Bearer {server.key}", "Origin": "http://elsewhere.example"}
    reply = httpx.get(f"{server.url}/v1/models", headers=allowed, trust_env=False)
    assert reply.status_code == 200
    assert reply.headers.get("access-control-allow-origin") not in ("*", "http://elsewhere.example")


def test_a_crowd_is_measured_and_its_answers_are_kept(server):
    load = serving.crowd(server, chats(8), at_once=4, max_tokens=6)
    assert load.at_once == 4 and load.rate > 0 and len(load.seconds) == len(load.first) == len(load.texts) == 8
    assert all(0 < first <= whole for first, whole in zip(load.first, load.seconds, strict=True))
    alone = serving.crowd(server, chats(8), at_once=1, max_tokens=6)
    assert alone.texts == load.texts and len(set(load.texts)) > 1


def test_a_found_server_is_asked_like_one_of_ours(server):
    (found,) = [one for one in serving.find_backends({}) if one.url == server.url]
    assert found.name == "llama.cpp" and found.models == (server.model,)
    load = serving.crowd(found, chats(2), at_once=2, max_tokens=4)
    assert load.texts == serving.crowd(server, chats(2), at_once=2, max_tokens=4).texts


def test_its_memory_grows_by_the_formula(file, server):
    """Three more conversations in the cache of a running server, from outside its process."""
    shape = shapes.architecture("prisma-lm")
    with serving.serve(file, backend="llama.cpp", users=24) as large:
        grown = large.memory() - server.memory()
    expected = formulas.kv_cache_bytes(shape, seq=1024, batch=20)
    assert expected == 20 * 2 * 6 * 256 * 1024 * 2
    assert 0.85 * expected < grown < 1.25 * expected


def test_a_file_that_llama_cpp_cannot_read_is_an_error_with_its_words(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, or so")
    with pytest.raises(serving.ServerError, match="ended while starting"):
        serving.start(broken, backend="llama.cpp")
    assert serving.running() == [] or all(one.model != "broken" for one in serving.running())


NOTEBOOK = """
import sys, time
from pathlib import Path
from course_utils import serving
server = serving.start(Path(sys.argv[1]), backend="llama.cpp")
print(server.port, server.log.parent, flush=True)
time.sleep(300)
"""


def test_it_ends_with_a_notebook_that_is_killed(file):
    line = [sys.executable, "-c", NOTEBOOK, str(file)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=ROOT, text=True, env=dict(os.environ)) as notebook:
        port, folder = notebook.stdout.readline().split()
        tree = psutil.Process(notebook.pid).children(recursive=True)
        assert len(tree) == 2 and not serving.port_is_free(int(port))
        notebook.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not serving.port_is_free(int(port)) or Path(folder).exists()):
        time.sleep(0.1)
    assert serving.port_is_free(int(port)) and not Path(folder).exists()
    _, alive = psutil.wait_procs(tree, timeout=60)  # the keeper is the last to go
    assert alive == []
