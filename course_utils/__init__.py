"""Helpers of the course: everything a notebook needs beyond the lesson itself."""

__version__ = "0.1.0"
