"""A browser as an agent's tool: open a page, read it, fill in a form, press its button (Unit 7.2).

With the package playwright and a Chromium or Chrome on the machine it is a real one, without a window. Without them
`PlainBrowser` reads HTML and sends forms itself: no scripts, no pictures.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from html.parser import HTMLParser
from importlib.util import find_spec
from typing import Any, Self
from urllib.parse import urlencode, urljoin, urlsplit

from course_utils import figures

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
CHOSEN = "COURSE_BROWSER"  # the path of the reader's own
PATIENCE = 20.0  # seconds for a step
QUIET = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")


class Refused(ValueError):
    """A page that the browser does not open, or something that is not on it."""


def find() -> str | None:
    """The path of a Chromium or Chrome on this machine; None without one, or without playwright."""
    if not find_spec("playwright"):
        return None
    chosen = os.environ.get(CHOSEN)
    return chosen or next(filter(None, map(shutil.which, NAMES)), None)


def problem() -> str:
    """Why no real browser can be driven here, and what to do; "" if one can."""
    from course_utils import colab

    if not find_spec("playwright"):
        return f"The package playwright is not here. To get it: {colab.how_to_add('playwright')}"
    if find() is None:
        return f"No Chromium or Chrome is on this machine. Install one, or put the path of yours into {CHOSEN}."
    return ""


def missing() -> str:
    """What is used instead of a real browser, what that costs, and how to get one."""
    return f"A real browser is not used: HTML is read as text, and no scripts run. {problem()}"


def flags(hosts: Collection[str]) -> list[str]:
    """How Chromium is started: no call home, and nothing is reached but `hosts` ("127.0.0.1" alone: at every port).

    That is the second wall behind a list of hosts, and the only one for redirects: nobody is asked about those.
    """
    allowed = [f"MAP {host} {host}" for host in sorted(hosts)]
    rules = ", ".join([*allowed, "MAP * ~NOTFOUND"])
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's own sandbox does not run for root
    return [*QUIET, f"--host-resolver-rules={rules}", *["--no-sandbox"] * is_root]


@contextmanager
def offline() -> Iterator[Any]:
    """A headless Chromium for files of this machine, as playwright's `Browser`: it reaches no host at all.

    Not for a notebook, in whose thread playwright's plain calls may not run.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=flags([]))
        try:
            yield browser
        finally:
            browser.close()


def _check(url: str, hosts: Collection[str]) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.netloc not in hosts:
        raise Refused(f"{url[:80]} is not on the list")


class RealBrowser:
    """A headless Chromium that reaches `hosts` alone. What a page asks of others is stopped, and kept in `blocked`."""

    def __init__(self, program: str, hosts: Collection[str]) -> None:
        self.hosts, self.blocked = set(hosts), []
        # A notebook has an event loop in its thread, where playwright's plain calls may not run.
        self._thread = ThreadPoolExecutor(1)
        self._folder = tempfile.TemporaryDirectory(prefix="genai-browser-", ignore_cleanup_errors=True)
        try:
            self._do(self._start, program)
        except BaseException:
            self.close()
            raise

    def _do(self, step: Callable, *arguments: Any) -> Any:
        return self._thread.submit(step, *arguments).result()

    def _start(self, program: str) -> None:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._context = self._playwright.chromium.launch_persistent_context(
            self._folder.name,
            executable_path=program,
            headless=True,
            args=flags(self.hosts),
            service_workers="block",
            viewport={"width": 640, "height": 260},
        )
        self._context.set_default_timeout(1000 * PATIENCE)
        self._context.route("**/*", self._pass_or_block)
        self._page = self._context.new_page()

    def _pass_or_block(self, route: Any) -> None:
        try:
            _check(route.request.url, self.hosts)
        except Refused:
            self.blocked.append(route.request.url)
            route.abort()
            return
        route.continue_()

    def open(self, url: str) -> None:
        """Open a page. Refused if it is not on the list."""
        _check(url, self.hosts)
        self._do(lambda: self._page.goto(url))

    def text(self) -> str:
        """What a person would read on the page."""
        return self._do(lambda: self._page.inner_text("body")).strip()

    def fill(self, label: str, value: str) -> None:
        """Write into the field with that label."""
        self._do(lambda: self._page.get_by_label(label).fill(value))

    def press(self, button: str) -> None:
        """Press the button with that name, and wait for what comes."""

        def step() -> None:
            with self._page.expect_navigation():
                self._page.get_by_role("button", name=button).click()

        self._do(step)

    def shown(self, alt: str) -> figures.Picture:
        """The page as a picture, for the last line of a cell; `alt` says what is to be seen."""
        data = self._do(self._page.screenshot)
        return figures.Picture(figures.smaller(data), alt)

    def close(self) -> None:
        """End the browser, and remove its folder."""
        self._do(self._end)
        self._thread.shutdown()
        self._folder.cleanup()

    def _end(self) -> None:
        for name, end in (("_context", "close"), ("_playwright", "stop")):
            if hasattr(self, name):
                getattr(getattr(self, name), end)()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---------------------------------------------------------------- without a browser


class _Page(HTMLParser):
    """The text of a page, and its last form."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.form = {"action": "", "method": "get"}
        self.values: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self.buttons: list[str] = []
        self._inside: list[str] = []
        self._label = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = {name: value or "" for name, value in attrs}
        self._inside.append(tag)
        if tag == "form":
            self.form |= found
        elif tag == "label":
            self._label = ""
        elif tag == "input" and "name" in found:
            self.values[found["name"]] = found.get("value", "")
            if self._label:
                self.labels[self._label] = found["name"]
        if tag in ("input", "img", "br", "meta", "link"):
            self._inside.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag == "label":
            self._label = ""
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        words = data.strip()
        hidden = {"script", "style", "title"}.intersection(self._inside)
        if not words or hidden:
            return
        self.words.append(words)
        if "label" in self._inside:
            self._label = words
        if "button" in self._inside:
            self.buttons.append(words)


class PlainBrowser:
    """The same steps without a browser: HTML is read, and forms are sent, to `hosts` alone."""

    def __init__(self, hosts: Collection[str]) -> None:
        import httpx

        self.hosts, self.blocked = set(hosts), []
        self._client = httpx.Client(trust_env=False, timeout=PATIENCE)
        self._url, self._page = "", _Page()

    def _show(self, url: str, **form: Any) -> None:
        _check(url, self.hosts)
        reply = self._client.request("POST" if form else "GET", url, **form)
        self._url, self._page = url, _Page()
        self._page.feed(reply.text)

    def open(self, url: str) -> None:
        """Open a page. Refused if it is not on the list."""
        self._show(url)

    def text(self) -> str:
        """What a person would read on the page."""
        return "\n".join(self._page.words)

    def fill(self, label: str, value: str) -> None:
        """Write into the field with that label. Refused if there is none."""
        if label not in self._page.labels:
            raise Refused(f"no field {label}")
        self._page.values[self._page.labels[label]] = value

    def press(self, button: str) -> None:
        """Send the form with that button. Refused if there is none."""
        if button not in self._page.buttons:
            raise Refused(f"no button {button}")
        target = urljoin(self._url, self._page.form["action"])
        if self._page.form["method"] == "post":
            self._show(target, data=self._page.values)
        else:
            self._show(f"{target}?{urlencode(self._page.values)}")

    def shown(self, alt: str) -> str:
        """Instead of a picture: why there is none, and what would be to be seen."""
        return f"No picture without a real browser. It would show: {alt}"

    def close(self) -> None:
        """End its connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start(hosts: Collection[str], say: Callable[[str], None] = print) -> RealBrowser | PlainBrowser:
    """A real browser if there is one; else a plain one, after saying what is missing."""
    program = find()
    if program is None:
        say(missing())
        return PlainBrowser(hosts)
    return RealBrowser(program, hosts)
