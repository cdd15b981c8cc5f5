"""The course on a hosted machine (Colab, Kaggle): an installation that changes nothing that is there.

Colab brings its own torch, numpy and the rest. When pip replaces one of them, the runtime has to restart and
the student is lost (dandi/example-notebooks#159). So only what is missing is installed, under the constraint
that everything which is there stays as it is. `workshop/colab_list.py` proves the same against Colab's list.
Such a machine is taken back after some hours. `keep()` asks for a folder that outlives it (keeping.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.settings import ROOT

if TYPE_CHECKING:
    from packaging.requirements import Requirement


# What to do where a hosted machine reaches nobody.
SWITCH = "On Kaggle: Settings, Internet, On. Then run this cell again."
FOR_DEVELOPERS = ("lab", "test", "site", "dev")  # extras that make no sense on a hosted machine


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


def prepare() -> None:
    """Says what the course finds here; on a hosted machine, adds what is missing (network, announced)."""
    # Colab brings TensorFlow, which some library imports and which then logs into the reader's notebook.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    missing = missing_requirements()
    for line in unmet_requirements():
        print(f"Note: {line}. Some cells may fail.")
    if missing and host():
        install_missing(missing)
    elif missing:
        print("Missing here:", ", ".join(missing))
        print("Install it in the course's folder:", how_to_add())
    else:
        print("The course's files and packages are here. Nothing was fetched or installed.")


def keep() -> None:
    """Keep progress, answers and checkpoints where they outlive this machine: on your Drive, or in /kaggle/working.

    Colab asks for the Drive if it has none yet; this says what is written and where. Call it in each session that is to
    be kept: what earlier ones kept is put together with what was done here before the call. Nothing is raised.
    """
    from course_utils import keeping
    from course_utils.exercises import actions, answers, progress

    if not host():
        print(f"Only Colab and Kaggle take their machines back. Here all stays where it is: {progress.file()}")
        return
    folder = keeping.start()
    if folder is None:
        return
    known = progress.join_kept()
    answers.keep_all()
    what = "answers and checkpoints (COURSE_PROGRESS is off)" if progress.recording_is_off() else keeping.WHAT
    actions.say(
        f"From now on {what} are copied to {folder}. It knows {known} exercises and quizzes so far.",
        f"In your next session, call colab.keep() again, and all goes on from there. {keeping.rules()}",
        _weights_rule(),
    )


def _weights_rule() -> str:
    """Why models are not kept."""
    from course_utils.models import catalogue

    largest = catalogue.find("chat", "full")
    return (
        f"Model weights are not copied: {largest.id} alone takes {largest.download_gb:.0f} GB, a free Drive has 15. "
        "They are downloaded again. Who has the room sets HF_HOME to a folder that stays, before the first cell."
    )


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
