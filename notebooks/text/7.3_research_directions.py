# %% [markdown] tags=["badge"]
# # 7.3 Emerging research directions
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.3_research_directions.ipynb)

# %% [markdown]
# **After this notebook you can**
# - write attention by hand and prove that PyTorch does the same;
# - look at the attention of a trained language model and of a trained picture model, and tell what a head
#   does;
# - find the heads that let a model copy, and prove it by switching them off;
# - say what 8, 4, 3, 2 and 1 bit a weight cost, in megabytes and in right answers;
# - check two popular claims, on FlashAttention and on chain of thought, against your own measurement.
#
# **Time:** about 15 minutes to read and run; the cells take less than a minute on two CPU cores.
#
# **Downloads:** nothing at the bundled tier; about 2.1 GB at the small tier, 18 GB at the full tier.
# Nothing is fetched before the card below has named it.

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
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import figures
from course_utils.measures import error_bars, matches, percent, share
from course_utils.models.loaders import load
from course_utils.prisma import pictures, text
from course_utils.research import cost, inside, quantisation, reasoning

chat = unit.load("chat")
clip = unit.load("image-text")

# %% [markdown]
# ## 1. What is attention, in numbers?
#
# A token needs something that another token knows. *Which* other token? Attention answers with three
# vectors per token: a **query** (what I look for), a **key** (what I offer) and a **value** (what I hand
# over). The product of my query with every key gives a score; a softmax turns scores into weights that add
# up to 1; the weights mix the values:
#
# $$\mathrm{attention}(Q, K, V) = \mathrm{softmax}\!\left(\frac{QK^\top}{\sqrt{d}}\right) V$$
#
# That is equation 1 of *Attention Is All You Need* (Vaswani et al. 2017, arXiv 1706.03762). In code it is
# five lines:


# %% tags=["topic:attention-formula"]
def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention (arXiv 1706.03762, equation 1): the result and the weights.

    q is (..., n, d), k (..., m, d), v (..., m, e); `mask` (n, m) is True where a query may look.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., n, m)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1)  # (..., n, m)
    return weights @ v, weights


torch.manual_seed(unit.seed)
q, k, v = torch.randn(3, 1, 8, 64, 32)  # one sequence, 8 heads, 64 tokens, 32 numbers a head
causal = torch.ones(64, 64, dtype=torch.bool).tril()  # nobody looks into the future
by_hand, weights = attention(q, k, v, causal)
library = F.scaled_dot_product_attention(q, k, v, is_causal=True)
difference = inside.largest_difference(by_hand, library)
print(f"largest difference from PyTorch: {difference:.1e}")
sums = weights.sum(-1)  # (1, 8, 64)
print("every row of weights adds up to 1:", torch.allclose(sums, torch.ones(1, 8, 64)))

# %% [markdown]
# One attention is one question at a time. A layer asks several at once: it cuts queries, keys and values into
# **heads**, attends in each, and joins the results. Here is what `nn.MultiheadAttention` does inside:


# %% tags=["topic:attention-formula"]
def multi_head_attention(x: Tensor, module: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
    """What `module` does to x (batch, n, width): project, split into heads, attend, join, project.

    Returns the result (batch, n, width) and the weights of every head (batch, heads, n, n).
    """
    projected = F.linear(x, module.in_proj_weight, module.in_proj_bias)  # (batch, n, 3 width)
    parts = projected.unflatten(-1, (3, module.num_heads, -1))  # (batch, n, 3, heads, d)
    q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (batch, heads, n, d)
    mixed, weights = attention(q, k, v)
    joined = mixed.transpose(1, 2).flatten(-2)  # (batch, n, width)
    return module.out_proj(joined), weights


torch.manual_seed(unit.seed)
module = nn.MultiheadAttention(160, num_heads=5, batch_first=True).eval()
x = torch.randn(2, 10, 160)
ours, our_weights = multi_head_attention(x, module)
theirs, their_weights = module(x, x, x, average_attn_weights=False)
difference = inside.largest_difference(ours, theirs)
print(f"largest difference, result:  {difference:.1e}")
difference = inside.largest_difference(our_weights, their_weights)
print(f"largest difference, weights: {difference:.1e}")

# %% [markdown]
# Why divide by $\sqrt{d}$? Guess first: what happens to the softmax if you leave it out and make the heads
# wider?

# %%
torch.manual_seed(unit.seed)
widths = [4, 16, 64, 256, 1024]
peaks = {"divided by √d": [], "not divided": []}
for d in widths:
    q, k = torch.randn(2, 200, d)
    scores = q @ k.T  # (200, 200)
    for name, divisor in (("divided by √d", math.sqrt(d)), ("not divided", 1.0)):
        weights = (scores / divisor).softmax(-1)
        largest = weights.amax(-1)  # (200,): of each row
        peaks[name].append(largest.mean().item())

fig, ax = figures.figure(height=3.2)
for (name, values), marker in zip(peaks.items(), "os", strict=True):
    ax.plot(widths, values, marker=marker, label=name)
ax.set_xscale("log", base=2)
ax.set(xlabel="width of a head, d (numbers)", ylabel="largest weight in a row", ylim=(0, 1))
ax.legend()
divided, plain = peaks["divided by √d"][-1], peaks["not divided"][-1]
figures.show(
    fig,
    alt="Largest of 200 weights against the width of the head. Divided by the root of d it stays "
    f"near {divided:.2f}; not divided it is {plain:.2f} at width 1024.",
)

# %% [markdown]
# **What to notice.** The two implementations differ only by rounding. And the root of $d$ is no decoration:
# a sum of $d$ random products spreads like $\sqrt{d}$, so without it a wide head puts almost all weight on
# one random token before it has learned anything, and a softmax that is that sure passes hardly any
# gradient.

# %% [markdown]
# ## 2. Where does a trained model look?
#
# Give the language model two facts and a question. At the moment before it writes the answer, which words
# does it look at? Two obstacles first. The fast kernels (`sdpa`) never hold the weights, so they return
# none; `inside.attention_maps` switches the model to the step-by-step (`eager`) implementation for a
# moment. And a model has many heads: we show, for each layer, the one that looks most at the answer or at the token
# behind it. Which of the two will it be?

# %% tags=["topic:attention-visualisation"]
facts = (
    "Order 4821 of Ada: 3 small red cube, shipped.\nOrder 7305 of Ben: 2 large blue star, packed."
)
question = f"{facts}\nWhere is order 7305?"
messages = [
    {"role": "system", "content": text.SYSTEM["read"]},
    {"role": "user", "content": question},
]
prompt = chat.prompt(messages) + "Answer: "
print("The model writes:", chat.complete(prompt, max_new_tokens=8, stop=["\n"]))

# %% tags=["topic:attention-visualisation"]
ids = chat.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
tokens = [chat.tokenizer.decode(i) for i in ids[0]]
maps = inside.attention_maps(chat.model, ids)[:, 0]  # (layers, heads, tokens, tokens)
last = maps[:, :, -1]  # where each head looks before the answer is written
goal = [i for i, token in enumerate(tokens) if "pack" in token][-1]
behind = goal + 1
layers, heads, length, _ = maps.shape
print(f"{layers} layers of {heads} heads, {length} tokens; the answer is token {goal}.")


def strongest(weights: torch.Tensor) -> str:
    """The largest of (layers, heads) weights, and whose it is."""
    layer, head = inside.ranked_heads(weights)[0]
    return f"{weights[layer, head]:.2f} (layer {layer}, head {head})"


print("looks at the answer:              ", strongest(last[:, :, goal]))
print(f"looks at {tokens[behind]!r} behind it:          ", strongest(last[:, :, behind]))
print(f"from {tokens[behind]!r}, looks at the answer:    ", strongest(maps[:, :, behind, goal]))

# %%
words = [token.strip() for token in tokens]
orders = [i for i, word in enumerate(words) if "Order" in word]
# From the first order on. Spaces are tokens too: leave them out.
seen = [i for i in range(orders[0], len(words)) if words[i]]
shown = [words[i] for i in seen]

goal_and_behind = last[:, :, [goal, behind]].sum(-1)  # (layers, heads)
best = goal_and_behind.argmax(dim=1).tolist()  # a head of each layer
names = [f"layer {layer}, head {head}" for layer, head in enumerate(best)]
rows = [last[layer, head, seen] for layer, head in enumerate(best)]
picture = torch.stack(rows)  # (layers, tokens shown)

height = 1.6 + 0.28 * len(names)
fig, ax = figures.figure(width=10, height=height)
figures.heatmap(ax, picture, x=shown, y=names, label="attention", low=0)
ax.set(xlabel="token of the prompt", title="Where the model looks before it writes the answer")
figures.show(
    fig,
    alt="Heat map, a row for each layer, a column for each token. The strongest look at the answer "
    f"is {strongest(last[:, :, goal])}, at the token behind it {strongest(last[:, :, behind])}.",
)

# %% [markdown]
# What do the other heads do? Three habits are easy to measure: to look at the token itself, at the token
# before, and at the very first token, where a head can rest that has nothing to fetch.

# %% tags=["topic:attention-visualisation"]
roles = inside.head_roles(maps)
fig, axes = figures.figure(columns=3, width=10, height=3.4)
told = {}
for ax, (place, shares) in zip(axes, roles.items(), strict=True):
    label = "share of attention" if ax is axes[-1] else ""
    figures.heatmap(ax, shares, low=0, high=1, label=label)
    ax.set(title=place, xlabel="head", ylabel="layer")
    layer, head = inside.ranked_heads(shares)[0]
    told[place] = f"layer {layer}, head {head}, {shares[layer, head]:.0%}"
said = figures.told(told)
print("Most devoted to", said)
alt = f"Three heat maps, layers down and heads across: share of attention on {said}."
figures.show(fig, alt=alt)

# %% [markdown]
# Now the picture model. open_clip asks its blocks for no weights either. So we catch what goes into every
# block, do attention again with `multi_head_attention` (the course's copy of the function above, line for line the
# same), and prove that it gives the block's own result.
#
# Layers build on layers: what a patch holds in layer 5 is already a mixture. **Rollout** (Abnar and Zuidema
# 2020, arXiv 2005.00928) multiplies the layers' weights to follow attention back to the patches of the
# input.


# %% tags=["topic:attention-visualisation"]
def rollout(maps: Tensor) -> Tensor:
    """Attention followed through all layers (arXiv 2005.00928): (layers, heads, n, n) to (n, n).

    Row i says how much of every input token is in token i at the top, if each layer mixes half of
    what it had (the residual connection) with half of what its heads brought, on average.
    """
    itself = torch.eye(maps.shape[-1])  # (n, n)
    mixed = itself
    for layer in maps.mean(dim=1):  # (n, n), the mean of the heads
        step = 0.5 * itself + 0.5 * layer
        mixed = step @ mixed
    return mixed


toys = [("red", "cube"), ("green", "ring"), ("blue", "star")]
scenes = [pictures.scene_of(toy, size="large") for toy in toys]
images = pictures.draw_many(scenes, seed=unit.seed, size=256)
pixels = torch.stack([clip.preprocess(image) for image in images])
vision, difference = inside.vision_attention(clip.model, pixels)
print(f"by hand against the model's own blocks: largest difference {difference:.1e}")
side = math.isqrt(vision.shape[-1] - 1)  # token 0 is the class token, the rest are patches

# %%
patches = side**2
flows = []
for i in range(len(toys)):
    flow = rollout(vision[:, i])[1:, 1:]  # (patches, patches): without the class token
    received = flow.mean(0) * patches  # (patches,): 1 is the average
    flows.append(received.view(side, side))
everything = torch.stack(flows)
low = everything.min().item()
high = everything.max().item()

fig, axes = figures.figure(2, 3, width=8, height=5.2)
for (above, below), image, flow, toy in zip(axes.T, images, flows, toys, strict=True):
    figures.picture(above, image, " ".join(toy))
    shown = figures.heatmap(below, flow, low=low, high=high)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[], aspect="equal")
fig.colorbar(shown, ax=axes[1], label="times the average patch")
figures.show(
    fig,
    alt="Above: a red cube, a green ring and a blue star. Below: for each, how much every patch "
    "contributes to the picture's vector according to attention rollout.",
)

# %% [markdown]
# **What to notice.** Low layers have not found the place yet. In the upper layers several heads put nearly all of
# their attention there, although the status of the other order stands in the prompt too. What surprised us: they
# do not look at the word itself but at the full stop behind it. The full stop has looked at the word before, in a
# lower layer, so it carries the word along. Attention moves information in steps, and the place where a head
# looks need not be the place where you read the answer. That is also why a head whose trade is to look at the
# token before is useful; section 3 shows more of it. In the pictures, the patches of the toy count several times
# as much as the background, and nobody ever told the model where the toy is.
#
# Two warnings. A map shows where a head looks, not what it takes from there nor whether the answer depends
# on it (Jain and Wallace 2019, arXiv 1902.10186). And rollout is a rough sum: it knows nothing of values
# and of the layers between.

# %% [markdown]
# ## 3. Which heads can copy?
#
# An order number that the model has never seen must be copied exactly. How? Olsson et al. (2022, arXiv
# 2209.11895) found **induction heads**: "the last time I saw this token, what came next? Say that." The
# test needs no language at all: write a row of random words twice, and measure how much attention goes, in
# the second copy, to the word that came next in the first.


# %% tags=["topic:attention-visualisation"]
def induction_scores(maps: Tensor, asks: Tensor) -> Tensor:
    """The share of attention that goes to the word which came next the last time: (layers, heads).

    `maps` is (layers, batch, heads, n, n) for rows that are written twice; `asks` are the places
    where copying is due. A head may look right there or up to one word earlier: the better counts.
    1 would be a head that does nothing else (Olsson et al. 2022, arXiv 2209.11895).
    """
    length = maps.shape[-1] // 2  # of one copy
    wanted = asks - length + 1
    word = int(asks[1] - asks[0])  # tokens a word, the space before it included
    looks = []
    for back in range(word):
        weights = maps[..., asks - back, wanted]  # (layers, batch, heads, asks)
        looks.append(weights.mean(dim=(1, -1)))  # (layers, heads)
    return torch.stack(looks).amax(dim=0)


rows, asks = inside.repeated_rows(chat.tokenizer, text.LEXICON, count=16, rows=12, seed=unit.seed)
print("A row:", chat.tokenizer.decode(rows[0]))
row_maps = inside.attention_maps(chat.model, rows)  # (layers, rows, heads, tokens, tokens)
induction = induction_scores(row_maps, asks)  # (layers, heads)
ranked = inside.ranked_heads(induction)
told = [f"layer {layer}, head {head}: {induction[layer, head]:.2f}" for layer, head in ranked[:8]]
print("strongest:", ", ".join(told))

# %%
fig, ax = figures.figure(width=5.6, height=3.6)
figures.heatmap(ax, induction, label="induction score", low=0, high=1)
ax.set(xlabel="head", ylabel="layer", title="Attention to what came next last time")
high = int((induction > 0.3).sum())
figures.show(
    fig,
    alt="Heat map of the induction score, layers down and heads across. "
    f"{high} of {induction.numel()} heads are above 0.3; the highest is {induction.max():.2f}.",
)

# %% [markdown]
# A high score is a correlation. Is it the cause? Switch heads off, the strongest first, and see how much
# the model can still copy. To be fair, switch off as many *other* heads of the same layers too. What do you
# expect from the first one?

# %% tags=["topic:attention-visualisation"]
strongest = ranked[:8]
layers = {layer for layer, _ in strongest}
others = []  # heads of the same layers that hardly copy
for layer, head in ranked[8:]:
    if layer in layers and induction[layer, head].item() < 0.1:
        others.append((layer, head))
rng = random.Random(unit.seed)
rng.shuffle(others)

numbers = [n for n in (0, 1, 2, 4, 6, 8) if n <= len(others)]
copied = {"strongest induction heads": [], "other heads of these layers": []}
for n in numbers:
    for name, order in zip(copied, (strongest, others), strict=True):
        with inside.without_heads(chat.model, order[:n]):
            right = inside.copying(chat.model, rows, asks)
        copied[name].append(share(right))

# %%
fig, ax = figures.figure(height=3.4)
told = {}
for (name, measures), marker in zip(copied.items(), "os", strict=True):
    values, ends = error_bars(measures)
    ax.errorbar(numbers, values, ends, marker=marker, capsize=3, label=name)
    told[name] = ", ".join(f"{value:.0%}" for value in values)
ax.set(xlabel="heads switched off", ylabel="share of words copied", ylim=(-0.03, 1.03))
ax.legend(loc="lower left")
counts = ", ".join(map(str, numbers))
said = figures.told(told)
figures.show(fig, alt=f"Words copied with {counts} heads off. {said}.")

# %% [markdown]
# **What to notice.** In prisma-lm the head with the highest score can go, and hardly anything happens: the others stand
# in for it. Larger models do the same (McGrath et al. 2023, arXiv 2307.15771). Only when most of them are
# off does copying break down, while as many other heads of the same layers can go at little cost. So these
# heads *together* are the cause. They sit in the upper half, and they need help from below: a head that
# looks at the token before tells every word who its neighbour was. You saw that head in section 2. (A larger model
# has many more heads, and eight are then few of them: the heat map shows how many copy.)

# %% [markdown]
# ## 4. How few bits does a weight need?
#
# `prisma-lm` is stored in 16 bits a weight. What is lost if we keep 8, 4, 3, 2, or only 1? The simplest
# way: cut the weights into groups of 64, remember each group's largest, and round to the few steps in
# between. (This section uses prisma-lm at every tier, because its tasks can be scored exactly.)


# %% tags=["nbval-check-output", "topic:quantisation-bits"]
def quantise(weights: Tensor, bits: int, group: int = 64) -> Tensor:
    """`weights` rounded to `bits` bits in groups that share a scale, and back to ordinary numbers.

    Two bits and more: whole numbers from -m to m with m = 2^(bits - 1) - 1; the largest weight of a
    group becomes m. One bit: the sign, times the mean size of the group (arXiv 1603.05279).
    """
    groups = weights.float().reshape(-1, group)  # (groups, group)
    sizes = groups.abs()
    if bits == 1:
        scale = sizes.mean(1, keepdim=True)  # (groups, 1)
        steps = groups.sign()
    else:
        most = 2 ** (bits - 1) - 1
        largest = sizes.amax(1, keepdim=True).clamp(min=1e-12)  # a group may be all zeros
        scale = largest / most  # (groups, 1)
        steps = (groups / scale).round()
    rounded = steps * scale
    return rounded.reshape(weights.shape).to(weights.dtype)


group = torch.tensor([0.31, -0.07, 0.12, -0.52, 0.02, 0.26, -0.18, 0.44])
for bits in (8, 4, 3, 2, 1):
    rounded = quantise(group, bits, group=8) + 0.0  # turns -0.0 into 0.0
    columns = [f"{weight:6.2f}" for weight in rounded.tolist()]
    print(f"{bits}-bit:", " ".join(columns))

# %% [markdown]
# 4-bit **NF4**, which Unit 7.5 uses, is smarter about *where* the 16 steps are: closer together near zero,
# where most weights lie (Dettmers et al. 2023, arXiv 2305.14314). We take it from bitsandbytes and compare.
#
# Two fresh test sets that no training has seen: questions about an unknown shop, answered with tools, and
# shopping sums with worked steps. A task counts only if *every* token that the model has to write is its
# first choice: one wrong digit and the task is lost. **Perplexity** is measured on the tool tasks, on what the
# model writes: 1 means that it is always sure of the right token, 8 that it is as unsure as a guess among 8. (It is
# e to the power of the mean cross-entropy in nats, the negative natural logarithm of the right token's probability.)
#
# Each share stands with its 95 % interval: other tasks would give another share, and an interval made in this way
# holds the true one in 95 of 100 experiments. Where two intervals overlap widely, the tasks cannot tell which format
# is better.

# %% tags=["topic:quantisation-bits"]
prisma = load("chat", unit.hardware, tier="bundled")
tool_tasks = reasoning.tool_tasks(100, seed=730)
sum_tasks = reasoning.sum_tasks(100, seed=730)
formats = {"16 bits": (16, None)}  # bits a weight with scales, and how to round
for bits in (8, 4, 3, 2, 1):
    name = "1 bit" if bits == 1 else f"{bits} bits"
    with_scales = bits + 16 / 64  # 64 weights share a scale of 16 bits
    formats[name] = (with_scales, partial(quantise, bits=bits))
formats["4 bits, NF4"] = (4 + 32 / 64, quantisation.nf4)

# %% tags=["topic:quantisation-bits"]
results, rows = {}, []
for name in figures.progress(formats, "Quantising"):
    bits, change = formats[name]
    model = quantisation.quantised_copy(prisma.model, change) if change else prisma.model
    tools = reasoning.score(model, prisma.tokenizer, tool_tasks)
    sums = reasoning.score(model, prisma.tokenizer, sum_tasks)
    results[name] = {"tool tasks": tools, "sums": sums}
    row = {"format": name, "bits with scales": bits}
    row["size (MB)"] = quantisation.megabytes(prisma.model, bits)
    row["perplexity"] = f"{tools.perplexity:.4g}"
    row["tool tasks right"] = percent(share(tools.exact))
    row["sums right"] = percent(share(sums.exact))
    rows.append(row)
caption = "prisma-lm, matrices quantised in groups of 64; shares of 100 tasks, 95 % intervals"
figures.table(rows, caption=caption)

# %%
names = [name for name in formats if "NF4" not in name]
ticks = range(len(names))
fig, ax = figures.figure(height=3.6)
told = {}
# The two lines stand a little left and right of each tick, so that no interval hides another.
for label, marker, shift in (("tool tasks", "o", -0.08), ("sums", "s", 0.08)):
    scores = [results[name][label] for name in names]
    values, ends = error_bars(share(score.exact) for score in scores)
    places = [tick + shift for tick in ticks]
    ax.errorbar(places, values, ends, marker=marker, capsize=3, label=label)
    told[label] = ", ".join(f"{value:.0%}" for value in values)
ax.set_xticks(ticks, names)
ax.set(xlabel="bits a weight", ylabel="share of tasks right", ylim=(-0.03, 1.03))
ax.legend()
listed = ", ".join(names)
said = figures.told(told)
figures.show(fig, alt=f"Share of tasks right at {listed}. {said}.")

# %% [markdown]
# At 2 bits and at 1 bit no task is right any more. But look at the perplexity of the two: is the format with *fewer*
# bits the better one? Look at what happens to the weights.

# %% tags=["topic:quantisation-bits"]
parameters = dict(prisma.model.named_parameters())
name = next(name for name in parameters if "q_proj" in name)
matrix = parameters[name].detach()
for bits in (3, 2, 1):
    rounded = quantise(matrix, bits)
    distance = (rounded - matrix).norm()
    error = distance / matrix.norm()
    zeros = (rounded == 0).float().mean()
    print(f"{bits} bits: {zeros:.0%} of the weights become 0,", end=" ")
    print(f"the error is {error:.0%} of the matrix")
print("measured on", name)

# %% [markdown]
# **What to notice.** Down to 4 bits, a hundred tasks show no loss; whether NF4 is better than even steps can't be
# told from them either, since the intervals overlap. At 3 bits the first tasks are lost, while perplexity on the tool
# tasks has hardly moved: look at tasks. (Do sums suffer more than tool tasks? These intervals overlap, too: ask more
# tasks before you believe it.) With 2 bits, rounding to the largest weight of a group leaves -1, 0 and 1, most
# weights become 0, and everything is gone. One bit keeps the sign of every weight and the mean size of its group,
# which lies nearer to the matrix than that. So in perplexity our 1 bit beats our 2 bits: this is a fault of our 2-bit
# scale, not a merit of one bit, and no task is right either way. Look at tasks. And the file never shrinks as much
# as the bits do: scales, embeddings and norms stay.
#
# Is that a law? No. Larger models bear 4 bits well (Dettmers and Zettlemoyer 2022, arXiv 2212.09720),
# methods that look at data lose less (GPTQ, arXiv 2210.17323), and models *trained* with three levels work
# (arXiv 2402.17764).

# %% [markdown]
# ## 5. Check the slide: "FlashAttention is 2-4 times faster"
#
# Faster than what, and where? The idea (Dao et al. 2022, arXiv 2205.14135) is not to compute less but to
# *store* less. Attention by hand writes an $n \times n$ matrix to memory and reads it back. But a softmax
# can be computed piece by piece: keep the largest score so far and the sum so far, and correct both when a
# larger score turns up.


# %% tags=["topic:flash-attention"]
def tiled_attention(q: Tensor, k: Tensor, v: Tensor, block: int = 128) -> Tensor:
    """Attention without the n x n matrix, one block of keys at a time (as in arXiv 2205.14135).

    For every query it carries the largest score so far, the sum of exponentials, and the weighted
    sum of values; a new largest score rescales what was summed before. Shapes as in `attention`,
    without a mask.
    """
    root = math.sqrt(q.shape[-1])
    top = q.new_full((*q.shape[:-1], 1), float("-inf"))  # (..., n, 1)
    total = torch.zeros_like(top)  # (..., n, 1)
    result = torch.zeros_like(q)  # (..., n, d)
    blocks = zip(k.split(block, dim=-2), v.split(block, dim=-2), strict=True)
    for k_part, v_part in blocks:
        scores = q @ k_part.transpose(-2, -1) / root  # (..., n, block)
        new_top = torch.maximum(top, scores.amax(dim=-1, keepdim=True))
        old = (top - new_top).exp()  # what the sums so far are worth now
        part = (scores - new_top).exp()
        total = total * old + part.sum(dim=-1, keepdim=True)
        result = result * old + part @ v_part
        top = new_top
    return result / total


# %% [markdown]
# Do the three ways agree? Four heads, a thousand tokens:

# %% tags=["topic:flash-attention"]
torch.manual_seed(unit.seed)
q, k, v = torch.randn(3, 1, 4, 1000, 64)
by_hand, _ = attention(q, k, v)
for name, way in (("tiled", tiled_attention), ("PyTorch", F.scaled_dot_product_attention)):
    difference = inside.largest_difference(by_hand, way(q, k, v))
    print(f"{name:>8} against by hand: {difference:.1e}")

# %% [markdown]
# The same result, never holding more than one block of the matrix. PyTorch's `scaled_dot_product_attention`
# is this idea as one fused kernel. Now measure time and memory against the length, on your machine. The three ways take
# turns, and the fastest of four runs counts: whatever else the machine does can only slow a run down.

# %% tags=["topic:flash-attention"]
ways = {
    "by hand": lambda q, k, v: attention(q, k, v)[0],
    "tiled in Python": tiled_attention,
    "PyTorch, fused": F.scaled_dot_product_attention,
}
lengths = [256, 512, 1024, 2048, 4096]
timed = {name: [] for name in ways}
held = {name: [] for name in ways}
torch.manual_seed(unit.seed)
for n in figures.progress(lengths, "Timing"):
    q, k, v = torch.randn(3, 1, 4, n, 64, device=unit.device)
    runs = {name: [] for name in ways}
    for _ in range(4):
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
told = [f"{name} {times[-1]:.0f} ms" for name, times in timed.items()]
said = ", ".join(told)
figures.show(fig, alt=f"Time and memory against length, both logarithmic. At the longest: {said}.")

# %% tags=["topic:flash-attention"]
rows = []
for i, n in enumerate(lengths):
    slow, fast = timed["by hand"][i], timed["PyTorch, fused"][i]
    more, less = held["by hand"][i], held["PyTorch, fused"][i]
    row = {"tokens": n, "by hand (ms)": slow, "fused (ms)": fast}
    row["fused is faster by"] = f"{slow / fast:.1f} times"
    row["fused holds less by"] = f"{more / less:.0f} times"
    rows.append(row)
caption = f"Attention by hand against the fused kernel, on this machine ({unit.device})"
figures.table(rows, caption=caption)

# %% [markdown]
# **Verdict: true where it was measured, against attention by hand.** The result is the same to rounding. How much
# faster depends on the machine and the length, and your factors stand above: below 1 the fused kernel is the *slower*
# one. On a CPU that can happen, because the matrix of a short text fits into the cache, and there is no slow memory
# to avoid. The paper reports, for whole training on GPUs, 3 times for GPT-2 with 1,024 tokens against Hugging Face's
# code (1.7 times against Megatron-LM's), and 2.4 times for sequences of 1,024 to 4,096 tokens (arXiv 2205.14135). The
# second version is about twice as fast as the first in attention alone, and up to 1.3 times in whole training (arXiv
# 2307.08691; its abstract is also where the slide's 2-4 stands). What holds everywhere is the memory: it grows with
# $n$ instead of $n^2$. Note the line in the middle: the same idea in plain Python saves memory too, and it needs a
# fused kernel to save all of it. (Scratch space inside the kernel is not seen by our count on a CPU.)

# %% [markdown]
# ## 6. Check the slide: "chain of thought dramatically improves reasoning"
#
# Wei et al. (2022, arXiv 2201.11903) let models write the steps before the answer. Does it help, how much,
# and do the steps *cause* the answer? Three conditions on the same fresh sums: answer at once; write the
# steps; and write the steps after we put a slip into the first one.

# %% tags=["topic:cot"]
bundled = chat.tier == "bundled"
problems = reasoning.sums(96 if bundled else 24, seed=73)
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
print(
    "worked steps:",
    problems[0].steps + "is what the steps should say; the answer given:",
    given["worked steps"][0],
)
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
# **Verdict: dramatic here, and we know why.** A model this small can't do two products and a sum in the one
# step in which it must say a digit; written steps are its scratch paper. And it was trained that way, on
# more worked sums than direct ones. The slip shows that the steps *cause* the answer: the model does not
# notice the mistake, it computes on from it. That is honest, and dangerous: a wrong step is believed.
#
# For other models neither follows. By prompting alone, Wei et al. found gains only in models of about 100
# billion parameters, and large models may write steps that are not the reason for their answer (Turpin et
# al. 2023, arXiv 2305.04388). And steps cost tokens: time and money for every answer.

# %% [markdown]
# ## What you take with you
# - Attention is five lines; everything else is making it fast and finding out what it learned.
# - A map shows where a head looks; only switching it off shows whether that matters.
# - Bits: look at tasks, not only at perplexity, and always with an interval.
# - "N times faster" and "dramatically better" are sentences with a missing half: than what, on which
#   hardware, for which model, on which task?
#
# **Try it.** Change the order in section 2 to one with your name. Make the groups in section 4 of 256
# weights instead of 64: what do you save, what do you lose? Use a prompt of 900 tokens in section 5.
