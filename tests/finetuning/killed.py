"""A training run that is killed, for test_finetuning.py: python killed.py MODEL FOLDER STEP in-step|while-saving.

SIGKILL leaves no time to tidy up, as when a machine runs out of memory or Colab takes it back.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from course_utils import compat
from course_utils.finetuning import qlora, sft
from course_utils.models import loaders, offline, roles
from course_utils.models.hardware import Hardware
from course_utils.prisma import conversations, lm

LAPTOP = Hardware("cpu", "float32", "", ram_total_gb=8, ram_free_gb=4, cores=2)
# Twelve steps of two times two conversations, with a checkpoint after every second.
RECIPE = qlora.Recipe(learning_rate=1e-2, conversations=48, batch=4, at_once=2)


def trainer(model: str, folder: Path, recipe: qlora.Recipe = RECIPE):
    """The same trainer in every process."""
    loaders.quiet_libraries()
    parts = conversations.by_split(conversations.make_conversations(200))
    loaded = loaders.greedy_by_default(compat.load_nf4(model, torch.float32, "cpu", "eager").eval())
    chat = roles.Chat(loaded, lm.build_tokenizer(), "tiny", "bundled")
    return sft.make_trainer(chat, parts | {"validation": parts["validation"][:4]}, recipe, LAPTOP, folder)


def die(*_, **__) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Kill(TrainerCallback):
    def __init__(self, trainer, step: int, while_saving: bool):
        self.trainer, self.step, self.while_saving = trainer, step, while_saving

    def on_substep_end(self, args, state, control, **_):
        """In the middle of a step: half of its conversations are through."""
        if state.global_step == self.step:
            if not self.while_saving:
                die()
            self.trainer._save_rng_state = die  # adapters and optimiser are written, the state of the run is not


if __name__ == "__main__":
    offline.close_sockets()
    model, folder, step, when = sys.argv[1:]
    run = trainer(model, Path(folder))
    run.add_callback(Kill(run, int(step), when == "while-saving"))
    sft.train(run)
