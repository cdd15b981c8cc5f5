# %% [markdown] tags=["badge"]
# # 7.3 Efficiency: smaller, faster, longer
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.3_efficiency.ipynb)

# %% [markdown]
# **After this notebook you can**
# - say what 8, 4, 3, 2 and 1 bit a weight cost, in megabytes and in right answers;
# - prune weights, heads and channels, and tell when that makes a model smaller or faster, and when it does not;
# - distil a small model, and say where the teacher helps and where it does not;
# - compute attention in blocks, and check the claim "FlashAttention is 2-4 times faster";
# - trade time for memory with gradient checkpointing, and train in 16 bits without losing the gradient;
# - stretch rotary positions beyond the length of the training, and measure how much of a long text is *used*.
#
# **Time:** about 30 minutes to read and run; the cells take about a minute on two CPU cores.
#
# **Downloads:** nothing. Everything is measured on prisma-lm, which comes with the course.

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

unit = open_unit("7.3", tier="bundled")

# %%
import itertools
import math
import statistics
import time
import warnings
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

# %%
from course_utils import figures, settings
from course_utils.exercises import check, hint, quiz, solution
from course_utils.exercises.authors import whose
from course_utils.measures import bootstrap, error_bars, over_seeds, percent, share
from course_utils.models import hardware
from course_utils.models.layers import linear_layers
from course_utils.models.loaders import load
from course_utils.prisma import languages, lm, tasks, text
from course_utils.research import (
    checkpointing,
    cost,
    distillation,
    explorer,
    inside,
    pruning,
    quantisation,
    reasoning,
    rope_scaling,
)
from course_utils.serving import quantising

# %%
prisma = load("chat", replace(unit.hardware, device="cpu"), tier="bundled")
pad = prisma.tokenizer.pad_token_id
matrices = linear_layers(prisma.model)
inside_share = pruning.weights_left(prisma.model) / prisma.model.num_parameters()
print(f"{prisma.model.num_parameters():,} weights,", end=" ")
print(f"{inside_share:.0%} of them in {len(matrices)} matrices")

# %% [markdown]
# Two fresh test sets that no training has seen. **Sums**: shopping sums with worked steps. **Copying**: a row of
# random words, to be written once more, which this model finds hard. A task counts only if *every* token that the
# model has to write is its first choice: one wrong digit or word and the task is lost.
#
# Each share stands with its 95 % interval: other tasks would give another share, and an interval made in this way
# holds the true one in 95 of 100 experiments. Better still, every change gets *the same* tasks. Then the change can
# be measured task by task (*paired*), and its interval is narrower than that of two shares.

# %%
count = settings.paced(48, least=12)
sets = {"sums": tasks.sum_tasks(count, seed=730), "copying": tasks.copy_tasks(count, seed=730)}


def scored(model: torch.nn.Module) -> dict[str, reasoning.Score]:
    """How well a model does both test sets."""
    return {name: reasoning.score(model, prisma.tokenizer, some) for name, some in sets.items()}


def lost(before: list[bool], after: list[bool]) -> str:
    """The change of a share in points, task by task, with its 95 % interval."""
    changes = [100 * (int(late) - int(early)) for early, late in zip(before, after, strict=True)]
    found = bootstrap(changes, "points")
    return f"{found.value:+.0f} ({found.low:+.0f} to {found.high:+.0f})"


whole = scored(prisma.model)
for name, score in whole.items():
    print(f"{name:8} {percent(share(score.exact))} right")

# %% [markdown]
# ## 1. Fewer bits
#
# A weight is a number. How exact must it be? In groups of 64 neighbours we keep one **scale** in 16 bits and for each
# weight a small whole number. Guess before you run on: at how many bits does prisma-lm break?

# %% tags=["slide"]
figures.source(quantisation.quantise)

# %% tags=["nbval-check-output", "topic:quantisation-bits"]
group = torch.tensor([0.31, -0.07, 0.12, -0.52, 0.02, 0.26, -0.18, 0.44])
for bits in (8, 4, 3, 2, 1):
    rounded = quantisation.quantise(group, bits, group=8) + 0.0  # turns -0.0 into 0.0
    columns = [f"{weight:6.2f}" for weight in rounded.tolist()]
    print(f"{bits}-bit:", " ".join(columns))

# %% [markdown]
# Look at the 2-bit line. Two bits can name *four* levels, and this scale uses three: -1, 0 and 1 times the largest.
# An **asymmetric** scale uses all four: it lays them evenly from the lowest to the highest weight of the group, and
# keeps a zero point beside the scale (7.4 builds it, and GPTQ on top of it). And 4-bit **NF4**, which Unit 7.5 uses,
# puts its 16 levels closer together near zero, where most weights lie (Dettmers et al. 2023, arXiv 2305.14314).
#
# **Perplexity** is measured on the sums, on what the model writes: 1 means that it is always sure of the right token,
# 8 that it is as unsure as a guess among 8. (It is e to the power of the mean cross-entropy in nats, the negative
# natural logarithm of the right token's probability.)

# %% tags=["topic:quantisation-bits"]
formats = {"16 bits": (16, None)}  # bits a weight with scales, and how to round
for bits in (8, 4, 3, 2, 1):
    name = "1 bit" if bits == 1 else f"{bits} bits"
    with_scales = bits + 16 / 64  # 64 weights share a scale of 16 bits
    formats[name] = (with_scales, partial(quantisation.quantise, bits=bits))
four_levels = partial(quantising.round_to_nearest, bits=2)
formats["2 bits, asymmetric"] = (quantising.stored_bits(2), four_levels)
formats["4 bits, NF4"] = (4 + 32 / 64, quantisation.nf4)

# %% tags=["topic:quantisation-bits"]
by_format, rows = {"16 bits": whole}, []
for name in figures.progress(formats, "Quantising"):
    bits, change = formats[name]
    if change:
        by_format[name] = scored(quantisation.quantised_copy(prisma.model, change))
    sums, copying = by_format[name].values()
    row = {"format": name, "bits with scales": bits}
    row["size (MB)"] = quantisation.megabytes(prisma.model, bits)
    row["perplexity"] = f"{sums.perplexity:.4g}"
    row["sums right"] = percent(share(sums.exact))
    row["copying right"] = percent(share(copying.exact))
    row["copying, change in points"] = lost(whole["copying"].exact, copying.exact)
    rows.append(row)
caption = f"Matrices in groups of 64; {count} tasks of each kind, 95 % intervals"
figures.table(rows, caption=caption)

# %% tags=["topic:quantisation-bits"]
names = ["16 bits", "8 bits", "4 bits", "3 bits", "2 bits", "1 bit"]
fig, ax = figures.figure(height=3.4)
told = {}
# The two lines stand a little left and right of each tick, so that no interval hides another.
for label, marker, shift in (("sums", "o", -0.08), ("copying", "s", 0.08)):
    scores = [by_format[name][label] for name in names]
    values, ends = error_bars(share(score.exact) for score in scores)
    places = [tick + shift for tick in range(len(names))]
    ax.errorbar(places, values, ends, marker=marker, capsize=3, label=label)
    told[label] = ", ".join(f"{value:.0%}" for value in values)
ax.set_xticks(range(len(names)), names)
ax.set(xlabel="bits a weight", ylabel="share of tasks right", ylim=(-0.03, 1.03))
ax.legend()
listed = ", ".join(names)
said = figures.told(told)
figures.show(fig, alt=f"Share of tasks right at {listed}. {said}.")

# %% [markdown]
# Is the format with 1 bit ever better than the one with 2? Look at what happens to the weights.

# %% tags=["topic:quantisation-bits"]
name = next(name for name in matrices if "q_proj" in name)
matrix = matrices[name].weight.detach()
for label in ("3 bits", "2 bits", "2 bits, asymmetric", "1 bit"):
    _, change = formats[label]
    rounded = change(matrix)
    distance = (rounded - matrix).norm()
    zeros = (rounded == 0).float().mean()
    print(f"{label:18} {zeros:4.0%} become 0, error {distance / matrix.norm():.0%} of the matrix")
print("measured on", name)

# %% [markdown]
# **What to notice.** Down to 4 bits these tasks show no loss. At 3 bits copying loses, and the interval of the change
# lies below zero, while the easy sums hardly notice: ask a task that is hard for the model. Then everything goes.
# With 2 bits, rounding to the largest weight of a group leaves -1, 0 and 1, and most weights become 0. One bit keeps
# the sign of every weight and the mean size of its group: it lies *nearer* to the matrix than those three levels do.
# That is a fault of this 2-bit scale, not a merit of one bit. With all four levels, two bits are nearer than either,
# and the only ones of the three that still get sums right. Nearer is not yet better, though: in perplexity, 1 bit
# stands behind the three levels here, and neither has a task right. And the file never shrinks as much as the bits
# do: scales, embeddings and norms stay.
#
# Is that a law? No. Larger models bear 4 bits well (Dettmers and Zettlemoyer 2022, arXiv 2212.09720), methods that
# look at data lose less (GPTQ, arXiv 2210.17323; 7.4 measures it at 2 bits), and models *trained* with three levels
# work (arXiv 2402.17764).

# %% [markdown]
# ### A slider for the bits
#
# Move the slider from 16 bits to 1. On the left a corner of one weight matrix, on the right what the model answers.
# Guess first: which comes first, the change that you see in the weights, or the change in the answers? In a notebook
# that runs you can ask a question of your own at any number of bits.

# %% tags=["topic:quantisation-bits"]
problems = reasoning.sums(4, seed=73)
questions = {problem.question: problem.answer for problem in problems}
explorer.bits(prisma, questions, text.SYSTEM["steps"], max_new_tokens=64)

# %% [markdown]
# **What to notice.** Down to 4 bits you hardly see a change in the weights. At 3 bits the corner is coarser, and
# these answers still stand; at 2 bits both break at once. A few questions are an example and no measurement: the
# table above has the shares with their intervals.

# %% [markdown]
# ## 2. Pruning: leave something out
#
# Are all weights needed? **Magnitude pruning** sets those nearest to zero to zero (Han et al. 2015, arXiv
# 1506.02626). **Structured pruning** cuts out whole parts: heads, or *channels*, the numbers in the wide middle of an
# MLP. Which of the two makes a model faster? Guess first.

# %% tags=["slide"]
figures.source(pruning.magnitude, pruning.two_of_four)

# %% [markdown]
# Which heads and channels may go? Those that add least to the output of their layer. We let the model read a few
# examples, and multiply: the squares of what each input of a matrix was, times the squares of its weights (the idea
# of Wanda, arXiv 2306.11695, for whole parts). The control: as many parts, drawn at random.

# %%
figures.source(pruning.column_effects)

# %% tags=["topic:pruning"]
practice = [*tasks.sum_tasks(8, seed=1), *tasks.copy_tasks(8, seed=1)]
batches = distillation.lessons(prisma.tokenizer, practice, size=8)
important = pruning.importance(prisma.model, batches)


def cut(removed: float, by_chance: bool = False) -> torch.nn.Module:
    """prisma-lm without `removed` of its heads and channels: the weakest, or some by chance."""
    torch.manual_seed(unit.seed)
    chosen = []
    for scores in (important.heads, important.channels):
        order = torch.rand_like(scores) if by_chance else scores
        chosen.append(pruning.least(order, removed))
    return pruning.without(prisma.model, *chosen)


def zeroed(removed: float) -> torch.nn.Module:
    """prisma-lm with `removed` of each matrix set to 0."""
    return pruning.changed_copy(prisma.model, partial(pruning.magnitude, share=removed))


# %% tags=["topic:pruning"]
pruned = {}
for removed in (0.3, 0.5, 0.7):
    pruned["weights", removed] = zeroed(removed)
pruned["2 of 4 weights", 0.5] = pruning.changed_copy(prisma.model, pruning.two_of_four)
for removed in (0.125, 0.25):
    pruned["heads and channels", removed] = cut(removed)
pruned["the same by chance", 0.125] = cut(0.125, by_chance=True)

by_pruning, rows = {("nothing", 0.0): whole}, []
for key, model in figures.progress(pruned.items(), "Pruning"):
    by_pruning[key] = scored(model)
for (what, removed), scores in by_pruning.items():
    row = {"removed": what, "share": f"{removed:.1%}"}
    for name, score in scores.items():
        row[f"{name} right"] = percent(share(score.exact))
        row[f"{name}, points"] = lost(whole[name].exact, score.exact)
    rows.append(row)
figures.table(rows, caption=f"{count} tasks of each kind, no training afterwards; 95 % intervals")

# %% tags=["topic:pruning"]
fig, ax = figures.figure(height=3.2)
told = {}
for what, marker in (("weights", "o"), ("heads and channels", "s")):
    chosen = [key for key in by_pruning if key[0] in ("nothing", what)]
    removed = [key[1] for key in chosen]
    values, ends = error_bars(share(by_pruning[key]["sums"].exact) for key in chosen)
    ax.errorbar(removed, values, ends, marker=marker, capsize=3, label=what)
    told[what] = ", ".join(f"{value:.0%}" for value in values)
ax.set(xlabel="share removed", ylabel="share of sums right", ylim=(-0.03, 1.03))
ax.legend()
figures.show(fig, alt=f"Sums right against the share removed. {figures.told(told)}.")

# %% [markdown]
# Now size and speed. A file holds every weight, zero or not. Some libraries can leave the zeros out (*sparse*
# formats): then each number that stays needs its place beside it.

# %% tags=["topic:pruning"]
half = pruned["weights", 0.5]
tokens = torch.randint(100, 1000, (4, 128))
rows = []
for name, model in {
    "whole": prisma.model,
    "half of the weights 0": half,
    "a quarter of heads and channels cut": pruned["heads and channels", 0.25],
}.items():
    read = partial(model, use_cache=False)
    row = {"model": name, "numbers in its matrices": f"{pruning.weights_left(model):,}"}
    row["in a 16-bit file (MB)"] = quantisation.megabytes(model, 16)
    row["reads 512 tokens in (ms)"] = f"{cost.milliseconds(read, tokens, rounds=4):.0f}"
    rows.append(row)
figures.table(rows, caption="Size and time, the fastest of four runs")

# %% tags=["topic:pruning"]
name = next(name for name in matrices if "gate_proj" in name)
inputs = torch.randn(256, 512)
rows = []
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
for removed in (0.5, 0.9, 0.99):
    dense = pruning.magnitude(matrices[name].weight.detach(), removed)  # (768, 256)
    sparse = dense.to_sparse_csr()
    kilobytes = sum(part.nbytes for part in (sparse.values(), sparse.col_indices())) / 1e3
    slow = cost.milliseconds(lambda x, m=sparse: m @ x, inputs)
    fast = cost.milliseconds(lambda x, m=dense: m @ x, inputs)
    row = {"zeros": f"{removed:.0%}", "dense (kB)": dense.nbytes / 1e3, "sparse (kB)": kilobytes}
    row["sparse takes, times the time"] = slow / fast
    rows.append(row)
caption = f"One matrix, {name}, in 32 bits; places in PyTorch's 64 bits"
figures.table(rows, caption=caption, digits=1)

# %% [markdown]
# **What to notice.** Three tenths of the weights can go at no cost that these tasks show; half cost some right
# answers; then it collapses. And nothing is gained by the zeros: the file is as large, the reading as slow. A sparse
# format is *larger* at half zeros, and it becomes worth its while only where nearly everything is zero. Cutting heads
# and channels makes the matrices really smaller, so the file is smaller at once; the time falls, too, but in so small
# a model by less. But parts hold useful weights, too: a quarter of them costs what three tenths of the single weights
# do not. The easy sums bear an eighth of the parts, and copying does not. And the control tells that the choice is
# worth something: parts drawn by chance lose far more of the sums.
#
# Between the two lies **2:4**, two zeros in every four neighbours, which NVIDIA's GPUs since Ampere multiply with up
# to twice the speed (arXiv 2104.08378). It is half of the weights, too, but with less freedom to choose them: compare
# the two lines. Better rules look at the inputs, as we did for the parts (Wanda; SparseGPT, arXiv 2301.00774). In
# practice one trains on after a cut (LLM-Pruner, arXiv 2305.11627): often by distillation, which is next.

# %%
quiz("7.3.zeros_save")

# %% [markdown]
# ## 3. Distillation: learn from a teacher
#
# A label says: "24". A teacher says: "24 perhaps, 26 almost as well, never 9". Hinton et al. (2015, arXiv 1503.02531)
# let a small **student** learn the teacher's whole distribution. Both are softened first: logits, the scores before
# the softmax, are divided by a **temperature** $T$, so that small probabilities count more. The loss is the
# Kullback-Leibler divergence from the teacher's distribution $p$ to the student's $q$, the mean over all tokens,
# times $T^2$ so that gradients keep their size:
#
# $$T^2 \sum_i p_i \left(\log p_i - \log q_i\right)$$
#
# DistilBERT (arXiv 1910.01108) made a model 40 % smaller in this way, and kept 97 % of what its teacher could do on
# GLUE.

# %% [markdown]
# ### Exercise: What a student learns from a teacher (medium, about 20 minutes)
#
# Two teachers at once: a model that says how sure it is, and labels that are never in doubt.
# `hint("7.3.distillation_loss")` helps. Until your function passes, the notebook goes on with the course's own, and
# says so.


# %%
def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    alpha: float,
) -> Tensor:
    """What a student learns from a teacher and from labels (arXiv 1503.02531, section 2).

    `student` and `teacher` are logits (n, classes), `labels` (n,) the right classes. The soft part
    is the Kullback-Leibler divergence KL(teacher | student) of both distributions at
    `temperature` (logits divided by it), times the temperature squared. The hard part is the
    cross-entropy of the student with the labels, at temperature 1. Both are means over the n
    examples. The loss is alpha x soft + (1 - alpha) x hard. No gradient flows into the teacher.
    """
    # Your code here
    raise NotImplementedError


# %%
distillation_loss = check("7.3.distillation_loss", distillation_loss)

# %% [markdown]
# What does the temperature do? The same student and the same teacher, three temperatures, and how hard the soft part
# pulls at the student's logits. Without the factor $T^2$ the last number would fall to a thousandth.

# %% tags=["topic:distillation"]
torch.manual_seed(unit.seed)
both = torch.randn(2, 8, 20)  # (student and teacher, examples, classes)
nothing = torch.zeros(8, dtype=torch.long)
for temperature in (1.0, 4.0, 30.0):
    learner = both[0].clone().requires_grad_()
    loss = distillation_loss(learner, both[1], nothing, temperature, 1.0)
    loss.backward()
    pull = learner.grad.norm()
    print(f"T = {temperature:>4}: loss {loss:.2f} nats, pull {pull:.3f}")
print("measured with", whose(distillation_loss))

# %% [markdown]
# Does the teacher help, or would the student have learned as much without? The fair comparison: the same student, the
# same random start, the same examples, the same steps. Only the target differs. The task is to *guess* answers about
# unknown shops at once. No label can be known, but good guesses can: prices have a range, orders a status. We measure
# on fresh questions how unlikely the true answer was, in nats a token; lower is better. With few examples and with
# many: where will the teacher help more? (Worked sums showed no gain, so this task was chosen as one where soft
# targets *can* help; steps and rate were set on other questions than those that are asked below.)


# %% tags=["topic:distillation"]
def soft(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """The teacher's distribution, at temperature 1; the labels are not looked at."""
    return distillation.distillation_loss(student, teacher, temperature=1.0)


targets = {"labels": distillation.label_loss, "teacher": soft}
amounts, seeds = (32, 256), range(settings.paced(4, least=2))
STEPS = settings.paced(40, least=8)
fresh_questions = distillation.guesses(settings.paced(150, least=30), seed=990)
test_rows = [lm.encode(prisma.tokenizer, example) for example in fresh_questions]
student = distillation.fresh(prisma.model, layers=2, width=64, heads=4, seed=0)
print(f"student: {student.num_parameters():,} weights, teacher: {prisma.model.num_parameters():,}")


def loss_of(model: torch.nn.Module) -> list[float]:
    """The mean loss (nats a token) on each fresh question."""
    readings = lm.read(model, test_rows, pad, use_cache=False)
    return [reading.loss / reading.tokens for reading in readings]


# %% tags=["topic:distillation"]
losses = {}
plan = list(itertools.product(amounts, seeds))
for amount, seed in figures.progress(plan, "Teaching"):
    examples = distillation.guesses(amount, seed)
    batches = distillation.lessons(prisma.tokenizer, examples, size=8)
    answers = distillation.taught(prisma.model, batches)
    for name, target in targets.items():
        student = distillation.fresh(prisma.model, layers=2, width=64, heads=4, seed=seed)
        distillation.train(student, batches, answers, target, STEPS, rate=1e-2)
        losses[amount, name, seed] = loss_of(student)
of_teacher = loss_of(prisma.model)


# %% tags=["topic:distillation"]
def teacher_helps(amount: int) -> str:
    """What the teacher changes the loss by, seed by seed; 95 % interval of Student's t."""
    changes = []
    for seed in seeds:
        hard, soft = (statistics.mean(losses[amount, name, seed]) for name in targets)
        changes.append(soft - hard)
    change = over_seeds(changes)
    return f"{change.value:+.2f} ({change.low:+.2f} to {change.high:+.2f})"


rows = []
for amount in amounts:
    row = {"examples": amount}
    for name in targets:
        means = [statistics.mean(losses[amount, name, seed]) for seed in seeds]
        row[f"from {name} (nats, each seed)"] = ", ".join(f"{mean:.2f}" for mean in means)
    row["the teacher changes it by"] = teacher_helps(amount)
    rows.append(row)
print(f"the teacher itself: {statistics.mean(of_teacher):.2f} nats")
caption = (
    f"Loss on {len(test_rows)} fresh questions, {STEPS} steps; change paired by seed, 95 % interval"
)
figures.table(rows, caption=caption)

# %% [markdown]
# **What to notice.** The student that sees few labels can learn *these* answers by heart, and then is sure of them on
# fresh questions, where they are wrong. With more examples no answer is repeated often, but each is still one draw of
# many that were possible, and it pulls the student its own way. The teacher's distribution tells for every example
# what else would have been possible. So it helps where the interval in the last column lies below 0. Does it help
# *more* with few examples? Compare both intervals: where they overlap, these seeds do not say. (Hinton et al. say so
# for speech: with 3 % of the data, soft targets kept nearly all of the accuracy, and labels did not.)
#
# What it does not show: that distillation always wins. On tasks with *one* right token, such as our worked sums, the
# teacher is so sure that its distribution says hardly more than the label. And a student of this size stays far from
# its teacher. Today many small models are distilled in another way, too: they are simply trained on texts that a
# large one has written (DeepSeek-R1's distilled models, arXiv 2501.12948).

# %% [markdown]
# ## 4. FlashAttention: the same result, piece by piece
#
# Attention by hand writes an $n \times n$ matrix of scores to memory and reads it back. FlashAttention (Dao et al.
# 2022, arXiv 2205.14135) does not compute less: it *stores* less. It never holds more than one block of the matrix.
# But how can you take a softmax of a row that you never see as a whole?
#
# Each block of keys gives three things for a query: its largest score $m$, the sum $l$ of $e^{s - m}$ over its scores
# $s$, and $o$, the sum of the values weighted by $e^{s - m}$. If there were only this block, the answer would be $o /
# l$. Subtracting $m$ keeps the exponentials from overflowing. The trouble: two blocks subtract *different* numbers.

# %% [markdown]
# ### Exercise: A softmax in pieces (hard, about 30 minutes)
#
# The heart of FlashAttention: a softmax over scores that you see block by block, and never all together.
# `hint("7.3.blockwise_softmax")` helps. Until your function passes, the notebook goes on with the course's own, and
# says so.


# %%
def blockwise_softmax(
    top: Tensor,
    total: Tensor,
    result: Tensor,
    scores: Tensor,
    values: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One block of keys more for n queries (FlashAttention, arXiv 2205.14135).

    Carried along for each query: `top` (n,), the largest score so far; `total` (n,), the sum of
    exp(score - top) so far; `result` (n, e), the sum of exp(score - top) x value so far. At the
    start they are minus infinity, 0 and 0. The new block has `scores` (n, block) and `values`
    (block, e). Return the new (top, total, result). After the last block, result / total is what
    softmax(all scores) @ all values would be. A row of `scores` may be minus infinity throughout,
    even in the first block: it changes nothing.
    """
    # Your code here
    raise NotImplementedError


# %%
blockwise_softmax = check("7.3.blockwise_softmax", blockwise_softmax)

# %% tags=["topic:flash-attention"]
torch.manual_seed(unit.seed)
scores, values = 30 * torch.randn(64, 300), torch.randn(300, 16)
state = (torch.full((64,), float("-inf")), torch.zeros(64), torch.zeros(64, 16))
for block, worth in zip(scores.split(50, dim=1), values.split(50), strict=True):
    state = blockwise_softmax(*state, block, worth)
_, total, result = state
difference = (result / total[:, None] - scores.softmax(-1) @ values).abs().max()
print(f"six blocks of {whose(blockwise_softmax)} against one softmax: {difference:.1e}")

# %% [markdown]
# Now the whole thing, with a causal mask (nobody looks into the future). Two loops, over blocks of queries and of
# keys. A block that lies wholly in the future is not computed at all.


# %% tags=["slide", "topic:flash-attention"]
def tiled_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, size: int = 128
) -> Tensor:
    """Attention without the n x n matrix (arXiv 2205.14135). q, k, v: (..., n, d)."""
    results = []
    for block, rows in enumerate(q.split(size, dim=-2)):
        results.append(for_one_block(rows, block * size, k, v, causal, size))
    return torch.cat(results, dim=-2)  # (..., n, d)


# %% tags=["topic:flash-attention"]
def for_one_block(q: Tensor, start: int, k: Tensor, v: Tensor, causal: bool, size: int) -> Tensor:
    """The result for one block of queries, the first of which is number `start`."""
    top = q.new_full((*q.shape[:-1], 1), float("-inf"))  # (..., rows, 1): largest score so far
    total, result = torch.zeros_like(top), torch.zeros_like(q)
    end = start + q.shape[-2] if causal else k.shape[-2]
    for at in range(0, end, size):
        keys, values = k[..., at : at + size, :], v[..., at : at + size, :]
        scores = q @ keys.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., rows, size)
        if causal:
            future = torch.ones_like(scores, dtype=torch.bool).triu(start - at + 1)
            scores = scores.masked_fill(future, float("-inf"))
        larger = torch.maximum(top, scores.amax(dim=-1, keepdim=True))
        old, part = (top - larger).exp(), (scores - larger).exp()
        total = total * old + part.sum(dim=-1, keepdim=True)
        result = result * old + part @ values
        top = larger
    return result / total


# %% tags=["topic:flash-attention"]
def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention with the whole matrix of scores."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., n, n)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ v


torch.manual_seed(unit.seed)
q, k, v = torch.randn(3, 1, 4, 1000, 64)  # 1,000 is no multiple of the block
for causal in (False, True):
    ours = tiled_attention(q, k, v, causal)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    difference = inside.largest_difference(ours, theirs)
    print(f"causal {causal!s:5}: largest difference from PyTorch {difference:.1e}")

# %% [markdown]
# ### A common claim: "FlashAttention is 2-4 times faster"
#
# Faster than what, and where? PyTorch's `scaled_dot_product_attention` is this idea as one fused kernel. We measure
# time and memory against the length, on your machine. The three ways take turns, and the fastest of three runs
# counts: whatever else the machine does can only slow a run down. Guess the factor at 256 and at 4,096 tokens.

# %% tags=["topic:flash-attention"]
ways = {
    "by hand": by_hand,
    "tiled in Python": partial(tiled_attention, causal=True),
    "PyTorch, fused": partial(F.scaled_dot_product_attention, is_causal=True),
}
lengths = [256, 512, 1024] if settings.is_quick() else [256, 512, 1024, 2048, 4096]
timed = {name: [] for name in ways}
held = {name: [] for name in ways}
torch.manual_seed(unit.seed)
for n in figures.progress(lengths, "Timing"):
    q, k, v = torch.randn(3, 1, 2, n, 64, device=unit.device)
    runs = {name: [] for name in ways}
    for _ in range(3):
        for name, way in ways.items():
            runs[name].append(cost.milliseconds(way, q, k, v, rounds=1))
    for name, way in ways.items():
        timed[name].append(min(runs[name]))
        held[name].append(cost.peak_mib(way, q, k, v))

# %% tags=["topic:flash-attention"]
fig, axes = figures.figure(columns=2, width=10, height=3.6)
for name, marker in zip(ways, "os^", strict=True):
    axes[0].plot(lengths, timed[name], marker=marker, label=name)
    axes[1].plot(lengths, held[name], marker=marker, label=name)
for ax in axes:
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
axes[0].set(xlabel="tokens", ylabel="time (ms)", title="Time")
axes[1].set(xlabel="tokens", ylabel="memory beyond the inputs (MiB)", title="Memory")
axes[0].legend()
told = [f"{name} {held[name][-1]:.0f} MiB" for name in ways]
said = ", ".join(told)
figures.show(fig, alt=f"Time and memory against length, both logarithmic. At the longest: {said}.")

# %% tags=["topic:flash-attention"]
rows = []
for i, n in enumerate(lengths):
    slow, fast = timed["by hand"][i], timed["PyTorch, fused"][i]
    more, less = held["by hand"][i], held["PyTorch, fused"][i]
    row = {"tokens": n, "by hand (ms)": slow, "fused (ms)": fast}
    row["fused is faster by"] = f"{slow / fast:.1f} times"
    row["by hand (MiB)"], row["fused (MiB)"] = more, less
    row["fused holds less by"] = f"{more / less:.0f} times"
    rows.append(row)
caption = f"Causal attention, 2 heads of 64 numbers, on this machine ({unit.device})"
figures.table(rows, caption=caption, digits=1)

# %% [markdown]
# **Verdict: true where it was measured, against attention by hand.** The result is the same to rounding. How much
# faster depends on the machine and the length, and your factors stand above; below 1 the fused kernel would be the
# *slower* one. On a CPU there is no small fast memory that a kernel could fill by itself: what it saves here are
# writes to the one memory, and the half of the matrix that a causal mask hides. The paper reports, for whole training
# on GPUs, 3 times for GPT-2 with 1,024 tokens against Hugging Face's code (1.7 times against Megatron-LM's), and 2.4
# times for sequences of 1,024 to 4,096 tokens (arXiv 2205.14135). The second version is about twice as fast as the
# first in attention alone, and up to 1.3 times in whole training (arXiv 2307.08691; its abstract is also where the
# 2-4 stands). The third is 1.5 to 2.0 times as fast as the second on an H100 (arXiv 2407.08608). The fourth, for B200
# GPUs, reports up to 1.3 times over NVIDIA's cuDNN 9.13 and up to 2.7 times over a Triton kernel (Zadouri et al.
# 2026, in the repository Dao-AILab/flash-attention). Each number has its own baseline: that is the half of the
# sentence which gets lost.
#
# **What to notice.** What holds everywhere is the memory: it grows with $n$ instead of $n^2$. The same idea in plain
# Python saves memory too, and it needs a fused kernel to save all of it. (Scratch space inside the kernel is not seen
# by our count on a CPU.)

# %%
quiz("7.3.flash_exact")

# %% [markdown]
# ## 5. Gradient checkpointing: memory for time
#
# To train, a layer must remember what went in: its gradient needs it. With $L$ layers that is $L$ times as much. Or
# we throw it away, and compute it again when its turn comes (Chen et al. 2016, arXiv 1604.06174):
#
# ```text
# forward    x0 -> [block 0] -> x1 -> [block 1] -> x2 -> loss     keep only x0, x1, x2
# backward                                  x1 -> [block 1] again, then its gradient
#                        x0 -> [block 0] again, then its gradient
# ```
#
# By hand it is one class, which PyTorch calls forwards and backwards:

# %% tags=["slide"]
figures.source(checkpointing.Again)

# %% tags=["topic:gradient-checkpointing"]
torch.manual_seed(unit.seed)
blocks = checkpointing.stack(depth=8, width=128, seed=unit.seed)
x = torch.randn(64, 128, requires_grad=True)  # (tokens, width)
gradients = {}
for name, size, way in (
    ("everything kept", None, checkpointing.by_pytorch),
    ("by hand", 1, checkpointing.again),
    ("PyTorch", 1, checkpointing.by_pytorch),
):
    blocks.zero_grad()
    checkpointing.run(blocks, x, size, way).square().mean().backward()
    gradients[name] = torch.cat([weight.grad.flatten() for weight in blocks.parameters()])
kept = gradients.pop("everything kept")
for name, found in gradients.items():
    print(f"{name:8} gradients differ by at most {(found - kept).abs().max():.1e}")

# %% [markdown]
# The same gradients. What does it cost? One more forward. A backward pass is about two forwards of work, so guess:
# how much longer is the step? Two ways to keep: the input of *every* block, or only of every $\sqrt{L}$-th. And
# everything at several depths, to see how memory *grows*.

# %% tags=["topic:gradient-checkpointing"]
x = torch.randn(512, 128)
rows, curves = [], {}
for depth in figures.progress((4, 9) if settings.is_quick() else (4, 16, 36), "Measuring"):
    blocks = checkpointing.stack(depth, width=128, seed=unit.seed)
    group = []
    choices = {"everything": None, "each block's input": 1, "every √L-th": math.isqrt(depth)}
    for name, size in choices.items():
        found = checkpointing.cost(blocks, x, size)
        beyond = found.mib  # the gradients of the weights included
        curves.setdefault(name, []).append((depth, beyond))
        row = {"blocks": depth, "kept": name, "peak beyond the weights (MiB)": beyond}
        row["step (ms)"] = found.milliseconds
        group.append(row)
    for row in group:
        row["times the time"] = row["step (ms)"] / group[0]["step (ms)"]
    rows += group
figures.table(rows, caption="One step of 512 tokens, 128 wide; the fastest of three", digits=2)

# %% tags=["topic:gradient-checkpointing"]
fig, ax = figures.figure(height=3.0)
told = {}
for (name, points), marker in zip(curves.items(), "os^", strict=True):
    depths, sizes = zip(*points, strict=True)
    ax.plot(depths, sizes, marker=marker, label=name)
    told[name] = f"{sizes[-1]:.0f} MiB"
ax.set(xlabel="blocks", ylabel="MiB at the peak")
ax.legend(title="kept")
figures.show(fig, alt=f"Peak memory against depth. At the deepest: {figures.told(told)}.")

# %% [markdown]
# **What to notice.** With everything kept, memory rises by the same amount with each block. With checkpoints it rises
# much less: by half a MiB a block here. That is the gradients of the block's weights, which are all there at the end
# of the step; one input is a quarter of a MiB. The $\sqrt{L}$ way keeps fewer inputs, but has to hold a whole stretch
# of blocks while it goes back through it: here, where a block keeps much more than its input, each block's input is
# the better choice. Measure before you believe a rule. The work rises by a third, three forwards' worth becomes four;
# your column says what that is in time. In transformers it is one line: `model.gradient_checkpointing_enable()`. Unit
# 7.5 counts what it saves for a model of 7 billion weights.

# %% [markdown]
# ## 6. Mixed precision: train in 16 bits
#
# Sixteen bits a number: half the memory, and on hardware with units for them, products at several times the speed.
# Two formats divide the 16 bits between *range* and *precision* in different ways. fp16 gives 5 to the exponent
# and 10 to the fraction, bf16 gives 8 and 7. Guess before you look at the table's last columns: what does 1 + 0.002
# become in each? And a gradient of 0.00000001?

# %% tags=["nbval-check-output", "topic:mixed-precision"]
rows = []
for dtype, bits in (
    (torch.float32, "8 + 23"),
    (torch.float16, "5 + 10"),
    (torch.bfloat16, "8 + 7"),
):
    limits = torch.finfo(dtype)
    row = {"format": str(dtype).removeprefix("torch."), "exponent + fraction bits": bits}
    row["largest"] = f"{limits.max:.1e}"
    row["smallest, rounded steps"] = f"{limits.smallest_normal * limits.eps:.1e}"
    row["next after 1"] = f"1 + {limits.eps:.0e}"
    row["1 + 0.002"] = f"{(torch.tensor(1.002, dtype=dtype)).item():.4f}"
    row["0.00000001"] = f"{torch.tensor(1e-8, dtype=dtype).item():.1e}"
    row["70,000"] = f"{torch.tensor(70000.0, dtype=dtype).item():,.0f}"
    rows.append(row)
figures.table(rows)

# %% [markdown]
# fp16 sees finer steps near 1, but nothing below 0.00000006 and nothing above 65,504. bf16 has the range of fp32 and
# the precision of two to three decimal digits. Where do the gradients of a trained model lie?

# %% tags=["topic:mixed-precision"]
(batch,) = distillation.lessons(prisma.tokenizer, tasks.sum_tasks(1, seed=5), size=1)
inner = [weight for name, weight in prisma.model.named_parameters() if "layers" in name]


def gradient(dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, float]:
    """All gradients of a step, products in `dtype`, the loss times `scale`; its seconds."""
    begun = time.process_time()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        loss = prisma.model(**batch, use_cache=False).loss
    gradients = torch.autograd.grad(loss * scale, inner)
    flat = torch.cat([one.flatten() for one in gradients]).float() / scale
    return flat, time.process_time() - begun


# %% tags=["topic:mixed-precision"]
exact, usual = gradient(torch.float32)
rows = []
plan = [(torch.bfloat16, 1), (torch.float16, 1), (torch.float16, 2**10)]
for dtype, scale in figures.progress(plan, "Gradients"):
    found, seconds = gradient(dtype, scale)
    row = {"products in": str(dtype).removeprefix("torch."), "loss times": f"{scale:,}"}
    row["became 0"] = f"{(found == 0).float().mean():.1%}"
    row["direction kept (cosine)"] = torch.cosine_similarity(found, exact, dim=0).item()
    row["times the time of fp32"] = f"{seconds / usual:.1f}"
    rows.append(row)
units = hardware.cpu_bf16_units() or "none"
caption = f"Gradients of a worked sum, against fp32; this CPU's bf16 units: {units}"
figures.table(rows, caption=caption)

# %% [markdown]
# In fp16 a large part of the gradient is below the smallest number and becomes 0: it **underflows**. The cure is a
# **loss scale** (Micikevicius et al. 2017, arXiv 1710.03740): multiply the loss by a large number, so that all
# gradients grow by it, and divide before the step. Too large, and gradients overflow to infinity:
# `torch.amp.GradScaler` halves the scale and skips that step. Does it matter? Here the large gradients remain, and
# with them the direction. Where all are small, nothing remains. A small training towards a small target, the same
# start and the same steps:

# %% tags=["topic:mixed-precision"]
STEPS = settings.paced(100)
SMALL = 3e-5  # the target, and the size of a step


def beginner(seed: int) -> torch.nn.Module:
    """A small network that says 0 to everything at first."""
    (block,) = checkpointing.stack(depth=1, width=16, seed=seed)
    for weights in block.inside[-1].parameters():
        torch.nn.init.zeros_(weights)
    return block.inside


# %% tags=["topic:mixed-precision"]
def trained(dtype: torch.dtype, scale: float | None, seed: int) -> float:
    """The loss after training with products in `dtype`, as a share of the loss before."""
    network = beginner(seed)
    x = torch.randn(256, 16)
    wanted = SMALL * x.flip(1).sin()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    optimiser = torch.optim.Adam(network.parameters(), lr=SMALL)
    losses = []
    for _ in range(STEPS):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            said = network(x)
        losses.append((said.float() - wanted).square().mean())
        optimiser.zero_grad()
        scaler.scale(losses[-1]).backward()
        scaler.step(optimiser)
        scaler.update()
    return (losses[-1] / losses[0]).item()


# %% tags=["topic:mixed-precision"]
recipes = {
    "fp32": (torch.float32, None),
    "bf16": (torch.bfloat16, None),
    "fp16": (torch.float16, None),
    "fp16, loss scale from 65,536": (torch.float16, 2.0**16),
}
rows = []
for name, (dtype, scale) in figures.progress(recipes.items(), "Training"):
    left = [trained(dtype, scale, seed) for seed in range(3)]
    rows.append(
        {"products in": name, "loss left, each seed": ", ".join(f"{part:.1%}" for part in left)}
    )
figures.table(rows, caption=f"{STEPS} steps towards a target of size {SMALL:.0e}; weights in fp32")

# %% [markdown]
# The weights stayed in fp32 all the time. Why? Add a small step to a weight in 16 bits, and look whether it moved:

# %% tags=["topic:mixed-precision"]
weights = torch.cat([weight.detach().flatten() for weight in inner])
rows = []
for step in (1e-3, 1e-4, 1e-5):
    row = {"step": f"{step:.0e}"}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        kept = weights.to(dtype)
        moved = kept + torch.tensor(step, dtype=dtype) != kept
        row[f"weights that move, {str(dtype).removeprefix('torch.')}"] = (
            f"{moved.float().mean():.0%}"
        )
    rows.append(row)
figures.table(rows, caption=f"A step added to the {len(weights):,} inner weights of prisma-lm")

# %% [markdown]
# **What to notice.** Three formats, three troubles. fp16 loses small gradients, and a loss scale brings them back:
# both tables show it. bf16 needs no scale, because its range is that of fp32; what it lacks is precision, and you see
# it where a small step is added to a weight: most weights do not move at all. So trainings keep a *master copy* of
# the weights in fp32, and only products run in 16 bits. And the time? A CPU without units for these formats computes
# them *emulated*: the column above shows what that costs here. On a GPU since NVIDIA's Ampere both are fast, and bf16
# is the usual choice; `hardware.autocast` of this course uses bf16 only where there are units for it.
#
# What it saves in memory: activations are half as large, the products' copies of the weights come on top, and
# weights, gradients and Adam's two numbers stay in 32 bits, 16 bytes a weight in all. Unit 7.5 adds it up for 7
# billion.

# %%
quiz("7.3.loss_scale")

# %% [markdown]
# ## 7. Longer than the training
#
# prisma-lm's configuration says 1,024 positions. How long were the texts that it really read?

# %% tags=["topic:rope-scaling"]
mixture = text.mixture(5, text.SKILLS)
seen = [len(lm.encode(prisma.tokenizer, next(mixture))[0]) for _ in range(400)]
seen.sort()
print(f"nominal length: {prisma.model.config.max_position_embeddings} tokens")
print(f"400 examples of its last training phase: median {seen[200]}, longest {seen[-1]} tokens")
copied = [len(lm.encode(prisma.tokenizer, example)[0]) for example in sets["copying"]]
print(f"rows of words to copy, as in its training: longest {max(copied)} tokens")

# %% [markdown]
# The length that a model *accepts* is not the length that it has learned to use. Its **rotary positions** (RoPE; the
# first notebook builds them) turn each pair of numbers of a query and a key by an angle for each token of distance.
# At a distance that never came up in training, the slow pairs reach angles that the model has never seen. Three ways
# to keep the angles in the known range, without training:
#
# - **linear**, or position interpolation (Chen et al. 2023, arXiv 2306.15595): turn everything `factor` times more
#   slowly;
# - **NTK-aware** (proposed by a user, bloc97, in June 2023; described in arXiv 2309.00071): a larger base, so that slow
#   pairs slow down and fast ones, which tell neighbours apart, hardly do;
# - **YaRN** (Peng et al. 2023, arXiv 2309.00071): leave fast pairs, interpolate slow ones, and sharpen the attention.

# %%
figures.source(rope_scaling.linear, rope_scaling.ntk, rope_scaling.yarn)

# %% tags=["topic:rope-scaling"]
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

WIDTH, FACTOR, TRAINED = 32, 4.0, 128  # numbers a head; how far to stretch; tokens to start from


def library(kind: str, length: int | None = None, **more: float) -> tuple[Tensor, float]:
    """Frequencies and attention factor as transformers computes them."""
    parameters = {"rope_type": kind, "rope_theta": 10000.0, **more}
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=8,
        max_position_embeddings=TRAINED,
        rope_parameters=parameters,
    )
    return ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)


stretched = int(FACTOR * TRAINED)
theirs = {"linear": library("linear", factor=FACTOR)[0]}
theirs["NTK"] = library("dynamic", stretched, factor=1.0)[0]  # the same base at this length
theirs["YaRN"], sharp = library("yarn", factor=FACTOR, original_max_position_embeddings=TRAINED)

# %% tags=["topic:rope-scaling"]
turns = {"as trained": rope_scaling.plain(WIDTH), "linear": rope_scaling.linear(WIDTH, FACTOR)}
turns["NTK"] = rope_scaling.ntk(WIDTH, FACTOR)
turns["YaRN"] = rope_scaling.yarn(WIDTH, FACTOR, TRAINED)
for name, frequencies in theirs.items():
    difference = inside.largest_difference(turns[name], frequencies)
    print(f"{name:6} largest difference from transformers: {difference:.1e}")
print(f"YaRN's sharpening: {rope_scaling.sharpening(FACTOR):.4f}, transformers' {sharp:.4f}")

fig, ax = figures.figure(height=3.0)
for (name, frequencies), marker in zip(turns.items(), ".os^", strict=True):
    ax.plot(frequencies / turns["as trained"], marker=marker, label=name)
ax.set(xlabel="pair of numbers, fast to slow", ylabel="speed against training", ylim=(0, 1.05))
ax.legend()
alt = "Speed of each pair against training. Linear: all a quarter. NTK, YaRN: from 1 to a quarter."
figures.show(fig, alt=alt)

# %% [markdown]
# ### A common claim: "Models with contexts of 100K to 200K tokens process entire codebases"
#
# The test is a **needle in a haystack**: lines of `word: word word`, then one of the first words again. Which two
# words belong to it? Every length gets the same needles with all four ways. Guess: what will linear scaling do to a
# model that was not trained on with it?

# %% tags=["topic:rope-scaling"]
trials = {18: settings.paced(24, least=4), 36: settings.paced(32, least=4)}
trials[72] = settings.paced(16, least=2)
found, lengths = {}, {}
for pairs, number in figures.progress(trials.items(), "Needles"):
    needles = [rope_scaling.needle(prisma.tokenizer, pairs, seed) for seed in range(number)]
    lengths[pairs] = sum(len(ids) for ids, _ in needles) // number
    for name, frequencies in turns.items():
        times = rope_scaling.sharpening(FACTOR) if name == "YaRN" else 1.0
        with rope_scaling.scaled(prisma.model, frequencies, times):
            found[name, pairs] = rope_scaling.recall(prisma.model, needles, pad)

# %% tags=["topic:rope-scaling"]
rows = []
for name in turns:
    row = {"positions": name}
    for pairs, length in lengths.items():
        row[f"{length} tokens"] = percent(share(found[name, pairs]))
    before = found["as trained", 36] + found["as trained", 72]
    after = found[name, 36] + found[name, 72]
    row["points at the two longer lengths"] = lost(before, after)
    rows.append(row)
figures.table(rows, caption="Needles found, no training; changes are paired, with 95 % intervals")

# %% tags=["topic:rope-scaling"]
fig, ax = figures.figure(height=3.2)
told = {}
for (name, shift), marker in zip(zip(turns, (-9, -3, 3, 9), strict=True), ".os^", strict=True):
    values, ends = error_bars(share(found[name, pairs]) for pairs in lengths)
    places = [length + shift for length in lengths.values()]
    ax.errorbar(places, values, ends, marker=marker, capsize=3, label=name)
    told[name] = ", ".join(f"{value:.0%}" for value in values)
ax.set(xlabel="tokens of the prompt", ylabel="needles found", ylim=(-0.03, 1.03))
ax.legend(loc="upper right", ncols=2)
figures.show(fig, alt=f"Needles found at three lengths. {figures.told(told)}.")

# %% [markdown]
# **Verdict: accepted is not used.** Our model accepts 1,024 tokens. It has read texts of up to about the length
# printed above, but its *copying* was learned on shorter rows, and recall fails long before the nominal length. NTK
# and YaRN win much of it back for nothing but another set of angles: at the two longer lengths both changes lie above
# zero with their intervals. Which of the two is better these needles do not say, and whether they cost something at
# the short length neither. At the longest prompt about half of the needles are still lost. Linear scaling breaks a
# model that was not trained on with it: even neighbours come too close together. Its paper says so, too: it trains
# on, for up to 1,000 steps.
#
# For large models the question is the same with other numbers. RULER (arXiv 2404.06654) tested 17 models that claimed
# 32K tokens or more: only half of them kept a satisfactory result at 32K. NoLiMa (arXiv 2502.05167) takes needles
# without a word in common with the question: of models that claim at least 128K, most fell below half of their
# short-text result at 32K, and GPT-4o from 99.3 to 69.7 %. And *where* something stands matters: least is used in the
# middle (Lost in the Middle, arXiv 2307.03172). Newer models accept a million tokens, and find literal needles in
# them (Gemini 1.5, arXiv 2403.05530). That is the easy test: of 18 models of 2025, GPT-4.1, Claude 4, Gemini 2.5 and
# Qwen3 among them, all became less reliable with length even on simple tasks (*Context Rot*, Chroma's report of July
# 2025). For code there are benchmarks with 10,000 to a million tokens of real tasks (LoCoBench, arXiv 2509.09614). So
# ask for the result at *your* length, on *your* kind of question. A codebase is rarely one needle: to find every
# caller of a function you need all of them. And does it fit at all? 200,000 lines of ten tokens are two million.
#
# **What to notice.** One number of the configuration, the length, says least of all. Measure recall against length,
# with and without scaling, and with the same needles.

# %%
quiz("7.3.context_accepted")

# %% [markdown]
# ## 8. Where efficiency leads: science, bodies, languages, pockets
#
# **Science.** AlphaFold 2 predicts the structure of most proteins from their sequence with near-experimental accuracy
# (Jumper et al. 2021, Nature 596); AlphaFold 3 adds complexes with DNA, RNA and small molecules, by diffusion
# (Abramson et al. 2024, Nature 630). Its confidence (pLDDT) is part of the answer, and disordered regions stay
# unknown. For materials, GNoME proposed 2.2 million crystals, 380,000 of them predicted stable (Merchant et al. 2023,
# Nature 624); chemists answered that few are both new and useful (Cheetham and Seshadri 2024, Chemistry of
# Materials). A prediction is not a substance: somebody has to make it.
#
# **Bodies.** Vision-language-action models write the movements of a robot as tokens: RT-2 (arXiv 2307.15818), OpenVLA
# with 7 billion weights (arXiv 2406.09246). There the clock decides. A robot arm wants many actions a second, so
# fewer bits, smaller students and short caches are no luxury.
#
# **Languages.** One model can learn a task in English and do it in another language (XLM-R, arXiv 1911.02116); NLLB
# translates between 200 (arXiv 2207.04672). But the price differs: a tokenizer that has seen little of a language
# cuts it into more pieces, and you pay, wait and fill the context by the piece (Petrov et al. 2023, arXiv
# 2305.15425). The next cell counts it: the same twenty sentences, and the course's tokenizer, which has learned
# English only.
#
# **Pockets.** On a phone, writing one token reads every weight once. So memory sets the speed, and bits a weight are
# seconds. MobileLLM (arXiv 2402.14905) builds models below a billion weights for it. What stays on the device also
# stays private, and works offline.

# %% tags=["topic:science-embodied-multilingual-ondevice"]
rows = []
for code, name in languages.NAMES.items():
    sentences = languages.SENTENCES[code]
    tokens = sum(len(prisma.tokenizer(sentence)["input_ids"]) for sentence in sentences)
    letters = sum(len(sentence) for sentence in sentences)
    rows.append({"language": name, "letters": letters, "tokens": tokens})
english = rows[0]["tokens"]
for row in rows:
    row["times the tokens of English"] = row["tokens"] / english
figures.table(rows, caption=f"The same {len(sentences)} sentences for an English tokenizer")

# %% tags=["topic:science-embodied-multilingual-ondevice"]
SPEED = 50e9  # bytes a second that a phone's memory gives: an example, look up yours
rows = []
for billions in (1, 3, 8):
    row = {"weights (billions)": billions}
    for bits in (16, 8, 4):
        gigabytes = billions * bits / 8
        row[f"{bits} bits: GB"] = gigabytes
        row[f"{bits} bits: tokens/s at most"] = SPEED / (gigabytes * 1e9)
    rows.append(row)
figures.table(rows, caption="One conversation, where memory gives 50 GB/s (example)", digits=1)

# %% [markdown]
# **What to notice.** The same sentences cost about half as much again, or more, in languages that the tokenizer does
# not know: count before you compare prices. And on a device the bound is a division: bytes a second over bytes a
# token. Section 1 told you what the smaller number of bytes costs in right answers.

# %% [markdown]
# ## What you take with you
# - Bits and pruning: look at tasks, not only at perplexity, pair the same tasks, and measure size *and* time.
# - Zeros save nothing by themselves. Smaller matrices do.
# - A teacher tells more than a label where several answers are possible.
# - FlashAttention changes memory traffic, not the result. "N times faster" lacks its half: than what, and where?
# - Checkpointing buys memory with one forward more, a third of the work. fp16 needs a loss scale, bf16 a master copy.
# - The length that a model accepts is not the length that it uses.
#
# **Papers:** quantisation arXiv 2210.17323, 2305.14314; pruning 1506.02626, 2306.11695; distillation 1503.02531,
# 1910.01108; FlashAttention 2205.14135, 2307.08691, 2407.08608; checkpointing 1604.06174; mixed precision 1710.03740;
# longer contexts 2306.15595, 2309.00071, 2404.06654, 2502.05167, 2307.03172.
#
# **Try it.** Quantise in groups of 256 instead of 64: what do you save, what do you lose? Prune only the MLPs. Teach
# with temperature 2: does it need more steps? Stretch YaRN by 8 and look at the longest prompt.
#
# **Next:** the lab on other architectures (experts, sparse and linear attention) and the one on faster and larger
# (speculative decoding, scaling laws, sharding).
