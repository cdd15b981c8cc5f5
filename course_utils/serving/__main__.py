"""`python -m course_utils.serving`: the embedded server. `serving.start` runs it."""

from course_utils.serving.server import main

if __name__ == "__main__":
    main()
