"""Unit 7.3's exercises and quizzes: what is asked (asked.py), and the solutions with their tests (solutions.py)."""
