"""What others wrote, made safe to show: on a line, on a page, in a spreadsheet's cell."""

import html
import re
import unicodedata
from typing import Any

UNSEEN = ("Cc", "Cf", "Cs")  # Unicode's controls, marks such as those that turn the reading order, half characters
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # they belong to names in Persian or Hindi
SEEN = f"\n\t{JOINERS}"
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # the wide ones are for East Asian spreadsheets


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


def cell(value: Any) -> Any:
    """A cell of a CSV file: texts on one line, and none that a spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    dangerous = text.startswith(FORMULA) and text != "-"  # alone it is a dash
    return f"'{text}" if dangerous else text
