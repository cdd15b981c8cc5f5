"""Supervised fine-tuning with TRL: the trainer, training that resumes, and its curves.

The same functions train prisma-lm on a laptop and a 7B model on a card; only model and `Recipe` differ.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from course_utils import compat
from course_utils.figures import progress
from course_utils.finetuning import checkpoints, data_quality, kept_runs
from course_utils.finetuning.four_bit import training_device
from course_utils.finetuning.qlora import Recipe, precision
from course_utils.prisma import conversations
from course_utils.prisma.conversations import Conversation
from course_utils.settings import is_quick, paced

if TYPE_CHECKING:
    from course_utils.models.hardware import Hardware
    from course_utils.models.roles import Chat


def rows(talks: Sequence[Conversation]) -> list[dict]:
    """Conversations as TRL takes them: a prompt to read, a completion to learn."""
    return [conversations.chat_row(talk) for talk in talks]


def make_trainer(
    chat: Chat, talks: dict[str, list[Conversation]], recipe: Recipe, hardware: Hardware, folder: Path
) -> Any:
    """TRL's trainer on the model of `chat`, which must suit the recipe's method. Checkpoints go to `folder`.

    Says which conversations do not fit into the recipe's `max_length`. ValueError if none does.
    """
    if len(talks["train"]) < recipe.conversations:
        print(f"The recipe asks for {recipe.conversations:,} conversations; there are {len(talks['train']):,}.")
    train, validation = rows(talks["train"][: recipe.conversations]), rows(talks["validation"][: paced(16, least=4)])
    if is_quick():
        recipe = dataclasses.replace(recipe, epochs=recipe.epochs / 10)
    train = within(train, chat.tokenizer, recipe.max_length, "training")
    validation = within(validation, chat.tokenizer, recipe.max_length, "validation")
    return trainer_of(chat, train, validation, recipe, hardware, folder)


def within(rows: list[dict], tokenizer: Any, max_length: int, what: str) -> list[dict]:
    """The rows with something of the reply left in their first `max_length` tokens, where the trainer cuts them.

    Says how many are cut and how many left out. ValueError if none is whole: the end of a reply would not be learned.
    """
    if not rows:
        raise ValueError(f"There is no conversation for {what}.")
    asked = _tokens(tokenizer, [row["prompt"] for row in rows], add_generation_prompt=True)
    whole = _tokens(tokenizer, [row["prompt"] + row["completion"] for row in rows])
    long = sum(length > max_length for length in whole)
    cure = f"max_length={max(whole)} takes them all."
    if long == len(rows):
        raise ValueError(
            f"All {long:,} conversations for {what} are longer than max_length={max_length}, so no reply would be "
            f"learned to its end. max_length={min(whole)} takes the shortest, {cure}"
        )
    kept = [row for row, length in zip(rows, asked, strict=True) if length < max_length]
    if long:
        lost = len(rows) - len(kept)
        print(
            f"{long:,} of {len(rows):,} conversations for {what} are longer than max_length={max_length} tokens: "
            f"{long - lost:,} are cut, which takes the end of the reply and the mark that ends it; of {lost:,} nothing "
            f"of the reply is left, and they are left out. {cure}"
        )
    return kept


def _tokens(tokenizer: Any, talks: list[list[dict]], **how: bool) -> list[int]:
    """How many tokens each conversation has in the tokenizer's chat template."""
    texts = tokenizer.apply_chat_template(talks, tokenize=False, **how)
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def trainer_of(
    chat: Chat, train: list[dict], validation: list[dict], recipe: Recipe, hardware: Hardware, folder: Path
) -> Any:
    """`make_trainer` for rows as TRL takes them. Adapters that an earlier trainer put into the model are taken out."""
    cuda = training_device(hardware) == "cuda"
    recipe = dataclasses.replace(recipe, conversations=len(train))
    settings = compat.sft_config(
        folder,
        batch=recipe.at_once,
        accumulate=recipe.batch // recipe.at_once,
        learning_rate=recipe.learning_rate,
        epochs=recipe.epochs,
        max_length=recipe.max_length,
        steps_between=max(1, recipe.steps // recipe.measured),
        checkpointing=recipe.checkpointing,
        optimiser="paged_adamw_8bit" if cuda else "adamw_torch",
        cpu=not cuda,
        seed=recipe.seed,
        **precision(hardware),
    )
    qlora, full = recipe.method == "qlora", recipe.method == "full"
    model = compat.without_adapters(chat.model)
    run = run_record(chat, train, validation, recipe, hardware)
    trainer = compat.sft_trainer(
        compat.prepare_for_training(model) if qlora else model.requires_grad_(full),
        settings,
        train,
        validation,
        chat.tokenizer,
        None if full else compat.lora_config(recipe.rank, recipe.alpha),
        [_bar(recipe.steps), checkpoints.sealing(), kept_runs.copying(run)],
    )
    _trained_to_fp32(trainer.model)
    trainer.run_record = run
    trainer.untrained = None if full else {name: p.detach().cpu().clone() for name, p in _trained(trainer.model)}
    return trainer


def run_record(
    chat: Chat, train: list[dict], validation: list[dict], recipe: Recipe, hardware: Hardware
) -> dict[str, Any]:
    """All that decides the result of a training run, as plain values: only a run with the same record may go on.

    `at_once` and `checkpointing` are not in it: they change memory and time only.
    """
    kept = dataclasses.asdict(recipe)
    unused = ["at_once", "checkpointing"]
    if recipe.method == "full":
        unused += ["rank", "alpha"]
    for name in unused:
        del kept[name]
    data = {"training data": train, "validation data": validation, "chat template": [chat.tokenizer.chat_template]}
    marks = {name: data_quality.fingerprint(lines)[:12] for name, lines in data.items()}
    formats = [name for name, on in precision(hardware).items() if on]
    return {
        **kept,
        **marks,
        "steps": recipe.steps,
        "model": chat.name,
        "weights": checkpoints.weights_mark(chat.model),
        "computed in": (formats or ["fp32"])[0],
        "device": training_device(hardware),
    }


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that are trained, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _trained_to_fp32(model: nn.Module) -> None:
    """TRL makes adapters of 4-bit models bfloat16: too coarse for small steps, and fp16 training breaks."""
    for _name, parameter in _trained(model):
        parameter.data = parameter.data.float()


def _bar(steps: int) -> Any:
    """A progress bar as a callback of the trainer."""
    from transformers import TrainerCallback

    class Bar(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.ticks = progress(range(steps), "training steps", steps)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            next(self.ticks, None)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            for _tick in self.ticks:
                pass

    return Bar()


def train(trainer: Any) -> float:
    """Train, or go on from the last checkpoint of this very run in the trainer's folder. Returns the seconds it took.

    Where it has none, one that an earlier session has kept is brought back (kept_runs.py). Checkpoints of another
    recipe, other data or another model are moved aside, aloud, and so are damaged ones.
    """
    folder = Path(trainer.args.output_dir)
    last = checkpoints.to_go_on_from(folder, trainer.run_record)
    if last is None:  # only now is the folder free of what belongs to another run, or is damaged
        kept_runs.bring_back(folder, trainer.run_record)
        last = checkpoints.to_go_on_from(folder, trainer.run_record)
    if last is None and trainer.state.global_step:
        _start_over(trainer)
    if last:
        print(_going_on(last.name, trainer.run_record["steps"]))
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    trainer.model.eval()
    return time.monotonic() - started


def _going_on(checkpoint: str, steps: int) -> str:
    if checkpoint == f"checkpoint-{steps}":
        return f"This run is finished: {checkpoint} is its result. To train anew, change the recipe or the folder."
    return f"Going on from {checkpoint}."


def _start_over(trainer: Any) -> None:
    """Put the adapters back as they were before the first step. ValueError for full fine-tuning: it keeps no copy."""
    if trainer.untrained is None:
        raise ValueError(
            "This model is trained in part, and there is no checkpoint to go on from. Take a fresh model "
            "(finetuning.fresh) and make the trainer again."
        )
    for name, parameter in _trained(trainer.model):
        parameter.data.copy_(trainer.untrained[name])
    trainer.optimizer = None


def curves(trainer: Any) -> dict[str, list[tuple[int, float]]]:
    """(step, loss) pairs of the training and of the validation loss."""
    history = trainer.state.log_history
    return {
        "training": [(row["step"], row["loss"]) for row in history if "loss" in row],
        "validation": [(row["step"], row["eval_loss"]) for row in history if "eval_loss" in row],
    }


def draw_curves(ax: Any, curves: dict[str, list[tuple[int, float]]]) -> None:
    """Draw what `curves` gives on matplotlib's `ax`: the training loss as a line, the validation loss as points."""
    for (name, points), style in zip(curves.items(), ("-", "o--"), strict=True):
        steps = [step for step, _ in points]
        losses = [loss for _, loss in points]
        ax.plot(steps, losses, style, label=name)


def held_mb(trainer: Any) -> dict[str, float]:
    """Megabytes that the weights, the gradients and the optimiser's state take between two training steps."""

    def size(tensors: Iterable[torch.Tensor]) -> float:
        return sum(t.numel() * t.element_size() for t in tensors) / 1e6

    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    states: list[torch.Tensor] = []
    for state in trainer.optimizer.state.values():
        states += [value for value in state.values() if torch.is_tensor(value)]
    everything = [*trainer.model.parameters(), *trainer.model.buffers()]
    return {"weights": size(everything), "gradients": size(trained), "optimiser": size(states)}
