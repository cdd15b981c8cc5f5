"""Unit 7.5, labs on preferences: replies of the toy shop, raters who compare them, and learning from that.

The task is small, so that one lab trains a dozen models: a customer asks about an order, the reply names one fact.
`cases` draws questions, `staff_reply` the shop's old replies, `checks` is the judge, `Rater` a simulated reader.
Token tensors are (n, t): prompt, reply, end mark, padding on the right; masks are 1 on reply and end mark.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_utils import compat
from course_utils.figures import progress
from course_utils.measures import Measure, share, wilson
from course_utils.models import hardware
from course_utils.models.inputs import as_texts
from course_utils.prisma import lm
from course_utils.prisma.shop import COLOURS, STATUSES, Order, make_shop
from course_utils.prisma.text import Example
from course_utils.settings import paced
from course_utils.training import Learner

if TYPE_CHECKING:
    from course_utils.models.roles import Chat

# ---------------------------------------------------------------- customers, and how staff answered them

QUESTIONS = {
    "status": ("Where is order {n}?", "What is the status of order {n}?", "Has order {n} been sent?"),
    "contents": ("What is in order {n}?", "Which toy is in order {n}?", "What did I buy with order {n}?"),
}
THANKS = "Thank you for your question."
RUDE = ("Do not ask again.", "You have to wait.", "This is not my problem.")
EXTRAS = (
    "It is good that you ask.",
    "You are always welcome.",
    "Please write to us again.",
    "Our team is here for you.",
    "We like to help you.",
)
MOST_WORDS = 17


@dataclass(frozen=True)
class Case:
    """A customer's question about an order, with the record that the shop's search found."""

    order: Order
    kind: str
    question: str

    @property
    def messages(self) -> list[dict]:
        """The turns before the reply, as chat messages."""
        o = self.order
        record = f"order {o.number}: {o.quantity} {o.product.name} for {o.customer}, {o.status}"
        return [{"role": "system", "content": record}, {"role": "user", "content": self.question}]

    @property
    def fact(self) -> str:
        """The one sentence that answers the question."""
        said = self.order.status if self.kind == "status" else f"the {self.order.product.name}"
        return f"Order {self.order.number} is {said}."


def cases(n: int, seed: int) -> list[Case]:
    """`n` questions, each about an order of its own, from shops that open after every 400 orders."""
    rng, made = random.Random(f"cases {seed}"), []
    while len(made) < n:
        for order in make_shop(rng.randrange(10**9)).orders.values():
            kind = rng.choice(list(QUESTIONS))
            made.append(Case(order, kind, rng.choice(QUESTIONS[kind]).format(n=order.number)))
    return made[:n]


def wrong_fact(rng: random.Random, case: Case) -> str:
    """The fact with another status, or with another colour of the toy."""
    if case.kind == "status":
        status = case.order.status
        return case.fact.replace(f"is {status}", f"is {rng.choice([s for s in STATUSES if s != status])}")
    colour = case.order.product.colour
    return case.fact.replace(f" {colour} ", f" {rng.choice([c for c in COLOURS if c != colour])} ")


def staff_reply(rng: random.Random, case: Case) -> str:
    """A reply out of the shop's old mail: some staff are polite, some careless, some like to write much."""
    parts = [THANKS] if rng.random() < 0.35 else []
    parts.append(case.fact if rng.random() < 0.7 else wrong_fact(rng, case))
    if THANKS not in parts and rng.random() < 0.5:
        parts.append(rng.choice(RUDE))
    extras = rng.choices(range(3), (0.4, 0.35, 0.25))[0]
    return " ".join(parts + rng.sample(EXTRAS, extras))


# ---------------------------------------------------------------- the judge


def sentences(reply: str) -> list[str]:
    """The sentences of a reply; what stands behind the last full stop counts as one."""
    return [part.strip() + "." for part in reply.split(".") if part.strip()]


def checks(case: Case, reply: str) -> dict[str, bool]:
    """The shop's three rules, which a program can check.

    fact: exactly one sentence names an order, and it is the right one. courtesy: it begins with thanks, nothing is
    rude, and no sentence stands there twice. brevity: at most MOST_WORDS words.
    """
    said = sentences(reply)
    return {
        "fact": [s for s in said if "Order " in s] == [case.fact],
        "courtesy": said[:1] == [THANKS] and not set(said) & set(RUDE) and len(set(said)) == len(said),
        "brevity": len(reply.split()) <= MOST_WORDS,
    }


def points(case: Case, reply: str) -> int:
    """0 to 4: two for the right fact, one each for courtesy and brevity."""
    passed = checks(case, reply)
    return 2 * passed["fact"] + passed["courtesy"] + passed["brevity"]


# ---------------------------------------------------------------- tokens and their probabilities


def encode(chat: Chat, asked: Sequence[Case], replies: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and masks (n, longest) of prompts with their replies, where the model is. ValueError without any."""
    replies = as_texts(replies, "replies")
    if not asked:
        raise ValueError("there is no reply to encode: ask for more cases, or clean the pairs less strictly")
    tokenizer, device = chat.tokenizer, chat.model.device
    examples = [
        Example("reply", ((chat.prompt(case.messages), False), (reply + tokenizer.eos_token, True)))
        for case, reply in zip(asked, replies, strict=True)
    ]
    rows = [lm.encode(tokenizer, one) for one in examples]
    made, longest = lm.collate(rows, tokenizer.pad_token_id), max(len(ids) for ids, _ in rows)
    ids, mask = made["input_ids"], (made["labels"] != lm.IGNORED).float()
    return ids[:, :longest].to(device), mask[:, :longest].to(device)


def token_log_probs(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """The log-probability of each reply token given those before it, (n, t - 1); zero outside the reply."""
    with hardware.autocast(ids.device):
        logits = model(ids).logits
    return lm.token_log_probs(logits, ids) * mask[:, 1:]


def batches(n: int, batch: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Row numbers for `steps` batches, each row once before any comes again."""
    draw, order = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(n, generator=draw)])
        yield order[:batch]
        order = order[batch:]


def trimmed(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Without the columns in which all rows are padding, but in steps of 16: a CPU compiles kernels by length."""
    width = lm.padded(int(mask.any(0).nonzero().max()) + 1)
    return ids[:, :width], mask[:, :width]


def _parts(ids: Tensor, mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What fits into memory at once, 64 rows each."""
    for some, on in zip(ids.split(64), mask.split(64), strict=True):
        yield trimmed(some, on)


def imitate(chat: Chat, seed: int, steps: int = 50, batch: int = 24) -> Chat:
    """`chat` after supervised fine-tuning on the shop's old mail, all weights; `chat` itself stays as it is."""
    model = copy.deepcopy(chat.model)
    model.set_attn_implementation("eager")  # for short rows on a CPU it trains faster than the fused kernel
    learner = Learner(model, 4e-3, steps)
    rng, asked = random.Random(f"staff {seed}"), cases(learner.steps * batch, seed)
    ids, mask = encode(chat, asked, [staff_reply(rng, case) for case in asked])
    for at in progress(range(0, len(ids), batch), "Imitating staff"):
        some, on = trimmed(ids[at : at + batch], mask[at : at + batch])
        learner.step(-token_log_probs(model, some, on).sum() / on.sum())
    return dataclasses.replace(chat, model=model.eval().requires_grad_(False))


# ---------------------------------------------------------------- sampling


@dataclass(frozen=True)
class Drawn:
    """Replies that a model wrote: token ids and masks (n, t) of prompt and reply, and the replies as texts."""

    ids: Tensor
    mask: Tensor
    texts: list[str]


@torch.no_grad()
def draw(chat: Chat, asked: Sequence[Case], seed: int, temperature: float = 1.0, room: int = 64) -> Drawn:
    """One reply to each case, at most `room` tokens, drawn at `temperature`; 0 is greedy."""
    model, tokenizer = quick_copy(chat.model), chat.tokenizer
    prompts = [chat.prompt(case.messages) for case in asked]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=room, **ends, **how
        )
    start = inputs["input_ids"].shape[1]
    before = start - inputs["attention_mask"].sum(1)  # padding on the left, which now moves to the right
    ids = torch.stack([row.roll(-int(k)) for row, k in zip(rows, before, strict=True)])
    place = torch.arange(ids.shape[1], device=ids.device)
    mask = (place >= (start - before)[:, None]) & (ids != tokenizer.pad_token_id)
    return Drawn(ids, mask.float(), tokenizer.batch_decode(rows[:, start:], skip_special_tokens=True))


def sample(chat: Chat, asked: Sequence[Case], seed: int, temperature: float = 1.0) -> list[str]:
    """The texts of `draw`, any number of them, 128 at a time."""
    parts = [asked[at : at + 128] for at in range(0, len(asked), 128)]
    return [text for i, part in enumerate(parts) for text in draw(chat, part, seed + i, temperature).texts]


def quick_copy(model: nn.Module) -> nn.Module:
    """A copy to sample from: adapters merged, weights in bfloat16 where that is fast (half the time)."""
    copied = copy.deepcopy(model)
    merge = getattr(copied, "merge_and_unload", None)
    merged = merge() if merge else copied
    if hardware.multiplies_bfloat16(next(merged.parameters()).device.type):
        merged = merged.to(torch.bfloat16)
    return merged.eval()


# ---------------------------------------------------------------- pairs and raters


@dataclass(frozen=True)
class Pair:
    """Two replies to one customer, and which of them a rater preferred."""

    case: Case
    chosen: str
    rejected: str
    rater: str = ""

    @property
    def longer(self) -> int:
        """How many words the chosen reply has more than the rejected one."""
        return len(self.chosen.split()) - len(self.rejected.split())

    @property
    def flipped(self) -> Pair:
        return dataclasses.replace(self, chosen=self.rejected, rejected=self.chosen)


@dataclass(frozen=True)
class Rater:
    """Somebody who compares two replies: feels a value for each and takes the better one, most of the time.

    The chance to take the first is the logistic function of the difference (Bradley and Terry 1952). `length` is
    the value of each sentence, whatever it says. A rater who is `upside_down` clicks on the worse one.
    """

    name: str
    fact: float = 4.0
    thanks: float = 3.0
    rude: float = -3.0
    length: float = 0.4
    upside_down: bool = False

    def value(self, case: Case, reply: str) -> float:
        said = sentences(reply)
        right = [s for s in said if "Order " in s] == [case.fact]
        rude = any(s in RUDE for s in said)
        return self.fact * right + self.thanks * (said[:1] == [THANKS]) + self.rude * rude + self.length * len(said)

    def compare(self, rng: random.Random, case: Case, one: str, other: str) -> Pair:
        gap = self.value(case, one) - self.value(case, other)
        first = rng.random() < 1 / (1 + math.exp(-gap))
        chosen, rejected = (one, other) if first != self.upside_down else (other, one)
        return Pair(case, chosen, rejected, self.name)


# One of five holds the form upside down. Which one it is, is for the lab to find out.
RATERS = (Rater("A"), Rater("B"), Rater("C", upside_down=True), Rater("D"), Rater("E"))
Written = Sequence[tuple[str, str]]


def rated(asked: Sequence[Case], written: Written, seed: int, raters: Sequence[Rater] = RATERS) -> list[Pair]:
    """Each two replies compared by one rater; the raters take turns."""
    rng = random.Random(f"rated {seed}")
    return [
        raters[i % len(raters)].compare(rng, case, *two)
        for i, (case, two) in enumerate(zip(asked, written, strict=True))
    ]


def agreement(asked: Sequence[Case], written: Written, seed: int) -> Tensor:
    """All RATERS compare the same replies: the share on which each two agree, (raters, raters)."""
    choices = [[pair.chosen for pair in rated(asked, written, seed + i, [one])] for i, one in enumerate(RATERS)]
    same = [[sum(a == b for a, b in zip(x, y, strict=True)) / len(asked) for y in choices] for x in choices]
    return torch.tensor(same)


def alike(pair: Pair) -> bool:
    """Whether the two replies are nearly the same, word by word: there is little to prefer."""
    return SequenceMatcher(None, pair.chosen.split(), pair.rejected.split()).ratio() >= 0.9


def balanced(pairs: Sequence[Pair]) -> list[Pair]:
    """As many pairs whose chosen reply is d words longer as d words shorter, for every d: length says nothing."""
    groups: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.longer].append(pair)
    kept = [pair for d, group in groups.items() for pair in group[: min(len(group), len(groups.get(-d, [])))]]
    return sorted(kept, key=lambda pair: pair.case.order.number)


def with_flips(pairs: Sequence[Pair], part: float, seed: int) -> list[Pair]:
    """The pairs, a `part` (0 to 1) of them with the labels exchanged."""
    turned = set(random.Random(f"flipped {seed}").sample(range(len(pairs)), round(part * len(pairs))))
    return [pair.flipped if i in turned else pair for i, pair in enumerate(pairs)]


# ---------------------------------------------------------------- DPO


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Direct preference optimisation (arXiv 2305.18290, equation 7), the mean over the pairs.

    Each argument (n,) holds log-probabilities of whole replies under the policy or under the
    reference.
    """
    chosen = policy_chosen - reference_chosen
    rejected = policy_rejected - reference_rejected
    return -functional.logsigmoid(beta * (chosen - rejected)).mean()


def encode_pairs(chat: Chat, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Token ids and masks (2 n, longest): all chosen replies, then all rejected ones."""
    asked = [pair.case for pair in pairs]
    return encode(chat, asked * 2, [p.chosen for p in pairs] + [p.rejected for p in pairs])


def preference_rows(pairs: Sequence[Pair]) -> list[dict]:
    """TRL's format: chat messages under prompt, chosen and rejected."""

    def said(text: str) -> list[dict]:
        return [{"role": "assistant", "content": text}]

    return [{"prompt": p.case.messages, "chosen": said(p.chosen), "rejected": said(p.rejected)} for p in pairs]


@torch.no_grad()
def reply_log_probs(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """The log-probability of each whole reply, (n,)."""
    return torch.cat([token_log_probs(model, *part).sum(1) for part in _parts(ids, mask)])


def with_adapter(chat: Chat, seed: int) -> Chat:
    """A copy of `chat` with a fresh LoRA adapter; switched off, the adapter leaves `chat`'s own model."""
    torch.manual_seed(seed)
    return dataclasses.replace(chat, model=compat.add_peft_lora(copy.deepcopy(chat.model), rank=16, alpha=32))


def dpo(chat: Chat, pairs: Sequence[Pair], beta: float, seed: int, steps: int, batch: int = 8) -> Chat:
    """`chat` with an adapter trained by DPO; `chat` itself is the reference."""
    policy = with_adapter(chat, seed)
    ids, mask = encode_pairs(chat, pairs)
    n, reference = len(pairs), reply_log_probs(chat.model, ids, mask)
    learner = Learner(policy.model, 1e-3, steps)
    for at in progress(batches(n, batch, learner.steps, seed), "DPO steps", learner.steps):
        both = torch.cat([at, at + n])
        said = token_log_probs(policy.model, *trimmed(ids[both], mask[both])).sum(1)
        learner.step(dpo_loss(said[:batch], said[batch:], reference[at], reference[at + n], beta))
    policy.model.eval()
    return policy


# ---------------------------------------------------------------- comparing


def win_rate(asked: Sequence[Case], ours: Sequence[str], theirs: Sequence[str]) -> Measure:
    """How often our reply has more points than theirs to the same customer, ties counting half.

    Wilson's interval, as if there were no ties: a little too wide where there are.
    """
    ours = as_texts(ours, "replies")
    theirs = as_texts(theirs, "replies")
    pairs = [(points(case, a), points(case, b)) for case, a, b in zip(asked, ours, theirs, strict=True)]
    won = sum(0.5 * (a > b) + 0.5 * (a >= b) for a, b in pairs)
    return Measure(won / len(pairs), *wilson(won, len(pairs)), len(pairs), "%")


def divergence(policy: Chat, reference: Chat, asked: Sequence[Case], seed: int) -> tuple[list[str], float]:
    """Replies of the policy at temperature 1, and its KL divergence from the reference, in nats a reply.

    The mean of log p - log q over the policy's own replies estimates KL(p, q).
    """
    drawn = draw(policy, asked, seed)
    ours, theirs = (reply_log_probs(chat.model, drawn.ids, drawn.mask) for chat in (policy, reference))
    return drawn.texts, (ours - theirs).mean().item()


# ---------------------------------------------------------------- a learned reward


@dataclass(frozen=True)
class RewardModel:
    """A frozen language model's hidden state at the last token of a reply, and a linear head: one number."""

    lm: nn.Module
    mean: Tensor
    spread: Tensor
    head: Tensor

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Rewards (n,) of replies (n, t)."""
        return (last_states(self.lm, ids, mask) - self.mean) / self.spread @ self.head


@torch.no_grad()
def last_states(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Hidden states (n, width) at the last token of each reply."""
    found = []
    for some, on in _parts(ids, mask):
        with hardware.autocast(ids.device):
            states = model.base_model(some).last_hidden_state.float()
        last = (on * torch.arange(some.shape[1], device=ids.device)).argmax(1)
        found.append(states[torch.arange(len(some), device=ids.device), last])
    return torch.cat(found)


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Minus the log-probability that the chosen replies win, if that is the logistic function of r - r' (n,).

    InstructGPT (arXiv 2203.02155), equation 1, for pairs.
    """
    return -functional.logsigmoid(chosen - rejected).mean()


def learn_reward(chat: Chat, pairs: Sequence[Pair]) -> RewardModel:
    """A reward model from preferences: `chat` stays as it is, the head is fitted, its squared size kept small."""
    states = last_states(chat.model, *encode_pairs(chat, pairs))
    mean, spread = states.mean(0), states.std(0) + 1e-5
    chosen, rejected = ((states - mean) / spread).split(len(pairs))
    head = torch.zeros(states.shape[1], device=states.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([head], max_iter=60)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = bradley_terry_loss(chosen @ head, rejected @ head) + 0.1 * head.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return RewardModel(chat.model, mean, spread, head.detach())


def told_apart(model: RewardModel, chat: Chat, pairs: Sequence[Pair]) -> Measure:
    """The share of pairs in which the chosen reply has the higher reward."""
    chosen, rejected = model(*encode_pairs(chat, pairs)).split(len(pairs))
    return share((chosen > rejected).tolist())


# ---------------------------------------------------------------- policy optimisation


def advantages(reward: Tensor) -> Tensor:
    """How far each reply lies above its group's mean, in standard deviations: (groups, size)."""
    return (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)


def grpo_loss(
    new: Tensor,
    old: Tensor,
    reference: Tensor,
    advantage: Tensor,
    mask: Tensor,
    beta: float,
    clip: float = 0.2,
) -> Tensor:
    """Group relative policy optimisation (arXiv 2402.03300, equations 3 and 4).

    `new`, `old`, `reference` (n, t) are log-probabilities of tokens; `advantage` is (n,).
    """
    ratio, gain = (new - old).exp(), advantage[:, None]
    better = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    kl = (reference - new).exp() - (reference - new) - 1
    return -(((better - beta * kl) * mask).sum(1) / mask.sum(1)).mean()


Reward = Callable[[Sequence[Case], Drawn], Tensor]


@torch.no_grad()
def _before(model: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens' log-probabilities under the policy as it is, and under the reference, (n, t - 1) each."""
    old = token_log_probs(model, ids, mask)
    with model.disable_adapter():
        return old, token_log_probs(model, ids, mask)


def grpo(
    chat: Chat, reward: Reward, steps: int, seed: int, beta: float = 0.04, groups: int = 4, size: int = 6,
    rate: float = 2e-3, room: int = 64,
) -> tuple[Chat, list[dict]]:  # fmt: skip
    """`chat` with an adapter trained on `reward(cases, drawn) -> (n,)`, and a row of numbers for each step.

    A step draws `size` replies to each of `groups` cases and takes two steps down the loss.
    """
    steps = paced(steps, least=2)  # a step draws replies, which takes longer than learning from them
    policy, log = with_adapter(chat, seed), []
    model = policy.model
    learner = Learner(model, rate, 2 * steps)
    asked = cases(steps * groups, seed + 1000)
    for step in progress(range(steps), "GRPO steps"):
        some = [case for case in asked[step * groups :][:groups] for _ in range(size)]
        drawn = draw(policy, some, seed + step, room=room)
        got = reward(some, drawn)
        advantage = advantages(got.view(groups, size)).flatten()
        ids, mask = trimmed(drawn.ids, drawn.mask)
        old, reference = _before(model, ids, mask)
        for _ in range(2):
            new = token_log_probs(model, ids, mask)
            learner.step(grpo_loss(new, old, reference, advantage, mask[:, 1:], beta))
        kl = ((old - reference) * mask[:, 1:]).sum(1).mean().item()
        log.append({"reward": got.mean().item(), "kl": kl, "tokens": mask.sum(1).mean().item()})
        log[-1]["points"] = sum(points(c, t) for c, t in zip(some, drawn.texts, strict=True)) / len(some)
    model.eval()
    return policy, log
