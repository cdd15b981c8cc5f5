"""Documents that a reader brings: PDF, web page, Markdown and plain text become pieces that can be cited.

Whatever is in a file was written by a stranger. It is read as text, and nothing in it is run or fetched.
"""

import io
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.agents.hands import web_tool
from course_utils.settings import DATA

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

MOST_BYTES = 20_000_000  # of a file
MOST_TEXT = 2_000_000  # characters of a document: a long novel has fewer
MOST_PAGES = 500
MOST_PAGE_BYTES = 2_000_000  # drawing commands of one page, unpacked
MOST_SECONDS = 60.0  # for all pages of a PDF
WORDS = 110  # of a piece; MiniLM reads 256 tokens at most
SAMPLES = DATA / "samples" / "documents"

HEADINGS = ("h1", "h2", "h3", "h4")
BLOCKS = (*HEADINGS, "p", "li", "div", "section", "tr", "dt", "dd", "pre", "blockquote", "br", "table", "ul", "ol")
# What stands around the text of a web page, or is not shown.
AROUND = ("script", "style", "noscript", "template", "nav", "header", "footer", "aside", "form", "button", "svg")
AROUND += ("iframe", "head", "title")
HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0", re.I)
SENTENCE_END = re.compile(r"(?<=[.!?;:])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|\n\n+")


class DocumentError(ValueError):
    """A document that cannot be used. The message says why, and what to do."""


@dataclass(frozen=True)
class Piece:
    """A few sentences of a document. `place` is where they stand: "page 3", or the headings above them."""

    text: str
    source: str
    place: str

    @property
    def citation(self) -> str:
        return f"{self.source}, {self.place}" if self.place else self.source


def read(source: str | Path, words: int = WORDS) -> list[Piece]:
    """The pieces of one document, each of about `words` words at most, in their order.

    PDF, HTML, Markdown and plain text; what a file is, its first bytes and its ending say. DocumentError for what
    is no document that can be read.
    """
    path = Path(source)
    content = _content(path)
    parts = _parts(content, path)
    if sum(len(text) for _, text in parts) > MOST_TEXT:
        raise DocumentError(f"{path.name} holds more than {MOST_TEXT:,} characters. Bring the chapters that matter.")
    pieces = []
    for place, text in parts:
        pieces += [Piece(packed, path.name, place) for packed in pack(text, words)]
    if not pieces:
        raise DocumentError(f"{path.name} holds no text.")
    return pieces


def read_all(sources: Iterable[str | Path], words: int = WORDS) -> list[Piece]:
    """The pieces of several documents. DocumentError names the first that cannot be read.

    Two files of one name would make citations ambiguous, and are refused.
    """
    if isinstance(sources, str | Path):
        raise DocumentError(f'Give a list of files: ["{sources}"].')
    paths = [Path(source) for source in sources]
    names = Counter(path.name for path in paths)
    if twice := [name for name, count in names.items() if count > 1]:
        raise DocumentError(f"Two files are called {twice[0]}. Rename one, or a citation could mean either.")
    pieces: list[Piece] = []
    for path in paths:
        pieces += read(path, words)
    return pieces


def fetch_page(url: str, folder: Path) -> Path:
    """Fetch a web page into `folder`, over the network, and say so. Returns its file.

    Only http and https, at most MOST_BYTES, and no addresses of this machine or its network:
    a link may come from a stranger. DocumentError if it can't be had.
    """
    import httpx

    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise DocumentError(f"{url[:80]} is no web address: {error}.") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise DocumentError(f"{url} is no web address. It has to begin with https:// or http://.")
    refuse_own_network(address.host)
    print(f"Fetching {url} (network).")
    try:
        # Without redirects: each would have to be looked at as the first address was.
        with httpx.stream("GET", address, timeout=20) as reply:
            content = _body(reply, url)
    except httpx.HTTPError as error:
        raise DocumentError(
            f"{url} did not answer ({type(error).__name__}). Save the page as a file instead."
        ) from error
    place = f"{address.host}{address.raw_path.decode()}"
    stem = re.sub(r"\W+", "_", place).strip("_")[:100]
    path = folder / f"{stem}.html"
    path.write_bytes(content)
    return path


def refuse_own_network(host: str) -> None:
    """DocumentError for a host that is no public one. (A name server could still change its answer afterwards.)"""
    try:
        found = web_tool.addresses_of(host, 443)
    except web_tool.Refused as error:
        raise DocumentError(f"{host} was not found. Is there a network? Save the page as a file.") from error
    if not all(map(web_tool.is_public, found)):
        raise DocumentError(f"{host} is on this machine or its network, not on the web. Save the page as a file.")


def _body(reply, url: str) -> bytes:
    """What the server sent, read only as far as it may be."""
    if reply.is_redirect:
        raise DocumentError(f"{url} leads on to {reply.headers.get('location', 'another page')}. Give that address.")
    reply.raise_for_status()
    content = b""
    for part in reply.iter_bytes():
        content += part
        if len(content) > MOST_BYTES:
            raise DocumentError(f"{url} is larger than {MOST_BYTES / 1e6:.0f} MB.")
    return content


def _content(path: Path) -> bytes:
    """The bytes of a file of a bearable size. Folders, devices and pipes are no files."""
    if path.is_dir():
        raise DocumentError(f"{path.name} is a folder. Give its files, for example Path(...).glob('*.md').")
    if not path.is_file():
        raise DocumentError(f"There is no file {path}. Put it beside the notebook, or give its whole path.")
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DocumentError(f"{path.name} cannot be opened ({error.strerror}).") from error
    if len(content) > MOST_BYTES:
        raise DocumentError(f"{path.name} is larger than {MOST_BYTES / 1e6:.0f} MB. Bring the pages that matter.")
    if not content.strip():
        raise DocumentError(f"{path.name} is empty.")
    return content


def _parts(content: bytes, path: Path) -> list[tuple[str, str]]:
    """A document as pairs of a place and the text there."""
    # Some programs write a few bytes before a PDF begins.
    if b"%PDF-" in content[:1024]:
        return _pdf(content, path.name)
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DocumentError(f"{path.name} is an archive or an office file. Save it as PDF, Markdown or text first.")
    suffix = path.suffix.lower()
    if suffix == ".pdf":
        raise DocumentError(f"{path.name} does not begin as a PDF does: it is damaged, or something else.")
    if suffix in (".html", ".htm", ".xhtml") or content[:200].lstrip().lower().startswith(
        (b"<!doctype html", b"<html")
    ):
        return _html(content, path.name)
    text = _decoded(content, path.name)
    return _markdown(text) if suffix in (".md", ".markdown") else [("", text)]


def _decoded(content: bytes, name: str) -> str:
    """Text in UTF-8, or in UTF-16 with its mark. A guess at any other encoding could be silently wrong."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    if b"\x00" in content:
        raise DocumentError(f"{name} is no text: it holds zero bytes. PDF, HTML, Markdown and text can be read.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DocumentError(
            f"{name} is not in UTF-8 (line {line}). Save it as UTF-8: every editor can, and so can "
            "Path(name).read_text(encoding='cp1252') for an old Windows file."
        ) from error


# ---------------------------------------------------------------- PDF


def _pdf(content: bytes, name: str) -> list[tuple[str, str]]:
    """The text of each page. Lines that stand on most pages (head, foot, page number) are left out."""
    try:
        pages = _pages(content, name)
    except DocumentError:
        raise
    except Exception as error:  # damaged files make the library fail in ways that no list of errors holds
        raise DocumentError(f"{name} cannot be read as a PDF: {type(error).__name__}. Is it damaged?") from error
    if sum(len(text) for text in pages) < 20:
        raise DocumentError(
            f"{name} has {len(pages)} pages and no text: it is scanned, each page a picture. "
            "Let a program for OCR read it first, ocrmypdf for example."
        )
    if blank := [str(number) for number, text in enumerate(pages, 1) if not text.strip()]:
        print(f"{name}: no text on page {', '.join(blank)} (empty, or a picture).")
    return _flowing(_without_frame(pages))


def _pages(content: bytes, name: str) -> list[str]:
    import pypdf

    reader = pypdf.PdfReader(io.BytesIO(content))
    # A PDF that only forbids printing opens with the empty password.
    if reader.is_encrypted and not reader.decrypt(""):
        raise DocumentError(f"{name} is locked with a password. Open it, and print it into a new PDF.")
    if len(reader.pages) > MOST_PAGES:
        raise DocumentError(f"{name} has {len(reader.pages)} pages, at most {MOST_PAGES} are taken. Split it.")
    texts, until = [], time.monotonic() + MOST_SECONDS
    for page in reader.pages:
        _check_size(page, name)
        texts.append(page.extract_text())
        if sum(map(len, texts)) > MOST_TEXT or time.monotonic() > until:
            raise DocumentError(f"{name} is too much work after {len(texts)} pages. Split it.")
    return texts


def _check_size(page, name: str) -> None:
    """DocumentError for a page that unpacks to far more than a page needs: a few bytes can become gigabytes."""
    from pypdf.errors import LimitReachedError

    try:
        drawn = page.get_contents()
        size = len(drawn.get_data()) if drawn is not None else 0
    except LimitReachedError:
        size = MOST_PAGE_BYTES + 1
    if size > MOST_PAGE_BYTES:
        raise DocumentError(f"{name} unpacks to more than {MOST_PAGE_BYTES / 1e6:.0f} MB a page: it is not opened.")


def _without_frame(pages: Sequence[str]) -> list[list[str]]:
    """The lines of each page, without a first or last line that most pages share; numbers may differ."""
    lines = [_lines(page) for page in pages]
    for place in (0, -1):
        ends = Counter(_pattern(page[place]) for page in lines if page)
        shared = {line for line, count in ends.items() if count >= 3 and count > len(pages) / 2}
        lines = [_cut(page, place, shared) for page in lines]
    return lines


def _lines(page: str) -> list[str]:
    """The lines of a page, without empty ones."""
    stripped = [line.strip() for line in page.splitlines()]
    return [line for line in stripped if line]


def _pattern(line: str) -> str:
    return re.sub(r"\d+", "#", line)


def _cut(page: list[str], place: int, shared: set[str]) -> list[str]:
    if not page or _pattern(page[place]) not in shared:
        return page
    return page[1:] if place == 0 else page[:-1]


def _flowing(pages: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Pages as running text. A sentence that goes on overleaf belongs to the page on which it begins."""
    texts = [_joined(lines) for lines in pages]
    for number in range(len(texts) - 1):
        # A page may begin in the middle of a sentence: move that to the page before.
        if texts[number] and not re.search(r"[.!?:;]\W*$", texts[number]):
            first, *rest = sentences(texts[number + 1]) or [""]
            texts[number] = f"{texts[number]} {first}".strip()
            texts[number + 1] = " ".join(rest)
    return [(f"page {number}", text) for number, text in enumerate(texts, 1) if text]


def _joined(lines: Sequence[str]) -> str:
    """Lines as one text; a word that a hyphen divides at a line's end is put together."""
    text = "\n".join(lines)
    text = re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", text)
    return text.replace("\n", " ")


# ---------------------------------------------------------------- web pages


def _html(content: bytes, name: str) -> list[tuple[str, str]]:
    """The sections of a web page's main part, each with its headings. Scripts and what is not shown are left out."""
    from bs4 import BeautifulSoup

    try:
        page = BeautifulSoup(_page_text(content, name), "html.parser")
    except DocumentError:
        raise
    except Exception as error:  # the parser knows several kinds of failure
        raise DocumentError(f"{name} cannot be read as a web page: {type(error).__name__}.") from error
    for tag in page.find_all(_is_around):
        if not tag.decomposed:
            tag.decompose()
    return _sections(_main(page))


def _page_text(content: bytes, name: str) -> str:
    """A page in the encoding that it names, UTF-8 without one."""
    from bs4.dammit import EncodingDetector

    named = EncodingDetector.find_declared_encoding(content, is_html=True)
    if named in (None, "utf-8", "utf8", "utf-16"):  # a page that can be read at all has no UTF-16 in its head
        return _decoded(content, name)
    try:
        return content.decode(named)
    except (UnicodeDecodeError, LookupError) as error:
        raise DocumentError(f"{name} says that it is in {named}, and is not. Save it as UTF-8.") from error


def _is_around(tag: "Tag") -> bool:
    """Whether a tag belongs to the frame of a page, or is hidden from its readers: nobody has seen what it says."""
    if tag.name in AROUND or tag.has_attr("hidden") or tag.get("aria-hidden") == "true":
        return True
    roles = ("navigation", "banner", "contentinfo", "search")
    return tag.get("role") in roles or bool(HIDDEN.search(tag.get("style") or ""))


def _main(page: "BeautifulSoup") -> "Tag":
    """The part that the page calls its main one, or all of it."""
    return page.find("main") or page.find(attrs={"role": "main"}) or page.find("article") or page


def _sections(main: "Tag") -> list[tuple[str, str]]:
    from bs4 import NavigableString, Tag

    above: dict[str, str] = {}
    sections: list[tuple[str, list[str]]] = [("", [])]
    for node in main.descendants:
        if isinstance(node, Tag) and node.name in HEADINGS:
            above = {level: title for level, title in above.items() if level < node.name}
            above[node.name] = _plain(node.get_text())
            sections.append((" > ".join(above.values()), []))
        elif isinstance(node, Tag):
            sections[-1][1].append("\n" if node.name in BLOCKS else "")
        # Comments are strings of a kind of their own. A heading's words stand in the place already.
        elif type(node) is NavigableString and not node.find_parent(HEADINGS):
            sections[-1][1].append(str(node))
    return [(place, text) for place, words in sections if (text := _plain("".join(words)))]


def _plain(text: str) -> str:
    """Text with single spaces, without the sign that links to a paragraph."""
    return " ".join(text.replace("¶", " ").split())


# ---------------------------------------------------------------- Markdown


def _markdown(text: str) -> list[tuple[str, str]]:
    """The sections of a Markdown file, each with its headings. A # in a block of code is no heading."""
    above: dict[int, str] = {}
    sections: list[tuple[str, list[str]]] = [("", [])]
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        heading = None if fenced else re.match(r"(#{1,6})\s+(.+?)\s*#*$", line)
        if heading:
            level = len(heading[1])
            above = {depth: title for depth, title in above.items() if depth < level}
            above[level] = heading[2]
            sections.append((" > ".join(above.values()), []))
        else:
            sections[-1][1].append(line)
    texts = [(place, _unmarked("\n".join(lines))) for place, lines in sections]
    return [(place, words) for place, words in texts if words.strip()]


def _unmarked(text: str) -> str:
    """Markdown's words without its marks. A comment is not shown to readers, and left out."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)  # links and pictures: their words
    text = re.sub(r"^\s*(?:[-*+>]\s|```\w*|~~~\w*)\s*", "", text, flags=re.M)
    return re.sub(r"\*\*|__|`", "", text)


# ---------------------------------------------------------------- pieces


def sentences(text: str) -> list[str]:
    """The sentences of a text. A semicolon before a capital ends one, too: laws have sentences of a page."""
    return [" ".join(part.split()) for part in SENTENCE_END.split(text) if part and part.strip()]


def pack(text: str, words: int = WORDS) -> list[str]:
    """A text in pieces of at most `words` words; only a sentence that is longer itself is cut.

    ValueError if `words` is below 1.
    """
    if words < 1:
        raise ValueError(f"A piece of {words} words is none: give 1 or more.")
    pieces: list[list[str]] = []
    for sentence in sentences(text):
        parts = sentence.split()
        for start in range(0, len(parts), words):
            part = parts[start : start + words]
            if pieces and len(pieces[-1]) + len(part) <= words:
                pieces[-1] += part
            else:
                pieces.append(part)
    return [" ".join(piece) for piece in pieces]
