"""`course slides 7.1`: slides made from the notebooks themselves, as one HTML file each and as PDF.

A rule makes the slides, so that a notebook needs few tags and a new section has its slides at once: headings and
questions, figures and tables, exercises with their stubs, quizzes, "What to notice", the plain lines for a real model.
Of a longer text the slide shows the beginning and the questions; all of it is in the speaker notes. Two tags of a cell
overrule the rule:

    slide      the whole cell: the code and all that it printed, or every word of a text
    no-slide   nothing of the cell
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from course_utils.agents.hands import browser_tool
from course_utils.classroom.outputs import template, write
from course_utils.classroom.site import TITLE, relink
from course_utils.workshop import notebooks
from course_utils.workshop.tex import draw_formulas

ROWS = 12  # of a table on one slide
WORDY = 1200  # letters of a table on one slide
CODE = 26  # lines of code on one slide
LINES = 18  # of printed text on one slide
BESIDE = 8  # printed lines that fit below a figure
LETTERS = 330  # of a text on one slide; the sentence that begins before is the last

HEADING = re.compile(r"(#{1,6}) +(.+)")
LABEL = re.compile(r"\*\*([^*\n]+?)(?:[.:]\*\*|(?<=\?)\*\*|\*\*(?=\n))\s*")  # "**What to notice.** The loss ..."
SENTENCE = re.compile(r"(?<=[.!?])(?<!et al\.)(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z\"*`$(])")
ANCHOR = re.compile(r'(?s)<a class="anchor-link".*?</a>')  # a heading's sign that leads to itself, a slide to nothing
FENCED = re.compile(r"(?s)```python\n(.*)\n```")
NO_PARAGRAPH = ("- ", "* ", "1. ", "|", "$$", "```")
PRACTICAL = ("Time", "Downloads", "Before it", "Next", "Papers")  # for the reader of the notebook, not for the class


@dataclass(frozen=True)
class Slide:
    """One slide: its heading and its content in HTML, what the speaker may say in Markdown."""

    title: str
    body: str
    notes: str = ""
    kind: str = "text"  # title, section, exercise, text, code, figure, table, printed, quiz


def make(names: list[str], out: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """Writes the slides of the notebooks that `names` mean ("7.1": its core notebooks) into `out`; yields the files.

    `say` is told why there is no PDF where no browser can be driven. ValueError for a unit unknown or not built.
    """
    paths = notebooks.executed(names)
    cure = browser_tool.problem()
    for path in paths:
        page = out / f"{path.stem}.html"
        write(page, deck(load(path)).encode())
        yield page
        if not cure:
            yield to_pdf(page)
    if cure:
        say(f"No PDF. {cure} Or print the page from your own browser: each slide is a sheet of its own.")


def load(path: Path) -> Any:
    """An executed notebook; its links to others lead to the repository, because slides are shown anywhere."""
    notebook = notebooks.load(path)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relink(cell.source, path, [], ".ipynb")
    return notebook


def to_pdf(page: Path) -> Path:
    """The slides of an HTML file as PDF beside it, printed by a Chromium without a window."""
    from playwright.sync_api import Error

    place = page.with_suffix(".pdf")
    try:
        with browser_tool.offline() as browser:
            tab = browser.new_page()
            tab.goto(page.resolve().as_uri())
            tab.pdf(path=place, prefer_css_page_size=True, print_background=True)
    except Error as error:
        reason = error.message.splitlines()[0]
        raise ValueError(
            f"{browser_tool.find()} did not print {page.name}; print it from your own browser. ({reason})"
        ) from error
    return place


def deck(notebook: Any) -> str:
    """The slides of an executed notebook as one HTML page that loads nothing."""
    slides = slides_of(notebook)
    title = html.escape(slides[0].title)
    shown = [_section(slide, number, len(slides), title) for number, slide in enumerate(slides, start=1)]
    return template("slides.html").render(title=slides[0].title, slides=shown, colours=_colours())


def _section(slide: Slide, number: int, count: int, title: str) -> str:
    tag = "h1" if slide.kind == "title" else "h2"
    notes = f'<aside class="notes">{to_html(slide.notes)}</aside>' if slide.notes else ""
    return (
        f'<section id="{number}" class="slide {slide.kind}"><div class="stage">'
        f"<{tag}>{inline(slide.title)}</{tag}>"
        f'<div class="body"><div class="fit">{slide.body}</div></div>'
        f"<footer><span>{title}</span><span>{number} / {count}</span></footer></div>{notes}</section>"
    )


def _colours() -> str:
    """Styles for code, light and dark."""
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="friendly").get_style_defs("pre.code")
    dark = HtmlFormatter(style="monokai").get_style_defs(".dark pre.code")
    return f"{light}\n@media screen {{\n{dark}\n}}"  # paper is white


def to_html(markdown: str) -> str:
    """Markdown as HTML, its formulas drawn."""
    from nbconvert.filters import markdown2html

    page = markdown2html(draw_formulas(markdown))
    return ANCHOR.sub("", page)


def inline(markdown: str) -> str:
    """One line of Markdown as HTML without a paragraph around it."""
    return to_html(markdown).strip().removeprefix("<p>").removesuffix("</p>")


# ---------------------------------------------------------------- from cells to slides


def slides_of(notebook: Any) -> list[Slide]:
    """The slides of an executed notebook, in its order. ValueError for one that begins with no title."""
    slides: list[Slide] = []
    topic = ""  # the section that we are in; figures and tables carry its name
    lead = ""  # a text without a slide of its own: the speaker says it on the next one
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "no-slide" in tags:
            continue
        if cell.cell_type == "markdown":
            made = text_slides(cell.source, topic, whole="slide" in tags)
        else:
            is_stub = bool(slides) and slides[-1].kind == "exercise"
            made = code_slides(cell, slides[-1].title if is_stub else topic, whole="slide" in tags)
        if made and lead:
            made[0] = replace(made[0], notes=f"{lead}\n\n{made[0].notes}")
            lead = ""
        if not made and cell.cell_type == "markdown":
            lead = f"{lead}\n\n{cell.source}"
        slides += made
        topic = next((slide.title for slide in made if slide.kind == "section"), topic)
    if not slides or slides[0].kind != "title":
        raise ValueError("slides begin with a title, and this notebook does not")
    return slides


def text_slides(source: str, topic: str, whole: bool = False) -> list[Slide]:
    """The slides of a Markdown cell: one for each heading or bold label in it, one more for each table.

    None for a text without either, which only leads on.
    """
    made = []
    for part in _labelled(source):
        made += _part_slides(part, topic, whole)
    return made


def _labelled(source: str) -> list[str]:
    """A text cut before each paragraph that begins with a bold label."""
    parts: list[str] = []
    for block in re.split(r"\n\s*\n", source.strip()):
        if LABEL.match(block) or not parts:
            parts.append(block)
        else:
            parts[-1] += f"\n\n{block}"
    return parts


def _part_slides(source: str, topic: str, whole: bool) -> list[Slide]:
    kind, title, text = _headed(source)
    if kind == "title":
        return [Slide(title, f"<p>{TITLE}</p>", kind=kind)]
    if title in PRACTICAL or (kind == "text" and not text.strip()):
        return []
    blocks = [block for block in text.strip().split("\n\n") if block]
    tables = [block for block in blocks if block.startswith("|")]
    others = [block for block in blocks if block not in tables]
    made = []
    body = "\n\n".join(others) if whole else in_short(others, alone=not title)
    if body or kind != "text":
        made.append(Slide(title or topic, to_html(body), text, kind))
    for table in tables:
        made += [Slide(title or topic, part, text, "table") for part in split_table(to_html(table))]
    return made


def _headed(source: str) -> tuple[str, str, str]:
    """What kind of slide a text begins, its title ("" if it has none), and the rest of the text."""
    first, _, rest = source.partition("\n")
    if heading := HEADING.fullmatch(first.strip()):
        title = heading[2]
        if len(heading[1]) == 1:
            return "title", title, rest
        return "exercise" if title.startswith("Exercise") else "section", title, rest
    if label := LABEL.match(source):
        return "text", label[1], source[label.end() :]
    return "text", "", source


def in_short(blocks: list[str], alone: bool = False) -> str:
    """Markdown: the blocks of a text, their sentences as points, as many as a slide holds. "" if they stand `alone`.

    `alone` says that no heading asks for them. Lists, formulas and code are kept, and they need no heading.
    """
    if alone and all(map(_is_paragraph, blocks)):
        return ""
    shown = []
    room = LETTERS
    for block in blocks:
        if not _is_paragraph(block):
            shown += ["", block, ""]
            continue
        for sentence in SENTENCE.split(" ".join(block.split())):
            # The course asks before it answers: no question is left out.
            if room > 0 or sentence.endswith("?"):
                shown.append(f"- {sentence}")
            room -= len(sentence)
    return "\n".join(shown)


def _is_paragraph(block: str) -> bool:
    return not any(line.startswith(NO_PARAGRAPH) for line in block.splitlines())


def code_slides(cell: Any, topic: str, whole: bool = False) -> list[Slide]:
    """The slides of a code cell: its figures and tables; a quiz; the code of a stub and of lines for a real model."""
    source = cell.source
    if source.startswith("quiz("):
        return [Slide("Quiz", _quiz(cell.outputs[0].text), kind="quiz")]
    is_real = source.startswith("%%real")
    is_stub = "raise NotImplementedError" in source
    only_shows = source.startswith("figures.source(")  # what it shows is the code
    made = []
    if is_real or is_stub or (whole and not only_shows):
        made.append(Slide(topic, code(source), kind="code"))
    return made + output_slides(cell.outputs, topic, everything=whole or is_real)


def code(source: str) -> str:
    """Python in colour, as HTML."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return f'<pre class="code">{highlight(source, PythonLexer(), HtmlFormatter(nowrap=True))}</pre>'


def _quiz(printed: str) -> str:
    """What `quiz` printed: the question, its answers as a list."""
    asked = re.split(r"\nYour answer", printed)[0]
    question, *answers = re.split(r"\n +[a-z]\) ", asked)
    items = "".join(f"<li>{html.escape(answer)}</li>" for answer in answers)
    return f'<p>{html.escape(question)}</p><ol type="a">{items}</ol>'


def output_slides(outputs: Iterable[Any], topic: str, everything: bool) -> list[Slide]:
    """A slide for each figure and table, what was printed below it; text alone only if `everything` is asked for."""
    parts: list[tuple[str, str]] = []
    for output in outputs:
        parts += _parts(output)
    if not parts or (not everything and all(kind in ("printed", "code") for kind, _ in parts)):
        return []
    slides: list[Slide] = []
    beside = ""  # little things, for the slide of the first figure or table
    for kind, content in parts:
        if kind == "sound" or (kind == "printed" and content.count("\n") < BESIDE):
            beside += content
        else:
            slides.append(Slide(topic, content, kind=kind))
    if not slides:
        return [Slide(topic, beside, kind="printed")]
    slides[0] = replace(slides[0], body=slides[0].body + beside)
    return slides


def _parts(output: Any) -> Iterator[tuple[str, str]]:
    """The kind of an output and its HTML, in as many parts as it needs."""
    if output.output_type == "stream":
        lines = output.text.rstrip().splitlines()
        for start in range(0, len(lines), LINES):
            shown = "\n".join(lines[start : start + LINES])
            yield "printed", f"<pre>{html.escape(shown)}</pre>"
        return
    data = output.get("data", {})
    if "image/png" in data:
        yield "figure", f'<img alt="" src="data:image/png;base64,{data["image/png"]}">'
    elif "text/html" in data:
        content = data["text/html"]
        if content.startswith("<table"):
            yield from (("table", part) for part in split_table(content))
        else:
            yield "sound" if "<audio" in content else "figure", content
    elif "text/markdown" in data:
        text = data["text/markdown"]
        fenced = FENCED.fullmatch(text)
        if fenced:
            yield from (("code", code(part)) for part in split_code(fenced[1]))
        else:
            yield "printed", to_html(text)


def split_table(table: str) -> Iterator[str]:
    """An HTML table in parts that a slide holds: at most ROWS rows and about WORDY letters, each with the heading."""
    head, body, tail = re.split(r"(?s)(?<=<tbody>)|(?=</tbody>)", table, maxsplit=2)
    part: list[str] = []
    letters = 0
    for row in re.findall(r"(?s)<tr\b.*?</tr>", body):
        length = len(re.sub(r"<[^>]*>", "", row))
        if len(part) == ROWS or (part and letters + length > WORDY):
            yield head + "\n".join(part) + tail
            part, letters = [], 0
        part.append(row)
        letters += length
    yield head + "\n".join(part) + tail


def split_code(source: str) -> Iterator[str]:
    """Code in parts of at most CODE lines, cut at empty lines where there are any."""
    lines = source.splitlines()
    while len(lines) > CODE:
        empty = [number for number in range(CODE // 2, CODE) if not lines[number].strip()]
        cut = empty[-1] if empty else CODE
        yield "\n".join(lines[:cut])
        lines = lines[cut:]
    yield "\n".join(lines)
