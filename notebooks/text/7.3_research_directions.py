# %% [markdown] tags=["badge"]
# # 7.3 Emerging research directions: inside a transformer
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.3_research_directions.ipynb)

# %% [markdown]
# **After this notebook you can**
# - write attention by hand, sinusoidal, rotary and ALiBi positions, and a KV cache, and prove that the libraries do
#   the same;
# - look at the attention of a trained language model and of a trained picture model, and tell what a head does;
# - find the heads that let a model copy, and prove it by switching them off;
# - read what a model would say half way up, find the state that carries its answer, and tell which words the answer is
#   due to, each time with a test that could have failed.
#
# The notebooks on [reasoning](7.3_reasoning.ipynb) and on [efficiency](7.3_efficiency.ipynb) go on where this one
# ends.
#
# **Time:** about 30 minutes to read and run; the cells take about a minute on two CPU cores.
#
# **Downloads:** nothing at the bundled tier; about 2.1 GB at the small tier, 18 GB at the full tier, and there 0.3 GB
# more for the plain cells of "The same with a real model". Nothing is fetched before the card below has named it.

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
import contextlib
import math
import random
import statistics
from dataclasses import replace
from functools import partial

import torch
from IPython.display import display
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.xlm.modeling_xlm import create_sinusoidal_embeddings

# %%
from course_utils import figures, settings
from course_utils.exercises import check, hint, quiz, solution
from course_utils.exercises.authors import whose
from course_utils.measures import bootstrap, error_bars, medians, percent, share
from course_utils.memory import formulas, shapes
from course_utils.models.loaders import load
from course_utils.prisma import pictures, text
from course_utils.prisma.shop import COLOURS, SHAPES
from course_utils.research import explorer, inside, kv_cache, patching
from course_utils.research.inside import induction_scores
from course_utils.research.positions import angles, sinusoidal

# %%
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


# %% tags=["slide", "topic:attention-formula"]
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


# %% tags=["slide", "topic:attention-formula"]
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
# ## 2. How does a token know where it stands?
#
# Look at the formula again: nothing in it says which token came first. Guess: if we shuffle the tokens that a query
# may look at, what changes in its result?

# %% tags=["topic:positional"]
torch.manual_seed(unit.seed)
q = torch.randn(1, 16)  # one query
k, v = torch.randn(2, 12, 16)  # twelve tokens that it may look at
order = torch.randperm(12)
in_order, _ = attention(q, k, v)
shuffled, _ = attention(q, k[order], v[order])
difference = inside.largest_difference(in_order, shuffled)
print(f"after shuffling the tokens, the result differs by {difference:.1e}")

# %% [markdown]
# Nothing changes: to attention a text is a bag of tokens. So positions have to be put in. Three ways have been used
# most:
#
# | | where it is put in | what it says |
# |---|---|---|
# | **sinusoidal** (arXiv 1706.03762) | a vector, added to the token's | where I stand |
# | **rotary**, RoPE (arXiv 2104.09864) | queries and keys are *turned* by an angle | how far apart we are |
# | **ALiBi** (arXiv 2108.12409) | a penalty, added to the scores | how far apart we are |
#
# The first is the one of *Attention Is All You Need*. Its numbers come in pairs. Each pair is a hand of a clock, and
# every clock has its own speed: the first hand turns by one radian a token, the last by hardly anything.

# %% tags=["slide", "topic:positional"]
figures.source(angles, sinusoidal)

# %% [markdown]
# Is that what others compute? XLM (2019) and DistilBERT have the same table in transformers:

# %% tags=["topic:positional"]
theirs = torch.empty(512, 64)
create_sinusoidal_embeddings(n_pos=512, dim=64, out=theirs)
difference = inside.largest_difference(sinusoidal(512, 64), theirs)
print(f"sinusoidal, ours against XLM's: largest difference {difference:.1e}")

# %% [markdown]
# **Rotary** positions, which Llama and most models since 2023 use, take the same clocks, but nothing is added. The
# numbers of a query are points in planes, two numbers a plane, and each point turns by the angle of its position:
#
# $$a' = a \cos\theta - b \sin\theta, \qquad b' = a \sin\theta + b \cos\theta$$
#
# where the angle $\theta$ is the position times the speed of the pair.
#
# The keys turn in the same way. A product of two arrows depends only on the angle *between* them. So what is left in
# the score is the difference of the two positions.

# %% [markdown]
# ### Exercise: Rotary positions (medium, about 20 minutes)
#
# Turn queries and keys by where they stand. `hint("7.3.rotary")` helps. Until your function passes, the notebook goes
# on with the course's own, and says so.


# %%
def rotary(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """x with rotary positions, as Llama has them (RoFormer, arXiv 2104.09864).

    x is (..., n, d), queries or keys; `positions` (n,) are the places of the n tokens in the text,
    which need not begin at 0. Number i of the first half of x and number i of the second half are
    a pair, a point in a plane. Turn it by the angle position x base^(-2 i / d), in radians. A point
    (a, b), turned by an angle t, becomes (a cos t - b sin t, b cos t + a sin t). Same shape as x.
    """
    # Your code here
    raise NotImplementedError


# %%
rotary = check("7.3.rotary", rotary)

# %% [markdown]
# Three proofs. Llama's own code gives the same. The score of two tokens depends on their distance alone. And
# the trained model cannot tell whether its text begins at position 0 or at 300.

# %% tags=["topic:positional"]
prisma = load("chat", replace(unit.hardware, device="cpu"), tier="bundled")
config = prisma.model.config
torch.manual_seed(unit.seed)
q, k = torch.randn(2, 1, 8, 64, 32)  # (batch, heads, tokens, d)
places = torch.arange(64)
cos, sin = LlamaRotaryEmbedding(config)(q, places[None])
their_q, their_k = apply_rotary_pos_emb(q, k, cos, sin)
for name, ours, theirs in (("queries", q, their_q), ("keys", k, their_k)):
    difference = inside.largest_difference(rotary(ours, places), theirs)
    print(f"rotary {name}, ours against Llama's: largest difference {difference:.1e}")

scores = {}
for start in (0, 300):
    moved = places + start
    asks, offers = rotary(q.double(), moved), rotary(k.double(), moved)
    scores[start] = asks @ offers.transpose(-2, -1)  # (1, 8, 64, 64)
difference = inside.largest_difference(scores[0], scores[300])
print(f"all positions 300 later: in 64 bits, no score changes by more than {difference:.1e}")

# %% tags=["topic:positional"]
drill, due = inside.repeated_rows(prisma.tokenizer, text.LEXICON, 16, rows=12, seed=unit.seed)
span = drill.shape[1]
told = {
    "0, 1, 2, ...": torch.arange(span),
    "300, 301, 302, ...": torch.arange(300, 300 + span),
    "all 0": torch.zeros(span, dtype=torch.long),
}
for name, moved in told.items():
    with torch.inference_mode():
        logits = prisma.model(drill, position_ids=moved.expand(drill.shape)).logits
    guesses = logits.argmax(-1)  # (rows, tokens)
    right = (guesses[:, due] == drill[:, due + 1]).flatten()
    print(f"positions {name:>18}: {share(right.tolist())} of words copied")

# %% [markdown]
# The last line is the counter-test: with no positions the model reads a bag of tokens, as you saw above, and what has
# to be copied next is nowhere to be found. (Section 4 says more about these rows of random words.)

# %% [markdown]
# **ALiBi** ("attention with linear biases") turns nothing. It takes something off each score, in proportion to the
# distance: $-m_h \cdot \text{distance}$. Every head $h$ has a slope $m_h$ of its own, and the slopes of 8 heads are
# 1/2, 1/4, ... 1/256. So some heads see only their neighbours, and others nearly everything.

# %% [markdown]
# ### Exercise: ALiBi's bias (easy, about 15 minutes)
#
# No position is added to a token here. Only the scores know the distance. `hint("7.3.alibi")` helps. Until your
# function passes, the notebook goes on with the course's own, and says so.


# %%
def alibi(heads: int, n: int) -> Tensor:
    """What ALiBi adds to the scores of n tokens, with the causal mask (arXiv 2108.12409).

    The result is (heads, n, n). At [h, i, j] stands what head h adds when query i looks at key j:
    its slope times (j - i), which is 0 for the token itself and falls with the distance. A later
    key, j > i, gets minus infinity. Head h, counted from 0, has the slope 2^(-8 (h + 1) / heads).
    """
    # Your code here
    raise NotImplementedError


# %%
alibi = check("7.3.alibi", alibi)

# %% [markdown]
# BLOOM and MPT use ALiBi. MPT's code holds the row of the last query, so it must be our last row. BLOOM adds $m_h
# \cdot \text{position}$ instead. That differs from ours by the same number in a whole row, and a softmax does not see
# such a number: the *weights* must be the same.

# %% tags=["topic:positional"]
heads, n = 8, 64
bias = alibi(heads, n)  # (heads, n, n)
mpt = build_mpt_alibi_tensor(heads, n)[:, 0]  # (heads, n)
difference = inside.largest_difference(bias[:, -1], mpt)
print(f"ALiBi, ours against MPT's, last row: largest difference {difference:.1e}")

torch.manual_seed(unit.seed)
scores = torch.randn(heads, n, n)
future = torch.ones(n, n, dtype=torch.bool).triu(1)
bloom = build_alibi_tensor(torch.ones(1, n), heads, torch.float32)  # (heads, 1, n)
weights = []
for added in (bias, bloom):
    visible = (scores + added).masked_fill(future, float("-inf"))
    weights.append(visible.softmax(-1))
difference = inside.largest_difference(*weights)
print(f"ALiBi, ours against BLOOM's, weights: largest difference {difference:.1e}")

# %% [markdown]
# What does each of the three do with distance? Sinusoidal: how like are the vectors of two positions? Rotary: what is
# left of the score when a query meets an equal key further away? ALiBi: what is a weight multiplied by?

# %% tags=["topic:positional"]
distances = torch.arange(129)
table = sinusoidal(129, 64)
likeness = table @ table[0] / 32  # (129,): 1 is the same position

torch.manual_seed(unit.seed)
same = torch.randn(500, 1, 32).expand(500, 129, 32)  # 500 pairs of equal queries and keys
turned = rotary(same, distances)
alike = (same * turned).sum(-1) / same.pow(2).sum(-1)  # (500, 129): 1 at distance 0
kept = alibi(8, 129)[:, -1].flip(-1).exp()  # (8, 129): the last query, from itself backwards
at = f"sinusoidal {likeness[64]:.2f}, rotary {alike[:, 64].mean():.2f} on average, "
at += f"ALiBi {kept[0, 64]:.2f} for head 0 and {kept[6, 64]:.2f} for head 6"
print(f"at distance 64: {at}")

# %% tags=["topic:positional"]
fig, axes = figures.figure(columns=3, width=11, height=3.4)
axes[0].plot(distances, likeness)
axes[1].plot(distances, alike.mean(0))
low, high = alike.quantile(torch.tensor([0.05, 0.95]), dim=0)
axes[1].fill_between(distances, low, high, alpha=0.25)
for head in (0, 2, 4, 6):
    axes[2].plot(distances, kept[head], label=f"head {head}")
axes[2].legend()
titles = ("sinusoidal: likeness", "rotary: score (and 90 % of pairs)", "ALiBi: factor")
for ax, title in zip(axes, titles, strict=True):
    ax.set(title=title, xlabel="distance (tokens)", ylim=(-0.3, 1.05))
figures.show(fig, alt=f"Three panels against distance. At distance 64: {at}.")

# %% [markdown]
# **What to notice.** All three agree with the libraries to rounding. Sinusoidal and rotary positions fade in waves,
# because each pair comes round again. On average they stay above zero here, and single pairs of a query and a key
# differ much: the model can choose, by what it writes into slow or fast pairs, whether distance shall matter. ALiBi
# leaves no choice. Its factor falls for good, which is why it can be used on texts longer than those of the training,
# and why its fast heads see nothing far away. Learned models with rotary positions do worse beyond the length they
# know; the notebook on efficiency measures that, and how scaling the angles helps.

# %% [markdown]
# ## 3. Where does a trained model look?
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
# ### Look for yourself
#
# The next cell makes the maps clickable. Choose a layer and a head, click a token, and see where it looks. Then
# switch a head off: does the answer change, or only how probable it is? Guess first: which head will the answer miss
# most, the one that looks hardest at the answer, or another? (Where no Python runs behind the page, every single head
# was switched off beforehand. In JupyterLab, VS Code or Colab you can switch off as many as you like.)

# %% tags=["topic:attention-visualisation"]
to_answer = last[:, :, [goal, behind]].sum(-1)  # (layers, heads)
layer, head = inside.ranked_heads(to_answer)[0]
looking = explorer.attention(chat, prompt, start=(layer, head, length - 1))
display(looking)

# %%
whole = looking.data["answer"]
print(f"all heads on: {whole['text']!r}, probability {whole['chance']:.2f}")
alone = looking.data["off"]  # without each single head; [] for a model with many heads
for place, answer in enumerate(alone):
    if answer["text"] != whole["text"]:
        print(f"without layer {place // heads}, head {place % heads}: {answer['text']!r}", end=" ")
        print(f"(probability of {whole['text']!r} {answer['chance']:.2f})")
if alone:
    strongest_off = alone[layer * heads + head]["chance"]
    print(f"without layer {layer}, head {head}, the strongest: probability {strongest_off:.2f}")

# %% [markdown]
# **What to notice.** A head that looks hard at the answer can be one of several that do so, and then the model hardly
# misses it. A head that the answer does depend on may look elsewhere: it prepares, in a lower layer, what others
# fetch. One prompt is one case: section 4 switches heads off on many rows.

# %% [markdown]
# Now the picture model. open_clip asks its blocks for no weights either. So we catch what goes into every
# block, do attention again with `multi_head_attention` (the course's copy of the function above, line for line the
# same), and prove that it gives the block's own result.
#
# Layers build on layers: what a patch holds in layer 5 is already a mixture. **Rollout** (Abnar and Zuidema
# 2020, arXiv 2005.00928) multiplies the layers' weights to follow attention back to the patches of the
# input.


# %% tags=["slide", "topic:attention-visualisation"]
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
# The same for patches. Click a patch of the red cube: where does it look? Click one of the wall. The **class token**,
# one more token that stands for no patch, has a button of its own: in many CLIPs its vector becomes the picture's.
# (prisma-clip takes the mean of the patches.) What is not looked at is darkened.

# %% tags=["topic:attention-visualisation"]
captions = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
patch_maps = explorer.patches(clip, images[0], captions)
display(patch_maps)

# %%
best = patch_maps.data["answer"][0][0]
others = patch_maps.data["off"]  # without each single head; [] for a model with many heads
changed = sum(answer[0][0] != best for answer in others)
print(f"best caption: {best!r}; of {len(others)} heads,", end=" ")
print(f"{changed} change it when they are off alone")

# %% [markdown]
# The line above says on how many single heads the best caption depends. In a picture as in a
# text, a head that looks hard at something need not be one that the answer cannot do without.

# %% [markdown]
# **What to notice.** Low layers have not found the place yet. In the upper layers several heads put nearly all of
# their attention there, although the status of the other order stands in the prompt too. What surprised us: they
# do not look at the word itself but at the full stop behind it. The full stop has looked at the word before, in a
# lower layer, so it carries the word along. Attention moves information in steps, and the place where a head
# looks need not be the place where you read the answer. That is also why a head whose trade is to look at the
# token before is useful; section 4 shows more of it. In the pictures, the patches of the toy count several times
# as much as the background, and nobody ever told the model where the toy is.
#
# Two warnings. A map shows where a head looks, not what it takes from there nor whether the answer depends
# on it (Jain and Wallace 2019, arXiv 1902.10186). And rollout is a rough sum: it knows nothing of values
# and of the layers between.

# %% [markdown]
# ## 4. Which heads can copy?
#
# An order number that the model has never seen must be copied exactly. How? Olsson et al. (2022, arXiv
# 2209.11895) found **induction heads**: "the last time I saw this token, what came next? Say that." The
# test needs no language at all: write a row of random words twice, and measure how much attention goes, in
# the second copy, to the word that came next in the first.


# %% [markdown]
# ### Exercise: Which head says what came next? (medium, about 15 minutes)
#
# Find the heads that look at what came next the last time, from their maps alone. `hint("7.3.induction")` helps.
# Until your function passes, the notebook goes on with the course's own, and says so.


# %%
def induction(maps: Tensor, period: int) -> Tensor:
    """The induction score of every head: (layers, heads) (Olsson et al. 2022, arXiv 2209.11895).

    `maps` (layers, heads, n, n) are attention weights [query, key] for a row of `period` tokens
    that stands there twice: n = 2 period. An induction head looks, from a token of the second
    copy, at the token that came behind the same token in the first. The score is that weight, the
    mean over the `period` queries of the second copy. (The last of them looks at the beginning of
    the second copy.)
    """
    # Your code here
    raise NotImplementedError


# %%
induction = check("7.3.induction", induction)

# %% tags=["topic:attention-visualisation"]
rows, asks = inside.repeated_rows(chat.tokenizer, text.LEXICON, count=16, rows=12, seed=unit.seed)
print("A row:", chat.tokenizer.decode(rows[0]))
row_maps = inside.attention_maps(chat.model, rows)  # (layers, rows, heads, tokens, tokens)
period = rows.shape[1] // 2  # tokens of one copy
by_row = [induction(row_maps[:, row], period) for row in range(len(rows))]
every_token = torch.stack(by_row).mean(0)  # (layers, heads)
layer, head = inside.ranked_heads(every_token)[0]
print(f"by {whose(induction)}: layer {layer}, head {head}, {every_token[layer, head]:.2f}")

# %% [markdown]
# Every second token of these rows is a space, and nobody has to copy that from the other copy. So we count only the
# places where a word is due, and let a head look right there or up to one word earlier:

# %% tags=["topic:attention-visualisation"]
copies = induction_scores(row_maps, asks)  # (layers, heads)
ranked = inside.ranked_heads(copies)
told = [f"layer {layer}, head {head}: {copies[layer, head]:.2f}" for layer, head in ranked[:8]]
print("strongest:", ", ".join(told))

# %%
fig, ax = figures.figure(width=5.6, height=3.6)
figures.heatmap(ax, copies, label="induction score", low=0, high=1)
ax.set(xlabel="head", ylabel="layer", title="Attention to what came next last time")
high = int((copies > 0.3).sum())
figures.show(
    fig,
    alt="Heat map of the induction score, layers down and heads across. "
    f"{high} of {copies.numel()} heads are above 0.3; the highest is {copies.max():.2f}.",
)

# %% tags=["slide"]
figures.source(induction_scores)

# %% [markdown]
# A high score is a correlation. Is it the cause? Switch heads off, the strongest first, and see how much
# the model can still copy. To be fair, switch off as many *other* heads of the same layers too. What do you
# expect from the first one?

# %% tags=["topic:attention-visualisation"]
strongest = ranked[:8]
layers = {layer for layer, _ in strongest}
others = []  # heads of the same layers that hardly copy
for layer, head in ranked[8:]:
    if layer in layers and copies[layer, head].item() < 0.1:
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
# **What to notice.** In prisma-lm the head with the highest score can go, and hardly anything happens: the others
# stand in for it. Larger models do the same (McGrath et al. 2023, arXiv 2307.15771). Only when most of them are off
# does copying break down, while as many other heads of the same layers can go at little cost. So these heads
# *together* are the cause. They sit in the upper half, and they need help from below: a head that looks at the token
# before tells every word who its neighbour was. You saw that head in section 3. (A larger model has many more heads,
# and eight are then few of them: the heat map shows how many copy.)

# %%
quiz("7.3.map_is_no_proof")

# %% [markdown]
# ## 5. Why is the second token cheaper than the first?
#
# A model writes one token at a time. For each it would have to read the whole text again. But look at what attention
# needs of the old tokens: their keys and values. These never change, because no token sees the future. So keep them.
# That is the **KV cache**:
#
# ```text
#                      keys and values kept            new token
#   without a cache    (none: all made again)          q k v of ALL tokens
#   with a cache       k v | k v | k v | k v           q k v of ONE token
#                                └────────────┬───────────┘
#                                  attention of one query
# ```
#
# The queries are *not* kept: an old token has asked its question already.

# %% [markdown]
# ### Exercise: One token more, with a cache (medium, about 20 minutes)
#
# One token comes. Everything before it has been computed already. `hint("7.3.kv_cache_step")` helps. Until your
# function passes, the notebook goes on with the course's own, and says so.


# %%
def kv_cache_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of one new token with a KV cache. Returns (result, keys, values).

    The new token's query and key are (heads, d), its value is (heads, e). The cache holds what
    came before: keys (heads, t, d) and values (heads, t, e); t may be 0. The new token sees all of
    them and itself. The result is (heads, e). The keys and values that you return have the new
    token at their end: (heads, t + 1, d) and (heads, t + 1, e).
    """
    # Your code here
    raise NotImplementedError


# %%
kv_cache_step = check("7.3.kv_cache_step", kv_cache_step)

# %% [markdown]
# Around this step stands the rest of a Llama, written out: the norms, the projections, rotary positions. The cache
# tells how many tokens came before, so the new ones know where they stand. A prompt brings many tokens at once;
# `one_by_one` hands them to your function in their order.

# %% tags=["topic:kv-cache"]
figures.source(kv_cache.forward, kv_cache.queries_keys_values)

# %% [markdown]
# Is that still the same model? We read a prompt in two pieces, the second with the cache of the first, and hold the
# result against transformers, which reads it at once. (The model's raw scores for the next token are called
# **logits**; a softmax turns them into probabilities.)

# %% tags=["topic:kv-cache"]
ids = drill[:1]  # a row of random words, written twice
cache = kv_cache.Cache()
step = kv_cache.one_by_one(kv_cache_step)
print("attention by", whose(kv_cache_step))
with torch.inference_mode():
    first = kv_cache.forward(prisma.model, ids[:, :20], cache, step)
    second = kv_cache.forward(prisma.model, ids[:, 20:], cache, step)
    library = prisma.model(ids, use_cache=True)
logits = torch.cat((first, second), dim=1)  # (1, tokens, words)
difference = inside.largest_difference(logits.softmax(-1), library.logits.softmax(-1))
print(f"probabilities: largest difference {difference:.1e}")
for name, ours in (("keys", cache.keys), ("values", cache.values)):
    theirs = torch.stack([getattr(layer, name) for layer in library.past_key_values.layers])
    relative = inside.largest_difference(torch.stack(ours), theirs) / theirs.abs().max()
    print(f"{name}: largest difference {relative:.1e} of the largest of them")

# %% [markdown]
# Now let it write, three times. The prompt is a row of random words, and the model was trained to copy rows.

# %% tags=["topic:kv-cache"]
newline = prisma.tokenizer.encode("\n", add_special_tokens=False)
once = drill[:1, 1 : span // 2]  # without the space before the first word
asked = torch.cat((once, torch.tensor([newline])), dim=1)
new = once.shape[1]
kept = kv_cache.greedy(prisma.model, asked, new, cached=True, step=step)
anew = kv_cache.greedy(prisma.model, asked, new, cached=False, step=step)
plain = {"max_new_tokens": new, "do_sample": False, "use_cache": True}
written = prisma.model.generate(asked, attention_mask=torch.ones_like(asked), **plain)
library = written[:, asked.shape[1] :]
print(f"with our cache, {new} tokens:", prisma.tokenizer.decode(kept[0]))
print("the same tokens without a cache:", torch.equal(kept, anew))
print("the same tokens as with the library's cache:", torch.equal(kept, library))

# %% [markdown]
# What does it save? Guess first: by how much does a token become slower when the text before it is 30 times longer,
# with the cache and without? We time the one token that comes after a text. The two ways take turns, and we look at
# the **median** with the fastest and the slowest of five: a single time can be anything if another program has the
# machine.

# %% tags=["topic:kv-cache"]
lengths = [32, 1000] if settings.is_quick() else [32, 64, 128, 256, 512, 1000]
generator = torch.Generator().manual_seed(unit.seed)
some = torch.randint(10, config.vocab_size, (1, max(lengths)), generator=generator)
timed = {"with the cache": [], "without": []}
for n in figures.progress(lengths, "Timing"):
    pair = kv_cache.next_token_times(prisma.model, some[:, :n], rounds=5)
    for times, measured in zip(timed.values(), pair, strict=True):
        times.append(measured)

fig, ax = figures.figure(height=3.4)
for (name, groups), marker in zip(timed.items(), "os", strict=True):
    middles, ends = medians(groups)
    ax.errorbar(lengths, middles, ends, marker=marker, capsize=3, label=name)
ax.set_xscale("log", base=2)
ax.set_yscale("log")
ax.set(xlabel="tokens of the text", ylabel="one more token (ms)")
ax.legend()
last = [f"{name} {statistics.median(groups[-1]):.0f} ms" for name, groups in timed.items()]
alt = f"Time for one token against length. After {lengths[-1]} tokens: {', '.join(last)}."
figures.show(fig, alt=alt)

# %% [markdown]
# And what does it cost? Memory: a key and a value for every token, in every layer. We count the bytes that our cache
# holds, and compare with the formula of Unit 7.4: 2 x layers x width x tokens x bytes a number.

# %% tags=["topic:kv-cache"]
shape = shapes.from_config(config.to_dict())
table = []
for index, n in enumerate(lengths):
    cache = kv_cache.Cache()
    with torch.inference_mode():
        kv_cache.forward(prisma.model, some[:, :n], cache)
    short, long = [groups[index] for groups in timed.values()]
    row = {"tokens": n, "with (ms)": f"{statistics.median(short):.1f}"}
    row["lowest to highest"] = f"{min(short):.1f} to {max(short):.1f}"
    row["without (ms)"] = f"{statistics.median(long):.1f}"
    row["lowest to highest "] = f"{min(long):.1f} to {max(long):.1f}"
    row["faster"] = f"{statistics.median(long) / statistics.median(short):.1f} times"
    row["cache (bytes)"] = f"{cache.bytes:,}"
    row["by the formula"] = f"{formulas.kv_cache_bytes(shape, seq=n, bytes_per_number=4):,.0f}"
    table.append(row)
caption = f"The next token of prisma-lm, medians of 5 on this machine ({unit.device})"
figures.table(table, caption=caption)

# %% [markdown]
# **What to notice.** The tokens are the same: a cache is no approximation. Without it, each token costs as much as
# reading the whole text, so the time grows with the length. With it, the time grows far less: one row of queries goes
# through the matrices, whatever came before, and only the attention has more keys to look at. Short texts gain less,
# because then most of the time goes into calling the layers. The price is memory that grows with every token and
# every user; Unit 7.4 works out how much. And the prompt itself must still be read once. That is why the *first*
# token of an answer takes longest.

# %%
quiz("7.3.cache_or_not")

# %% [markdown]
# ## 6. When does the model know the answer?
#
# The states of a token climb through the layers, and each layer adds something to them. What if we stopped half way?
# The **logit lens** (nostalgebraist 2020) does that: it takes the states below a layer, and hands them to the model's
# *last* norm and its table of words, as if no layer came any more. We ask at the place where the answer is due.
#
# For that we need questions whose answers we know: two orders, and a question on the second. From here on we use only
# those that the model answers right, and say how many they are. Guess: with six layers, after which one is the answer
# there?

# %% tags=["topic:interpretability"]
few = settings.is_quick()
pairs = patching.twins(16 if few else 64, seed=730)
clean = [case for case, _ in pairs]
ids = patching.encoded(prisma.tokenizer, clean)  # (cases, tokens)
answer = patching.word_ids(prisma.tokenizer, [case.answer for case in clean])  # (cases,)
other = patching.word_ids(prisma.tokenizer, [case.other for case in clean])
print(clean[0].said)
with torch.inference_mode():
    chosen = prisma.model(ids).logits[:, -1].argmax(-1)
print("answered right:", share((chosen == answer).tolist()))

# %% tags=["topic:interpretability"]
known = chosen == answer
climbing = patching.states(prisma.model, ids[known])  # (layers + 1, cases, tokens, width)
lens = patching.logit_lens(prisma.model, climbing[:, :, -1])  # (layers + 1, cases, words)
firsts = lens.argmax(-1)  # (layers + 1, cases)
for number, guesses in enumerate(firsts):
    said = prisma.tokenizer.decode(guesses[0])
    right = share((guesses == answer[known]).tolist())
    print(f"entering layer {number}: first choice {said!r}; right {percent(right)}")

told = {}
for name, words in (("the right status", answer), ("the other order's", other)):
    told[name] = [share((guesses == words[known]).tolist()) for guesses in firsts]

# %% tags=["topic:interpretability"]
fig, ax = figures.figure(height=3.2)
floors = list(range(len(firsts)))
for (name, measures), marker in zip(told.items(), "os", strict=True):
    values, ends = error_bars(measures)
    ax.errorbar(floors, values, ends, marker=marker, capsize=3, label=name)
ax.set_xticks(floors, [*floors[:-1], "out"])
ax.set(xlabel="state that enters layer ...", ylabel="share of first choices", ylim=(-0.03, 1.03))
ax.legend()
alt = "Share of questions on which the lens's first choice is the right status, by layer: "
alt += ", ".join(f"{measure.value:.0%}" for measure in told["the right status"])
alt += ". The other order's status: "
alt += ", ".join(f"{measure.value:.0%}" for measure in told["the other order's"]) + "."
figures.show(fig, alt=alt)

# %% [markdown]
# **What to notice.** The states that enter layers 0, 1 and 2 say nothing of a status. From layer 3 on the lens reads
# one, and out of the top it is right far more often than there. So the model does not find its answer at once.
#
# Does the state that enters layer 3 know the status of *this* prompt? The two lines cannot say. A lens that names one
# favourite status to nearly every prompt is right now and then, too. And we kept only the questions that the model
# gets right, which favours the line of the right status; that is also why its last point is 100 %. Section 7 puts the
# same state to a test that can fail.
#
# A warning: low layers do not write for the last norm. What the lens cannot read at this token may be there in
# another form, or stand at another token.

# %% [markdown]
# ## 7. Where is the answer carried?
#
# Maps and lenses are things to look at. **Activation patching** (Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022,
# arXiv 2202.05262) asks for the cause. Take two prompts that differ in one word:
#
# ```text
#   clean:      ... Order 7305 of Ben: 2 large blue star, packed.   Where is order 7305?  Answer: ▁  -> packed
#   other:      ... Order 7305 of Ben: 2 large blue star, shipped.  Where is order 7305?  Answer: ▁  -> shipped
#                                                           ▲
#                        one state of the clean run is put here, at one layer and one token
# ```
#
# If the answer of the other prompt turns to *packed*, this state carried it. We measure how much the logit of the
# clean answer leads over the other's: 0 where nothing came back, 1 where it is as in the clean run. Then we do it for
# every layer and every token.
#
# Before the word itself the two prompts are the same, so a patch there can do nothing. Guess: entering layer 3, at
# which token is the answer?

# %% tags=["topic:interpretability"]
figures.source(patching.patched, patching.preference, patching.brought_back)

# %% tags=["topic:interpretability"]
right_pairs = [pair for pair, fine in zip(pairs, known.tolist(), strict=True) if fine]
search = right_pairs[: 2 if few else 6]
clean_ids = patching.encoded(prisma.tokenizer, [case for case, _ in search])
bad_ids = patching.encoded(prisma.tokenizer, [case for _, case in search])
wanted = patching.word_ids(prisma.tokenizer, [case.answer for case, _ in search])
instead = patching.word_ids(prisma.tokenizer, [case.answer for _, case in search])

word = int((clean_ids != bad_ids).nonzero()[0, 1])  # the place of the status
places = range(word, clean_ids.shape[1])
lead = partial(patching.preference, prisma.model, first=wanted, second=instead)
high, low = lead(clean_ids), lead(bad_ids)
donor = patching.states(prisma.model, clean_ids)  # (layers + 1, cases, tokens, width)
grid = torch.zeros(len(donor), len(places))
for layer in figures.progress(range(len(donor)), "Patching"):
    for column, place in enumerate(places):
        with patching.patched(prisma.model, layer, place, donor[layer, :, place]):
            changed = lead(bad_ids)
        grid[layer, column] = patching.brought_back(changed, low, high).mean()

# %% tags=["topic:interpretability"]
pieces = [prisma.tokenizer.decode(i) for i in clean_ids[0]]
labels = ["status", *[repr(pieces[place])[1:-1] for place in places[1:]]]
labels = [label if label.strip() else "(space)" for label in labels]
rows_of_grid = [f"layer {layer}" for layer in range(len(grid) - 1)] + ["out"]
fig, ax = figures.figure(width=10, height=3.6)
figures.heatmap(ax, grid, x=labels, y=rows_of_grid, label="brought back", low=0, high=1)
ax.set(xlabel="token", ylabel="entering", title="How much of the answer one state brings back")
told = {}
for layer, row in zip(rows_of_grid, grid, strict=True):
    best = int(row.argmax())
    told[layer] = f"{labels[best]} {row[best]:.2f}"
said = figures.told(told)
print("most brought back, entering", said)
figures.show(fig, alt=f"Heat map, layers down, tokens across. Most brought back: {said}.")

# %% [markdown]
# The map was made from a few prompts, and we chose the best places on it. So test them on *other* prompts. And test
# things that should not work: other tokens of the same layer, and states from an **unrelated** prompt, another order
# with another status, put into the very places that work. If those brought the answer back, too, our finding would be
# worth nothing.

# %% tags=["topic:interpretability"]
fresh = right_pairs[len(search) :]
clean_ids = patching.encoded(prisma.tokenizer, [case for case, _ in fresh])
bad_ids = patching.encoded(prisma.tokenizer, [case for _, case in fresh])
wanted = patching.word_ids(prisma.tokenizer, [case.answer for case, _ in fresh])
instead = patching.word_ids(prisma.tokenizer, [case.answer for _, case in fresh])
lead = partial(patching.preference, prisma.model, first=wanted, second=instead)
high, low = lead(clean_ids), lead(bad_ids)
donor = patching.states(prisma.model, clean_ids)
unrelated = donor.roll(1, dims=1)  # the states of the case before
differ = (wanted != wanted.roll(1)) & (instead != wanted.roll(1))  # it has a third status

stop, line_end, end = word + 1, word + 2, clean_ids.shape[1] - 1
is_word = pieces.index("is", line_end)
asked_word = pieces.index("?", line_end)
trials = {
    "the word, entering layer 0": (donor, 0, [word]),
    "full stop and line end, layer 3": (donor, 3, [stop, line_end]),
    "last token, layer 5": (donor, 5, [end]),
    "the word itself, layer 3": (donor, 3, [word]),
    "'is' and '?', layer 3": (donor, 3, [is_word, asked_word]),
    "last token, layer 3": (donor, 3, [end]),
    "unrelated, full stop and line end, layer 3": (unrelated, 3, [stop, line_end]),
    "unrelated, last token, layer 5": (unrelated, 5, [end]),
}

# %% tags=["topic:interpretability"]
rows_shown = []
for name, (source, layer, spots) in trials.items():
    with contextlib.ExitStack() as patches:
        for place in spots:
            given = source[layer, :, place]
            patches.enter_context(patching.patched(prisma.model, layer, place, given))
        changed = lead(bad_ids)
        with torch.inference_mode():
            says = prisma.model(bad_ids).logits[:, -1].argmax(-1)
    back = patching.brought_back(changed, low, high)
    used = differ if source is unrelated else torch.ones_like(differ)
    measure = bootstrap(back[used].tolist(), "")
    row = {"patch": name, "cases": int(used.sum())}
    row["brought back"] = f"{measure.value:.2f} ({measure.low:.2f} to {measure.high:.2f})"
    row["says the clean answer"] = percent(share((says == wanted)[used].tolist()))
    row["says the unrelated answer"] = percent(share((says == wanted.roll(1))[differ].tolist()))
    rows_shown.append(row)
figures.table(rows_shown, caption="Patches into fresh prompts, with 95 % intervals")

# %% [markdown]
# **What to notice.** You can read the way of the answer off the map. At first it is in its word. Entering layer 3, it
# is in the full stop and in the line end behind the word, about half in each: the two together bring back all of it,
# and the word itself nothing any more. Entering layer 5, it is in the last token. The last token entering layer 3
# brings back nothing: what the lens read there was no knowledge of this prompt. Section 3 showed heads that look from
# the full stop at the word, and heads that look from the last token at the full stop. Now you know that they carry
# something.
#
# The controls fail, as they should: other tokens bring back nothing. The unrelated states need a second look. They
# bring back *about half*, and yet the clean answer is not said: 0.5 is what you see when the other answer's lead is
# gone and the clean one's has not come. What the model says instead is the status of the unrelated prompt, far more
# often than without such a patch. So these states carry *a status*, whichever it is, and we can move it from one text
# into another. (One warning: a patched state is a mixture that no text would give. Zhang and Nanda 2023, arXiv
# 2309.16042, show how much the choice of the other prompt and of the measure matters.)

# %%
quiz("7.3.patching_control")

# %% [markdown]
# ## 8. Which words is an answer due to?
#
# Patching needs a second prompt. **Feature attribution** asks a single one: share the answer out among its tokens.
# What is shared out is the **log-probability** of the answer, the natural logarithm of its probability, in *nats*: 0
# is sure, and each nat less divides the probability by 2.7.
#
# The cheapest way is **gradient x input**: how steep is the log-probability in each number of a token's vector, times
# how far that number is from a *baseline*. Ours is the same prompt with everything that the user says replaced by
# spaces. A slope is only true nearby, though. **Integrated gradients** (Sundararajan et al. 2017, arXiv 1703.01365)
# goes the whole straight way from the baseline to the text, and takes the mean slope on it:
#
# $$a_i = (x_i - b_i) \int_0^1 \frac{\partial f(b + t\,(x - b))}{\partial x_i}\, dt$$

# %% tags=["topic:interpretability"]
figures.source(patching.gradient_times_input, patching.integrated_gradients)

# %% [markdown]
# There is a check that can fail, **completeness**: the shares must add up to what the answer has gained on the way.

# %% tags=["topic:interpretability"]
picked = ids[known][: 3 if few else 10]  # (cases, tokens)
wanted = answer[known][: len(picked)]
begin = pieces.index("Order")
user = slice(begin, pieces.index("?") + 1)  # all that the user says
space = prisma.tokenizer.encode(" ", add_special_tokens=False)[0]
blank = picked.clone()
blank[:, user] = space
embed = prisma.model.model.embed_tokens
with torch.inference_mode():
    there, nothing = embed(picked), embed(blank)  # (cases, tokens, width)
    gained = patching.log_probability(prisma.model, there, wanted)
    gained -= patching.log_probability(prisma.model, nothing, wanted)
there, nothing = there.clone(), nothing.clone()  # outside of inference mode, for slopes

shares = {}
shares["gradient x input"] = patching.gradient_times_input(prisma.model, there, nothing, wanted)
steps = 4 if few else 24
shares["integrated gradients"] = patching.integrated_gradients(
    prisma.model, there, nothing, wanted, steps
)
print(f"gained, in nats: {bootstrap(gained.tolist(), 'nats')}")
for name, given in shares.items():
    off = (given.sum(1) - gained).abs() / gained
    print(f"{name}: the sum of the shares is off by {off.median():.0%} of that (median)")

# %% tags=["topic:interpretability"]
spoken = pieces[user]
mean = shares["integrated gradients"].mean(0)[user]  # (tokens of the user,)
strong = mean.topk(8).indices.tolist()
for place in strong:
    print(f"{mean[place]:+.2f} nats: {spoken[place]!r} at place {place} of the user's text")

# %% [markdown]
# Are these the tokens that matter, or does it only look well? A second check that can fail: **take them away**.
# Replace the tokens with the largest shares by spaces and see how far the answer's log-probability falls. Compare
# with random tokens, and with the tokens that get most *attention*: by the rollout of section 3, from where the
# answer is due.

# %% tags=["topic:interpretability"]
flows = inside.attention_maps(prisma.model, picked)  # (layers, cases, heads, tokens, tokens)
seen = [rollout(flows[:, case])[-1] for case in range(len(picked))]
generator = torch.Generator().manual_seed(unit.seed)
rankings = {
    "integrated gradients": shares["integrated gradients"],
    "gradient x input": shares["gradient x input"],
    "attention rollout": torch.stack(seen),
    "random": torch.rand(picked.shape, generator=generator),
}
numbers = [0, 1, 2, 4, 8]
falls = {name: [] for name in rankings}
for name, given in rankings.items():
    order = given[:, user].argsort(dim=1, descending=True) + user.start  # (cases, tokens)
    for number in numbers:
        fewer = picked.clone()
        fewer.scatter_(1, order[:, :number], space)
        with torch.inference_mode():
            left = patching.log_probability(prisma.model, embed(fewer), wanted)
        falls[name].append(bootstrap(left.tolist(), "nats"))

# %% tags=["topic:interpretability"]
fig, ax = figures.figure(height=3.6)
told = {}
for index, (name, measures) in enumerate(falls.items()):
    values, ends = error_bars(measures)
    shifted = [number + 0.08 * index for number in numbers]
    ax.errorbar(shifted, values, ends, marker="os^D"[index], capsize=3, label=name)
    told[name] = ", ".join(f"{value:.1f}" for value in values)
ax.set(xlabel="tokens replaced by spaces", ylabel="log-probability of the answer (nats)")
ax.legend(loc="center", bbox_to_anchor=(0.72, 0.5), fontsize=9)
said = figures.told(told)
print(said)
figures.show(fig, alt=f"Log-probability with {numbers} tokens replaced. {said}.")

# %% [markdown]
# **What to notice.** Completeness tells the two apart: gradient x input misses nearly all of what was gained. It
# knows the slope at the end of the way alone, and that says little of the way. Integrated gradients add up, but for a
# few per cent that more steps would make smaller. The deletion test agrees: two tokens chosen by integrated gradients
# cost most of the log-probability, and as many random tokens much less.
#
# Look at what the shares say, too. (They are means over the prompts; the words are those of the first, so 'ordered'
# is the place of the status.) "Where" and "order" of the question get more than the status itself: without them
# nobody knows what is asked for. Is attention then a bad explanation (section 3 warned of it)? In this test the
# rollout does well, and where its intervals overlap those of integrated gradients, this figure cannot rank them. It
# is no matter of belief: delete, and measure. And each share depends on the baseline: spaces are our choice. (A text
# full of spaces is also nothing that the model was trained on.)

# %% [markdown]
# ## The same with a real model
#
# Now without Prisma and without our helpers: a general model from the hub, in the libraries' own words. Leave out the
# first line of each cell, and you can paste it into an empty notebook that has transformers, bitsandbytes and
# matplotlib. At the small and the full tier these lines run here (a download of 0.3 GB, Apache-2.0). At the bundled
# tier you see a **recording**: what the same lines gave on a machine that has the model. It says when and where.
#
# SmolLM2 (arXiv 2502.02737) has 135 million weights here, 30 layers of 9 heads. Three heads share one set of keys and
# values. We give it two countries and ask for a third. At which token do most heads look, do you think?

# %% tags=["topic:attention-visualisation"]
# %%real inside
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

hub_name = "HuggingFaceTB/SmolLM2-135M-Instruct"
words = AutoTokenizer.from_pretrained(hub_name)
network = AutoModelForCausalLM.from_pretrained(
    hub_name, dtype=torch.float32, attn_implementation="eager"
)
sentence = "Paris is the capital of France. Rome is the capital of Italy. Berlin is the capital of"
asked = words(sentence, return_tensors="pt")
with torch.inference_mode():
    seen = network(**asked, output_attentions=True, output_hidden_states=True)

maps = torch.stack(seen.attentions)[:, 0]  # (layers, heads, tokens, tokens)
to_first = maps[:, :, 1:, 0].mean(-1)  # (layers, heads)
share_of_heads = (to_first > 0.5).float().mean()
print(
    f"{share_of_heads:.0%} of the heads spend more than half of their attention on the first token"
)
for number in (1, 10, 15, 29):
    sizes = seen.hidden_states[number][0].norm(dim=-1)  # (tokens,)
    print(f"entering layer {number}: the first token's state has length {sizes[0]:,.0f},", end=" ")
    print(f"the others' {sizes[1:].median():,.0f}")

# %% [markdown]
# Does it have induction heads? The test is that of section 4, with random tokens written twice.

# %% tags=["topic:attention-visualisation"]
# %%real inside
from matplotlib import pyplot as plt

torch.manual_seed(0)
rows = torch.randint(1000, 20_000, (4, 32)).repeat(1, 2)  # 32 random tokens, twice
with torch.inference_mode():
    twice = network(input_ids=rows, output_attentions=True)
due = torch.arange(32, 63)
looks = torch.stack(twice.attentions)[:, :, :, due, due - 31]  # (layers, rows, heads, places)
induction = looks.mean(dim=(1, 3))  # (layers, heads)
layer, head = divmod(int(induction.argmax()), induction.shape[1])
right = (twice.logits.argmax(-1)[:, 32:63] == rows[:, 33:]).float().mean()
print(f"best induction head: layer {layer}, head {head}, {induction.max():.2f}")
print(f"random tokens copied: {right:.0%}")

fig, axes = plt.subplots(2, 1, figsize=(8, 4.4), sharex=True, layout="constrained")
titles = ("attention to the first token", "attention to what came next last time")
for ax, scores, title in zip(axes, (to_first, induction), titles, strict=True):
    picture = ax.imshow(scores.T, vmin=0, vmax=1, aspect="auto")
    ax.set(title=title, ylabel="head")
axes[1].set_xlabel("layer")
fig.colorbar(picture, ax=axes)
plt.show()

# %% tags=["topic:interpretability"]
# %%real inside
# The logit lens. The last of the hidden states is left out: it has been through the norm already.
answer = int(seen.logits[0, -1].argmax())
for number, states in enumerate(seen.hidden_states[:-1]):
    with torch.inference_mode():
        scores = network.lm_head(network.model.norm(states[0, -1]))
    chances = scores.softmax(-1)
    rank = int((chances > chances[answer]).sum()) + 1
    if number % 4 == 0 or number > 24:
        first = words.decode(chances.argmax())
        print(f"entering layer {number:2}: first choice {first!r},", end=" ")
        print(f"{words.decode(answer)!r} is number {rank:,} with {chances[answer]:.1%}")
final = seen.logits[0, -1].softmax(-1)[answer]
print(f"the model says {words.decode(answer)!r} with {final:.1%}")

# %% tags=["topic:interpretability"]
# %%real inside
from transformers import BitsAndBytesConfig

nf4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
)
quarter = AutoModelForCausalLM.from_pretrained(
    hub_name, quantization_config=nf4, dtype=torch.float32, attn_implementation="eager"
)
for name, model in (("32 bits", network), ("4 bits", quarter)):
    with torch.inference_mode():
        chances = model(**asked.to(model.device)).logits[0, -1].softmax(-1)
        again = model(input_ids=rows.to(model.device), output_attentions=True)
    heads = torch.stack(again.attentions)[:, :, :, due, due - 31].mean(dim=(1, 3))
    copied = (again.logits.argmax(-1)[:, 32:63].cpu() == rows[:, 33:]).float().mean()
    print(f"{name}, {model.get_memory_footprint() / 1e6:.0f} MB:", end=" ")
    print(
        f"{words.decode(chances.argmax())!r} with {chances.max():.0%}, head {layer}.{head}", end=" "
    )
    print(f"scores {heads[layer, head]:.2f}, {copied:.0%} copied")

# %% [markdown]
# **What to notice.** Two thirds of the heads in the recording spend most of their attention on the first token: an
# **attention sink** (Xiao et al. 2023, arXiv 2309.17453). Its state gives it away: in the middle layers it is more
# than a hundred times as long as the others. prisma-lm has hardly any of this; look at the third map of section 3. So
# do not read "looks at the first token" as "the first token matters".
#
# What you found in the toy is here, too: induction heads, in layers 17 and 18, and a model that copies most of a row
# of tokens that no text ever held. And the lens shows an answer that is decided late: entering layer 20 of 30,
# "Germany" is not among the first thousand choices, and it is the first only in what enters the last two layers. (As
# 0.0 % stands what is less than 0.05 %.)
#
# In four bits the model takes a third of the memory, the head still looks where it looked, and the answer is the
# same. The few tokens more that it copies are no gain: four rows cannot tell 78 from 81 %. And one question cannot
# tell what four bits cost; the notebook on efficiency asks 48 of each of two kinds.

# %% [markdown]
# ## What you take with you
# - Attention is five lines, and it knows no order: positions have to be put in. Rotary and ALiBi tell distances only.
# - A KV cache changes no token. It turns time that grows with the text into memory that grows with the text.
# - A map shows where a head looks; only switching it off shows whether that matters.
# - Lens, patching and attribution answer different questions: what can be read, what is the cause, what is a share.
#   Each needs a control that could have failed.
#
# **Try it.** Change the order in section 3 to one with your name. In section 7, let the two prompts differ in the
# question instead of the status: where is *which order* carried? In section 8, take another baseline.
#
# **Next.** [Reasoning](7.3_reasoning.ipynb) lets the model think longer, and [efficiency](7.3_efficiency.ipynb) makes
# it smaller and faster.
