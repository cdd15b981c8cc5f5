"""Exercises and quizzes: `check`, `hint`, `solution` and `quiz`, for the cells of a notebook.

    attention = check("7.3.attention", attention)   # the student's function if it passes, else the course's own
    hint("7.3.attention")                           # the next step, each time
    solution("7.3.attention")                       # the course's own code
    quiz("7.1.fusion"), quiz("7.1.fusion", "b")     # the question; an answer, with its explanation

A unit has a folder here: unit_7_1/asked.py holds the stubs, hints and quizzes and needs no torch, so that
`course progress` is quick; unit_7_1/solutions.py holds the solutions and the tests that diagnose. For grading,
unit_7_1/fresh.py draws examples that nobody has seen. Functions that go into a student's process as inputs stand in
unit_7_1/inputs.py, which knows no answer.

A student's function runs in a process of its own (sandbox.py starts worker.py, wire.py carries the results). What it
returns is judged in the kernel (diagnosis.py). That guards against accidents and simple tricks. It does not stop
someone who changes the kernel itself, edits the file of progress, or attacks the machine: the function runs with the
student's own rights.
"""

from course_utils.exercises.actions import check, hint, quiz, solution

__all__ = ["check", "hint", "quiz", "solution"]
