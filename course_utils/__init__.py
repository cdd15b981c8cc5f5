"""Helpers of the course: everything a notebook needs beyond the lesson itself."""

import os

# PyTorch reads it once, with its first tensor (Linux only): large tensors come in pages of 2 MiB instead of 4 KiB. A
# step of a 7B model on two cores takes three quarters of the time; small models take the same, and 3 % more memory.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# The one place of the version; pyproject.toml reads it here. CONTRIBUTING.md says what its numbers mean.
__version__ = "0.3.0"
__all__ = ["__version__", "open_unit"]


def __getattr__(name: str):
    """`open_unit` is imported on first use, so that `import course_utils` stays instant."""
    if name == "open_unit":
        from course_utils.unit import open_unit

        return open_unit
    raise AttributeError(f"module 'course_utils' has no attribute {name!r}")
