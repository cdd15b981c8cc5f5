# %% [markdown] tags=["badge"]
# # 7.5 Lab: reinforcement learning from rewards
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.5_lab_reinforcement_learning.ipynb)

# %% [markdown]
# **After this notebook you can**
# - write GRPO by hand, and raise a reward that a program can verify;
# - name the four models of PPO, and say which one GRPO does without;
# - train a reward model from preferences, and find out what it cannot see;
# - watch a policy game a learned reward while the replies get worse;
# - check the claim that DPO is more stable and needs fewer samples, with three seeds each.
#
# **Time:** about 25 minutes to read and run; the cells take about two minutes on two free CPU cores.
#
# **Downloads:** nothing. This lab trains a dozen small models, so it takes `prisma-lm` at every tier. It knows
# Prisma's toy shop and nothing else. `7.5_lab_dpo` explains the task at more leisure; you do not need it first.

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

# %%
from course_utils import open_unit

unit = open_unit("7.5", tier="bundled")

# %%
import copy
import random
import statistics
import time

import torch
from torch import Tensor

from course_utils import compat, figures
from course_utils.finetuning import four_bit, qlora
from course_utils.finetuning import preferences as prefs
from course_utils.measures import bootstrap, percent
from course_utils.settings import paced

chat = unit.load("chat")
SEEDS = range(1, 1 + paced(3, least=2))

# %% [markdown]
# ## 1. A reward that a program can verify
#
# Customers ask Prisma where an order is, or what is in it. A model that was fine-tuned on the shop's old mail answers
# like the staff: sometimes rude, sometimes wrong, sometimes long. Three rules can be checked by a program that
# knows the record: the **fact** (two points), **courtesy** and **brevity** (one point each).
#
# Such a reward is called *verifiable*: a unit test, the answer of a sum, a rule. Nobody has to label anything.
# But nobody can differentiate it either. The model writes, the program says a number. How can a number teach?

# %%
start = prefs.imitate(chat, seed=1)
test = prefs.cases(paced(96), seed=2)


def row(name: str, texts: list[str]) -> dict:
    """How many of the replies keep each rule, their mean points and their mean length."""
    kept = prefs.rules_kept(test, texts)
    line = {"model": name}
    for rule in ("fact", "courtesy", "brevity"):
        line[rule] = f"{kept[rule].value:.0%}"
    line["points"] = prefs.mean_points(test, texts)
    line["words"] = prefs.mean_words(texts)
    return line


start_texts = prefs.sample(start, test, seed=9)
begin = row("imitates staff", start_texts)
for case, text in zip(test[:4], start_texts[:4], strict=True):
    points = prefs.points(case, text)
    print(f"{case.messages[0]['content']} | {case.question}\n  {text} ({points} points)")
caption = f"Replies to {len(test)} customers at temperature 1; at most 4 points"
figures.table([begin], caption=caption)

# %% [markdown]
# ## 2. GRPO by hand
#
# A policy gradient does the obvious: make replies with a high reward more probable. High compared with what? With
# the other replies to *the same* prompt. **Group relative policy optimisation** (GRPO; Shao et al. 2024, arXiv
# 2402.03300) draws a group of replies to each prompt, and a reply's **advantage** is how far its reward lies
# above the group's mean, in standard deviations. Every token of the reply gets this advantage.
#
# Two safety belts. The probability of a token may change by 20 % at most before its gradient is **clipped**,
# because the replies were drawn by the model as it was. And a **KL** term pulls the policy towards the model it
# started from. (The KL divergence says how far two models are apart: how much more probable, in natural logarithms and
# so in *nats*, the policy finds its own replies than the start does. At 0 they are the same.)


# %% tags=["topic:rlhf-ppo-grpo"]
def advantages(reward: Tensor) -> Tensor:
    """How far each reply lies above its group's mean, in standard deviations: (groups, size)."""
    mean = reward.mean(1, keepdim=True)  # (groups, 1)
    deviation = reward.std(1, keepdim=True)  # (groups, 1)
    return (reward - mean) / (deviation + 1e-4)  # where all rewards are equal: 0


# %% tags=["topic:rlhf-ppo-grpo"]
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


# %% tags=["topic:rlhf-ppo-grpo"]
for rewards in ([4.0, 1.0, 1.0, 2.0], [2.0, 2.0, 2.0, 2.0]):
    group = torch.tensor([rewards])  # (1, 4)
    of_group = advantages(group)[0]
    rounded = [round(advantage, 2) for advantage in of_group.tolist()]
    print(f"rewards {rewards}: advantages {rounded}")

# %% [markdown]
# **What to notice.** A group in which all rewards are equal teaches nothing. So a prompt is useful only if the model
# *sometimes* succeeds. What it never does by itself, it can't be rewarded for: reinforcement learning chooses among
# what the model can already write.
#
# Around the loss stands a loop: draw replies, ask for rewards, compute advantages, take two steps on the loss, repeat
# (`prefs.grpo`). Here is the reward, and the run, with three seeds.


# %% tags=["topic:rlhf-ppo-grpo"]
def rules(asked: list, drawn: prefs.Drawn) -> Tensor:
    """The verifiable reward: 0 to 4 points for each reply."""
    marks = [prefs.points(case, text) for case, text in zip(asked, drawn.texts, strict=True)]
    return torch.tensor(marks, dtype=torch.float32, device=drawn.ids.device)


verified, times = {}, []
for seed in SEEDS:
    began = time.perf_counter()
    verified[seed] = prefs.grpo(start, rules, steps=8, seed=seed)
    seconds = time.perf_counter() - began
    times.append(seconds)
rows = []
for seed, (policy, _) in verified.items():
    texts = prefs.sample(policy, test, seed=9)
    line = row(f"GRPO on the rules, seed {seed}", texts)
    rows.append(line)
print(f"8 steps of 4 prompts with 6 replies each: {min(times):.0f} s, the shortest of three runs")
figures.table([begin, *rows], caption=f"Replies to {len(test)} customers at temperature 1")


# %%
def draw_curve(ax, log: list[dict], key: str, name: str | None = None) -> None:
    """One number of a training run, step by step."""
    steps = range(1, len(log) + 1)
    values = [entry[key] for entry in log]
    ax.plot(steps, values, "o-", markersize=4, label=name)


fig, axes = figures.figure(columns=2, width=10, height=3.2)
ends = []
for seed, (_, log) in verified.items():
    draw_curve(axes[0], log, "reward", f"seed {seed}")
    draw_curve(axes[1], log, "kl")
    ends.append(f"{log[0]['reward']:.2f} to {log[-1]['reward']:.2f}")
axes[0].set(xlabel="step", ylabel="mean reward (0 to 4)")
axes[1].set(xlabel="step", ylabel="KL from the start (nats a reply)")
axes[0].legend()
alt = f"Mean reward while training, first to last step of three seeds: {', '.join(ends)};"
figures.show(fig, alt=f"{alt} and the KL divergence.")

# %% [markdown]
# **What to notice.** Nobody told these models what a good reply is; they got numbers. Each point of the curves is
# the mean of 24 replies to four customers, so they are rough; the table, on customers never met, is the
# measurement, and the seeds differ. See which rule moves most. What a single early word decides is found at once
# by trial. The fact is harder: a reply that is right there differs from its neighbours by a few tokens, but the
# advantage falls on all of them alike.
#
# This is the loop of DeepSeekMath, and the one that made DeepSeek-R1 reason (arXiv 2501.12948): there, a program
# checks the answer of a sum.

# %% [markdown]
# ### The same through TRL
#
# `GRPOTrainer` takes a model, a function that gives rewards, and rows with prompts; further columns of a row
# reach the function. (Unit tests hold our loss and advantages against TRL's, to 1e-5.)


# %% tags=["topic:rlhf-ppo-grpo"]
def reward(completions: list, number: list[int], **_: object) -> list[float]:
    """TRL hands over chat messages and the row's other columns."""
    marks = []
    for messages, n in zip(completions, number, strict=True):
        mark = prefs.points(customers[n], messages[0]["content"])
        marks.append(float(mark))
    return marks


customers = prefs.cases(16, seed=40)
rows = [{"prompt": case.messages, "number": i} for i, case in enumerate(customers)]

# %% tags=["topic:rlhf-ppo-grpo"]
on_cpu = four_bit.training_device(unit.hardware) == "cpu"
settings = compat.grpo_config(
    unit.folder / "grpo", groups=4, size=6, steps=4, learning_rate=2e-3, beta=0.04, room=64,
    seed=unit.seed, cpu=on_cpu, **qlora.precision(unit.hardware),
)  # fmt: skip
model = copy.deepcopy(start.model)
adapter = compat.lora_config(16, 32)
trainer = compat.grpo_trainer(model, settings, rows, reward, chat.tokenizer, adapter)
trainer.train()
history = [entry for entry in trainer.state.log_history if "reward" in entry]
by_step = ", ".join(f"{entry['reward']:.2f}" for entry in history)
print("mean reward by step:", by_step)

# %% [markdown]
# Four updates on two draws of replies show how it is called, and that it runs; the difference between two draws
# is chance. For a result, raise `steps`.
#
# ## 3. PPO, and what GRPO leaves out
#
# RLHF as in InstructGPT (arXiv 2203.02155) used **PPO** (Schulman et al. 2017, arXiv 1707.06347). The clipped
# ratio in our loss is PPO's. PPO keeps four models in memory:
#
# | model | what for | trained? | in this lab's GRPO |
# | --- | --- | --- | --- |
# | policy | writes the replies | yes | the model with its adapter |
# | reference | the KL term: do not drift | no | the same model, adapter off |
# | reward model | a number for a whole reply | before, from preferences | a program, or section 4's head |
# | critic (value model) | the expected reward from each token on | yes, with the policy | none: the group's mean |
#
# The **critic** is PPO's answer to "high compared with what?". It is usually as large as the policy, must be trained
# itself, and is wrong at the start. GRPO draws several replies instead and takes their mean: more sampling, one model
# fewer. What is lost is credit for single tokens, the very thing that the fact would need. How much memory is it?

# %% tags=["topic:rlhf-ppo-grpo"]
from course_utils.memory import formulas, shapes

frozen = formulas.weight_bytes("mistral-7b") / shapes.GIB
full = formulas.estimate("mistral-7b", "full", seq=512).total
lora = formulas.estimate("mistral-7b", "lora", seq=512).total
both = formulas.estimate("mistral-7b", "lora", seq=512, batch=2).total  # DPO reads a pair at once
not_trained = 2 * frozen  # the reference and the reward model
ways = {
    "PPO, everything trained in full": 2 * full + not_trained,
    "GRPO, policy trained in full, reward model": full + not_trained,
    "GRPO, LoRA, reward model": lora + frozen,
    "GRPO, LoRA, verifiable reward": lora,
    "DPO, LoRA, a pair of replies": both,
}
listed = [{"method": name, "GiB": needed} for name, needed in ways.items()]
caption = "Mistral 7B, one reply of 512 tokens, weights in 16 bits: estimated"
figures.table(listed, caption=caption, digits=0)

# %% [markdown]
# **What to notice.** The critic costs as much as the policy, because it is trained too: gradients and two averages
# for every weight. GRPO saves that. LoRA saves most of the rest, and the reference on top: it is the same model
# with the adapter off. And a verifiable reward needs no model at all. (A group of replies can be worked through one
# after the other, so the table counts one.)

# %% [markdown]
# ## 4. A reward model from preferences
#
# Courtesy can be checked by a program here. "Helpful" cannot. Then people compare replies, and a **reward model**
# learns to predict them. Bradley and Terry (1952): the chance that reply $a$ beats reply $b$ is the logistic
# function of $r_a - r_b$. So the loss on a pair is
#
# $$-\log \sigma(r(x, y_{chosen}) - r(x, y_{rejected})).$$
#
# Our raters are simulated (`prefs.Rater`): they value the right fact, thanks, no rudeness, and every further
# sentence a little. The model is the frozen language model with a linear head on its last hidden state: 256
# numbers.

# %% tags=["topic:rlhf-ppo-grpo"]
rng = random.Random(1)
asked, cut = prefs.cases(paced(600), seed=4), paced(400)
written = []
for case in asked:
    first, second = prefs.staff_reply(rng, case), prefs.staff_reply(rng, case)
    written.append((first, second))
honest = [rater for rater in prefs.RATERS if not rater.upside_down]
pairs = prefs.rated(asked, written, 1, honest)
taught, held_out = pairs[:cut], pairs[cut:]
model = prefs.learn_reward(start, taught)
print(f"told apart, {cut} pairs it was fitted to:", prefs.told_apart(model, start, taught))
print(
    f"told apart, {len(held_out)} held-out pairs:        ", prefs.told_apart(model, start, held_out)
)

# %% [markdown]
# A single accuracy hides *which* differences it sees. So we make pairs that differ in one thing only.

# %% tags=["topic:rlhf-ppo-grpo"]
some = asked[cut : cut + 100]
best = [f"{prefs.THANKS} {case.fact}" for case in some]
rng = random.Random(4)
longer = []
for text in best:
    extras = rng.sample(prefs.EXTRAS, 2)
    longer.append(" ".join([text, *extras]))
wrong = [f"{prefs.THANKS} {prefs.wrong_fact(rng, case)}" for case in some]
bare = [case.fact for case in some]
rude = [f"{case.fact} {rng.choice(prefs.RUDE)}" for case in some]
kinds = {
    "a right fact against a wrong one": wrong,
    "thanks against no thanks": bare,
    "polite against rude": rude,
    "two sentences against four": longer,
}

# %% tags=["topic:rlhf-ppo-grpo"]
listed = []
for kind, worse in kinds.items():
    compared = [prefs.Pair(*three) for three in zip(some, best, worse, strict=True)]
    right = prefs.told_apart(model, start, compared)
    listed.append({"the pair": kind, "first has the higher reward": percent(right)})
figures.table(listed, caption=f"What the reward model sees, {len(some)} pairs each")

# %% [markdown]
# **What to notice.** A line near one half is blindness. The raters cared most about facts, and yet look at the
# first line: a head on one vector does not compare the reply with the record. It has learned what can be seen
# from the reply alone. Its accuracy on held-out pairs sounded useful, and says nothing about this. **A reward
# model is a model, with blind spots, and a policy will be rewarded for everything that lies in them.**

# %% [markdown]
# ## 5. Reward hacking, on purpose
#
# Now the hurried rater: does not open the record, likes friendly letters, and takes long ones for careful ones.
# Not made up: people asked to judge what they have no time to check reward what *looks* right (Wen et al. 2024,
# arXiv 2409.12822). We fit a reward model to such labels and optimise against it, with hardly any KL term. Before
# you run it: what will the replies look like?

# %% tags=["topic:rlhf-ppo-grpo"]
hurried = prefs.Rater("in a hurry", fact=0.0, thanks=3.0, rude=-3.0, length=1.5)
labelled = prefs.rated(asked, written, 2, [hurried])
gamed = prefs.learn_reward(start, labelled[:cut])


def learned(model: prefs.RewardModel) -> prefs.Reward:
    """A reward model as the function that `prefs.grpo` asks."""

    def rewards(asked: list, drawn: prefs.Drawn) -> Tensor:
        return model(drawn.ids, drawn.mask)  # (n,)

    return rewards


hacker, log = prefs.grpo(start, learned(gamed), steps=10, seed=1, beta=0.005)
hacked_texts = prefs.sample(hacker, test, seed=9)
for text in hacked_texts[:4]:
    print("-", text)
gained = row("GRPO on the hurried rater's reward", hacked_texts)
figures.table([begin, gained], caption=f"The same {len(test)} customers")

# %% tags=["topic:rlhf-ppo-grpo"]
fig, axes = figures.figure(columns=3, width=11, height=3.0)
curves = (
    ("reward", "learned reward", "What is optimised"),
    ("points", "points by the rules", "What was meant"),
    ("tokens", "tokens a reply", "How it is done"),
)
ticks = range(2, len(log) + 1, 4)
ends = []
for ax, (key, label, title) in zip(axes, curves, strict=True):
    draw_curve(ax, log, key)
    ax.set(xlabel="step", ylabel=label, title=title, xticks=ticks)
    ends.append(f"{key} {log[0][key]:.1f} to {log[-1][key]:.1f}")
axes[1].set_ylim(0, 4)
figures.show(fig, alt=f"Three curves of one run, first to last step: {'; '.join(ends)}.")

# %% [markdown]
# The training log would show the first curve only. How far can you trust it? Each point is the mean of 24 replies to
# four customers, and each step has four others. So we measure the start and the end on the same customers, with both
# rulers.

# %% tags=["topic:rlhf-ppo-grpo"]
rewards, marks = [], []
for policy in (start, hacker):
    drawn = prefs.draw(policy, test, seed=9)
    learned_reward = gamed(drawn.ids, drawn.mask)  # (n,)
    rewards.append(learned_reward.tolist())
    marks.append(rules(test, drawn).tolist())
for what, (before, after) in (("learned reward", rewards), ("points by the rules", marks)):
    change = [b - a for a, b in zip(before, after, strict=True)]
    first, last = statistics.mean(before), statistics.mean(after)
    print(f"{what}: from {first:.2f} to {last:.2f}")
    print(f"    change on the same customers: {bootstrap(change, 'points')}")

# %% [markdown]
# **What to notice.** Read the curves from left to right, and then the two changes. The learned reward goes up, at
# first steeply, and then its curve shakes: from there on it cannot tell you whether the model still gains. The true
# points are what the rules say, and in real life nobody draws that curve. Where the first change lies above 0 and the
# second below, the model got better at what is rewarded and worse at what was meant, and the log alone would have
# looked like success. This is Goodhart's law: when a measure becomes a target, it ceases to be a good measure. Gao et
# al. (2022, arXiv 2210.10760) measure it for reward models of many sizes: the true score rises, then falls, with the
# distance from the start.
#
# Cures, in order of strength: a reward that is verified; raters who can check; a stronger KL term; stopping
# early; and reading samples, always.

# %% [markdown]
# ## 6. Check the slide: "DPO is more stable and sample-efficient than PPO"
#
# The same 400 preference pairs, three seeds each. DPO learns from them directly. GRPO, our policy gradient,
# optimises section 4's reward model, which was fitted to the same pairs. (PPO itself would add a critic to it.)
# So that length does not decide, both get the pairs balanced by length. What do you expect?

# %% tags=["topic:rlhf-ppo-grpo"]
even = prefs.balanced(taught)
fair = prefs.learn_reward(start, even)


def by_dpo(seed: int):
    return prefs.dpo(start, even, beta=0.1, seed=seed, steps=30)


def by_grpo(seed: int):
    policy, _ = prefs.grpo(start, learned(fair), steps=8, seed=seed)
    return policy


# %% tags=["topic:rlhf-ppo-grpo"]
recipes = {"DPO": by_dpo, "reward model and GRPO": by_grpo}
results, times = {}, {}
shown = [begin | {"wins": 0.5, "KL": 0.0}]
for name, recipe in recipes.items():
    results[name], times[name] = [], []
    for seed in SEEDS:
        began = time.perf_counter()
        policy = recipe(seed)
        seconds = time.perf_counter() - began
        times[name].append(seconds)
        texts, kl = prefs.divergence(policy, start, test, seed=9)
        wins = prefs.win_rate(test, texts, start_texts)
        line = row(f"{name}, seed {seed}", texts)
        results[name].append(line | {"wins": wins.value, "KL": kl})
    shown += results[name]
figures.table(shown, caption=f"{len(even)} pairs, three seeds each")

# %% tags=["topic:rlhf-ppo-grpo"]
spread = {}
for name, some in results.items():
    marks = [line["points"] for line in some]
    mean, deviation = statistics.mean(marks), statistics.stdev(marks)
    spread[name] = mean, deviation
    print(f"{name:>22}: {mean:.2f} points, standard deviation over seeds {deviation:.2f}")
    print(f"{'':>22}  {min(times[name]):.0f} s, the shortest of three runs")
(dpo_mean, dpo_sd), (rl_mean, rl_sd) = spread.values()
gap = dpo_mean - rl_mean
variance = (dpo_sd**2 + rl_sd**2) / len(SEEDS)
noise = variance**0.5  # the standard error of the gap
better = "DPO" if gap > 0 else "the policy gradient"
steadier = "DPO" if dpo_sd < rl_sd else "the policy gradient"
clear = abs(gap) > 2 * noise
verdict = f"{better} is ahead" if clear else "three seeds show no difference"
print(f"from the same pairs: {verdict} ({gap:+.2f} points, standard error {noise:.2f})")
print(f"less spread between seeds, for what three are worth: {steadier}")
drawn = 8 * 4 * 6  # steps, prompts in a step, replies to a prompt
print(f"replies drawn while training: DPO 0, GRPO {drawn} a run")

# %% [markdown]
# **What to notice.** The last cell says how it came out in this run, the standard error included; our verdict on
# the slide stays *depends*, for three reasons.
#
# - *What was compared.* Look at *words* in both groups. The pairs were balanced, so nothing in them speaks for
#   long replies. But a policy gradient takes the reward model to replies that were never in its data, and there
#   its numbers mean nothing. Where words went up and points went down, you see a hack that nobody planned. DPO
#   never leaves its pairs while it trains.
# - *How good the reward is.* Section 2 ran the same GRPO on a verified reward, without any pairs. Compare its
#   points with both groups here. Xu et al. (2024, arXiv 2404.10719) find that a well tuned PPO is ahead of DPO on
#   several tasks.
# - *What it costs.* DPO draws no replies while it trains and has fewer things to tune. (Of three equal runs the
#   shortest time is quoted. Equal steps are equal work, but for the length of the replies; when one takes several
#   times as long, another program has had the machine.) Neither recipe was tuned here for this comparison, and our
#   policy gradient has no critic, so it is not PPO to the letter.
#
# A difference of two runs is not a verdict. Look at the spread of the three seeds before you look at the means.
#
# **Try it.** Give the verified reward of section 2 three points for the fact instead of two. Does *fact* move?
# Then run section 5 with `beta=0.5`: how much of the hack is left, and how much of the learning?

# %% [markdown]
# ## What you take with you
# - GRPO: draw a group, compare within it, clip, stay close. The critic is replaced by the group's mean.
# - Only what the model sometimes writes can be rewarded.
# - Test a reward model on pairs that differ in *one* thing. Its blind spots are what a policy will find.
# - A rising reward is no result. The result is a judge that was not optimised against.
