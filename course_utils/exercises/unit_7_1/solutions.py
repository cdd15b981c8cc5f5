"""Unit 7.1's exercises: the course's own solutions, and tests that tell known mistakes apart.

A test compares with the result of every mistake it knows. Small inputs come first, so that a message can show
them and a student can follow by hand.
"""

from collections.abc import Callable, Sequence
from zlib import crc32

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.exercises.diagnosis import Attempt, Raised, Wrong
from course_utils.prisma.speech import word_error_rate, word_errors

# --- zero_shot ------------------------------------------------------------------------------------------


def zero_shot(
    images: Tensor, names: Sequence[str], templates: Sequence[str], encode_texts: Callable[[list[str]], Tensor]
) -> Tensor:
    """The class (n,) of each picture (arXiv 2103.00020, section 3.1.4); `images` are unit vectors (n, d)."""
    vectors = torch.stack([encode_texts([template.format(name) for name in names]) for template in templates])
    classes = F.normalize(vectors.mean(0), dim=-1)  # (templates, classes, d) becomes (classes, d)
    return (images @ classes.T).argmax(dim=1)


def encode_texts(texts: list[str]) -> Tensor:
    """Stands in for the text tower: the same random unit vector (8,) for the same text, on every machine."""
    if isinstance(texts, str):
        raise Wrong("`encode_texts` wants a list of texts. You gave it one string, which it reads letter by letter.")
    rows = [torch.randn(8, generator=torch.Generator().manual_seed(crc32(text.encode()))) for text in texts]
    return F.normalize(torch.stack(rows), dim=-1)


def examine_zero_shot(yours: Attempt) -> None:
    """Random pictures and classes: each mistake gives some picture another class."""
    images = F.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    names, templates = (
        ["red cube", "blue cube", "white star", "toy"],
        ["a photo of a {}", "one {} on a shelf", "my small {}"],
    )
    inputs = (images, names, templates, encode_texts)
    came = yours.compare(inputs, zero_shot(*inputs), zero_shot_mistakes(images, names, templates))
    if came.is_floating_point():
        raise Wrong("Your class numbers are right, but they are floats. Return what `argmax` gives, integers.")
    inputs = (images[:1], ["cone", "blue ring"], ("one {} only",), encode_texts)
    yours.compare(inputs, zero_shot(*inputs))


def zero_shot_mistakes(images: Tensor, names: list[str], templates: list[str]) -> dict[str, Tensor]:
    """What known mistakes give."""
    vectors = torch.stack([encode_texts([one.format(name) for name in names]) for one in templates])
    mean, mixed = vectors.mean(0), vectors.flatten(0, 1).unflatten(0, (len(names), len(templates))).mean(1)
    scores = images @ F.normalize(mean, dim=-1).T
    instead = "Your function returns {}. What is wanted is one class number per picture: argmax over the classes."
    return {
        "You encode the bare class names. Fill each name into the templates first: `template.format(name)`.": (
            (images @ encode_texts(names).T).argmax(1)
        ),
        "You use only the first template. A class is the mean over all of them.": (images @ vectors[0].T).argmax(1),
        "You use only the last template. Is the result overwritten in a loop?": (images @ vectors[-1].T).argmax(1),
        "The mean of unit vectors is shorter than 1, and how much differs from class to class. Bring your class "
        "vectors back to length 1: `F.normalize(..., dim=-1)`.": (images @ mean.T).argmax(1),
        "You take the best single template of each class. A class is the mean over its templates.": (
            (images @ vectors.transpose(1, 2)).amax(0).argmax(1)
        ),
        "Templates and classes are mixed up: your means go over different classes. Look at the order of the "
        "texts when you reshape.": (images @ F.normalize(mixed, dim=-1).T).argmax(1),
        "You choose the class that is farthest away.": scores.argmin(1),
        "Your argmax goes over the pictures: it finds a picture for each class. Use the other dimension.": (
            scores.argmax(0)
        ),
        instead.format("the similarities"): scores,
        instead.format("the class vectors"): F.normalize(mean, dim=-1),
    }


# --- contrastive_loss -----------------------------------------------------------------------------------


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss (arXiv 2103.00020, figure 3). `image` and `text` are unit vectors (n, d) in the same order."""
    logits = scale * image @ text.T
    truth = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


def examine_contrastive_loss(yours: Attempt) -> None:
    """Three pairs in a plane, then a random batch, then the gradient."""
    image = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    text = torch.tensor([[0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
    scale = torch.tensor(2.0)
    yours.compare((image, text, scale), contrastive_loss(image, text, scale), loss_mistakes(image, text, scale))
    draw = torch.Generator().manual_seed(2)
    image, text = (F.normalize(torch.randn(6, 5, generator=draw), dim=-1) for _ in range(2))
    scale = torch.tensor(10.0)
    wanted = contrastive_loss(image, text, scale)
    came = yours.compare((image.requires_grad_(), text, scale), wanted, loss_mistakes(image, text, scale))
    if not came.requires_grad:
        raise Wrong(
            "The value is right, but no gradient flows back through your loss, so nothing could be trained with "
            "it. Leave out `detach`, `item`, `torch.tensor(...)` and `no_grad`."
        )


def loss_mistakes(image: Tensor, text: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """What known mistakes give."""
    alike, truth = image @ text.T, torch.arange(len(image))
    logits, right = scale * alike, contrastive_loss(image, text, scale)
    rows = F.cross_entropy(logits.softmax(1), truth)
    again = [rows + F.cross_entropy(chances, truth) for chances in (logits.T.softmax(1), logits.softmax(1).T)]
    return {
        "Your loss looks only from the image to the text. CLIP's is the mean of both directions.": (
            F.cross_entropy(logits, truth)
        ),
        "Your loss looks only from the text to the image. CLIP's is the mean of both directions.": (
            F.cross_entropy(logits.T, truth)
        ),
        "Your loss is twice as large as CLIP's: you add the two directions. CLIP takes their mean.": 2 * right,
        "Your loss does not use `scale`. Multiply the similarities by it before the cross-entropy.": (
            contrastive_loss(image, text, torch.tensor(1.0))
        ),
        "You divide by `scale`, as one would by a temperature. It is the inverse: multiply by it.": (
            contrastive_loss(image, text, 1 / scale)
        ),
        "You take the exponential of `scale`. That has been done: `scale` is what the similarities are "
        "multiplied by.": contrastive_loss(image, text, scale.exp()),
        "You give probabilities to the cross-entropy. It takes logits, and applies the softmax itself.": again[0] / 2,
        "You apply softmax before the cross-entropy, which applies it again. Give it the logits.": again[1] / 2,
        "Your loss is the sum over all pairs. CLIP takes the mean.": len(image) * right,
        "Your loss has the wrong sign: it would grow as the pairs get better.": -right,
        "Your loss only pulls true pairs together. Each also has to beat the wrong pairs of the batch: that is "
        "what the cross-entropy over rows and columns does.": -logits.diagonal().mean(),
    }


# --- word_error_rate ------------------------------------------------------------------------------------


def examine_word_error_rate(yours: Attempt) -> None:
    """One sentence with a word too many, one with too few, one with more errors than words; then the ends."""
    said = ["show me the red cube", "i need two small cones", "stop"]
    heard = ["please show me the red cube", "i need blue cones", "please stop it now"]
    yours.compare((said, heard), word_error_rate(said, heard), rate_mistakes(said, heard))
    capped = "Your rate ends at 1. It can be larger: words that nobody said count as errors too."
    yours.compare((["stop"], ["please stop it now"]), 3.0, {capped: 1.0})
    moved = "Your function seems to compare sets of words. A word that was said twice has to be heard twice."
    yours.compare((["no no yes"], ["no yes"]), 1 / 3, {moved: 0.0})
    order = "Your function overlooks the order: these are the same words in another order."
    yours.compare((["red or blue"], ["blue or red"]), 2 / 3, {order: 0.0})
    yours.compare((["show me two"], [""]), 1.0)
    yours.compare((["yes please"], ["yes please"]), 0.0)


def rate_mistakes(said: list[str], heard: list[str]) -> dict[str, float]:
    """What known mistakes give."""
    pairs = [(s.split(), h.split()) for s, h in zip(said, heard, strict=True)]
    words, errors = [len(s) for s, _ in pairs], [word_errors(s, h) for s, h in zip(said, heard, strict=True)]
    total, places = sum(words), [sum(a != b for a, b in zip(s, h, strict=False)) for s, h in pairs]
    rest = [abs(len(s) - len(h)) for s, h in pairs]
    letters = [word_errors(" ".join(s), " ".join(h)) for s, h in ((_spelt(s), _spelt(h)) for s, h in pairs)]
    return {
        "You compare word by word at the same place. One word too many shifts all that follow, so find the "
        "alignment with the fewest errors first.": sum(places) / total,
        "You compare word by word at the same place and add the difference in length. One word too many shifts "
        "all that follow, so find the alignment with the fewest errors first.": sum(places + rest) / total,
        "You take the mean of the sentences' rates. Add up all errors and divide once by all words said.": (
            sum(e / w for e, w in zip(errors, words, strict=True)) / len(words)
        ),
        "You divide by the words heard. Divide by the words said.": sum(errors) / sum(len(h) for _, h in pairs),
        "Your function returns the number of errors. Divide it by the number of words said.": float(sum(errors)),
        "Your rate is in per cent. Return it as a share: 0.5 for 50 %.": 100 * sum(errors) / total,
        "Your function returns the share of words that are right, not of those that are wrong.": (
            1 - sum(errors) / total
        ),
        "Your function counts only words that are missing or swapped. Words that nobody said are errors too.": (
            sum(sum(word not in h for word in s) for s, h in pairs) / total
        ),
        "A swapped word counts twice with you, as one taken out and one put in. It is one error.": (
            sum(_errors_without_swaps(s, h) for s, h in pairs) / total
        ),
        "Your function compares letters. Split the texts into words first.": (
            sum(letters) / sum(len(text) for text in said)
        ),
        "Your function looks only at the first sentence.": errors[0] / words[0],
    }


def _spelt(words: list[str]) -> list[str]:
    """The letters of a sentence, its blanks as "_"."""
    return list("_".join(words))


def _errors_without_swaps(said: list[str], heard: list[str]) -> int:
    """Edit distance with words put in and taken out only: all that is not in the longest common sequence."""
    row = [0] * (len(heard) + 1)
    for word in said:
        before, row = row, [0]
        for j, other in enumerate(heard):
            row.append(before[j] + 1 if word == other else max(before[j + 1], row[-1]))
    return len(said) + len(heard) - 2 * row[-1]


# --- late_fusion ----------------------------------------------------------------------------------------


def late_fusion(predictions: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor:
    """Probabilities (n, classes) from log-probabilities (n, classes), None where a modality is missing."""
    there = [(weight, one) for weight, one in zip(weights, predictions, strict=True) if one is not None]
    if not there:
        raise ValueError("every modality is missing, so there is nothing to merge")
    mean = sum(weight * one for weight, one in there) / sum(weight for weight, _ in there)
    return mean.softmax(dim=-1)


def examine_late_fusion(yours: Attempt) -> None:
    """Two senses, then three of which one is missing, then none."""
    picture = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]).log()
    sound = torch.tensor([[0.2, 0.5, 0.3], [0.3, 0.4, 0.3]]).log()
    text = torch.tensor([[0.5, 0.1, 0.4], [0.2, 0.2, 0.6]]).log()
    inputs = ([picture, sound], [2.0, 1.0])
    yours.compare(inputs, late_fusion(*inputs), fusion_mistakes(picture, sound))
    inputs = ([picture, None, text], [2.0, 1.0, 0.5])
    yours.compare(inputs, late_fusion(*inputs), missing_mistakes(picture, text))
    _examine_nothing_there(yours)
    inputs = ([None, sound[:1]], [3.0, 1.0])
    yours.compare(inputs, late_fusion(*inputs))


def _examine_nothing_there(yours: Attempt) -> None:
    """All modalities missing: a ValueError is wanted."""
    wish = 'With all modalities missing your function should `raise ValueError("...")` and say why.'
    try:
        came = yours([None, None], [1.0, 1.0])
    except Wrong as wrong:
        raised = wrong.__cause__
        if not isinstance(raised, Raised):  # something else is wrong
            raise
        if "ValueError" in raised.kinds:
            return
        raise Wrong(f"{wish} It stopped with {raised.name} instead.") from wrong
    raise Wrong(f"{wish} It returned {'None' if came is None else f'a {type(came).__name__}'} instead.")


def fusion_mistakes(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """What known mistakes give for the weights 2 and 1."""
    mean = (2 * first + second) / 3
    return {
        "You take the mean of the probabilities. What is wanted is the mean of the log-probabilities.": (
            (2 * first.exp() + second.exp()) / 3
        ),
        "Your function returns the mean of the log-probabilities. Softmax makes probabilities of it.": mean,
        "Your function returns log-probabilities. Use softmax, not log_softmax.": mean.log_softmax(-1),
        "Your rows do not add up to 1: after the mean, exp alone is not enough. Use softmax.": mean.exp(),
        "Your function does not use the weights.": ((first + second) / 2).softmax(-1),
        "Your function adds without weights: it multiplies the probabilities.": (first + second).softmax(-1),
        "You divide by the number of modalities. A weighted mean divides by the sum of the weights.": (
            ((2 * first + second) / 2).softmax(-1)
        ),
        "You add the weighted log-probabilities. For a mean, divide by the sum of the weights.": (
            (2 * first + second).softmax(-1)
        ),
        "Your softmax goes over the cases. Each row should add up to 1: `dim=-1`.": mean.softmax(0),
        "Your function looks only at the first modality.": first.exp(),
    }


def missing_mistakes(first: Tensor, third: Tensor) -> dict[str, Tensor]:
    """What known mistakes give for the weights 2, 1 and 0.5, the second modality missing."""
    total = 2 * first + 0.5 * third
    return {
        "You still count the weight of the missing modality. Divide by the weights of those that are there.": (
            (total / 3.5).softmax(-1)
        ),
        "The weights are out of step: once the missing modality is left out, each weight must stay with its own "
        "prediction. `zip` them first.": ((2 * first + third) / 3).softmax(-1),
        "Your function stops at the missing modality. Those after it count too.": first.exp(),
    }


# --- cross_attention ------------------------------------------------------------------------------------


def cross_attention(queries: Tensor, keys: Tensor, values: Tensor, missing: Tensor | None = None) -> Tensor:
    """Attention (b, n, d) of `queries` (b, n, d) to another modality (b, m, d) (arXiv 1706.03762, equation 1)."""
    scores = queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5  # (b, n, m)
    if missing is not None:
        scores = scores.masked_fill(missing[:, None, :], float("-inf"))
    return scores.softmax(dim=-1) @ values


def examine_cross_attention(yours: Attempt) -> None:
    """Two queries and three keys by hand, then a random batch without and with missing tokens."""
    queries = torch.tensor([[[1.0, 0.0], [1.0, 2.0]]])
    keys = torch.tensor([[[1.0, 1.0], [0.0, 2.0], [-1.0, 0.5]]])
    values = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]])
    inputs = (queries, keys, values)
    yours.compare(inputs, cross_attention(*inputs), attention_mistakes(*inputs))
    draw = torch.Generator().manual_seed(3)
    inputs = tuple(torch.randn(2, count, 4, generator=draw) for count in (3, 5, 5))
    yours.compare(inputs, cross_attention(*inputs), attention_mistakes(*inputs))
    missing = torch.tensor([[False, False, True, False, True], [True, False, False, False, False]])
    yours.compare((*inputs, missing), cross_attention(*inputs, missing), mask_mistakes(*inputs, missing))


def attention_mistakes(queries: Tensor, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
    """What known mistakes give without missing tokens."""
    d, scores = queries.shape[-1], queries @ keys.transpose(1, 2)
    weights = (scores / d**0.5).softmax(-1)
    return {
        "Your scores are not scaled. Divide them by the square root of d before the softmax.": (
            scores.softmax(-1) @ values
        ),
        "You divide by d. Divide by its square root.": (scores / d).softmax(-1) @ values,
        "You multiply by the square root of d. Divide by it.": (scores * d**0.5).softmax(-1) @ values,
        "Your softmax goes over the queries. Each query spreads its weight over the keys: `dim=-1`.": (
            (scores / d**0.5).softmax(1) @ values
        ),
        "Your softmax goes over the batch. Each query spreads its weight over the keys: `dim=-1`.": (
            (scores / d**0.5).softmax(0) @ values
        ),
        "The softmax is missing: you multiply the values by the scores themselves.": scores / d**0.5 @ values,
        "Your function returns the weights. One step is missing: weights times values.": weights,
        "You take the mean of the keys. Keys are for comparing; what is passed on are the values.": weights @ keys,
        "You attend from the queries to themselves. The keys have to come from the other modality.": (
            (queries @ queries.transpose(1, 2) / d**0.5).softmax(-1) @ queries
        ),
    }


def mask_mistakes(queries: Tensor, keys: Tensor, values: Tensor, missing: Tensor) -> dict[str, Tensor]:
    """What known mistakes with `missing` give."""
    gone = missing[:, None, :]
    scores = queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5
    return {
        "Your function does not use `missing`.": cross_attention(queries, keys, values),
        "You read `missing` the other way round: True marks a token that is not there.": (
            cross_attention(queries, keys, values, ~missing)
        ),
        "You set the scores of missing tokens to 0. After the softmax that is still a weight; use minus infinity.": (
            scores.masked_fill(gone, 0.0).softmax(-1) @ values
        ),
        "You take missing tokens out after the softmax, so the weights left do not add up to 1. Mask before it.": (
            scores.softmax(-1).masked_fill(gone, 0.0) @ values
        ),
    }
