"""The addresses in the notebooks: the badge, the first code cell, and the README's links."""

from __future__ import annotations

import re
from pathlib import Path

from course_utils import settings
from course_utils.colab import SWITCH
from course_utils.settings import BRANCH, REPOSITORY
from course_utils.workshop import notebooks

CELL = re.compile(r"(?m)^(?=# %%)")
BADGE = re.compile(r"(?m)^# \[!\[Open In Colab\].*$")
COLAB_ADDRESS = re.compile(r"https://colab\.research\.google\.com/github/[^/\s]+/[^/\s]+/blob/[^/\s]+/")
CLONE = re.compile(r"git clone https://github\.com/\S+")


def address() -> str:
    """The address of the repository, from the one setting that names it."""
    return f"https://github.com/{REPOSITORY}"


def on_github(file: str, version: str = BRANCH) -> str:
    """The address of a file ("notebooks/7.1_multimodal_ai.ipynb") on GitHub, as a branch, a tag or a commit has it."""
    return f"{address()}/blob/{version}/{file}"


def badge(name: str) -> str:
    """The Markdown of the button that opens a notebook ("7.1_multimodal_ai", "labs/7.1_lab_video") in Colab."""
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    page = f"https://colab.research.google.com/github/{REPOSITORY}/blob/{BRANCH}/notebooks/{name}.ipynb"
    return f"[![Open In Colab]({image})]({page})"


def bootstrap_source() -> str:
    """The text of the first code cell: finds the course's files, or fetches them, and completes what is there."""
    folder = REPOSITORY.split("/")[1]
    return f"""# Finds the course's files, or fetches them; Colab and Kaggle install what is missing (network).
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

SOURCE = "{address()}"
if not find_spec("course_utils"):
    fetched = Path.cwd() / "{folder}"
    places = [Path.cwd(), *Path.cwd().parents, fetched]
    root = next((place for place in places if (place / "course_utils").is_dir()), None)
    if not root:
        print("Fetching the course from", SOURCE)
        clone = ["git", "clone", "-q", "--depth", "1", "-b", "{BRANCH}", SOURCE, fetched]
        if subprocess.run(clone).returncode:
            raise ConnectionError("{SWITCH}")
    sys.path.insert(0, str(root or fetched))
from course_utils import colab

colab.prepare()"""


def pinned_source(commit: str, version: str, solutions_from: str = "") -> str:
    """The first code cell of a released notebook: as `bootstrap_source`, but it fetches the one commit (or tag).

    `solutions_from`, a day, asks `solution` to wait for it.
    """
    folder = REPOSITORY.split("/")[1]
    needs_os = "import os\n" if solutions_from else ""
    wait = f'os.environ["COURSE_SOLUTIONS_FROM"] = "{solutions_from}"\n' if solutions_from else ""
    return f"""# Finds the course's files, or fetches version {version}; Colab and Kaggle add what is missing (network).
{needs_os}import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

SOURCE, COMMIT = "{address()}", "{commit}"
{wait}if not find_spec("course_utils"):
    fetched = Path.cwd() / "{folder}"
    places = [Path.cwd(), *Path.cwd().parents, fetched]
    root = next((place for place in places if (place / "course_utils").is_dir()), None)
    if not root:
        print("Fetching version {version} of the course from", SOURCE)
        fetched.mkdir(exist_ok=True)
        for words in ("init -q", f"fetch -q --depth 1 {{SOURCE}} {{COMMIT}}", "checkout -q FETCH_HEAD"):
            if subprocess.run(["git", "-C", fetched, *words.split()]).returncode:
                raise ConnectionError("{SWITCH}")
    sys.path.insert(0, str(root or fetched))
from course_utils import __version__, colab

if __version__ != "{version}":
    print("This notebook is of version {version} of the course, and here is", __version__)
colab.prepare()"""


def rewrite_links(root: Path | None = None, check: bool = False) -> list[Path]:
    """Puts the badge and the first cell of today's settings into the notebooks' text and the README below `root`.

    Returns the files that changed. With `check` nothing is written and the list says what would change.
    """
    changed = []
    place = root or settings.ROOT
    folder = place / "notebooks"
    for path in [*notebooks.sources(folder), place / "README.md"]:
        old = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            name = notebooks.target(path).relative_to(folder).with_suffix("")
            new = _relink(old, name.as_posix())
        else:
            new = _readdress(old)
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
