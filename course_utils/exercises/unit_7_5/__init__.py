"""Unit 7.5's exercises and quizzes.

asked.py holds what is asked, solutions.py the solutions with the tests that diagnose, fresh.py more examples for
grading.
"""
