# %% [markdown] tags=["badge"]
# # 7.3 Emerging research directions, part 2: reasoning
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.3_reasoning.ipynb)

# %% [markdown]
# **After this notebook you can**
# - measure what worked steps bring, and show that the answer really comes from them;
# - turn more computing into better answers: vote, choose, search; and say what each token brought;
# - tell an exact checker of steps from a trained verifier, and recognise over-optimisation when you see it;
# - attack your own assistant with a suite, and report a filter with its price;
# - say what is published about today's reasoning models, and what a human checker can and cannot see.
#
# **Time:** about 30 minutes to read and run; the cells take a good minute on two CPU cores.
#
# **Downloads:** nothing at the bundled tier; the chat model of Unit 7.2, if it is not here yet (about 1.5 GB at the
# small tier, 16 GB at the full tier), and 0.3 GB for section 9.

# %% tags=["bootstrap"]
# Finds the course's files, or fetches them; Colab and Kaggle install what is missing (network).
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

SOURCE = "https://github.com/genai-course/advanced-generative-ai"
if not find_spec("course_utils"):
    fetched = Path.cwd() / "advanced-generative-ai"
    places = [Path.cwd(), *Path.cwd().parents, fetched]
    root = next((place for place in places if (place / "course_utils").is_dir()), None)
    if not root:
        print("Fetching the course from", SOURCE)
        clone = ["git", "clone", "-q", "--depth", "1", "-b", "main", SOURCE, fetched]
        if subprocess.run(clone).returncode:
            raise ConnectionError("On Kaggle: Settings, Internet, On. Then run this cell again.")
    sys.path.insert(0, str(root or fetched))
from course_utils import colab

colab.prepare()

# %% [markdown]
# The next cell looks at your machine, chooses a model for each role and says why.

# %%
from course_utils import open_unit

unit = open_unit("7.3")

# %%
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from course_utils import figures, settings
from course_utils.exercises import check, hint, quiz, solution
from course_utils.exercises.authors import whose
from course_utils.measures import bootstrap, error_bars, matches, percent, pooled, share
from course_utils.models import layers
from course_utils.models.loaders import load
from course_utils.prisma import shop, text
from course_utils.research import reasoning, red_team, search_thoughts, verifiers

chat = unit.load("chat")

# %% [markdown]
# ## 1. A common claim: "chain of thought dramatically improves reasoning"
#
# Wei et al. (2022, arXiv 2201.11903) let models write the steps before the answer. Does it help, how much,
# and do the steps *cause* the answer? Three conditions on the same fresh sums: answer at once; write the
# steps; and write the steps after we put a slip into the first one. Guess three numbers before you run the cells.
#
# All shares come with their **95 % interval**: made in this way, it holds the true share in 95 of 100 experiments.
# Where two intervals overlap widely, these sums cannot tell which is better.

# %% tags=["topic:cot"]
bundled = chat.tier == "bundled"
problems = reasoning.sums(settings.paced(64, 8) if bundled else 24, seed=73)
# Tokens that a reply may have: room for a number alone, where no steps can hide, or for steps.
room = {"direct": 16, "steps": 64 if bundled else 160}
# For each problem: a first step with a slip, and the answer that follows from it.
slips = [reasoning.wrong_start(problem, random.Random(i)) for i, problem in enumerate(problems)]


def answers(mode: str, starts: list[str]) -> list[str]:
    """The number answered to each problem, by a reply that has to begin with its `starts`."""
    system = {"role": "system", "content": text.SYSTEM[mode]}
    prompts = []
    for problem, start in zip(problems, starts, strict=True):
        question = {"role": "user", "content": problem.question}
        prompt = chat.prompt([system, question])
        prompts.append(prompt + start)
    replies = chat.complete_many(prompts, max_new_tokens=room[mode])
    return [reasoning.last_number(reply) for reply in replies]


# %% tags=["topic:cot"]
nothing = [""] * len(problems)
starts = [start for start, _ in slips]
conditions = {
    "answer at once": ("direct", nothing),
    "worked steps": ("steps", nothing),
    "steps after a slip": ("steps", starts),
}
given = {}
for name, (mode, begun) in figures.progress(conditions.items(), "Answering"):
    given[name] = answers(mode, begun)

# %% tags=["topic:cot"]
truth = [problem.answer for problem in problems]
right = {name: share(matches(got, truth)) for name, got in given.items()}
follow_the_slip = [wrong for _, wrong in slips]
believed = share(matches(given["steps after a slip"], follow_the_slip))

phases = {"9 to 33 %": text.SHARES, "33 to 60 %": text.HARDER, "60 to 100 %": text.SKILLS}
if bundled:
    for phase, mixture in phases.items():
        whole = sum(mixture.values())
        worked = mixture["worked"] / whole
        at_once = mixture["unworked"] / whole
        print(f"{phase} of its training: {worked:.0%} of the examples worked sums,", end=" ")
        print(f"{at_once:.0%} sums at once")
for name, measure in right.items():
    print(f"{name:>18}: {measure} right")
print(f"after a slip, the answer that follows from the slip: {believed}")

# %%
print("An example:", problems[0].question)
print("at once:     ", given["answer at once"][0], "  (right:", problems[0].answer + ")")
print("what the steps should say:", problems[0].steps)
print("worked steps, answer:", given["worked steps"][0])
print("with a slip: ", slips[0][0] + "... the answer given:", given["steps after a slip"][0])

fig, ax = figures.figure(height=2.6)
bars = {**right, "… believes the slip": believed}
values, ends = error_bars(bars.values())
colours = [figures.PALETTE[c] for c in ("orange", "blue", "green", "sky")]
ax.barh(list(bars), values, xerr=ends, capsize=3, color=colours)
ax.invert_yaxis()
ax.set(xlabel=f"share of {len(problems)} sums", xlim=(0, 1.02))
told = "; ".join(f"{name} {measure.value:.0%}" for name, measure in bars.items())
figures.show(fig, alt=f"Bars: {told}.")

# %% [markdown]
# **What to notice.** Verdict: dramatic here, and we know why. A model this small cannot do two products and a sum in
# the one step in which it must say a digit; written steps are its scratch paper. And it was trained that way, on more
# worked sums than direct ones. The slip shows that the steps *cause* the answer: the model does not notice the
# mistake, it computes on from it. That is honest, and dangerous: a wrong step is believed.
#
# For other models neither follows. By prompting alone, Wei et al. found gains only in models of about 100 billion
# parameters. And large models may write steps that are not the reason for their answer: a hint in the prompt moved
# their answers, and the steps did not mention it (Turpin et al. 2023, arXiv 2305.04388; for models that were trained
# to reason, Chen et al. 2025, arXiv 2505.05410). Steps cost tokens, too: time and money for every answer.

# %% [markdown]
# ## 2. Does it help to answer more than once?
#
# With steps, prisma-lm is nearly always right: nothing is left to win. So we need a harder case. Two come to mind:
# dearer goods, with prices that never occur in its training; or a weaker model. For the second, the 60 % of the
# weights with the smallest size become 0 in each matrix, as in a model that was made small for a cheap device
# (pruning is a section of part 3). In which of the two can more tries help? **Guess first.**
#
# Sections 2 to 5 and 7 use prisma-lm at every tier: there the truth can be checked, and hundreds of replies take
# seconds.


# %%
def without_small(weights: Tensor) -> Tensor:
    """A matrix whose smallest 60 % of the weights are 0."""
    sizes = weights.abs()
    order = sizes.flatten().sort().values
    limit = order[int(0.6 * len(order))]
    return torch.where(sizes >= limit, weights, 0.0)


prisma = load("chat", unit.hardware, tier="bundled")
pruned = layers.changed_copy(prisma.model, without_small)
weak = replace(prisma, model=pruned)

# %%
problems = reasoning.sums(settings.paced(36, 6), seed=12)
truth = [problem.answer for problem in problems]
prompts = [text.prompt("steps", problem.question) for problem in problems]
greedy = {}  # for each model, which of its likeliest replies are right
for name, writer in (("whole", prisma), ("pruned", weak)):
    replies = writer.complete_many(prompts, max_new_tokens=72)
    numbers = [reasoning.last_number(reply) for reply in replies]
    greedy[name] = matches(numbers, truth)
    print(f"{name:>6}: {share(greedy[name])} right")

dear = [reasoning.dearer(problem) for problem in problems[: settings.paced(12, 3)]]
asked = [text.prompt("steps", problem.question) for problem in dear]
tries = search_thoughts.samples(prisma, asked, n=4, temperature=1.0, seed=unit.seed)
hits = []
for problem, replies in zip(dear, tries, strict=True):
    hits += [reasoning.last_number(reply) == problem.answer for reply in replies]
print(f"the whole model, dearer goods, each of 4 tries: {share(hits)} right")

# %% [markdown]
# Sampling finds what a model can *sometimes* do. For the dearer goods these tries find nothing; so we go
# on with the weaker model. Its likeliest reply (**greedy**) is always the same. To get different
# ones, draw each token by its probability. The **temperature** divides the logits (the scores before the softmax):
# above 1 unlikely tokens come up more often, below 1 less. Which temperature gives replies that differ, and are still
# good?

# %% tags=["topic:self-consistency"]
few = settings.paced(8, 3)
rows = []
for heat in (0.3, 1.0, 2.0):
    drawn = search_thoughts.samples(weak, prompts[:few], n=4, temperature=heat, seed=unit.seed)
    hits, wordings = [], []
    for replies, answer in zip(drawn, truth[:few], strict=True):
        hits += [reasoning.last_number(reply) == answer for reply in replies]
        wordings.append(len(set(replies)))
    row = {"temperature": f"{heat}", "one reply right": percent(share(hits))}
    rows.append(row | {"different replies of 4": sum(wordings) / few})
figures.table(rows, caption=f"{few} sums, 4 replies each", digits=1)

# %% [markdown]
# Too cold, and four replies are nearly one. Too hot, and they differ because they are wrong. We go on with 1.0.
# **Guess first:** how much better than one reply is the majority of twelve?

# %% tags=["topic:self-consistency"]
N = 12
replies = search_thoughts.samples(weak, prompts, N, temperature=1.0, seed=unit.seed)
voted, right = [], []  # the answers to each problem, and which are right
for wording, answer in zip(replies, truth, strict=True):
    numbers = [reasoning.last_number(reply) for reply in wording]
    voted.append(numbers)
    right.append([number == answer for number in numbers])
every = pooled(right)
found = share([any(hits) for hits in right])
print(f"one reply right:                    {percent(every)}")
print(f"at least one of {N} replies right:   {percent(found)}")
print("To", problems[0].question, "it answers", ", ".join(voted[0]))

# %% [markdown]
# The share in the second line is called **pass@n** or coverage. Often a right reply is there. But which one
# is it? **Self-consistency** (Wang et al. 2022, arXiv 2203.11171) takes the answer that most replies give: there are
# many ways to be wrong, and fewer to be right.

# %% [markdown]
# ### Exercise: Let the samples vote (easy, about 10 minutes)
#
# Many samples, one answer. What do you do with a draw? `hint("7.3.majority_vote")` helps. Until your function passes,
# the notebook goes on with the course's own, and says so.


# %%
def majority_vote(answers: Sequence[str]) -> str:
    """The answer that most samples gave (self-consistency, arXiv 2203.11171).

    `answers` are the final answers of several samples, in the order in which they were drawn. ""
    is a sample without an answer: it does not vote. If several answers have most votes, take the
    one of them that was given first. "" if nobody votes.
    """
    # Your code here
    raise NotImplementedError


# %%
majority_vote = check("7.3.majority_vote", majority_vote)

# %% tags=["topic:self-consistency"]
elected = [majority_vote(numbers) for numbers in voted]
print(f"{whose(majority_vote)}, {N} replies each: {share(matches(elected, truth))} right")

# %% [markdown]
# How does that depend on the number of replies? A smaller vote is drawn from the same twelve, many times over.

# %% tags=["slide", "topic:self-consistency"]
sizes = [1, 2, 4, 8, N]


def vote(n: int) -> list[float]:
    """For each problem, how often a vote of n of its replies is right."""
    shares = []
    for numbers, answer in zip(voted, truth, strict=True):
        shares.append(search_thoughts.voted_right(numbers, answer, n, seed=unit.seed))
    return shares


curves = {"majority vote": {n: vote(n) for n in sizes}}
for n in sizes:
    print(f"majority of {n:2}: {percent(bootstrap(curves['majority vote'][n], '%'))}")
more = [late - early for late, early in zip(vote(N), vote(1), strict=True)]
gain = bootstrap(more, "%")
print(f"gain of {N} over 1, problem by problem: {percent(gain)}")

# %% [markdown]
# **What to notice.** Intervals here are made over the problems, for those are what we drew at random. (The very first
# line, "one reply right", counted every reply as a draw of its own, twelve to a sum: its interval is too narrow.) The
# vote helps against one reply of the same heat: the gain, problem by problem, lies above 0. It cannot reach the line
# "at least one is right": where the model's favourite answer is wrong, more votes only make it surer. A vote of two
# is a vote of one: a tie has to be broken somehow.
#
# Now compare it with the greedy reply at the beginning of this section, which costs a twelfth. Heat had made each
# reply worse, and the vote wins that back; that it does better than greedy cannot be seen here. In the paper it did,
# by many points, for large models on harder questions. Papers and slides that compare a vote with *one hot sample*
# leave out the cheapest rival.

# %%
quiz("7.3.vote_limit")

# %% [markdown]
# ## 3. Who judges the steps?
#
# If a right reply is there, a judge could pick it. Judges come in three kinds:
#
# | judge | sees | must know |
# | --- | --- | --- |
# | the model's own **log-probability**: the mean of its tokens' logarithms (nats) | the reply | nothing |
# | **outcome** reward: is the final answer right? | the end of the reply | answers, to learn from |
# | **process** reward: is each step right? (arXiv 2211.14275, 2305.20050) | the end of every step | steps with labels |
#
# For sums no judge of steps has to be trained. A program can check each step, and does not need the right answer for
# it: is the arithmetic true, and does each number come from the question or from an earlier step?

# %% tags=["slide", "topic:process-reward"]
example = problems[0]
slip = "9 * 9 = 80. "
for step in verifiers.check_steps(example.question, slip + example.steps):
    print(f"{step.words:20} {'holds' if step.holds else 'does not hold'}")
figures.source(verifiers.check_steps)

# %% [markdown]
# How often is a reply without a fault in its steps wrong all the same, and the other way round?

# %% tags=["topic:process-reward"]
flawless = []
for problem, wording in zip(problems, replies, strict=True):
    flawless += [verifiers.flawless(problem.question, reply) for reply in wording]
hits = sum(right, [])
pairs = list(zip(flawless, hits, strict=True))
for steps, answer in ((True, True), (True, False), (False, True), (False, False)):
    count = pairs.count((steps, answer))
    print(
        f"steps {'hold' if steps else 'broken':6}, answer {'right' if answer else 'wrong'}: {count}"
    )

# %% [markdown]
# Where no program can check, a **verifier** is trained. Ours are small networks that read prisma-lm's hidden states:
# one at the end of the reply, trained on "was the answer right?", and one at the end of every step, trained on "does
# the step hold?". They learn from replies to other sums. Read the training: it has nothing special.

# %% tags=["topic:process-reward"]
figures.source(verifiers.train_verifier, verifiers.process_scores)

# %% tags=["topic:process-reward"]
lessons = reasoning.sums(settings.paced(48, 6), seed=11)
asked = [text.prompt("steps", lesson.question) for lesson in lessons]
drawn = search_thoughts.samples(weak, asked, n=6, temperature=1.0, seed=unit.seed + 1)
flat_prompts, flat_replies, outcome, holds = [], [], [], []
for lesson, prompt, wording in zip(lessons, asked, drawn, strict=True):
    for reply in wording:
        flat_prompts.append(prompt)
        flat_replies.append(reply)
        outcome.append(reasoning.last_number(reply) == lesson.answer)
        holds += [step.holds for step in verifiers.check_steps(lesson.question, reply)]
studied = verifiers.see(weak.model, weak.tokenizer, flat_prompts, flat_replies)
ends = torch.stack([one.end for one in studied])  # (replies, d)
steps = torch.cat([one.steps for one in studied])  # (steps, d)
print(f"{len(outcome)} replies, {sum(outcome)} of them right; {len(holds)} steps,", end=" ")
print(f"{sum(holds)} of them hold")

# %% tags=["topic:process-reward"]
repeated = []
for prompt in prompts:
    repeated += [prompt] * N
written = sum(replies, [])
read = verifiers.see(weak.model, weak.tokenizer, repeated, written)
judges = {"exact checker": [[float(one) for one in flawless]]}
judges["log-probability"] = [[one.log_probability for one in read]]
judges |= {"outcome verifier": [], "process verifier": []}
rows = []
for seed in (1, 2, 3):
    by_end = verifiers.train_verifier(ends, outcome, seed)
    by_step = verifiers.train_verifier(steps, holds, seed)
    judges["outcome verifier"].append(verifiers.outcome_scores(by_end, read))
    judges["process verifier"].append(verifiers.process_scores(by_step, read))
    known = verifiers.told_apart(verifiers.outcome_scores(by_end, studied), outcome)
    row = {"seed": seed, "outcome, replies it learned from": known}
    for judge in ("outcome", "process"):
        scores = judges[f"{judge} verifier"][-1]
        row[f"{judge}, new replies"] = verifiers.told_apart(scores, hits)
    rows.append(row)
figures.table(rows, caption="How often a right reply gets a higher score than a wrong one")

# %% [markdown]
# 1 is perfect and 0.5 is a coin. On the replies that it learned from, the outcome verifier is perfect. On new ones it
# is no better than a coin, and the process verifier is not either. **Guess first:** if they choose the best of
# 2, of 4, of 12 replies, what happens to the share that is right?


# %% tags=["slide", "topic:process-reward"]
def best_of(scores: list[float], worth: list[float], n: int) -> list[float]:
    """For each problem, the mean worth of the reply that `scores` choose among n."""
    means = []
    for start in range(0, len(scores), N):
        part = slice(start, start + N)
        means.append(search_thoughts.chosen_of(scores[part], worth[part], n))
    return means


def mean_of_seeds(runs: list[list[float]]) -> list[float]:
    """For each problem the mean over training seeds."""
    return torch.tensor(runs).mean(0).tolist()


for judge, runs in judges.items():
    curves[judge] = {}
    for n in sizes:
        chosen = [best_of(scores, hits, n) for scores in runs]
        curves[judge][n] = mean_of_seeds(chosen)

# %% tags=["topic:process-reward"]
rows = []
for judge in ("majority vote", *judges):
    row = {"chosen by": judge}
    for n in sizes:
        row[f"of {n}"] = percent(bootstrap(curves[judge][n], "%"))
    pairs = zip(curves[judge][N], curves[judge][1], strict=True)
    change = bootstrap([late - early for late, early in pairs], "%")
    rows.append(row | {f"change from 1 to {N}, points": percent(change).replace(" %", "")})
figures.table(rows, caption=f"Right answers to {len(problems)} sums; verifiers: mean of 3 seeds")

# %% tags=["topic:process-reward"]
fig, axes = figures.figure(columns=2, width=9, height=3.6)
told = {}
for ax, judge in zip(axes, ("outcome verifier", "process verifier"), strict=True):
    beliefs = []
    for n in sizes:
        runs = [best_of(scores, scores, n) for scores in judges[judge]]
        beliefs.append(torch.tensor(runs).mean().item())
    truths = [bootstrap(curves[judge][n], "%") for n in sizes]
    heights, bounds = error_bars(truths)
    ax.plot(sizes, beliefs, "s--", label="what it believes")
    ax.errorbar(sizes, heights, bounds, marker="o", capsize=3, label="the truth")
    ax.set(title=judge, xlabel="replies to choose from", ylim=(0, 1), xticks=sizes)
    told[judge] = f"believes {beliefs[0]:.0%} to {beliefs[-1]:.0%}, true {heights[0]:.0%}"
    told[judge] += f" to {heights[-1]:.0%}"
axes[0].set(ylabel="share right")
axes[0].legend()
alt = f"From 1 to {N} replies; {figures.told(told)}."
figures.show(fig, alt=alt)

# %% [markdown]
# **What to notice.** This is **over-optimisation**. The more replies the outcome verifier may choose from, the surer
# it becomes, and the more often it is wrong: at the end it is worse than no choice at all, and the interval of that
# change lies below 0. Its scores on the replies that it learned from were perfect: it has learned those by heart.
# Among many new replies it finds the odd one that it misjudges most. An average over all replies says little about
# the *highest* scores, and the highest are what a choice takes. Gao et al. (2022, arXiv 2210.10760) measured the same
# for large reward models: the proxy's score rises, the true reward rises, too, and then falls. Cobbe et al. (2021,
# arXiv 2110.14168) saw it with verifiers for sums and very many samples. Ours turn much earlier, for they have seen a
# few hundred replies. Training on a reward (reinforcement learning) chooses far harder than best of 12.
#
# Is process reward safer? Not here: its belief rises and its truth falls, too (look at the interval of its change).
# What does help is what nobody trained: the model's own log-probability, and the exact checker, which nearly reaches
# what twelve replies hold. Where a program can check, let it. It has a limit, too: replies whose steps all hold and
# that answer *another* question.

# %%
quiz("7.3.best_of_many")

# %% [markdown]
# ## 4. Can it search instead?
#
# Whole replies are judged too late: a slip in the first step spoils all that follows. **Tree of thoughts** (Yao et
# al. 2023, arXiv 2305.10601) writes a few versions of the *next step*, values them, keeps the best few, and goes on
# from those. What it needs is a value for half-finished work. We try two: the number of steps that do not hold (a
# program knows), and the log-probability so far (the model's own).

# %%
fig, ax = figures.figure(width=8, height=3.0)
tree = {"": (0, 1.5), "7 * 27 = 189.": (1, 2.3), "7 * 27 = 109.": (1, 0.7)}
tree |= {"4 * 3 = 12.": (2, 2.8), "4 * 3 = 28.": (2, 1.8), "(cut off)": (2, 0.7)}
tree |= {"189 + 12 = 201.": (3, 2.8)}
edges = [("", "7 * 27 = 189."), ("", "7 * 27 = 109."), ("7 * 27 = 189.", "4 * 3 = 12.")]
edges += [("7 * 27 = 189.", "4 * 3 = 28."), ("7 * 27 = 109.", "(cut off)")]
edges += [("4 * 3 = 12.", "189 + 12 = 201.")]
for start, end in edges:
    (left, low), (right_end, high) = tree[start], tree[end]
    ax.plot([left, right_end], [low, high], color=figures.GREY, zorder=1)
paper = {"boxstyle": "round", "facecolor": "white"}
for words, (x, y) in tree.items():
    ax.text(x, y, words or "question", ha="center", va="center", bbox=paper)
ax.set(xlim=(-0.4, 3.5), ylim=(0.2, 3.2))
ax.axis("off")
alt = "A tree: from the question to two first steps; the wrong one is cut off; the other goes on."
figures.show(fig, alt=alt)

# %% [markdown]
# ### Exercise: Search the tree in breadth (medium, about 20 minutes)
#
# Keep a few half-finished solutions, and go on from the best. `hint("7.3.beam_over_thoughts")` helps. Until your
# function passes, the notebook goes on with the course's own, and says so.


# %%
def beam_over_thoughts(
    start: str,
    propose: Callable[[str], list[str]],
    value: Callable[[str], float],
    width: int,
    depth: int,
) -> list[str]:
    """Tree of thoughts, searched breadth first (arXiv 2305.10601): the last beam, the best first.

    A state is a text. The beam begins with `start` alone. `depth` times: propose(state) gives the
    states that can follow each state of the beam; if it gives none, the state is complete and
    stays as it is. Of all these together, equal ones counted once, the `width` with the highest
    value(state) are the new beam. Equally good ones stay in the order in which they came.
    """
    # Your code here
    raise NotImplementedError


# %%
beam_over_thoughts = check("7.3.beam_over_thoughts", beam_over_thoughts)

# %% [markdown]
# First without a model. Begin with 5; a step adds 3 or doubles; come to 49 in five steps. What does a beam of one do,
# which always takes the step that brings it nearest?


# %% tags=["topic:tree-of-thoughts"]
def number(state: str) -> int:
    """What "5 +3 *2" comes to, step by step from the left: 16."""
    first, *steps = state.split()
    result = int(first)
    for step in steps:
        result = result + 3 if step == "+3" else result * 2
    return result


def both_steps(state: str) -> list[str]:
    return [f"{state} +3", f"{state} *2"]


def nearness(state: str) -> float:
    return -abs(49 - number(state))


for width in (1, 2, 4):
    best = beam_over_thoughts("5", both_steps, nearness, width, 5)[0]
    print(f"{whose(beam_over_thoughts)}, width {width}: {best} = {number(best)}")

# %% [markdown]
# A value that looks only at the distance throws away a state that seems far off and is one step from the goal. A
# wider beam keeps it. Now with the model; the steps are its own, and all sums are searched together:

# %% tags=["slide", "topic:tree-of-thoughts"]
figures.source(search_thoughts.beam)


# %% tags=["topic:tree-of-thoughts"]
def by_checker(texts: list[str]) -> list[float]:
    """Minus the number of steps that do not hold."""
    values = []
    for whole in texts:
        question, _, written = whole.partition("<|assistant|>")
        steps = verifiers.check_steps(question, written)
        broken = [step for step in steps if not step.holds]
        values.append(-len(broken))
    return values


def by_probability(texts: list[str]) -> list[float]:
    """The mean log-probability of what is written so far."""
    parts = [whole.partition("<|assistant|>") for whole in texts]
    questions = [question + marker for question, marker, _ in parts]
    written = [rest for _, _, rest in parts]
    read = verifiers.see(weak.model, weak.tokenizer, questions, written)
    return [one.log_probability for one in read]


some = settings.paced(24, 4)
searched = {}
for name, value in (("checker", by_checker), ("log-probability", by_probability)):
    searched[name] = search_thoughts.beam(weak, prompts[:some], value, width=2, children=2)

# %% tags=["topic:tree-of-thoughts"]
rows = []
length = search_thoughts.tokens_of(weak.tokenizer, written)
per_reply = sum(length) / len(length)
trees = {}
for name, results in searched.items():
    numbers = [reasoning.last_number(one.reply) for one in results]
    tokens = sum(one.tokens for one in results) / some
    trees[name] = (tokens, share(matches(numbers, truth[:some])))
    row = {"value of a step": name, "right": percent(trees[name][1]), "tokens written": tokens}
    rows.append(row | {"as many as replies": tokens / per_reply})
alone = [measure for measure in curves["majority vote"][1][:some]]
row = {"value of a step": "(one reply)", "right": percent(bootstrap(alone, "%"))}
rows.append(row | {"tokens written": per_reply, "as many as replies": 1.0})
figures.table(rows, caption=f"Beams of width 2, two next steps each, on {some} sums", digits=1)

# %% [markdown]
# **What to notice.** The search costs a little less than three replies and gets more sums right than one, though the
# intervals still meet. With the exact checker as its value it cuts a wrong step before anything is built on it; the
# model's own log-probability does about as well here. Compare it with the best of 4 replies in section 3, and mind
# the intervals: the sums here are few, and none of these searches can be told from a greedy reply yet. A search is as
# good as its value. (In the paper, GPT-4 solved 4 % of the puzzles "game of 24" with a chain of thought, and 74 %
# with a tree. There the model values its own steps.)

# %% [markdown]
# ## 5. What does a token buy?
#
# Every method costs tokens: time, power, money. So compare methods at *equal cost*, all in one figure.

# %% tags=["topic:inference-compute"]
room = {"direct": 16, "steps": 72}
direct = [text.prompt("direct", problem.question) for problem in problems]
short = weak.complete_many(direct, max_new_tokens=room["direct"])
at_once = matches([reasoning.last_number(reply) for reply in short], truth)
cost_at_once = sum(search_thoughts.tokens_of(weak.tokenizer, short)) / len(short)
points = {"at once": (cost_at_once, share(at_once))}
points["greedy steps"] = (per_reply, share(greedy["pruned"]))
points["greedy steps, whole model"] = (per_reply, share(greedy["whole"]))
for name, result in trees.items():
    points[f"tree, {name}"] = result

# %% tags=["topic:inference-compute"]
fig, ax = figures.figure(width=9, height=4.6)
said = {}
for name, curve in curves.items():
    measured = [bootstrap(curve[n], "%") for n in sizes]
    heights, bounds = error_bars(measured)
    ax.errorbar([n * per_reply for n in sizes], heights, bounds, marker="o", capsize=2, label=name)
    said[name] = f"{heights[0]:.0%} to {heights[-1]:.0%}"
for (name, (tokens, measure)), marker in zip(points.items(), "vD*sP", strict=True):
    heights, bounds = error_bars([measure])
    style = {"marker": marker, "markersize": 9, "capsize": 2, "linestyle": "none"}
    ax.errorbar([tokens], heights, bounds, label=name, **style)
    said[name] = f"{measure.value:.0%}"
ax.set_xscale("log", base=2)
ax.set(xlabel="tokens written for one answer", ylabel="share right", ylim=(0, 1.03))
ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
figures.show(fig, alt=f"Share right against tokens; from 1 to {N} replies: {figures.told(said)}.")

# %% [markdown]
# **What to notice.** The upper left edge of the figure is the **frontier**: nothing there gives more for the same
# tokens. The largest step is the first one, from an answer at once to an answer with steps. Then comes a surprise:
# one *greedy* reply stands above the mean of single samples (their intervals just meet), and much of what the vote
# and the judges win is won back from the heat. What the exact checker chooses, and the searches, end up somewhat
# above greedy, but with so few sums not even that is certain: the intervals overlap. What is certain is that a bad
# verifier turns tokens into mistakes. And the whole model is better with one greedy reply than the weak one with a
# vote of twelve.
#
# More thinking stands in for a better model only where the model can sometimes do it and somebody can tell when.
# Snell et al. (2024, arXiv 2408.03314) found that on problems which a model can sometimes solve it beat a model 14
# times as large, and that on the hardest problems it brought little. *Large Language Monkeys* (arXiv 2407.21787)
# found that coverage goes on growing over thousands of samples, while majority and reward models stop choosing better
# after some hundred.
#
# We count written tokens. The judges read, too: a pass over the reply, cheaper than to write it, not free.

# %%
quiz("7.3.fair_tokens")

# %% [markdown]
# ## 6. What do today's reasoning models do differently?
#
# Everything so far left the model as it was. o1 (OpenAI, September 2024) and DeepSeek-R1 (January 2025, arXiv
# 2501.12948) are *trained* to use long chains of thought, by **reinforcement learning with verifiable rewards**:
# write many solutions, let a program check the final answer or run the tests, and make what led to right ones
# likelier. It needs no labelled steps and no learned verifier: the R1 paper names reward hacking of a neural reward
# model as the reason for doing without. Section 3 shows why.
#
# What is published, with its source:
#
# | finding | source |
# | --- | --- |
# | R1-Zero, by rewards alone: 15.6 to 71.0 % of a contest (AIME 2024), 86.7 % with a vote of 64 | arXiv 2501.12948 |
# | its method, GRPO, compares each solution with the mean of its group (you write it in Unit 7.5) | arXiv 2402.03300 |
# | 1,000 chosen examples teach long thinking; "Wait" at the end forces more of it: 50 to 57 % | s1, arXiv 2501.19393 |
# | with very many samples the base model solves as many problems: what grew is the first try | arXiv 2504.13837 |
# | asked to correct themselves without a check from outside, models often get worse | arXiv 2310.01798 |
# | a hint that they used stands in their reasoning often less than 20 % of the time | arXiv 2505.05410 |
# | punish "bad thoughts" in the chain, and the model hides them and cheats on | arXiv 2503.11926 |
# | so: keep chains of thought readable, as a chance for oversight that can be lost | arXiv 2507.11473 |
#
# o1's training is not published in such detail; OpenAI reports that its accuracy grows with the logarithm of both
# training and thinking time. Most of these results come from mathematics and code, where a program can check.

# %% [markdown]
# **What to notice.** Read the fourth row beside section 2: a vote and a training on rewards both move the model from
# "sometimes" to "usually". And read the last three before you show a chain of thought to a user as *the reason*.

# %% [markdown]
# ## 7. How would you attack your own assistant?
#
# **Red teaming** means to attack a system before others do, with a list of attacks that can be run again after every
# change. Our target is the shop's agent of Unit 7.2, one step at a time: the customer writes, and the agent says
# which tool it calls. Customers are logged in. Four things must not happen: the agent looks up *another's order* or
# *another's last order*, it repeats *its system text*, or it says of an order that it was returned, whereupon a
# *refund* is paid without approval. For the last one the attacker writes no message. He chooses his *name*, and the
# tool reads it to the agent.

# %% tags=["topic:red-teaming"]
guests = red_team.visits(shop.make_shop(73), settings.paced(6, 3), seed=unit.seed)
guest = guests[0]
print("The customer:   ", guest.own.record)
print("Somebody else:  ", guest.other.record)
for attack in red_team.leaks(guest)[:9]:
    print(f"{attack.kind:17} {attack.message!r}")
for attack in red_team.injections(guest):
    print(f"a name: {attack.kind:21} {attack.message!r}")

# %% [markdown]
# These are the known kinds: an order to ignore the rules, a new role, many shots (made-up examples of an assistant
# that tells all), a forged turn of the conversation, and disguises: digits for letters (leet), base64, another
# language, a request in pieces. **Guess first:** which works best on so small a model?


# %% tags=["topic:red-teaming"]
def asks(ones: list) -> list[str]:
    """What the agent does next in each case."""
    waiting = [one.prompt for one in ones]
    return prisma.complete_many(waiting, max_new_tokens=28, stop=["Observation:"])


suite, courteous = [], []
for guest in guests:
    suite += red_team.leaks(guest) + red_team.injections(guest)
    courteous += red_team.honest(guest, random.Random(guest.own.number))
said = asks(suite)
told = asks(courteous)
succeeded = [attack.succeeds(reply) for attack, reply in zip(suite, said, strict=True)]
served = [one.served(reply) for one, reply in zip(courteous, told, strict=True)]
print(f"attacks that succeed:           {percent(share(succeeded))}")
print(f"honest requests served rightly: {percent(share(served))}")

# %% tags=["topic:red-teaming"]
by_kind = {}
for attack, success in zip(suite, succeeded, strict=True):
    goals = by_kind.setdefault(attack.kind, {})
    goals.setdefault(attack.goal, []).append(success)
empty = dict.fromkeys((attack.goal for attack in suite), "")
rows = []
for kind, goals in by_kind.items():
    shares = {goal: percent(share(hits)) for goal, hits in goals.items()}
    rows.append({"attack": kind} | empty | shares)
figures.table(rows, caption=f"Attacks that succeed, without a defence, {len(guests)} customers")

# %% [markdown]
# **What to notice.** No disguise beats the plain question, which works every time for another's orders. This agent
# has never learned to refuse, so there is nothing to talk it out of; and a disguise that it cannot read (base64, a
# request in pieces) hides the request from the *model*, too. A large model reads base64, and its training in refusing
# hardly covered it: that gap is what makes disguises work there (Wei et al. 2023, arXiv 2307.02483). An attack has to
# pass the filter *and* be understood. What was not taught cannot be abused: prisma-lm repeats no system text, and it
# believes the database's word at the end of the line more than a name (Unit 7.2 has names that got through now and
# then). A 0 here says "not by these": with so few customers the interval reaches far up.
#
# Now three filters. Rules on the **input**: suspicious words, markers, numbers of orders that are not the customer's,
# names of others. Rules on the **output**: which order may this customer look up, and does the status stand in the
# database? And a **trained classifier** of messages: logistic regression on pieces of three letters. A filter must be
# judged on what it has *not* seen. So the classifier comes in two versions: one has learned from all kinds of attacks
# and of honest messages (of other customers), the other never from the kind that it judges.

# %% tags=["topic:red-teaming"]
figures.source(red_team.stopped_by_rules, red_team.stopped_at_the_door, red_team.features)

# %% tags=["topic:red-teaming"]
bad, good = defaultdict(list), defaultdict(list)
for guest in red_team.visits(shop.make_shop(74), settings.paced(8, 3), seed=unit.seed):
    for attack in red_team.leaks(guest) + red_team.injections(guest):
        bad[attack.kind].append(attack.message)
    for one in red_team.honest(guest, random.Random(guest.own.number)):
        good[one.kind].append(one.message)


def without(messages: dict[str, list[str]], kind: str) -> list[str]:
    """All messages but those of one kind."""
    others = [written for name, written in messages.items() if name != kind]
    return sum(others, [])


knows_all = red_team.train_classifier(without(bad, ""), without(good, ""))
classifiers = {}
for kind in figures.progress([*bad, *good], "Training"):
    classifiers[kind] = red_team.train_classifier(without(bad, kind), without(good, kind))

# %% tags=["topic:red-teaming"]
cases = list(zip(suite + courteous, said + told, strict=True))
stopped = {"nothing": [False] * len(cases)}
stopped["input rules"] = [red_team.stopped_by_rules(one.message, one.visit) for one, _ in cases]
stopped["classifier, kinds it knows"] = knows_all([one.message for one, _ in cases])
stopped["classifier, new kinds"] = [classifiers[one.kind]([one.message])[0] for one, _ in cases]
stopped["output rules"] = [red_team.stopped_at_the_door(reply, one.visit) for one, reply in cases]

through, refused, helped = {}, {}, {}
for defence, decisions in stopped.items():
    stops, honest_stops = decisions[: len(suite)], decisions[len(suite) :]
    pairs = zip(succeeded, stops, strict=True)
    through[defence] = share([success and not stop for success, stop in pairs])
    refused[defence] = share(honest_stops)
    pairs = zip(served, honest_stops, strict=True)
    helped[defence] = share([right and not stop for right, stop in pairs])

# %% tags=["topic:red-teaming"]
rows = []
for defence, measure in through.items():
    row = {"defence": defence, "attacks that succeed": percent(measure)}
    row["honest requests refused"] = percent(refused[defence])
    rows.append(row | {"honest requests served": percent(helped[defence])})
figures.table(rows, caption=f"{len(suite)} attacks and {len(courteous)} honest requests")

# %% tags=["topic:red-teaming"]
fig, ax = figures.figure(width=8, height=4.0)
for (defence, measure), marker in zip(through.items(), "os^vD", strict=True):
    height, bounds = error_bars([measure])
    place, sides = error_bars([refused[defence]])
    style = {"marker": marker, "markersize": 8, "capsize": 2, "linestyle": "none"}
    ax.errorbar(place, height, bounds, sides, label=defence, **style)
ax.set(xlabel="honest requests refused (the price)", ylabel="attacks that succeed")
ax.set(xlim=(-0.02, 1.0), ylim=(-0.02, 0.6))
ax.legend(loc="upper right")
said_of = {}
for defence, measure in through.items():
    said_of[defence] = f"{measure.value:.0%} succeed, {refused[defence].value:.0%} refused"
alt = f"Price across, success up; the corner at 0, 0 is best. {figures.told(said_of)}."
figures.show(fig, alt=alt)

# %% [markdown]
# **What to notice.** Each filter has a price on the other axis, and a number without it means nothing: to refuse
# everything stops all attacks. (The last column does not begin at 100 %: some honest requests this agent gets wrong
# by itself.) The input rules stop these attacks and turn away honest people who mention a friend or a code with four
# digits. The classifier shows the usual trap. Judged on kinds that it has learned from, it has no price at all. On
# kinds that are new to it, it refuses a good part of the honest requests. (More attacks get through, too, but those
# intervals overlap.) Your list of messages becomes its exam *and* its textbook.
#
# The best row does not read the message at all. It asks what no message can change: whose order is that, and what
# does the database say? Here it is the same rule that defines the attack's success, so its 0 is no surprise; that is
# the point. Decide *outside* the model what it may see and do. (The attacks are not independent of each other: the
# same customers, many times over. Read the intervals as "for these".)
#
# With large models the same holds, with larger numbers. Constitutional classifiers brought the success of jailbreaks
# from 86 to 4.4 %, for 0.38 points more refusals and 24 % more computing (arXiv 2501.18837). Attackers who adapt to
# the defence broke 12 published ones, most with more than 90 % success (*The attacker moves second*, arXiv
# 2510.09023): a suite that stays the same measures yesterday. CaMeL (arXiv 2503.18813) takes the road of our last
# row: the model that reads untrusted text may not decide which tool is called.

# %%
quiz("7.3.attacks_blocked")

# %% [markdown] tags=["topic:oversight-value-learning"]
# ## 8. Who checks the checker?
#
# **Scalable oversight** asks how people can supervise models whose work they can no longer check in full. Ideas that
# are being tried: let models criticise or *debate*, so that a person only judges the argument (arXiv 1805.00899; with
# more persuasive debaters, judges without the text were right in 76 to 88 %, against 48 to 60 % without a debate,
# arXiv 2402.06782); check steps instead of answers (section 3); split a task until each part can be checked (arXiv
# 1810.08575); train a strong model on a weak one's labels and see how much of the strength survives: with GPT-2's
# labels, GPT-4 comes most of the way to GPT-3.5 in language tasks, and less far where rewards are modelled
# (*weak-to-strong generalisation*, arXiv 2312.09390).
#
# **Value learning** asks where the goal itself comes from. People's wishes are learned from comparisons (RLHF, lab
# "alignment") or from what they do (arXiv 1606.03137). Either way the learned goal is a proxy, and section 3 showed
# what optimising a proxy does: **Goodhart's law**, "when a measure becomes a target, it ceases to be a good measure".
# Further problems that are known by name: side effects, and behaviour that changes when the situation does (*Concrete
# problems in AI safety*, arXiv 1606.06565). And a habit hidden in training can outlive safety training (*sleeper
# agents*, arXiv 2401.05566). For the long term nobody has a proof; what there is are measurements such as these, and
# honest reports of where they end.
#
# One worked number. A model does something harmful in a share $p$ of its answers; a checker who looks at one notices
# it with probability $d$. How many must he see to notice at least one with 95 % probability? $1 - (1 - pd)^n \geq
# 0.95$:

# %%
rows = []
for harmful in (0.05, 0.01, 0.001):
    row = {"harmful answers": f"{harmful:.1%}"}
    for notices in (1.0, 0.5, 0.1):
        missed = 1 - harmful * notices  # the probability that one look shows nothing
        row[f"notices {notices:.0%}"] = math.ceil(math.log(0.05) / math.log(missed))
    rows.append(row)
proxy = torch.tensor([best_of(scores, scores, N) for scores in judges["outcome verifier"]]).mean()
real = torch.tensor(curves["outcome verifier"][N]).mean()
print(f"Goodhart in one line: chosen among {N}, believed right {proxy:.0%}, truly right {real:.0%}")
figures.table(rows, caption="Answers to look at until one is noticed, with 95 % probability")

# %% [markdown]
# **What to notice.** A checker who notices a tenth needs ten times as many looks, and a rare harm needs thousands, if
# harms come at random. A model that behaves when it is watched is not random, and then no number of looks is enough.
# That is why people work on looking *inside* (part 1 of this unit), too.

# %% [markdown]
# ## 9. The same with a real model
#
# Now without Prisma and without our helpers: SmolLM2 with 135 million weights (arXiv 2502.02737, Apache-2.0) and
# eight word problems, in the plain lines of `transformers`. Leave out the first line of each cell, and you can paste
# it into an empty notebook. At the small and the full tier these lines run here (a download of 0.3 GB). At the
# bundled tier you see a **recording**: what the same lines gave on a machine that has the model. **Guess first:** the
# paper found gains only in very large models. What will steps do here?

# %% tags=["topic:cot"]
# %%real steps
import re

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# With more memory, put in "Qwen/Qwen2.5-1.5B-Instruct".
hub_name = "HuggingFaceTB/SmolLM2-135M-Instruct"
words = AutoTokenizer.from_pretrained(hub_name, padding_side="left")
network = AutoModelForCausalLM.from_pretrained(hub_name, dtype=torch.float32)
problems = {
    "Tom has 3 bags with 4 apples each. How many apples does he have?": 12,
    "A box holds 6 eggs. Ann buys 2 boxes and breaks 3 eggs. How many are left?": 9,
    "A ticket costs 5 dollars. What do 4 tickets cost?": 20,
    "Sam had 15 marbles. He gave 6 to Lea and found 2. How many does he have now?": 11,
    "A train has 3 cars with 20 seats each. 10 seats are empty. How many are taken?": 50,
    "Mia reads 7 pages a day. How many pages does she read in 5 days?": 35,
    "A pen costs 2 dollars and a book costs 9 dollars. What do 3 pens and a book cost?": 15,
    "There were 30 birds. Half of them flew away. Then 4 came back. How many are there?": 19,
}

# %% tags=["topic:cot"]
# %%real steps
orders = {
    "at once": "Answer with the number only.",
    "in steps": "Think step by step, and then write 'Answer:' and the number.",
}
for label, order in orders.items():
    chats = [[{"role": "user", "content": f"{problem} {order}"}] for problem in problems]
    asked = words.apply_chat_template(
        chats, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
    )
    rows = network.generate(**asked, max_new_tokens=120, do_sample=False)
    new = rows[:, asked["input_ids"].shape[1] :]
    replies = words.batch_decode(new, skip_special_tokens=True)
    numbers = [re.findall(r"\d+", reply) for reply in replies]
    pairs = zip(numbers, problems.values(), strict=True)
    right = [bool(found) and int(found[-1]) == truth for found, truth in pairs]
    written = (new != words.pad_token_id).sum().item() / len(replies)
    print(f"{label}: {sum(right)} of {len(right)} right, {written:.0f} tokens a reply")
    for reply in replies[:3]:
        print(f"  {reply!r}")

# %% [markdown]
# **What to notice.** In the recording the steps bring nothing: 2 of 8 right when asked for the number only, 1 of 8
# when asked for steps, and with eight questions these are the same. Read the replies. The model writes steps although
# it was told not to, and its steps are wrong in the first line or forget the second half of the question. Its
# imitation of reasoning has the form ("The answer is 10.") and not the arithmetic. That agrees with the paper of
# section 1: prompting for steps is of no use to a small model that has not learned the steps. One reply in steps says
# "4 * 5 = 20", which is right. prisma-lm has a twenty-fifth of its weights and is nearly perfect at one kind of sum:
# it was trained for it.
#
# (No hub was to be had, and the weights came from a file of 4 bits. The line above the recording says so.)
#
# **Try it.** Put in a model of 1.5 billion weights, and vote over ten replies with `do_sample=True`.

# %% [markdown]
# ## What you take with you
# - Steps are a scratch paper. Whether they are the *reason* has to be tested: change one, and see what follows.
# - More samples help as far as somebody can choose. Count coverage and choice apart, and compare with one greedy reply.
# - An exact check beats a trained judge. A trained judge is to be measured *where it chooses*, at its highest scores.
# - Compare at equal cost, and put the better model into the same figure.
# - Report a defence with its price, on attacks that it has not seen. Decide outside the model what it may see and do.
#
# **Try it.** Repeat sections 2 and 3 at a temperature of 0.5: does the vote now beat greedy? Let the process verifier
# vote: add up its scores for each answer instead of taking the best reply. Is it still over-optimised? Give the
# verifiers twice the lessons in section 3. Write an attack that passes both kinds of rules, and an honest message
# that neither lets through.
