"""A small writer of PDF files with text: for samples and tests. Real programs take reportlab or a word processor."""

import re
import textwrap
import zlib
from collections.abc import Sequence
from pathlib import Path

LINES = 46  # of text on a page
COLUMNS = 78


def write(pages: Sequence[Sequence[str]], path: Path) -> Path:
    """Write a PDF, one list of lines a page, in a standard font. ValueError for letters that this font lacks."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Times-Roman >>"]
    kids = []
    for lines in pages:
        stream = zlib.compress(drawn(lines), 9)
        length = len(stream)
        objects.append(b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (length, stream))
        page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R"
        objects.append(page % len(objects) + b" /Resources << /Font << /F 3 0 R >> >> >>")
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    path.write_bytes(_file(objects))
    return path


def drawn(lines: Sequence[str]) -> bytes:
    """The commands that draw the lines of a page from its top."""
    shown = [re.sub(r"([()\\])", r"\\\1", line) for line in lines]
    try:
        texts = [line.encode("ascii") for line in shown]
    except UnicodeEncodeError as error:
        raise ValueError(f"This small writer knows plain ASCII only, and not {error.object[error.start]!r}.") from error
    rows = [b"(%s) Tj T*" % text for text in texts]
    return b"BT /F 11 Tf 15 TL 60 790 Td\n" + b"\n".join(rows) + b"\nET"


def _file(objects: Sequence[bytes]) -> bytes:
    """Numbered objects with the table of where each begins, as PDF 1.4 asks."""
    content, starts = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        starts.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % start for start in starts)
    size = len(objects) + 1
    end = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(content))
    return content + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + end


def write_constitution(text: Path, path: Path) -> Path:
    """The Constitution of the United States as a PDF with a head and a page number on each page.

    `text` is /usr/share/state/us-constitution of Debian's package miscfiles, unpacked; it is in the public domain.
    """
    head = "The Constitution of the United States of America"
    lines = _wrapped(text.read_text("ascii"))
    pages = [lines[start : start + LINES] for start in range(0, len(lines), LINES)]
    framed = [[head, "", *page, "", f"- {number} -"] for number, page in enumerate(pages, 1)]
    return write(framed, path)


def _wrapped(text: str) -> list[str]:
    """Paragraphs as lines of even length, with an empty line between them."""
    lines = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        plain = " ".join(paragraph.split())
        lines += [*textwrap.wrap(plain, COLUMNS), ""]
    return lines
