# %% [markdown] tags=["badge"]
# # 7.5 Lab: instruction tuning and continued pre-training
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.5_lab_more_tuning.ipynb)

# %% [markdown]
# **After this notebook you can**
# - tune on many tasks at once, each told in words, and measure what that gives for tasks that were never trained;
# - continue pre-training on raw text of a domain, and show what the model forgets meanwhile;
# - cure the forgetting with replay, and choose how much;
# - say whether the raw text helps the job that comes after it.
#
# **Time:** about 20 minutes to read and run; the cells take about two minutes on two free CPU cores.
#
# **Downloads:** nothing. This lab trains many small models, so it takes `prisma-lm` at every tier.

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
from collections import defaultdict

import torch

from course_utils import compat, figures
from course_utils.finetuning import peft_methods as pm
from course_utils.finetuning import tuning_tasks as tasks
from course_utils.measures import error_bars, one_by_one, percent, pooled, share
from course_utils.models import bundled
from course_utils.prisma import conversations, lm, text
from course_utils.settings import paced

folder = bundled.verify("prisma-lm")
base, tokenizer = lm.load(folder)
# For short rows on a CPU it trains faster than the fused kernel.
base.set_attn_implementation("eager")


def with_lora(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    fresh = copy.deepcopy(model)
    return compat.add_peft_lora(fresh, rank=8, alpha=16)


# %% [markdown]
# ## 1. Can a model learn to follow instructions, and not only one?
#
# Tune a model on one task and it does this task, whatever you ask (the lab on adapters shows it). FLAN (Wei et al.
# 2021, arXiv 2109.01652) tried another way: take *many* tasks, say each one in words, and tune on all of them
# together. Then ask for a task that was in none of the data. Dolly and Alpaca are data of this kind.
#
# Our tasks are small. A record has five fields; the instruction names two of them, in an order. We keep the field
# *shape* for the test: no training task names it. Of the 12 tasks with the other four fields we keep four out of all
# training. The words of the instruction vary, too, and one wording is kept for the test.

# %% tags=["topic:instruction-tuning"]
pairs = tasks.field_tasks(held_out=4, seed=unit.seed)
held_out, new_field = pairs["held out"], pairs["new field"]
size = paced(100, 10)
exams = {
    "held-out tasks": tasks.instructions(held_out, size, 101),
    "held-out tasks, new wording": tasks.instructions(held_out, size, 102, tasks.NEW_FORM),
    "a field never asked for": tasks.instructions(new_field, size, 103),
}
example, *_ = tasks.instructions(held_out, 1, 0)
print(pm.request(example), "\n\nwanted:")
print(example.pieces[1][0])
counts = {name: len(group) for name, group in pairs.items()}
print(counts, "tasks")

tests, before = {}, {}
for name, questions in exams.items():
    tests[name] = pm.encode(tokenizer, questions, 96)
    right = share(pm.right(base, tests[name]))
    before[name] = str(right)
print("before any tuning:", before)

# %% [markdown]
# Now the same 80 steps on 1, 2, 4 and 8 tasks. The number of records is the same too, so nobody sees more data:
# only the variety differs. Each with two seeds, which also draw *which* tasks (with eight there is no choice: it is
# all of them). Where will the line for the held-out tasks begin, and where will it end?

# %% tags=["topic:instruction-tuning"]
COUNTS, SEEDS, STEPS = (1, 2, 4, 8), range(paced(2, least=1)), 80
EXAMS = ("the trained tasks", *exams)
scores = defaultdict(list)  # for each exam and number of tasks: the marks of each seed
for count in COUNTS:
    for seed in SEEDS:
        trained = random.Random(seed).sample(pairs["train"], count)
        lesson = tasks.instructions(trained, paced(640), seed)
        rows = pm.encode(tokenizer, lesson, 96)
        model = with_lora(base, seed)
        pm.fit(model, rows, STEPS, 1e-2, seed, label=f"{count} tasks, seed {seed}")
        own_exam = tasks.instructions(trained, paced(60, 10), 104)
        tests["the trained tasks"] = pm.encode(tokenizer, own_exam, 96)
        for name in EXAMS:
            marks = pm.right(model, tests[name])
            scores[name, count].append(marks)

# %% tags=["topic:instruction-tuning"]
fig, ax = figures.figure(height=3.6)
told = {}
for name, style in zip(EXAMS, ("o-", "s-", "^--", "d:"), strict=True):
    marks = [pooled(scores[name, count]) for count in COUNTS]
    values, ends = error_bars(marks)
    ax.errorbar(COUNTS, values, ends, fmt=style, capsize=3, label=name)
    told[name] = ", ".join(map(percent, marks))
ax.set(xscale="log", xlabel="tasks in training (same steps, same number of records)")
ax.set_ylabel("replies that are right")
ax.set_xticks(COUNTS, COUNTS)
ax.minorticks_off()
ax.set_ylim(-0.03, 1.03)
ax.legend(fontsize=9)
figures.show(fig, alt=f"Right replies with 1, 2, 4 and 8 tasks in training. {figures.told(told)}.")

# %% tags=["topic:instruction-tuning"]
lines = []
for name in EXAMS:
    line = {"asked": name}
    for count in COUNTS:
        line[f"{count} tasks"] = one_by_one(scores[name, count])
    lines.append(line)
figures.table(lines, caption="The same, each seed on its own")

# %% [markdown]
# **What to notice.** With one task in training the model is perfect at it and deaf to every other instruction: it has
# no reason to read the instruction at all. With two and with four it reads enough to tell *those* tasks apart, and
# still no more. Only the greatest variety, at the same number of steps, teaches something else: to look at what is
# asked and do that. The trained tasks pay little for it, if anything. FLAN reports the same: more clusters of tasks,
# better results on the held-out ones. The two seeds lie far apart, although with eight tasks both have the same ones.
# Only the records, their order and the first numbers of the adapter differ. So believe the step up from zero, and not
# its height: two seeds cannot measure that.
#
# Then look at the limits. A wording that was never trained costs something. And the field that no instruction ever
# named shows where the generalisation ends: new combinations of known parts come first, new parts hardly or never, at
# this size. In FLAN, models of 8 billion parameters and fewer even got *worse* on held-out tasks.

# %% [markdown]
# ## 2. More of the same text: continued pre-training
#
# Suppose you have no tasks and no answers, only text: a pile of customers' mails. **Continued pre-training** goes on
# with what pre-training did: predict each next token, on all of the text. Gururangan et al. (2020, arXiv 2004.10964)
# found that it helps the tasks of a domain. What does it do to everything else?
#
# `prisma-lm` has never seen a customer's mail. Its old skills are our witnesses: worked sums, plans, reflections, and
# an executor's turns.


# %% tags=["topic:continued-pretraining"]
def raw_text(talk: conversations.Conversation) -> text.Example:
    """A mail without question and answer: the loss falls on all of it."""
    piece = (pm.mail(talk) + "<|end|>", True)
    return text.Example("mail", (piece,))


talks = conversations.by_split(conversations.make_conversations())
mails, domain = {}, {}
for split, group in talks.items():
    mails[split] = [raw_text(talk) for talk in group]
    domain[split] = pm.encode(tokenizer, mails[split], 48)
perplexity = tasks.perplexity(base, domain["test"])
print(f"a mail: {mails['train'][0].text}")
print(f"perplexity on {len(domain['test'])} mails of other customers: {perplexity:,.0f}")

witnesses = {}
for name, examples in tasks.skills(paced(40, 6), 77).items():
    witnesses[name] = pm.encode(tokenizer, examples, 160)
    right = share(pm.right(base, witnesses[name]))
    print(f"{name:>9}: {right}")

# %% [markdown]
# A perplexity of $n$ means: as unsure as an even guess among $n$ tokens. `prisma-lm` has only 1,013 tokens in all. A
# perplexity above that is worse than guessing: the model expects something else, and is sure of it.
#
# The cure that the literature proposes for forgetting is **replay**: mix some of the *old* training data in (Ibrahim
# et al. 2024, arXiv 2403.08763, took 5 % for a mild change of text, and 25 % for another language). We know what
# `prisma-lm` was trained on, so we can draw more of it. With downloaded models you cannot; then people take an open
# mixture that resembles it. We try no replay, a twentieth, and a third, and LoRA without replay.

# %% tags=["topic:continued-pretraining"]
old_examples = []
for examples in tasks.skills(150, 5).values():
    old_examples += examples
old = pm.encode(tokenizer, old_examples, 112)
RUNS = {
    "no replay": (0.0, False),
    "5 % replay": (0.05, False),
    "33 % replay": (1 / 3, False),
    "LoRA, no replay": (0.0, True),
}
tuned = {}
for name, (part, lora) in RUNS.items():
    if lora:
        model, rate = with_lora(base, 0), 5e-3
    else:
        model, rate = copy.deepcopy(base), 1e-3
        model.requires_grad_(True)
    rows = tasks.with_replay(domain["train"], old, part, unit.seed)
    pm.fit(model, rows, 60, rate, unit.seed, label=name)
    tuned[name] = model

# %% tags=["topic:continued-pretraining"]
outcome = []
for name, model in {"before": base, **tuned}.items():
    perplexity = tasks.perplexity(model, domain["test"])
    line = {"run": name, "perplexity of mails": perplexity}
    runs = []
    for skill, rows in witnesses.items():
        marks = pm.right(model, rows)
        runs.append(marks)
        line[skill] = f"{share(marks).value:.0%}"
    kept = pooled(runs)
    line["all old skills"] = percent(kept)
    outcome.append(line)
least = min(map(len, witnesses.values()))  # examples longer than the window are left out
figures.table(
    outcome,
    caption=f"60 steps on mails, one seed: what is won, what is lost ({least} to 40 cases of each "
    "skill)",
    digits=1,
)

# %% [markdown]
# **What to notice.** Sixty steps are enough for both: the perplexity falls by two orders of magnitude, and without
# replay the old skills go. Nobody asked the model to forget. The mails just never needed those skills, so nothing held
# the weights in place. Replay costs little of what is won and saves much of what would be lost, and more saves more.
#
# The last line surprised us. "LoRA learns less and forgets less" (Biderman et al. 2024, arXiv 2405.09673), so we
# expected to see some skills survive. Here it learns less and forgets just as much, in this one run. A frozen base
# is no protection by itself. What counts, we think, is how far the sum $W + \frac{\alpha}{r} BA$ moves, and at the
# high rate that LoRA needs at this size it moves far. **Try it** below is a test of that.
#
# If you only watch the loss on your own text, you see none of this. Keep a few old tasks as witnesses, always.

# %% [markdown]
# ## 3. Does it help the job that comes next?
#
# A lower perplexity is not what a shop wants. The job is: turn a mail into a line for the files, topic and order
# number. We have labels for 100 mails only, and tune with LoRA for a few steps: from the base model, and from the
# models that have read the mails.

# %% tags=["topic:continued-pretraining"]
lessons = pm.tickets(talks["train"])
unseen = pm.tickets(talks["test"] + talks["validation"])
few = pm.encode(tokenizer, lessons, 48)[:100]
exam = pm.encode(tokenizer, unseen, 48)[: paced(100)]
starts = {
    "from the base model": base,
    "after the mails": tuned["no replay"],
    "after mails and replay": tuned["33 % replay"],
}
rows = []
for name, start in starts.items():
    runs = []
    for seed in (0, 1):
        model = with_lora(start, seed)
        pm.fit(model, few, 50, 1e-2, seed, label=f"{name}, seed {seed}")
        marks = pm.right(model, exam)
        runs.append(marks)
    right = pooled(runs)
    row = {"start": name, "tickets right": percent(right), "seeds": one_by_one(runs)}
    rows.append(row)
caption = "100 labelled mails, 50 steps of LoRA, two seeds: 100 mails of other customers each"
figures.table(rows, caption)

# %% [markdown]
# **What to notice.** Compare the seeds before you compare the lines: they differ nearly as much as the lines do. The
# mails made the text more than a hundred times less surprising, and the job gained nothing. Without replay it is even
# the lowest of the three. Its interval ends where the others begin, and two seeds are too few to say more. The job is
# to *copy* a number and to *choose* a topic. Predicting the next word of a mail trains neither, or not in sixty steps.
# Gururangan et al. did find gains, with tasks that need the words of a domain, and with far more text. Perplexity on
# your text is a means. Measure the job.
#
# ## What you take with you
# - Instruction tuning teaches to read the instruction. At the same number of steps, variety is what did it.
# - Continued pre-training lowers the perplexity of your text and, left alone, destroys what the text does not need.
# - A lower perplexity is no promise for the job that comes next.
# - Replay is cheap. Keep witnesses of the old skills, and measure them in every run.
#
# **Try it.** Lower the rate of the runs without replay, with all weights (`2e-4`) and with LoRA (`1e-3`): what do
# the mails and the old skills say? Give *shape* one single task in training, `("shape", "name")`: does it then work
# in the other pairs?
