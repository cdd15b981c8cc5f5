"""For instructors: hand out, keep, collect, grade, give back, and teach.

commands.py       the `course` commands of this folder
grading/          `course grade`: read what was handed in, run it behind walls, judge, write tables and pages
release.py        `course release`: notebooks without outputs and solutions
bundles.py        `course bundle`: a student's work in one file
updating.py       `course update`: the newest course, a student's edits kept
quiz_exports.py   `course quizzes`: QTI and Moodle XML
certificates.py   `course certificate`: signed, to be checked offline
slides.py         `course slides`: HTML and PDF made of a unit's notebooks
site.py           `course site`: the whole course as pages
hub/              a JupyterHub for a class, with a shared model server
"""
