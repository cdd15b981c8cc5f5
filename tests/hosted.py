"""Colab with its Drive, and Kaggle, in a folder: what tests/test_keeping.py and its neighbours stand on."""

import sys
import types
from pathlib import Path

import pytest

from course_utils import keeping


class FakeDrive(types.ModuleType):
    """google.colab.drive: `mount` makes MyDrive, or raises what `refuses` holds."""

    def __init__(self, place: Path) -> None:
        super().__init__("google.colab.drive")
        self.place, self.asked, self.refuses = place, 0, None

    def mount(self, path: str) -> None:
        assert path == str(self.place)
        self.asked += 1
        if self.refuses:
            raise self.refuses
        (self.place / "MyDrive").mkdir(parents=True)


def use_colab(patch: pytest.MonkeyPatch, place: Path) -> FakeDrive:
    """From now on this process runs on Colab, whose Drive will be mounted at `place`."""
    colab, drive = types.ModuleType("google.colab"), FakeDrive(place)
    colab.drive = drive
    patch.setitem(sys.modules, "google.colab", colab)
    patch.setitem(sys.modules, "google.colab.drive", drive)
    patch.setattr(keeping, "DRIVE", place)
    patch.setenv("COURSE_KEPT", "")
    return drive


def use_kaggle(patch: pytest.MonkeyPatch, place: Path) -> None:
    """From now on this process runs on Kaggle, with `place` as /kaggle/working."""
    place.mkdir()
    patch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    patch.setattr(keeping, "KAGGLE", place)
    patch.setenv("COURSE_KEPT", "")
