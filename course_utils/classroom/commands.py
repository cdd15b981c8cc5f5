"""The `course` commands for classes. Each calls one function; what is heavy is imported by the command that needs it."""

from __future__ import annotations

import typer

app = typer.Typer()
