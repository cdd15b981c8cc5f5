"""Unit 7.1, lab on vision-language models: questions about drawn pictures, and the loop that teaches them.

The model itself (projector and picture tokens, after LLaVA, arXiv 2304.08485) is in the notebook, in full view.
Every function that takes a `model` expects `model(vectors, ids) -> logits`, `model.embed(vectors, ids)` and
`model.lm`, where the vectors of a picture (n, p, width) stand behind the first token of `ids` (n, t).
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_utils.figures import progress
from course_utils.measures import Measure, share
from course_utils.models import hardware
from course_utils.models.inputs import as_texts
from course_utils.prisma.lm import IGNORED
from course_utils.prisma.pictures import Scene, Toy
from course_utils.prisma.shop import SHAPES, SIZES, TRAINED_PAIRS
from course_utils.training import Learner

Pair = tuple[str, str]

NUMBERS = ("one", "two", "three")
POLLS = ("there", "not there")  # kinds with the answer yes or no
ROOM = 8  # tokens that an answer may take


@dataclass(frozen=True)
class Question:
    """A question on picture number `picture` of a list, and the only answer that counts as right."""

    kind: str
    text: str
    answer: str
    picture: int


# ---------------------------------------------------------------- scenes and questions


def scenes(n: int, seed: int, toys: Sequence[int] = (1, 2, 3), pairs: Sequence[Pair] = TRAINED_PAIRS) -> list[Scene]:
    """`n` scenes; each holds a number of different toys out of `toys`, all of them from `pairs`.

    Toys of one scene stand from left to right. ValueError if `pairs` cannot fill a scene.
    """
    if max(toys) > len(set(pairs)):
        raise ValueError(f"{len(set(pairs))} pairs cannot make a scene of {max(toys)} different toys")
    rng, made = random.Random(f"scenes {seed}"), []
    for _ in range(n):
        count = rng.choice(tuple(toys))
        chosen = rng.sample(sorted(set(pairs)), count)
        row = tuple(Toy(rng.choice(SIZES if count < 3 else SIZES[:2]), *pair) for pair in chosen)
        made.append(Scene(row, "left of" if count > 1 else None))
    return made


def _once(scene: Scene, rng: random.Random, part: str) -> Toy | None:
    """A toy whose "colour" or "shape" no other toy of the scene has; None if there is none."""
    counts = Counter(getattr(toy, part) for toy in scene.toys)
    alone = [toy for toy in scene.toys if counts[getattr(toy, part)] == 1]
    return rng.choice(alone) if alone else None


def _caption(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    toy = scene.toys[0]
    return ("What is this?", f"{toy.size} {toy.name}") if len(scene.toys) == 1 else None


def _list(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """One or two toys from left to right."""
    names = " and ".join(toy.name for toy in scene.toys)
    return ("What do you see?", names) if len(scene.toys) < 3 else None


def _colour(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    toy = _once(scene, rng, "shape")
    return (f"What colour is the {toy.shape}?", str(toy.colour)) if toy else None


def _shape(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    toy = _once(scene, rng, "colour")
    return (f"What shape is the {toy.colour} toy?", toy.shape) if toy else None


def _count(scene: Scene, rng: random.Random) -> tuple[str, str]:
    return "How many toys are there?", NUMBERS[len(scene.toys) - 1]


def _left(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """Of the left toy of two the answer is "no toy": naming the other toy is not enough."""
    if len(scene.toys) != 2 or scene.toys[0].shape == scene.toys[1].shape:
        return None
    place = rng.randrange(2)
    return f"What is left of the {scene.toys[place].shape}?", scene.toys[0].shape if place else "no toy"


def _missing(scene: Scene, rng: random.Random) -> str:
    """A shape that no toy of the scene has."""
    there = {toy.shape for toy in scene.toys}
    return rng.choice([shape for shape in SHAPES if shape not in there])


def _there(scene: Scene, rng: random.Random) -> tuple[str, str]:
    return f"Is there a {rng.choice(scene.toys).shape}?", "yes"


def _not_there(scene: Scene, rng: random.Random) -> tuple[str, str]:
    return f"Is there a {_missing(scene, rng)}?", "no"


def _absent(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """The colour of a toy that is not in the scene: the question itself is wrong."""
    shape = _missing(scene, rng)
    return f"What colour is the {shape}?", f"no {shape}"


KINDS: dict[str, Callable[[Scene, random.Random], tuple[str, str] | None]] = {
    "caption": _caption, "list": _list, "colour": _colour, "shape": _shape, "count": _count, "left": _left,
    "there": _there, "not there": _not_there, "absent": _absent,
}  # fmt: skip


def questions(seen: Sequence[Scene], seed: int, kinds: Sequence[str], each: int = 1) -> list[Question]:
    """`each` questions a scene, drawn from those of `kinds` that fit it; a kind named twice is drawn twice as often.

    Scenes that none fits get none. ValueError for a kind that is not in KINDS.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"no such kind of question: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    rng = random.Random(f"questions {seed}")
    asked: list[Question] = []
    for number, scene in enumerate(seen):
        for _ in range(each):
            question = _question(number, scene, kinds, rng)
            if question:
                asked.append(question)
    return asked


# ---------------------------------------------------------------- tokens


def prompt_ids(tokenizer, text: str) -> list[int]:
    """The token ids of a customer's message, up to where the model is to answer."""
    message = [{"role": "user", "content": text}]
    written = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    return tokenizer(written)["input_ids"]


def _question(number: int, scene: Scene, kinds: Sequence[str], rng: random.Random) -> Question | None:
    """A question of the first kind, in random order, that fits the scene; None if none does."""
    for kind in rng.sample(list(kinds), len(kinds)):
        drawn = KINDS[kind](scene, rng)
        if drawn:
            text, answer = drawn
            return Question(kind, text, answer, number)
    return None


def lesson(tokenizer, asked: Sequence[Question]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids and labels, both (n, longest), padded on the right, and picture numbers (n,).

    Only the answer and the end marker are learned; everything else has the label IGNORED. ValueError for no question.
    """
    if not asked:
        raise ValueError("no question to learn from: ask for other kinds, or about other scenes")
    all_ids, all_labels = [], []
    for question in asked:
        head = prompt_ids(tokenizer, question.text)
        tail = tokenizer(question.answer)["input_ids"] + [tokenizer.eos_token_id]
        all_ids.append(head + tail)
        all_labels.append([IGNORED] * len(head) + tail)
    ids = _padded(all_ids, tokenizer.pad_token_id)
    labels = _padded(all_labels, IGNORED)
    return ids, labels, torch.tensor([question.picture for question in asked])


def _padded(rows: Sequence[list[int]], filler: int) -> Tensor:
    """Rows of numbers, filled up on the right: (n, longest)."""
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


def answer_loss(model: nn.Module, vectors: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the answers. The logits that predict token j stand at position p + j - 1."""
    pictured = vectors.shape[1]
    logits = model(vectors, ids)[:, pictured:-1].float()  # (n, longest - 1, vocabulary)
    wanted = labels[:, 1:].flatten()
    return nn.functional.cross_entropy(logits.flatten(0, 1), wanted, ignore_index=IGNORED)


# ---------------------------------------------------------------- learning


def fit(
    model: nn.Module,
    vectors: Tensor,
    taught: tuple[Tensor, Tensor, Tensor],
    steps: int,
    seed: int,
    *,
    peak: float = 3e-3,
    batch: int = 64,
    label: str = "Training",
) -> list[float]:
    """Train the weights that are not frozen, with bf16 where that is fast, and AdamW; returns the loss of each step.

    `vectors` (pictures, p, width) holds what the vision tower sees, `taught` comes from `lesson`.
    """
    ids, labels, rows = taught
    learner = Learner(model, peak, steps, decay=0.01)
    device, draw, losses = learner.weights[0].device, torch.Generator().manual_seed(seed), []
    for _ in progress(range(learner.steps), label):
        at = torch.randint(len(ids), (batch,), generator=draw)
        parts = (vectors[rows[at]], ids[at], labels[at])  # one length: a CPU compiles its kernels only once
        with hardware.autocast(device):
            loss = answer_loss(model, *(part.to(device) for part in parts))
        losses.append(learner.step(loss))
    return losses


@torch.inference_mode()
def answers(
    model: nn.Module, tokenizer, vectors: Tensor, asked: Sequence[Question], shift: int = 0, batch: int = 128
) -> list[str]:
    """The model's greedy answers, at most ROOM tokens each.

    With `shift` each question gets the picture of the question `shift` places further on: a wrong one.
    """
    heads = [prompt_ids(tokenizer, question.text) for question in asked]
    numbers = [asked[(i + shift) % len(asked)].picture for i in range(len(asked))]
    groups: dict[int, list[int]] = defaultdict(list)  # prompts of one length need no padding
    for i, head in enumerate(heads):
        groups[len(head)].append(i)
    written: dict[int, str] = {}
    for group in groups.values():
        for start in range(0, len(group), batch):
            part = group[start : start + batch]
            shown = vectors[[numbers[i] for i in part]]  # (n, p, width)
            ids = torch.tensor([heads[i] for i in part])
            texts = _continued(model, tokenizer, shown, ids)
            written.update(zip(part, texts, strict=True))
    return [written[i] for i in range(len(asked))]


def _continued(model: nn.Module, tokenizer, shown: Tensor, ids: Tensor) -> list[str]:
    """What the model writes after prompts `ids` (n, t) of one length about the pictures `shown` (n, p, width)."""
    device = next(model.parameters()).device
    embedded = model.embed(shown.to(device), ids.to(device))
    made = model.lm.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long, device=device),
        max_new_tokens=ROOM,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    return [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]


# ---------------------------------------------------------------- measuring


def exact(asked: Sequence[Question], written: Sequence[str]) -> Measure:
    """The share of answers that are right word for word. ValueError if their numbers differ."""
    written = as_texts(written, "replies")
    if len(asked) != len(written):
        raise ValueError(f"{len(asked)} questions, {len(written)} answers: one each is needed")
    return share([one.answer == text for one, text in zip(asked, written, strict=True)])


def by_kind(asked: Sequence[Question], written: Sequence[str]) -> dict[str, Measure]:
    """`exact` for each kind of question, in the order of KINDS; the two kinds of POLLS count as one."""
    written = as_texts(written, "replies")
    rights: dict[str, list[bool]] = defaultdict(list)
    for question, text in zip(asked, written, strict=True):
        kind = "yes or no" if question.kind in POLLS else question.kind
        rights[kind].append(question.answer == text)
    return {kind: share(rights[kind]) for kind in (*KINDS, "yes or no") if kind in rights}


def said_yes(asked: Sequence[Question], written: Sequence[str], kind: str) -> Measure:
    """The share of "yes" among the answers to the questions of one kind."""
    written = as_texts(written, "replies")
    yes = [text == "yes" for question, text in zip(asked, written, strict=True) if question.kind == kind]
    return share(yes)


def by_word(asked: Sequence[Question], written: Sequence[str]) -> dict[str, Measure]:
    """Captions word by word: the shares with the right size, colour and shape."""
    written = as_texts(written, "replies")
    pairs = [(question.answer.split(), text.split()) for question, text in zip(asked, written, strict=True)]
    shares = {}
    for i, name in enumerate(("size", "colour", "shape")):
        right = [len(said) > i and said[i] == true[i] for true, said in pairs]
        shares[name] = share(right)
    return shares


def blind_guesses(taught: Sequence[Question], asked: Sequence[Question]) -> list[str]:
    """The best that can be said without a picture: the most frequent answer in `taught` to the same words.

    Where `taught` never asked these words, the most frequent answer to that kind of question.
    """
    same_words, same_kind = defaultdict(Counter), defaultdict(Counter)
    for question in taught:
        same_words[question.text][question.answer] += 1
        same_kind[question.kind][question.answer] += 1
    guesses = []
    for question in asked:
        counts = same_words[question.text] or same_kind[question.kind]
        guesses.append(max(counts, key=counts.__getitem__, default=""))
    return guesses
