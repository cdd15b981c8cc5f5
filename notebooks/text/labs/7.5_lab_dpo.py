# %% [markdown] tags=["badge"]
# # 7.5 Lab: learning from preferences with DPO
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.5_lab_dpo.ipynb)

# %% [markdown]
# **After this notebook you can**
# - make preference pairs, and say where their labels come from;
# - find flipped labels, length bias and near-identical pairs before a model finds them for you;
# - write the loss of DPO by hand, and train with TRL's trainer;
# - judge the result on customers it has never met, by a win rate with an interval;
# - tell a policy that got better from one that only got longer.
#
# **Time:** about 25 minutes to read and run; the cells take about two minutes on two free CPU cores.
#
# **Downloads:** nothing. This lab trains seven small models, so it takes `prisma-lm` at every tier. It knows Prisma's
# toy shop and nothing else.

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
import dataclasses
import math
import random

import torch
from torch import Tensor
from torch.nn import functional

from course_utils import compat, figures
from course_utils.exercises import check, hint, quiz, solution
from course_utils.finetuning import four_bit, qlora
from course_utils.finetuning import preferences as prefs
from course_utils.measures import percent, share
from course_utils.settings import paced

chat = unit.load("chat")

# %% [markdown]
# ## 1. A model that imitates everybody
#
# Customers of Prisma ask about an order: where is it, what is in it? The shop has kept all its old mail. Some staff
# were polite, some were careless with facts, some liked to write much. Here are three old replies to one question.

# %%
rng = random.Random(4)
one = prefs.cases(1, seed=6)[0]
print(f"record: {one.messages[0]['content']}\ncustomer: {one.question}\n")
for _ in range(3):
    print("staff:", prefs.staff_reply(rng, one))

# %% [markdown]
# Supervised fine-tuning on such mail (`7.5_finetuning`) teaches a model to write like the staff: like *all* of
# them. What share of its replies will keep the shop's three rules?
#
# - **fact**: exactly one sentence about an order, and it is right;
# - **courtesy**: thanks first, nothing rude, nothing twice;
# - **brevity**: at most 17 words.
#
# A program checks them (`prefs.checks`). It is our judge: its rules are public, and it knows the truth. Points: two
# for the fact, one each for the others. A last column, *KL from the start*, says how far a model has moved: how much
# more probable it finds its own replies than the start does, in natural logarithms (*nats*). At 0 they are the same.


# %%
start = prefs.imitate(chat, seed=1)
test = prefs.cases(paced(100), seed=2)


def exam(policy: object, name: str) -> tuple[dict, list[str]]:
    """One row of results on the test customers at temperature 1, and the replies."""
    texts, kl = prefs.divergence(policy, start, test, seed=9)
    return row(name, texts) | {"KL from the start": kl}, texts


def row(name: str, texts: list[str]) -> dict:
    """How many of the replies keep the rules, their mean points and their mean length."""
    kept = prefs.rules_kept(test, texts)
    line = {"model": name}
    for rule in ("fact", "courtesy", "brevity"):
        line[rule] = f"{kept[rule].value:.0%}"
    line["all three"] = percent(kept["all three"])
    line["points"] = prefs.mean_points(test, texts)
    line["words"] = prefs.mean_words(texts)
    return line


# %% tags=["topic:dpo"]
begin, start_texts = exam(start, "imitates staff")
without_kl = {"KL from the start": "-"}  # staff are no model, and greedy replies are no draw
staff_texts = []
for seed, case in enumerate(test):
    reply = prefs.staff_reply(random.Random(seed), case)
    staff_texts.append(reply)
staff = row("the staff", staff_texts) | without_kl
greedy_texts = prefs.sample(start, test, seed=9, temperature=0)
greedy = row("imitates staff, greedy", greedy_texts) | without_kl
figures.table([staff, begin, greedy], caption=f"Replies to {len(test)} customers")

# %% [markdown]
# **What to notice.** Compare the first two rows. The model is a good imitator, and that is the trouble: it keeps no
# rule clearly more often than its teachers do. The greedy row always takes the most probable word. That cures the
# rare mistakes, as the column *fact* shows, but not the frequent bad habits: most staff did not say thanks, so the
# most probable reply does not either.
#
# Nobody wrote the replies that we want. But people can say which of two replies is *better*. That is the idea.

# %% [markdown]
# ## 2. Where preference pairs come from
#
# The usual recipe (InstructGPT, arXiv 2203.02155): the model itself writes two replies to each prompt, at
# temperature 1, and somebody compares them. Labels come from people, from a stronger model, or from a program.
#
# Ours come from five **simulated raters**. Each feels a value for a reply: for the fact, for thanks, against
# rudeness, and, as human raters do, *a little for every sentence more* (arXiv 2310.03716 measures it). They pick
# the better one most of the time: the larger the difference in value, the more surely (Bradley and Terry 1952).

# %% tags=["topic:dpo"]
asked = prefs.cases(paced(450, 200), seed=3)
first = prefs.sample(start, asked, seed=1)
second = prefs.sample(start, asked, seed=101)
written = list(zip(first, second, strict=True))
pairs = prefs.rated(asked, written, seed=1)
for pair in pairs[:4]:
    print(f"record: {pair.case.messages[0]['content']}\nasked: {pair.case.question}")
    print(f"  chosen by {pair.rater}: {pair.chosen}\n  rejected: {pair.rejected}\n")

# %% [markdown]
# **What to notice.** Would you have chosen the same? Some choices look odd. A rater who has to decide between two
# replies of nearly equal value often takes the worse one, and one of the five has a fault of another kind. You see
# neither in single pairs.

# %% [markdown]
# ## 3. Look at the data first
#
# A model will believe every label. Before it does, three questions. Do the raters agree with each other? Is one side
# systematically longer? Is there a difference to learn in every pair?
#
# For the first, all five compare the same 100 pairs.

# %% tags=["topic:dpo"]
names = [rater.name for rater in prefs.RATERS]
same = prefs.agreement(asked[:100], written[:100], seed=5)
longer = [pair.longer for pair in pairs]

fig, axes = figures.figure(columns=2, width=10, height=3.4)
figures.heatmap(axes[0], same, names, names, label="same choice", low=0, high=1)
for i, line in enumerate(same.tolist()):
    for j, value in enumerate(line):
        colour = "black" if value > 0.5 else "white"
        axes[0].text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
axes[0].set_title("Do raters agree? (100 pairs)")
axes[1].hist(longer, bins=range(-21, 22, 2), color=figures.PALETTE["sky"])
axes[1].axvline(0, color="black", linewidth=1)
axes[1].set(xlabel="words that the chosen reply has more", ylabel="pairs", title="Is it longer?")
agreement = same.sum(1)  # (raters,)
odd = names[agreement.argmin()]
figures.show(fig, alt=f"Five raters: {odd} disagrees with all others. Length differences.")

# %% tags=["topic:dpo"]
chose_longer = [words > 0 for words in longer if words]
nearly_identical = [pair for pair in pairs if prefs.alike(pair)]
print("longer one chosen, where lengths differ:", share(chose_longer))
print("pairs of the same length:", longer.count(0))
print("pairs of nearly identical replies:", len(nearly_identical))

# %% [markdown]
# **What to notice.** One rater disagrees with everybody, and not at random: far below one half. Somebody who clicked
# blindly would be near one half. Below it means that this rater knows what is good and says the opposite: the form is
# upside down. You could turn the labels round; we leave them out and ask the rater.
#
# The histogram leans only a little, and the rater who is upside down hides a part of it: watch the last column of
# the next table. Does a small lean matter? Section 7 answers that. Now we clean, in three steps, and compare with
# the judge, which in real life you would not have.

# %% tags=["topic:dpo"]
by_rater = [pair for pair in pairs if pair.rater != odd]
different = [pair for pair in by_rater if not prefs.alike(pair)]
clean = prefs.balanced(different)


def described(name: str, some: list[prefs.Pair]) -> dict:
    """How often the judge agrees with the label, and how often the longer reply was chosen."""
    right, longer = [], []
    for pair in some:
        chosen = prefs.points(pair.case, pair.chosen)
        rejected = prefs.points(pair.case, pair.rejected)
        if chosen != rejected:
            right.append(chosen > rejected)
        if pair.longer:
            longer.append(pair.longer > 0)
    line = {"data": name, "pairs": len(some)}
    line["judge agrees"] = f"{share(right).value:.0%}"
    line["longer one chosen"] = f"{share(longer).value:.0%}"
    return line


# %% tags=["topic:dpo"]
steps = {
    "as collected": pairs,
    f"without rater {odd}": by_rater,
    "without near-identical": different,
    "balanced": clean,
}
lines = [described(name, some) for name, some in steps.items()]
figures.table(lines, caption="Three steps of cleaning")

# %% [markdown]
# *Balanced* keeps as many pairs in which the chosen reply is five words longer as five words shorter, and so on
# for each difference. It costs pairs. In return, length alone can no longer tell a model which side was chosen.

# %% [markdown]
# ## 4. The loss, by hand
#
# RLHF takes two steps: train a reward model on the pairs, then optimise the policy against it. DPO (Rafailov et
# al. 2023, arXiv 2305.18290) needs one. Its trick: every policy $\pi$ *is* the best policy for some reward, and
# that reward can be read off it,
#
# $$r(x, y) = \beta \log \frac{\pi(y \mid x)}{\pi_{ref}(y \mid x)} + \text{something that depends on } x \text{ only.}$$
#
# Put this **implicit reward** into the probability that the chosen reply wins, and what does not depend on the reply
# cancels. What is left is a loss on log-probabilities (equation 7 of the paper):


# %% tags=["topic:dpo"]
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


# %% tags=["topic:dpo"]
before = torch.tensor([-20.0])  # the log-probability of either reply under the reference
for up, other in ((0.0, 0.0), (5.0, 0.0), (0.0, -5.0), (-5.0, -10.0), (0.0, 5.0)):
    loss = dpo_loss(before + up, before + other, before, before, beta=0.1)
    change = f"log-probability of the chosen {up:+.0f}, of the rejected {other:+.0f}"
    print(f"{change}: loss {loss:.3f}")

# %% [markdown]
# **What to notice.** It starts at $\log 2$, where policy and reference are the same. Only the *difference*
# counts: raising the chosen one by 5 and lowering the rejected one by 5 give the same loss. So does lowering
# *both*, the rejected one more. Nothing in this loss asks the chosen reply to become more probable. Keep that in
# mind for the next figure.
#
# And the **reference**? It is the model before DPO, and must not change. With LoRA no second copy is needed: the
# same model with its adapter switched off *is* the reference. (Unit tests hold this function against TRL's loss, to
# 1e-5.)

# %% [markdown]
# ### Exercise: Preferences without a reward model (medium, about 20 minutes)
#
# The function above wants the log-probability of whole replies. A model gives one number for each token. Write the loss
# from the tokens up. `hint("7.5.dpo_loss")` helps; nothing waits for you.


# %%
def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    chosen_before: Tensor,
    rejected_before: Tensor,
    beta: float,
) -> Tensor:
    """The loss of DPO (arXiv 2305.18290, equation 7), the mean over n pairs: a tensor ().

    Each input is (n, tokens): the log-probability of every token of n replies, and 0 behind the end
    of a shorter one. Two come from the model in training, two (`_before`) from the frozen model
    that it started as.
    """
    # Your code here
    raise NotImplementedError


# %%
dpo_loss = check("7.5.dpo_loss", dpo_loss)

# %% tags=["topic:dpo"]
from course_utils.exercises.authors import whose

print(f"With {whose(dpo_loss)}:")
for length in (4, 8):  # the same change of each token, in a short and in a long reply
    moved = torch.full((1, length), -4.0), torch.full((1, length), -6.0)
    before = torch.full((1, length), -5.0), torch.full((1, length), -5.0)
    loss = dpo_loss(*moved, *before, beta=0.1)
    print(f"{length} tokens a reply: loss {loss:.3f}")

# %% [markdown]
# A long reply moves the loss more than a short one: its tokens add up. That is one door for length bias.

# %% [markdown]
# ## 5. Train with TRL
#
# TRL's `DPOTrainer` takes rows with a prompt, a chosen and a rejected reply, and adds the adapter. $\beta = 0.1$ is
# the paper's usual choice.

# %% tags=["topic:dpo"]
import copy

on_cpu = four_bit.training_device(unit.hardware) == "cpu"
settings = compat.dpo_config(
    unit.folder / "dpo", batch=8, steps=40, learning_rate=1e-3, beta=0.1, max_length=256,
    seed=unit.seed, cpu=on_cpu, **qlora.precision(unit.hardware),
)  # fmt: skip
rows = prefs.preference_rows(clean)
model = copy.deepcopy(start.model)
adapter = compat.lora_config(16, 32)
trainer = compat.dpo_trainer(model, settings, rows, chat.tokenizer, adapter)
trainer.train()
history = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
losses = [entry["loss"] for entry in history]
late = losses[-10:]
print(f"first loss {losses[0]:.3f} (log 2 is {math.log(2):.3f})")
print(f"mean of the last ten: {sum(late) / len(late):.3f}")

# %% tags=["topic:dpo"]
fig, axes = figures.figure(columns=2, width=10, height=3.2)


def smooth(key: str) -> Tensor:
    """The means of five steps in a row, (steps - 4,)."""
    values = torch.tensor([entry[key] for entry in history])  # (steps,)
    return values.unfold(0, 5, 1).mean(1)


steps_seen = range(5, len(history) + 1)
for name, colour in (("chosen", "blue"), ("rejected", "vermilion")):
    line = smooth(f"rewards/{name}")
    axes[0].plot(steps_seen, line, label=name, color=figures.PALETTE[colour])
axes[0].set(xlabel="step", ylabel="implicit reward", title="The two rewards (mean of 5 steps)")
axes[0].legend()
axes[1].plot(steps_seen, smooth("rewards/accuracies"))
axes[1].axhline(0.5, color=figures.GREY, linestyle="--")
axes[1].set(xlabel="step", ylabel="share of pairs", ylim=(0, 1))
axes[1].set_title("The chosen one has the higher reward")
chosen, rejected = smooth("rewards/chosen")[-1], smooth("rewards/rejected")[-1]
right = smooth("rewards/accuracies")[-1]
alt = f"Implicit rewards drift apart, at the end chosen {chosen:.2f}, rejected {rejected:.2f};"
figures.show(fig, alt=f"{alt} the share of pairs told apart reaches {right:.0%}.")

# %% [markdown]
# **What to notice.** The distance between the lines is the **margin**: it is what the loss pulls on. Watch where
# the two lines *go*. The rejected one falls. Here the chosen one falls, too: the model makes both replies less
# probable than before, and the probability goes to replies that no rater has seen. The accuracy is measured on
# pairs that the model is about to learn from, so it is no proof. The proof is next.

# %% [markdown]
# ## 6. Are the replies better?
#
# Customers whom no model has met, replies drawn at temperature 1, and a win rate: how often does the judge give
# the new reply more points than the old model's reply to the same customer? Ties count half.

# %% tags=["topic:dpo"]
trainer.model.eval()
trained = dataclasses.replace(start, model=trainer.model)
result, trained_texts = exam(trained, "DPO on clean pairs")
print("wins against the model before DPO:", prefs.win_rate(test, trained_texts, start_texts))
compared = list(zip(test, start_texts, trained_texts, strict=True))
for case, before, after in compared[:4]:
    print(f"\nrecord: {case.messages[0]['content']}\n  before: {before}\n  after:  {after}")
figures.table([begin, greedy, result], caption=f"Replies to {len(test)} customers")

# %% [markdown]
# **What to notice.** Compare the columns. What one word decides, at the first position of the reply, is learned
# at once: thanks or no thanks. The *fact* depends on the record, which is different for each customer, and a few
# hundred comparisons say little about how to read it. DPO is good at habits, as every fine-tuning is. Read some
# replies as well: a program that checks three rules does not see a sentence that is plain nonsense, if it is
# short and polite.

# %% [markdown]
# ## 7. What if nobody had looked?
#
# Three experiments, with as many pairs and steps as before. *Not balanced*: only the last step of cleaning is
# left out, so the small lean towards length stays. *As collected*: no cleaning at all, the rater who is upside
# down included. *40 % flipped*: the clean pairs, with two labels in five exchanged. Before you run it: which will
# do the most harm, and to which column?

# %% tags=["topic:dpo"]
wins = {"clean": prefs.win_rate(test, trained_texts, start_texts)}
table = [result]
n = len(clean)
spoilt = {"not balanced": random.Random(1).sample(different, n)}
spoilt["as collected"] = random.Random(1).sample(pairs, n)
spoilt["40 % flipped"] = prefs.with_flips(clean, 0.4, seed=1)
for name, some in spoilt.items():
    policy = prefs.dpo(start, some, beta=0.1, seed=unit.seed, steps=40)
    line, texts = exam(policy, f"DPO, {name}")
    wins[name] = prefs.win_rate(test, texts, start_texts)
    table.append(line)
for line, measure in zip(table, wins.values(), strict=True):
    line["wins"] = percent(measure)
figures.table(table, caption="The same recipe on other labels; wins against the model before DPO")

# %% [markdown]
# **What to notice.** Two labels in five flipped leave next to nothing: the policy hardly moves (see KL). One rater
# out of five upside down seems to cost points, but the other four outvote the fifth; compare the intervals. The row
# *not balanced* surprised us. We expected longer replies, the **length exploitation** of Park et al. (2024, arXiv
# 2403.19159). Look at *words*, *fact* and *KL*, and compare its interval with that of the clean pairs. In an earlier
# build of this lab, on another processor, this row lost facts and stood far below the clean pairs; here it does not.
# With one run for each row we cannot say what is the lean, what is the machine and what is luck. It is a reason
# to repeat the run, not a law.

# %% [markdown]
# ## 8. How far may it go? The choice of beta
#
# $\beta$ says how dear it is to move away from the reference. A small $\beta$ lets the policy go far. We measure
# how far: the KL divergence from the start, in nats a reply.

# %% tags=["topic:dpo"]
found = {0.1: result}
for beta in (0.02, 0.5):
    policy = prefs.dpo(start, clean, beta=beta, seed=unit.seed, steps=40)
    found[beta], texts = exam(policy, f"beta {beta}")
    won = prefs.win_rate(test, texts, start_texts)
    found[beta]["wins"] = percent(won)
points = [(0.0, begin["points"], "start")]
for beta, one in sorted(found.items()):
    points.append((one["KL from the start"], one["points"], f"beta {beta}"))
for line in table[1:]:
    label = line["model"].removeprefix("DPO, ")
    points.append((line["KL from the start"], line["points"], label))

# %% tags=["topic:dpo"]
fig, ax = figures.figure(height=3.4)
for kl, mark, label in points:
    clean_data = label.startswith(("beta", "start"))
    shape, colour = ("o", "blue") if clean_data else ("x", "vermilion")
    ax.plot(kl, mark, shape, color=figures.PALETTE[colour])
    ax.annotate(label, (kl, mark), textcoords="offset points", xytext=(6, 4), fontsize=9)
ax.set(xlabel="KL from the start (nats a reply)", ylabel="points by the judge (0 to 4)")
ax.set_title("How far, and how good?")
ax.margins(0.15)
said = {label: f"KL {kl:.1f}, {mark:.2f} points" for kl, mark, label in points}
figures.show(fig, alt=f"Points against distance from the start. {figures.told(said)}.")

# %%
by_beta = [found[beta] for beta in sorted(found)]
figures.table([begin, *by_beta], caption="The same pairs, three values of beta")

# %% [markdown]
# **What to notice.** The blue points use the same pairs. Distance is a budget: the policy that goes furthest is
# not the best one just because it goes far, and the crosses show distance spent on the wrong thing. If the
# smallest $\beta$ lies below its neighbour, it has over-optimised: it follows the pairs into replies that no
# rater has ever seen (Rafailov et al. 2024, arXiv 2406.02900). One run for each value is a hint and no proof: the
# intervals in the table are wide, and another seed moves the points.
#
# **Try it.** More steps are another way to go too far: train with `steps=160` and $\beta = 0.1$. Watch *words* and
# *fact*. Then ask the raters to value length not at all (`prefs.Rater("A", length=0.0)`) and train on the pairs as
# collected: what is left of the harm?

# %% [markdown]
# ## What you take with you
# - Preferences teach what nobody can write down but everybody can point at.
# - Look at raters, lengths and near-identical pairs before training; what you leave in, the model learns.
# - DPO's loss is one line, its reference is the same model with the adapter off.
# - The margin always grows. Only a judge on new prompts says whether the replies got better, and reading some of them.
# - `7.5_lab_reinforcement_learning` takes the long way round: a reward model and policy optimisation.
