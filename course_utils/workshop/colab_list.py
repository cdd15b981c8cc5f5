"""The proof, against Colab's published list, that installing the course changes nothing there."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.colab import fits, frozen, requirements, wanted
from course_utils.settings import DATA

if TYPE_CHECKING:
    from packaging.requirements import Requirement


FREEZE = DATA / "colab-freeze.gpu.txt"
MISSING = DATA / "colab-missing.json"  # what pip adds on Colab, with the requirements of each
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

    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==", 1) for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


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
    added = json.loads(MISSING.read_text(encoding="utf-8"))["packages"] if added is None else added
    todo = [("the course", r) for r in (requirements() if wanted is None else wanted)]
    faults, seen = [], set()
    while todo:
        source, need = todo.pop()
        name = canonicalize_name(need.name)
        version = colab.get(name) or added.get(name, {}).get("version")
        if need.marker is not None and not need.marker.evaluate(ENVIRONMENT):
            continue
        if version is None:
            faults.append(f"{source} needs {need}: not on Colab and not in {MISSING.name}")
        elif not fits(need, version):
            faults.append(f"{source} needs {need}: {version} on Colab would have to change")
        elif name not in colab and name not in seen:
            seen.add(name)
            todo += [(name, Requirement(line)) for line in added[name]["requires"]]
    return faults


def record() -> dict[str, dict]:
    """Asks pip (network) what it would add on Colab, and writes it to data/colab-missing.json.

    Run it after the requirements or Colab's list have changed: python -m course_utils.workshop.colab_list record
    """
    from packaging.utils import canonicalize_name

    packages = {}
    for item in _ask_pip()["install"]:
        about = item["metadata"]
        name = canonicalize_name(about["name"])
        needs = [line for line in about.get("requires_dist", []) if "extra ==" not in line]
        packages[name] = {"version": about["version"], "requires": sorted(needs)}
    reached = _reached(packages, colab_packages())
    content = {"python": ENVIRONMENT["python_version"], "packages": {n: packages[n] for n in reached}}
    MISSING.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")
    return content["packages"]


def _ask_pip() -> dict:
    """pip's report of a dry run for Colab's Python, with Colab's versions as constraints."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "keep.txt").write_text("\n".join(constraints()) + "\n", encoding="utf-8")
        # A dry run for another Python takes wheels only, and these come as source.
        sources = [str(r) for r in requirements() if r.name in ("openai-whisper", "rouge-score")]
        pip = [sys.executable, "-m", "pip"]
        subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", folder, *sources], check=True)
        target = ["--target", str(here / "nowhere"), "--report", str(here / "report.json")]
        python = ["--python-version", ENVIRONMENT["python_version"], "--only-binary=:all:"]
        options = ["-q", "--dry-run", *python, *target, "--find-links", folder, "-c", str(here / "keep.txt")]
        subprocess.run([*pip, "install", *options, *(str(r) for r in requirements())], check=True)
        return json.loads((here / "report.json").read_text(encoding="utf-8"))


def _reached(packages: Mapping[str, dict], colab: Mapping[str, str]) -> list[str]:
    """The names that pip really adds: not on Colab, and needed by the course or by another added one."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    todo, found = requirements(), set()
    while todo:
        need = todo.pop()
        name = canonicalize_name(need.name)
        if name in colab or name in found or (need.marker and not need.marker.evaluate(ENVIRONMENT)):
            continue
        found.add(name)
        todo += [Requirement(line) for line in packages[name]["requires"]]
    return sorted(found)


def test_requirements() -> list[str]:
    """What `make colab` installs: the course, its tests, and what its libraries look for, in Colab's versions."""
    there = colab_packages()
    needed = [str(r) for r in requirements()]
    needed += [str(r) for r in wanted("test") if r.name != "genai-course"]
    # PEFT looks for torchao without declaring it, transformers for TensorFlow: both are on Colab.
    needed += [name for name in ("torchao", "tensorflow") if name in there]
    return needed


def constraints() -> list[str]:
    """Colab's versions as pip takes them; its builds for CUDA 12 ("+cu128") exist on Colab only."""
    builds = ("nvidia-", "cuda-")
    plain = {name: version.split("+")[0] for name, version in colab_packages().items()}
    return frozen({name: version for name, version in plain.items() if not name.startswith(builds)})


if __name__ == "__main__":
    commands = {"constraints": constraints, "requirements": test_requirements, "record": record}
    print("\n".join(commands[sys.argv[1]]()))
