# %% [markdown] tags=["badge"]
# # 7.5 Lab: retrieval and fine-tuning together
#
# [![Open In
# Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.5_lab_rag_finetuning.ipynb)
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.5_lab_rag_finetuning.ipynb)

# %% [markdown]
# **After this notebook you can**
# - say what fine-tuning puts into a model, and what retrieval puts into its prompt, by numbers;
# - show what each of them does when a fact changes after training;
# - train a model to use retrieved facts among distracting ones (RAFT), and prove that it reads instead of reciting;
# - teach it to say that it does not know when the search has missed.
#
# **Time:** about 20 minutes to read and run; the cells take about a minute and a half on two free CPU cores.
#
# **Downloads:** nothing. This lab trains several small models, so it takes `prisma-lm` at every tier.

# %% tags=["bootstrap"]
# Finds the course's files. In Colab it fetches them and installs what is missing (network).
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

SOURCE, FOLDER = "https://github.com/genai-course/advanced-generative-ai", "advanced-generative-ai"
hosted = "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
if importlib.util.find_spec("course_utils") is None:
    places = [*(Path.cwd(), *Path.cwd().parents), Path.cwd() / FOLDER]
    root = next((p for p in places if (p / "course_utils").is_dir()), None)
    if root is None and hosted:
        print("Fetching the course from", SOURCE)
        subprocess.run(["git", "clone", "-q", "--depth", "1", "-b", "main", SOURCE, FOLDER], check=True)
        root = Path.cwd() / FOLDER
    if root is None:
        raise FileNotFoundError(f"Open this notebook inside a copy of the course: git clone {SOURCE}")
    sys.path.insert(0, str(root))
from course_utils import colab

colab.prepare(install=hosted)

# %%
from course_utils import open_unit

unit = open_unit("7.5", tier="bundled")

# %%
import copy
import random

import numpy as np
import torch

from course_utils import bundled, figures
from course_utils import peft_methods as pm
from course_utils import tuning_tasks as tasks
from course_utils.prisma import lm, text
from course_utils.prisma.shop import make_shop
from course_utils.prisma.training import Measure, share

base, tokenizer = lm.load(bundled.verify("prisma-lm"))
base.set_attn_implementation("eager")  # for short rows on a CPU it trains faster than the fused kernel


def percent(mark: Measure) -> str:
    return f"{100 * mark.value:.0f} % ({100 * mark.low:.0f} to {100 * mark.high:.0f})"


# %% [markdown]
# ## 1. Three kinds of questions
#
# A customer asks what a toy costs. There are two ways for the model to know: it has learned the price in training, or
# somebody puts the price into the prompt. Which one is better? That depends on what you ask, so we ask three kinds:
#
# - **trained**: products whose prices were in the training data;
# - **new**: products that came into the shop afterwards;
# - **changed**: the trained products, after the shop has changed its prices.

# %% tags=["topic:rag-plus-finetune"]
then, now = make_shop(1), make_shop(2)  # the same products, with other prices
names = sorted(then.products)
random.Random(unit.seed).shuffle(names)
shelf, trained, new = names[:96], names[:24], names[24:48]  # 96 pages to search; some are never asked about
KINDS = {"trained": (trained, then), "new": (new, then), "changed": (trained, now)}
for kind, (some, shop) in KINDS.items():
    question = tasks.questions(some, 0)[0]
    print(f"{kind:>8}: {question:<50} {shop.products[some[0]].price} euros")

# %% [markdown]
# ## 2. Search first
#
# Each product has a page of one sentence. A search has to find the right one among 96. Two searches are at hand: by
# **words** (each shared word counts by its rarity, the inverse document frequency), and by **embeddings** of
# `prisma-lm` (the mean of its last hidden states). Which one finds the right page more often?

# %% tags=["topic:rag-plus-finetune"]
asked, pages = tasks.questions(shelf, 1), [tasks.document(then, name) for name in shelf]
embedder = unit.load("embedding")
near = np.argsort(-embedder.encode(asked) @ embedder.encode(pages).T, axis=1).tolist()
searches = {"words": tasks.search(asked, pages, 4), "embeddings": [line[:4] for line in near]}
table = []
for name, found in searches.items():
    hits = {k: share([i in line[:k] for i, line in enumerate(found)]) for k in (1, 4)}
    table.append({"search by": name} | {f"right page among {k}": percent(mark) for k, mark in hits.items()})
figures.table(table, caption="96 questions, 96 pages")

# %% [markdown]
# **What to notice.** An embedding is only as good as what it was trained for, and `prisma-lm` was never trained to
# embed: sentences of one form lie close together, whatever they are about. (It is good enough to tell a question from
# a mail, as the lab on adapters does.) Names of products are what a search by words is made for. We go on with that
# one.
#
# We give the model four pages. The right one is there, and three **distractors** that share words with it. This is
# what it reads:


# %% tags=["topic:rag-plus-finetune"]
def exam(model: torch.nn.Module, kind: str, k: int) -> list[bool]:
    """Right or wrong for three questions on each product of a kind, with `k` pages above each."""
    some, shop = KINDS[kind]
    made = [one for seed in (101, 102, 103) for one in tasks.price_tasks(some, shop, shelf, k, seed)]
    return pm.right(model, pm.encode(tokenizer, made, 200))


sample = tasks.price_tasks(trained, then, shelf, 4, 101)[0]
print(sample.pieces[0][0], sample.pieces[1][0], sep="\n")

# %% [markdown]
# ## 3. Four ways to answer
#
# - **prompt only**: the question and nothing else.
# - **retrieval only**: `prisma-lm` as it is, with four pages.
# - **fine-tuned only**: all weights are trained on questions and answers about the trained products, without pages.
# - **fine-tuned, then pages**: the same model, with four pages in the prompt all the same.
# - **RAFT** (Zhang et al. 2024, arXiv 2403.10131): trained *with* the pages in the prompt, right one and distractors.
#
# Five, then. Write down your guess for each of the three kinds of questions: 15 numbers.


# %% tags=["topic:rag-plus-finetune"]
def lesson(k: int, shop=then, seeds: range = range(6)) -> list[pm.Row]:
    """The trained products' questions, with `k` pages each; several wordings and orders."""
    return pm.encode(tokenizer, [x for s in seeds for x in tasks.price_tasks(trained, shop, shelf, k, s)], 200)


def tuned(rows: list[pm.Row], steps: int, seed: int, label: str) -> torch.nn.Module:
    model = copy.deepcopy(base).requires_grad_(True)
    pm.fit(model, rows, steps, 1e-3, seed, label=f"{label}, seed {seed}")
    return model


SEEDS = (0, 1)
closed = [tuned(lesson(0), 120, seed, "answers only") for seed in SEEDS]
raft = [tuned(lesson(4), 60, seed, "RAFT") for seed in SEEDS]

# %% tags=["topic:rag-plus-finetune"]
WAYS = {
    "prompt only": ([base], 0),
    "retrieval only": ([base], 4),
    "fine-tuned only": (closed, 0),
    "fine-tuned, then pages": (closed, 4),
    "RAFT": (raft, 4),
}
marks = {(way, kind): [exam(m, kind, k) for m in models] for way, (models, k) in WAYS.items() for kind in KINDS}
table = [{"way": way} | {kind: percent(share(sum(marks[way, kind], []))) for kind in KINDS} for way in WAYS]
figures.table(table, caption="Right prices: 72 questions of each kind, two training seeds where there is training")

# %%
fig, ax = figures.figure(height=3.6)
for shift, kind in zip((-0.27, 0, 0.27), KINDS, strict=True):
    line = [share(sum(marks[way, kind], [])) for way in WAYS]
    error = [[m.value - m.low for m in line], [m.high - m.value for m in line]]
    at = [i + shift for i in range(len(line))]
    ax.bar(at, [m.value for m in line], 0.26, yerr=error, capsize=2, label=f"{kind} prices")
ax.set_xticks(range(len(WAYS)), [way.replace(" ", "\n", 1) for way in WAYS])
ax.set(ylabel="right prices (95 % intervals)", ylim=(0, 1.05))
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
told = "; ".join(", ".join(f"{cell}" for cell in row.values()) for row in table)
figures.show(fig, alt=f"Right prices by way and kind (trained, new, changed). {told}.")

# %% [markdown]
# **What to notice.** Read the table by columns.
# - *Trained*: fine-tuning alone knows these prices by heart, and needs no search.
# - *New*: what was not in the training data is not in the weights. Only the ways with pages can answer.
# - *Changed*: here fine-tuning alone is confidently wrong. It still says the old price, and nothing short of training
#   again will change that. This is the column that decides for most shops.
#
# Then read the fourth row. A model that was trained to answer from memory has lost the skill of reading: give it the
# pages and it does not use them. RAFT trained on the very same questions and answers, only with the pages in view, and
# learned something else: to find the right one among four.
#
# ## 4. What made the difference?
#
# RAFT changes the training data in two ways: there is a page to read, and there are distractors around it. And one
# more thing could matter here: if each product has the same price in every pass, the model could learn the prices by
# heart after all. We take these apart: training with the right page alone, and training where the prices change in
# every pass.

# %% tags=["topic:rag-plus-finetune"]
alone = tuned(lesson(1), 60, 0, "right page only")
shops = [make_shop(200 + s) for s in range(6)]
moving = tuned([row for s, shop in enumerate(shops) for row in lesson(4, shop, range(s, s + 1))], 60, 0, "new prices")
RECIPES = {"no training": base, "right page only": alone, "with distractors (RAFT)": raft[0]}
RECIPES["with distractors, prices change in every pass"] = moving
table = []
for name, model in RECIPES.items():
    row = {"training": name} | {f"{kind}, 4 pages": percent(share(exam(model, kind, 4))) for kind in KINDS}
    table.append(row | {"trained, no pages": percent(share(exam(model, "trained", 0)))})
figures.table(table, caption="Right prices, 72 questions of each kind, one training seed")

# %% [markdown]
# **What to notice.** The last column is a test for memory: without pages nobody can *read* a price. Compare it with
# the column of changed prices, where memory hurts. If your facts change, let them change in the training data, too:
# then there is nothing to learn by heart, and reading is all that is left.
#
# ## 5. When the search misses
#
# A search is not always right. What does the model say when the page is not among the four?

# %% tags=["topic:rag-plus-finetune"]
UNKNOWN = ("Answer: I do not know<|end|>", True)
rest = [name for name in shelf if name not in trained + new]


def missed(some: list[str], shop, seed: int) -> list[text.Example]:
    """Questions under four pages of other products; the right answer is that one does not know."""
    made = tasks.price_tasks(some, shop, rest, 4, seed)
    return [text.Example("missed", (one.pieces[0], UNKNOWN)) for one in made]


lost = pm.encode(tokenizer, [x for s, shop in enumerate(shops[:3]) for x in missed(trained, shop, s)], 200)
found = [row for s, shop in enumerate(shops) for row in lesson(4, shop, range(s, s + 1))]
honest = tuned(found + lost, 60, 0, "with misses")
prompt = tokenizer(missed(new, then, 0)[0].pieces[0][0], return_tensors="pt")
for name, model in (("RAFT", raft[0]), ("with misses", honest)):
    reply = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt.input_ids.shape[1] :]
    print(f"{name}, page missing: {tokenizer.decode(reply, skip_special_tokens=True)!r}")

# %% tags=["topic:rag-plus-finetune"]
absent = pm.encode(tokenizer, [one for seed in (101, 102, 103) for one in missed(new, now, seed)], 200)
table = []
for name, model in {"RAFT": raft[0], "prices change": moving, "prices change, with misses": honest}.items():
    row = {"training": name, 'page missing: "I do not know"': percent(share(pm.right(model, absent)))}
    table.append(row | {"page there: right price (new products)": percent(share(exam(model, "new", 4)))})
figures.table(table, caption="Saying that one does not know: what is won and what it costs")

# %% [markdown]
# **What to notice.** Nothing in RAFT's data said that a page could be missing, so the model names the price of a
# *similar* product, which is the worst of all answers. One row in three with the page missing changes that. Look at
# the second column for the price: does it now also refuse where the page is there?
#
# ## What you take with you
# - Fine-tuning teaches *how* to answer, retrieval brings *what* to answer. Facts in weights can't be changed by editing
#   a page.
# - Train for the prompt that you will really send, with distractors, with moving facts, and with missing pages.
# - Test three kinds of questions: trained, new, and changed. An exam with the first kind alone would have chosen the
#   worst of the designs.
#
# **Try it.** Give the model eight pages instead of four, without training again: who suffers? Then let the search
# return the right page last, always: does its place matter?
