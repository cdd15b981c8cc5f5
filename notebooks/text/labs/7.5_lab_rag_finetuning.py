# %% [markdown] tags=["badge"]
# # 7.5 Lab: retrieval and fine-tuning together
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.5_lab_rag_finetuning.ipynb)

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

import numpy as np
import torch

from course_utils import compat, figures
from course_utils.finetuning import peft_methods as pm
from course_utils.finetuning import tuning_tasks as tasks
from course_utils.measures import error_bars, percent, pooled, share
from course_utils.models import bundled
from course_utils.prisma import lm
from course_utils.settings import paced

folder = bundled.verify("prisma-lm")
base, tokenizer = lm.load(folder)
# For short rows on a CPU it trains faster than the fused kernel.
base.set_attn_implementation("eager")

# %% [markdown]
# ## 1. Three kinds of questions
#
# Customers have vouchers, and ask what theirs is worth. There are two ways for the model to know: it has learned the
# number in training, or somebody puts it into the prompt. Which one is better? That depends on what you ask, so we ask
# three kinds:
#
# - **trained**: customers whose vouchers were in the training data;
# - **new**: customers who were not;
# - **changed**: the trained customers, after everybody has got a new voucher.

# %% tags=["topic:rag-plus-finetune"]
then = tasks.vouchers(1)
now = tasks.vouchers(2)
customers = sorted(then)
# In a random order, so that the two halves differ by chance only.
names = random.Random(unit.seed).sample(customers, len(customers))
trained, new = names[:12], names[12:]
KINDS = {"trained": (trained, then), "new": (new, then), "changed": (trained, now)}
for kind, (group, worth) in KINDS.items():
    question, *_ = tasks.voucher_questions(group, 0)
    euros = worth[group[0]]
    print(f"{kind:>8}: {question:<45} {euros} euros")

# %% [markdown]
# ## 2. Search first
#
# Each voucher has a page of one sentence. A search has to find the right one among 24. Two searches are at hand: by
# **words** (each shared word counts by its rarity, the inverse document frequency), and by **embeddings** of
# `prisma-lm` (the mean of its last hidden states). Which one finds the right page more often?

# %% tags=["topic:rag-plus-finetune"]
pages = [tasks.voucher_page(name, then[name]) for name in names]
asked, wanted = [], []
for seed in range(4):
    asked += tasks.voucher_questions(names, seed)
    wanted += range(len(pages))  # the number of each question's page

embedder = unit.load("embedding")
question_vectors = embedder.encode(asked)  # (questions, width)
page_vectors = embedder.encode(pages)  # (pages, width)
apart = question_vectors[:, None] - page_vectors  # (questions, pages, width)
distances = np.linalg.norm(apart, axis=2)  # (questions, pages)
nearest = distances.argsort(axis=1)  # (questions, pages), the nearest first
searches = {"words": tasks.search(asked, pages, 4), "embeddings": nearest.tolist()}

table = []
for way, results in searches.items():
    row = {"search by": way}
    for k in (1, 4):
        hits = [page in found[:k] for page, found in zip(wanted, results, strict=True)]
        recall = share(hits)
        row[f"right page among {k}"] = percent(recall)
    table.append(row)
caption = f"{len(asked)} questions, {len(pages)} pages"
figures.table(table, caption)

# %% [markdown]
# **What to notice.** The embeddings find little more than chance would (1 of 24, and 4 of 24). An embedding is only
# as good as what it was trained for, and `prisma-lm` was never trained to embed: sentences of one form lie close
# together, whomever they are about. (It is good enough to tell a question from a mail, as the lab on adapters
# does.) For names a search by words is hard to beat. We go on with that one.
#
# We give the model four pages: the right one and three **distractors**, in random order. This is what it reads:


# %% tags=["topic:rag-plus-finetune"]
def exam(model: torch.nn.Module, kind: str, k: int) -> list[bool]:
    """Right or wrong for six questions on each customer of a kind, with `k` pages above each."""
    group, worth = KINDS[kind]
    questions = []
    for seed in range(101, 101 + paced(6, 1)):
        questions += tasks.voucher_tasks(group, worth, k, seed)
    rows = pm.encode(tokenizer, questions, 200)
    return pm.right(model, rows)


sample, *_ = tasks.voucher_tasks(trained, then, 4, 101)
for piece, _ in sample.pieces:
    print(piece)

# %% [markdown]
# ## 3. Five ways to answer
#
# - **prompt only**: the question and nothing else.
# - **retrieval only**: `prisma-lm` as it is, with four pages. It has read facts before, but never about vouchers.
# - **fine-tuned only**: all weights are trained on questions and answers about the trained customers, without pages.
# - **fine-tuned, then pages**: the same model, with four pages in the prompt all the same.
# - **RAFT** (Zhang et al. 2024, arXiv 2403.10131): trained *with* the pages in the prompt, right one and distractors.
#
# Write down your guess for each way and each kind of question: 15 numbers.


# %% tags=["topic:rag-plus-finetune"]
def lesson(k: int, passes: dict[int, dict[str, int]]) -> list[lm.Row]:
    """The trained customers' questions with `k` pages, for each pass: its seed and vouchers."""
    questions = []
    for seed, worth in passes.items():
        questions += tasks.voucher_tasks(trained, worth, k, seed)
    return pm.encode(tokenizer, questions, 200)


def tuned(rows: list[lm.Row], seed: int, label: str, lora: bool = False) -> torch.nn.Module:
    """prisma-lm after 80 steps of full fine-tuning on `rows`, or of LoRA."""
    torch.manual_seed(seed)
    model = copy.deepcopy(base)
    model.requires_grad_(True)
    rate = 1e-3
    if lora:
        model = compat.add_peft_lora(model, rank=8, alpha=16)
        rate = 5e-3  # LoRA takes a higher one
    pm.fit(model, rows, 80, rate, seed, label=f"{label}, seed {seed}")
    return model


SEEDS = (0, 1)
same = dict.fromkeys(range(paced(24, 4)), then)  # 24 passes, the same vouchers in each
closed = [tuned(lesson(0, same), seed, "answers only") for seed in SEEDS]
raft = [tuned(lesson(4, same), seed, "RAFT") for seed in SEEDS]

# %% tags=["topic:rag-plus-finetune"]
WAYS = {
    "prompt only": ([base], 0),
    "retrieval only": ([base], 4),
    "fine-tuned only": (closed, 0),
    "fine-tuned, then pages": (closed, 4),
    "RAFT": (raft, 4),
}
marks, table = {}, []
for way, (models, k) in WAYS.items():
    row = {"way": way}
    for kind in KINDS:
        runs = [exam(model, kind, k) for model in models]
        right = pooled(runs)
        marks[way, kind] = right
        row[kind] = percent(right)
    table.append(row)
figures.table(
    table,
    caption="Right answers: 72 questions of each kind, two training seeds where there is training",
)

# %%
fig, ax = figures.figure(height=3.6)
middles = np.arange(len(WAYS))
for shift, kind in zip((-0.27, 0, 0.27), KINDS, strict=True):
    measures = [marks[way, kind] for way in WAYS]
    heights, ends = error_bars(measures)
    ax.bar(middles + shift, heights, 0.26, yerr=ends, capsize=2, label=f"{kind} vouchers")
by_chance = 1 / 4
ax.axhline(by_chance, color=figures.GREY, linestyle=":", linewidth=1)
labels = [way.replace(" ", "\n", 1) for way in WAYS]
ax.set_xticks(middles, labels)
ax.set(ylabel="right answers (95 % intervals)", ylim=(0, 1.05))
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
lines = [", ".join(row.values()) for row in table]
told = "; ".join(lines)
figures.show(fig, alt=f"Right answers by way, for trained, new and changed vouchers. {told}.")

# %% [markdown]
# The dotted line is what taking one of the four pages at random would give.
#
# **What to notice.** Read it by kinds.
# - *Trained*: fine-tuning alone knows these vouchers by heart, and needs no search.
# - *New*: what was not in the training data is not in the weights.
# - *Changed*: here fine-tuning alone is confidently wrong. It still says the old number, and only training again will
#   change that. This is the kind that decides for most shops.
#
# Then compare the last two ways. A model that was trained to answer from memory answers from memory: put the right
# page in front of it, and for new and changed vouchers it does worse than taking a page at random. RAFT trained on
# the very same questions and answers, only with the pages in view, and learned something else: to find the right page
# among four and to read from it. It does so for customers that it has never met.
#
# ## 4. What made the difference?
#
# RAFT changes the training data in two ways: there is a page to read, and there are distractors around it. And a third
# thing could matter here. Each customer has the same voucher in every pass, so the model could learn the numbers by
# heart after all. We take these apart: training with the right page alone, and training where everybody's voucher is
# another one in every pass. Last, how much has to be trained: all weights, or LoRA?

# %% tags=["topic:rag-plus-finetune"]
moving = {seed: tasks.vouchers(200 + seed) for seed in range(paced(24, 4))}
right_page = lesson(1, same)
four_pages = lesson(4, moving)
alone = tuned(right_page, 0, "right page only")
fresh = tuned(four_pages, 0, "changing vouchers")
slim = tuned(four_pages, 0, "changing vouchers, LoRA", lora=True)
RECIPES = {"none": base, "right page only": alone, "with distractors (RAFT)": raft[0]}
RECIPES["with distractors, vouchers change in every pass"] = fresh
RECIPES["the same, with LoRA instead of full fine-tuning"] = slim
table = []
for name, model in RECIPES.items():
    row = {"training": name}
    for kind in KINDS:
        right = share(exam(model, kind, 4))
        row[f"{kind}, 4 pages"] = percent(right)
    remembered = share(exam(model, "trained", 0))
    row["trained, no pages"] = percent(remembered)
    table.append(row)
figures.table(table, caption="Right answers, 72 questions of each kind, one training seed")

# %% [markdown]
# **What to notice.** Start with the second row. A model that always saw one page, the right one, learned to copy
# whatever page is there; among four it picks badly. The **distractors** make the difference, as the paper says: they
# are what teaches to choose.
#
# The last column is a test for memory: without pages nobody can *read* a number. We expected RAFT with fixed vouchers
# to learn them by heart, and changing ones to cure that. If a memory is there, it is small, and the intervals of the
# two rows overlap everywhere. With the page in view, reading is easier to learn than remembering. Do not rely on it: a
# larger model, trained for longer, remembers more. Changing the facts in the training data costs nothing, and this
# column shows whether you need it.
#
# LoRA trains a twentieth of the weights and gets as far, and further on *new* vouchers. It is one seed, so read its row
# with its intervals.
#
# ## 5. When the search misses
#
# A search is not always right. What does the model say when the page is not among the four?

# %% tags=["topic:rag-plus-finetune"]
absent = []
for seed in range(paced(12, 4)):
    absent += tasks.missing_tasks(trained, moving[seed], 4, seed)
with_misses = four_pages + pm.encode(tokenizer, absent, 200)
honest = tuned(with_misses, 0, "with misses", lora=True)

example, *_ = tasks.missing_tasks(new, now, 4, 0)
question = example.pieces[0][0]
_, user_turn = question.split("<|user|>")
request, *_ = user_turn.split("<|end|>")
print(request, "\n")
prompt = tokenizer(question, return_tensors="pt")
start = prompt.input_ids.shape[1]  # the reply begins behind the prompt
for name, model in (("LoRA, vouchers change", slim), ("the same, with misses", honest)):
    written = model.generate(**prompt, max_new_tokens=12, do_sample=False)  # (1, tokens)
    reply = tokenizer.decode(written[0, start:], skip_special_tokens=True)
    print(f"{name}: {reply!r}")

# %% tags=["topic:rag-plus-finetune"]
missed = []
for seed in range(101, 101 + paced(6, 1)):
    missed += tasks.missing_tasks(new, now, 4, seed)
rows = pm.encode(tokenizer, missed, 200)

table = []
for name, model in {"LoRA, vouchers change": slim, "the same, with misses": honest}.items():
    refused = share(pm.right(model, rows))
    row = {"training": name, 'page missing: "I do not know"': percent(refused)}
    for kind in ("new", "changed"):
        right = share(exam(model, kind, 4))
        row[f"page there ({kind}): right"] = percent(right)
    table.append(row)
figures.table(
    table,
    caption="Saying that one does not know: what it brings and what it costs (one training seed)",
)

# %% [markdown]
# **What to notice.** One printed reply proves nothing, whatever it says here: read the table. Nothing in the first
# training said that a page could be missing, so the model gives *somebody else's* number, which is the worst of all
# answers. One row in three with the page missing teaches it to say that it does not know, about three times in five.
# The other columns are the price: a model that may refuse also refuses, or errs, where the page is there. The same
# steps now have to teach two things. Measure both sides.
#
# ## What you take with you
# - Fine-tuning teaches *how* to answer, retrieval brings *what* to answer. Facts in weights can't be changed by editing
#   a page.
# - Train for the prompt that you will really send: with distractors, with changing facts, with missing pages.
# - Test three kinds of questions: trained, new, and changed. An exam of the first kind alone would have chosen the
#   design that fails the next day.
#
# **Try it.** Give the model six pages instead of four, without training again: which model suffers more? Train the
# "changing vouchers" model for 160 steps: do new customers catch up with the trained ones?
