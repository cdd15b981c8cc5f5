"""What a notebook says and prints, read from its committed file."""

import html
import re
from functools import cache
from typing import Any

import nbformat

from course_utils.settings import NOTEBOOKS


@cache
def committed(notebook: str) -> Any:
    """A notebook with its committed outputs."""
    (path,) = NOTEBOOKS.rglob(f"{notebook}.ipynb")
    return nbformat.read(path, as_version=4)


def cells(notebook: str, kind: str) -> list[str]:
    """The texts of a notebook's cells: kind "code" or "markdown"."""
    return [cell.source for cell in committed(notebook).cells if cell.cell_type == kind]


def prose(notebook: str) -> str:
    """What a notebook tells its reader, in one line."""
    return " ".join(" ".join(cells(notebook, "markdown")).split())


def printed(notebook: Any) -> list[str]:
    """The lines of a notebook's outputs: printed lines, rows and captions of tables, texts of figures."""
    lines = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            lines += lines_of(output)
    return [" ".join(line.split()) for line in lines]


def lines_of(output: Any) -> list[str]:
    if output.output_type == "stream":
        return output.text.splitlines()
    shown = output.get("data", {})
    page = shown.get("text/html", "")
    if not page:
        return shown.get("text/plain", "").splitlines()
    lines = re.findall(r' alt="([^"]*)"', page)
    for row in re.findall(r"(?s)<tr>(.*?)</tr>", page):
        cells = re.sub(r"</t[dh]>", " | ", row)
        lines.append(re.sub(r"<[^>]+>", "", cells))
    lines += re.findall(r"(?s)<caption>(.*?)</caption>", page)
    return [html.unescape(line) for line in lines]


def pages(notebook: str) -> list[str]:
    """What a notebook shows in HTML: tables, figures, players."""
    found = []
    for cell in committed(notebook).cells:
        for output in cell.get("outputs", []):
            found.append(output.get("data", {}).get("text/html", ""))
    return found


def tables(notebook: str) -> list[list[dict[str, str]]]:
    """The rows of each table that a notebook shows."""
    return [rows_of(page) for page in pages(notebook) if page.startswith("<table>")]


def table(notebook: str, caption: str) -> list[dict[str, str]]:
    """The rows of the table whose caption, or else whose header, holds `caption`."""
    for page in pages(notebook):
        head = html.unescape(page.partition("<tbody>")[0])
        if page.startswith("<table>") and caption in head:
            return rows_of(page)
    raise LookupError(f"{notebook} shows no table with {caption!r}.")


def rows_of(page: str) -> list[dict[str, str]]:
    """The rows of a table in HTML."""
    header, *rows = re.findall(r"(?s)<tr>(.*?)</tr>", page)
    names = fields(header)
    return [dict(zip(names, fields(row), strict=True)) for row in rows]


def fields(row: str) -> list[str]:
    parts = re.findall(r"(?s)<t[dh][^>]*>(.*?)</t[dh]>", row)
    return [html.unescape(re.sub(r"<[^>]+>", "", part)) for part in parts]


def interval(text: str) -> tuple[float, float]:
    """The ends of the first interval in a text, such as "88.9% (74.7% to 95.6%, n = 36)"."""
    ends = re.search(r"\(([-\d.]+)%? to ([-\d.]+)", text)
    assert ends, f"no interval in {text!r}"
    return float(ends[1]), float(ends[2])
