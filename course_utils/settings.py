"""The settings that the whole course shares: where things are, the seed, the repository's address."""

import os
import tempfile
from pathlib import Path

# The one place that names the repository. `course links` rewrites badges and bootstrap cells from it.
REPOSITORY = "genai-course/advanced-generative-ai"
BRANCH = "main"

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
MODELS = DATA / "models"
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"

# One seed for everything that the course generates, trains or samples.
SEED = 7


def writable(folder: Path) -> bool:
    """Whether files can be created in `folder`, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def cache_dir() -> Path:
    """A folder that outlives the session: the user's cache, or a temporary one where HOME is read-only."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    wanted = base / "genai-course"
    return wanted if writable(wanted) else Path(tempfile.gettempdir()) / "genai-course"
