"""`course site`: the whole course as pages that need no network, built from the executed notebooks.

Sphinx with myst-nb and the theme furo. All three work offline, and the pages bring their own search, styles and
scripts; mystmd and Jupyter Book 2 fetch their theme from a server at the first build. Formulas are drawn when the
site is built, so that nobody needs MathJax.
"""

from __future__ import annotations

import logging
import re
import shutil
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from course_utils import colab, settings
from course_utils.unit import UNITS
from course_utils.workshop import links, notebooks, runner
from course_utils.workshop.tex import draw_formulas

TITLE = "Advanced generative AI, hands on"
STYLE = Path(__file__).parent / "templates" / "site.css"
BADGE = re.compile(r"\[!\[Open In Colab\]\([^)]*\)\]\(([^)]*)\)")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)\.ipynb(#[^)\s]*|)\)")
FILE = re.compile(r"\]\((?!https?:)([^)#\s]+\.md)(#[^)\s]*|)\)")
FOLDED = {"bootstrap": "hide-input"}  # the course's tag, and myst-nb's for a cell that opens at a click

SETTINGS: dict[str, Any] = {
    "project": TITLE,
    "html_title": TITLE,
    "extensions": ["myst_nb"],
    "nb_execution_mode": "off",  # outputs are shown as committed
    "nb_merge_streams": True,
    "myst_heading_anchors": 3,
    "html_theme": "furo",
    "html_static_path": ["static"],
    "html_css_files": [STYLE.name],
    "html_show_sourcelink": False,
    "html_copy_source": False,
    "html_use_index": False,
    "show_warning_types": True,
}

WELCOME = f"""\
# {TITLE}

Five units in which you take generative AI apart: models that see and hear, agents that act, a look inside, models
that you serve yourself, and models that you teach something new. Each page is a notebook with the results of a real
run. To run it yourself, in Colab or on your own machine, follow the links at its top; no account, no GPU and no
download are needed for the smallest models.

The search at the left finds words in all pages.

"""


def build(out: Path, names: list[str] | None = None) -> Path:
    """Makes the site in the folder `out`, which becomes nothing but the site, and returns its start page.

    `names` ("7.1", "labs", a notebook's name) are the notebooks in it; all of them, and the teaching notes, if left
    out. ValueError if Sphinx or one of them is missing, for a folder that holds something else, and for a site with a
    fault.
    """
    if gap := missing():
        raise ValueError(gap)
    start = out / "index.html"
    is_site = (out / "_static" / STYLE.name).exists()  # an index.html may be somebody's own
    if out.exists() and not is_site and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds something that is no site; name an empty folder with --out.")
    with runner.scratch() as space:
        source, pages = space / "source", space / "pages"
        _write_sources(source, names)
        said = _run_sphinx(source, pages, space)
        if faults := said + broken(pages):
            raise ValueError("the site has faults:\n" + "\n".join(faults))
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(pages, out)
    return start


def missing() -> str:
    """Which packages are not here, and how to get them; "" if all are."""
    names = [name for name in ("sphinx", "myst_nb", "furo") if not find_spec(name)]
    cure = colab.how_to_add_extra("site")
    return f"A site needs packages that are not here: {', '.join(names)}. To get them: {cure}" if names else ""


# ---------------------------------------------------------------- what Sphinx reads


def _write_sources(folder: Path, names: list[str] | None) -> None:
    """Copies of notebooks and teaching notes, as Sphinx should read them, with a start page that lists them."""
    chosen = notebooks.executed(names) if names else notebooks.built()
    notes = [] if names else sorted((settings.NOTEBOOKS / "teaching").glob("*.md"))
    static = folder / "static"
    static.mkdir(parents=True)
    shutil.copy(STYLE, static)
    (folder / "labs").mkdir()
    for path in chosen:
        _copy(path, folder, chosen)
    for path in notes:
        text = draw_formulas(relink_notes(path.read_text(encoding="utf-8"), path))
        place = folder / path.relative_to(settings.NOTEBOOKS)
        place.parent.mkdir(exist_ok=True)
        place.write_text(text, encoding="utf-8")
    (folder / "index.md").write_text(WELCOME + contents(chosen, notes), encoding="utf-8")


def _copy(path: Path, folder: Path, chosen: list[Path]) -> None:
    """Writes the notebook `path` below `folder`, changed into what the site shows."""
    import nbformat

    notebook = notebooks.load(path)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = relink(cell.source, path, chosen, ".ipynb")  # myst-nb knows the notebook and checks the link
            cell.source = draw_formulas(text)
        for output in cell.get("outputs", []):
            if words := output.get("data", {}).get("text/markdown"):
                output.data["text/markdown"] = relink(words, path, chosen, ".html")  # copied as it is
        tags = cell.metadata.get("tags", [])
        cell.metadata["tags"] = [FOLDED[tag] for tag in tags if tag in FOLDED]
    nbformat.write(notebook, folder / path.relative_to(settings.NOTEBOOKS))


def relink(text: str, path: Path, chosen: list[Path], ending: str) -> str:
    """Markdown of the notebook `path` for a site of the `chosen` ones: links to these get the `ending`.

    Other notebooks are on GitHub, and so is the notebook itself. A link to none of them stays, and is found later.
    """

    def moved(link: re.Match[str]) -> str:
        target = (path.parent / f"{link[1]}.ipynb").resolve()
        if target in chosen:
            return f"]({link[1]}{ending}{link[2]})"
        return f"]({_on_github(target)}{link[2]})" if target.exists() else link[0]

    # The badge is a picture that every reader's browser would fetch from Google.
    text = BADGE.sub(rf"[Open in Colab](\1) [Notebook on GitHub]({_on_github(path)})", text)
    return LINK.sub(moved, text)


def relink_notes(text: str, path: Path) -> str:
    """Teaching notes for the site: what they link to outside the notebooks' folder is on GitHub."""

    def moved(link: re.Match[str]) -> str:
        target = (path.parent / link[1]).resolve()
        is_page = target.is_relative_to(settings.NOTEBOOKS) or not target.exists()  # or a fault that is found later
        return link[0] if is_page else f"]({_on_github(target)}{link[2]})"

    return FILE.sub(moved, text)


def _on_github(path: Path) -> str:
    return links.on_github(path.relative_to(settings.ROOT).as_posix())


def contents(chosen: list[Path], notes: list[Path]) -> str:
    """The lists of pages, in Sphinx's words: the start, each unit with its labs, what is for instructors."""
    start = (settings.NOTEBOOKS / "0_start_here.ipynb").read_text(encoding="utf-8")

    def place(path: Path) -> tuple[str, bool, int]:
        # Core notebooks stand in the order in which the start page names them, which is that of reading.
        return notebooks.unit_of(path), path.parent.name == "labs", start.find(f"({path.name})")

    lists: dict[str, list[Path]] = {}
    for path in sorted(chosen, key=place):
        unit = notebooks.unit_of(path)
        title = f"{unit} {UNITS[unit].title}" if unit in UNITS else "Start"
        lists.setdefault(title, []).append(path)
    lists["For instructors"] = notes
    return "\n".join(_listed(title, pages) for title, pages in lists.items() if pages)


def _listed(title: str, pages: list[Path]) -> str:
    names = [page.relative_to(settings.NOTEBOOKS).as_posix() for page in pages]
    return "\n".join([f"```{{toctree}}\n:caption: {title}\n:maxdepth: 1\n", *names, "```\n"])


def _run_sphinx(source: Path, pages: Path, space: Path) -> list[str]:
    """Builds the pages; returns Sphinx's warnings."""
    from sphinx.application import Sphinx
    from sphinx.util.console import nocolor
    from sphinx.util.docutils import docutils_namespace

    nocolor()
    warnings = space / "warnings.txt"
    with warnings.open("w", encoding="utf-8") as file, docutils_namespace():
        where = {"srcdir": source, "confdir": None, "outdir": pages, "doctreedir": space / "doctrees"}
        app = Sphinx(**where, buildername="html", confoverrides=SETTINGS, status=None, warning=file)
        app.build()
    logging.getLogger("sphinx").handlers.clear()  # they write into the file that is closed now
    return warnings.read_text(encoding="utf-8").splitlines()


# ---------------------------------------------------------------- is it whole?


class Page(HTMLParser):
    """The places that a page names, and its addresses: `links` to click, `loads` that a browser fetches unasked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.places.add(value or "")
            elif name == "src" or (name == "href" and tag == "link"):
                self.loads.add(value or "")
            elif name == "href":
                self.links.add(value or "")


def broken(folder: Path) -> list[str]:
    """What is wrong with the links of a site, one line each: pages and places that are missing, foreign files."""
    folder = folder.resolve()
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        found = [f"loads {address} from elsewhere" for address in sorted(page.loads) if _is_foreign(address)]
        found += [fault for address in sorted(page.links | page.loads) if (fault := _missing(path, address, pages))]
        faults += [f"{path.relative_to(folder).as_posix()}: {fault}" for fault in found]
    return faults


def _is_foreign(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def _missing(path: Path, address: str, pages: dict[Path, Page]) -> str:
    """Why the `address` on the page `path` leads nowhere within the site; "" if it does not."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.exists():
        return f"{address} leads nowhere"
    place = unquote(parts.fragment)
    if place and target in pages and place not in pages[target].places:
        return f"{address} names a place that is not on that page"
    return ""
