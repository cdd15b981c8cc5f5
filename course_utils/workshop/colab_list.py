"""The proof, against Colab's published list, that installing the course changes nothing there."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.colab import fits, frozen, requirements, wanted
from course_utils.settings import DATA

if TYPE_CHECKING:
    from packaging.requirements import Requirement


FREEZE = DATA / "colab-freeze.gpu.txt"
MISSING = DATA / "colab-missing.json"  # what pip adds on Colab, with the requirements of each
SOURCE_ONLY = ("openai-whisper", "rouge-score")
# Colab's Python. Markers such as `python_version < "3.12"` are judged with it.
ENVIRONMENT = {
    "python_version": "3.13",
    "python_full_version": "3.13.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "extra": "",
}


def colab_packages(path: Path = FREEZE) -> dict[str, str]:
    """Name (normalised) -> version from Colab's published list."""
    from packaging.utils import canonicalize_name

    packages = {}
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        pin = line.strip()
        if pin and not pin.startswith("#"):
            name, version = pin.split("==", 1)
            packages[canonicalize_name(name)] = version
    return packages


HEAD = """\
# The packages of Colab's GPU runtime (Python {python}), from the list that Colab publishes:
# pip-freeze.gpu.txt in https://github.com/googlecolab/backend-info, as of {day}.
# Left out: those it installs from an address instead of a version.
"""


def take(published: Path, day: str) -> list[str]:
    """Make Colab's `published` list, as of `day` (2026-08-19), the course's own; returns what changed, line by line.

    ValueError for a file that is no such list, or a day that is none.
    """
    date.fromisoformat(day)
    lines = published.read_text(encoding="utf-8").splitlines()
    pins = [line.strip() for line in lines if "==" in line and " @ " not in line]
    if len(pins) < 100 or not any(pin.startswith("torch==") for pin in pins):
        raise ValueError(f"{published} is no list of Colab's packages: it has {len(pins)} pins, and torch is needed.")
    before = colab_packages(FREEZE)
    text = HEAD.format(python=ENVIRONMENT["python_version"], day=day) + "\n".join(pins) + "\n"
    FREEZE.write_text(text, encoding="utf-8", newline="\n")
    after = colab_packages(FREEZE)
    names = sorted(before.keys() | after.keys())
    return [
        f"{name}: {before.get(name)} then, {after.get(name)} now"
        for name in names
        if before.get(name) != after.get(name)
    ]


def conflicts(
    wanted: list[Requirement] | None = None,
    colab: Mapping[str, str] | None = None,
    added: Mapping[str, dict] | None = None,
) -> list[str]:
    """What would go wrong on Colab, one line each; an empty list means that nothing there has to change.

    Follows every requirement (`wanted`, default the course's): it must be met by Colab's own version, or by
    one of the packages that pip adds (`added`, default data/colab-missing.json), whose own requirements are
    followed in turn. A package of Colab's is never asked for its requirements: it is there and works.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    colab = colab_packages() if colab is None else colab
    added = _recorded() if added is None else added
    wanted = requirements() if wanted is None else wanted
    versions = {name: about["version"] for name, about in added.items()}
    versions.update(colab)
    todo = [("the course", need) for need in wanted]
    faults, seen = [], set()
    while todo:
        source, need = todo.pop()
        if not _applies(need):
            continue
        name = canonicalize_name(need.name)
        version = versions.get(name)
        if version is None:
            faults.append(f"{source} needs {need}: not on Colab and not in {MISSING.name}")
        elif not fits(need, version):
            faults.append(f"{source} needs {need}: {version} on Colab would have to change")
        elif name not in colab and name not in seen:
            seen.add(name)
            todo += [(name, Requirement(line)) for line in added[name]["requires"]]
    return faults


def _recorded() -> dict[str, dict]:
    """What pip adds on Colab, as `record` has written it."""
    text = MISSING.read_text(encoding="utf-8")
    return json.loads(text)["packages"]


def _applies(need: Requirement) -> bool:
    """Whether a requirement counts on Colab: some are for Windows or an older Python."""
    return need.marker is None or need.marker.evaluate(ENVIRONMENT)


def record() -> dict[str, dict]:
    """Asks pip (network) what it would add on Colab, and writes it to data/colab-missing.json.

    Run it after the requirements or Colab's list have changed: python -m course_utils.workshop.colab_list record
    """
    from packaging.utils import canonicalize_name

    packages = {}
    for item in _ask_pip()["install"]:
        about = item["metadata"]
        name = canonicalize_name(about["name"])
        needs = about.get("requires_dist", [])
        always = [line for line in needs if "extra ==" not in line]
        packages[name] = {"version": about["version"], "requires": sorted(always)}
    added = {name: packages[name] for name in _reached(packages, colab_packages())}
    content = {"python": ENVIRONMENT["python_version"], "packages": added}
    text = json.dumps(content, indent=1) + "\n"
    MISSING.write_text(text, encoding="utf-8", newline="\n")
    return added


def _ask_pip() -> dict:
    """pip's report of a dry run for Colab's Python, with Colab's versions as constraints."""
    pip = [sys.executable, "-m", "pip"]
    needed = [str(need) for need in requirements()]
    # A dry run for another Python takes wheels only, and these come as source.
    sources = [str(need) for need in requirements() if need.name in SOURCE_ONLY]
    with tempfile.TemporaryDirectory() as folder:
        keep, nowhere, report = (Path(folder, name) for name in ("keep.txt", "nowhere", "report.json"))
        keep.write_text("\n".join(constraints()), encoding="utf-8")
        subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", folder, *sources], check=True)
        target = ["--target", str(nowhere), "--report", str(report)]
        python = ["--python-version", ENVIRONMENT["python_version"], "--only-binary=:all:"]
        options = ["-q", "--dry-run", *python, *target, "--find-links", folder, "-c", str(keep)]
        subprocess.run([*pip, "install", *options, *needed], check=True)
        text = report.read_text(encoding="utf-8")
    return json.loads(text)


def _reached(packages: Mapping[str, dict], colab: Mapping[str, str]) -> list[str]:
    """The names that pip really adds: not on Colab, and needed by the course or by another added one."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    todo, found = requirements(), set()
    while todo:
        need = todo.pop()
        name = canonicalize_name(need.name)
        if name in colab or name in found or not _applies(need):
            continue
        found.add(name)
        todo += [Requirement(line) for line in packages[name]["requires"]]
    return sorted(found)


def test_requirements() -> list[str]:
    """What `make colab` installs: the course, its tests, and what its libraries look for, in Colab's versions."""
    there = colab_packages()
    needs = requirements()
    needs += [need for need in wanted("test") if need.name != "genai-course"]
    lines = [str(need) for need in needs]
    # PEFT looks for torchao without declaring it, transformers for TensorFlow: both are on Colab.
    lines += [name for name in ("torchao", "tensorflow") if name in there]
    return lines


def constraints() -> list[str]:
    """Colab's versions as pip takes them; its builds for CUDA 12 ("+cu128") exist on Colab only."""
    plain = {}
    for name, version in colab_packages().items():
        if not name.startswith(("nvidia-", "cuda-")):
            plain[name] = version.split("+")[0]
    return frozen(plain)


if __name__ == "__main__":
    commands = {"constraints": constraints, "requirements": test_requirements, "record": record}
    match sys.argv[1:]:
        case ["take", published, day]:
            lines = take(Path(published), day)
        case [name] if name in commands:
            lines = commands[name]()
        case _:
            sys.exit(f"Say one of {', '.join(commands)}, or: take FILE DAY (as 2026-08-19).")
    print("\n".join(lines))
