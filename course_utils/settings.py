"""The settings that the whole course shares: where things are, the seed, the repository's address."""

import atexit
import codecs
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

# The one place that names the repository. `course links` rewrites badges and bootstrap cells from it.
REPOSITORY = "genai-course/advanced-generative-ai"
BRANCH = "main"

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
MODELS = DATA / "models"
NOTEBOOKS = ROOT / "notebooks"
TEXT = NOTEBOOKS / "text"  # what people edit; the notebooks are built from it
BUILD = ROOT / "build"

# One seed for everything that the course generates, trains or samples.
SEED = 7

OURS = "genai-course"  # our folder below the user's cache, and below the user's data


def search_path() -> str:
    """PYTHONPATH for a process that we start: this package first, then what the reader has there."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


# ---------------------------------------------------------------- pace


def is_quick() -> bool:
    """Whether COURSE_PACE=quick asks to see only that a training runs. ValueError for another pace."""
    pace = os.environ.get("COURSE_PACE", "")
    if pace not in ("", "quick"):
        raise ValueError(f"There is no COURSE_PACE {pace!r}. Unset it, or set it to quick.")
    return pace == "quick"


def paced(steps: int, least: int = 16) -> int:
    """`steps` (or tokens), or a tenth of them (`least` at least) where only running matters.

    `make test` runs all notebooks so.
    """
    return min(steps, max(least, steps // 10)) if is_quick() else steps


# ---------------------------------------------------------------- folders


def writable(folder: Path) -> bool:
    """Whether files can be created in `folder`, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def home() -> Path | None:
    """The user's home folder; None for a user without one: no HOME, and no entry in the list of users."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def home_works() -> bool:
    """Whether there is a home folder, and a cache can be kept below it."""
    place = home()
    return place is not None and os.access(place, os.W_OK) and writable(place / ".cache")


def user_path(text: str) -> Path:
    """The path that a user has written in a setting; a "~" means the home folder."""
    if home() is None and text.split(os.sep)[0] == "~":
        return private_folder() / text.removeprefix("~").lstrip(os.sep)
    return Path(os.path.expanduser(text))


def user_cache() -> Path:
    """The folder below which programs keep what can be made again; it may not exist, or not be writable."""
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return user_path(chosen)
    return (home() or private_folder()) / ".cache"


def user_data() -> Path:
    """The folder below which programs keep what a user would miss; it may not exist, or not be writable."""
    if chosen := os.environ.get("XDG_DATA_HOME"):
        return user_path(chosen)
    return (home() or private_folder()) / ".local" / "share"


def cache_dir() -> Path:
    """The course's own cache: below the user's, or in a private temporary folder where that is read-only."""
    wanted = user_cache() / OURS
    if writable(wanted):
        return wanted
    instead = private_folder() / ".cache" / OURS
    instead.mkdir(parents=True, exist_ok=True)
    return instead


_private: dict[Path, Path] = {}  # temporary folder -> our folder in it, once it was made or checked


def private_folder() -> Path:
    """A folder of this user's own below the temporary one, for what would else be below the home folder.

    Libraries run what they find there: start-up files, settings. So it is made with mode 0700, and used again
    only if it is a real folder, belongs to this user and is closed to all others. If somebody else was there
    first, a fresh one is made, which is removed when Python ends; a line on stderr says so.
    """
    temporary = Path(tempfile.gettempdir())
    if temporary not in _private:
        user = os.geteuid() if hasattr(os, "geteuid") else os.environ.get("USERNAME", "user")
        _private[temporary] = _own_folder(temporary / f"{OURS}-{user}")
    return _private[temporary]


def _own_folder(wanted: Path) -> Path:
    """`wanted` if it is ours alone, made if it is missing; a fresh folder if it is not."""
    try:
        wanted.mkdir(mode=0o700)
    except OSError:
        if not _is_private(wanted):
            return _fresh_folder(wanted)
    return wanted


def _is_private(folder: Path) -> bool:
    """Whether `folder` is a folder, no link, and only this user may open it. Windows asks its own lists."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        return False
    if not hasattr(os, "geteuid"):
        return True
    closed = stat.S_IMODE(found.st_mode) & 0o077 == 0
    return closed and found.st_uid == os.geteuid()


def _fresh_folder(refused: Path) -> Path:
    """A new private folder in place of `refused`, which somebody else may have prepared."""
    folder = Path(tempfile.mkdtemp(prefix=f"{OURS}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    said = f"{refused} is not a private folder of yours, so it is not used. Caches go to {folder} until Python ends."
    print(said, file=sys.stderr)
    return folder


# Where the libraries look, and the folder below our own that they get instead.
_CACHES = {
    "HF_HOME": "huggingface",
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
    "IPYTHONDIR": "ipython",
    "JUPYTER_CONFIG_DIR": "jupyter/config",
    "JUPYTER_DATA_DIR": "jupyter/data",
    "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
}


def use_writable_caches() -> None:
    """Where the home folder is missing or read-only, send the libraries' caches to a folder of ours.

    A user without a home gets that folder as HOME, and a user without a name gets one: many libraries ask
    for both and stop without them.
    """
    works = home_works()
    if home() is None:
        os.environ["HOME"] = str(private_folder())
    _name_the_user()
    if works:
        return
    ours = cache_dir()
    os.environ.setdefault("XDG_CACHE_HOME", str(ours.parent))
    for variable, name in _CACHES.items():
        os.environ.setdefault(variable, str(ours / name))


def _name_the_user() -> None:
    """USER for a uid without an entry in the list of users; `getpass.getuser` raises without it."""
    import getpass

    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # which one depends on Python's version and on the system
        os.environ["USER"] = f"user{os.geteuid()}" if hasattr(os, "geteuid") else "user"


# ---------------------------------------------------------------- output

# What the course draws with, for a terminal that can't show it.
_PLAIN = str.maketrans("─│┌┐└┘├┤┬┴┼━┃┏┓┗┛—–‘’“”•→←×", "-|++++" + "+++++-|++++" + "--''\"\"*><x")


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """What to print instead of letters that an encoding lacks: a similar one, or a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end].translate(_PLAIN)
    return lost.encode("ascii", "replace").decode(), error.end


codecs.register_error("course-plain", _in_plain_letters)


def print_anywhere() -> None:
    """From now on `print` works in any encoding (cp1252, ASCII): what it lacks is replaced, never an error.

    An error handler that somebody chose (PYTHONIOENCODING) is kept.
    """
    stream = sys.stdout
    if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="course-plain")
