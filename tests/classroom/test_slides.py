"""Slides from notebooks: what the rule shows, what tags change, and in a real browser that nothing is cut off."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbformat import v4
from tabs import asked_elsewhere, dark_tab
from typer.testing import CliRunner

from course_utils import cli
from course_utils.agents.hands import browser_tool
from course_utils.classroom import slides
from course_utils.settings import NOTEBOOKS
from course_utils.workshop import notebooks

PICTURE = '<img src="data:image/png;base64,iVBORw0KGgo=" alt="A curve falls.">'
WITHOUT_BROWSER = browser_tool.problem()


def text(source: str, *tags: str) -> dict:
    return v4.new_markdown_cell(source, metadata={"tags": list(tags)})


def code(source: str, *outputs: dict, tags: tuple[str, ...] = ()) -> dict:
    return v4.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)})


def printed(words: str) -> dict:
    return v4.new_output("stream", text=words)


def shown(html: str) -> dict:
    return v4.new_output("display_data", {"text/html": html})


def table(rows: int) -> str:
    body = "\n".join(f"<tr><td>row {number}</td></tr>" for number in range(rows))
    return f"<table><thead><tr><th>name</th></tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def slides_of(*cells: dict) -> list[slides.Slide]:
    """The slides of a notebook with these cells below its title, without the one for the title."""
    notebook = v4.new_notebook(cells=[text("# A title\n\n[![Open In Colab](badge.svg)](address)"), *cells])
    first, *others = slides.slides_of(notebook)
    assert (first.kind, first.title) == ("title", "A title")
    return others


def test_a_section_has_a_slide_with_its_beginning_and_all_questions_and_the_rest_in_the_notes() -> None:
    long = "One idea. " * 60
    (slide,) = slides_of(text(f"## 1. Why?\n\nFirst this, as Vaswani et al. 2017 say. {long}Is it so? Last of all."))
    assert (slide.kind, slide.title) == ("section", "1. Why?")
    assert "<li>First this, as Vaswani et al. 2017 say.</li>" in slide.body
    assert "<li>Is it so?</li>" in slide.body and "Last of all" not in slide.body
    assert "Last of all" in slide.notes


def test_a_bold_label_begins_a_slide_and_what_is_for_the_reader_alone_has_none() -> None:
    made = slides_of(
        text("**After this notebook you can**\n- see;\n- hear.\n\n**Time:** one hour.\n\n**Downloads:** nothing."),
        text("**What to notice.** It falls.\n\n**Try it.** Make it rise."),
        text("**Is it so?** Yes.\n\n**Bold** words begin no slide."),
    )
    assert [slide.title for slide in made] == ["After this notebook you can", "What to notice", "Try it", "Is it so?"]
    assert "<li>hear.</li>" in made[0].body and "begin no slide" in made[3].body


def test_a_text_without_heading_is_said_on_the_next_slide() -> None:
    section, figure = slides_of(text("## Part"), text("Look at this."), code("draw()", shown(PICTURE)))
    assert section.body == "" and figure.title == "Part"
    assert "Look at this." in figure.notes


def test_each_figure_and_table_has_a_slide_with_what_was_printed_beside_the_first() -> None:
    made = slides_of(text("## Part"), code("draw()", printed("a < b\n"), shown(PICTURE), shown(table(3))))
    assert [slide.kind for slide in made] == ["section", "figure", "table"]
    assert PICTURE in made[1].body and "<pre>a &lt; b</pre>" in made[1].body


def test_a_long_table_goes_on_with_its_heading() -> None:
    made = slides_of(code("show()", shown(table(2 * slides.ROWS + 1))))
    assert [slide.body.count("<td>") for slide in made] == [slides.ROWS, slides.ROWS, 1]
    assert all("<th>name</th>" in slide.body and slide.body.endswith("</table>") for slide in made)
    (in_text,) = slides_of(text("| name |\n| --- |\n| $x$ |"))
    assert in_text.kind == "table" and 'alt="x"' in in_text.body


def test_rows_of_many_words_take_more_slides() -> None:
    wordy = table(3).replace("row", "word " * 100)
    assert len(slides_of(code("show()", shown(wordy)))) == 2


def test_long_code_is_cut_at_an_empty_line() -> None:
    source = "\n".join(["x = 1"] * 20 + [""] + ["y = 2"] * 20)
    first, second = slides.split_code(source)
    assert first == "\n".join(["x = 1"] * 20) and second.endswith("y = 2")
    assert [part.count("x") for part in slides.split_code("x\n" * 30)] == [slides.CODE, 30 - slides.CODE]


def test_code_that_only_prepares_or_prints_has_no_slide() -> None:
    assert slides_of(code("import torch"), code("print(1)", printed("1\n"))) == []


def test_a_stub_belongs_to_its_exercise_and_the_lines_for_a_real_model_are_shown_with_what_they_print() -> None:
    made = slides_of(
        text("## Part"),
        text("### Exercise: Count (easy)\n\nCount them."),
        code("def count():\n    raise NotImplementedError"),
        code("%%real model\nprint('hello')", printed("RECORDING of these lines\nhello\n")),
    )
    assert [slide.title for slide in made] == [
        "Part",
        "Exercise: Count (easy)",
        "Exercise: Count (easy)",
        "Part",
        "Part",
    ]
    assert "NotImplementedError" in made[2].body and "RECORDING" in made[4].body


def test_a_quiz_is_a_question_with_its_answers() -> None:
    words = 'Why\n     so?\n  a) Because.\n  b) It is\n     late.\nYour answer: quiz("1", "a") for a, and so on.\n'
    (slide,) = slides_of(code('quiz("1")', printed(words)))
    assert slide.body.count("<li>") == 2 and "Your answer" not in slide.body


def test_tags_overrule_the_rule() -> None:
    long = "One idea. " * 60 + "The end."
    made = slides_of(
        text("## Hidden", "no-slide"),
        code("draw()", shown(PICTURE), tags=("no-slide",)),
        text(f"## Whole\n\n{long}", "slide"),
        code("x = 1\nprint(x)", printed("1\n"), tags=("slide", "topic:a")),
    )
    assert [slide.kind for slide in made] == ["section", "code", "printed"]
    assert "The end." in made[0].body and made[1].title == "Whole"


def test_code_that_the_notebook_quotes_is_shown_where_a_tag_asks_for_it() -> None:
    quoted = v4.new_output("execute_result", {"text/markdown": "```python\ndef loop():\n    pass\n```"})
    (slide,) = slides_of(code("figures.source(loop)", quoted, tags=("slide",)))
    assert slide.kind == "code" and "loop" in slide.body and "figures" not in slide.body
    assert slides_of(code("figures.source(loop)", quoted)) == []


def test_a_notebook_without_a_title_is_refused() -> None:
    with pytest.raises(ValueError, match="begin with a title"):
        slides.slides_of(v4.new_notebook(cells=[text("Words.")]))


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("7.*.ipynb")), ids=lambda path: path.stem)
def test_every_core_notebook_has_figures_quizzes_and_tagged_code_on_its_slides(path: Path) -> None:
    notebook = notebooks.load(path)
    made = slides.slides_of(notebook)
    tagged = [cell for cell in notebook.cells if "slide" in cell.metadata.get("tags", [])]
    kinds = [slide.kind for slide in made]
    drawn = sum('<img src="data:image/png' in str(cell.get("outputs", "")) for cell in notebook.cells)
    assert kinds.count("figure") >= drawn >= 2
    assert len(tagged) >= 2 and kinds.count("code") >= len(tagged)
    assert 40 <= len(made) <= 90


@pytest.mark.parametrize("name", ["7.3_research_directions", "7.4_self_hosting"])
def test_a_page_loads_nothing_and_its_links_lead_somewhere(name: str) -> None:
    page = slides.deck(slides.load(NOTEBOOKS / f"{name}.ipynb"))
    assert not re.findall(r'\bsrc="(?!data:)', page)
    links = re.findall(r'\bhref="([^"]*)"', page)
    assert links and all(link.startswith("https://") for link in links)
    assert any("/blob/main/notebooks/" in link for link in links)
    assert "<link" not in page and "@import" not in page and "<script src" not in page


def test_without_a_browser_it_says_what_is_missing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(browser_tool, "problem", lambda: "No Chromium is on this machine.")
    folder = tmp_path / "für die Klasse"
    done = CliRunner().invoke(cli.app, ["slides", "7.5_lab_more_tuning", "--out", str(folder)])
    assert done.exit_code == 0
    assert "No PDF. No Chromium" in done.output and "your own browser" in done.output
    assert [path.name for path in folder.iterdir()] == ["7.5_lab_more_tuning.html"]


def test_an_unknown_unit_is_one_plain_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["slides", "7.9", "--out", str(tmp_path)])
    assert done.exit_code == 2 and "no notebook for '7.9'" in done.output


# ---------------------------------------------------------------- in a real browser

CUT_OFF = """() => [...document.querySelectorAll(".slide")].filter((slide) => {
  slide.style.display = "block";
  const parts = [slide.querySelector(".stage"), slide.querySelector(".body")];
  const cut = parts.some((part) => part.scrollHeight > part.clientHeight || part.scrollWidth > part.clientWidth);
  const flat = [...slide.querySelectorAll(".stage img")].some((image) => image.getBoundingClientRect().height < 5);
  slide.style.display = "";
  return cut || flat;
}).map((slide) => slide.id)"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """The slides of 7.1, the notebook with most pictures: HTML and PDF."""
    return list(slides.make(["7.1"], tmp_path_factory.mktemp("slides"), print))


@pytest.fixture(scope="module")
def tab(files: list[Path]) -> Iterator:
    """The slides in a browser."""
    with dark_tab(1280, 720) as tab:
        tab.goto(files[0].as_uri())
        yield tab


@pytest.mark.skipif(bool(WITHOUT_BROWSER), reason=WITHOUT_BROWSER)
class TestInABrowser:
    def test_no_slide_is_cut_off_and_all_can_be_read(self, tab) -> None:
        assert tab.evaluate(CUT_OFF) == []
        zooms = tab.evaluate("slides.map((slide) => Number(slide.dataset.zoom))")
        assert len(zooms) > 40 and min(zooms) >= 0.6

    def test_nothing_but_the_page_is_asked_for(self, tab) -> None:
        assert asked_elsewhere(tab) == []

    def test_keys_move_and_show_notes_and_turn_the_light_on(self, tab) -> None:
        visible = "[...document.querySelectorAll('.stage')].filter((stage) => stage.offsetParent).length"
        assert tab.evaluate(visible) == 1
        for key in ("Home", "ArrowRight", " ", "ArrowLeft"):
            tab.keyboard.press(key)
        assert tab.evaluate("location.hash") == "#2"
        assert tab.evaluate("document.body.className") == "dark running"
        tab.keyboard.press("d")
        tab.keyboard.press("n")
        assert tab.evaluate("document.body.className") == "running talking"
        tab.keyboard.press("n")

    def test_the_sheet_fits_a_phone(self, tab) -> None:
        tab.set_viewport_size({"width": 375, "height": 700})
        right = "document.querySelector('.now .stage').getBoundingClientRect().right"
        tab.wait_for_function(f"{right} <= 376")  # the page hears of the new size a moment later
        assert tab.evaluate(right) > 370

    def test_the_pdf_has_a_sheet_for_each_slide(self, files: list[Path]) -> None:
        from pypdf import PdfReader

        pages = PdfReader(files[1]).pages
        count = files[0].read_text("utf-8").count("<section")
        assert len(pages) == count
        assert f"{count} / {count}" in pages[-1].extract_text()
        assert (pages[0].mediabox.width, pages[0].mediabox.height) == (960, 540)  # points
