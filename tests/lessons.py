"""The code that a notebook teaches, for tests: its functions and classes, and nothing that runs."""

import ast
from typing import Any

from course_utils.settings import NOTEBOOKS


def lesson(notebook: str, *constants: str, **names: Any) -> dict[str, Any]:
    """What `notebook` defines, by name, with the assignments to `constants`; `names` are the imports it needs."""
    tree = ast.parse((NOTEBOOKS / f"{notebook}.py").read_text(encoding="utf-8"))
    tree.body = [
        part
        for part in tree.body
        if isinstance(part, ast.ClassDef | ast.FunctionDef)
        or isinstance(part, ast.Assign)
        and {ast.unparse(target) for target in part.targets} <= set(constants)
    ]
    exec(compile(tree, notebook, "exec"), names)
    return names
