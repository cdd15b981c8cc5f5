"""The assistant as a web page in Gradio: on this machine alone, behind a login, without analytics or foreign fonts.

The server runs in a thread of the kernel and ends with it.
"""

import html
import os
import secrets
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from operator import itemgetter
from typing import Any

from course_utils import colab
from course_utils.agents.assistant.assistant import Assistant, Reply

HEADER = ("step", "what happened")
_STYLE = "footer {display: none !important} #steps td {white-space: normal !important}"


def missing() -> str:
    """What is said where Gradio is not installed, what is used instead, and what brings it."""
    why = "The package gradio is not here, so there is no web page."
    instead = "The same assistant talks in the notebook instead: all it does works, the page's buttons are missing."
    return f"{why} {instead} To get the page (some hundred MB):\n  {colab.how_to_add_extra('agents')}"


def is_installed() -> bool:
    """Whether the page can be shown."""
    return find_spec("gradio") is not None


def import_gradio() -> Any:
    """Gradio, told before its first line to send nothing anywhere. ImportError with a cure where it is missing."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if not is_installed():
        raise ImportError(missing())
    warnings.filterwarnings("ignore", module="gradio")  # about its own use of pandas
    import gradio

    return gradio


@dataclass
class Open:
    """A page that is being served: its address, and the key that opens it together with a customer's name."""

    url: str
    key: str
    close: Callable[[], None]


class Counter:
    """Where the page meets the assistants: one for each customer who has logged in; one message at a time."""

    def __init__(self, assistant_of: Callable[[str], Assistant]) -> None:
        self.assistant_of = assistant_of
        self._known: dict[str, Assistant] = {}
        self._lock = threading.Lock()

    def ask(self, customer: str, words: str, sound: Any, picture: Any) -> Reply:
        with self._lock:
            return self._assistant(customer).ask(words, sound, picture)

    def decide(self, customer: str, approved: bool) -> Reply:
        with self._lock:
            return self._assistant(customer).decide(approved, by=f"{customer}, on the page")

    def _assistant(self, customer: str) -> Assistant:
        if customer not in self._known:
            self._known[customer] = self.assistant_of(customer)
        return self._known[customer]


def build(assistant_of: Callable[[str], Assistant], notice: str) -> Any:
    """The page: a conversation, a place for sound and picture, the steps, and two buttons for a waiting refund."""
    gr = import_gradio()
    counter = Counter(assistant_of)
    with gr.Blocks(title="Prisma's assistant", analytics_enabled=False) as page:
        gr.Markdown(f"## Prisma's assistant\n{notice}")
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                # No Markdown: a picture in it would be fetched from wherever it names.
                talk = gr.Chatbot(label="Conversation", height=330, elem_id="talk", render_markdown=False, buttons=[])
                with gr.Row(visible=False, elem_id="decision") as decision:
                    approve = gr.Button("Approve the refund", variant="primary", elem_id="approve")
                    decline = gr.Button("Decline", elem_id="decline")
                words = gr.Textbox(label="Your message", elem_id="words", lines=1, max_lines=3)
                send = gr.Button("Send", elem_id="send")
                with gr.Row():
                    sound = gr.Audio(label="Say it", type="filepath", elem_id="sound", buttons=[])
                    picture = gr.Image(label="Show it", type="pil", elem_id="picture", height=180, buttons=[])
            with gr.Column(scale=2, min_width=320):
                steps = gr.Dataframe(headers=list(HEADER), label="Steps of the last answer", elem_id="steps", wrap=True)

        def ask(said: str, spoken: str | None, shown: Any, told: list, request: gr.Request) -> tuple:
            reply = counter.ask(request.username, said or "", spoken, shown)
            mine = reply.heard or said or "(a picture)"
            return *_shown(gr, reply, told, mine), "", None, None

        def decide(approved: bool) -> Callable:
            def decided(told: list, request: gr.Request) -> tuple:
                reply = counter.decide(request.username, approved)
                return _shown(gr, reply, told, "Approved." if approved else "Declined.")

            return decided

        seen = [talk, steps, decision]
        message = [words, sound, picture]
        for event in (send.click, words.submit):
            event(ask, [*message, talk], [*seen, *message], api_visibility="private")
        approve.click(decide(True), [talk], seen, api_visibility="private")
        decline.click(decide(False), [talk], seen, api_visibility="private")
    return page


def _shown(gr: Any, reply: Reply, told: list, mine: str) -> tuple:
    """What the page shows after a reply: the conversation, the table of steps, and whether there is to decide."""
    # Escaped: Gradio draws HTML also where it draws no Markdown, and a picture's address could be anywhere.
    turns = [{"role": "user", "content": html.escape(mine)}, {"role": "assistant", "content": html.escape(reply.text)}]
    cells_of = itemgetter(*HEADER)
    rows = [list(cells_of(step)) for step in reply.steps]
    return [*told, *turns], rows, gr.Row(visible=reply.proposal is not None)


def start(assistant_of: Callable[[str], Assistant], customers: list[str], notice: str) -> Open:
    """Serve the page on 127.0.0.1 at a free port. Each of `customers` logs in with the same fresh key.

    `share=False` is said aloud: in a hosted notebook Gradio would otherwise open a tunnel to the internet.
    """
    gr = import_gradio()
    key = secrets.token_urlsafe(12)
    page = build(assistant_of, notice)
    fonts = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])
    with _without_proxy():
        page.launch(
            auth=[(customer, key) for customer in customers],
            server_name="127.0.0.1",
            share=False,
            inline=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            enable_monitoring=False,
            max_file_size="10mb",
            theme=theme,
            css=_STYLE,
            footer_links=[],
        )
    return Open(page.local_url, key, lambda: page.close(verbose=False))


@contextmanager
def serving(assistant_of: Callable[[str], Assistant], customers: list[str], notice: str) -> Iterator[Open]:
    """`start`, and close the page at the end whatever happened."""
    opened = start(assistant_of, customers, notice)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def _without_proxy() -> Iterator[None]:
    """Gradio asks its own server whether it is there; a proxy would be asked instead, where one is set."""
    before = os.environ.get("NO_PROXY")
    os.environ["NO_PROXY"] = ",".join(filter(None, [before, "127.0.0.1", "localhost"]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["NO_PROXY"]
        else:
            os.environ["NO_PROXY"] = before
