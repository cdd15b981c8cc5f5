"""A small student learns from a large teacher: the loss, the student and the training."""

import copy
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.prisma import lm, text
from course_utils.prisma.shop import Shop, make_shop
from course_utils.training import Learner

Batch = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of student, teacher (n, vocabulary) and labels (n,)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """How far the student's probabilities are from the teacher's, both softened (arXiv 1503.02531).

    KL divergence of the student from the teacher in nats, the mean over rows, times the square of
    the temperature, so that its gradient keeps its size. Both (n, vocabulary), logits. ValueError
    unless the temperature is above 0.
    """
    if temperature <= 0:
        raise ValueError(f"A temperature of {temperature} softens nothing: choose one above 0, such as 2.")
    wanted = (teacher / temperature).log_softmax(-1)  # (n, vocabulary)
    said = (student / temperature).log_softmax(-1)  # (n, vocabulary)
    apart = F.kl_div(said, wanted, reduction="batchmean", log_target=True)
    return apart * temperature**2


def label_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """What training without a teacher minimises: the cross-entropy (nats) of the right tokens. Ignores the teacher."""
    return F.cross_entropy(student, labels)


# ---------------------------------------------------------------- the student, and what it reads


def fresh(teacher: nn.Module, layers: int, width: int, heads: int, seed: int) -> nn.Module:
    """A student of the teacher's kind with random weights from `seed`, `width` numbers wide, its MLP twice that.

    ValueError unless the heads divide the width.
    """
    if width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}: choose a divisor.")
    config = copy.deepcopy(teacher.config)
    config.hidden_size = width
    config.intermediate_size = 2 * width
    config.num_hidden_layers = layers
    config.num_attention_heads = config.num_key_value_heads = heads
    config.head_dim = width // heads
    torch.manual_seed(seed)
    return type(teacher)(config)


def guesses(n: int, seed: int) -> list[text.Example]:
    """`n` questions about unknown shops to be answered at once, where the best answer is a good guess."""
    found: list[text.Example] = []
    while len(found) < n:
        rng = random.Random(f"guess {seed} {len(found)}")
        shop = make_shop(rng.randrange(10**6, 10**9))
        found += [_guess(rng, shop) for _ in range(QUESTIONS)]
    return found[:n]


QUESTIONS = 8  # about each shop


def _guess(rng: random.Random, shop: Shop) -> text.Example:
    asked = text.episode(rng, shop)
    return text.taught("direct", text.prompt("direct", asked.question), f"Answer: {asked.answer}")


# ---------------------------------------------------------------- training


def lessons(tokenizer, examples: Sequence[text.Example], size: int) -> list[Batch]:
    """`examples` in batches of `size`, as the model reads them."""
    rows = [lm.encode(tokenizer, example) for example in examples]
    starts = range(0, len(rows), size)
    return [lm.collate(rows[start : start + size], tokenizer.pad_token_id) for start in starts]


def logits_to_learn(model: nn.Module, batch: Batch) -> Tensor:
    """The model's logits (n, vocabulary) where a token has to be learned."""
    found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    learned = batch["labels"][:, 1:] != lm.IGNORED
    return found.logits[:, :-1][learned]


def labels_to_learn(batch: Batch) -> Tensor:
    """The right tokens (n,) at those places."""
    labels = batch["labels"][:, 1:]
    return labels[labels != lm.IGNORED]


def taught(teacher: nn.Module, batches: Sequence[Batch]) -> list[Tensor]:
    """The teacher's logits for each batch: asked once, used by every student."""
    with torch.no_grad():
        return [logits_to_learn(teacher, batch) for batch in batches]


def train(
    student: nn.Module,
    batches: Sequence[Batch],
    answers: Sequence[Tensor],
    loss: Loss,
    steps: int,
    rate: float,
) -> list[float]:
    """`steps` steps, the batches in turn, again and again; `answers` from `taught`. Returns the
    loss of each step.
    """
    learner = Learner(student.train(), rate, steps)
    losses = []
    for step in range(learner.steps):
        at = step % len(batches)
        said = logits_to_learn(student, batches[at])
        losses.append(learner.step(loss(said, answers[at], labels_to_learn(batches[at]))))
    student.eval()
    return losses
