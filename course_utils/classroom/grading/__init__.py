"""`course grade`, in the order in which work goes through it.

    submissions.py   what students handed in: notebooks, folders, zip files, bundles
    extraction.py    the cells that define the functions asked for, and what these need
    judging.py       one submission judged: public examples with diagnosis, then fresh ones from the seed
    jail.py          where a student's code runs, as the grading process sees it: limits, processes, walls
    jailed.py        the same from inside; landlock.py and seccomp.py are two of the walls
    results.py       what is known afterwards
    grading.py       all of it, several submissions at a time
    gradebook.py     tables and CSV files for an LMS
    feedback.py      a page for each student
"""
