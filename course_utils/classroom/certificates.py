"""Certificates that anybody can check, without the course and without a network.

A certificate is one page (HTML, ASCII letters only) to read and to print. It holds a statement (canonical JSON), and
ends with an Ed25519 signature of all that stands before it. Whoever wants to check it needs the issuer's public key
from a place that is the issuer's own, such as the school's site. The page says how to check it, with ten lines of
Python or with openssl. Of the student it holds the name alone.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import __version__
from course_utils.classroom import outputs, texts
from course_utils.classroom.grading.points import points, tasks, total
from course_utils.classroom.grading.results import RESULTS, RUN, Result, from_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

COURSE = "Advanced generative AI"
KIND = "certificate, format 1"  # signed too: nothing else that the key signs can be passed off as one
WHOLE = "all"  # what stands in the place of a unit for the whole course
PRIVATE, PUBLIC = "issuer_private.pem", "issuer_public.pem"
LOCKED = b"ENCRYPTED"  # in a private key with a password
LARGEST = 100_000  # bytes of a certificate or a key
LONGEST = 200  # characters of a name
OPENS, CLOSES, END = '<p id="signature">', "</p>", "\n</body>\n</html>\n"
STATEMENT = re.compile(r'<pre id="statement">(.*)</pre>')


@dataclass(frozen=True)
class Statement:
    """What is certified. `unit` is "all" for the course, `date` as 2026-11-28, `key` the public key's fingerprint."""

    name: str
    unit: str
    points: int
    of: int
    date: str
    issuer: str
    key: str
    course: str = COURSE
    version: str = __version__
    kind: str = KIND

    def __str__(self) -> str:
        subject = f"unit {self.unit}" if self.unit != WHOLE else "all units"
        reached = f"{self.points} of {self.of} points"
        return f"{self.name}: {reached} in {subject} of {self.course} {self.version}. {self.issuer}, {self.date}."


# --- the issuer's keys ----------------------------------------------------------------------------------


def make_keys(folder: Path, password: str = "") -> tuple[Path, Path]:
    """Make the issuer's two keys in `folder`: the private one, which only this user may read, and the public one.

    With a password the private key is stored encrypted. ValueError if there are keys: they are never replaced.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = folder / PRIVATE, folder / PUBLIC
    if private.exists() or public.exists():
        raise ValueError(
            f"There are keys in {folder} already. What was signed with them could no longer be checked if they were "
            "replaced: name another folder."
        )
    key = Ed25519PrivateKey.generate()
    lock = form.BestAvailableEncryption(password.encode()) if password else form.NoEncryption()
    secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock)
    _write_new(private, secret, mode=0o600)
    _write_new(public, key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def _write_new(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file that does not exist yet, with `mode` from its first moment on. ValueError if it can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb", opener=partial(os.open, mode=mode)) as stream:
            stream.write(content)
    except OSError as error:
        raise ValueError(f"{path} can't be written ({error.strerror}). Name another folder.") from error


def is_locked(path: Path) -> bool:
    """Whether a private key is stored with a password. ValueError if the file can't be read."""
    return LOCKED in _bytes(path, "key")


def private_key(path: Path, password: str = "") -> Ed25519PrivateKey:
    """The key that signs. ValueError with a sentence for another file, or a wrong password."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _bytes(path, "key")
    locked = LOCKED in pem
    if locked and not password:
        raise ValueError(f"{path.name} is stored with a password, which was not given.")
    try:
        key = load_pem_private_key(pem, password.encode() or None)
    except Exception as error:  # each kind of file fails in its own way
        why = "the password is wrong" if locked else f"it is not the file {PRIVATE} that the course made"
        raise ValueError(f"{path.name} can't be used to sign: {why}.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path.name} is a key of another kind. Certificates are signed with Ed25519.")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """The key that checks. ValueError with a sentence for another file."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    pem = _bytes(path, "key")
    if b"PRIVATE KEY" in pem:
        raise ValueError(f"{path.name} is a private key, which nobody but the issuer should have. Give {PUBLIC}.")
    try:
        key = load_pem_public_key(pem)
    except Exception as error:
        raise ValueError(f"{path.name} is not a public key in PEM format, as the issuer publishes it.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{path.name} is a key of another kind. Certificates are signed with Ed25519.")
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """The first half of the SHA-256 of a public key, in groups of four digits."""
    digits = hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]
    return " ".join(re.findall("....", digits))


def open_to_others(path: Path) -> bool:
    """Whether other users of this machine may read a file. Windows has lists of its own, which are not looked at."""
    return os.name == "posix" and bool(path.stat().st_mode & 0o077)


def _bytes(path: Path, what: str) -> bytes:
    """A small file. ValueError if it is missing, no file, or too large."""
    if not path.is_file():
        raise ValueError(f"There is no {what} {path}.")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} is too large to be a {what}.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}).") from error


# --- what is certified ----------------------------------------------------------------------------------


def read_results(folder: Path) -> list[Result]:
    """What `course grade` found of each student in its last run. ValueError if there is none, or it was interrupted."""
    run = folder / RUN
    if not run.is_file():
        raise ValueError(f"There are no results in {folder}. Name the folder that `course grade` has written.")
    try:
        names = json.loads(run.read_text("utf-8"))["results"]
        paths = [folder / RESULTS / f"{name}.json" for name in names]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"The last `course grade` with {folder} was not finished. Run it again.") from error
    return [_result(path) for path in paths]


def _result(path: Path) -> Result:
    """One student's results. ValueError for a file that holds something else."""
    try:
        content = json.loads(path.read_text("utf-8"))
        return from_json(content["result"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path.name} does not hold results as `course grade` writes them.") from error


def statements(results: Sequence[Result], unit: str, issuer: str, key: Ed25519PublicKey) -> list[Statement]:
    """One for each student who has points in `unit`, out of all that the class was given there.

    ValueError for a unit, a name or an issuer that can't stand on a certificate, and if something was not judged.
    """
    counted = [task for task in tasks(results) if unit in (WHOLE, task.unit)]
    if not counted:
        raise ValueError(f"Nothing was handed in for unit {unit!r}. Name one that was, as 7.1, or {WHOLE!r}.")
    issuer = proper_name(issuer, "issuer")
    today = datetime.date.today().isoformat()
    certified = []
    for result in results:
        open_tasks = [task.name for task in counted if points(result, task) is None]
        if open_tasks:
            names = ", ".join(open_tasks)
            advice = "summary.txt says why. Let them hand in again, or grade again, first."
            raise ValueError(f"{result.student}: {names} could not be judged. {advice}")
        reached, possible = total(result, counted)
        if reached:
            alone = result.student.removesuffix(f" ({result.number})")  # which tells two of one name apart
            name = proper_name(alone, "student")
            certified.append(Statement(name, unit, reached, possible, today, issuer, fingerprint(key)))
    return certified


def proper_name(name: str, whose: str) -> str:
    """A name on one line, in Unicode's form NFC. ValueError if it is empty, too long, or holds unseen characters."""
    composed = unicodedata.normalize("NFC", " ".join(name.split()))
    if not composed:
        raise ValueError(f"The name of the {whose} is empty.")
    if len(composed) > LONGEST:
        raise ValueError(f"The name of the {whose} has {len(composed)} characters. At most {LONGEST} fit.")
    if texts.visible(composed) != composed:
        raise ValueError(f"The name of the {whose} holds characters that nobody sees. Type it anew: {composed!r}.")
    return composed


# --- the page -------------------------------------------------------------------------------------------


def canonical(statement: Statement) -> str:
    """JSON in one line: sorted, without blanks, in ASCII, and without letters that HTML would take for its own."""
    text = json.dumps(asdict(statement), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def page(statement: Statement, key: Ed25519PrivateKey) -> str:
    """The certificate."""
    filled = outputs.template("certificate.html").render(
        statement=statement, whole=WHOLE, canonical=canonical(statement), public=PUBLIC
    )
    signed = filled.encode("ascii", "xmlcharrefreplace")
    signature = base64.b64encode(key.sign(signed)).decode()
    return f"{signed.decode()}{OPENS}{signature}{CLOSES}{END}"


def write(certified: Sequence[Statement], key: Ed25519PrivateKey, folder: Path) -> list[Path]:
    """A page for each statement. ValueError if one exists, for nothing is replaced, or can't be written."""
    names = outputs.file_names(statement.name for statement in certified)
    paths = [folder / f"{name}_{statement.unit}.html" for name, statement in zip(names, certified, strict=True)]
    taken = [path.name for path in paths if path.exists()]
    if taken:
        raise ValueError(f"There is {taken[0]} in {folder} already. Name another folder.")
    for path, statement in zip(paths, certified, strict=True):
        outputs.save(path, page(statement, key).encode("ascii"))
    return paths


# --- the check ------------------------------------------------------------------------------------------


def check(path: Path, key: Ed25519PublicKey, unit: str = "") -> Statement:
    """What a certificate says, once it is proved that the owner of `key` has signed it, for `unit` if one is named.

    ValueError with a sentence for each way in which a certificate can be wrong.
    """
    from cryptography.exceptions import InvalidSignature

    signed, signature = _parts(path)
    said = _said(signed)
    try:
        key.verify(signature, signed.encode())
    except InvalidSignature:
        raise ValueError(_forged(path, said, key)) from None
    try:
        statement = Statement(**said)
    except TypeError as error:
        raise ValueError(f"{path.name} is signed, but not a certificate of this format.") from error
    if statement.kind != KIND:
        raise ValueError(f"{path.name} is signed, but it is a {statement.kind}. This course reads {KIND}.")
    if unit and statement.unit != unit:
        raise ValueError(f"{path.name} is a certificate for unit {statement.unit}, not for {unit}.")
    return statement


def _parts(path: Path) -> tuple[str, bytes]:
    """What is signed, with the line ends that it was signed with, and the signature."""
    try:
        text = _bytes(path, "certificate").decode("ascii")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} was saved anew in another encoding, or is something else: a certificate holds ASCII letters "
            "only. Ask for the file as it was issued."
        ) from error
    text = text.replace("\r\n", "\n")  # some mail programs change line ends
    signed, opens, rest = text.partition(OPENS)
    encoded, closes, end = rest.partition(CLOSES)
    if not STATEMENT.search(signed):
        raise ValueError(f"{path.name} holds no statement: it is no certificate of this course, or was cut off.")
    if not opens or not closes or end.rstrip() != END.rstrip():
        raise ValueError(f"{path.name} does not end with its signature: it was cut off, or something was added.")
    with suppress(binascii.Error):
        return signed, base64.b64decode(encoded, validate=True)
    raise ValueError(f"The signature of {path.name} is damaged. Ask for the file as it was issued.")


def _said(signed: str) -> dict[str, Any]:
    """The statement in a page, whoever has written it."""
    try:
        said = json.loads(STATEMENT.findall(signed)[-1])
    except (ValueError, RecursionError):
        said = None
    return said if isinstance(said, dict) else {}


def _forged(path: Path, said: dict[str, Any], key: Ed25519PublicKey) -> str:
    """Why a signature does not fit, as far as it can be known."""
    named = said.get("key")
    if named == fingerprint(key):
        return f"{path.name} is not what was signed: a name, points or something else was changed afterwards."
    return (
        f"{path.name} was not signed with this key. It names the key {texts.plain(str(named))[:LONGEST]}; "
        f"yours is {fingerprint(key)}."
    )
