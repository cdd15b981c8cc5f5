"""Whose function a result comes from: the student's, or the course's own that stands in for it."""

from collections.abc import Callable

OWN = "course_utils.exercises.solutions"


def whose(function: Callable) -> str:
    """ "your zero_shot", or "the course's zero_shot" where `check` gave its own solution back."""
    home = function.__module__ or ""
    owner = "the course's" if home.startswith(OWN) else "your"
    return f"{owner} {function.__name__}"
