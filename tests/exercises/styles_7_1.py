"""Right answers to the exercises of Unit 7.1 in many styles. All of them have to pass."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce, wraps
from operator import add
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, einsum, nn
from torch.nn import functional as F

SMALL = 1e-12
calls = Counter()


def logged(function):
    """A decorator, as students like them."""

    @wraps(function)
    def wrapper(*args, **kwargs):
        calls[function.__name__] += 1
        print("calling", function.__name__)
        return function(*args, **kwargs)

    return wrapper


def unit(x: Tensor, dim: int = -1) -> Tensor:
    return x / x.norm(dim=dim, keepdim=True).clamp(min=SMALL)


# --- zero_shot


def zero_shot_loops(images, names, templates, encode_texts):
    rows = []
    for name in names:
        total = 0
        for template in templates:
            total = total + encode_texts([template.format(name)])[0]
        mean = total / len(templates)
        rows.append(mean / mean.norm())
    best = []
    for image in images:
        scores = [float(image @ row) for row in rows]
        best.append(scores.index(max(scores)))
    return torch.tensor(best)


def zero_shot_once(images: Tensor, names: Sequence[str], templates: Sequence[str], encode_texts: Callable) -> Tensor:
    texts = [template.format(name) for name in names for template in templates]
    vectors = encode_texts(texts).reshape(len(names), len(templates), -1).mean(dim=1)
    return torch.argmax(images @ F.normalize(vectors, dim=1).T, dim=1)


def zero_shot_einsum(images, names, templates, encode_texts):
    stacked = torch.stack([encode_texts([t.format(n) for t in templates]) for n in names])
    classes = unit(einsum("ctd->cd", stacked))
    return einsum("nd,cd->nc", images, classes).max(-1).indices


def zero_shot_sum(images, names, templates, encode_texts):
    """The length of the mean does not count, so the sum will do."""
    classes = sum(encode_texts([t.format(n) for n in names]) for t in templates)
    return (images @ functional.normalize(classes).mT).argmax(-1)


def zero_shot_helper(images, names, templates, encode_texts):
    def vector_of(name):
        return F.normalize(encode_texts([t.format(name) for t in templates]).mean(0), dim=0)

    classes = torch.stack(list(map(vector_of, names)))
    return torch.matmul(images, classes.t()).topk(1, dim=1).indices.squeeze(1)


class ZeroShot:
    def __call__(self, images, names, templates, encode_texts):
        self.vectors = torch.zeros(len(names), images.shape[1])
        for i, name in enumerate(names):
            filled = [template.replace("{}", name) for template in templates]
            self.vectors[i] = unit(encode_texts(filled).mean(0))
        return self.scores(images).argmax(1)

    def scores(self, images):
        return images @ self.vectors.T


@logged
def zero_shot_decorated(images, names, templates, encode_texts):
    vectors = [encode_texts([t % n if "%" in t else t.format(n) for n in names]) for t in templates]
    mean = torch.mean(torch.stack(vectors, dim=1), dim=1)
    return (mean / mean.pow(2).sum(-1, keepdim=True).sqrt() @ images.T).argmax(0)


def zero_shot_cosine(images, names, templates, encode_texts):
    means = torch.cat([encode_texts([t.format(n) for t in templates]).mean(0, keepdim=True) for n in names])
    return F.cosine_similarity(images[:, None], means[None], dim=-1).argmax(1)


def zero_shot_distance(images, names, templates, encode_texts):
    classes = F.normalize(torch.stack([encode_texts([t.format(n) for t in templates]).mean(0) for n in names]), dim=1)
    return torch.cdist(images, classes).argmin(1)


def zero_shot_softmax(images, names, templates, encode_texts):
    with torch.no_grad():
        classes = F.normalize(
            torch.stack([encode_texts([t.format(n) for n in names]) for t in templates]).mean(0), dim=-1
        )
        probabilities = (100 * images @ classes.T).double().softmax(-1)
        return probabilities.argmax(-1)


# --- contrastive_loss


def loss_plain(image, text, scale):
    logits = scale * image @ text.T
    labels = torch.arange(len(image))
    loss_i = F.cross_entropy(logits, labels)
    loss_t = F.cross_entropy(logits.T, labels)
    return (loss_i + loss_t) / 2


def loss_by_hand(image, text, scale):
    logits = scale * (image @ text.T)
    rows = logits.logsumexp(1) - logits.diag()
    columns = logits.logsumexp(0) - logits.diag()
    return 0.5 * (rows.mean() + columns.mean())


def loss_of_loops(image, text, scale):
    n, total = image.shape[0], 0.0
    for i in range(n):
        row = torch.stack([scale * (image[i] * text[j]).sum() for j in range(n)])
        column = torch.stack([scale * (image[j] * text[i]).sum() for j in range(n)])
        total = total - torch.log_softmax(row, 0)[i] - torch.log_softmax(column, 0)[i]
    return total / (2 * n)


def loss_einsum(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    logits = torch.einsum("id,jd->ij", image, text) * scale
    both = torch.stack([logits, logits.T])
    return -torch.diagonal(both.log_softmax(-1), dim1=1, dim2=2).mean()


def loss_nll(image, text, scale):
    similarity = torch.mm(image, text.t()).mul(scale)
    target = torch.arange(similarity.size(0), device=similarity.device)
    return torch.mean(torch.stack([F.nll_loss(F.log_softmax(m, dim=1), target) for m in (similarity, similarity.t())]))


def loss_eye(image, text, scale):
    logits = scale * image @ text.mT
    eye = torch.eye(len(logits))
    return (F.cross_entropy(logits, eye) + F.cross_entropy(logits.mT, eye)).div(2)


class ClipLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, image, text, scale):
        logits = scale * image @ text.T
        truth = torch.arange(logits.shape[0])
        return (self.criterion(logits, truth) + self.criterion(logits.T, truth)) / 2


def one_way(queries, keys, scale):
    return F.cross_entropy(scale * queries @ keys.T, torch.arange(len(queries)))


@logged
def loss_with_helper(image, text, scale):
    return (one_way(image, text, scale) + one_way(text, image, scale)) / 2


def loss_probabilities(image, text, scale):
    logits = scale * image @ text.T
    p, q = logits.softmax(1).diagonal(), logits.softmax(0).diagonal()
    return -(p.log().mean() + q.log().mean()) / 2


def loss_concatenated(image, text, scale):
    logits = (image * scale).matmul(text.transpose(0, 1))
    every = torch.cat([logits, logits.transpose(0, 1)], dim=0)
    return F.cross_entropy(every, torch.arange(len(image)).repeat(2))


# --- word_error_rate


def distance_table(said, heard):
    table = [[0] * (len(heard) + 1) for _ in range(len(said) + 1)]
    for i in range(len(said) + 1):
        for j in range(len(heard) + 1):
            if i == 0 or j == 0:
                table[i][j] = i + j
            elif said[i - 1] == heard[j - 1]:
                table[i][j] = table[i - 1][j - 1]
            else:
                table[i][j] = 1 + min(table[i - 1][j - 1], table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


def wer_table(reference, hypothesis):
    errors, words = 0, 0
    for r, h in zip(reference, hypothesis):  # noqa: B905
        errors += distance_table(r.split(), h.split())
        words += len(r.split())
    return errors / words


@cache
def distance_cached(said: tuple, heard: tuple) -> int:
    if not said or not heard:
        return len(said) + len(heard)
    if said[0] == heard[0]:
        return distance_cached(said[1:], heard[1:])
    return 1 + min(
        distance_cached(said[1:], heard[1:]), distance_cached(said[1:], heard), distance_cached(said, heard[1:])
    )


def wer_recursive(reference, hypothesis):
    pairs = [(tuple(r.split()), tuple(h.split())) for r, h in zip(reference, hypothesis, strict=True)]
    return sum(distance_cached(r, h) for r, h in pairs) / sum(len(r) for r, _ in pairs)


def wer_inner_cache(reference, hypothesis):
    def distance(a, b):
        @cache
        def d(i, j):
            if i == 0 or j == 0:
                return max(i, j)
            return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

        return d(len(a), len(b))

    total = sum(distance(r.split(), h.split()) for r, h in zip(reference, hypothesis, strict=True))
    return total / len(" ".join(reference).split())


def wer_rows(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    def step(row, word, heard):
        new = [row[0] + 1]
        for j, other in enumerate(heard, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + int(word != other)))
        return new

    def errors(said, heard):
        return reduce(lambda row, word: step(row, word, heard), said, list(range(len(heard) + 1)))[-1]

    split = [(r.split(), h.split()) for r, h in zip(reference, hypothesis, strict=True)]
    return sum(errors(*pair) for pair in split) / sum(map(len, (r for r, _ in split)))


def wer_torch(reference, hypothesis):
    errors = words = 0
    for said, heard in zip(reference, hypothesis, strict=True):
        a, b = said.split(), heard.split()
        d = torch.zeros(len(a) + 1, len(b) + 1)
        d[:, 0], d[0] = torch.arange(len(a) + 1), torch.arange(len(b) + 1)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                d[i + 1, j + 1] = min(d[i, j] + (x != y), d[i, j + 1] + 1, d[i + 1, j] + 1)
        errors, words = errors + d[-1, -1].item(), words + len(a)
    return errors / words


def wer_dictionary(reference, hypothesis):
    wrong, number = 0, 0
    for line, other in zip(reference, hypothesis, strict=True):
        a, b, d = line.split(), other.split(), {}
        for i in range(-1, len(a)):
            d[i, -1] = i + 1
        for j in range(-1, len(b)):
            d[-1, j] = j + 1
        for i, word in enumerate(a):
            for j, guess in enumerate(b):
                d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (word != guess))
        wrong += d[len(a) - 1, len(b) - 1]
        number += len(a)
    return wrong / number


@dataclass
class Alignment:
    """Breadth first: how far does one come with k errors?"""

    said: list[str]
    heard: list[str]

    def slide(self, i, j):
        while i < len(self.said) and j < len(self.heard) and self.said[i] == self.heard[j]:
            i, j = i + 1, j + 1
        return i, j

    def errors(self) -> int:
        front, k = {self.slide(0, 0)}, 0
        while (len(self.said), len(self.heard)) not in front:
            steps = ((i + a, j + b) for i, j in front for a, b in ((1, 0), (0, 1), (1, 1)))
            front = {self.slide(i, j) for i, j in steps if i <= len(self.said) and j <= len(self.heard)}
            k += 1
        return k


def wer_class(reference, hypothesis):
    alignments = [Alignment(r.split(), h.split()) for r, h in zip(reference, hypothesis, strict=True)]
    return sum(one.errors() for one in alignments) / sum(len(one.said) for one in alignments)


def wer_numpy(reference, hypothesis):
    import numpy as np

    total, words = 0, 0
    for r, h in zip(reference, hypothesis, strict=True):
        a, b = r.split(), h.split()
        d = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
        d[:, 0], d[0, :] = range(len(a) + 1), range(len(b) + 1)
        for i in range(1, len(a) + 1):
            for j in range(1, len(b) + 1):
                d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
        total, words = total + d[-1, -1], words + len(a)
    return total / words  # a np.float64, which is a float


# --- late_fusion


def fusion_loop(predictions, weights):
    total, weight_sum = None, 0.0
    for prediction, weight in zip(predictions, weights, strict=True):
        if prediction is None:
            continue
        total = weight * prediction if total is None else total + weight * prediction
        weight_sum += weight
    if total is None:
        raise ValueError("no modality is there")
    return torch.softmax(total / weight_sum, dim=-1)


def fusion_stacked(predictions: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor:
    there = [i for i, p in enumerate(predictions) if p is not None]
    if not there:
        raise ValueError("nothing to merge")
    stack = torch.stack([predictions[i] for i in there])
    w = torch.tensor([weights[i] for i in there])
    return F.softmax((stack * w[:, None, None]).sum(0) / w.sum(), dim=1)


def fusion_einsum(predictions, weights):
    pairs = [(p, w) for p, w in zip(predictions, weights, strict=True) if p is not None]
    if len(pairs) == 0:
        raise ValueError
    w = torch.tensor([w for _, w in pairs])
    return einsum("m,mnc->nc", w / w.sum(), torch.stack([p for p, _ in pairs])).softmax(-1)


def fusion_powers(predictions, weights):
    """The weighted geometric mean of the probabilities."""
    pairs = [(p.exp(), w) for p, w in zip(predictions, weights, strict=True) if p is not None]
    if not pairs:
        raise ValueError("all are missing")
    total = math.fsum(w for _, w in pairs)
    product = reduce(torch.mul, (p ** (w / total) for p, w in pairs))
    return product / product.sum(dim=-1, keepdim=True)


class NothingThere(ValueError):
    """A ValueError of one's own."""


def fusion_own_error(predictions, weights):
    if all(p is None for p in predictions):
        raise NothingThere("there is nothing to merge")
    weights = [w if p is not None else 0.0 for p, w in zip(predictions, weights, strict=True)]
    first = next(p for p in predictions if p is not None)
    filled = [p if p is not None else torch.zeros_like(first) for p in predictions]
    return (sum(w * p for w, p in zip(weights, filled, strict=True)) / sum(weights)).softmax(-1)


def fusion_logsumexp(predictions, weights):
    there = [(p, w) for p, w in zip(predictions, weights, strict=True) if p is not None]
    if not there:
        raise ValueError("empty")
    mean = sum(p * w for p, w in there) / sum(w for _, w in there)
    return (mean - mean.logsumexp(-1, keepdim=True)).exp()


def fusion_tries(predictions, weights):
    kept = list(filter(lambda pair: pair[1] is not None, zip(weights, predictions, strict=True)))
    try:
        scale = 1 / sum(weight for weight, _ in kept)
    except ZeroDivisionError as error:
        raise ValueError("every modality is missing") from error
    return torch.nn.Softmax(dim=-1)(reduce(add, [weight * scale * p for weight, p in kept]))


class Fusion:
    def __init__(self, dim: int):
        self.dim = dim

    def __call__(self, predictions, weights):
        present = [index for index, p in enumerate(predictions) if p is not None]
        if present == []:
            raise ValueError("No predictions!")
        numbers = torch.tensor(weights)[present]
        stack = torch.stack([predictions[index] for index in present], dim=-1)
        return (stack @ numbers / numbers.sum()).softmax(self.dim)


def merge_all(predictions, weights, total, mean):
    if not predictions:
        return mean
    (first, *others), (weight, *more) = predictions, weights
    if first is None:
        return merge_all(others, more, total, mean)
    total = total + weight
    return merge_all(others, more, total, mean + (first - mean) * weight / total)


def fusion_running(predictions, weights):
    if not any(p is not None for p in predictions):
        raise ValueError("no modality")
    return merge_all(predictions, weights, 0.0, 0.0).softmax(-1)


# --- cross_attention


def attention_plain(queries, keys, values, missing=None):
    d = queries.shape[-1]
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(d)
    if missing is not None:
        scores = scores.masked_fill(missing.unsqueeze(1), -torch.inf)
    return torch.softmax(scores, dim=-1) @ values


def attention_library(q: Tensor, k: Tensor, v: Tensor, missing: Tensor | None = None) -> Tensor:
    mask = None if missing is None else ~missing[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attention_einsum(queries, keys, values, missing=None):
    scores = einsum("bnd,bmd->bnm", queries, keys) * queries.size(-1) ** -0.5
    if missing is not None:
        scores[missing[:, None].expand_as(scores)] = float("-inf")
    return einsum("bnm,bmd->bnd", scores.softmax(-1), values)


def attention_loops(queries, keys, values, missing=None):
    result = torch.zeros_like(queries)
    for b in range(len(queries)):
        for n in range(queries.shape[1]):
            scores = torch.stack([queries[b, n].dot(key) for key in keys[b]]) / queries.shape[2] ** 0.5
            if missing is not None:
                scores[missing[b]] = -1e30
            weights = scores.exp() / scores.exp().sum()
            result[b, n] = sum(w * v for w, v in zip(weights, values[b], strict=True))
    return result


def attention_bmm(queries, keys, values, missing=None):
    scores = torch.bmm(queries, keys.permute(0, 2, 1)).div(queries.shape[-1] ** 0.5)
    if missing is not None:
        scores = torch.where(missing[:, None, :], torch.tensor(-1e9), scores)
    return torch.bmm(F.softmax(scores, 2), values)


def attention_added(queries, keys, values, missing=None):
    bias = 0 if missing is None else torch.zeros(missing.shape).masked_fill(missing, -math.inf)[:, None]
    return (torch.matmul(queries / queries.shape[-1] ** 0.5, keys.mT) + bias).softmax(dim=2).matmul(values)


def attention_renormalised(queries, keys, values, missing=None):
    """Masked after the exponential, and divided by what is left."""
    there = torch.ones(keys.shape[:2]) if missing is None else (~missing).float()
    weights = (queries @ keys.mT / queries.shape[-1] ** 0.5).exp() * there[:, None]
    return weights @ values / weights.sum(-1, keepdim=True)


class Attention(nn.Module):
    def forward(self, queries, keys, values, missing=None):
        weights = self.weights(queries, keys, missing)
        return weights @ values

    @staticmethod
    def weights(queries, keys, missing: Any):
        scores = queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5
        if missing is None:
            return scores.softmax(-1)
        return scores.masked_fill(missing[:, None], torch.finfo(scores.dtype).min).softmax(-1)


def attention_one_by_one(queries, keys, values, missing=None):
    def one(q, k, v, gone):
        keep = slice(None) if gone is None else ~gone
        return (q @ k[keep].T / q.shape[-1] ** 0.5).softmax(-1) @ v[keep]

    gone = [None] * len(queries) if missing is None else missing
    return torch.stack(list(map(one, queries, keys, values, gone)))


STYLES = {
    "7.1.zero_shot": [
        zero_shot_loops,
        zero_shot_once,
        zero_shot_einsum,
        zero_shot_sum,
        zero_shot_helper,
        ZeroShot(),
        zero_shot_decorated,
        zero_shot_cosine,
        zero_shot_distance,
        zero_shot_softmax,
    ],
    "7.1.contrastive_loss": [
        loss_plain,
        loss_by_hand,
        loss_of_loops,
        loss_einsum,
        loss_nll,
        loss_eye,
        ClipLoss(),
        loss_with_helper,
        loss_probabilities,
        loss_concatenated,
        lambda i, t, s: sum(one_way(a, b, s) for a, b in ((i, t), (t, i))) / 2,
    ],
    "7.1.word_error_rate": [
        wer_table,
        wer_recursive,
        wer_inner_cache,
        wer_rows,
        wer_torch,
        wer_dictionary,
        wer_class,
        wer_numpy,
        lambda r, h: sum(map(distance_table, map(str.split, r), map(str.split, h))) / len(" ".join(r).split()),
        functools.partial(lambda count, r, h: count(r, h), wer_table),
    ],
    "7.1.late_fusion": [
        fusion_loop,
        fusion_stacked,
        fusion_einsum,
        fusion_powers,
        fusion_own_error,
        fusion_logsumexp,
        fusion_tries,
        Fusion(-1),
        fusion_running,
    ],
    "7.1.cross_attention": [
        attention_plain,
        attention_library,
        attention_einsum,
        attention_loops,
        attention_bmm,
        attention_added,
        attention_renormalised,
        Attention(),
        attention_one_by_one,
        partial(attention_plain),
        Attention().forward,
    ],
}
