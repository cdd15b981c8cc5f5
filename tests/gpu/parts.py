"""The parts of prove.py, each run as `python tests/gpu/parts.py NAME`. With --rehearse: in small, on a CPU.

A part returns what can be written as JSON. It raises where the card contradicts the course.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from prove import MARK, ROOT

T4_GIB = 14.56  # what PyTorch may use of a T4's 15,360 MiB: the driver keeps the rest
T4_CAPABILITY = (7, 5)
CLOSE = 0.05  # how far the simulated peak may be from the measured one


def doctor(small: bool) -> dict[str, Any]:
    """What `course doctor` finds, and the card."""
    from course_utils import doctor

    checks = doctor.examine()
    return {"card": card(), "checks": doctor.as_dict(checks)}


def card() -> dict[str, Any]:
    """The card, or that there is none, and the libraries that decide its speed."""
    import torch

    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if not torch.cuda.is_available():
        return versions | {"name": "none"}
    facts = torch.cuda.get_device_properties(0)
    return versions | {"name": facts.name, "GiB": facts.total_memory / 2**30, "capability": [facts.major, facts.minor]}


def memory(small: bool) -> dict[str, Any]:
    """Peaks of steps by formula, simulated, and measured; fails if one simulation is more than CLOSE off."""
    from course_utils.memory import measurement
    from course_utils.models import loaders

    loaders.quiet_libraries()
    in_seconds = [step for step in measurement.small_steps() if step.dtype == measurement.quick_dtype()]
    steps = in_seconds[:1] if small else measurement.large_steps()
    found = measurement.compare(steps, cuda=not small)
    rows = [one.row() for one in found]
    worst = max(abs(one.error) for one in found)
    print(json.dumps(rows, indent=1))
    if worst > CLOSE:
        raise AssertionError(f"a simulation is {worst:.1%} off; at most {CLOSE:.0%} are promised")
    return {"worst error": worst, "rows": rows}


def dryrun(small: bool) -> dict[str, Any]:
    """QLoRA at 7B with the full tier's own code (NF4, double quantised, paged optimiser), and plain code beside it."""
    from course_utils.finetuning import dryrun
    from course_utils.models import hardware

    machine = hardware.detect("bundled")
    size = {"layers": 1, "steps": 1, "tokens": 64} if small else {"steps": 8, "tokens": 512}
    report = dryrun.run(machine, plain=True, **size)
    print(report)
    return dataclasses.asdict(report) | {"dtype": machine.dtype}


def as_a_t4(small: bool) -> dict[str, Any]:
    """The same on no more memory than a T4 has, in fp16, without bfloat16 and without FlashAttention."""
    import torch

    from course_utils.finetuning import dryrun
    from course_utils.models import hardware

    machine = hardware.detect("bundled")
    if not small:
        whole = torch.cuda.get_device_properties(0).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(T4_GIB / whole)
        torch.backends.cuda.enable_flash_sdp(False)  # needs compute capability 8.0
        torch.backends.cuda.enable_cudnn_sdp(False)
        dtype, reason = hardware.usable_dtype("cuda", T4_CAPABILITY)
        memory = {"gpu_total_gb": T4_GIB, "gpu_free_gb": T4_GIB}
        machine = dataclasses.replace(machine, dtype=dtype, dtype_reason=reason, capability=T4_CAPABILITY, **memory)
    size = {"layers": 1, "steps": 1, "tokens": 64} if small else {"steps": 4, "tokens": 512}
    report = dryrun.run(machine, **size)
    print(report)
    if any(loss != loss for loss in report.losses):
        raise AssertionError(f"the loss is no number: {report.losses}")
    return dataclasses.asdict(report) | {"dtype": machine.dtype}


def tests(small: bool) -> dict[str, Any]:
    """The tests marked `gpu`: each with its outcome, and the message of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "tests.xml")
        words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", f"--junitxml={report}"]
        done = subprocess.run(words, cwd=ROOT, check=False, env=os.environ | {"COURSE_GPU_REHEARSAL": str(int(small))})
        found = [read_case(case) for case in ElementTree.parse(report).iter("testcase")]
    if done.returncode or not found:
        raise AssertionError(f"pytest's exit code is {done.returncode}: {json.dumps(found, indent=1)}")
    return {"cases": found}


def read_case(case: ElementTree.Element) -> dict[str, str]:
    """Name and outcome of a case in pytest's report."""
    outcomes = {child.tag: child.get("message", "") for child in case}
    for tag in ("failure", "error", "skipped"):
        if tag in outcomes:
            return {"name": case.get("name", ""), "outcome": tag, "message": outcomes[tag][:500]}
    return {"name": case.get("name", ""), "outcome": "passed"}


def run_notebook(name: str) -> dict[str, Any]:
    """A notebook from top to bottom with the bundled models, on the device that is here: seconds, memory."""
    from rich.console import Console

    from course_utils.workshop import runner

    with tempfile.TemporaryDirectory() as folder:
        results = runner.run(runner.resolve([name]), "bundled", Path(folder), console=Console())
    (result,) = results
    if result.failure:
        raise AssertionError(runner.describe(result))
    return dataclasses.asdict(result)


def a_notebook(name: str) -> Callable[[bool], dict[str, Any]]:
    """The part that runs a notebook; the start page in the rehearsal."""
    return lambda small: run_notebook("0_start_here" if small else name)


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "doctor": doctor,
    "memory": memory,
    "dryrun": dryrun,
    "as_a_t4": as_a_t4,
    "tests": tests,
    "notebook_7_5": a_notebook("7.5_finetuning"),
    "notebook_7_1": a_notebook("7.1_multimodal_ai"),
    "notebook_7_3": a_notebook("7.3_research_directions"),
}


def main() -> None:
    """Runs one part and prints its result as JSON behind MARK."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("part", choices=PARTS)
    options.add_argument("--rehearse", action="store_true")
    chosen = options.parse_args()
    if not chosen.rehearse:
        need_a_card()
    found = PARTS[chosen.part](chosen.rehearse)
    print(MARK + json.dumps(found))


def need_a_card() -> None:
    """Ends this process where there is no card to prove anything on."""
    import torch

    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no NVIDIA card here. `--rehearse` runs every part in small on a CPU.")


if __name__ == "__main__":
    main()
