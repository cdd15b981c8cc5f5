"""What a notebook writes by hand, for tests that hold it against a library or a module."""

import __future__

import ast
from typing import Any

from course_utils.settings import NOTEBOOKS


def written_in(notebook: str, *constants: str, **known: Any) -> dict[str, Any]:
    """The classes, functions and `constants` of `notebook` by name; `known` are the names that they use."""
    tree = ast.parse((NOTEBOOKS / f"{notebook}.py").read_text(encoding="utf-8"))
    tree.body = [part for part in tree.body if _wanted(part, set(constants))]
    exec(compile(tree, notebook, "exec", __future__.annotations.compiler_flag), known)
    return known


def _wanted(part: ast.stmt, constants: set[str]) -> bool:
    if isinstance(part, ast.Assign):
        return {ast.unparse(target) for target in part.targets} <= constants
    return isinstance(part, ast.ClassDef | ast.FunctionDef)
