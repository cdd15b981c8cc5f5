"""Notebooks as students hand them in, made of the right answers and the planted mistakes of tests/exercises."""

import ast
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

EXERCISES = Path(__file__).parents[1] / "exercises"
UNITS = ("7_1", "7_2", "7_3", "7_4", "7_5")

Cells = list[str]


def right_answers() -> list[tuple[str, Cells]]:
    """Right answers in many styles: the exercise, and the cells of a notebook."""
    answers = []
    for unit in UNITS:
        statements, entries = _read(f"styles_{unit}.py", "STYLES")
        answers += [(name, [*statements, f'check("{name}", {answer})']) for name, answer in entries]
    return answers


def planted_mistakes() -> list[tuple[str, Cells, str]]:
    """Mistakes: the exercise, the cells of a notebook, and words of the diagnosis that is wanted."""
    mistakes = []
    for file in ("test_exercises.py", *(f"planted_{unit}.py" for unit in UNITS[1:])):
        statements, entries = _read(file, "PLANTED")
        for name, entry in entries:
            answer, words = ast.parse(entry.strip()).body[0].value.elts
            cell = f'check("{name}", {ast.unparse(answer)})'
            mistakes.append((name, [*statements, cell], words.value))
    return mistakes


def _read(file: str, table: str) -> tuple[Cells, list[tuple[str, str]]]:
    """The other statements of a file with a table of functions, and the table's entries by exercise, as text."""
    source = (EXERCISES / file).read_text("utf-8")
    statements, entries = [], []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and _target(node) == table:
            entries = list(_entries(source, node.value))
        else:
            statements.append(ast.unparse(node))
    return statements, entries


def _target(node: ast.Assign | ast.AnnAssign) -> str:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return getattr(target, "id", "")


def _entries(source: str, table: ast.Dict) -> Iterator[tuple[str, str]]:
    for name, answers in zip(table.keys, table.values, strict=True):
        if name is not None:  # else it is **other
            for answer in answers.elts:
                yield name.value, ast.get_source_segment(source, answer)


def notebook(cells: Sequence[str], **fields: Any) -> dict[str, Any]:
    """A notebook of the format of today."""
    code = [{"cell_type": "code", "source": cell, "outputs": [], "execution_count": None} for cell in cells]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": code} | fields


def save(path: Path, cells: Sequence[str]) -> Path:
    """Write a notebook, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook(cells)), encoding="utf-8")
    return path
