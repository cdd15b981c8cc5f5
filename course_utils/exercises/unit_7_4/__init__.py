"""Unit 7.4's exercises and quizzes.

asked.py holds what is asked, solutions.py the solutions with the tests that diagnose, fresh.py more examples for
grading, inputs.py the functions that a student's function is called with.
"""
