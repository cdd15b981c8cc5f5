"""What a student calls: `check`, `hint`, `solution` and `quiz`. All print plain text, the same every time."""

import datetime
import os
import textwrap
from collections.abc import Callable
from dataclasses import replace

from course_utils.exercises import answers, progress, registry

WIDTH = 88  # as the preflight card
INSTEAD = "Until then the notebook uses the course's own solution."


def check(name: str, function: Callable) -> Callable:
    """Test a student's `function`, say what is wrong with it, and return what the notebook goes on with.

    That is `function` if it passes, and the course's own solution if it is a stub or wrong. The function is copied,
    with what it uses of the notebook, into a Python of its own, and may take 5 seconds for a call there. Whatever it
    does, nothing is raised. ValueError for an exercise that does not exist.
    """
    from course_utils.exercises import diagnosis  # brings torch

    if changed := registry.replaced():
        say(f"not judged: `{changed}` of the checker was replaced in this notebook. Restart the kernel to be judged.")
        return function
    task = registry.exercise(name)
    name = task.name  # it may have been called by an earlier one
    if function is task.reference:  # the check cell was run twice; this must not count as done
        say(f"This is the course's own solution of {name}. Run the cell with your function, then this one.")
        return function
    record = progress.get("exercises", name)
    try:
        diagnosis.examine(task, function, say)
    except diagnosis.NotAttempted:
        say(f'open: {task.title} ({task.difficulty}, about {task.minutes} minutes). hint("{name}") helps. {INSTEAD}')
        if earlier := answers.newest(name):
            say(f"Your answer of an earlier session is in {earlier}.")
    except diagnosis.Wrong as wrong:
        progress.put("exercises", name, progress.tried(record))
        answers.note(name, function, passed=False)
        say(f"not yet: {task.title}", str(wrong), f'hint("{name}") helps. {INSTEAD}')
    except diagnosis.NotJudged as reason:
        say(f"not judged: {task.title}", str(reason), INSTEAD)
    except KeyboardInterrupt:
        say(f"interrupted: {task.title}. Your function was stopped, and nothing is recorded. {INSTEAD}")
    else:
        progress.put("exercises", name, progress.done(record))
        answers.note(name, function, passed=True)
        say(f"passed: {task.title}. From here on the notebook uses your function.", f"What to notice: {task.notice}")
        return function
    return task.reference


def hint(name: str) -> None:
    """Print the next hint; after the last one, all of them again. ValueError for an unknown exercise."""
    task = registry.exercise(name)
    name = task.name
    record = progress.get("exercises", name)
    step, total = record.hints, len(task.hints)
    if step >= total:
        say(f"You have seen all {total} hints:", *task.hints, f'solution("{name}") shows the course\'s own code.')
        return
    more = f'hint("{name}") again gives the next one.' if step + 1 < total else "That was the last one."
    say(f"Hint {step + 1} of {total}: {task.hints[step]}", more)
    progress.put("exercises", name, replace(record, hints=step + 1))


def solution(name: str) -> None:
    """Print the course's own code. ValueError for an unknown exercise.

    A class may agree to wait: before the day in COURSE_SOLUTIONS_FROM nothing is shown.
    """
    task = registry.exercise(name)
    name = task.name
    opens = os.environ.get("COURSE_SOLUTIONS_FROM", "")
    if datetime.date.today().isoformat() < opens:
        return say(f'Your class opens the solutions on {opens}. Until then hint("{name}") helps.')
    record = progress.get("exercises", name)
    if record.status == "open":
        say(f'You have not tried it yet. A try of your own teaches more, and hint("{name}") helps. Here it is:', "")
    print(task.reference_source.rstrip())
    progress.put("exercises", name, replace(record, solution_shown=True))


def quiz(name: str, answer: str | None = None) -> None:
    """Print the question, or whether `answer` (a letter) is right, and why.

    ValueError for a quiz or a letter that does not exist.
    """
    task = registry.quiz(name)
    name = task.name
    if answer is None:
        choices = [f"  {letter}) {one.text}" for letter, one in task.letters.items()]
        return say(task.question, *choices, f'Your answer: quiz("{name}", "a") for a, and so on.')
    chosen = task.letters.get(str(answer).strip().lower().rstrip(")."))
    if chosen is None:
        raise ValueError(f"There is no answer {answer!r} to {name}. There are {', '.join(task.letters)}.")
    record = progress.get("quizzes", name)
    progress.put("quizzes", name, (progress.done if chosen.right else progress.tried)(record))
    say(f"{'Right.' if chosen.right else 'No.'} {chosen.explanation}")


def say(*paragraphs: str) -> None:
    """Print paragraphs in lines of at most 88 columns; lines that begin with four spaces stay as they are."""
    for line in "\n".join(paragraphs).split("\n"):
        indent = "     " if line.startswith("  ") else ""  # under the text of a lettered answer
        short = textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        print(line if line.startswith("    ") else short)
