"""A headless Chromium that uses the page as a person does, and a list of every address that it asked."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from course_utils.agents.hands import browser_tool

WAIT = 30_000  # milliseconds
# One page of our own: nothing of the machine's graphics, and no second process for it.
LEAN = "--disable-gpu --disable-quic --disable-default-apps --disable-extensions --renderer-process-limit=1".split()


@dataclass
class Visit:
    """A customer at the page. `asked` lists the addresses of all requests, `faults` what the page's script threw."""

    page: Any
    asked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def log_in(self, url: str, customer: str, key: str) -> None:
        """Open the page and pass its door."""
        self.page.goto(url, wait_until="domcontentloaded", timeout=WAIT)
        fields = self.page.locator("input")
        fields.nth(0).fill(customer, timeout=WAIT)
        fields.nth(1).fill(key)
        self.page.locator("button", has_text="Login").click()
        self.page.locator("#words textarea").wait_for(timeout=WAIT)

    def write(self, words: str) -> str:
        """Type a message and send it; returns the answer."""
        self.page.locator("#words textarea").fill(words)
        return self._after("#send")

    def speak(self, recording: Path) -> str:
        """Hand in a recording, as a person who chooses a file, and send it."""
        self.page.locator("#sound input[type=file]").set_input_files(recording)
        self.page.locator("#sound audio, #sound #waveform, #sound .waveform-container").first.wait_for(
            state="attached", timeout=WAIT
        )
        return self._after("#send")

    def show(self, picture: Path, words: str) -> str:
        """Hand in a picture with a question."""
        self.page.locator("#picture input[type=file]").set_input_files(picture)
        self.page.locator("#picture img").first.wait_for(timeout=WAIT)
        return self.write(words)

    def approve(self) -> str:
        """Press the button that approves the refund."""
        return self._after("#approve")

    def decline(self) -> str:
        """Press the button that declines it."""
        return self._after("#decline")

    def can_decide(self) -> bool:
        """Whether the two buttons are there, or come within two seconds: they are drawn after the answer."""
        from playwright.sync_api import TimeoutError as TookTooLong

        try:
            self.page.locator("#approve").wait_for(timeout=2000)
        except TookTooLong:
            return False
        return True

    def hosts(self) -> list[str]:
        """The machines that the browser asked, each once; what is inside the page (data:, blob:) is none."""
        places = [urlsplit(address) for address in self.asked]
        return sorted({place.hostname for place in places if place.scheme in ("http", "https", "ws", "wss")})

    def _after(self, button: str) -> str:
        """Press a button and return the assistant's next words."""
        answers = self.page.locator("#talk .bot.message:not(.pending)")
        before = answers.count()
        self.page.locator(button).click(timeout=WAIT)
        answer = answers.nth(before)
        answer.wait_for(timeout=WAIT)
        self.page.locator("#talk .pending").wait_for(state="detached", timeout=WAIT)
        return answer.inner_text().strip()


@contextmanager
def visiting(width: int = 1100, height: int = 800) -> Iterator[Visit]:
    """A fresh browser without a history. In Jupyter, call this in a thread of its own (see `stories.play`)."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder,
            executable_path=browser_tool.find(),
            headless=True,
            args=[*browser_tool.flags(["127.0.0.1"]), *LEAN],
            viewport={"width": width, "height": height},
        )
        visit = Visit(context.pages[0])
        visit.page.on("request", lambda request: visit.asked.append(request.url))
        visit.page.on("websocket", lambda socket: visit.asked.append(socket.url))
        visit.page.on("pageerror", lambda error: visit.faults.append(str(error)))
        try:
            yield visit
        finally:
            context.close()
