"""prisma-lm: a small Llama that knows the Prisma shop's tools, and its tokenizer and recipe.

It loads with `AutoModelForCausalLM` and `AutoTokenizer` like any other checkpoint.
"""

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from course_utils.models import hardware
from course_utils.prisma import text
from course_utils.settings import SEED
from course_utils.training import Deadline, MuonAdamW, checkpoint, run

MARKERS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|call|>")
NAME = "prisma-lm"
PEAK = 3e-3
BATCH_TOKENS = 4096
POOL = 400
ROUND = 16  # rows are padded to a multiple: the CPU's kernels are compiled, and kept, for each length
TOKENS = 0.042  # the share of the time in which random tokens are copied

# Writes what course_utils.prisma.text writes: turns between markers, tools as `name(argument)` lines.
CHAT_TEMPLATE = """\
{%- if tools %}{{ '<|system|>Call a function or answer. Functions:' }}
{%- for tool in tools %}{{ '\\n' + tool.function.name + '(' }}
{{- tool.function.parameters.properties.keys() | list | join(', ') }}{{ ')' }}{% endfor %}{{ '<|end|>' }}{% endif %}
{%- for message in messages %}
{%- if message.role != 'system' or not tools %}{{ '<|' + message.role + '|>' }}
{%- for call in message.tool_calls or [] %}{{ '<|call|>{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments if call.function.arguments is string else call.function.arguments | tojson) + '}' }}
{%- endfor %}{{ message.content or '' }}{{ '<|end|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE in which words, digits and spaces are tokens of their own.

    "red" is the same token after a space, a quote or a bracket, so the model has one thing to copy.
    """
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r"[A-Za-z]+|\d|\s|[^A-Za-z\d\s]+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=20,
        special_tokens=list(MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [example.text for example in itertools.islice(text.mixture(SEED), 4000)]
    tokenizer.train_from_iterator(corpus + [" ".join(text.LEXICON)] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(MARKERS[2:]),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def build(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model: 6 layers, 8 heads, 256 wide, tied embeddings, rotary positions."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(SEED)
    return LlamaForCausalLM(config)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a Hugging Face model folder with bfloat16 safetensors."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model in float32 (fastest on most CPUs) and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


# ---------------------------------------------------------------- rows of tokens, and what a model makes of them

Row = tuple[list[int], list[int]]  # token ids and labels; IGNORED where nothing is to be learned
IGNORED = -100


def encode(tokenizer: PreTrainedTokenizerFast, example: text.Example) -> Row:
    """Token ids of an example and its labels."""
    texts = [piece for piece, _ in example.pieces]
    tokens = tokenizer(texts)["input_ids"]
    ids, labels = [], []
    for (_, learn), piece in zip(example.pieces, tokens, strict=True):
        ids += piece
        labels += piece if learn else [IGNORED] * len(piece)
    return ids, labels


def padded(length: int) -> int:
    """`length` rounded up to a multiple of ROUND."""
    return -(-length // ROUND) * ROUND


def collate(rows: Sequence[Row], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded `input_ids`, `labels`, `attention_mask`, each (rows, longest)."""
    longest = padded(max(len(ids) for ids, _ in rows))
    all_ids, all_labels = [], []
    for ids, labels in rows:
        room = longest - len(ids)
        all_ids.append(ids + [pad] * room)
        all_labels.append(labels + [IGNORED] * room)
    input_ids = torch.tensor(all_ids)
    mask = (input_ids != pad).long()
    return {"input_ids": input_ids, "labels": torch.tensor(all_labels), "attention_mask": mask}


def token_log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The log-probability (nats, fp32) of each token of `ids` (n, t) given those before it: (n, t - 1).

    `logits` (n, t, vocabulary) are the model's for these tokens.
    """
    chances = logits[:, :-1].float().log_softmax(-1)  # (n, t - 1, vocabulary)
    said = ids[:, 1:, None]
    return chances.gather(-1, said).squeeze(-1)


@dataclass(frozen=True)
class Reading:
    """What one pass over a row says about its learned tokens.

    Their loss in all (nats), how many they are, and whether each is the likeliest after those before it: then, and
    only then, greedy decoding writes exactly them.
    """

    loss: float
    tokens: int
    right: bool


@torch.inference_mode()
def read(model: torch.nn.Module, rows: Sequence[Row], pad: int, batch: int = 64, **more: Any) -> list[Reading]:
    """A Reading of each row (from `encode`), `batch` rows of like length at a time; `more` goes to the model.

    In the number format of the caller's autocast.
    """
    readings: dict[int, Reading] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        inputs = collate([rows[i] for i in part], pad)
        readings |= zip(part, _read_batch(model, inputs, more), strict=True)
    return [readings[i] for i in range(len(rows))]


def _read_batch(model: torch.nn.Module, batch: dict[str, torch.Tensor], more: dict[str, Any]) -> Iterator[Reading]:
    """A Reading of each row of a batch from `collate`."""
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    wanted = inputs.pop("labels")[:, 1:]  # (rows, t - 1)
    learned = wanted != IGNORED
    logits = model(**inputs, **more).logits[:, :-1]
    losses = torch.zeros(wanted.shape, device=device)
    chances = logits[learned].float()
    losses[learned] = torch.nn.functional.cross_entropy(chances, wanted[learned], reduction="none")
    likeliest = logits.argmax(-1) == wanted
    right = (likeliest | ~learned).all(1)
    return map(Reading, losses.sum(1).tolist(), learned.sum(1).tolist(), right.tolist())


def perplexity(found: Sequence[Reading]) -> float:
    """exp of the mean loss of all learned tokens together."""
    loss = sum(reading.loss for reading in found)
    tokens = sum(reading.tokens for reading in found)
    return math.exp(loss / tokens)


# ---------------------------------------------------------------- the curriculum


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, shares: dict[str, float]) -> Iterator[dict]:
    """Endless batches of examples of like length, about BATCH_TOKENS tokens each."""
    rng = random.Random(seed)
    examples = text.mixture(seed, shares)
    while True:
        rows = [encode(tokenizer, example) for example in itertools.islice(examples, POOL)]
        rows.sort(key=lambda row: len(row[0]))
        cut: list[Row] = []
        full: list[list[Row]] = []
        for row in rows:
            longest = padded(len(row[0]))
            if cut and (len(cut) + 1) * longest > BATCH_TOKENS:
                full.append(cut)
                cut = []
            cut.append(row)
        rng.shuffle(full)  # the last, unfinished cut is dropped
        for rows in full:
            yield collate(rows, tokenizer.pad_token_id)


def token_rows(vocabulary: int, seed: int, done: Callable[[], float]) -> Iterator[dict]:
    """Rows of random tokens, each row three times over; the repeats have to be copied.

    Rows grow from 3-8 to 3-24 tokens as `done` goes from 0 to 1: short rows teach copying within minutes,
    and starting with long ones does not teach it at all in that time.
    """
    draw = torch.Generator().manual_seed(seed)
    while True:
        longest = 8 + int(16 * done())
        length = int(torch.randint(3, longest + 1, (1,), generator=draw))
        count = BATCH_TOKENS // (4 * length)
        row = torch.randint(len(MARKERS), vocabulary, (count, length), generator=draw)
        ids = torch.cat([row, row, row], 1)  # (count, 3 * length)
        unlearned = torch.full_like(row, IGNORED)
        labels = torch.cat([unlearned, row, row], 1)
        yield {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def is_inner(name: str, parameter: torch.nn.Parameter) -> bool:
    """Whether Muon updates this parameter: the matrices of the layers, not the embedding."""
    return parameter.ndim == 2 and "embed" not in name


def rate(done: float, step: int) -> float:
    """The share of the peak learning rate: 50 steps of warm-up, then flat, then down over the last 40 %."""
    rising = min(1.0, (step + 1) / 50)
    falling = max(0.0, (1 - done) / 0.4)
    return rising * min(1.0, falling)


def step(model: LlamaForCausalLM, optimiser: MuonAdamW, batch: dict, number: int, part: float) -> float:
    """Step `number` in bfloat16 where that is fast, `part` of the way through the training. Returns the loss."""
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    with hardware.autocast(device):
        loss = model(**inputs).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step(PEAK * rate(part, number))
    return loss.item()


def lessons(tokenizer: PreTrainedTokenizerFast, seed: int, done: Callable[[], float]) -> Iterator[dict]:
    """The curriculum, by the share of the time that is over: copying tokens, copying words, then everything."""
    starts = (TOKENS, 0.09, 0.33, 0.6)
    tokens = token_rows(len(tokenizer), seed, lambda: min(1.0, done() / TOKENS))
    shares = (text.DRILLS, text.SHARES, text.HARDER, text.SKILLS)
    mixtures = [batches(tokenizer, seed + i, part) for i, part in enumerate(shares, 1)]
    while True:
        passed = sum(done() >= start for start in starts)
        yield next(mixtures[passed - 1] if passed else tokens)


def train(minutes: float = 90, device: str = "cpu", resume: bool = False) -> Path:
    """Train for `minutes`; returns the folder of the new model, build/train/prisma-lm/model.

    `resume` goes on where the last checkpoint of a killed run stood.
    """
    tokenizer, point = build_tokenizer(), checkpoint(NAME)
    model = build(tokenizer).to(device)
    model.set_attn_implementation("eager")  # the fused kernel's backward pass is slower on short rows
    optimiser, state = MuonAdamW(model, PEAK, is_inner), {"step": 0, "spent": 0.0}
    if resume:
        state.update(point.load(model, optimiser))
    deadline = Deadline(minutes, state["spent"])
    lesson = lessons(tokenizer, SEED + state["step"], lambda: deadline.part)
    learn = partial(step, model, optimiser)
    run(NAME, lesson, learn, deadline, state, lambda s: point.save(model, optimiser, **s))
    save(model, tokenizer, point.folder / "model")
    return point.folder / "model"
