"""`course grade`, in the order in which work goes through it.

submissions.py   what students handed in: notebooks, folders, zip files, bundles
extraction.py    the cells that define the functions asked for, and what these need
judging.py       one submission judged: public examples with diagnosis, then fresh ones from the seed
jail.py          the process in which a student's code runs, and its walls
results.py       what is known afterwards
grading.py       all of it, several submissions at a time
gradebook.py     tables and CSV files for an LMS
feedback.py      a page for each student
"""
