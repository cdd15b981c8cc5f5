"""Unit 7.1's exercises: the course's own solutions, and tests that tell known mistakes apart.

A test compares with the result of every mistake it knows. Small inputs come first, so that a message can show
them and a student can follow by hand.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.exercises.diagnosis import Attempt, Raised, Wrong
from course_utils.exercises.unit_7_1.inputs import encode_texts
from course_utils.prisma.speech import word_error_rate, word_errors

# --- zero_shot ------------------------------------------------------------------------------------------


def zero_shot(
    images: Tensor, names: Sequence[str], templates: Sequence[str], encode_texts: Callable[[list[str]], Tensor]
) -> Tensor:
    """The class (n,) of each picture (arXiv 2103.00020, section 3.1.4); `images` are unit vectors (n, d)."""
    vectors = []
    for template in templates:
        texts = [template.format(name) for name in names]
        vectors.append(encode_texts(texts))  # (classes, d)
    mean = torch.stack(vectors).mean(0)  # (templates, classes, d) becomes (classes, d)
    classes = F.normalize(mean, dim=-1)
    return (images @ classes.T).argmax(dim=1)


def examine_zero_shot(yours: Attempt) -> None:
    """Random pictures and classes: each mistake gives some picture another class."""
    draw = torch.Generator().manual_seed(1)
    images = F.normalize(torch.randn(60, 8, generator=draw), dim=-1)
    names = ["red cube", "blue cube", "white star", "toy"]
    templates = ["a photo of a {}", "one {} on a shelf", "my small {}"]
    inputs = (images, names, templates, encode_texts)
    came = yours.compare(inputs, zero_shot(*inputs), zero_shot_mistakes(images, names, templates))
    if came.is_floating_point():
        raise Wrong("Your class numbers are right, but they are floats. Return what `argmax` gives, integers.")
    inputs = (images[:1], ["cone", "blue ring"], ("one {} only",), encode_texts)
    yours.compare(inputs, zero_shot(*inputs))


def zero_shot_mistakes(images: Tensor, names: list[str], templates: list[str]) -> dict[str, Tensor]:
    """What known mistakes give."""
    filled = []
    for template in templates:
        texts = [template.format(name) for name in names]
        filled.append(encode_texts(texts))
    vectors = torch.stack(filled)  # (templates, classes, d)
    mean = vectors.mean(0)
    classes = F.normalize(mean, dim=-1)
    scores = images @ classes.T  # (n, classes)
    bare = images @ encode_texts(names).T
    first, last = images @ vectors[0].T, images @ vectors[-1].T
    best = (images @ vectors.transpose(1, 2)).amax(0)
    mixed = vectors.flatten(0, 1).unflatten(0, (len(names), len(templates))).mean(1)
    of_mixed = images @ F.normalize(mixed, dim=-1).T
    unscaled = images @ mean.T
    instead = "Your function returns {}. What is wanted is one class number per picture: argmax over the classes."
    return {
        "You encode the bare class names. Fill each name into the templates first: `template.format(name)`.": (
            bare.argmax(1)
        ),
        "You use only the first template. A class is the mean over all of them.": first.argmax(1),
        "You use only the last template. Is the result overwritten in a loop?": last.argmax(1),
        "The mean of unit vectors is shorter than 1, and how much differs from class to class. Bring your class "
        "vectors back to length 1: `F.normalize(..., dim=-1)`.": unscaled.argmax(1),
        "You take the best single template of each class. A class is the mean over its templates.": best.argmax(1),
        "Templates and classes are mixed up: your means go over different classes. Look at the order of the "
        "texts when you reshape.": of_mixed.argmax(1),
        "You choose the class that is farthest away.": scores.argmin(1),
        "Your argmax goes over the pictures: it finds a picture for each class. Use the other dimension.": (
            scores.argmax(0)
        ),
        instead.format("the similarities"): scores,
        instead.format("the class vectors"): classes,
    }


# --- contrastive_loss -----------------------------------------------------------------------------------


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss (arXiv 2103.00020, figure 3). `image` and `text` are unit vectors (n, d) in the same order."""
    logits = scale * image @ text.T  # (n, n)
    truth = torch.arange(len(logits), device=logits.device)
    to_text = F.cross_entropy(logits, truth)
    to_image = F.cross_entropy(logits.T, truth)
    return (to_text + to_image) / 2


def examine_contrastive_loss(yours: Attempt) -> None:
    """Three pairs in a plane, then a random batch, then the gradient."""
    image = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    text = torch.tensor([[0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
    inputs = (image, text, torch.tensor(2.0))
    yours.compare(inputs, contrastive_loss(*inputs), loss_mistakes(*inputs))
    draw = torch.Generator().manual_seed(2)
    image = F.normalize(torch.randn(6, 5, generator=draw), dim=-1)
    text = F.normalize(torch.randn(6, 5, generator=draw), dim=-1)
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
    right = contrastive_loss(image, text, scale)
    alike = image @ text.T
    truth = torch.arange(len(image))
    logits = scale * alike
    to_text = F.cross_entropy(logits, truth)
    to_image = F.cross_entropy(logits.T, truth)
    rows = F.cross_entropy(logits.softmax(1), truth)
    columns = F.cross_entropy(logits.T.softmax(1), truth)
    columns_of_rows = F.cross_entropy(logits.softmax(1).T, truth)
    unscaled = contrastive_loss(image, text, torch.tensor(1.0))
    divided = contrastive_loss(image, text, 1 / scale)
    exponential = contrastive_loss(image, text, scale.exp())
    return {
        "Your loss looks only from the image to the text. CLIP's is the mean of both directions.": to_text,
        "Your loss looks only from the text to the image. CLIP's is the mean of both directions.": to_image,
        "Your loss is twice as large as CLIP's: you add the two directions. CLIP takes their mean.": 2 * right,
        "Your loss does not use `scale`. Multiply the similarities by it before the cross-entropy.": unscaled,
        "You divide by `scale`, as one would by a temperature. It is the inverse: multiply by it.": divided,
        "You take the exponential of `scale`. That has been done: `scale` is what the similarities are "
        "multiplied by.": exponential,
        "You give probabilities to the cross-entropy. It takes logits, and applies the softmax itself.": (
            (rows + columns) / 2
        ),
        "You apply softmax before the cross-entropy, which applies it again. Give it the logits.": (
            (rows + columns_of_rows) / 2
        ),
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
    words, words_heard, errors = [], [], []
    places, rest, absent, without_swaps, letters = 0, 0, 0, 0, 0
    for said_text, heard_text in zip(said, heard, strict=True):
        s, h = said_text.split(), heard_text.split()
        words.append(len(s))
        words_heard.append(len(h))
        errors.append(word_errors(said_text, heard_text))
        places += sum(a != b for a, b in zip(s, h, strict=False))
        rest += abs(len(s) - len(h))
        absent += sum(word not in h for word in s)
        without_swaps += _errors_without_swaps(s, h)
        letters += word_errors(_spelt(s), _spelt(h))
    total, wrong = sum(words), sum(errors)
    rates = [e / w for e, w in zip(errors, words, strict=True)]
    all_letters = sum(map(len, said))
    return {
        "You compare word by word at the same place. One word too many shifts all that follow, so find the "
        "alignment with the fewest errors first.": places / total,
        "You compare word by word at the same place and add the difference in length. One word too many shifts "
        "all that follow, so find the alignment with the fewest errors first.": (places + rest) / total,
        "You take the mean of the sentences' rates. Add up all errors and divide once by all words said.": (
            sum(rates) / len(words)
        ),
        "You divide by the words heard. Divide by the words said.": wrong / sum(words_heard),
        "Your function returns the number of errors. Divide it by the number of words said.": float(wrong),
        "Your rate is in per cent. Return it as a share: 0.5 for 50 %.": 100 * wrong / total,
        "Your function returns the share of words that are right, not of those that are wrong.": 1 - wrong / total,
        "Your function counts only words that are missing or swapped. Words that nobody said are errors too.": (
            absent / total
        ),
        "A swapped word counts twice with you, as one taken out and one put in. It is one error.": (
            without_swaps / total
        ),
        "Your function compares letters. Split the texts into words first.": letters / all_letters,
        "Your function looks only at the first sentence.": errors[0] / words[0],
    }


def _spelt(words: list[str]) -> str:
    """The letters of a sentence as if each were a word, its blanks as "_"."""
    return " ".join("_".join(words))


def _errors_without_swaps(said: list[str], heard: list[str]) -> int:
    """Edit distance with words put in and taken out only: all that is not in the longest common sequence."""
    row = [0] * (len(heard) + 1)
    for word in said:
        before, row = row, [0]
        for j, other in enumerate(heard):
            longest = max(before[j + 1], row[-1])
            if word == other:
                longest = before[j] + 1
            row.append(longest)
    return len(said) + len(heard) - 2 * row[-1]


# --- late_fusion ----------------------------------------------------------------------------------------


def late_fusion(predictions: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor:
    """Probabilities (n, classes) from log-probabilities (n, classes), None where a modality is missing."""
    pairs = zip(weights, predictions, strict=True)
    there = [(weight, prediction) for weight, prediction in pairs if prediction is not None]
    if not there:
        raise ValueError("every modality is missing, so there is nothing to merge")
    total = sum(weight * prediction for weight, prediction in there)
    mean = total / sum(weight for weight, _ in there)
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
    examine_nothing_there(yours, 2)
    inputs = ([None, sound[:1]], [3.0, 1.0])
    yours.compare(inputs, late_fusion(*inputs))


def examine_nothing_there(yours: Attempt, count: int) -> None:
    """All of `count` modalities missing: a ValueError is wanted."""
    wish = 'With all modalities missing your function should `raise ValueError("...")` and say why.'
    try:
        came = yours([None] * count, [1.0] * count)
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
    weighted = 2 * first + second
    mean = weighted / 3
    chances = 2 * first.exp() + second.exp()
    added = first + second
    halved = weighted / 2
    return {
        "You take the mean of the probabilities. What is wanted is the mean of the log-probabilities.": chances / 3,
        "Your function returns the mean of the log-probabilities. Softmax makes probabilities of it.": mean,
        "Your function returns log-probabilities. Use softmax, not log_softmax.": mean.log_softmax(-1),
        "Your rows do not add up to 1: after the mean, exp alone is not enough. Use softmax.": mean.exp(),
        "Your function does not use the weights.": (added / 2).softmax(-1),
        "Your function adds without weights: it multiplies the probabilities.": added.softmax(-1),
        "You divide by the number of modalities. A weighted mean divides by the sum of the weights.": (
            halved.softmax(-1)
        ),
        "You add the weighted log-probabilities. For a mean, divide by the sum of the weights.": weighted.softmax(-1),
        "Your softmax goes over the cases. Each row should add up to 1: `dim=-1`.": mean.softmax(0),
        "Your function looks only at the first modality.": first.exp(),
    }


def missing_mistakes(first: Tensor, third: Tensor) -> dict[str, Tensor]:
    """What known mistakes give for the weights 2, 1 and 0.5, the second modality missing."""
    by_all_weights = (2 * first + 0.5 * third) / 3.5
    out_of_step = (2 * first + third) / 3
    return {
        "You still count the weight of the missing modality. Divide by the weights of those that are there.": (
            by_all_weights.softmax(-1)
        ),
        "The weights are out of step: once the missing modality is left out, each weight must stay with its own "
        "prediction. `zip` them first.": out_of_step.softmax(-1),
        "Your function stops at the missing modality. Those after it count too.": first.exp(),
    }


# --- cross_attention ------------------------------------------------------------------------------------


def cross_attention(queries: Tensor, keys: Tensor, values: Tensor, missing: Tensor | None = None) -> Tensor:
    """Attention (b, n, d) of `queries` (b, n, d) to another modality (b, m, d) (arXiv 1706.03762, equation 1)."""
    d = queries.shape[-1]
    scores = queries @ keys.transpose(1, 2) / d**0.5  # (b, n, m)
    if missing is not None:
        scores = scores.masked_fill(missing[:, None, :], float("-inf"))
    weights = scores.softmax(dim=-1)
    return weights @ values


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
    d = queries.shape[-1]
    products = queries @ keys.transpose(1, 2)
    scores = products / d**0.5
    weights = scores.softmax(-1)
    by_d = (products / d).softmax(-1)
    multiplied = (products * d**0.5).softmax(-1)
    to_themselves = queries @ queries.transpose(1, 2) / d**0.5
    return {
        "Your scores are not scaled. Divide them by the square root of d before the softmax.": (
            products.softmax(-1) @ values
        ),
        "You divide by d. Divide by its square root.": by_d @ values,
        "You multiply by the square root of d. Divide by it.": multiplied @ values,
        "Your softmax goes over the queries. Each query spreads its weight over the keys: `dim=-1`.": (
            scores.softmax(1) @ values
        ),
        "Your softmax goes over the batch. Each query spreads its weight over the keys: `dim=-1`.": (
            scores.softmax(0) @ values
        ),
        "The softmax is missing: you multiply the values by the scores themselves.": scores @ values,
        "Your function returns the weights. One step is missing: weights times values.": weights,
        "You take the mean of the keys. Keys are for comparing; what is passed on are the values.": weights @ keys,
        "You attend from the queries to themselves. The keys have to come from the other modality.": (
            to_themselves.softmax(-1) @ queries
        ),
    }


def mask_mistakes(queries: Tensor, keys: Tensor, values: Tensor, missing: Tensor) -> dict[str, Tensor]:
    """What known mistakes with `missing` give."""
    gone = missing[:, None, :]
    d = queries.shape[-1]
    scores = queries @ keys.transpose(1, 2) / d**0.5
    zeros = scores.masked_fill(gone, 0.0).softmax(-1)
    too_late = scores.softmax(-1).masked_fill(gone, 0.0)
    return {
        "Your function does not use `missing`.": cross_attention(queries, keys, values),
        "You read `missing` the other way round: True marks a token that is not there.": (
            cross_attention(queries, keys, values, ~missing)
        ),
        "You set the scores of missing tokens to 0. After the softmax that is still a weight; use minus infinity.": (
            zeros @ values
        ),
        "You take missing tokens out after the softmax, so the weights left do not add up to 1. Mask before it.": (
            too_late @ values
        ),
    }
