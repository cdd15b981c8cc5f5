"""The site of the course: a small build with real pages, faults that are planted, and a look in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from tabs import asked_elsewhere, dark_tab
from typer.testing import CliRunner

from course_utils import cli
from course_utils.agents.hands import browser_tool
from course_utils.classroom import site
from course_utils.settings import NOTEBOOKS

LAB = "7.4_lab_larger_than_memory"
CHOSEN = [NOTEBOOKS / "7.4_self_hosting.ipynb", NOTEBOOKS / "labs" / f"{LAB}.ipynb"]
SPHINX_MISSING = site.missing()
WITHOUT_BROWSER = SPHINX_MISSING or browser_tool.problem()
needs_sphinx = pytest.mark.skipif(bool(SPHINX_MISSING), reason=SPHINX_MISSING)


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """A site of two labs."""
    folder = tmp_path_factory.mktemp("site") / "für alle"
    site.build(folder, ["7.5_lab_more_tuning", LAB])
    return folder


def page(body: str) -> str:
    return f"<html><body>{body}</body></html>"


# ---------------------------------------------------------------- without Sphinx


def test_links_lead_to_pages_of_the_site_or_to_github() -> None:
    here = CHOSEN[0]
    lab = f"[a lab](labs/{LAB}.ipynb#part) and [another](7.1_multimodal_ai.ipynb) and [none](nothing.ipynb)"
    text = site.relink(lab, here, CHOSEN, ".html")
    assert f"](labs/{LAB}.html#part)" in text
    assert "/blob/main/notebooks/7.1_multimodal_ai.ipynb)" in text
    assert "[none](nothing.ipynb)" in text  # nothing is there: Sphinx will say so
    back = site.relink("[up](../7.4_self_hosting.ipynb)", CHOSEN[1], CHOSEN, ".ipynb")
    assert back == "[up](../7.4_self_hosting.ipynb)"


def test_notes_for_instructors_lead_to_github_where_the_site_has_no_page() -> None:
    here = NOTEBOOKS / "teaching" / "README.md"
    text = site.relink_notes("[a](../../README.md#start) [b](7.2_labs.md) [c](../../nowhere.md)", here)
    assert "/blob/main/README.md#start) [b](7.2_labs.md)" in text
    assert "[c](../../nowhere.md)" in text  # is found when the site is built


def test_the_badge_becomes_two_links_without_a_picture_from_elsewhere() -> None:
    first = nbformat.read(CHOSEN[1], as_version=4).cells[0].source
    text = site.relink(first, CHOSEN[1], CHOSEN, ".ipynb")
    assert "badge.svg" in first and "badge.svg" not in text
    assert "[Open in Colab](https://colab.research.google.com/github/" in text
    assert f"/blob/main/notebooks/labs/{LAB}.ipynb)" in text


def test_pages_are_listed_by_unit_as_they_are_read_and_notes_for_instructors_last() -> None:
    second = NOTEBOOKS / "7.4_in_production.ipynb"
    notebooks = [second, *CHOSEN, NOTEBOOKS / "0_start_here.ipynb"]
    listed = site.contents(notebooks, [NOTEBOOKS / "teaching" / "7.2_labs.md"])
    captions = [line.removeprefix(":caption: ") for line in listed.splitlines() if "caption" in line]
    assert captions == ["Start", "7.4 Self-hosting", "For instructors"]
    assert f"\n7.4_self_hosting.ipynb\n{second.name}\nlabs/{LAB}.ipynb\n" in listed
    assert "\nteaching/7.2_labs.md\n" in listed


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="nowhere.html">', "a.html: nowhere.html leads nowhere"),
        ('<a href="b.html#missing">', "a.html: b.html#missing names a place that is not on that page"),
        ('<a href="#missing">', "a.html: #missing names a place that is not on that page"),
        ('<img src="lost.png">', "a.html: lost.png leads nowhere"),
        ('<img src="https://example.org/x.png">', "a.html: loads https://example.org/x.png from elsewhere"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "a.html: loads //example.org/x.css from elsewhere"),
        ('<a href="https://example.org">', ""),
        ('<a href="b.html#there"><img src="data:image/png;base64,AA">', ""),
    ],
)
def test_what_is_wrong_with_a_link_is_found(tmp_path: Path, body: str, fault: str) -> None:
    (tmp_path / "a.html").write_text(page(body), encoding="utf-8")
    (tmp_path / "b.html").write_text(page('<h2 id="there">'), encoding="utf-8")
    assert site.broken(tmp_path) == ([fault] if fault else [])


def test_without_sphinx_one_sentence_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(site, "find_spec", lambda name: None)
    done = CliRunner().invoke(cli.app, ["site", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "sphinx, myst_nb, furo" in done.output and ".[site]" in done.output


@needs_sphinx
@pytest.mark.parametrize("name", ["thesis.txt", "index.html"])
def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("two years", encoding="utf-8")
    with pytest.raises(ValueError, match="holds something that is no site"):
        site.build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(ValueError, match="holds something that is no site"):
        site.build(tmp_path / name)


@needs_sphinx
def test_a_notebook_of_which_there_is_only_the_text_is_named(tmp_path: Path) -> None:
    text = NOTEBOOKS / "text" / "7.4_self_hosting.py"
    with pytest.raises(ValueError, match="7.4_self_hosting.py was not built yet"):
        site.build(tmp_path / "out", [str(text)])
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- a small site


@needs_sphinx
def test_outputs_are_as_committed_and_formulas_need_no_script(pages: Path) -> None:
    lab = (pages / "labs" / f"{LAB}.html").read_text("utf-8")
    committed = CHOSEN[1].read_text("utf-8")
    assert lab.count('src="data:image/png;base64,') == committed.count("data:image/png;base64,") > 0
    assert "mathjax" not in lab.lower()


@needs_sphinx
def test_the_set_up_cell_is_folded(pages: Path) -> None:
    lab = (pages / "labs" / f"{LAB}.html").read_text("utf-8")
    assert lab.count("<details") == 1 and "SOURCE" in lab


@needs_sphinx
def test_the_search_knows_the_words_of_the_pages(pages: Path) -> None:
    index = (pages / "searchindex.js").read_text("utf-8")
    assert LAB in index and "memori" in index  # words are kept by their stems


@needs_sphinx
def test_no_path_of_this_machine_is_on_the_pages(pages: Path) -> None:
    texts = [path.read_text("utf-8") for path in [*pages.rglob("*.html"), *pages.rglob("*.js")]]
    assert not any("course-run-" in text for text in texts)


@needs_sphinx
def test_a_site_is_built_over_an_older_one(pages: Path, monkeypatch) -> None:
    monkeypatch.setattr(site, "broken", lambda folder: ["a.html: x leads nowhere"])
    before = (pages / "index.html").read_bytes()
    with pytest.raises(ValueError, match="x leads nowhere"):
        site.build(pages, [LAB])
    assert (pages / "index.html").read_bytes() == before  # one with a fault leaves the older one as it is


@pytest.fixture(scope="module")
def tab(pages: Path) -> Iterator:
    """A browser as wide as a phone."""
    with dark_tab(375, 700) as tab:
        yield tab


@pytest.mark.skipif(bool(WITHOUT_BROWSER), reason=WITHOUT_BROWSER)
def test_on_a_phone_nothing_is_cut_off_and_nothing_comes_from_elsewhere(pages: Path, tab) -> None:
    for path in sorted(pages.rglob("*.html")):
        tab.goto(path.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 375, path.name
        right = "Math.max(0, ...[...document.images].map((image) => image.getBoundingClientRect().right))"
        assert tab.evaluate(right) <= 376, path.name
    assert asked_elsewhere(tab) == []
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 22)"  # it is dark


@pytest.mark.skipif(bool(WITHOUT_BROWSER), reason=WITHOUT_BROWSER)
def test_a_search_finds_a_page(pages: Path, tab) -> None:
    tab.goto(f"{(pages / 'search.html').as_uri()}?q=memory")
    tab.wait_for_selector("#search-results li a", timeout=20_000)
    assert LAB in tab.evaluate("document.querySelector('#search-results').innerHTML")
