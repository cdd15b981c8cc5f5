"""Unit 7.5: LoRA by hand, QLoRA with bitsandbytes and TRL, and what it takes in memory.

The same functions train prisma-lm on a laptop and a 7B model on a card; only model and `Recipe` differ.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from course_utils import checkpoints, compat, data_quality, memory, simulate
from course_utils.figures import progress
from course_utils.inputs import as_texts
from course_utils.prisma import conversations
from course_utils.prisma.conversations import Conversation
from course_utils.prisma.training import Measure, share
from course_utils.simulate import Step

if TYPE_CHECKING:
    from course_utils.hardware import Hardware
    from course_utils.loaders import Chat
    from course_utils.unit import Unit

# ---------------------------------------------------------------- LoRA by hand


class LoRALinear(nn.Module):
    """A frozen W with a trained change of low rank: W + (alpha / r) B A (arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, base.in_features) / rank)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))  # so training starts from W
        self.scale = alpha / rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.scale * (x @ self.A.T @ self.B.T)

    def merge(self) -> nn.Linear:
        """One linear layer again, with W' as its weight."""
        self.base.weight.data += self.scale * (self.B @ self.A).data
        return self.base


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers by name, except the one that names the next token."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and "lm_head" not in n}


def add_lora(model: nn.Module, rank: int, alpha: float) -> dict[str, LoRALinear]:
    """Freeze `model` and put a LoRALinear in the place of each of its linear layers. Returns them by name."""
    model.requires_grad_(False)
    added = {name: LoRALinear(layer, rank, alpha) for name, layer in linear_layers(model).items()}
    for name, layer in added.items():
        model.set_submodule(name, layer)
    return added


def copy_from_peft(peft_model: nn.Module, ours: dict[str, LoRALinear]) -> None:
    """Give our adapters the weights of PEFT's. KeyError if a layer has none there."""
    theirs = dict(peft_model.base_model.model.named_modules())
    for name, layer in ours.items():
        layer.A.data.copy_(theirs[name].lora_A["default"].weight)
        layer.B.data.copy_(theirs[name].lora_B["default"].weight)


def parameters(model: nn.Module) -> dict[str, int]:
    """How many parameters are trained, and how many there are. 4-bit matrices count weights, not bytes."""
    counts = {"trained": 0, "all": 0}
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        size = math.prod(state.shape) if state else parameter.numel()
        counts["all"] += size
        counts["trained"] += size if parameter.requires_grad else 0
    return counts


# ---------------------------------------------------------------- 4 bits


def dequantised(layer: nn.Module) -> torch.Tensor:
    """The weights of a 4-bit layer as numbers again, (outputs, inputs)."""
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def stored_bits(layer: nn.Module) -> float:
    """Bits per weight that a 4-bit layer keeps in memory: codes, scales, and the scales of the scales."""
    state = layer.weight.quant_state
    kept = [layer.weight.data, state.absmax, state.state2.absmax]
    return 8 * sum(t.numel() * t.element_size() for t in kept) / math.prod(state.shape)


def evenly_quantised(weights: torch.Tensor, block: int = 64) -> torch.Tensor:
    """The same weights through 15 even levels, scaled to the largest in each block of `block`."""
    blocks = weights.float().reshape(-1, block)
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12)
    return (torch.round(blocks / scale * 7) / 7 * scale).reshape(weights.shape)


def load_nf4(unit: Unit) -> Chat:
    """The unit's chat model with its matrices in NF4, on the GPU if it is NVIDIA's, else on the CPU.

    Falls back to a smaller model, aloud, as `unit.load` does.
    """
    return quantised(unit.load("chat"), unit.hardware)


def quantised(chat: Chat, hardware: Hardware) -> Chat:
    """`chat` with its matrices in NF4, read again from its files; as it is if it is in 4 bits already."""
    device = training_device(hardware)
    if getattr(chat.model, "is_loaded_in_4bit", False):
        compat.keep_gradients(chat.model)
        return chat
    # On a CPU and at this size, the plain attention trains half as fast again as the fused one.
    attention = "sdpa" if device == "cuda" else "eager"
    model = compat.load_nf4(chat.model.name_or_path, training_dtype(hardware), device, attention)
    model.generation_config = chat.model.generation_config
    return dataclasses.replace(chat, model=model.eval())


def fresh(chat: Chat, method: str, hardware: Hardware) -> Chat:
    """A copy of `chat` to train by `method` ("qlora", "lora" or "full"); `chat` stays as it is.

    QLoRA takes the matrices in 4 bits, full fine-tuning everything in fp32, as optimisers need it. ValueError for
    another method.
    """
    _check(method)
    if method == "qlora":
        return quantised(chat, hardware)
    model = copy.deepcopy(chat.model)
    if training_device(hardware) == "cpu":
        model.set_attn_implementation("eager")
    return dataclasses.replace(chat, model=model.float() if method == "full" else model)


def _check(method: str) -> None:
    if method not in memory.TRAINING:
        raise ValueError(f"No way of training is called {method!r}. There are {', '.join(memory.TRAINING)}.")


def training_device(hardware: Hardware) -> str:
    """Where to train: bitsandbytes' 4-bit layers train on NVIDIA cards and on CPUs."""
    return "cuda" if hardware.device == "cuda" else "cpu"


def training_dtype(hardware: Hardware) -> torch.dtype:
    """The number format to multiply in: the machine's own, but fp32 where a CPU has no bf16 units."""
    if training_device(hardware) == "cpu" and hardware.dtype == "float16":
        return torch.float32
    return hardware.torch_dtype


# ---------------------------------------------------------------- what to train with, and whether it fits


class NotEnoughMemoryError(RuntimeError):
    """Training would run out of memory, whatever is made smaller. The message says what to do."""


@dataclass(frozen=True)
class Recipe:
    """How to train: by `method` "qlora", "lora" or "full", with the validation loss measured `measured` times.

    `batch` conversations make one step; `at_once` of them are in memory together. ValueError for another method, for
    what is no number or too small, and for an `at_once` that `batch` can't be made of.
    """

    learning_rate: float
    conversations: int = 1600
    epochs: float = 1.0
    batch: int = 16
    at_once: int = 16
    max_length: int = 512
    checkpointing: bool = False
    rank: int = 16
    alpha: int = 32
    seed: int = 7
    method: str = "qlora"
    measured: int = 5

    def __post_init__(self) -> None:
        _check(self.method)
        for name in ("learning_rate", "epochs"):
            object.__setattr__(self, name, _above_zero(name, getattr(self, name)))
        for name in ("conversations", "batch", "at_once", "max_length", "rank", "alpha", "measured"):
            object.__setattr__(self, name, _whole_number(name, getattr(self, name), least=1))
        object.__setattr__(self, "seed", _whole_number("seed", self.seed, least=0))
        if not isinstance(self.checkpointing, bool):
            raise ValueError(f"checkpointing must be True or False, not {self.checkpointing!r}.")
        if self.batch % self.at_once:
            raise ValueError(
                f"A batch of {self.batch} can't be made of {self.at_once} conversations at once. The nearest at_once "
                f"that works is {_nearest(self.at_once, divisors(self.batch))}."
            )

    @property
    def steps(self) -> int:
        return math.ceil(self.epochs * math.ceil(self.conversations / self.batch))


def _above_zero(name: str, value: Any) -> float:
    """`value` as a float. ValueError if it is no number above zero."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0, written without quotation marks, not {value!r}.")
    return float(value)


def _whole_number(name: str, value: Any, least: int) -> int:
    """`value` as an int. ValueError if it is no whole number, or below `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value < 2**32:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return int(value)


def divisors(n: int) -> list[int]:
    """The numbers that divide `n`, the largest first."""
    return [d for d in range(n, 0, -1) if n % d == 0]


def _nearest(wanted: int, numbers: Sequence[int]) -> int:
    return min(numbers, key=lambda number: abs(number - wanted))


# A small model needs, and bears, a much higher rate than a large one.
RECIPES = {
    "bundled": Recipe(learning_rate=4e-3, epochs=1.5, batch=8, at_once=8),
    "small": Recipe(learning_rate=5e-4, conversations=600, at_once=4, checkpointing=True),
    "full": Recipe(learning_rate=2e-4, batch=8, at_once=4, checkpointing=True),
}


def qlora_estimate(model: Any, recipe: Recipe, optimiser: str = "adamw") -> memory.Estimate:
    """The peak memory of training `model` (a name or a folder) by `recipe`, by the formulas."""
    return memory.estimate(
        model, "qlora", recipe.max_length, recipe.at_once, recipe.rank, recipe.checkpointing, optimiser
    )


def trainer_step(model: Any, recipe: Recipe, cuda: bool = False, dtype: str = "bfloat16") -> Step:
    """What the trainer does in one step by `recipe`, on a GPU or a CPU, as something to simulate."""
    return Step(
        memory.architecture(model),
        "qlora",
        recipe.max_length,
        recipe.at_once,
        recipe.rank,
        recipe.checkpointing,
        _optimiser(cuda),
        dtype,
        fused_head=cuda and compat.has_fused_head(),
        accumulate=recipe.batch > recipe.at_once,
        padded=recipe.at_once > 1,
    )


def _optimiser(cuda: bool) -> str:
    """As `memory` calls it: with 8-bit state on a GPU, where it is paged, too."""
    return "adamw-8bit" if cuda else "adamw"


def needed_gb(model: Any, recipe: Recipe, available_gb: float, loaded: bool = False, cuda: bool = False) -> float:
    """GiB that training by `recipe` needs; with `loaded`, beyond the weights, which are in memory already.

    By the formulas where they leave no doubt. Near the limit the trainer's own step is simulated (seconds).
    """
    there = memory.weight_bytes(memory.architecture(model), "nf4") / memory.GIB if loaded else 0
    needed = qlora_estimate(model, recipe, _optimiser(cuda)).total - there
    if not 0.75 * available_gb < needed < 2 * available_gb:
        return needed
    return simulate.quick_total(trainer_step(model, recipe, cuda)) - there


def fitting(recipe: Recipe, model: Any, available_gb: float, loaded: bool = False, cuda: bool = False) -> Recipe:
    """`recipe`, or the nearest to it that fits into `available_gb` (GiB).

    Fewer conversations at once and checkpointing change memory and time, but not the result. With `loaded`
    the weights are in memory already. NotEnoughMemoryError if nothing helps.
    """
    for at_once in [n for n in divisors(recipe.batch) if n <= recipe.at_once]:
        for checkpointing in dict.fromkeys((recipe.checkpointing, True)):
            smaller = dataclasses.replace(recipe, at_once=at_once, checkpointing=checkpointing)
            needed = needed_gb(model, smaller, available_gb, loaded, cuda)
            if needed <= available_gb:
                return smaller
    raise NotEnoughMemoryError(
        f"Even one conversation at a time needs {needed:.1f} GiB and {available_gb:.1f} are free. "
        "Close other programs or notebooks, or use a smaller model: COURSE_TIER=bundled always fits."
    )


def adapted(recipe: Recipe, chat: Chat, hardware: Hardware) -> Recipe:
    """`fitting` for a loaded model on this machine. Says what it changed."""
    cuda = training_device(hardware) == "cuda"
    fits = fitting(recipe, chat.model.config.name_or_path, hardware.free_gb, loaded=True, cuda=cuda)
    if fits != recipe:
        print(
            f"Only {hardware.free_gb:.1f} GiB are free. Conversations at once: {fits.at_once} instead of "
            f"{recipe.at_once}; checkpointing: {'on' if fits.checkpointing else 'off'}. Slower, same result."
        )
    return fits


def precision(hardware: Hardware) -> dict[str, bool]:
    """Mixed precision for the trainer: bf16 where there are units for it, fp16 on older NVIDIA cards."""
    dtype = training_dtype(hardware)
    return {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}


# ---------------------------------------------------------------- training


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
    train, validation = rows(talks["train"][: recipe.conversations]), rows(talks["validation"][:16])
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
        [_bar(recipe.steps), checkpoints.sealing()],
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

    Checkpoints of another recipe, other data or another model are moved aside, aloud, and so are damaged ones.
    """
    last = checkpoints.to_go_on_from(Path(trainer.args.output_dir), trainer.run_record)
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


def held_mb(trainer: Any) -> dict[str, float]:
    """Megabytes that the weights, the gradients and the optimiser's state take between two training steps."""

    def size(tensors: Iterable[torch.Tensor]) -> float:
        return sum(t.numel() * t.element_size() for t in tensors) / 1e6

    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    states = [t for state in trainer.optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    everything = [*trainer.model.parameters(), *trainer.model.buffers()]
    return {"weights": size(everything), "gradients": size(trained), "optimiser": size(states)}


# ---------------------------------------------------------------- before and after


def replies(chat: Chat, talks: Sequence[Conversation]) -> list[str]:
    """What the model answers to each conversation, greedy, at most 120 tokens."""
    return chat.complete_many([chat.prompt(talk.prompt) for talk in talks], max_new_tokens=120)


def score(talks: Sequence[Conversation], written: Sequence[str]) -> dict[str, Measure]:
    """The share of replies with each part of the house style right, and of those fit to be sent ("all")."""
    written = as_texts(written, "replies")
    checks = [conversations.parts_right(talk, text) for talk, text in zip(talks, written, strict=True)]
    parts = {name: share([check[name] for check in checks]) for name in checks[0]}
    whole = [conversations.graded(talk, text) for talk, text in zip(talks, written, strict=True)]
    return {**parts, "all": share(whole)}


# ---------------------------------------------------------------- after training


def for_merging(unit: Unit, trained: Chat, folder: Path) -> Chat:
    """The trained adapter, kept in `folder`, on the model as it was before it was quantised.

    At 7B the 16-bit weights would not fit beside the 4-bit ones: there it is the trained model itself.
    """
    trained.model.save_pretrained(folder)
    chat = unit.load("chat")
    if getattr(chat.model, "is_loaded_in_4bit", False):
        return trained
    return dataclasses.replace(chat, model=compat.load_lora(chat.model, folder).eval())


def reply_times(chat: Chat, prompt: str, rounds: int = 8, tokens: int = 16) -> dict[str, list[float]]:
    """Milliseconds per token of a reply, with PEFT's adapter beside the weights and merged into them.

    Both in turn, `rounds` times after one for warming up. Leaves the adapter unmerged.
    """
    taken: dict[str, list[float]] = {"adapter beside the weights": [], "merged": []}
    for turn in range(-1, rounds):
        for name, change in zip(taken, (lambda: None, chat.model.merge_adapter), strict=True):
            change()
            started = time.perf_counter()
            chat.complete(prompt, max_new_tokens=tokens)  # waits for the text, so for the GPU too
            if turn >= 0:
                taken[name].append(1000 * (time.perf_counter() - started) / tokens)
        chat.model.unmerge_adapter()
    return taken
