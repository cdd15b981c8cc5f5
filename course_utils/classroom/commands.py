"""The `course` commands for classes. Each calls one function; heavy imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def quizzes(
    folder: Annotated[Path, typer.Argument(help="Where the files go; it is made where it is missing.")],
    unit: Annotated[str, typer.Option(help="7.1, 7.2 ...; every unit if left out.")] = "",
) -> None:
    """Write the quizzes for a learning platform.

    QTI 2.1 (Canvas, Blackboard, OpenOlat) and Moodle XML, each with the explanation of every answer.
    """
    from course_utils.classroom import quiz_exports
    from course_utils.cli import plain_errors

    with plain_errors():
        for path in quiz_exports.write(folder, unit):
            typer.echo(f"written: {path}")


certificate = typer.Typer(help="Certificates that a third party can check offline.")
app.add_typer(certificate, name="certificate")


@certificate.command("keys")
def certificate_keys(
    folder: Annotated[Path, typer.Argument(help="Where the two keys go: a place that only you can read.")],
    password: Annotated[bool, typer.Option("--password", help="Ask for one, and store the key encrypted.")] = False,
) -> None:
    """Make the issuer's keys, once.

    The private key signs and stays with you. The public key goes where everybody finds it, such as your site.
    """
    from course_utils.classroom import certificates
    from course_utils.cli import plain_errors

    with plain_errors():
        secret = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if password else ""
        private, public = certificates.make_keys(folder, secret)
        key = certificates.fingerprint(certificates.public_key(public))
    typer.echo(f"Keep to yourself, with a copy elsewhere: {private}")
    typer.echo(f"Publish: {public} (fingerprint {key})")


@certificate.command("make")
def certificate_make(
    results: Annotated[Path, typer.Argument(help="The folder that `course grade` has written.")],
    key: Annotated[Path, typer.Option(help="Your private key.")],
    issuer: Annotated[str, typer.Option(help="Who certifies: your name, or the school's.")],
    unit: Annotated[str, typer.Option(help="7.1, 7.2 ...; all units if left out.")] = "all",
    out: Annotated[Path, typer.Option(help="Where the pages go.")] = Path("certificates"),
) -> None:
    """Write a certificate for each student with points.

    It holds name, unit, points, date, issuer and the course's version, all of it signed.
    """
    from course_utils.classroom import certificates
    from course_utils.cli import plain_errors

    with plain_errors():
        locked = certificates.is_locked(key)
        secret = typer.prompt("Password of the key", hide_input=True, err=True) if locked else ""
        private = certificates.private_key(key, secret)
        if certificates.open_to_others(key):
            typer.echo(f"Others on this machine can read {key}: close it with `chmod 600 {key}`.", err=True)
        graded = certificates.read_results(results)
        certified = certificates.statements(graded, unit, issuer, private.public_key())
        paths = certificates.write(certified, private, out)
    for path in paths:
        typer.echo(f"written: {path}")
    without = len(graded) - len(paths)
    if without:
        typer.echo(f"{without} without points: no certificate.")


@certificate.command("check")
def certificate_check(
    file: Annotated[Path, typer.Argument(help="The certificate.")],
    key: Annotated[Path, typer.Option(help="The issuer's public key, from the issuer's own place.")],
    unit: Annotated[str, typer.Option(help="What it should be for: 7.1 ..., or all.")] = "",
) -> None:
    """Tell whether a certificate is real, offline."""
    from course_utils.classroom import certificates
    from course_utils.cli import plain_errors

    with plain_errors():
        statement = certificates.check(file, certificates.public_key(key), unit)
    typer.echo(f"Real. {statement}")
