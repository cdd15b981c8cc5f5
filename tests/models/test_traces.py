"""Loading a model, and serving it, writes nothing that stays."""

import os
import subprocess
import sys

from course_utils.models import bundled
from course_utils.settings import ROOT

# In a process of its own, for much is removed only when Python ends. Each model also answers, where that is cheap.
SCRIPT = """
import numpy as np
from PIL import Image

from course_utils import serving
from course_utils.models import catalogue, loaders
from course_utils.settings import MODELS

roles = {model.role for model in catalogue.models() if model.tier == "bundled"}
loaded = {role: loaders.load(role, tier="bundled") for role in sorted(roles)}
loaded["image-text"].encode_images([Image.new("RGB", (64, 64))])
loaded["speech"].transcribe(np.zeros(16_000, np.float32))
loaded["chat"].complete("hello", 4)
with serving.serve(MODELS / "prisma-lm") as server:
    assert server.client().models.list().data
print(*{model.name for model in loaded.values()})
"""


def test_nothing_stays_behind(tmp_path):
    places = {"TMPDIR": str(tmp_path), "TEMP": str(tmp_path), "TMP": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=os.environ | places, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(done.stdout.splitlines()[-1].split()) == set(bundled.NAMES)
    assert list(tmp_path.iterdir()) == []
