"""Helpers of the course: everything a notebook needs beyond the lesson itself."""

__version__ = "0.1.0"
__all__ = ["__version__", "open_unit"]


def __getattr__(name: str):
    """`open_unit` is imported on first use, so that `import course_utils` stays instant."""
    if name == "open_unit":
        from course_utils.unit import open_unit

        return open_unit
    raise AttributeError(f"module 'course_utils' has no attribute {name!r}")
