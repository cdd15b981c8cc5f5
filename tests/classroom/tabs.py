"""A page in a real browser, for tests of what is made to be looked at."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from course_utils.agents.hands import browser_tool


@contextmanager
def dark_tab(width: int, height: int) -> Iterator[Any]:
    """A tab in the dark, so many pixels large; `asked` lists the addresses that it asks for."""
    with browser_tool.offline() as browser:
        tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark")
        tab.asked = []
        tab.on("request", lambda request: tab.asked.append(request.url))
        yield tab


def asked_elsewhere(tab: Any) -> list[str]:
    """What the tab asked of others than this machine's files."""
    return [url for url in tab.asked if not url.startswith(("file:", "data:"))]
