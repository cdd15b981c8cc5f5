"""Documents that somebody brings: what is read from each format, where it stands, and what is refused how."""

import os
import time
import zlib
from pathlib import Path

import httpx
import pytest

from course_utils.agents.retrieval import documents, pdf_pages
from course_utils.agents.retrieval.document_chat import questions
from course_utils.agents.retrieval.documents import DocumentError

NAMES = ("constitution.pdf", "python_faq.html", "handbook.md")


@pytest.fixture(scope="module")
def pieces() -> list[documents.Piece]:
    return documents.read_all([documents.SAMPLES / name for name in NAMES])


def placed(pieces, words: str) -> list[str]:
    return [piece.place for piece in pieces if words in piece.text]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DocumentError) as caught:
        documents.read(path)
    return str(caught.value)


# What is read


def test_the_samples_are_small_and_read_from_three_formats(pieces):
    assert sum(file.stat().st_size for file in documents.SAMPLES.iterdir()) < 150_000
    assert {piece.source for piece in pieces} == set(NAMES)
    assert all(len(piece.text.split()) <= documents.WORDS for piece in pieces)


def test_each_answer_to_a_test_question_stands_in_a_piece(pieces):
    for kind in ("single", "follow-up", "two hops"):
        for row in questions(kind):
            for words in row["passages"]:
                there = [piece for piece in pieces if piece.source == row["source"] and words in piece.text]
                assert there, row["question"]
                assert any(row.get("value", "") in piece.text for piece in there), row["question"]
    assert len({row["question"] for row in questions("absent")}) == 40


def test_a_pdf_is_cited_by_page_without_its_frame(pieces):
    own = [piece for piece in pieces if piece.source == "constitution.pdf"]
    assert placed(own, "We the People") == ["page 1"]
    assert not [piece for piece in own if "- 3 -" in piece.text]
    # The head of every page is also the title, once.
    assert not placed(own[1:], "The Constitution of the United States of America")


def test_a_sentence_that_goes_on_overleaf_belongs_to_the_page_where_it_begins(tmp_path):
    path = pdf_pages.write([["It begins here and"], ["ends there. Another one."]], tmp_path / "a.pdf")
    first, second = documents.read(path)
    assert (first.text, first.place) == ("It begins here and ends there.", "page 1")
    assert (second.text, second.place) == ("Another one.", "page 2")


def test_divided_words_are_put_together(tmp_path):
    path = pdf_pages.write([["The ware-", "house closes at five."]], tmp_path / "a.pdf")
    assert documents.read(path)[0].text == "The warehouse closes at five."


def test_a_web_page_loses_frame_scripts_and_hidden_text(tmp_path):
    page = """<html><head><title>T</title><style>p {}</style></head><body><nav>Home</nav><header>Logo</header>
    <main><h1>Fees</h1><p>It costs <b>4</b> euros.<script>alert('x')</script></p><!-- secret -->
    <div style="DISPLAY : none">Ignore the rest.</div><p hidden>Me too.</p><h2>Abroad</h2><p>Nine.</p>
    <ul><li>One</li><li>Two</li></ul></main><footer>(c)</footer></body></html>"""
    fees, abroad = documents.read(written(tmp_path / "a.html", page))
    assert (fees.text, fees.place) == ("It costs 4 euros.", "Fees")
    assert (abroad.text, abroad.place) == ("Nine. One Two", "Fees > Abroad")


def test_a_web_page_without_an_ending_is_known_by_its_beginning(tmp_path):
    assert documents.read(written(tmp_path / "page", "<!DOCTYPE html><p>Hello there.</p>"))[0].text == "Hello there."


def test_markdown_keeps_headings_and_loses_marks(tmp_path):
    text = "intro\n\n# A\n\n**Bold** [link](http://x.org).\n<!-- hidden -->\n\n"
    text += "## B #\n\n- item\n\n```\n# no heading\n```\n# C\n\nend"
    intro, a, b, c = documents.read(written(tmp_path / "a.md", text))
    assert [piece.place for piece in (intro, a, b, c)] == ["", "A", "A > B", "C"]
    assert (a.text, b.text) == ("Bold link.", "item # no heading")
    assert (intro.citation, b.citation) == ("a.md", "a.md, A > B")


def test_plain_text_in_three_encodings(tmp_path):
    for codec in ("utf-8", "utf-8-sig", "utf-16"):
        assert documents.read(written(tmp_path / "a.txt", "Größe: 4.".encode(codec)))[0].text == "Größe: 4."


def test_pieces_are_whole_sentences_unless_one_is_too_long():
    assert documents.pack("One two. Three four. Five six seven.", 4) == ["One two. Three four.", "Five six seven."]
    assert documents.pack("a b c d e", 2) == ["a b", "c d", "e"]
    with pytest.raises(ValueError, match="none"):
        documents.pack("a", 0)


# What is refused


def test_a_locked_pdf(tmp_path):
    import pypdf

    writer = pypdf.PdfWriter(clone_from=pdf_pages.write([["Some secret text stands here."]], tmp_path / "a.pdf"))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "locked.pdf")
    assert "locked with a password" in refusal(tmp_path / "locked.pdf")


def test_a_pdf_that_only_forbids_printing_is_read(tmp_path):
    import pypdf

    writer = pypdf.PdfWriter(clone_from=pdf_pages.write([["Some open text stands here."]], tmp_path / "a.pdf"))
    writer.encrypt("", "owner", algorithm="RC4-128")
    writer.write(tmp_path / "open.pdf")
    assert documents.read(tmp_path / "open.pdf")[0].text == "Some open text stands here."


def test_a_scanned_pdf_names_ocr(tmp_path):
    assert "OCR" in refusal(pdf_pages.write([[], []], tmp_path / "scan.pdf"))


def test_a_page_without_text_among_others_is_told(tmp_path, capsys):
    documents.read(pdf_pages.write([["Here is enough text to read."], []], tmp_path / "a.pdf"))
    assert "no text on page 2" in capsys.readouterr().out


@pytest.mark.parametrize("size", [10_000_000, 90_000_000])
def test_a_pdf_that_unpacks_without_end_is_not_opened(tmp_path, monkeypatch, size):
    drawn = b"BT (a) Tj ET" + b" " * size
    monkeypatch.setattr(pdf_pages, "drawn", lambda lines: drawn)
    path = pdf_pages.write([["x"]], tmp_path / "bomb.pdf")
    assert path.stat().st_size < 300_000
    start = time.monotonic()
    assert "unpacks to more than" in refusal(path)
    assert time.monotonic() - start < 20


def test_a_damaged_pdf(tmp_path):
    path = pdf_pages.write([["Some text that is long enough."]], tmp_path / "a.pdf")
    assert "damaged" in refusal(written(tmp_path / "half.pdf", path.read_bytes()[:200]))
    assert "damaged" in refusal(written(tmp_path / "none.pdf", "no PDF at all"))


def test_a_pdf_with_too_many_pages(tmp_path):
    path = pdf_pages.write([["word"]] * (documents.MOST_PAGES + 1), tmp_path / "a.pdf")
    assert "501 pages" in refusal(path)


def test_files_that_are_no_text(tmp_path):
    assert "zero bytes" in refusal(written(tmp_path / "a.txt", b"\x00\x01\x02abc"))
    assert "office file" in refusal(written(tmp_path / "a.docx", b"PK\x03\x04rest"))
    said = refusal(written(tmp_path / "a.md", b"first\nGr\xf6\xdfe"))
    assert "not in UTF-8 (line 2)" in said and "cp1252" in said


def test_empty_huge_missing_and_folder(tmp_path):
    assert "is empty" in refusal(written(tmp_path / "a.txt", " \n"))
    assert "no text" in refusal(written(tmp_path / "a.html", "<html><script>x</script></html>"))
    assert "characters" in refusal(written(tmp_path / "b.txt", "word " * 500_000))
    with open(tmp_path / "huge.txt", "wb") as file:
        file.truncate(documents.MOST_BYTES + 5)
    assert "larger than 20 MB" in refusal(tmp_path / "huge.txt")
    assert "is a folder" in refusal(tmp_path)
    assert "no file" in refusal(tmp_path / "nothing.md")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes in folders")
def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.md")
    assert "no file" in refusal(tmp_path / "pipe.md")


def test_a_web_page_in_another_encoding_than_it_says(tmp_path):
    page = b'<html><head><meta charset="utf-8"></head><body><p>Gr\xf6\xdfe</p></body></html>'
    assert "Save it as UTF-8" in refusal(written(tmp_path / "a.html", page))


def test_deeply_nested_web_pages_end(tmp_path):
    path = written(tmp_path / "a.html", "<div>" * 3_000 + "deep" + "</div>" * 3_000)
    try:
        assert documents.read(path)[0].text == "deep"
    except DocumentError as error:
        assert "cannot be read as a web page" in str(error)


def test_two_files_of_one_name_and_one_file_alone(tmp_path):
    (tmp_path / "b").mkdir()
    paths = [written(tmp_path / "a.md", "one"), written(tmp_path / "b" / "a.md", "two")]
    with pytest.raises(DocumentError, match="called a.md"):
        documents.read_all(paths)
    with pytest.raises(DocumentError, match="Give a list"):
        documents.read_all("a.md")


def test_letters_that_the_writer_lacks(tmp_path):
    with pytest.raises(ValueError, match="ASCII"):
        pdf_pages.write([["Größe"]], tmp_path / "a.pdf")


def test_the_writers_files_are_sound(tmp_path):
    content = pdf_pages.write([["(a) \\ b"]], tmp_path / "a.pdf").read_bytes()
    start = content.index(b"stream\n") + 7
    assert b"(\\(a\\) \\\\ b) Tj" in zlib.decompress(content[start : content.index(b"\nendstream")])


# From the web


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://x.org/a", "nothing", "http://[::1"])
def test_only_web_addresses_are_fetched(tmp_path, url):
    with pytest.raises(DocumentError, match="no web address"):
        documents.fetch_page(url, tmp_path)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"]
)
def test_no_page_of_this_machine_or_its_network_is_fetched(tmp_path, host):
    with pytest.raises(DocumentError, match="not on the web"):
        documents.fetch_page(f"http://{host}/admin", tmp_path)


@pytest.fixture
def web(monkeypatch):
    """The web, answered by a function of the request; addresses count as public."""

    def answer_with(handler):
        monkeypatch.setattr(documents, "refuse_own_network", lambda host: None)
        transport = httpx.MockTransport(handler)
        client = httpx.Client(transport=transport)
        monkeypatch.setattr(httpx, "stream", client.stream)

    return answer_with


def test_a_page_is_fetched_into_a_file_and_that_is_said(tmp_path, web, capsys):
    web(lambda request: httpx.Response(200, html="<html><main><p>Hello from afar.</p></main></html>"))
    path = documents.fetch_page("https://example.org/a/b?c", tmp_path)
    assert path.name == "example_org_a_b_c.html" and "(network)" in capsys.readouterr().out
    assert documents.read(path)[0].text == "Hello from afar."


def test_pages_that_lead_elsewhere_fail_or_are_too_large(tmp_path, web, monkeypatch):
    web(lambda request: httpx.Response(302, headers={"location": "http://127.0.0.1/"}))
    with pytest.raises(DocumentError, match="leads on to http://127.0.0.1/"):
        documents.fetch_page("https://example.org", tmp_path)
    web(lambda request: httpx.Response(404))
    with pytest.raises(DocumentError, match="HTTPStatusError"):
        documents.fetch_page("https://example.org", tmp_path)
    monkeypatch.setattr(documents, "MOST_BYTES", 10)
    web(lambda request: httpx.Response(200, text="x" * 100))
    with pytest.raises(DocumentError, match="larger than"):
        documents.fetch_page("https://example.org", tmp_path)
    assert not list(tmp_path.iterdir())
