"""Certificates: what was signed is known to be, and whatever was changed, cut, swapped or invented is not."""

import base64
import html
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course_utils.classroom import certificates
from course_utils.classroom.certificates import Statement
from course_utils.classroom.grading.results import QuizResult, Result, Verdict
from course_utils.cli import app

NAME = "Zoë Müller-Łukasz"


def result(student: str, *statuses: str) -> Result:
    names = ("7.1.late_fusion", "7.1.word_error_rate", "7.4.backoff")
    verdicts = {name: Verdict(name, status) for name, status in zip(names, statuses, strict=True)}
    return Result(student, ("a.ipynb",), verdicts, {"7.1.fusion": QuizResult("7.1.fusion", "b", True)})


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, Path]:
    return certificates.make_keys(tmp_path_factory.mktemp("keys with blanks"))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> tuple[Path, Path]:
    return certificates.make_keys(tmp_path_factory.mktemp("other"))


@pytest.fixture
def statement(keys) -> Statement:
    key = certificates.public_key(keys[1])
    (certified,) = certificates.statements([result(NAME, "passed", "not yet", "passed")], "7.1", "A School", key)
    return certified


@pytest.fixture
def real(statement, keys, tmp_path) -> Path:
    (path,) = certificates.write([statement], certificates.private_key(keys[0]), tmp_path)
    return path


def check(path: Path, keys: tuple[Path, Path], unit: str = "") -> Statement:
    return certificates.check(path, certificates.public_key(keys[1]), unit)


def refused(path: Path, keys: tuple[Path, Path], unit: str = "") -> str:
    with pytest.raises(ValueError) as told:
        check(path, keys, unit)
    return str(told.value)


def test_a_real_certificate_says_what_was_reached(real, keys, statement) -> None:
    assert check(real, keys) == statement
    assert check(real, keys, "7.1") == statement
    assert (statement.points, statement.of) == (1 + 1, 1 + 2 + 1)
    assert NAME in str(statement) and "2 of 4 points in unit 7.1" in str(statement)


def test_it_holds_nothing_of_a_person_but_the_name(statement) -> None:
    known = {"name", "unit", "points", "of", "date", "issuer", "key", "course", "version", "kind"}
    assert asdict(statement).keys() == known


def test_the_page_is_ascii_and_asks_nobody(real) -> None:
    page = real.read_text("ascii")
    assert html.escape(NAME).encode("ascii", "xmlcharrefreplace").decode() in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


CHANGES: dict[str, tuple[Callable[[str], str], str]] = {
    "name": (lambda page: page.replace("<bdi>Zo", "<bdi>Bo"), "changed afterwards"),
    "name in the statement": (lambda page: page.replace('"name":"Zo', '"name":"Bo'), "changed afterwards"),
    "points": (lambda page: page.replace("2 of 4 points", "4 of 4 points"), "changed afterwards"),
    "points in the statement": (lambda page: page.replace('"points":2', '"points":4'), "changed afterwards"),
    "one blank more": (lambda page: page.replace("<main>", "<main> "), "changed afterwards"),
    "cut in the middle": (lambda page: page[: len(page) // 3], "was cut off"),
    "cut at the end": (lambda page: page[:-40], "cut off, or something was added"),
    "praise behind the end": (lambda page: page + "<p>with distinction</p>", "something was added"),
    "damaged signature": (lambda page: re.sub('signature">.', 'signature">?', page), "damaged"),
    "shorter signature": (lambda page: re.sub('signature">....', 'signature">', page), "changed afterwards"),
    "no statement": (lambda page: page.replace('id="statement"', ""), "no certificate"),
    "odd statement": (lambda page: re.sub('statement">.*<', 'statement">[1]<', page), "not signed with this key"),
    "deep statement": (lambda page: re.sub('statement">.*<', f'statement">{"[" * 9000}<', page), "not signed with"),
    "empty": (lambda page: "", "no certificate"),
    "too large": (lambda page: page * 100, "too large"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_certificate_is_told_apart(kind: str, real, keys) -> None:
    change, words = CHANGES[kind]
    page = real.read_text("ascii")
    changed = change(page)
    assert changed != page
    real.write_text(changed, "ascii", newline="\n")
    assert words in refused(real, keys)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_another_encoding_is_named(encoding: str, real, keys) -> None:
    real.write_text(real.read_text("ascii"), encoding)
    assert "encoding" in refused(real, keys)


def test_line_ends_of_another_system_do_no_harm(real, keys, statement) -> None:
    real.write_text(real.read_text("ascii"), "ascii", newline="\r\n")
    assert check(real, keys) == statement


def test_another_key_is_told_by_both_fingerprints(real, keys, other) -> None:
    told = refused(real, other)
    for pair in (keys, other):
        assert certificates.fingerprint(certificates.public_key(pair[1])) in told


def test_who_invents_a_certificate_and_names_the_issuers_key_fails(statement, keys, other, tmp_path) -> None:
    (forged,) = certificates.write([statement], certificates.private_key(other[0]), tmp_path)
    assert "changed afterwards" in refused(forged, keys)


def test_a_certificate_for_one_unit_is_none_for_another(real, keys) -> None:
    assert refused(real, keys, "7.2").endswith("is a certificate for unit 7.1, not for 7.2.")


def test_a_statement_of_one_certificate_with_the_signature_of_another_fails(statement, keys, tmp_path) -> None:
    private = certificates.private_key(keys[0])
    weak, strong = replace(statement, points=1), replace(statement, name="Another")
    pages = [path.read_text("ascii") for path in certificates.write([weak, strong], private, tmp_path)]
    signatures = [re.search('signature">(.*)</p>', page)[1] for page in pages]
    swapped = tmp_path / "swapped.html"
    swapped.write_text(pages[0].replace(signatures[0], signatures[1]), "ascii", newline="\n")
    assert "changed afterwards" in refused(swapped, keys)


def test_something_else_that_the_key_has_signed_is_no_certificate(statement, keys, tmp_path) -> None:
    letter = replace(statement, kind="letter")
    (path,) = certificates.write([letter], certificates.private_key(keys[0]), tmp_path)
    assert "it is a letter" in refused(path, keys)


# --- without the course ---------------------------------------------------------------------------------


def shown(page: str, name: str) -> str:
    """What a reader copies from one of the page's boxes."""
    return html.unescape(re.search(f'(?s)<pre id="{name}">(.*?)</pre>', page)[1])


def test_the_ten_lines_on_the_page_prove_it(real, keys) -> None:
    page = real.read_text("ascii")
    lines = shown(page, "python")
    assert len([line for line in lines.splitlines() if line]) == 9
    command = [sys.executable, "-c", lines, str(real), str(keys[1])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(done.stdout)["name"] == NAME
    for changed in (page.replace("2 of 4", "4 of 4"), page + "<p>with distinction"):
        real.write_text(changed, "ascii", newline="\n")
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == ""


@pytest.mark.skipif(not shutil.which("openssl") or os.name == "nt", reason="needs openssl and a shell")
def test_the_lines_for_openssl_prove_it(real, keys, tmp_path) -> None:
    page = real.read_text("ascii")
    lines = shown(page, "openssl").replace("FILE", real.name)
    shutil.copy(keys[1], tmp_path)
    done = subprocess.run(["sh", "-c", lines], cwd=tmp_path, capture_output=True, text=True)
    assert "Verified Successfully" in done.stdout, done.stderr
    real.write_text(page.replace("2 of 4", "4 of 4"), "ascii", newline="\n")
    done = subprocess.run(["sh", "-c", lines], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "Successfully" not in done.stdout


# --- names ----------------------------------------------------------------------------------------------


def test_a_name_is_the_same_however_it_was_typed() -> None:
    assert certificates.proper_name(" Zoe\u0308  Mu\u0308ller ", "student") == "Zoë Müller"


@pytest.mark.parametrize("name", ["", " \n", "A\u202eB", "A\x1b[2J", "A\u200bB", "x" * 201])
def test_a_name_that_nobody_could_read_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of the student"):
        certificates.proper_name(name, "student")


@pytest.mark.parametrize("name", ["<b>&amp;</pre>", '"</script>', "عمر", "李小龙", "O'Neill", "a\\u0026b"])
def test_every_name_survives(name: str, statement, keys, tmp_path) -> None:
    named = replace(statement, name=name)
    (path,) = certificates.write([named], certificates.private_key(keys[0]), tmp_path)
    assert check(path, keys).name == name
    assert path.read_text("ascii").count("<b>") == 0


# --- keys -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_only_its_owner_can_read_the_private_key(keys) -> None:
    assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600
    assert not certificates.open_to_others(keys[0]) and certificates.open_to_others(keys[1])


def test_keys_are_never_replaced(keys) -> None:
    before = keys[0].read_bytes()
    with pytest.raises(ValueError, match="already"):
        certificates.make_keys(keys[0].parent)
    assert keys[0].read_bytes() == before


def test_a_key_with_a_password_needs_it(tmp_path, statement) -> None:
    pair = certificates.make_keys(tmp_path, "sésame")
    assert certificates.is_locked(pair[0]) and b"sesame" not in pair[0].read_bytes()
    for wrong, words in (("", "not given"), ("sesame", "wrong")):
        with pytest.raises(ValueError, match=words):
            certificates.private_key(pair[0], wrong)
    (path,) = certificates.write([statement], certificates.private_key(pair[0], "sésame"), tmp_path)
    assert path.exists()


def test_files_that_are_no_keys_get_a_sentence(keys, real, tmp_path) -> None:
    with pytest.raises(ValueError, match="private key, which nobody"):
        certificates.public_key(keys[0])
    with pytest.raises(ValueError, match="not a public key"):
        certificates.public_key(real)
    with pytest.raises(ValueError, match="can't be used to sign"):
        certificates.private_key(keys[1])
    with pytest.raises(ValueError, match="There is no key"):
        certificates.private_key(tmp_path / "none.pem")


# --- from results, by command ---------------------------------------------------------------------------


@pytest.fixture
def graded(tmp_path) -> Path:
    """What `course grade` leaves of three students, the last without points in 7.4."""
    folder = tmp_path / "graded" / "results"
    folder.mkdir(parents=True)
    for student, backoff in ((NAME, "passed"), ("Omar", "passed"), ("Lin", "open")):
        content = {"checksum": "c0ffee", "result": asdict(result(student, "passed", "not yet", backoff))}
        (folder / f"{student}.json").write_text(json.dumps(content), "utf-8")
    return folder.parent


def run(*words: object, typed: str | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["certificate", *map(str, words)], input=typed)
    return done.exit_code, done.output


def test_from_grades_to_a_checked_certificate(graded, tmp_path) -> None:
    code, said = run("keys", tmp_path / "k")
    assert code == 0 and "fingerprint" in said
    private, public = tmp_path / "k" / "issuer_private.pem", tmp_path / "k" / "issuer_public.pem"
    code, said = run("make", graded, "--key", private, "--issuer", "A School", "--unit", "7.4", "--out", tmp_path / "c")
    assert code == 0 and "1 without points" in said
    assert len(list((tmp_path / "c").glob("*_7.4.html"))) == 2
    code, said = run("check", tmp_path / "c" / "Omar_7.4.html", "--key", public)
    assert code == 0 and said.startswith("Real. Omar: 2 of 2 points in unit 7.4")
    code, said = run("check", tmp_path / "c" / "Omar_7.4.html", "--key", public, "--unit", "7.1")
    assert code == 2 and "not for 7.1" in said
    code, said = run("make", graded, "--key", private, "--issuer", "A School", "--unit", "7.4", "--out", tmp_path / "c")
    assert code == 2 and "already" in said


def test_the_password_is_asked_for(graded, tmp_path) -> None:
    assert run("keys", tmp_path, "--password", typed="secret\nsecret\n")[0] == 0
    words = ("make", graded, "--key", tmp_path / "issuer_private.pem", "--issuer", "S", "--out", tmp_path / "c")
    assert run(*words, typed="secret\n")[0] == 0
    assert "password is wrong" in run(*words, typed="other\n")[1]


def test_results_that_are_none_get_a_sentence(graded, tmp_path) -> None:
    with pytest.raises(ValueError, match="no results"):
        certificates.read_results(tmp_path / "graded" / "nowhere")
    for content in (
        "[]",
        "{",
        '{"student": "x"}',
        '{"student": "x", "files": [], "verdicts": {"a": 1}, "quizzes": {}}',
    ):
        (graded / "results" / "bad.json").write_text(content)
        with pytest.raises(ValueError, match="does not hold results"):
            certificates.read_results(graded)


def test_what_was_not_judged_is_graded_first(keys) -> None:
    unjudged = result("Ada", "passed", "not judged", "open")
    with pytest.raises(ValueError, match=r"word_error_rate could not be judged"):
        certificates.statements([unjudged], "all", "S", certificates.public_key(keys[1]))


def test_who_was_lost_is_graded_first(graded, keys) -> None:
    lost = Result("Ada", ("a.ipynb",), lost=True)
    (graded / "results" / "Ada.json").write_text(json.dumps({"result": asdict(lost)}), "utf-8")
    with pytest.raises(ValueError, match=r"Ada: 7\.1\.fusion could not be judged"):
        certificates.statements(certificates.read_results(graded), "7.1", "S", certificates.public_key(keys[1]))


def test_a_unit_that_nobody_handed_in_is_refused(keys) -> None:
    with pytest.raises(ValueError, match=r"unit '7\.2'"):
        certificates.statements([result("Ada", *["passed"] * 3)], "7.2", "S", certificates.public_key(keys[1]))


def test_a_signature_is_over_the_whole_page(real, keys) -> None:
    page = real.read_text("ascii")
    signed, _, rest = page.partition('<p id="signature">')
    signature = base64.b64decode(rest.partition("</p>")[0])
    certificates.public_key(keys[1]).verify(signature, signed.encode())
