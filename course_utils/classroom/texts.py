"""What others wrote, made safe to show: on a line, on a page, in a spreadsheet's cell, as the name of a file."""

import html
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

UNSEEN = ("Cc", "Cf", "Cs")  # Unicode's controls, marks such as those that turn the reading order, half characters
SEEN = "\n\t\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # the joiners belong to names in Persian or Hindi
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # the wide ones are for East Asian spreadsheets
UNNAMED = re.compile(r'[<>:"/\\|?*\s]+')  # what some system admits in no file's name, and spaces
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows keeps these names for itself
LONGEST = 60  # characters of a file's name; a system counts bytes, up to 255


def visible(text: str) -> str:
    """`text` with a sign in the place of every character that would not show, or would change how others show."""
    return "".join(UNKNOWN if _unseen(letter) else letter for letter in text)


def _unseen(letter: str) -> bool:
    return letter not in SEEN and unicodedata.category(letter) in UNSEEN


def plain(text: str) -> str:
    """`text` on one line, as `visible` shows it."""
    return visible(" ".join(text.split()))


def as_html(text: str) -> str:
    """`text` as `visible` shows it, escaped; what stands between backticks becomes <code>."""
    escaped = html.escape(visible(text), quote=False)
    return re.sub("`([^`\n]+)`", r"<code>\1</code>", escaped)


@cache
def template(name: str) -> Any:
    """A page or an XML file of the folder `templates`, to be filled in with `render`. Whatever goes in is escaped.

    `text | marked` is `as_html`, which escapes already: a page adds `| safe`, and XML that holds HTML as text doesn't.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("course_utils.classroom", "templates")
    pages = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters["marked"] = as_html
    return pages.get_template(name)


def cell(value: Any) -> Any:
    """A cell of a CSV file: texts on one line, and none that a spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    dangerous = text.startswith(FORMULA) and text != "-"  # alone it is a dash
    return f"'{text}" if dangerous else text


def file_names(names: Iterable[str]) -> list[str]:
    """A file's name for each of `names`, in order: all different, also where case doesn't count, and valid anywhere."""
    taken: set[str] = set()
    chosen = []
    for name in names:
        base = _file_name(name)
        candidate, number = base, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{base}_{number}"
        taken.add(candidate.casefold())
        chosen.append(candidate)
    return chosen


def _file_name(name: str) -> str:
    composed = unicodedata.normalize("NFC", plain(name))
    text = UNNAMED.sub("_", composed.replace(UNKNOWN, "_"))
    short = text[:LONGEST].strip("._") or "student"  # a dot at the end is lost on Windows, one in front hides a file
    return f"_{short}" if DEVICES.fullmatch(short) else short
