"""The programs that can serve a model: where they are, how they are started, and what they can serve."""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

from course_utils.models import gguf_header, llama_cpp
from course_utils.serving.settings import KEY, LLAMA_KEY, LOOPBACK
from course_utils.settings import ROOT

VLLM_PLACE = ROOT / ".venv-vllm"  # where `course setup vllm` puts it
VLLM = "COURSE_VLLM"  # names the folder of the environment that vLLM is in
# What the reader's own environment may set otherwise: vLLM on a CPU takes 4 GiB for its cache, and it reports its use.
DEFAULTS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
MOST_TOKENS = 8192  # for each of several users: some models could take a million, and their cache no machine


class Unservable(ValueError):
    """A model that a server could not load; the message says what is missing."""


def find(backend: str) -> list[str] | None:
    """How a backend's program is called on this machine, None if it is not there. ValueError for a strange one."""
    if backend == "transformers":
        return [sys.executable, "-P", "-m", "course_utils.serving"]
    if backend == "vllm":
        return find_vllm()
    if backend == "llama.cpp":
        return find_llama_cpp()
    raise ValueError(f"no backend {backend!r} to start; there are transformers, vllm and llama.cpp")


def find_llama_cpp() -> list[str] | None:
    """The program `llama-server`, or else llama.cpp's server out of the package xllamacpp."""
    found = shutil.which("llama-server")
    if found:
        return [found]
    if llama_cpp.is_installed():
        return [sys.executable, "-P", "-m", "course_utils.serving.llama_server"]
    return None


def find_vllm() -> list[str] | None:
    """vLLM in the environment that COURSE_VLLM names, or else in `.venv-vllm` beside the course, here, or on the path.

    Its module, where there is a Python beside it: the script `vllm` fails with the package for CPUs.
    """
    module = ["-P", "-m", "vllm.entrypoints.openai.api_server"]
    named = os.environ.get(VLLM)
    python = python_of(Path(named) if named else VLLM_PLACE)
    if python:
        return [str(python), *module]
    if named:
        return None
    if importlib.util.find_spec("vllm"):
        return [sys.executable, *module]
    script = shutil.which("vllm")
    if script is None:
        return None
    # Not resolved: the Python of an environment is a link to one outside it.
    beside = Path(script).with_name("python.exe" if os.name == "nt" else "python")
    return [str(beside), *module] if beside.exists() else [script, "serve"]


def python_of(environment: Path) -> Path | None:
    """The Python of a virtual environment."""
    for place in ("bin/python", "Scripts/python.exe"):
        if (environment / place).exists():
            return environment / place
    return None


def missing(backend: str) -> str:
    """What to say when `find` found nothing."""
    named = os.environ.get(VLLM)
    if backend == "vllm" and named:
        return f"{VLLM} names {named}, and there is no Python in that folder: name a virtual environment with vLLM."
    if backend == "vllm":
        there = f"If it is in an environment, name its folder in {VLLM}."
        return f"The program `vllm` is not on this machine. {there} `course setup vllm` makes such an environment."
    return f"The program `llama-server` is not on this machine, and {llama_cpp.missing()}"


def command(
    backend: str, program: list[str], model: Path, port: int, small: bool, users: int = 1
) -> tuple[list[str], str, str]:
    """How to start `program` for `model` on `port`: the command, the model's name, the key's variable.

    For so many `users` at once llama.cpp sets memory aside when it starts: a whole conversation for each.
    """
    place = ["--host", LOOPBACK, "--port", str(port)]
    if backend == "transformers":
        return [*program, model.name, "--port", str(port)], model.name, KEY
    if backend == "vllm":
        named = [model.name] if program[-1] == "serve" else ["--model", model.name]
        exact = ["--dtype", "float32"] if small else []  # as the others calculate, so that answers can be compared
        return [*program, *named, *place, *exact], model.name, "VLLM_API_KEY"
    # Two threads wait for each other longer than they work on a small model, and on busy cores do not finish.
    more = ["--threads", "1", "--threads-batch", "1"] if small else []
    if users > 1:
        more += ["--parallel", str(users), "--ctx-size", str(users * conversation(model))]
    return [*program, "-m", model.name, "--alias", model.stem, *place, *more], model.stem, LLAMA_KEY


def conversation(model: Path) -> int:
    """Tokens of the longest conversation that a GGUF file is served with, when it is served to many."""
    header = gguf_header.read(model)
    known = header.metadata.get(f"{header.architecture}.context_length")
    return min(known or MOST_TOKENS, MOST_TOKENS)


def check_model(model: Path, backend: str) -> None:
    """Unservable if a server could not load `model`: found here in milliseconds, and there after half a minute."""
    if not model.exists():
        raise Unservable(f"There is no model at {model}.")
    if backend == "llama.cpp":
        check_gguf(model)
    elif model.is_dir():
        check_folder(model)
    elif backend == "transformers":
        raise Unservable(f"{model.name} is a file: transformers serves the folder that a model is saved in.")


def check_gguf(model: Path) -> None:
    if model.is_dir():
        raise Unservable(f"{model.name} is a folder: llama.cpp serves a GGUF file.")
    with model.open("rb") as file:
        begins = file.read(4)
    if begins != b"GGUF":
        raise Unservable(f"{model.name} is no GGUF file: it begins with {begins!r}. Write or download it again.")


def check_folder(model: Path) -> None:
    config = read_object(model / "config.json")
    if "model_type" not in config:
        raise Unservable(f"{model.name}: config.json names no model_type, so nothing can load the model.")
    if not any((model / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise Unservable(f"{model.name} has no tokenizer (tokenizer.json): save it into the same folder.")
    for name in weight_files(model):
        check_weights(model / name)


def read_object(path: Path) -> dict:
    """The JSON object in a file of a model."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise Unservable(f"{path.parent.name} has no {path.name}: this is not the folder of a saved model.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Unservable(f"{path.parent.name}: {path.name} cannot be read ({type(error).__name__}).") from None
    if not isinstance(value, dict):
        raise Unservable(f"{path.parent.name}: {path.name} is no JSON object.")
    return value


def weight_files(model: Path) -> list[str]:
    """The names of the files that hold a model's weights."""
    index = model / "model.safetensors.index.json"
    if index.exists():
        parts = read_object(index).get("weight_map")
        if isinstance(parts, dict) and parts:
            return sorted(set(map(str, parts.values())))
        raise Unservable(f"{model.name}: {index.name} names no weights.")
    names = sorted(path.name for path in model.glob("*.safetensors"))
    if not names:
        raise Unservable(f"{model.name} has no weights (*.safetensors).")
    return names


def check_weights(path: Path) -> None:
    """Unservable if a safetensors file is missing or not whole; its numbers are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except FileNotFoundError:
        raise Unservable(f"{path.parent.name}: {path.name} is missing. Download or save the model again.") from None
    except (OSError, SafetensorError) as error:
        again = "Delete it, and download or save the model again"
        raise Unservable(f"{path.parent.name}: {path.name} is not whole ({error}). {again}.") from None
