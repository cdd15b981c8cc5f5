"""One session on a hosted machine that may be lost, for test_kept_runs.py: lost_runtime.py DRIVE HOME MODEL [STEP].

Everything but DRIVE is this machine's own. With STEP the process is killed in the middle of that step.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/, where hosted.py is

import hosted
import killed
import pytest

from course_utils import colab, keeping
from course_utils.finetuning import sft
from course_utils.models import offline

if __name__ == "__main__":
    offline.close_sockets()
    drive, home, model, *step = sys.argv[1:]
    hosted.use_colab(pytest.MonkeyPatch(), Path(drive))
    colab.keep()
    folder = keeping.lasting(Path(home) / "support", "7.5-support")
    run = killed.trainer(model, folder)
    if step:
        run.add_callback(killed.Kill(run, int(step[0]), while_saving=False))
    sft.train(run)
    (Path(home) / "curves.json").write_text(json.dumps(sft.curves(run)))
