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
        return [{"role": "system", "content": self.order.record}, {"role": "user", "content": self.question}]

    @property
    def fact(self) -> str:
        """The one sentence that answers the question."""
        order = self.order
        said = order.status if self.kind == "status" else f"the {order.product.name}"
        return f"Order {order.number} is {said}."


def cases(n: int, seed: int) -> list[Case]:
    """`n` questions, each about an order of its own, from shops that open after every 400 orders."""
    rng = random.Random(f"cases {seed}")
    asked: list[Case] = []
    while len(asked) < n:
        shop = make_shop(rng.randrange(10**9))
        for order in shop.orders.values():
            kind = rng.choice(list(QUESTIONS))
            question = rng.choice(QUESTIONS[kind])
            asked.append(Case(order, kind, question.format(n=order.number)))
    return asked[:n]


def wrong_fact(rng: random.Random, case: Case) -> str:
    """The fact with another status, or with another colour of the toy."""
    if case.kind == "status":
        status = case.order.status
        others = [other for other in STATUSES if other != status]
        return case.fact.replace(f"is {status}", f"is {rng.choice(others)}")
    colour = case.order.product.colour
    others = [other for other in COLOURS if other != colour]
    return case.fact.replace(f" {colour} ", f" {rng.choice(others)} ")


def staff_reply(rng: random.Random, case: Case) -> str:
    """A reply out of the shop's old mail: some staff are polite, some careless, some like to write much."""
    polite = rng.random() < 0.35
    parts = [THANKS] if polite else []
    careful = rng.random() < 0.7
    fact = case.fact if careful else wrong_fact(rng, case)
    parts.append(fact)
    if not polite and rng.random() < 0.5:
        parts.append(rng.choice(RUDE))
    (extras,) = rng.choices(range(3), (0.4, 0.35, 0.25))
    parts += rng.sample(EXTRAS, extras)
    return " ".join(parts)


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
    rude = not set(said).isdisjoint(RUDE)
    repeats = len(set(said)) < len(said)
    thanks = said[:1] == [THANKS]
    return {
        "fact": _orders_named(said) == [case.fact],
        "courtesy": thanks and not rude and not repeats,
        "brevity": len(reply.split()) <= MOST_WORDS,
    }


def _orders_named(said: Sequence[str]) -> list[str]:
    """The sentences that name an order."""
    return [sentence for sentence in said if "Order " in sentence]


def points(case: Case, reply: str) -> int:
    """0 to 4: two for the right fact, one each for courtesy and brevity."""
    passed = checks(case, reply)
    return 2 * passed["fact"] + passed["courtesy"] + passed["brevity"]


def rules_kept(asked: Sequence[Case], replies: Sequence[str]) -> dict[str, Measure]:
    """The share of replies that keep each rule of `checks`, and the share that keep "all three"."""
    replies = _some_replies(replies)
    passed = [checks(case, reply) for case, reply in zip(asked, replies, strict=True)]
    kept = {}
    for rule in passed[0]:
        kept[rule] = share([rules[rule] for rules in passed])
    whole = [all(rules.values()) for rules in passed]
    return {**kept, "all three": share(whole)}


def mean_points(asked: Sequence[Case], replies: Sequence[str]) -> float:
    """The mean of `points`, 0 to 4."""
    replies = _some_replies(replies)
    marks = [points(case, reply) for case, reply in zip(asked, replies, strict=True)]
    return sum(marks) / len(marks)


def mean_words(replies: Sequence[str]) -> float:
    """How many words a reply has, on average."""
    lengths = [len(reply.split()) for reply in _some_replies(replies)]
    return sum(lengths) / len(lengths)


def _some_replies(replies: Sequence[str]) -> list[str]:
    """The replies as a list. ValueError if there is none."""
    texts = as_texts(replies, "replies")
    if not texts:
        raise ValueError("there is no reply to judge: give one to each case, and at least one case")
    return texts


# ---------------------------------------------------------------- tokens and their probabilities


def encode(chat: Chat, asked: Sequence[Case], replies: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and masks (n, longest) of prompts with their replies, where the model is. ValueError without any."""
    replies = as_texts(replies, "replies")
    if not asked:
        raise ValueError("there is no reply to encode: ask for more cases, or clean the pairs less strictly")
    tokenizer = chat.tokenizer
    device = chat.model.device
    rows = []
    for case, reply in zip(asked, replies, strict=True):
        prompt = chat.prompt(case.messages)
        example = Example("reply", ((prompt, False), (reply + tokenizer.eos_token, True)))
        rows.append(lm.encode(tokenizer, example))
    batch = lm.collate(rows, tokenizer.pad_token_id)
    longest = max(len(ids) for ids, _ in rows)
    ids = batch["input_ids"][:, :longest]
    mask = batch["labels"][:, :longest] != lm.IGNORED
    return ids.to(device), mask.float().to(device)


def token_log_probs(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """The log-probability of each reply token given those before it, (n, t - 1); zero outside the reply."""
    with hardware.autocast(ids.device):
        logits = model(ids).logits
    return lm.token_log_probs(logits, ids) * mask[:, 1:]


def batches(n: int, batch: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Row numbers for `steps` batches, each row once before any comes again."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < batch:
            again = torch.randperm(n, generator=draw)
            order = torch.cat([order, again])
        yield order[:batch]
        order = order[batch:]


def trimmed(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Without the columns in which all rows are padding, but in steps of 16: a CPU compiles kernels by length."""
    used = mask.any(0).nonzero()
    width = lm.padded(int(used.max()) + 1)
    return ids[:, :width], mask[:, :width]


def _parts(ids: Tensor, mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What fits into memory at once, 64 rows each."""
    for part in zip(ids.split(64), mask.split(64), strict=True):
        yield trimmed(*part)


def imitate(chat: Chat, seed: int, steps: int = 50, batch: int = 24) -> Chat:
    """`chat` after supervised fine-tuning on the shop's old mail, all weights; `chat` itself stays as it is."""
    model = copy.deepcopy(chat.model)
    model.set_attn_implementation("eager")  # for short rows on a CPU it trains faster than the fused kernel
    learner = Learner(model, 4e-3, steps)
    rng = random.Random(f"staff {seed}")
    asked = cases(learner.steps * batch, seed)
    replies = [staff_reply(rng, case) for case in asked]
    ids, mask = encode(chat, asked, replies)
    for start in progress(range(0, len(ids), batch), "Imitating staff"):
        rows = slice(start, start + batch)
        row_ids, row_mask = trimmed(ids[rows], mask[rows])
        log_probs = token_log_probs(model, row_ids, row_mask)
        learner.step(-log_probs.sum() / row_mask.sum())
    model.eval().requires_grad_(False)
    return dataclasses.replace(chat, model=model)


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
    model = quick_copy(chat.model)
    tokenizer = chat.tokenizer
    prompts = [chat.prompt(case.messages) for case in asked]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    prompt_ids, attention = inputs["input_ids"], inputs["attention_mask"]
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = model.generate(input_ids=prompt_ids, attention_mask=attention, max_new_tokens=room, **ends, **how)
    start = prompt_ids.shape[1]
    before = start - attention.sum(1)  # padding on the left, which now moves to the right
    ids = torch.stack([row.roll(-int(k)) for row, k in zip(rows, before, strict=True)])  # (n, t)
    place = torch.arange(ids.shape[1], device=ids.device)
    behind_prompt = place >= (start - before)[:, None]
    mask = behind_prompt & (ids != tokenizer.pad_token_id)
    texts = tokenizer.batch_decode(rows[:, start:], skip_special_tokens=True)
    return Drawn(ids, mask.float(), texts)


def sample(chat: Chat, asked: Sequence[Case], seed: int, temperature: float = 1.0) -> list[str]:
    """The texts of `draw`, any number of them, 128 at a time."""
    texts: list[str] = []
    for i, start in enumerate(range(0, len(asked), 128)):
        part = asked[start : start + 128]
        texts += draw(chat, part, seed + i, temperature).texts
    return texts


def quick_copy(model: nn.Module) -> nn.Module:
    """A copy to sample from: adapters merged, weights in bfloat16 where that is fast (half the time)."""
    copied = copy.deepcopy(model)
    merge = getattr(copied, "merge_and_unload", None)
    merged = merge() if merge else copied
    device = next(merged.parameters()).device
    if hardware.multiplies_bfloat16(device.type):
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
        chosen = self.chosen.split()
        rejected = self.rejected.split()
        return len(chosen) - len(rejected)

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
        right = _orders_named(said) == [case.fact]
        thanks = said[:1] == [THANKS]
        rude = any(sentence in RUDE for sentence in said)
        content = self.fact * right + self.thanks * thanks
        return content + self.rude * rude + self.length * len(said)

    def compare(self, rng: random.Random, case: Case, one: str, other: str) -> Pair:
        gap = self.value(case, one) - self.value(case, other)
        chance = 1 / (1 + math.exp(-gap))
        first = rng.random() < chance
        chosen, rejected = (one, other) if first != self.upside_down else (other, one)
        return Pair(case, chosen, rejected, self.name)


# One of five holds the form upside down. Which one it is, is for the lab to find out.
RATERS = (Rater("A"), Rater("B"), Rater("C", upside_down=True), Rater("D"), Rater("E"))
Written = Sequence[tuple[str, str]]


def rated(asked: Sequence[Case], written: Written, seed: int, raters: Sequence[Rater] = RATERS) -> list[Pair]:
    """Each two replies compared by one rater; the raters take turns."""
    rng = random.Random(f"rated {seed}")
    pairs = []
    for i, (case, two) in enumerate(zip(asked, written, strict=True)):
        rater = raters[i % len(raters)]
        pairs.append(rater.compare(rng, case, *two))
    return pairs


def agreement(asked: Sequence[Case], written: Written, seed: int) -> Tensor:
    """All RATERS compare the same replies: the share on which each two agree, (raters, raters)."""
    choices = []
    for i, rater in enumerate(RATERS):
        pairs = rated(asked, written, seed + i, [rater])
        choices.append([pair.chosen for pair in pairs])
    shares = torch.zeros(len(RATERS), len(RATERS))
    for row, mine in enumerate(choices):
        for column, yours in enumerate(choices):
            same = sum(a == b for a, b in zip(mine, yours, strict=True))
            shares[row, column] = same / len(asked)
    return shares


def alike(pair: Pair) -> bool:
    """Whether the two replies are nearly the same, word by word: there is little to prefer."""
    matcher = SequenceMatcher(None, pair.chosen.split(), pair.rejected.split())
    return matcher.ratio() >= 0.9


def balanced(pairs: Sequence[Pair]) -> list[Pair]:
    """As many pairs whose chosen reply is d words longer as d words shorter, for every d: length says nothing."""
    groups: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.longer].append(pair)
    kept: list[Pair] = []
    for longer, group in groups.items():
        opposite = groups.get(-longer, [])
        count = min(len(group), len(opposite))
        kept += group[:count]
    return sorted(kept, key=lambda pair: pair.case.order.number)


def with_flips(pairs: Sequence[Pair], part: float, seed: int) -> list[Pair]:
    """The pairs, a `part` (0 to 1) of them with the labels exchanged."""
    rng = random.Random(f"flipped {seed}")
    count = round(part * len(pairs))
    turned = set(rng.sample(range(len(pairs)), count))
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
    margins = beta * (chosen - rejected)  # (n,): how far the chosen one's implicit reward is ahead
    return -functional.logsigmoid(margins).mean()


def encode_pairs(chat: Chat, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Token ids and masks (2 n, longest): all chosen replies, then all rejected ones."""
    asked = [pair.case for pair in pairs]
    chosen = [pair.chosen for pair in pairs]
    rejected = [pair.rejected for pair in pairs]
    return encode(chat, asked * 2, chosen + rejected)


def preference_rows(pairs: Sequence[Pair]) -> list[dict]:
    """TRL's format: chat messages under prompt, chosen and rejected."""
    rows = []
    for pair in pairs:
        chosen = {"role": "assistant", "content": pair.chosen}
        rejected = {"role": "assistant", "content": pair.rejected}
        rows.append({"prompt": pair.case.messages, "chosen": [chosen], "rejected": [rejected]})
    return rows


@torch.no_grad()
def reply_log_probs(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """The log-probability of each whole reply, (n,)."""
    sums = [token_log_probs(model, *part).sum(1) for part in _parts(ids, mask)]
    return torch.cat(sums)


def with_adapter(chat: Chat, seed: int) -> Chat:
    """A copy of `chat` with a fresh LoRA adapter; switched off, the adapter leaves `chat`'s own model."""
    torch.manual_seed(seed)
    copied = copy.deepcopy(chat.model)
    adapted = compat.add_peft_lora(copied, rank=16, alpha=32)
    return dataclasses.replace(chat, model=adapted)


def dpo(chat: Chat, pairs: Sequence[Pair], beta: float, seed: int, steps: int, batch: int = 8) -> Chat:
    """`chat` with an adapter trained by DPO; `chat` itself is the reference."""
    policy = with_adapter(chat, seed)
    ids, mask = encode_pairs(chat, pairs)
    n = len(pairs)
    reference = reply_log_probs(chat.model, ids, mask)
    learner = Learner(policy.model, 1e-3, paced(steps, least=6))
    for chosen in progress(batches(n, batch, learner.steps, seed), "DPO steps", learner.steps):
        rejected = chosen + n  # `encode_pairs` puts them behind all chosen ones
        both = torch.cat([chosen, rejected])
        part = trimmed(ids[both], mask[both])
        said = token_log_probs(policy.model, *part).sum(1)  # (2 batch,)
        loss = dpo_loss(said[:batch], said[batch:], reference[chosen], reference[rejected], beta)
        learner.step(loss)
    policy.model.eval()
    return policy


# ---------------------------------------------------------------- comparing


def win_rate(asked: Sequence[Case], ours: Sequence[str], theirs: Sequence[str]) -> Measure:
    """How often our reply has more points than theirs to the same customer, ties counting half.

    Wilson's interval, as if there were no ties: a little too wide where there are.
    """
    ours = as_texts(ours, "replies")
    theirs = as_texts(theirs, "replies")
    won = 0.0
    for case, our_reply, their_reply in zip(asked, ours, theirs, strict=True):
        our_points = points(case, our_reply)
        their_points = points(case, their_reply)
        won += 0.5 * (our_points > their_points) + 0.5 * (our_points >= their_points)
    n = len(asked)
    return Measure(won / n, *wilson(won, n), n, "%")


def divergence(policy: Chat, reference: Chat, asked: Sequence[Case], seed: int) -> tuple[list[str], float]:
    """Replies of the policy at temperature 1, and its KL divergence from the reference, in nats a reply.

    The mean of log p - log q over the policy's own replies estimates KL(p, q).
    """
    drawn = draw(policy, asked, seed)
    ours = reply_log_probs(policy.model, drawn.ids, drawn.mask)
    theirs = reply_log_probs(reference.model, drawn.ids, drawn.mask)
    gained = ours - theirs
    return drawn.texts, gained.mean().item()


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
        states = last_states(self.lm, ids, mask)
        scaled = (states - self.mean) / self.spread
        return scaled @ self.head


@torch.no_grad()
def last_states(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Hidden states (n, width) at the last token of each reply."""
    states = []
    for part_ids, part_mask in _parts(ids, mask):
        with hardware.autocast(ids.device):
            hidden = model.base_model(part_ids).last_hidden_state.float()  # (rows, t, width)
        n, length = part_ids.shape
        places = torch.arange(length, device=ids.device)
        last = (part_mask * places).argmax(1)
        rows = torch.arange(n, device=ids.device)
        states.append(hidden[rows, last])
    return torch.cat(states)


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Minus the log-probability that the chosen replies win, if that is the logistic function of r - r' (n,).

    InstructGPT (arXiv 2203.02155), equation 1, for pairs.
    """
    return -functional.logsigmoid(chosen - rejected).mean()


def learn_reward(chat: Chat, pairs: Sequence[Pair]) -> RewardModel:
    """A reward model from preferences: `chat` stays as it is, the head is fitted, its squared size kept small."""
    ids, mask = encode_pairs(chat, pairs)
    states = last_states(chat.model, ids, mask)  # (2 n, width)
    mean = states.mean(0)
    spread = states.std(0) + 1e-5
    scaled = (states - mean) / spread
    chosen, rejected = scaled.split(len(pairs))
    head = torch.zeros(states.shape[1], device=states.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([head], max_iter=60)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = bradley_terry_loss(chosen @ head, rejected @ head)
        loss = loss + 0.1 * head.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return RewardModel(chat.model, mean, spread, head.detach())


def told_apart(model: RewardModel, chat: Chat, pairs: Sequence[Pair]) -> Measure:
    """The share of pairs in which the chosen reply has the higher reward."""
    rewards = model(*encode_pairs(chat, pairs))
    chosen, rejected = rewards.split(len(pairs))
    higher = chosen > rejected
    return share(higher.tolist())


# ---------------------------------------------------------------- policy optimisation


def advantages(reward: Tensor) -> Tensor:
    """How far each reply lies above its group's mean, in standard deviations: (groups, size)."""
    mean = reward.mean(1, keepdim=True)  # (groups, 1)
    deviation = reward.std(1, keepdim=True)  # (groups, 1)
    return (reward - mean) / (deviation + 1e-4)  # where all rewards are equal: 0


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
    gain = advantage[:, None]  # (n, 1)
    ratio = (new - old).exp()  # (n, t): how much more probable each token is by now
    clipped = ratio.clamp(1 - clip, 1 + clip)
    better = torch.minimum(ratio * gain, clipped * gain)
    kl = (reference - new).exp() - (reference - new) - 1  # of each token, never below 0
    tokens = (better - beta * kl) * mask
    replies = tokens.sum(1) / mask.sum(1)  # (n,): the mean over each reply's tokens
    return -replies.mean()


Reward = Callable[[Sequence[Case], Drawn], Tensor]


@torch.no_grad()
def _before(model: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens' log-probabilities under the policy as it is, and under the reference, (n, t - 1) each."""
    old = token_log_probs(model, ids, mask)
    with model.disable_adapter():
        return old, token_log_probs(model, ids, mask)


@dataclass(frozen=True)
class Round:
    """What each step of GRPO draws, `size` replies to each of `groups` cases, and how far it goes with them.

    A reply has at most `room` tokens; `rate` is the learning rate.
    """

    groups: int = 4
    size: int = 6
    room: int = 64
    rate: float = 2e-3


ROUND = Round()


def grpo(
    chat: Chat, reward: Reward, steps: int, seed: int, beta: float = 0.04, each: Round = ROUND
) -> tuple[Chat, list[dict]]:
    """`chat` with an adapter trained on `reward(cases, drawn) -> (n,)`, and a row of numbers for each step.

    A step draws replies as `each` says and takes two steps down the loss. `beta` is the weight of the distance from
    the start.
    """
    steps = paced(steps, least=2)  # a step draws replies, which takes longer than learning from them
    policy = with_adapter(chat, seed)
    model = policy.model
    learner = Learner(model, each.rate, 2 * steps)
    asked = cases(steps * each.groups, seed + 1000)
    log = []
    for step in progress(range(steps), "GRPO steps"):
        first = step * each.groups
        repeated = _each_repeated(asked[first : first + each.groups], each.size)
        drawn = draw(policy, repeated, seed + step, room=each.room)
        rewards = reward(repeated, drawn)  # (groups * size,)
        grouped = rewards.view(each.groups, each.size)
        advantage = advantages(grouped).flatten()
        ids, mask = trimmed(drawn.ids, drawn.mask)
        old, reference = _before(model, ids, mask)
        said = mask[:, 1:]  # as long as the log-probabilities
        for _ in range(2):
            new = token_log_probs(model, ids, mask)
            loss = grpo_loss(new, old, reference, advantage, said, beta)
            learner.step(loss)
        kl = ((old - reference) * said).sum(1).mean().item()
        tokens = mask.sum(1).mean().item()
        marks = mean_points(repeated, drawn.texts)
        log.append({"reward": rewards.mean().item(), "kl": kl, "tokens": tokens, "points": marks})
    model.eval()
    return policy, log


def _each_repeated(asked: Sequence[Case], size: int) -> list[Case]:
    """Every case `size` times in a row: a group of replies belongs to one case."""
    repeated: list[Case] = []
    for case in asked:
        repeated += [case] * size
    return repeated
