"""`counting.count` in a process of its own: offline, and with a limit in time and memory.

A configuration comes from anywhere, and libraries follow it: to lists of any length, to folders, to a hub. What it
asks for stays in this process, which sees no network and ends. Only what was counted so is simulated by the caller.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from course_utils.memory.configs import NotCountedError
from course_utils.memory.counting import CacheLayer, Counted, count

SECONDS = 120  # the largest models take 10 of them on a laptop, half of it to import the libraries
MOST_MEMORY = 16 * 2**30  # bytes of addresses, of which libraries for graphics cards take many


def count_apart(config: Mapping, dtype: str = "bfloat16", seconds: float = SECONDS) -> Counted:
    """`counting.count`, ended after `seconds`. NotCountedError as there, and if it takes too much time or memory."""
    asked = json.dumps({"config": config, "dtype": dtype})
    closed = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=asked,
            env=os.environ | closed,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise NotCountedError(
            f"The model of this configuration could not be counted in {seconds:g} s: its sizes are too large. "
            "Compare it with the publisher's config.json."
        ) from error
    last = done.stderr.strip()[-200:]
    if done.returncode:
        raise NotCountedError(
            "The process that counted this model ended without an answer: the configuration asks for more than this "
            f"machine has ({last or done.returncode}). Compare it with the publisher's."
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    if "problem" in answer:
        raise NotCountedError(answer["problem"])
    return _restored(answer)


def _restored(answer: dict) -> Counted:
    """A `Counted` from JSON, in which lists stand for tuples."""
    cache = tuple(CacheLayer(**layer) for layer in answer.pop("cache"))
    rows = {name: tuple(map(tuple, answer.pop(name))) for name in ("towers", "linear", "tower_linear")}
    notes = tuple(answer.pop("notes"))
    return Counted(cache=cache, notes=notes, **rows, **answer)


def _limit_memory() -> None:
    """Where the operating system can: what asks for more gets an error instead of this machine's last memory."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def _answer(asked: dict) -> dict:
    """What the process of its own writes."""
    from course_utils.models import offline

    offline.close_sockets()
    _limit_memory()
    try:
        return asdict(count(asked["config"], asked["dtype"]))
    except (NotCountedError, MemoryError) as error:
        return {"problem": str(error) or "The configuration asks for more memory than there is."}


if __name__ == "__main__":
    from course_utils.models.loaders import quiet_libraries

    quiet_libraries()
    print(json.dumps(_answer(json.load(sys.stdin))))
