"""`course grade`, in the order in which work goes through it.

unpacking.py     the files in a folder and its zip files
students.py      whose a file is
formats.py       the code cells of a notebook, a script, a bundle
submissions.py   what each student handed in
extraction.py    the cells that define the functions asked for, and what these need
copying.py       stubs and the course's own solutions, told from the text
judging.py       one submission judged: public examples with diagnosis, then fresh ones from the seed
jail.py          where a student's code runs, as the grading process sees it: limits, processes, walls
jailed.py        the same from inside; landlock.py and seccomp.py are two of the walls
results.py       what is known afterwards
grading.py       all of it, several submissions at a time
gradebook.py     tables and CSV files for an LMS
feedback.py      a page for each student
"""
