"""What every test stands on: no network, no noise, the same random numbers, nothing left running."""

import os
import random
import sys
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "COURSE_QUIET": "1",
    "COURSE_PROGRESS": "off",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
}
os.environ.pop("COURSE_TIER", None)

import psutil  # noqa: E402
import pytest  # noqa: E402

from course_utils.models import offline  # noqa: E402
from course_utils.settings import SEED  # noqa: E402

offline.close_sockets()


@pytest.fixture(autouse=True)
def seeded():
    """Seed whichever sources of random numbers are in use; importing torch just for this takes seconds."""
    random.seed(SEED)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)


LASTING = ("resource_tracker", "forkserver", "course_utils.exercises.worker", "course_utils.classroom.grading.jailed")


def _is_childless() -> bool:
    """Whether Linux says that we have no child, and so no descendant. Looking through all processes takes longer."""
    lists = Path("/proc/self/task").glob("*/children")
    try:
        children = [path.read_text() for path in lists]  # of each thread
    except OSError:  # a thread has just ended
        return False
    return bool(children) and not any(children)


def _children() -> set[psutil.Process]:
    """Running descendants, without the helpers of multiprocessing and of exercises that stay until Python ends."""
    found = set()
    if _is_childless():
        return found
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
            lasting = any(name in command for name in LASTING)
            if child.status() != psutil.STATUS_ZOMBIE and not lasting:
                found.add(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(autouse=True)
def no_orphans():
    """A test ends the processes that it started."""
    before = _children()
    yield
    _, alive = psutil.wait_procs(_children() - before, timeout=3)
    assert not alive, f"left running: {[child.cmdline() for child in alive]}"


@pytest.fixture(scope="module")
def prisma():
    """The shop that the default seed makes."""
    from course_utils.prisma import shop

    return shop.make_shop()


@pytest.fixture(scope="module")
def toolbox(prisma):
    """Its tools, on a database in memory."""
    from course_utils.prisma import shop, tools

    return tools.Toolbox(shop.open_database(prisma))


@pytest.fixture(scope="module")
def eye():
    """The shipped prisma-clip, loaded as an image-text model."""
    from course_utils.models.roles import ImageText
    from course_utils.prisma import clip

    return ImageText(*clip.load(), "prisma-clip", "bundled")
