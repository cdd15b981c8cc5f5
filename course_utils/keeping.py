"""What outlives a hosted machine: a folder on the reader's Drive (Colab) or in /kaggle/working, if `colab.keep()` asks.

Nothing is written there before. Afterwards all is written on this machine first, and copied then: a Drive that is full
or gone costs a sentence, never work. Copies need neither locks nor renames: a mounted Drive may lack both, and two
machines never see each other's locks. So each session writes files of its own, and reading puts them together.
"""

from __future__ import annotations

import datetime
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

from course_utils.colab import host
from course_utils.settings import OURS

DRIVE = Path("/content/drive")  # where Colab mounts a Drive
KAGGLE = Path("/kaggle/working")  # what Kaggle carries over, if it is told to
MARK = "README.txt"  # in the folder: it was asked for, and it is mounted
FULL = {errno.ENOSPC, errno.EDQUOT}
WHAT = "progress, answers and checkpoints"

_said: set[str] = set()
_names: dict[Path, str] = {}  # folders of long trainings on this machine -> their names in the kept folder


# ---------------------------------------------------------------- where


def folder() -> Path | None:
    """The folder that this session keeps things in; None before `start`. Child processes learn it, too."""
    text = os.environ.get("COURSE_KEPT")
    return Path(text) if text else None


def start() -> Path | None:
    """The kept folder, made or found again: on Colab after its own question for the Drive. None after saying why not.

    ValueError on a machine that nobody takes back.
    """
    place = candidate()
    if place is None:
        raise ValueError("Only Colab and Kaggle take their machines back; here nothing has to be kept elsewhere.")
    if host() == "Colab" and not mounted():
        problem = _mount()
        if problem:
            print(f"Nothing is kept: {problem}. The notebook goes on without; colab.keep() asks again.")
            return None
    try:
        place.mkdir(exist_ok=True)  # the folder above is there, or this is no Drive
        _sign(place / MARK)
    except OSError as error:
        print(f"Nothing is kept: {place} can't be written to ({_why(error)}). {_cure(error)}")
        return None
    os.environ["COURSE_KEPT"] = str(place)
    _said.clear()
    return place


def candidate() -> Path | None:
    """Where this machine would keep things; None on the reader's own."""
    places = {"Colab": DRIVE / "MyDrive" / OURS, "Kaggle": KAGGLE / OURS}
    return places.get(host())


def mounted() -> bool:
    """Whether Colab has the reader's Drive, and it can be written to."""
    top = DRIVE / "MyDrive"
    return os.path.isdir(top) and os.access(top, os.W_OK)


def _mount() -> str:
    """Let Colab ask the reader for the Drive. Returns why there is none; "" if it is there."""
    print("Colab now asks whether this notebook may use your Drive.")
    try:
        from google.colab import drive

        drive.mount(str(DRIVE))
    except Exception as error:  # a refusal, a closed window, a policy: each is an error of Colab's own kind
        return f"there is no Drive ({_why(error)})"
    return "" if mounted() else f"{DRIVE / 'MyDrive'} is not there, or can't be written to"


def _sign(mark: Path) -> None:
    """Say in the folder what it is, unless it says so already."""
    if os.path.exists(mark):
        return
    today = datetime.date.today().isoformat()
    lines = [
        f"Kept by the course Advanced Generative AI since {today}, because colab.keep() was called.",
        "progress-*.json   exercises and quizzes; each session writes its own, and they are read together",
        "answers/          your functions, as they were checked",
        "runs/             the newest two checkpoints of each long training",
        "Delete the folder, and the course keeps nothing here until colab.keep() is called again.",
    ]
    text = "\n".join(lines) + "\n"
    mark.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- saying


def advice() -> str:
    """What becomes of the reader's work on this machine, for the card; "" where nothing gets lost."""
    place, kept = candidate(), folder()
    if place is None:
        return ""
    if kept and os.path.exists(kept / MARK):
        return f"{WHAT} are copied to {kept}"
    if kept:
        return f"{kept} is gone, so {WHAT} stay on this machine only; colab.keep() tries again"
    return f"{WHAT} go when this machine goes; colab.keep() {_offer(place)}"


def _offer(place: Path) -> str:
    """What `colab.keep()` would do, in words that follow it."""
    there = "on your Drive" if host() == "Colab" else f"in {KAGGLE}"
    if os.path.exists(place / MARK):
        return f"goes on with what is {there}"
    if host() == "Colab" and not mounted():
        return "asks for your Drive and keeps them there"
    return f"keeps them {there}"


def rules() -> str:
    """What the reader has to know about the kept folder of this machine."""
    if host() == "Kaggle":
        return (
            'Kaggle carries it over to your next session only if Persistence is on ("Files only" is enough), in the '
            "session options, before this session ends; Save Version keeps it, too, as that version's output. "
            "It may hold 20 GB."
        )
    return (
        "Drive uploads in the background: let the machine run for a minute after the last cell. Checkpoints that are "
        "replaced go to Drive's trash, which counts until you empty it."
    )


def attempt(action: Callable[[Path], object]) -> bool:
    """Whether `action`, which is handed the kept folder, was done. An obstacle is said once, never raised."""
    kept = folder()
    if kept is None:
        return False
    try:
        if not os.path.exists(kept / MARK):  # never make folders where a Drive was: they would look like one
            raise OSError(None, "it is not there any more")
        action(kept)
    except OSError as error:
        why = _why(error)
        if why not in _said:
            _said.add(why)
            print(f"{kept} can't be used ({why}). What follows stays on this machine only. {_cure(error)}")
        return False
    return True


def _why(error: BaseException) -> str:
    """An error in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _cure(error: OSError) -> str:
    """What to do about it."""
    first = "Make room there, and empty its trash; then colab.keep()" if error.errno in FULL else "colab.keep()"
    return f"{first} tries again."


# ---------------------------------------------------------------- long trainings


def lasting(place: Path, name: str) -> Path:
    """`place` on this machine, whose checkpoints are kept under `name` wherever things are kept.

    ValueError for a name that could lead out of a folder.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"A lasting folder has a plain name of letters, digits, dots and hyphens, not {name!r}.")
    _names[place.resolve()] = name
    return place


def runs_of(place: Path) -> Path | None:
    """What the kept copies of `place` begin with, a run's mark still to be added; None if it is not to be kept."""
    kept, name = folder(), _names.get(place.resolve())
    return kept / "runs" / name if kept and name else None
