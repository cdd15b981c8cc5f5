"""llama.cpp behind the course's `Chat`: the same words as transformers in less time, where it was asked for."""

import random
import time
from pathlib import Path

import httpx
import pytest

from course_utils import colab
from course_utils.models import catalogue, hardware, llama_cpp, loaders
from course_utils.models.llama_cpp import LlamaCppChat
from course_utils.prisma import text
from course_utils.settings import MODELS

FOLDER = MODELS / "prisma-lm"


@pytest.fixture(scope="module")
def plain():
    """prisma-lm on the CPU."""
    machine = hardware.Hardware("cpu", "float32", "", ram_total_gb=8, ram_free_gb=4, cores=2)
    return loaders.load_model(catalogue.find("chat", "bundled"), machine, say=lambda _: None)


@pytest.fixture(scope="module")
def fast(plain):
    pytest.importorskip("xllamacpp")
    return llama_cpp.through_llama_cpp(plain, FOLDER)


def prompts(n):
    """Of each kind that the agents ask: sums in steps, ReAct, plans, calls."""
    rng = random.Random(11)
    kinds = list(text.SYSTEM)
    return [text.prompt(kinds[i % len(kinds)], text.shopping_sum(rng).question) for i in range(n)]


def test_it_writes_the_same_words(plain, fast):
    assert isinstance(fast, LlamaCppChat)
    asked = prompts(40)
    expected = plain.complete_many(asked, 64)
    assert [fast.complete(prompt, 64) for prompt in asked] == expected
    assert len(set(expected)) > 20


def test_it_calls_functions_as_transformers_does(plain, fast):
    """llama.cpp takes a token named <|call|> for an end, so the file has another name for it."""
    functions = "Call a function or answer. Functions:\norders(number)\ncatalogue(product)"
    system = f"<|system|>{functions}<|end|>"
    asked = [f"{system}<|user|>Where is order {n}?<|end|><|assistant|>" for n in (1042, 9219, 3142)]
    expected = plain.complete_many(asked, 48)
    assert all(reply.startswith('{"name": "orders"') for reply in expected)
    assert [fast.complete(prompt, 48) for prompt in asked] == expected


@pytest.mark.parametrize("stop", [("\nObservation",), "Observation:", (), ("e", "a")])
def test_it_stops_at_the_same_place(plain, fast, stop):
    for prompt in prompts(4):
        assert fast.complete(prompt, 48, stop) == plain.complete(prompt, 48, stop)


def test_the_limit_is_in_tokens_and_messages_go_through_the_template(plain, fast):
    prompt = prompts(1)[0]
    assert fast.complete(prompt, 3) == plain.complete(prompt, 3)
    messages = [{"role": "user", "content": "Where is order 1042?"}]
    assert fast.chat(messages, max_new_tokens=32) == plain.chat(messages, max_new_tokens=32)


def test_samples_and_batches_are_those_of_transformers(plain, fast, monkeypatch):
    monkeypatch.setattr(llama_cpp.Engine, "write", None)  # would fail if it were asked
    two = prompts(2)
    assert fast.complete_many(two, 16) == plain.complete_many(two, 16)
    assert fast.complete(two[0], 16, temperature=1.0, seed=5) == plain.complete(two[0], 16, temperature=1.0, seed=5)


def test_a_token_takes_less_than_half_the_time(plain, fast):
    prompt = prompts(1)[0]

    def taken(chat):
        began = time.process_time()
        chat.complete(prompt, 64)
        return time.process_time() - began

    taken(plain), taken(fast)  # both warm up
    assert min(taken(fast) for _ in range(3)) < 0.5 * min(taken(plain) for _ in range(3))


@pytest.mark.parametrize(("prompt", "words"), [("", "is empty"), ("cube " * 1100, "shorten the prompt")])
def test_what_the_model_cannot_read_is_refused_in_the_same_words(plain, fast, prompt, words):
    for chat in (plain, fast):
        with pytest.raises(ValueError, match=words):
            chat.complete(prompt, 8)


def test_what_the_engine_refuses_is_said(fast):
    with pytest.raises(ValueError, match="llama.cpp refuses the prompt: .*1024"):
        fast.engine.write([5] * 2000, 8, [])


def test_it_says_nothing_leaves_nothing_and_its_port_needs_a_key(plain, capfd):
    pytest.importorskip("xllamacpp")
    chat = llama_cpp.through_llama_cpp(plain, FOLDER)
    chat.complete(prompts(1)[0], 4)
    address, place = chat.engine.server.listening_address, Path(chat.place.name)
    reply = httpx.post(f"{address}/v1/completions", json={"prompt": "hi"}, trust_env=False)
    assert reply.status_code == 401 and address.startswith("http://127.0.0.1:")
    assert place.exists()
    del chat
    assert not place.exists() and capfd.readouterr() == ("", "")


def test_a_file_that_llama_cpp_cannot_read_is_an_error(tmp_path):
    pytest.importorskip("xllamacpp")
    broken = tmp_path / "model.gguf"
    broken.write_bytes(b"GGUF, or so")
    with pytest.raises(RuntimeError):
        llama_cpp.Engine(broken, 256)


def test_without_the_package_transformers_answers_and_that_is_said(plain, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = []
    assert llama_cpp.through_llama_cpp(plain, FOLDER, said.append) is plain
    assert "xllamacpp" in said[0] and "four times as long" in said[0] and colab.how_to_add("xllamacpp") in said[0]


def test_a_folder_that_is_no_llama_is_refused(plain, tmp_path):
    pytest.importorskip("xllamacpp")
    with pytest.raises(ValueError):
        llama_cpp.through_llama_cpp(plain, tmp_path)
