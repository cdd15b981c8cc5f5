"""Stubs left as they were, and the course's own solutions copied in: told from the text, nothing runs.

Word for word means but for comments, annotations, docstring, layout and the function's own name. Honest students may
write a short solution so, too. What they can't hit on by chance are the names of its variables, unless the stub or the
code in a hint says them; so a solution counts as copied only if it has three names of its own or more. Of 38 exercises
23 have. For the others it is said that they are alike, and they are judged. None of the right answers in other styles
that the course's tests hold is alike to a solution.
"""

import ast
import functools
import inspect
import re
import textwrap

from course_utils.exercises.registry import Exercise

FEWEST_NAMES = 3


def is_stub(definition: ast.stmt) -> bool:
    """Whether a function does nothing but raise NotImplementedError."""
    if not isinstance(definition, ast.FunctionDef):
        return False
    match _without_docstring(definition.body):
        case [ast.Raise(exc=ast.Name("NotImplementedError") | ast.Call(ast.Name("NotImplementedError")))]:
            return True
    return False


def is_alike(definition: ast.stmt, task: Exercise) -> bool:
    """Whether a function is the course's own solution, word for word."""
    return isinstance(definition, ast.FunctionDef) and _bare(definition) == _bare(_solution(task))


def is_no_chance(task: Exercise) -> bool:
    """Whether nobody writes the course's solution word for word without having seen it."""
    return len(own_names(task)) >= FEWEST_NAMES


def own_names(task: Exercise) -> set[str]:
    """The variables of the course's solution whose names stand neither in the stub's code nor in that of a hint."""
    words = " ".join([task.stub_source, *task.hints])
    first_line = task.stub_source.partition('"""')[0]
    code = first_line + " ".join(re.findall(r"`[^`]*`", words))
    given = set(re.findall(r"\w+", code))
    stored = {node.id for node in ast.walk(_solution(task)) if _is_stored(node)}
    return {name for name in stored - given if len(name) > 1}


def _is_stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


@functools.cache
def _solution(task: Exercise) -> ast.FunctionDef:
    source = inspect.getsource(task.reference)
    return ast.parse(textwrap.dedent(source)).body[0]


def _bare(function: ast.FunctionDef) -> str:
    """A function without its name, docstring and annotations."""
    plain = _Plain().visit(ast.parse(ast.unparse(function)).body[0])  # a tree of our own to change
    return ast.dump(ast.Module([plain.args, *_without_docstring(plain.body)], []))


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    match body:
        case [ast.Expr(ast.Constant(str())), *rest]:
            return rest
    return body


class _Plain(ast.NodeTransformer):
    """Takes annotations off."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:  # noqa: N802, ast's name
        return ast.Assign([node.target], node.value or ast.Constant(None), lineno=node.lineno)
