"""What the course claims about NVIDIA cards, proved on one in minutes: memory, speed, a T4's conditions, notebooks.

    python tests/gpu/prove.py                  # on the card; writes build/gpu.json, 8 minutes at most
    python tests/gpu/prove.py --rehearse       # the same calls in small, on a CPU: before a card is rented

Run it from the repository's root. Each part (parts.py) runs in a process of its own with a time limit, so that one
that fails or hangs takes nothing from the others, and the file is written anew after each. README.md in this folder
holds what came out, by card and date.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
REPORT = ROOT / "build" / "gpu.json"
MINUTES = 8.0
LEAST = 20.0  # seconds below which no part is begun: it would only import its libraries
WORDS_KEPT = 3000  # of what a part wrote that failed
MARK = "RESULT "  # begins the line that holds a part's JSON, whatever libraries print around it

# What is worth most comes first: where time runs out, the rest is missing, and the report says so. Limits in seconds.
LIMITS = {
    "doctor": 60,
    "memory": 150,
    "dryrun": 100,
    "as_a_t4": 90,
    "tests": 90,
    "notebook_7_5": 120,
    "notebook_7_1": 120,
    "notebook_7_3": 90,
}
Outcome = dict[str, Any]


def prove(names: list[str], report: Path, minutes: float, run: Callable[[str, float], Outcome]) -> Outcome:
    """Runs the parts `names` one after the other, for `minutes` in all; writes `report` after each and returns it."""
    end = time.monotonic() + 60 * minutes
    content: Outcome = {"date": time.strftime("%Y-%m-%d"), "parts": {}}
    for name in names:
        left = end - time.monotonic()
        limit = min(LIMITS[name], left)
        outcome = run(name, limit) if left > LEAST else {"failed": "no time was left"}
        content["parts"][name] = outcome
        write(content, report)
        print(line(name, outcome), flush=True)
    return content


def in_small(name: str, limit: float) -> Outcome:
    """The part's rehearsal; nothing is as slow as a CPU, so it has ten times the limit."""
    return in_its_own_process([*command(name), "--rehearse"], 10 * limit)


def on_the_card(name: str, limit: float) -> Outcome:
    return in_its_own_process(command(name), limit)


def command(name: str) -> list[str]:
    """What runs the part called `name`."""
    return [sys.executable, str(HERE / "parts.py"), name]


def in_its_own_process(words: list[str], limit: float) -> Outcome:
    """What the command `words` found and its seconds; or how it failed, and the end of what it wrote."""
    began = time.monotonic()
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": search_path(), "COURSE_PROGRESS": "off", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        end_family(process)
        said, _ = process.communicate()
        return {"failed": f"took longer than {limit:.0f} s", "said": said[-WORDS_KEPT:]}
    seconds = round(time.monotonic() - began, 1)
    found = result_in(said)
    if process.returncode or found is None:
        return {"failed": f"exit code {process.returncode}", "seconds": seconds, "said": said[-WORDS_KEPT:]}
    return {"seconds": seconds, "found": found}


def search_path() -> str:
    """The course, then what the caller has put there: packages that the machine lacks."""
    given = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{given}" if given else str(ROOT)


def end_family(process: subprocess.Popen) -> None:
    """Ends a process and all that it started, kernels with a session of their own among them."""
    import psutil

    members = [*psutil.Process(process.pid).children(recursive=True), process]
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def result_in(said: str) -> Any:
    """The JSON behind MARK in what a part wrote; None if there is none."""
    lines = [text for text in said.splitlines() if text.startswith(MARK)]
    return json.loads(lines[-1].removeprefix(MARK)) if lines else None


def write(content: Outcome, report: Path) -> None:
    """Writes `report` in one step, so that an interrupted run leaves the last whole one."""
    report.parent.mkdir(parents=True, exist_ok=True)
    draft = report.with_suffix(".new")
    draft.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    draft.replace(report)


def line(name: str, outcome: Outcome) -> str:
    """What to print of a part."""
    if "failed" in outcome:
        return f"{name}: FAILED, {outcome['failed']}\n{outcome.get('said', '')}"
    return f"{name}: {outcome['seconds']} s"


def main() -> int:
    """The exit code: 0 if every part ended well."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", metavar="PART", help=f"all if left out: {', '.join(LIMITS)}")
    options.add_argument("--rehearse", action="store_true", help="in small, on a CPU, without a time limit in all")
    options.add_argument("--minutes", type=float, default=MINUTES, help="in all, %(default)s if left out")
    options.add_argument("--out", type=Path, default=REPORT, help="the JSON file, build/gpu.json if left out")
    chosen = options.parse_args()
    if unknown := set(chosen.parts) - set(LIMITS):
        options.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(LIMITS)}")
    run, minutes = (in_small, 60.0) if chosen.rehearse else (on_the_card, chosen.minutes)
    content = prove(chosen.parts or list(LIMITS), chosen.out, minutes, run)
    failed = [name for name, outcome in content["parts"].items() if "failed" in outcome]
    print(f"Written: {chosen.out}. Failed: {', '.join(failed) or 'nothing'}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
