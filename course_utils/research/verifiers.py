"""Judges of worked answers: an exact checker of steps, and small verifiers that are trained on hidden states."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_utils.prisma import lm, text
from course_utils.research import solver
from course_utils.research.solver import STEP as EQUATION

ROWS = 64  # answers that are read together
LAYERS = (3, -1)  # the states that a verifier sees: after layer 2, and after the last one


# ---------------------------------------------------------------- the exact checker


@dataclass(frozen=True)
class Step:
    """One written step: its words, where it ends in the reply (characters), and whether it holds."""

    words: str
    end: int
    holds: bool


def check_steps(question: str, reply: str) -> list[Step]:
    """Every step of a reply before its `Answer:`, checked without knowing the right answer.

    A step holds if it is one equation, its arithmetic is right, and both of its numbers come from
    the question or are results of earlier steps. What follows a wrong step is judged by the same
    rule: it may hold on a wrong basis.
    """
    known = set(re.findall(r"\d+", question))
    body = reply.split("Answer:")[0]
    steps = []
    for match in re.finditer(r"\S[^.]*\.", body):
        words = match[0]
        equation = EQUATION.fullmatch(words.rstrip("."))
        holds = equation is not None and _true(equation, known)
        steps.append(Step(words, match.end(), holds))
        if equation:
            known.add(equation[4])
    return steps


def _true(equation: re.Match, known: set[str]) -> bool:
    """Whether an equation's arithmetic is right and its two numbers are known."""
    left, _, right, _ = equation.groups()
    worked = solver.steps(equation[0])
    return not solver.slips(worked) and {left, right} <= known


def flawless(question: str, reply: str, steps: int = 3) -> bool:
    """Whether a reply has so many steps, all hold, and its answer is the last step's result."""
    checked = check_steps(question, reply)
    holding = [step.holds for step in checked]
    if len(holding) != steps or not all(holding):
        return False
    result = checked[-1].words.rstrip(".").split("= ")[-1]
    return text.final_answer(reply) == result


# ---------------------------------------------------------------- what a verifier sees


@dataclass(frozen=True)
class Seen:
    """A reply as the model that wrote it sees it.

    `steps` (steps, d) are the hidden states at the end of each step, `end` (d,) those at the end of the reply,
    `log_probability` is the mean of its tokens' (nats), without the end mark unless it stands alone.
    """

    steps: Tensor
    end: Tensor
    log_probability: float


def see(model: nn.Module, tokenizer, prompts: Sequence[str], replies: Sequence[str]) -> list[Seen]:
    """One pass over every prompt with its reply, in that order. ValueError if their numbers differ."""
    if len(prompts) != len(replies):
        raise ValueError(f"{len(prompts)} prompts for {len(replies)} replies: one each is needed.")
    seen: list[Seen] = []
    for start in range(0, len(prompts), ROWS):
        part = slice(start, start + ROWS)
        seen += _see(model, tokenizer, prompts[part], replies[part])
    return seen


@torch.inference_mode()
def _see(model: nn.Module, tokenizer, prompts: Sequence[str], replies: Sequence[str]) -> list[Seen]:
    """`see` for one batch, padded on the right."""
    asked = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    given = tokenizer(list(replies), add_special_tokens=False, return_offsets_mapping=True)
    end = tokenizer.eos_token_id  # the end mark, so that even an empty reply has a token
    rows = [torch.tensor(before + after + [end]) for before, after in zip(asked, given["input_ids"], strict=True)]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)  # (n, t)
    output = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    states = torch.cat([output.hidden_states[layer] for layer in LAYERS], -1).cpu()  # (n, t, d)
    chances = lm.token_log_probs(output.logits, ids).cpu()  # (n, t - 1)
    seen = []
    for i, reply in enumerate(replies):
        first = len(asked[i])
        last = len(rows[i]) - 1
        places = [first + place for place in _step_ends(reply, given["offset_mapping"][i])]
        written = max(last - 1, first)
        mean = chances[i, first - 1 : written].mean().item()
        seen.append(Seen(states[i, places].clone(), states[i, last].clone(), mean))
    return seen


def _step_ends(reply: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The number of the token at which each step of a reply ends."""
    places = []
    for step in check_steps("", reply):
        before = [number for number, (_, end) in enumerate(offsets) if end <= step.end]
        places.append(before[-1])
    return places


# ---------------------------------------------------------------- trained verifiers


@dataclass(frozen=True)
class Verifier:
    """A small network over hidden states that says how likely they belong to something right."""

    net: nn.Module
    mean: Tensor
    deviation: Tensor

    @torch.inference_mode()
    def __call__(self, states: Tensor) -> Tensor:
        """states (n, d) to probabilities (n,)."""
        logits = self.net((states - self.mean) / self.deviation)  # (n, 1)
        return logits.squeeze(-1).sigmoid()


def train_verifier(states: Tensor, right: Sequence[bool], seed: int, rounds: int = 30) -> Verifier:
    """A verifier of one hidden layer, trained on states (n, d) and whether each belongs to
    something right.

    ValueError unless there are examples of both kinds: from one kind nothing can be learned.
    """
    labels = torch.tensor([float(label) for label in right])
    if not 0 < labels.sum() < len(labels):
        raise ValueError("A verifier needs right and wrong examples. Sample more, or hotter.")
    mean = states.mean(0)
    deviation = states.std(0) + 1e-4
    inputs = (states - mean) / deviation
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hidden = nn.Linear(states.shape[1], 64)
        net = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 1))
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.1)
        for _ in range(rounds):
            for batch in torch.randperm(len(inputs)).split(64):
                logits = net(inputs[batch]).squeeze(-1)
                loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[batch])
                loss.backward()
                optimiser.step()
                optimiser.zero_grad()
    return Verifier(net.eval(), mean, deviation)


def outcome_scores(verifier: Verifier, seen: Sequence[Seen]) -> list[float]:
    """How right the outcome verifier finds each reply, from its end alone."""
    ends = torch.stack([one.end for one in seen])  # (n, d)
    return verifier(ends).tolist()


def process_scores(verifier: Verifier, seen: Sequence[Seen]) -> list[float]:
    """How right the process verifier finds each reply: as right as its worst step (arXiv 2305.20050
    multiplies them).

    A reply without a step gets 0.
    """
    scores = []
    for one in seen:
        worst = 0.0
        if len(one.steps):
            worst = verifier(one.steps).min().item()
        scores.append(worst)
    return scores


def told_apart(scores: Sequence[float], right: Sequence[bool]) -> float:
    """How often a right reply has a higher score than a wrong one (the area under the ROC curve; a tie is half).

    ValueError unless there are both.
    """
    kinds: dict[bool, list[float]] = {True: [], False: []}
    for score, label in zip(scores, right, strict=True):
        kinds[bool(label)].append(score)
    if not kinds[True] or not kinds[False]:
        raise ValueError("To tell right from wrong, both have to be there.")
    good = torch.tensor(kinds[True])[:, None]  # (good, 1)
    bad = torch.tensor(kinds[False])  # (bad,)
    higher = (good > bad).float()  # (good, bad)
    equal = (good == bad).float()
    shares = higher + equal / 2
    return shares.mean().item()
