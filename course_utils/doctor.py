"""`course doctor`: what this machine has, what the course needs, and a plain cure for every gap.

No heavy library is imported: versions come from installed metadata, the GPU from NVIDIA's own tool. So the
doctor answers in a second or two, also where `import torch` itself is what fails.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import colab
from course_utils.models import bundled, catalogue, hardware, offline
from course_utils.settings import BUILD, cache_dir, home_works, writable

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "genai-course"
NEEDED_GB = 3.0  # the most that any notebook may take at the bundled tier
# On Colab and Kaggle nothing that is there may be replaced: torch least of all.
NEW_RUNTIME = "it came with this machine, so leave it; a new runtime (Disconnect and delete) brings today's versions"


@dataclass(frozen=True)
class Check:
    """One finding. `status` is ok, note (good to know), warn (something may fail) or fail (nothing runs)."""

    name: str
    status: str
    found: str
    cure: str = ""


def examine() -> list[Check]:
    """Every check, in the order of the report. "fail" means that the bundled tier can't run."""
    checks: list[Check] = []
    for look in (python, packages, extras, torch_pair, gpu, memory, disk, folders, ffmpeg, network, models):
        checks += _safely(look)
    return checks


def _safely(look: Callable[[], Iterable[Check]]) -> list[Check]:
    """A check that breaks is a finding too: the doctor always reports to the end."""
    try:
        return list(look())
    except Exception as error:
        cure = "please report this, with the output of `course doctor --json`"
        return [Check(look.__name__, "warn", f"could not be checked ({type(error).__name__}: {error})", cure)]


def healthy(checks: list[Check]) -> bool:
    """Whether the bundled tier can run here."""
    return all(check.status != "fail" for check in checks)


def as_dict(checks: list[Check]) -> dict[str, Any]:
    """The report for --json: `ok`, the checks, and the installed versions, which help with a bug report."""
    return {"ok": healthy(checks), "checks": [asdict(check) for check in checks], "versions": versions()}


# Python and its packages


def requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What the course requires, and per extra what is optional, as far as it applies to this machine."""
    from packaging.requirements import Requirement

    project = colab.project()
    extras: dict[str, list[Requirement]] = {}
    if project:
        needed = [Requirement(text) for text in project.get("dependencies", [])]
        for extra, lines in project["optional-dependencies"].items():
            extras[extra] = [Requirement(text) for text in lines]
    else:
        needed = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or []]
        for extra in metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []:
            extras[extra] = [line for line in needed if f'extra == "{extra}"' in str(line.marker)]
    here = [line for line in needed if not line.marker or line.marker.evaluate({"extra": ""})]
    optional = {}
    for extra, lines in extras.items():
        optional[extra] = [line for line in lines if line.name != DISTRIBUTION]
    return here, optional


def installed(name: str) -> str | None:
    """The installed version of a package, or None; nothing is imported."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Installed version of every required package, and of Python."""
    found = {"python": platform.python_version()}
    return found | {r.name: v for r in requirements()[0] if (v := installed(r.name))}


def python() -> Iterable[Check]:
    """Python's version against requires-python."""
    from packaging.specifiers import SpecifierSet

    wanted = SpecifierSet(colab.project().get("requires-python", ">=3.11,<3.15"))
    have = platform.python_version()
    if wanted.contains(have, prereleases=True):
        yield Check("python", "ok", f"{have} on {platform.system()} {platform.machine()}")
    else:
        cure = f"if an installation fails, make the .venv with a Python within {wanted}"
        yield Check("python", "warn", f"{have} is outside {wanted}, which is what was tested", cure)


def packages() -> Iterable[Check]:
    """Every required package: there, and within the range of pyproject.toml."""
    needed, _ = requirements()
    gaps = [check for r in needed if (check := _package(r, "fail"))]
    yield from gaps
    if not gaps:
        shown = ("torch", "transformers", "peft", "trl", "langchain")
        few = ", ".join(f"{name} {installed(name)}" for name in shown if installed(name))
        yield Check("packages", "ok", f"all {len(needed)} are there and in range: {few}")


def _package(requirement: Requirement, missing: str) -> Check | None:
    """A finding about one package, or None if all is well; `missing` is the status if it isn't there."""
    have, name = installed(requirement.name), requirement.name
    if have is None:
        return Check(name, missing, "not installed", colab.how_to_add())
    if not requirement.specifier.contains(have, prereleases=True):
        found = f"{have} is outside the tested range {requirement.specifier}"
        return Check(name, "warn", found, _own(f'python -m pip install "{name}{requirement.specifier}"'))
    return None


def _own(cure: str) -> str:
    """`cure`, which replaces packages, on the reader's own machine; on a hosted one, what to do there instead."""
    return NEW_RUNTIME if colab.host() else cure


def extras() -> Iterable[Check]:
    """One line per optional group of pyproject.toml that isn't complete and makes sense here."""
    hidden = colab.FOR_DEVELOPERS if colab.host() else ()
    for extra, group in requirements()[1].items():
        if extra in hidden:
            continue
        gaps = [r.name for r in group if installed(r.name) is None]
        if gaps:
            cure = f"only if you want it: {colab.how_to_add_extra(extra)}"
            yield Check(f"extra {extra}", "note", f"not installed: {', '.join(gaps)}", cure)


# torch and torchvision


def torch_build(name: str) -> dict[str, str | None]:
    """Version and CUDA label of an installed torch or torchvision, read from its version.py, not imported.

    `cuda` is "13.2" or "cu132" for a CUDA build, "cpu" for a CPU build, None if the file doesn't say.
    """
    found: dict[str, str | None] = {"version": installed(name), "cuda": None}
    if found["version"] is None:
        return found
    file = Path(str(metadata.distribution(name).locate_file(f"{name}/version.py")))
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    label = re.search(r"__version__[^'\"\n]*['\"][^'\"+]*\+([\w.]+)['\"]", text)
    label = label or re.search(r"\+([\w.]+)$", found["version"])
    found["cuda"] = label.group(1) if label else None
    if number := re.search(r"^cuda\b[^'\"\n]*['\"]([\d.]+)['\"]", text, re.MULTILINE):
        found["cuda"] = number.group(1)
    elif re.search(r"^cuda\b.*=\s*None\s*$", text, re.MULTILINE):
        found["cuda"] = "cpu"
    return found


def _kind(label: str | None) -> str | None:
    """ "cpu", "cuda 13" or None for what a version label such as cu132, 13.2 or cpu says."""
    if label is None or label == "cpu":
        return label
    found = re.fullmatch(r"cu(\d+)\d|(\d+)\.\d+", label)
    return f"cuda {found.group(1) or found.group(2)}" if found else None


def torch_pair() -> Iterable[Check]:
    """torch and torchvision must have been built for each other, or nothing that shows a picture imports."""
    from packaging.requirements import Requirement

    torch, vision = torch_build("torch"), torch_build("torchvision")
    if torch["version"] is None or vision["version"] is None:
        return  # `packages` has said so
    needs = [Requirement(text) for text in metadata.requires("torchvision") or []]
    wanted = next((r.specifier for r in needs if r.name == "torch"), None)
    here = f"torch {torch['version']} ({torch['cuda']}), torchvision {vision['version']} ({vision['cuda']})"
    here = here.replace(" (None)", "")
    kinds = _kind(torch["cuda"]), _kind(vision["cuda"])
    problem = ""
    if wanted and not wanted.contains(torch["version"], prereleases=True):
        problem = f"torchvision {vision['version']} requires torch{wanted}"
    elif None not in kinds and kinds[0] != kinds[1]:
        problem = f"one is built for {kinds[0]}, the other for {kinds[1]}"
    if not problem:
        yield Check("torch pair", "ok", here)
        return
    found = f'{here}: {problem}. Imports fail with "operator torchvision::nms does not exist"'
    cure = _own("python -m pip uninstall -y torch torchvision, then " + colab.how_to_add())
    yield Check("torch pair", "fail", found, cure)


# The machine


def nvidia_smi(*arguments: str) -> str:
    """What nvidia-smi prints, "" where it is missing or fails."""
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=4)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def gpu() -> Iterable[Check]:
    """GPU, its memory and driver, and whether the installed torch can use it."""
    query = "--query-gpu=name,memory.total,memory.free,driver_version,compute_cap"
    cards = [line.split(", ") for line in nvidia_smi(query, "--format=csv,noheader,nounits").splitlines()]
    cards = [card for card in cards if len(card) == 5]
    if not cards:
        yield _no_nvidia()
    for name, total, free, driver, capability in cards:
        size = f"{_gib(free)} of {_gib(total)} GiB free"
        yield Check("gpu", "ok", f"{name}, {size}, driver {driver}, compute capability {capability}")
    if cards:
        yield from _driver()


def _gib(mebibytes: str) -> str:
    """nvidia-smi's MiB in GiB; shared-memory boards answer [N/A]."""
    return f"{int(mebibytes) / 1024:.1f}" if mebibytes.strip().isdigit() else "?"


def _no_nvidia() -> Check:
    """What to say where there is no NVIDIA GPU, or none that answers."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return Check("gpu", "ok", "Apple GPU (MPS)")
    if shutil.which("nvidia-smi"):
        cure = "restart the machine or reinstall the NVIDIA driver; without it the CPU is used"
        return Check("gpu", "warn", "nvidia-smi is there but reports no GPU", cure)
    return Check("gpu", "note", "none; the bundled and the small tier run on the CPU")


def _driver() -> Iterable[Check]:
    """Whether torch is a CUDA build, and one that the driver is new enough for."""
    built = _kind(torch_build("torch")["cuda"])
    newest = re.search(r"CUDA(?: \w+)? Version:\s*(\d+)", nvidia_smi())
    if built == "cpu":
        cure = "python -m pip uninstall -y torch torchvision, then install the CUDA build named on pytorch.org"
        yield Check("torch and gpu", "warn", "this torch is a CPU build and won't use the GPU", _own(cure))
    elif built and newest and int(built.split()[1]) > int(newest.group(1)):
        found = f"torch is built for {built.upper()}, the driver knows CUDA up to {newest.group(1)}"
        yield Check("torch and gpu", "warn", found, "update the NVIDIA driver; until then the CPU is used")


def memory() -> Iterable[Check]:
    """RAM within the container's limit; the bundled tier takes up to 3 GB."""
    total, free = hardware.ram_gb()
    found = f"{free:.1f} of {total:.1f} GiB free, {hardware.usable_cores()} cores"
    if total < 2:
        yield Check("memory", "fail", found, "the course needs 2 GB; use a bigger machine or Colab")
    elif free < NEEDED_GB:
        yield Check("memory", "warn", found, f"close other programs until {NEEDED_GB:g} GiB are free")
    else:
        yield Check("memory", "ok", found)


def disk() -> Iterable[Check]:
    """Room for what the course writes, and for the models that the bigger tiers download."""
    hub = hardware.hub_cache().absolute()
    nearest = next(folder for folder in (hub, *hub.parents) if folder.is_dir())
    free = shutil.disk_usage(nearest).free / 1e9
    temporary = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    found = f"{free:.0f} GB free for models, {temporary:.0f} GB for temporary files"
    if temporary < 0.5:
        yield Check("disk", "fail", found, "free 0.5 GB, or point TMPDIR to a disk with room")
        return
    short = [(tier, size) for tier in ("small", "full") if free < (size := _download_gb(tier))]
    cure = "free some room, or point HF_HOME to another disk" if short else ""
    needs = "".join(f"; the {tier} tier downloads {size:.0f} GB in all" for tier, size in short)
    yield Check("disk", "note" if short else "ok", found + needs, cure)


def _download_gb(tier: str) -> float:
    """What all models of a tier weigh together, in GB."""
    return sum(model.download_gb for model in catalogue.models() if model.tier == tier)


def folders() -> Iterable[Check]:
    """Where the course writes: temporary files are needed, everything else has a substitute."""
    if not _temporary_folder():
        yield Check("folders", "fail", "no temporary folder can be written", "point TMPDIR to a folder of yours")
        return
    if not home_works():
        found = f"no home folder that can be written; what would be there goes to {cache_dir()}, and may not last"
        yield Check("home", "note", found, "to keep it: point HOME to a folder of yours")
    if not writable(BUILD):
        found = f"the checkout is read-only; results go to {cache_dir()}"
        yield Check("folders", "note", found, "to keep them elsewhere: course run --out DIR")
    else:
        yield Check("folders", "ok", "the checkout can be written")


def _temporary_folder() -> bool:
    """Whether there is a temporary folder; Python finds none where all disks are full or read-only."""
    try:
        return writable(Path(tempfile.gettempdir()))
    except FileNotFoundError:
        return False


def ffmpeg() -> Iterable[Check]:
    """Only compressed audio needs it: the course's own recordings are WAV and FLAC."""
    if shutil.which("ffmpeg"):
        yield Check("ffmpeg", "ok", "found")
    else:
        cure = "only to read your own MP3 or M4A: install ffmpeg with your system's package manager"
        yield Check("ffmpeg", "note", "not found; WAV and FLAC are read without it", cure)


def network() -> Iterable[Check]:
    """Whether the hub answers; the bundled tier works without, and where it was asked for the hub is left alone."""
    if os.environ.get("COURSE_TIER", "").strip().lower() == "bundled":
        yield Check("network", "note", "not asked: COURSE_TIER asks for the bundled tier, which needs none")
    elif offline.is_offline():
        yield Check("network", "note", "switched off by COURSE_OFFLINE or HF_HUB_OFFLINE; bundled tier only")
    elif offline.network_reachable():
        yield Check("network", "ok", f"asked {offline.hub_name()}: it answers")
    else:
        cure = "for bigger models: check the connection, the proxy (HTTPS_PROXY) or the mirror (HF_ENDPOINT)"
        yield Check("network", "note", f"{offline.hub_name()} doesn't answer; bundled tier only", cure)


def models() -> Iterable[Check]:
    """The bundled models against their recorded checksums."""
    broken = []
    for name in bundled.NAMES:
        try:
            bundled.verify(name)
        except bundled.BundledModelError as error:
            cure = f"git checkout -- data/models/{name}, or clone the course again"
            broken.append(Check(name, "fail", str(error).split(" Restore it")[0], cure))
    yield from broken
    if not broken:
        yield Check("bundled models", "ok", f"{', '.join(bundled.NAMES)} are intact")
