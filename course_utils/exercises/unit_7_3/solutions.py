"""Unit 7.3's exercises: the course's own solutions, and tests that tell known mistakes apart.

A test compares with the result of every mistake it knows. Small inputs come first, so that a message can show
them and a student can follow by hand. Most numbers are binary fractions: their sums are exact in every order.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.exercises.diagnosis import Attempt, Wrong, near, need_gradient
from course_utils.exercises.unit_7_3.inputs import TREE

NOTHING = float("-inf")  # the score of a token that may not be seen


def _fractions(*shape: int, seed: int, of: int = 8) -> Tensor:
    """Random multiples of 1 / `of` between -2 and 2."""
    draw = torch.Generator().manual_seed(seed)
    whole = torch.randint(-2 * of, 2 * of + 1, shape, generator=draw)
    return whole / of


def _told_apart(mistakes: dict[str, Any], right: Any) -> dict[str, Any]:
    """The mistakes whose result is neither `right` nor that of another: what else they are, another case tells."""
    kept = {}
    for words, result in mistakes.items():
        others = [other for name, other in mistakes.items() if name != words]
        twins = [other for other in (right, *others) if near(result, other)]
        if not twins:
            kept[words] = result
    return kept


# --- rotary ---------------------------------------------------------------------------------------------


def rotary(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864), with Llama's pairs; x is (..., n, d)."""
    half = x.shape[-1] // 2
    exponents = torch.arange(half, dtype=torch.float64) / half  # (d/2,)
    speeds = base**-exponents  # radians a position
    angles = positions[:, None] * speeds  # (n, d/2), in 64 bits: large angles need the digits
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat(turned, dim=-1)  # (..., n, d)


def examine_rotary(yours: Attempt) -> None:
    """Two tokens by hand, then heads and a later place in the text, then another base."""
    x = torch.tensor([[1.0, 2.0, 3.0, -1.0], [0.5, -2.0, 1.0, 4.0]])
    inputs = (x, torch.tensor([1, 4]), 100.0)
    yours.compare(inputs, rotary(*inputs), rotary_mistakes(*inputs))
    longer = _fractions(2, 3, 5, 8, seed=1)
    inputs = (longer, torch.arange(7, 12))
    yours.compare(inputs, rotary(*inputs), rotary_mistakes(*inputs, 10000.0))
    inputs = (longer, torch.arange(5), 500000.0)
    fixed = "Your base is fixed. It is an argument: Llama 3 took 500,000 for longer texts."
    yours.compare(inputs, rotary(*inputs), {fixed: rotary(longer, torch.arange(5))})


def rotary_mistakes(x: Tensor, positions: Tensor, base: float) -> dict[str, Tensor]:
    """What known mistakes give."""
    width = x.shape[-1]
    half = width // 2
    pairs = torch.arange(half)
    turned = partial(_turned, x)
    exponents = pairs / half
    speeds = base**-exponents
    angles = positions[:, None] * speeds
    from_zero = torch.arange(len(positions))[:, None] * speeds
    neighbours = x.unflatten(-1, (half, 2)).transpose(-1, -2).flatten(-2)
    back = _turned(neighbours, angles).unflatten(-1, (2, half)).transpose(-1, -2).flatten(-2)
    first, second = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    no_minus = torch.cat((first * cos + second * sin, second * cos + first * sin), dim=-1)
    both = torch.cat((cos, cos), dim=-1)
    added = torch.cat((sin, cos), dim=-1)
    reach = base ** -(pairs / width)
    return {
        "You turn the other way. The first number of a pair becomes first x cos - second x sin.": turned(-angles),
        "A minus is missing: what you do is no rotation. The first number becomes first x cos - second x sin.": (
            no_minus
        ),
        "Your pairs are neighbours, as in the paper. Llama pairs number i with number i + d/2.": back,
        "You have forgotten the sine: a turn mixes the two numbers of a pair.": x * both,
        "You add sine and cosine to x. That is the sinusoidal position; a rotary one turns x.": x + added,
        "Sine and cosine have changed places.": turned(math.pi / 2 - angles),
        "You do not use `positions`: they need not begin at 0. With a KV cache, the new token is at the end.": (
            turned(from_zero)
        ),
        "Your positions are one too large.": turned((positions[:, None] + 1) * speeds),
        "Your exponent is i / d. It is 2i / d: the last pair should turn almost `base` times slower.": (
            turned(positions[:, None] * reach)
        ),
        "Your later pairs turn faster. The exponent is negative: pair i turns by position x base^(-2i/d).": (
            turned(positions[:, None] / speeds)
        ),
        "All your pairs turn at the same speed. Pair i turns by position x base^(-2i/d).": (
            turned(positions[:, None] * torch.ones(half))
        ),
        "You return x as it was.": x,
        "Your function returns the angles. Turn x by them.": angles,
    }


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    """x (..., n, d) with its pairs (i, i + d/2) turned by `angles` (n, d/2)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


# --- alibi ----------------------------------------------------------------------------------------------


def alibi(heads: int, n: int) -> Tensor:
    """ALiBi's bias (heads, n, n) with the causal mask in it (arXiv 2108.12409)."""
    exponents = torch.arange(1, heads + 1) * (8 / heads)
    slopes = 2.0**-exponents  # (heads,)
    places = torch.arange(n)
    distances = places - places[:, None]  # (n, n): key minus query, 0 or less where it may look
    bias = slopes[:, None, None] * distances  # (heads, n, n)
    return bias.masked_fill(distances > 0, float("-inf"))


def examine_alibi(yours: Attempt) -> None:
    """Two heads and three tokens by hand; then eight heads; then one token."""
    for inputs in ((2, 3), (8, 6)):
        yours.compare(inputs, alibi(*inputs), alibi_mistakes(*inputs))
    yours.compare((4, 1), alibi(4, 1))


def alibi_mistakes(heads: int, n: int) -> dict[str, Tensor]:
    """What known mistakes give."""
    right = alibi(heads, n)
    numbers = torch.arange(1, heads + 1)
    slopes = 2.0 ** -(numbers * 8 / heads)
    places = torch.arange(n)
    distances = places - places[:, None]
    future = distances > 0
    bias = partial(_bias, distances)
    free = slopes[:, None, None] * distances
    unseen = "Your bias for later tokens is {}. A query may not look there at all: minus infinity."
    given = {
        unseen.format("0"): right.masked_fill(future, 0.0),
        unseen.format("positive, which invites to look there"): free,
        unseen.format("negative, but finite"): -free.abs(),
        unseen.format("-1,000,000,000"): right.masked_fill(future, -1e9),
        unseen.format("-10,000"): right.masked_fill(future, -1e4),
        unseen.format("the smallest number"): right.masked_fill(future, torch.finfo(torch.float32).min),
        "Your bias grows with the distance. It is a punishment: the farther, the lower.": -right.where(~future, -right),
        "Rows and columns have changed places. Row i holds what query i gets for each key.": right.mT.contiguous(),
        "Your tokens do not see themselves. Distance 0 costs nothing.": right.masked_fill(distances >= 0, NOTHING),
        "Your slopes begin with 1. Head h, from 0 on, has the slope 2^(-8 (h + 1) / heads).": (
            bias(2.0 ** -((numbers - 1) * 8 / heads))
        ),
        "Your slopes are in the reverse order. Head 0 has the steepest.": bias(slopes.flip(0)),
        "All your heads have the same slope. Each has its own, so that some look far.": bias(slopes[:1].expand(heads)),
        "Your slopes are 2^-(h + 1) for any number of heads. They reach from there to 2^-8: take -8 (h + 1) / heads.": (
            bias(2.0**-numbers)
        ),
        "Your slopes fall in even steps. Each is the one before times the same factor.": bias(1 / numbers),
        "Your slopes are not there: the bias is the bare distance.": bias(torch.ones(heads)),
        "Your bias is squared in the distance. It falls in a straight line.": _bias(-(distances**2), slopes),
        "You only mask. What is left is the punishment of the distance.": bias(torch.zeros(heads)),
        "Your heads come last. The shape is (heads, n, n).": right.permute(1, 2, 0).contiguous(),
    }
    return _told_apart(given, right)


def _bias(distances: Tensor, slopes: Tensor) -> Tensor:
    """`distances` (n, n) times each of `slopes` (heads,), the future masked."""
    bias = slopes[:, None, None] * distances
    future = torch.ones_like(distances).triu(1).bool()
    return bias.masked_fill(future, NOTHING)


# --- kv_cache_step --------------------------------------------------------------------------------------


def kv_cache_step(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of one new token, which sees all before it and itself; and the cache with it in it."""
    keys = torch.cat([keys, k[:, None]], dim=1)  # (heads, t + 1, d)
    values = torch.cat([values, v[:, None]], dim=1)  # (heads, t + 1, e)
    scores = keys @ q[:, :, None]  # (heads, t + 1, 1)
    scaled = scores / math.sqrt(q.shape[-1])
    weights = scaled.softmax(dim=1)
    result = (weights * values).sum(dim=1)  # (heads, e)
    return result, keys, values


def examine_kv_cache_step(yours: Attempt) -> None:
    """One head and two old tokens, then three heads, then the first token of all."""
    q, k = torch.tensor([[2.0, 0.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 0.0, 2.0]])
    keys = torch.tensor([[[1.0, 0.0, 1.0, 0.0], [0.0, 2.0, -1.0, 1.0]]])
    inputs = (q, k, torch.tensor([[4.0, 0.5]]), keys, torch.tensor([[[1.0, 2.0], [3.0, -1.0]]]))
    yours.compare(inputs, kv_cache_step(*inputs), cache_mistakes(*inputs))
    shapes = ((3, 4), (3, 4), (3, 2), (3, 5, 4), (3, 5, 2))
    inputs = tuple(_fractions(*shape, seed=30 + i) for i, shape in enumerate(shapes))
    yours.compare(inputs, kv_cache_step(*inputs), cache_mistakes(*inputs))
    inputs = (*inputs[:3], torch.zeros(3, 0, 4), torch.zeros(3, 0, 2))
    yours.compare(inputs, kv_cache_step(*inputs))


def cache_mistakes(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> dict[str, tuple]:
    """What known mistakes give."""
    result, longer, more = kv_cache_step(q, k, v, keys, values)
    newest_first = torch.cat([k[:, None], keys], dim=1), torch.cat([v[:, None], values], dim=1)
    asked = torch.cat([keys, q[:, None]], dim=1)
    rolled = torch.cat([keys[:, 1:], k[:, None]], dim=1), torch.cat([values[:, 1:], v[:, None]], dim=1)
    replaced = torch.cat([keys[:, :-1], k[:, None]], dim=1), torch.cat([values[:, :-1], v[:, None]], dim=1)
    look = partial(_look, q)
    root = math.sqrt(q.shape[-1])
    return {
        "Your new token does not see itself. Put its key and value into the cache first.": (
            look(keys, values),
            longer,
            more,
        ),
        "You do not keep the new key and value: your cache does not grow. The next token would not see this one.": (
            look(keys, values),
            keys,
            values,
        ),
        "Your result is right, but the cache that you return is the old one.": (result, keys, values),
        "Your new token stands first in the cache. A cache is in the order of the text: it comes last.": (
            result,
            *newest_first,
        ),
        "Your cache forgets its oldest token.": (look(*rolled), *rolled),
        "Your new token takes the place of the last one in the cache.": (look(*replaced), *replaced),
        "You keep the query. It is used once; the key is what later tokens look at.": (look(asked, more), asked, more),
        "Your scores are not scaled. Divide by the root of the width of a key.": (
            look(longer, more, scale=1.0),
            longer,
            more,
        ),
        "You divide by the width of a key. Divide by its square root.": (
            look(longer, more, scale=root**2),
            longer,
            more,
        ),
        "You divide by the root of the width of a value. It is the width of a key.": (
            look(longer, more, scale=math.sqrt(v.shape[-1])),
            longer,
            more,
        ),
        "The softmax is missing.": (look(longer, more, soft=False), longer, more),
        "Your softmax goes over the heads. It goes over the tokens.": (look(longer, more, dim=0), longer, more),
        "Your result is the mean of the keys. The weights mix the values.": (look(longer, longer), longer, more),
        "Your three results are in another order: result, keys, values.": (longer, more, result),
        "Keys and values have changed places in what you return: result, keys, values.": (result, more, longer),
        "Your function returns the result alone. The next token needs the longer cache, too: return result, keys, "
        "values.": result,
        "Your function returns a list. Write `return result, keys, values`, a tuple.": [result, longer, more],
    }


def _look(
    q: Tensor, keys: Tensor, values: Tensor, scale: float | None = None, soft: bool = True, dim: int = 1
) -> Tensor:
    """What one query a head (heads, d) gets from `values`, with other scales and softmaxes."""
    scores = (keys @ q[:, :, None]).squeeze(-1)  # (heads, t)
    scores = scores / (scale or math.sqrt(q.shape[-1]))
    weights = scores.softmax(dim) if soft else scores
    return (weights[..., None] * values).sum(1)


# --- induction ------------------------------------------------------------------------------------------


def induction(maps: Tensor, period: int) -> Tensor:
    """The induction score (layers, heads) of rows that are written twice (arXiv 2209.11895)."""
    queries = torch.arange(period, 2 * period)
    keys = queries - period + 1  # behind the same token, in the first copy
    looks = maps[..., queries, keys]  # (layers, heads, period)
    return looks.mean(dim=-1)


def examine_induction(yours: Attempt) -> None:
    """Random maps of rows of four and of five tokens."""
    for period in (4, 5):
        n = 2 * period
        draw = torch.Generator().manual_seed(period)
        scores = torch.randn(2, 3, n, n, generator=draw)
        future = torch.ones(n, n).triu(1).bool()
        maps = scores.masked_fill(future, NOTHING).softmax(-1)
        yours.compare((maps, period), induction(maps, period), induction_mistakes(maps, period))


def induction_mistakes(maps: Tensor, period: int) -> dict[str, Tensor]:
    """What known mistakes give."""
    second = torch.arange(period, 2 * period)

    def looked(queries: Tensor, back: int, maps: Tensor = maps) -> Tensor:
        return maps[..., queries, queries - back]

    due = looked(second, period - 1)
    every = torch.arange(period - 1, 2 * period)
    return {
        "You measure the look at the same token in the first copy. An induction head looks one further: at what came "
        "behind it.": looked(second, period).mean(-1),
        "You measure the look one place too far: two behind the same token.": looked(second, period - 2).mean(-1),
        "You measure the look at the token before, at distance 1. Look `period - 1` back.": looked(second, 1).mean(-1),
        "You begin one query too early. The last token of the first copy has not seen its follower yet; begin with the "
        "second copy, at `period`.": looked(every, period - 1).mean(-1),
        "You leave out the last query. All `period` queries of the second copy count.": due[..., :-1].mean(-1),
        "You leave out the first query of the second copy.": due[..., 1:].mean(-1),
        "You sum. The score is the mean over the queries.": due.sum(-1),
        "You divide by all tokens of the row. Divide by the queries of the second copy: there are `period`.": (
            due.sum(-1) / (2 * period)
        ),
        "You take the largest look. The score is the mean over the queries.": due.amax(-1),
        "Your mean goes over the heads, too. Each head has its own score.": due.mean((-1, -2)),
        "Your mean goes over the layers, too. Each layer has its own row.": due.mean((0, -1)),
        "Queries and keys have changed places: `maps[..., query, key]`.": maps[..., second - period + 1, second].mean(
            -1
        ),
        "Your function returns every look. Take the mean over the queries.": due,
    }


# --- majority_vote --------------------------------------------------------------------------------------


def majority_vote(answers: Sequence[str]) -> str:
    """The answer that most samples gave (self-consistency, arXiv 2203.11171)."""
    votes: dict[str, int] = {}
    for answer in answers:
        if answer:
            votes[answer] = votes.get(answer, 0) + 1
    return max(votes, key=votes.__getitem__, default="")  # of equals, max takes the first


def examine_majority_vote(yours: Attempt) -> None:
    """A clear winner; samples without an answer; two draws; no answer at all."""
    clear = ["18", "24", "24", "30", "24", "18", "9"]
    yours.compare((clear,), "24", clear_mistakes())
    silent = ["", "", "36", "", "24", "36"]
    counted = 'Samples without an answer vote with you: "" is no answer. Leave them out.'
    yours.compare((silent,), "36", {counted: ""})
    draw = (
        "Two answers have the same number of votes, and you do not take the one that was given first. So the "
        "result depends on something that you did not mean to decide it."
    )
    yours.compare((["36", "24", "8", "24", "36"],), "36", {draw: "24"})
    yours.compare((["8", "24", "24", "8"],), "8", {draw: "24"})
    yours.compare((["3", "12", "7", "12", "7", "3"],), "3", {draw: "12", f"{draw} ": "7"})
    for nobody in (["", ""], []):
        yours.compare((nobody,), "")


def clear_mistakes() -> dict[str, Any]:
    """What known mistakes give for three times 24 among seven."""
    return {
        "You take the first answer. Count them.": "18",
        "You take the largest number. The answer that is given most often wins.": "30",
        "You take the mean. An answer is right or wrong; the mean of two wrong ones is a third.": "21",
        "You take the mean. An answer is right or wrong; the mean of two wrong ones is a third. ": "21.0",
        "Nobody wins with you without more than half of all. Most votes are enough.": "",
        "Your function returns the number of votes. Return the answer.": 3,
        "Your function returns the answer with its votes. Return the answer alone.": ("24", 3),
        "Your function returns a list. Return the answer alone.": ["24"],
        "Your function returns `most_common` as it is: a list of pairs. Return the answer alone.": [("24", 3)],
        "Your function returns a number. Answers are texts, and stay as they are.": 24,
    }


# --- beam_over_thoughts ---------------------------------------------------------------------------------


def beam_over_thoughts(
    start: str, propose: Callable[[str], list[str]], value: Callable[[str], float], width: int, depth: int
) -> list[str]:
    """Tree of thoughts, searched breadth first (arXiv 2305.10601, algorithm 1)."""
    beam = [start]
    for _ in range(depth):
        candidates: list[str] = []
        for state in beam:
            candidates += propose(state) or [state]  # one that is complete stays
        different = list(dict.fromkeys(candidates))
        ranked = sorted(different, key=value, reverse=True)  # stable: equals keep their order
        beam = ranked[:width]
    return beam


propose, value = TREE.propose, TREE.value


def examine_beam_over_thoughts(yours: Attempt) -> None:
    """One level, then two with a state found twice, then three with a complete one, and a beam of one."""
    for width, depth in ((2, 1), (2, 2), (2, 3), (3, 2), (1, 2), (9, 4)):
        inputs = ("", propose, value, width, depth)
        yours.compare(inputs, beam_over_thoughts(*inputs), beam_mistakes(width, depth))
    yours.compare(("ab", propose, value, 2, 0), ["ab"])


def beam_mistakes(width: int, depth: int) -> dict[str, Any]:
    """What known mistakes give, those that give something else here."""
    right = beam_over_thoughts("", propose, value, width, depth)
    search = partial(_searched, width, depth)
    given = {
        "Your beam keeps one state only. It keeps the best `width`.": _searched(1, depth),
        "Your beam keeps the worst states.": search(best=False),
        "Your result has the worst first. The best comes first.": right[::-1],
        "You keep the best `width` of each state's steps. All states of a level compete for `width` places.": (
            search(each=True)
        ),
        "You lose a state that is complete: it has no next step, and stays in the beam as it is.": (
            search(complete=False)
        ),
        "A state that is reached in two ways takes two places with you. Equal texts count once.": search(twice=True),
        "Your states compete with the steps that follow them. A state that can go on is replaced by its steps.": (
            search(parents=True)
        ),
        "You go one level less deep.": _searched(width, depth - 1),
        "You go one level too deep.": _searched(width, depth + 1),
        "Of equally good states you put the later one first. They keep the order in which they were proposed.": (
            search(later=True)
        ),
        "Of equally good states you take the order of the alphabet. They keep the order in which they were proposed.": (
            search(alphabet=True)
        ),
        "Your function returns the best state alone. The whole last beam is wanted.": right[0],
        "Your function returns pairs with the values. Return the states alone.": [(value(one), one) for one in right],
        "Your function returns pairs with the values. Return the states alone. ": [(one, value(one)) for one in right],
    }
    return _told_apart(given, right)


def _searched(
    width: int,
    depth: int,
    best: bool = True,
    each: bool = False,
    complete: bool = True,
    twice: bool = False,
    parents: bool = False,
    later: bool = False,
    alphabet: bool = False,
) -> list[str]:
    """The reference with another rule."""
    beam = [""]
    for _ in range(depth):
        candidates: list[str] = []
        for state in beam:
            steps = propose(state)
            if each:
                steps = sorted(steps, key=value, reverse=True)[:width]
            if not steps and complete:
                steps = [state]
            candidates += [state, *steps] if parents else steps
        different = candidates if twice else list(dict.fromkeys(candidates))
        if later:
            different = different[::-1]
        if alphabet:
            different = sorted(different)
        ranked = sorted(different, key=value, reverse=best)
        beam = ranked if each else ranked[:width]
    return beam


# --- distillation_loss ----------------------------------------------------------------------------------


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float) -> Tensor:
    """Hinton et al.'s loss (arXiv 1503.02531, section 2); logits (n, classes), labels (n,)."""
    target = (teacher.detach() / temperature).softmax(-1)  # (n, classes)
    guess = (student / temperature).log_softmax(-1)  # (n, classes)
    divergence = F.kl_div(guess, target, reduction="batchmean")  # nats an example
    soft = temperature**2 * divergence
    hard = F.cross_entropy(student, labels)
    return alpha * soft + (1 - alpha) * hard


def examine_distillation_loss(yours: Attempt) -> None:
    """Two examples, then random ones, then where the gradient goes."""
    student = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, -1.0]])
    teacher = torch.tensor([[3.0, -1.0, 0.0], [1.0, 2.0, -2.0]])
    inputs = (student, teacher, torch.tensor([0, 2]), 2.0, 0.75)
    yours.compare(inputs, distillation_loss(*inputs), distillation_mistakes(*inputs))
    student, teacher = _fractions(6, 5, seed=50), _fractions(6, 5, seed=51)
    inputs = (student, teacher, torch.tensor([4, 0, 3, 1, 2, 2]), 3.0, 0.25)
    examine_gradients(yours, inputs, distillation_mistakes(*inputs))


def examine_gradients(yours: Attempt, inputs: tuple, mistakes: Mapping[str, Any] | None = None) -> None:
    """A gradient for the student is wanted, and none for the teacher."""
    student, teacher, *rest = inputs
    wanted = distillation_loss(*inputs)
    came = yours.compare((student.clone().requires_grad_(), teacher, *rest), wanted, mistakes)
    need_gradient(came, "the student")
    came = yours.compare((student, teacher.clone().requires_grad_(), *rest), wanted)
    if came.requires_grad:
        raise Wrong(
            "From your loss a gradient flows into the teacher. It is not trained: it would come down to its student. "
            "Use `teacher.detach()`."
        )


def distillation_mistakes(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> dict[str, Tensor]:
    """What known mistakes give."""
    right = distillation_loss(student, teacher, labels, temperature, alpha)
    hard = F.cross_entropy(student, labels)
    warm = F.cross_entropy(student / temperature, labels)
    target = (teacher / temperature).softmax(-1)
    guess = (student / temperature).log_softmax(-1)
    soft = temperature**2 * _divergence(target, guess.exp())
    square = temperature**2

    def mixed(soft: Tensor, hard: Tensor = hard) -> Tensor:
        return alpha * soft + (1 - alpha) * hard

    entropy = -(target * target.log()).sum(-1).mean()
    return {
        "The factor temperature squared is missing: the gradients of the soft part shrink with it, and the hard part "
        "would take over.": mixed(soft / square),
        "Your soft part is multiplied by the temperature. Its square is wanted.": mixed(soft / temperature),
        "Your soft part is divided by the temperature squared. Multiply.": mixed(soft / square**2),
        "You do not use the temperature for the two distributions.": mixed(
            square * _divergence(teacher.softmax(-1), student.softmax(-1))
        ),
        "You use no temperature at all.": mixed(_divergence(teacher.softmax(-1), student.softmax(-1))),
        "You multiply the logits by the temperature. Divide: so the distributions get softer.": mixed(
            square * _divergence((teacher * temperature).softmax(-1), (student * temperature).softmax(-1))
        ),
        "Only the teacher is softened with you. Both are, with the same temperature.": mixed(
            square * _divergence(target, student.softmax(-1))
        ),
        "Your divergence is the other way round: KL(teacher | student) is wanted. The teacher's shares weigh.": mixed(
            square * _divergence(guess.exp(), target)
        ),
        "You divide the divergence by the classes, too (`reduction='mean'`). The mean goes over the examples: "
        "`batchmean`.": mixed(soft / student.shape[-1]),
        "You sum the divergence over the examples. Take their mean: `batchmean`.": mixed(soft * len(student)),
        "Your soft part is the cross-entropy. Its gradient is the same; the divergence is less by the teacher's "
        "entropy, and 0 for a student that agrees.": mixed(soft + square * entropy),
        "`alpha` weighs the hard part with you. It weighs the soft one.": (1 - alpha) * soft + alpha * hard,
        "You do not weigh the two parts with `alpha`.": soft + hard,
        "Your hard part is softened, too. The labels are compared at temperature 1.": mixed(soft, warm),
        "Your hard part is missing.": alpha * soft,
        "Your loss has the soft part only.": soft,
        "Your loss has the hard part only.": hard,
        "Your softmax goes over the examples. It goes over the classes.": mixed(
            square * _divergence((teacher / temperature).softmax(0), (student / temperature).softmax(0))
        ),
        "Your soft part is the squared distance of the probabilities. The divergence is wanted.": mixed(
            square * (target - guess.exp()).square().sum(-1).mean()
        ),
        "Your soft part is the squared distance of the logits. The divergence is wanted.": mixed(
            F.mse_loss(student, teacher)
        ),
        "Your labels come from the teacher. The hard part compares with `labels`.": mixed(
            soft, F.cross_entropy(student, teacher.argmax(-1))
        ),
        "`F.kl_div` wants the student's log-probabilities first. You gave it probabilities.": mixed(
            square * F.kl_div(guess.exp(), target, reduction="batchmean")
        ),
        "Your loss has the wrong sign.": -right,
    }


def _divergence(truth: Tensor, guess: Tensor) -> Tensor:
    """KL(truth | guess) in nats, the mean over the rows."""
    return (truth * (truth / guess).log()).sum(-1).mean()


# --- blockwise_softmax ----------------------------------------------------------------------------------


def blockwise_softmax(
    top: Tensor, total: Tensor, result: Tensor, scores: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One block of keys more (FlashAttention, arXiv 2205.14135, algorithm 1)."""
    largest = scores.amax(dim=-1)  # (n,)
    new_top = torch.maximum(top, largest)
    nothing_seen = new_top.isneginf()
    finite = new_top.masked_fill(nothing_seen, 0.0)  # a row that has seen nothing yet: exp(-inf) is 0
    old = (top - finite).exp()  # what the sums so far are worth now
    part = (scores - finite[:, None]).exp()  # (n, block)
    total = old * total + part.sum(dim=-1)
    result = old[:, None] * result + part @ values
    return new_top, total, result


def _start(rows: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Before any block was seen."""
    return torch.full((rows,), NOTHING), torch.zeros(rows), torch.zeros(rows, width)


def examine_blockwise_softmax(yours: Attempt) -> None:
    """The second block of two queries; the first block; scores that overflow; rows that are masked."""
    values = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    seen = (torch.tensor([1.0, 3.0]), torch.tensor([1.5, 2.0]), torch.tensor([[1.0, 2.0], [0.5, -1.0]]))
    inputs = (*seen, torch.tensor([[2.0, 0.0], [1.0, 2.0]]), values)
    yours.compare(inputs, blockwise_softmax(*inputs), block_mistakes(*inputs))
    inputs = (*_start(2, 2), torch.tensor([[2.0, 0.0], [1.0, 2.0]]), values)
    yours.compare(inputs, blockwise_softmax(*inputs), block_mistakes(*inputs))
    inputs = (torch.tensor([900.0, 0.0]), *seen[1:], torch.tensor([[901.0, 899.0], [-500.0, -300.0]]), values)
    yours.compare(inputs, blockwise_softmax(*inputs), block_mistakes(*inputs))
    hidden = torch.full((2, 2), NOTHING)
    masked = (
        "A row whose scores are all minus infinity gives nan with you: minus infinity less minus infinity. It has to "
        "change nothing. Subtract 0 there."
    )
    for state in (_start(2, 2), seen):
        inputs = (*state, hidden, values)
        try:
            yours.compare(inputs, blockwise_softmax(*inputs))
        except Wrong as wrong:
            if "nan" in str(wrong):
                raise Wrong(masked) from None
            raise


def block_mistakes(top: Tensor, total: Tensor, result: Tensor, scores: Tensor, values: Tensor) -> dict[str, Any]:
    """What known mistakes give; those that give the right result here are left out."""
    right = blockwise_softmax(top, total, result, scores, values)
    new_top, new_total, new_result = right
    own = scores.amax(-1)
    old = (top - new_top).exp()
    part = (scores - new_top[:, None]).exp()
    own_part = (scores - own[:, None]).exp()
    back = (new_top - top).exp()
    bare = scores.exp()
    given = {
        "You do not rescale what was summed before. A new largest score makes it worth exp(old top - new top).": (
            new_top,
            total + part.sum(-1),
            result + part @ values,
        ),
        "You rescale `total`, and forget `result`.": (new_top, new_total, result + part @ values),
        "You rescale `result`, and forget `total`.": (new_top, total + part.sum(-1), new_result),
        "You rescale the wrong way: by exp(old top - new top), which is at most 1.": (
            new_top,
            back * total + part.sum(-1),
            back[:, None] * result + part @ values,
        ),
        "Your top is the largest score of this block. It is the largest so far.": (
            own,
            (top - own).exp() * total + own_part.sum(-1),
            (top - own).exp()[:, None] * result + own_part @ values,
        ),
        "You subtract the block's own largest score. Subtract the largest so far, for all blocks the same.": (
            new_top,
            old * total + own_part.sum(-1),
            old[:, None] * result + own_part @ values,
        ),
        "You return the old top. The next block needs the new one.": (top, new_total, new_result),
        "You subtract nothing before the exponential. Large scores overflow: subtract the largest so far.": (
            new_top,
            total + bare.sum(-1),
            result + bare @ values,
        ),
        "You divide by `total` already. That comes once, after the last block.": (
            new_top,
            new_total,
            new_result / new_total[:, None],
        ),
        "You forget what was summed before this block.": (new_top, part.sum(-1), part @ values),
        "You forget this block's share in `total`.": (new_top, old * total, new_result),
        "You add the sum of the values. The exponentials weigh them: `part @ values`.": (
            new_top,
            new_total,
            old[:, None] * result + values.sum(0),
        ),
        "Your results are in another order: top, total, result.": (new_result, new_top, new_total),
        "Your results are in another order: top, total, result. ": (new_top, new_result, new_total),
        "Your function returns `result` alone. The next block needs all three: top, total, result.": new_result,
        "Your function returns a list. Write `return top, total, result`, a tuple.": list(right),
    }
    return _told_apart(given, right)


# --- nucleus --------------------------------------------------------------------------------------------


def nucleus(logits: Tensor, p: float) -> Tensor:
    """Probabilities (vocabulary,) of top-p sampling (arXiv 1904.09751, section 3.1)."""
    probabilities = logits.softmax(-1)
    ranked, order = probabilities.sort(descending=True)
    before = ranked.cumsum(-1) - ranked  # what likelier tokens have already
    kept = ranked.where(before < p, 0.0)
    chosen = torch.zeros_like(probabilities).scatter(-1, order, kept)
    return chosen / chosen.sum()


def examine_nucleus(yours: Attempt) -> None:
    """Seven tokens, then forty, then a likely one alone."""
    logits = torch.tensor([0.36, 0.08, 0.04, 0.18, 0.06, 0.12, 0.16]).log() + 1.0
    inputs = (logits, 0.55)
    yours.compare(inputs, nucleus(*inputs), nucleus_mistakes(*inputs))
    inputs = (_fractions(40, seed=60, of=512), 0.625)
    summed = "You sum the logits. Make probabilities of them first: `softmax`."
    yours.compare(inputs, nucleus(*inputs), {summed: _of_logits(*inputs)} | nucleus_mistakes(*inputs))
    inputs = (torch.tensor([1.0, 4.0, 0.0, 2.0]), 0.5)
    nobody = "Where one token alone has more than p, you keep none. The one that reaches p stays."
    yours.compare(inputs, nucleus(*inputs), {nobody: torch.zeros(4)} | nucleus_mistakes(*inputs))


def nucleus_mistakes(logits: Tensor, p: float) -> dict[str, Tensor]:
    """What known mistakes give; those that give the right result here are left out."""
    right = nucleus(logits, p)
    shares = logits.softmax(-1)
    ranked, order = shares.sort(descending=True)
    sums = ranked.cumsum(-1)
    count = int((right > 0).sum())
    kept = right > 0
    share = kept.float() * shares
    rising, up = shares.sort()
    before = rising.cumsum(-1) - rising
    tail = torch.zeros_like(shares).scatter(-1, up, rising.where(before < p, 0.0))
    too_few = torch.zeros_like(shares).scatter(-1, order, ranked.where(sums <= p, 0.0))
    one_more = torch.zeros_like(shares)
    one_more[order[: count + 1]] = ranked[: count + 1]
    part = max(1, int(p * len(shares)))
    top = torch.zeros_like(shares)
    top[order[:part]] = ranked[:part]
    reached = shares.where(shares >= p * shares.max(), 0.0)
    given = {
        "You leave out the token that reaches p. The kept ones have to have at least p together.": _to_one(too_few),
        "You keep one token too many. Stop at the one that reaches p.": _to_one(one_more),
        "Your probabilities do not add up to 1. What is kept has to be divided by its sum.": share,
        "Your probabilities are sorted. Each belongs to its token: put them back in their places.": (
            right.sort(descending=True).values
        ),
        "You keep the unlikely tokens. Sort the other way: `descending=True`.": _to_one(tail),
        "You keep a share p of the tokens. It is a share of the probability.": _to_one(top),
        "You keep the tokens with more than p times the largest probability. That is min-p.": _to_one(reached),
        "You take a softmax of probabilities. They are divided by their sum, no more.": (
            shares.masked_fill(~kept, NOTHING).softmax(-1)
        ),
        "The logits of what is left out are 0 with you. Softmax makes something of a 0: take minus infinity.": (
            (logits * kept).softmax(-1)
        ),
        "You return the probabilities as they were.": shares,
        "Your function returns logits. Probabilities are wanted.": logits.masked_fill(~kept, NOTHING),
        "Your function returns the kept tokens. The probabilities of all are wanted.": order[:count],
        "Your function returns the probabilities of the kept tokens only. The others have 0.": right[order[:count]],
        "Your function returns which tokens are kept. Their probabilities are wanted.": kept,
    }
    return _told_apart(given, right)


def _to_one(numbers: Tensor) -> Tensor:
    """Divided by their sum."""
    return numbers / numbers.sum()


def _of_logits(logits: Tensor, p: float) -> Tensor:
    """The nucleus of somebody who sums logits up."""
    ranked, order = logits.sort(descending=True)
    kept = order[ranked.cumsum(-1) - ranked < p]
    chosen = torch.zeros_like(logits)
    chosen[kept] = logits.softmax(-1)[kept]
    return _to_one(chosen)


# --- speculative_accept ---------------------------------------------------------------------------------


def speculative_accept(draft: Tensor, target: Tensor, drafted: Tensor, chances: Tensor) -> tuple[int, Tensor]:
    """How many drafted tokens stay, and from what the next one is drawn (arXiv 2211.17192, algorithm 1)."""
    for i, token in enumerate(drafted.tolist()):
        wanted, guessed = target[i, token], draft[i, token]
        if chances[i] * guessed >= wanted:  # chances[i] < wanted / guessed, without a division by 0
            missing = (target[i] - draft[i]).clamp(min=0)
            return i, missing / missing.sum()
    return len(drafted), target[-1]


def _sixteenths(*rows: str) -> Tensor:
    """Probabilities (rows, vocabulary), written in sixteenths."""
    return torch.tensor([[int(part) for part in row.split()] for row in rows]) / 16


DRAFT = _sixteenths("4 5 4 3", "4 7 4 1", "10 2 1 3", "4 5 4 3", "4 3 3 6", "5 1 3 7", "7 2 3 4", "1 7 5 3")
TARGET = _sixteenths("3 4 5 4", "2 5 5 4", "6 4 3 3", "2 2 8 4", "4 2 5 5", "7 4 0 5", "4 3 3 6", "4 5 5 2", "5 6 2 3")
DRAFTED = torch.tensor([2, 1, 0, 0, 3, 2, 2, 0])
CHANCES = torch.tensor([3, 2, 8, 2, 4, 0, 5, 4]) / 16


def examine_speculative_accept(yours: Attempt) -> None:
    """Eight tokens, where each rule stops at another; then all three stay; the first goes; nothing was drafted."""
    inputs = (DRAFT, TARGET, DRAFTED, CHANCES)
    yours.compare(inputs, speculative_accept(*inputs), accept_mistakes(*inputs))
    few = (DRAFT[:3], TARGET[:4])
    for drafted, chances in (([1, 1, 0], [0.75, 0.5, 0.125]), ([0, 2, 0], [0.875, 0.5, 0.5]), ([2, 2, 1], [0, 0, 0.5])):
        inputs = (*few, torch.tensor(drafted), torch.tensor(chances))
        yours.compare(inputs, speculative_accept(*inputs), accept_mistakes(*inputs))
    nothing = (DRAFT[:0], TARGET[:1], torch.zeros(0, dtype=torch.long), torch.zeros(0))
    yours.compare(nothing, (0, TARGET[0]))


def accept_mistakes(draft: Tensor, target: Tensor, drafted: Tensor, chances: Tensor) -> dict[str, Any]:
    """What known mistakes give; those that give the right result here are left out."""
    right = speculative_accept(draft, target, drafted, chances)
    count, following = right
    places = torch.arange(len(drafted))
    p, q = target[places, drafted], draft[places, drafted]
    decide = partial(_decided, draft, target)
    complete = count == len(drafted)
    place = min(count, len(drafted) - 1)
    difference = target[place] - draft[place]
    extra = difference.clamp(min=0)
    given = {
        "Your ratio is upside down: a token stays with the chance target / draft.": decide(chances * p < q),
        "A token stays with you only if the target finds it likelier than the draft does. A less likely one stays with "
        "the chance target / draft, or such tokens would become too rare.": decide(p >= q),
        "A token stays with you with the target's probability. It is target / draft: the draft has already been drawn "
        "by chance.": decide(chances < p),
        "A token stays with you with the draft's probability. It is target / draft.": decide(chances < q),
        "A token stays with you only if it is the target's first choice. That is the rule for greedy decoding.": (
            decide(target[:-1].argmax(-1) == drafted)
        ),
        "Your chance works the other way: a token stays if `chance < target / draft`.": decide(chances * q > p),
        "You accept everything.": decide(p == p),
        "You count accepted tokens behind one that was refused. It ends the draft: what follows was written for a text "
        "that does not exist.": (int((chances * q < p).sum()), following),
        "After a refusal you draw from the target as it is. The draft has had its chance already: draw from what it "
        "gave too little, max(0, target - draft).": (count, target[count]),
        "What is missing does not add up to 1. Divide by its sum.": (count, following if complete else extra),
        "You take max(0, draft - target): what the draft gave too much. The other way round.": (
            count,
            following if complete else _to_one((-difference).clamp(min=0)),
        ),
        "You take the absolute difference. Where the draft gave too much, nothing is missing: take max(0, ...).": (
            count,
            following if complete else _to_one(difference.abs()),
        ),
        "Your difference of target and draft has negative numbers. Set them to 0: `clamp(min=0)`.": (
            count,
            following if complete else difference,
        ),
        "You take a softmax of the difference. It is divided by its sum.": (
            count,
            following if complete else difference.softmax(-1),
        ),
        "When all stay, the next token is drawn from the target's last row, as it is. There is no draft for it.": (
            count,
            _to_one(extra) if complete else following,
        ),
        "When all stay, you take the target's row of the last drafted token. There is one row more: what comes next.": (
            count,
            target[place] if complete else following,
        ),
        "Your distribution is one row too late.": (count, target[min(count + 1, len(drafted))]),
        "You count the refused token, too.": (count if complete else count + 1, following),
        "Your results are the other way round: how many stay, then the distribution.": (following, count),
        "Your function returns the accepted tokens. Return how many there are.": (drafted[:count], following),
        "Your function returns the accepted tokens. Return how many there are. ": (drafted[:count].tolist(), following),
        "Your function returns the next token. Return the distribution it is drawn from.": (
            count,
            following.argmax(),
        ),
        "Your function returns the number alone. Return the distribution of the next token, too.": count,
        "Your function returns a list. Write `return count, distribution`, a tuple.": [count, following],
    }
    return _told_apart(given, right)


def _decided(draft: Tensor, target: Tensor, stays: Tensor) -> tuple[int, Tensor]:
    """The reference with another decision about each token."""
    count = int(stays.long().cumprod(0).sum())
    if count == len(stays):
        return count, target[-1]
    missing = (target[count] - draft[count]).clamp(min=0)
    return count, _to_one(missing)
