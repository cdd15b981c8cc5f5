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
    if not isinstance(definition, ast.FunctionDef):
        return False
    return _bare(definition) == _bare_solution(task)


def is_no_chance(task: Exercise) -> bool:
    """Whether nobody writes the course's solution word for word without having seen it."""
    names = own_names(task)
    return len(names) >= FEWEST_NAMES


def own_names(task: Exercise) -> set[str]:
    """The variables of the course's solution whose names stand neither in the stub's code nor in that of a hint."""
    words = " ".join([task.stub_source, *task.hints])
    first_line, _, _ = task.stub_source.partition('"""')
    quoted = re.findall(r"`[^`]*`", words)
    code = " ".join([first_line, *quoted])
    given = set(re.findall(r"\w+", code))
    own = _variables(task) - given
    return {name for name in own if len(name) > 1}


def _variables(task: Exercise) -> set[str]:
    names = set()
    for node in ast.walk(_solution(task)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return names


@functools.cache
def _solution(task: Exercise) -> ast.FunctionDef:
    source = inspect.getsource(task.reference)
    tree = ast.parse(source)
    return tree.body[0]


@functools.cache
def _bare_solution(task: Exercise) -> str:
    return _bare(_solution(task))


def _bare(function: ast.FunctionDef) -> str:
    """A function without its name, docstring and annotations."""
    text = ast.unparse(function)
    own = ast.parse(text)  # a tree that may be changed
    plain = _Plain().visit(own.body[0])
    body = _without_docstring(plain.body)
    parts = [ast.dump(part) for part in (plain.args, *body)]
    return "\n".join(parts)


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
        value = node.value or ast.Constant(None)
        return ast.Assign([node.target], value, lineno=node.lineno)
