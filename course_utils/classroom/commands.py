"""The `course` commands for classes. Each calls one function; heavy imports stand inside."""

from __future__ import annotations

import typer

app = typer.Typer()
