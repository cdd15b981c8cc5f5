# %% [markdown] tags=["badge"]
# # 7.3 Lab: other architectures
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.3_lab_other_architectures.ipynb)

# %% [markdown]
# **After this notebook you can**
# - route tokens to experts by hand, see a router collapse, and keep it in balance in two ways;
# - count the total and the active parameters of real mixtures of experts, and say what each of the two costs;
# - say what a window of attention saves, and what it can and does not see;
# - write linear attention and a selective state-space model in their parallel and their step-by-step form;
# - measure what a state of fixed size forgets, and why hybrids keep some layers of attention.
#
# **Time:** about 40 minutes to read and run; the cells take about two minutes on two free CPU cores.
#
# **Downloads:** nothing. Most models here are trained in the cells, from five seeds each. They are tiny, so that you
# see *what* differs; how much it matters in a large model, only a large model can tell.

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

unit = open_unit("7.3", tier="bundled")

# %%
import itertools
import statistics
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig

from course_utils import figures
from course_utils.exercises import check, hint, quiz, solution
from course_utils.measures import bootstrap, medians, percent, share, spread
from course_utils.memory import counting
from course_utils.prisma import lm, text
from course_utils.research import cost, experts, inside, recurrent, seeds, sparse
from course_utils.settings import paced

chat = unit.load("chat")
torch.set_num_threads(1)  # the models are so small that threads only wait for each other
SEEDS = range(5)

# %% [markdown]
# **How to read the numbers.** Where a training is random, it is done from five seeds, and a table shows the mean with
# the lowest and the highest. Two ways of training differ *here* if their ranges do not overlap. With five against
# five, chance alone does that in 2 of 252 cases. If they overlap, this lab has not decided it.
#
# ## 1. Many experts, few at work
#
# A model's knowledge sits in its parameters, and each token pays for all of them. Must it? A **mixture of experts**
# replaces the one MLP of a layer by several, the *experts*. A **router**, one small matrix, gives each expert a score
# for each token, and only the best k compute. So the *total* parameters grow, and those *active* for one token do
# not.

# %% tags=["topic:moe"]
fig, ax = figures.figure(width=8, height=2.8)
ax.set(xlim=(0, 10), ylim=(0, 4), xticks=[], yticks=[])
ax.axis("off")
places = {"token": (0.8, 2), "router": (3, 2), "weighed sum": (9, 2)}
chosen = figures.PALETTE["orange"]
for name, place in places.items():
    ax.text(*place, name, ha="center", va="center", bbox={"boxstyle": "round", "fc": "white"})
ax.annotate("", (2.4, 2), (1.4, 2), arrowprops={"arrowstyle": "->"})
for expert, height in enumerate((3.6, 2.55, 1.45, 0.4)):
    used = expert in (0, 2)
    face = chosen if used else "white"
    box = {"boxstyle": "round", "fc": face}
    ax.text(6, height, f"expert {expert}", ha="center", va="center", bbox=box)
    if used:
        arrow = {"arrowstyle": "->", "color": figures.PALETTE["vermilion"]}
        ax.annotate("", (5.2, height), (3.6, 2), arrowprops=arrow)
        ax.annotate("", (8.0, 2), (6.8, height), arrowprops=arrow)
figures.show(fig, alt="A router sends a token to experts 0 and 2 of 4; their answers are added.")

# %% [markdown]
# By hand, it is a softmax and a `topk`. Note where the bias goes; you will need it below.

# %% tags=["topic:moe"]
figures.source(experts.route, experts.Experts.visit)

# %% [markdown]
# `visit` lets each expert compute for its own tokens only, as large models do. Our models are so small that it is
# faster to compute all experts and to multiply those that were not chosen by zero. Is that the same?

# %% tags=["topic:moe"]
torch.manual_seed(unit.seed)
layer = experts.Experts(width=24, hidden=6, count=8, k=2)
x = torch.randn(100, 24)  # (tokens, width)
with torch.no_grad():
    everything, routing = layer(x)
    visited = layer.visit(x, routing)
print(f"largest difference: {inside.largest_difference(everything, visited):.1e}")
print("token 0 goes to experts", routing.experts[0].tolist(), end=", ")
print("with weights", [round(weight, 2) for weight in routing.weights[0].tolist()])

# %% [markdown]
# ### Does the router share the work?
#
# Our task is knowledge and nothing else: 16 invented languages with 64 words each, 1,024 facts in all. In each
# language every word means another one, drawn at random, so there is nothing to understand. Nobody tells the router
# what a language is. The tokens begin with a large part in common, as they have in deep models (arXiv 1909.00512).
#
# Four models with *equal active* parameters: one MLP; eight experts left alone; eight with Switch's **balance loss**
# (arXiv 2101.03961); eight with the **bias** of DeepSeek-V3 (arXiv 2408.15664, 2412.19437), which is moved a little
# towards idle experts after each step and adds no loss. A fifth has one MLP with the parameters of all eight experts.
#
# Guess: how many of the eight experts are at work when nobody cares?

# %% tags=["topic:moe"]
figures.source(experts.balance_loss, experts.bias_step)


# %% tags=["topic:moe"]
LANGUAGES, WORDS, WIDTH, HIDDEN = 16, 64, 24, 6
pairs, answers = experts.dictionaries(LANGUAGES, WORDS, SEEDS)


def loss(models: seeds.Seeds, generator: torch.Generator, balance: str) -> Tensor:
    """(seeds,) losses on 512 random facts; `balance` says what is done against idle experts."""
    picks = torch.randint(len(pairs), (len(models), 512), generator=generator)
    logits, routing = models(pairs[picks])  # (seeds, 512, words)
    wanted = answers.gather(1, picks)
    each = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
    own = each.mean(-1)  # (seeds,)
    if balance == "loss":
        own = own + 0.01 * experts.balance_loss(routing)
    if balance == "bias":
        bias = models.buffers["experts.bias"]
        models.buffers["experts.bias"] = experts.bias_step(bias, routing.load, size=0.005)
    return own


# %% tags=["topic:moe"]
plans = {
    "one MLP, as wide as one expert": (HIDDEN, 1, "none"),
    "8 experts, left alone": (HIDDEN, 8, "none"),
    "8 experts, balance loss": (HIDDEN, 8, "loss"),
    "8 experts, bias": (HIDDEN, 8, "bias"),
    "one MLP, as wide as all eight": (8 * HIDDEN, 1, "none"),
}
right, loads, rows = {}, {}, []
for name, (hidden, count, balance) in plans.items():
    make = partial(experts.Dictionary, LANGUAGES, WORDS, WIDTH, hidden, count)
    models = seeds.build(make, SEEDS)
    seeds.train(models, partial(loss, balance=balance), paced(300), seed=unit.seed, rate=0.01)
    with torch.no_grad():
        logits, routing = models(pairs.expand(len(SEEDS), -1, -1))
    known = (logits.argmax(-1) == answers).float().mean(1)  # (seeds,)
    right[name], loads[name] = (100 * known).tolist(), routing.load  # (seeds, experts)
    total, active = models.shape.counted()
    busiest = (100 * routing.load.amax(-1)).tolist()
    row = {"model": name, "parameters": total, "active": active}
    row["facts known (%)"] = spread(right[name])
    row["busiest expert's share (%)"] = spread(busiest) if count > 1 else "-"
    rows.append(row)

# %% tags=["topic:moe"]
figures.table(rows, caption="1,024 facts by heart: mean (lowest to highest of five seeds)")

# %% [markdown]
# The models of one seed begin with the same weights, learn the same facts and see them in the same order. So we may
# also compare them seed by seed, which is sharper than to compare ranges:

# %% tags=["topic:moe"]
alone = right["8 experts, left alone"]
for name in ("8 experts, balance loss", "8 experts, bias"):
    gains = [ours - theirs for ours, theirs in zip(right[name], alone, strict=True)]
    gain = bootstrap(gains, "points")
    better = sum(difference > 0 for difference in gains)
    print(f"{name}, minus left alone: {gain}; better in {better} of {len(gains)} seeds")

# %% tags=["topic:moe"]
mixtures = [name for name in plans if "experts," in name]
fig, axes = figures.figure(columns=3, width=10, height=2.8)
for ax, name in zip(axes, mixtures, strict=True):
    sorted_loads = loads[name].sort(dim=-1, descending=True).values  # (seeds, experts)
    for load in 100 * sorted_loads:
        ax.plot(range(8), load, marker="o", markersize=3, linewidth=1, color=figures.CYCLE[0])
    ax.axhline(100 / 8, color=figures.GREY, linestyle="--")
    ax.set(title=name, ylim=(0, 100), xlabel="experts, busiest first")
axes[0].set_ylabel("share of all visits (%)")
busiest = {name: f"{loads[name].amax(-1).mean():.0%}" for name in mixtures}
alt = f"Load of each expert, a line a seed, dashed: even. Busiest: {figures.told(busiest)}."
figures.show(fig, alt=alt)

# %% [markdown]
# **What to notice.** Left alone, a router that sends most tokens to one expert trains that expert most, so that it
# becomes the best choice: the rich get richer. In balance, the same parameters know more (the lines below the table).
# With either, the mixture knows more than one MLP of the *same active* size. Against one MLP of the *same total* size
# the ranges overlap: nothing here says that experts add knowledge to a parameter. What they save is arithmetic.
# (These are facts by heart, and there is nothing held out. Mixtures were found to gain more on knowledge than on
# reasoning, arXiv 2410.19034.)
#
# The loss pulls at the same weights as the task; the bias does not touch them, but ours needs a good step size. Look
# at the ranges in the table before you call one of the two better.

# %%
quiz("7.3.experts_memory")

# %% [markdown]
# ### How large are real ones?
#
# `transformers` knows the shape of published models, and the course counts parameters without any weights. We take
# the default shape of each class, which belongs to one published model. *Active* leaves out the embeddings, because a
# token reads one row of them. The last column is for section 3: what the model remembers of 100,000 tokens, in 16
# bits.

# %% tags=["topic:moe"]
published = {
    "gpt_oss": "gpt-oss-120b",
    "jamba": "Jamba (first version)",
    "qwen3_next": "Qwen3-Next-80B-A3B",
    "deepseek_v3": "DeepSeek-V3",
}
rows = []
for kind, name in itertools.islice(published.items(), paced(4, 2)):
    config = AutoConfig.for_model(kind)
    counted = counting.count(config.to_dict())
    row = {"model": name, "total (billions)": counted.parameters / 1e9}
    row["active (billions)"] = counted.used / 1e9
    row["active share"] = f"{counted.used / counted.parameters:.0%}"
    row["GB of weights, 16 bits"] = round(2 * counted.parameters / 1e9)
    row["GB for 100,000 tokens"] = counted.cache_bytes(100_000) / 1e9
    rows.append(row)

# %% tags=["topic:moe"]
figures.table(rows, caption="Counted on the shapes in transformers", digits=1)

# %% [markdown]
# ### A common claim: "with 5 billion active parameters it runs where a model of 5 billion runs"
#
# **Verdict: in arithmetic, not in memory.** Each token may ask other experts, so all of them have to be in reach: the
# column of weights counts the *total*. What falls is the work for a token, and the bytes read for one conversation.
# In a large batch the tokens ask different experts, and then all of them are read. The makers publish 117 billion
# total and 5.1 active (gpt-oss, arXiv 2508.10925), 52 and 12 (Jamba, arXiv 2403.19887), 80 and 3 (Qwen3-Next, its
# card), 671 and 37 (DeepSeek-V3, arXiv 2412.19437). Where our count differs, look at what is called active.
#
# **What to notice.** Three of the four use only a small part of themselves for a token. And the last column is small
# beside the weights, most of all for DeepSeek-V3: nearly six times the parameters of gpt-oss-120b, and not quite
# twice its memory (it keeps keys and values compressed, arXiv 2412.19437). How the others save, sections 2 and 3
# tell.

# %% [markdown]
# ## 2. Look at less
#
# Attention compares each token with all before it: $n^2 / 2$ pairs. Do they all matter? Three patterns leave pairs
# out: a **sliding window** (Longformer, arXiv 2004.05150; Mistral 7B, arXiv 2310.06825), a window with the **first
# tokens** (arXiv 2309.17453), and **blocks**: near ones, the first, and a few at random (BigBird, arXiv 2007.14062).

# %% tags=["topic:sparse-attention"]
figures.source(sparse.window_mask)

# %% tags=["topic:sparse-attention"]
n = 64
patterns = {
    "all": sparse.window_mask(n, n),
    "window of 16": sparse.window_mask(n, 16),
    "window of 12 and 4 first": sparse.window_mask(n, 12, first=4),
    "blocks of 8": sparse.block_sparse_mask(n, 8, seed=unit.seed),
}
fig, axes = figures.figure(columns=4, width=10, height=2.8)
pairs_of = {name: int(mask.sum()) for name, mask in patterns.items()}
for ax, (name, mask) in zip(axes, patterns.items(), strict=True):
    figures.heatmap(ax, mask.float(), low=0, high=1)
    ax.set(title=name, xlabel=f"{pairs_of[name]:,} pairs", xticks=[], yticks=[], aspect="equal")
axes[0].set_ylabel("token that looks")
alt = f"Four masks of 64 by 64 tokens; pairs left: {figures.told(pairs_of)}."
figures.show(fig, alt=alt)

# %% [markdown]
# ### What does it save?
#
# Guess: attention with a window of 128 over 2,048 tokens, written as a *mask*: how much faster is it than without?

# %% tags=["topic:sparse-attention"]
ways = {
    "all, by hand": lambda q, k, v: sparse.masked_attention(q, k, v, window=q.shape[-2]),
    "window as a mask": lambda q, k, v: sparse.masked_attention(q, k, v, window=128),
    "window in blocks": lambda q, k, v: sparse.windowed_attention(q, k, v, window=128),
}
lengths = [256, 512, 1024, 2048]
timed = {name: [] for name in ways}
held = {name: [] for name in ways}
torch.manual_seed(unit.seed)
for length in lengths:
    q, k, v = torch.randn(3, 4, length, 64)  # 4 heads
    for name, way in ways.items():
        timed[name].append(cost.milliseconds(way, q, k, v))
        held[name].append(cost.peak_mib(way, q, k, v))
masked, blocks = (ways[name](q, k, v) for name in ("window as a mask", "window in blocks"))
print(f"blocks against mask: largest difference {inside.largest_difference(masked, blocks):.1e}")

# %% tags=["topic:sparse-attention"]
fig, axes = figures.figure(columns=2, width=10, height=3.4)
for name, marker in zip(ways, "os^", strict=True):
    axes[0].plot(lengths, timed[name], marker=marker, label=name)
    axes[1].plot(lengths, held[name], marker=marker, label=name)
for ax in axes:
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
axes[0].set(xlabel="tokens", ylabel="time (ms)", title="Time")
axes[1].set(xlabel="tokens", ylabel="memory beyond the inputs (MiB)", title="Memory")
axes[0].legend()
told = {}
for name in ways:
    told[name] = f"{timed[name][-1]:.0f} ms and {held[name][-1]:.0f} MiB"
print(f"{lengths[-1]} tokens:", figures.told(told))
figures.show(fig, alt=f"Time and memory against length. At the longest: {figures.told(told)}.")

# %% [markdown]
# **What to notice.** A mask saves nothing: all scores are made first, and then most are thrown away. Only code that
# never makes them is cheaper: in blocks as long as the window, time and memory grow with $n$. On a GPU, PyTorch's
# `flex_attention` compiles such a pattern and skips the empty blocks. While a model writes, a window saves something
# else, too: the keys and values of what lies behind it can be forgotten.
#
# ### What can it not see?
#
# A token sees `window - 1` tokens back. In the next layer it sees tokens that had seen further. After $L$ layers the
# *reach* is $L (w - 1)$. With prisma-lm (6 layers) behind a window of 8 we change one token and look at the scores
# before the softmax (the *logits*) of the last token: do they change?

# %% tags=["topic:sparse-attention"]
ids, asks = inside.repeated_rows(chat.tokenizer, text.WORDS, count=30, rows=4, seed=unit.seed)
n = ids.shape[1]
mask = sparse.window_mask(n, 8)
before = sparse.logits_behind(chat.model, ids, mask)[:, -1]  # (rows, words)
distances = [1, 3, 5, 7, 10, 14, 21, 28, 35, 41, 42, 43, 44, 49, 56, 63]
change = []
for distance in distances:
    changed = ids.clone()
    changed[:, -1 - distance] = (ids[:, -1 - distance] + 1) % len(chat.tokenizer)
    after = sparse.logits_behind(chat.model, changed, mask)[:, -1]
    change.append((after - before).abs().amax(-1).mean().item())
layers = chat.model.config.num_hidden_layers
print(f"reach: {layers} layers x 7 = {layers * 7} tokens")
for distance, moved in zip(distances, change, strict=True):
    if distance in (1, 7, 14, 28, 42, 43, 63):
        print(f"{distance:3} tokens back: the logits move by {moved:.1e}")

# %% [markdown]
# Beyond the reach the change is exactly zero: no training can mend that. Within it, something arrives, and the less
# the further back: near the edge so little that in 32 bits nothing is left of it. Is it enough to *use*? The rows
# above hold words written twice, so the model can copy if it finds the first copy.

# %% tags=["topic:sparse-attention"]
count = 10
rows_of_words, asks = inside.repeated_rows(
    chat.tokenizer, text.WORDS, count=count, rows=8, seed=unit.seed
)
n = rows_of_words.shape[1]
away = n // 2 - 1  # from the word that is copied to the place that asks for it
rows = []
for window in (4, 8, 12, 16, 20, 24, n):
    mask = sparse.window_mask(n, window)
    logits = sparse.logits_behind(chat.model, rows_of_words, mask)
    right_words = logits.argmax(-1)[:, asks] == rows_of_words[:, asks + 1]
    row = {"window": window, "reach": layers * (window - 1)}
    row["within the window"] = window > away
    row["within the reach"] = row["reach"] >= away
    row["copied right"] = percent(share(right_words.flatten().tolist()))
    rows.append(row)
figures.table(rows, caption=f"Words to copy stand {away} tokens back; prisma-lm, 95 % intervals")

# %% [markdown]
# ### A common claim: "a window of 4,096 in 32 layers reads 131,000 tokens"
#
# Mistral 7B's paper speaks of a *theoretical* attention span of about 131,000 tokens (arXiv 2310.06825). **Verdict:
# information can travel so far; that it does is another matter.** In our table the words are within reach long before
# they are copied. Our model was trained without a window, so it never learned to hand words on in steps: a model that
# is trained with one may do better. Published ones rely on it less and less: gpt-oss and Gemma 3 (arXiv 2503.19786)
# alternate layers with a window with layers that see all.
#
# ### Why keep the first tokens?
#
# Xiao et al. (arXiv 2309.17453) let large models write on and on with a window, and they broke as soon as the *first*
# tokens left it. Their explanation: softmax weights must add up to 1, so a head that has nothing to fetch rests on
# the first tokens, the **attention sink**. Keep four of them, and the model goes on. Does ours need it? We measure
# its loss on tool traces in *nats* (the negative logarithm of the probability of the right token; $e$ to its power is
# the *perplexity*: 8 is as unsure as a guess among 8), with equal numbers of tokens in sight. The control keeps four
# tokens that are *not* the first.

# %% tags=["topic:sparse-attention"]
LENGTH, START = 224, 96  # of a trace; and from where on we count
traces = []
for example in itertools.islice(text.mixture(seed=3, shares={"react": 1.0}), paced(400, 200)):
    ids, labels = lm.encode(chat.tokenizer, example)
    if len(ids) >= LENGTH:
        traces.append((ids[:LENGTH], labels[:LENGTH]))
chosen = traces[: paced(20, 4)]
ids = torch.tensor([ids for ids, _ in chosen])  # (traces, LENGTH)
labels = torch.tensor([labels for _, labels in chosen])
counts = (labels != lm.IGNORED)[:, 1:]  # what the model had to learn to write
counts[:, :START] = False


def loss_behind(mask: Tensor) -> list[float]:
    """Nats a token of each trace, where each layer sees by `mask`."""
    each = sparse.surprise(chat.model, ids, mask)  # (traces, LENGTH - 1)
    total = (each * counts).sum(-1)
    return (total / counts.sum(-1)).tolist()


# %% tags=["topic:sparse-attention"]
rows = []
for window in (16, 32, 64):
    others = sparse.window_mask(LENGTH, window - 4)
    others[:, 8:12] = True
    views = {
        "window alone": sparse.window_mask(LENGTH, window),
        "4 first, rest window": sparse.window_mask(LENGTH, window - 4, first=4),
        "4 others, rest window": others.tril(),
    }
    row = {"tokens in sight": window}
    for name, mask in views.items():
        loss_of = bootstrap(loss_behind(mask), "nats")
        row[name] = f"{loss_of.value:.2f} ({loss_of.low:.2f} to {loss_of.high:.2f})"
    rows.append(row)
everything = bootstrap(loss_behind(sparse.window_mask(LENGTH, LENGTH)), "nats")
print("all tokens in sight:", everything)
maps = inside.attention_maps(chat.model, ids[:8])  # (layers, traces, heads, n, n)
on_first = inside.head_roles(maps.mean(1))["the first token"].mean().item()
print(f"attention that goes to the first token: {on_first:.1%} (1 of {LENGTH} is {1 / LENGTH:.1%})")
figures.table(rows, caption=f"Loss in nats, 95 % intervals over {len(ids)} traces")

# %% [markdown]
# **What to notice.** Our small model has no strong sink: it spends little on the first token. A window hurts it for a
# plainer reason: what it needs stands further back. At 16 tokens in sight the first four help, and four others do
# not. Perhaps that is because they open the system prompt, which tells what kind of text this is. At 32 and 64 the
# intervals of the three columns overlap: nothing is decided there. The paper's effect is one of *large* models over
# very long texts; we could not show it here. gpt-oss gives each head a sink of its own, a learned number in the
# softmax.

# %% [markdown]
# ## 3. A memory that does not grow
#
# Attention remembers everything: keys and values of each token. Could a model read like you do, with a memory of
# fixed size? Leave out the softmax, and the sum can be taken in another order:
#
# $$(q_t K^\top)\, V = q_t\, (K^\top V) = q_t\, S_t, \qquad S_t = S_{t-1} + k_t v_t^\top$$
#
# $S$ has as many rows as a key and as many columns as a value, however long the text is. That is **linear attention**
# (Katharopoulos et al. 2020, arXiv 2006.16236). Both forms by hand, the first to train, the second to write:

# %% tags=["topic:linear-attention-ssm"]
figures.source(recurrent.linear_attention, recurrent.linear_attention_stepwise)

# %% tags=["topic:linear-attention-ssm"]
torch.manual_seed(unit.seed)
q, k, v = torch.randn(3, 2, 50, 16)
together = recurrent.linear_attention(q, k, v)
stepwise = recurrent.linear_attention_stepwise(q, k, v)
difference = inside.largest_difference(together, stepwise)
print(f"all at once against token by token: {difference:.1e}")

# %% [markdown]
# What is added to $S$ never leaves it. A **state-space model** keeps a share of its state and writes something new:
#
# $$s_t = a_t\, s_{t-1} + b_t\, x_t, \qquad y_t = c_t \cdot s_t$$
#
# If $a$, $b$ and $c$ are the same for all tokens, that is one long filter, a *convolution* (S4, arXiv 2111.00396). In
# **Mamba** (arXiv 2312.00752) they depend on the token, so that it can *select* what to keep. Then it is no
# convolution, but it still need not be done step by step: two steps in a row are one step of the same kind.

# %% tags=["topic:linear-attention-ssm"]
figures.source(recurrent.selective_scan, recurrent.parallel_scan)

# %% tags=["topic:linear-attention-ssm"]
torch.manual_seed(unit.seed)
n, channels, state = 50, 6, 4
x = torch.randn(n, channels, dtype=torch.float64)
step = torch.rand(n, channels, dtype=torch.float64) + 0.1
decay = -torch.rand(channels, state, dtype=torch.float64)
writes, reads = torch.randn(2, n, state, dtype=torch.float64)
slow = recurrent.selective_scan(x, step, decay, writes, reads)
fast = recurrent.selective_scan_in_parallel(x, step, decay, writes, reads)
print(f"selective: scan in parallel against steps  {inside.largest_difference(slow, fast):.1e}")

same = (step[0].expand(n, -1), decay, writes[0].expand(n, -1), reads[0].expand(n, -1))
steps = recurrent.selective_scan(x, *same)
filtered = recurrent.as_convolution(x, step[0], decay, writes[0], reads[0])
print(
    f"not selective: convolution against steps   {inside.largest_difference(steps, filtered):.1e}"
)
mixed = recurrent.as_convolution(x, step[0], decay, writes[0], reads[0])
print(f"selective, as if it were a convolution     {inside.largest_difference(slow, mixed):.1e}")

# %% [markdown]
# **Mamba-2** (arXiv 2405.21060) has one $a_t$ for the whole state. Then it is linear attention whose memory fades:
# each product of query and key is multiplied by what all tokens between them have kept. The family becomes one line:

# %% tags=["topic:linear-attention-ssm"]
figures.source(recurrent.gated_linear_attention)

# %% tags=["topic:linear-attention-ssm"]
log_kept = -torch.rand(2, 50, dtype=torch.float64)
q, k, v = torch.randn(3, 2, 50, 16, dtype=torch.float64)
together = recurrent.gated_linear_attention(q, k, v, log_kept)
stepwise = recurrent.gated_linear_attention_stepwise(q, k, v, log_kept)
difference = inside.largest_difference(together, stepwise)
print(f"as attention against token by token: {difference:.1e}")

# %% [markdown]
# **What to notice.** Each model here has two faces that give the same numbers: one for training, where all tokens are
# known, and one for writing, where a step costs the same at token 10 and at token 100,000. The line *selective, as if
# it were a convolution* shows that the check can fail: the two are not the same.
#
# ### What does it forget?
#
# A memory of fixed size cannot hold everything. The test is **associative recall** (Zoology, arXiv 2312.04927): pairs
# of a key and a value, and then the keys again in another order. It is copying where you are told what to copy. All
# readers have one layer, a short filter over four tokens (as Mamba has) and the same training. With a state of 16
# their parameters are equal; with 4 and 32 the matrices that make queries and keys are smaller and larger.

# %% tags=["topic:linear-attention-ssm"]
KEYS, BATCH = 16, 16


def recalled(models: seeds.Seeds, pairs: int, rows: int, generator) -> tuple[Tensor, Tensor]:
    """Logits (seeds, rows, pairs, words) where a value is due, and the right values."""
    ids = recurrent.recall_rows(len(models) * rows, pairs, KEYS, generator)
    ids = ids.unflatten(0, (len(models), rows))  # (seeds, rows, 4 pairs)
    due = torch.arange(2 * pairs, 4 * pairs, 2)
    return models(ids)[:, :, due], ids[:, :, due + 1]


def recall_loss(models: seeds.Seeds, generator: torch.Generator) -> Tensor:
    """(seeds,) losses on rows with 2, 4 or 8 pairs."""
    power = torch.randint(1, 4, (1,), generator=generator).item()
    logits, values = recalled(models, 2**power, BATCH, generator)
    each = F.cross_entropy(logits.flatten(0, 2), values.flatten(), reduction="none")
    return each.view(len(models), -1).mean(-1)


# %% tags=["topic:linear-attention-ssm"]
readers = {
    "attention": ("attention", 16),
    "linear attention, state 16": ("linear attention", 16),
    "state space, state 4": ("state space", 4),
    "state space, state 16": ("state space", 16),
    "state space, state 32": ("state space", 32),
}
found = {}
rows = []
for name, (kind, state) in readers.items():
    make = partial(recurrent.Reader, [kind], 2 * KEYS, state=state)
    models = seeds.build(make, SEEDS)
    seeds.train(models, recall_loss, paced(300), seed=unit.seed, rate=0.01)
    row = {"reader": name, "parameters": models.parameters}
    for pairs_now in (2, 4, 8):
        generator = torch.Generator().manual_seed(pairs_now)
        with torch.no_grad():
            logits, values = recalled(models, pairs_now, 64, generator)
        hits = (logits.argmax(-1) == values).float().mean((1, 2))  # (seeds,)
        found[name, pairs_now] = (100 * hits).tolist()
        row[f"{pairs_now} pairs (%)"] = spread(found[name, pairs_now])
    rows.append(row)

# %% tags=["topic:linear-attention-ssm"]
figures.table(rows, caption="Values recalled: mean (lowest to highest of five seeds)")

# %% tags=["topic:linear-attention-ssm"]
fig, ax = figures.figure(height=3.4)
many = [2, 4, 8]
for name, marker in zip(readers, "os^vD", strict=True):
    groups = [found[name, pairs_now] for pairs_now in many]
    middles, ends = medians(groups)
    ax.errorbar(many, middles, yerr=ends, marker=marker, capsize=3, label=name)
ax.axhline(100 / KEYS, color=figures.GREY, linestyle="--")
ax.set(xlabel="pairs to remember", ylabel="recalled (%)", xticks=many, ylim=(0, 104))
ax.legend(bbox_to_anchor=(1.02, 1), loc="upper left")
told = {name: f"{statistics.median(found[name, 8]):.0f}%" for name in readers}
alt = f"Recall against the number of pairs, five seeds. At 8 pairs: {figures.told(told)}."
figures.show(fig, alt=alt)

# %% [markdown]
# **What to notice.** Attention recalls all pairs, however many: its memory grows with them. The others recall less of
# eight pairs than of two, and at eight pairs the larger state of a state space recalls more: those three ranges do
# not meet. (The figure shows the middle seed, the table the mean.) That is no fault of training alone: a state of 4
# has 4 directions for its keys, and 8 keys must share them. (Longer training helps all of them; so read the order,
# not the height.) For copying of long texts the same was shown with large models (arXiv 2402.01032).

# %%
quiz("7.3.fixed_state")

# %% [markdown]
# ### Where does it shine?
#
# Now a long log: eight statuses, of which one comes now and then, between words that mean nothing. What is the status
# *now*? (Liu et al. call it a flip-flop, arXiv 2306.00946.) A new status should push the old one out. Attention gets
# a learned preference for what is near (ALiBi, arXiv 2108.12409), or it could not tell old from new. We train on 64
# tokens and test on logs that are longer.

# %% tags=["topic:linear-attention-ssm"]
STATUSES, REPORTED = 8, 0.1


def status_right(models: seeds.Seeds, n: int, rows: int, generator) -> tuple[Tensor, Tensor]:
    """Logits (seeds, rows, n, statuses) at each token, and the statuses that hold."""
    many = len(models) * rows
    ids, now = recurrent.status_rows(many, n, STATUSES, REPORTED, generator)
    shape = (len(models), rows)
    logits = models(ids.unflatten(0, shape))[..., :STATUSES]
    return logits, now.unflatten(0, shape)


def status_loss(models: seeds.Seeds, generator: torch.Generator) -> Tensor:
    """(seeds,) losses on logs of 64 tokens."""
    logits, now = status_right(models, 64, 8, generator)
    each = F.cross_entropy(logits.flatten(0, 2), now.flatten(), reduction="none")
    return each.view(len(models), -1).mean(-1)


# %% tags=["topic:linear-attention-ssm"]
rows = []
tested = (64, 256, 1024)
for kind in recurrent.KINDS:
    make = partial(recurrent.Reader, [kind], 2 * STATUSES)
    models = seeds.build(make, SEEDS)
    seeds.train(models, status_loss, paced(250), seed=unit.seed, rate=0.01)
    row = {"reader": kind, "parameters": models.parameters}
    for n in tested:
        generator = torch.Generator().manual_seed(n)
        with torch.no_grad():
            logits, now = status_right(models, n, 4096 // n, generator)
        last = logits[:, :, -32:].argmax(-1) == now[:, :, -32:]  # at the end of the log
        row[f"{n} tokens (%)"] = spread((100 * last.float().mean((1, 2))).tolist())
    rows.append(row)
figures.table(rows, caption="Right status at the end: mean (lowest to highest of five seeds)")

# %% [markdown]
# **What to notice.** Linear attention cannot forget: the longer the log, the more old statuses are mixed in. The
# state space learned to push them out, and holds far beyond the length of its training. Attention with a preference
# for what is near holds as far: the ranges of the two overlap, so they are not told apart here, and both stay far
# above linear attention. So the gain in *answers* comes with forgetting, and one need not be recurrent to have it.
# The gain in *cost* is another one:

# %% tags=["topic:linear-attention-ssm"]
HEADS, SIZE = 16, 64
torch.manual_seed(unit.seed)
state = torch.randn(HEADS, SIZE, SIZE)
q, k, v = torch.randn(3, HEADS, 1, SIZE)


def from_cache(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One token of attention, with a cache of keys and values (heads, n, size)."""
    return F.scaled_dot_product_attention(q, keys, values)


def from_state(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> Tensor:
    """One token of a state space: fade, write, read; the state is (heads, size, size)."""
    new = 0.9 * state + k.transpose(-2, -1) * v
    return q @ new


# %% tags=["topic:linear-attention-ssm"]
rows = []
for n in (512, 2048, 8192, 32768):
    keys, values = torch.randn(2, HEADS, n, SIZE)
    row = {"tokens so far": n}
    row["cache: ms a token"] = cost.milliseconds(from_cache, q, keys, values, rounds=8)
    row["state: ms a token"] = cost.milliseconds(from_state, q, k, v, state, rounds=8)
    row["cache (MB)"] = 2 * keys.numel() * 4 / 1e6
    row["state (MB)"] = state.numel() * 4 / 1e6
    rows.append(row)
figures.table(rows, caption="One layer, one more token; 32 bits, one thread", digits=3)

# %% [markdown]
# **What to notice.** A step from the cache takes longer the longer the text is, and its memory grows with it; a step
# from the state does not. At 32,768 tokens that is the difference between the two columns, and it is paid for each
# layer and each conversation.
#
# ### A common claim: "state-space models replace attention"
#
# **Verdict: not alone.** What you measured is the trade: cheap and endless, or exact. So today's models mix both. Of
# the models in the table of section 1, Jamba has one layer of attention in eight (arXiv 2403.19887), Qwen3-Next one
# in four, the others being linear attention with a gate and a *delta rule* (Gated DeltaNet, arXiv 2412.06464: before
# it writes, it takes out what stood under the same key). IBM's Granite 4 mixes Mamba-2 and attention nine to one (by
# its makers' account). And that explains the last column there: only the few layers of attention keep a cache that
# grows. Which layers are which in Qwen3-Next, as transformers builds it:

# %% tags=["topic:linear-attention-ssm"]
kinds = AutoConfig.for_model("qwen3_next").layer_types
print("layers 0 to 7:", ", ".join(kinds[:8]))
print(f"full attention in {kinds.count('full_attention')} of {len(kinds)} layers")

# %% [markdown]
# ## 4. When one device is too small for the text
#
# A window leaves pairs out. If you want *all* pairs of a million tokens, cut the text over several devices. In **ring
# attention** (arXiv 2310.01889) each device keeps the queries of its part, and keys and values go round. After as
# many rounds as there are devices, each query has met each key; the softmax is put together from parts as in
# FlashAttention.

# %% tags=["topic:ring-long-context"]
fig, ax = figures.figure(width=5, height=2.9)
ax.set(xlim=(-2.4, 2.4), ylim=(-1.6, 1.6), aspect="equal")
ax.axis("off")
corners = [(-1.5, 1), (1.5, 1), (1.5, -1), (-1.5, -1)]
for device, (place, after) in enumerate(zip(corners, corners[1:] + corners[:1], strict=True)):
    label = f"device {device}\nqueries {device}"
    box = {"boxstyle": "round", "fc": "white"}
    arrow = {"arrowstyle": "->", "color": figures.PALETTE["blue"], "shrinkA": 38, "shrinkB": 38}
    ax.annotate("", after, place, arrowprops=arrow)
    ax.text(*place, label, ha="center", va="center", fontsize=9, bbox=box)
ax.text(0, 0, "keys and values\ngo round", ha="center", va="center", color=figures.PALETTE["blue"])
figures.show(fig, alt="Four devices in a ring: queries stay, keys and values go to the next.")

# %% tags=["topic:ring-long-context"]
torch.manual_seed(unit.seed)
q, k, v = torch.randn(3, 512, 64)
whole = sparse.masked_attention(q, k, v, window=512)
rows = []
for devices in (1, 2, 4, 8):
    ring = sparse.ring_attention(q, k, v, devices)
    row = {"devices": devices}
    row["differs by"] = f"{inside.largest_difference(ring.result, whole):.0e}"
    row["scores held by one"] = ring.held
    row["numbers sent by one"] = ring.sent
    row["at work in each round"] = ", ".join(str(busy) for busy in ring.busy)
    rows.append(row)
figures.table(rows, caption="512 tokens around a ring, simulated in one process")

# %% [markdown]
# The result is that of one device, and none ever holds more than one block of scores. What it costs: each device
# sends almost all keys and values on, while it computes. And look at the last column: a text is read from left to
# right, so in the last round only one device still has something to do. Striped attention (arXiv 2311.09431) deals
# tokens out like cards, so that all have some of the early and some of the late.
#
# **LongLoRA** (arXiv 2309.12307) makes only the *training* sparse. To stretch a model to longer texts it trains with
# attention within groups, and half of the heads have their groups shifted by half a group, so that neighbours meet.
# Afterwards the model uses full attention as before. It trains LoRA matrices, and the embeddings and norms with them.
#
# **Retrieval** is the third way: do not read all, search first and put what was found into the prompt. You know it
# from Unit 7.2. Which one when?

# %% tags=["topic:ring-long-context"]
choices = (
    ("it fits", "full attention, fused", "nothing is left out"),
    ("it fits, the model is not used to it", "RoPE scaling; LongLoRA", "a little training"),
    ("too long for one device, all of it matters", "ring attention", "devices, and a fast link"),
    ("endless, the near part matters", "window; state space", "what left it is gone"),
    ("huge, a few passages matter", "retrieval", "what is not found is not read"),
)
rows = []
for have, take, price in choices:
    rows.append({"your text": have, "take": take, "the price": price})
figures.table(rows)

# %% [markdown]
# **What to notice.** Only the first three give the model every token. A long *accepted* length is no proof that the
# length is *used*; the core notebook on efficiency tests it with a needle.
#
# ## What you take with you
# - Experts: total parameters are knowledge and memory, active ones are time. A router needs balance.
# - A window saves only if the other pairs are never computed; reach is not use.
# - Linear attention and state spaces are recurrent models that can be trained like attention. A state of fixed size
#   forgets; a gate lets it choose what.
# - Hybrids keep a few layers of attention for what must be exact.
#
# **Papers.** Switch (arXiv 2101.03961), DeepSeek-V3 (2412.19437), Longformer (2004.05150), BigBird (2007.14062),
# StreamingLLM (2309.17453), linear attention (2006.16236), Mamba (2312.00752), Mamba-2 (2405.21060), Zoology
# (2312.04927), Jamba (2403.19887), ring attention (2310.01889).
#
# **Try it.** Send each word to two experts of half the width (`k=2`). Give the state space two layers. Train the
# status readers on logs in which one token in fifty is a status: who still holds at 1,024?
