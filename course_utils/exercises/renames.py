"""Names that exercises and quizzes had in earlier versions: work that was begun under one goes on under the new.

An exercise that gets another name gets a line here, in the same commit; earlier lines that lead to the old one are
changed to lead to the new one, too. A student's notebook, which an update does not
touch, may use the old one for years.
"""

from typing import Any

RENAMED: dict[str, str] = {}  # "7.1.old_name": "7.1.new_name"


def current(name: str) -> str:
    """The name that an exercise or a quiz has now."""
    return RENAMED.get(name, name)


def all_of(name: str) -> list[str]:
    """The names under which something may be kept: the earlier ones, then `name`."""
    earlier = [old for old, new in RENAMED.items() if new == name]
    return [*earlier, name]


def in_table(table: dict[str, Any]) -> list[tuple[str, str]]:
    """The (old, new) names of what a table holds under an old one."""
    return [(old, new) for old, new in RENAMED.items() if old in table]
