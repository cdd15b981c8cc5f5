"""The course in Colab: the badge, the first code cell, and an installation that changes nothing.

Colab brings its own torch, numpy and the rest. When pip replaces one of them, the runtime has to restart and
the student is lost (dandi/example-notebooks#159). So only what is missing is installed, under the constraint
that everything which is there stays as it is. `resolve` proves the same against Colab's published list.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.settings import BRANCH, DATA, NOTEBOOKS, REPOSITORY, ROOT

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
CELL = re.compile(r"(?m)^(?=# %%)")
BADGE = re.compile(r"(?m)^# \[!\[Open In Colab\].*$")
COLAB_ADDRESS = re.compile(r"https://colab\.research\.google\.com/github/[^/\s]+/[^/\s]+/blob/[^/\s]+/")
CLONE = re.compile(r"git clone https://github\.com/\S+")
# What to do where a hosted machine reaches nobody.
SWITCH = "On Kaggle: Settings, Internet, On. Then run this cell again."
FOR_DEVELOPERS = ("lab", "test", "dev")  # extras that make no sense on a hosted machine


# The badge and the first code cell


def address() -> str:
    """The address of the repository, from the one setting that names it."""
    return f"https://github.com/{REPOSITORY}"


def badge(notebook_name: str) -> str:
    """The Markdown of the button that opens `notebook_name` ("7.1_multimodal_ai") in Colab."""
    name = notebook_name.removesuffix(".py").removesuffix(".ipynb")
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    page = f"https://colab.research.google.com/github/{REPOSITORY}/blob/{BRANCH}/notebooks/{name}.ipynb"
    return f"[![Open In Colab]({image})]({page})"


def bootstrap_source() -> str:
    """The text of the first code cell: finds the course's files, in Colab fetches and completes them."""
    folder = REPOSITORY.split("/")[1]
    return f"""# Finds the course's files. Colab and Kaggle fetch them and install what is missing (network).
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

SOURCE, FOLDER = "{address()}", "{folder}"
hosted = "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
if importlib.util.find_spec("course_utils") is None:
    places = [*(Path.cwd(), *Path.cwd().parents), Path.cwd() / FOLDER]
    root = next((p for p in places if (p / "course_utils").is_dir()), None)
    if root is None and hosted:
        print("Fetching the course from", SOURCE)
        clone = ["git", "clone", "-q", "--depth", "1", "-b", "{BRANCH}", SOURCE, FOLDER]
        if subprocess.run(clone).returncode:
            raise ConnectionError("{SWITCH}")
        root = Path.cwd() / FOLDER
    if root is None:
        raise FileNotFoundError(f"Open this notebook inside the course: git clone {{SOURCE}}")
    sys.path.insert(0, str(root))
from course_utils import colab

colab.prepare(install=hosted)"""


def rewrite_links(folder: Path = NOTEBOOKS, check: bool = False) -> list[Path]:
    """Puts the badge and the first cell of today's settings into `folder`'s text sources and the README.

    Returns the files that changed. With `check` nothing is written and the list says what would change.
    """
    changed = []
    for path in [*sorted(folder.glob("*.py")), folder.parent / "README.md"]:
        if not path.is_file():
            continue
        old = path.read_text(encoding="utf-8")
        new = _relink(old, path.stem) if path.suffix == ".py" else _readdress(old)
        if new != old:
            changed.append(path)
            if not check:
                path.write_text(new, encoding="utf-8", newline="\n")
    return changed


def _readdress(text: str) -> str:
    """A Markdown page with the addresses of Colab and of the repository from the settings."""
    text = COLAB_ADDRESS.sub(f"https://colab.research.google.com/github/{REPOSITORY}/blob/{BRANCH}/", text)
    return CLONE.sub(f"git clone {address()}", text)


def _relink(text: str, name: str) -> str:
    """The text source of the notebook `name` with its badge and bootstrap cells renewed."""
    return "".join(_relink_cell(cell, name) for cell in CELL.split(text))


def _relink_cell(cell: str, name: str) -> str:
    """One py:percent cell, renewed if it is tagged "badge" or "bootstrap"."""
    head, _, body = cell.partition("\n")
    if '"badge"' in head:
        line = f"# {badge(name)}"
        renewed = BADGE.sub(lambda _: line, body) if BADGE.search(body) else f"{body.rstrip()}\n#\n{line}\n\n"
        return f"{head}\n{renewed}"
    if '"bootstrap"' in head:
        return f"{head}\n{bootstrap_source()}\n\n"
    return cell


# What is missing, and how it is installed


def host() -> str:
    """ "Colab" or "Kaggle" on their machines, "" on the reader's own."""
    if "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ:
        return "Colab"
    return "Kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else ""


def project() -> dict[str, Any]:
    """pyproject.toml's [project] table; empty where the course was installed without its checkout."""
    path = ROOT / "pyproject.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.exists() else {}


def requirements() -> list[Requirement]:
    """What the notebooks need, from pyproject.toml."""
    return _parsed(project().get("dependencies", []))


def _parsed(lines: Iterable[str]) -> list[Requirement]:
    from packaging.requirements import Requirement

    return [Requirement(line) for line in lines]


def wanted(name: str = "") -> list[Requirement]:
    """What `name` asks for: an extra of pyproject.toml, a single package, or ("") all that the notebooks need."""
    if not name:
        return requirements()
    extras = project().get("optional-dependencies", {})
    return _parsed(extras.get(name, [name]))


PIP = "python -m pip install -c constraints.txt"


def how_to_add(package: str = "") -> str:
    """What the reader types to get `package`, or ("") all that the notebooks need; see `how_to_add_extra`."""
    if host():
        return _call(package) if package else "run the first cell again"
    return f'{PIP} "{package}"' if package else f"{PIP} -e ."


def how_to_add_extra(extra: str) -> str:
    """What the reader types to get an extra. On a hosted machine, it replaces nothing that is there."""
    return _call(extra) if host() else f'{PIP} -e ".[{extra}]"'


def _call(name: str) -> str:
    return f"from course_utils import colab; colab.add({name!r})"


def add(name: str) -> None:
    """Install what is missing of `name` (see `wanted`), while everything that is here keeps its version (network)."""
    missing = missing_requirements(needed=wanted(name))
    if missing:
        install_missing(missing)
    else:
        print(f"{name} is here already.")


def installed() -> dict[str, str]:
    """Name (normalised) -> version of everything that is installed here."""
    from packaging.utils import canonicalize_name

    found = ((d.metadata["Name"], d.version) for d in metadata.distributions())
    return {canonicalize_name(name): version for name, version in found if name and version}


def missing_requirements(
    present: Mapping[str, str] | None = None, needed: list[Requirement] | None = None
) -> list[str]:
    """The requirements in `needed` (default: the course's) whose package is not in `present` (default: installed)."""
    from packaging.utils import canonicalize_name

    present = installed() if present is None else present
    needed = requirements() if needed is None else needed
    return [str(r) for r in needed if canonicalize_name(r.name) not in present]


def unmet_requirements(present: Mapping[str, str] | None = None) -> list[str]:
    """One line for every package that is in `present`, but in a version that the course can't use."""
    from packaging.utils import canonicalize_name

    present = installed() if present is None else present
    found = [(r, present.get(canonicalize_name(r.name))) for r in requirements()]
    return [f"{r.name} {v} is here, the course needs {r.name}{r.specifier}" for r, v in found if v and not fits(r, v)]


def fits(requirement: Requirement, version: str) -> bool:
    """Whether `version` satisfies `requirement`; pre-releases that are already there count."""
    return requirement.specifier.contains(version, prereleases=True)


def prepare(install: bool = False) -> None:
    """Says what the course finds here and, with `install`, adds what is missing (network, announced)."""
    # Colab brings TensorFlow, which some library imports and which then logs into the reader's notebook.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    missing = missing_requirements()
    for line in unmet_requirements():
        print(f"Note: {line}. Some cells may fail.")
    if missing and install:
        install_missing(missing)
    elif missing:
        print("Missing here:", ", ".join(missing))
        print("Install it in the course's folder:", how_to_add())
    else:
        print("The course's files and packages are here. Nothing was fetched or installed.")


def install_missing(missing: list[str]) -> None:
    """Installs `missing` with pip while every package that is here keeps its version.

    Raises RuntimeError if that is impossible, ConnectionError if pip reaches nobody, both with pip's last lines.
    """
    print("Installing what is missing here (network):", ", ".join(missing))
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "keep.txt"
        constraints.write_text("\n".join(frozen()) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "-q", "-c", str(constraints), *missing]
        done = subprocess.run(command, capture_output=True, text=True, env=_plain_environment())
    if done.returncode:
        raise _pip_error(done.stderr)
    print("Done. Everything that was already here kept its version.")


# What pip's own words say where nobody answers: no name look-up, no route, no answer.
UNREACHABLE = ("NewConnectionError", "NameResolutionError", "Max retries exceeded", "Network is unreachable")


def _pip_error(said: str) -> Exception:
    """What a failed pip means for the reader."""
    last = "\n".join(said.strip().splitlines()[-6:])
    if any(word in said for word in UNREACHABLE):
        return ConnectionError(f"pip reaches no package index. {SWITCH}\n{last}")
    return RuntimeError(f"pip could not add what is missing; try again, or restart the runtime.\n{last}")


def _plain_environment() -> dict[str, str]:
    """This process's environment, with pip's notice about newer versions of itself switched off."""
    return {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def frozen(present: Mapping[str, str] | None = None) -> list[str]:
    """Constraint lines that keep everything in `present` (default: what is installed) as it is."""
    from packaging.version import InvalidVersion, Version

    lines = []
    for name, version in sorted((installed() if present is None else present).items()):
        try:
            lines.append(f"{name}=={Version(version)}")
        except InvalidVersion:  # an old package with a free-form version; pip can't be told to keep it
            continue
    return lines


# The proof against Colab's published list


def colab_packages(path: Path = FREEZE) -> dict[str, str]:
    """Name (normalised) -> version from Colab's published list."""
    from packaging.utils import canonicalize_name

    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==", 1) for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def resolve(
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

    Run it after the requirements or Colab's list have changed: python -m course_utils.colab record
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
