"""Unit 7.2's exercises and quizzes: what is asked (asked.py), and the solutions with their tests (solutions.py)."""
