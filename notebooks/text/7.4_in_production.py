# %% [markdown] tags=["badge"]
# # 7.4 Self-hosting LLMs, part 2: in production
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.4_in_production.ipynb)

# %% [markdown]
# **After this notebook you can**
# - store the same weights in fewer bits in four ways, and say what each costs in size, quality and speed;
# - see what your server does: metrics that Prometheus reads, and a log that keeps no content;
# - keep answering when a model is slow, dead, or talks nonsense;
# - attack your own server with an instruction hidden in its input, and measure two defences.
#
# **Time:** about 25 minutes to read and run; the cells take about a minute on two CPU cores.
#
# **Downloads:** nothing at the bundled tier.

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

unit = open_unit("7.4")

# %% [markdown]
# ## 1. Fewer bits
#
# A weight in 16 bits can be stored in 8, 4, 3 or 2. The file shrinks; what else changes? Four families of formats are
# in use, and this section puts them on the same weights, those of prisma-lm:
#
# | family | how it chooses the numbers | it must see | you meet it in |
# | --- | --- | --- | --- |
# | **bitsandbytes** (NF4, int8) | fixed levels, one scale a block or row | the weights | transformers, QLoRA |
# | **GGUF** (k-quants) | blocks of 256 weights, scales in few bits, too | the weights | llama.cpp, Ollama |
# | **GPTQ** | column by column; later ones make up for the error | a text, too | vLLM, transformers |
# | **AWQ** | stretches columns with large inputs, then rounds | a text, too | vLLM, transformers |
#
# bitsandbytes and llama.cpp do the first two here. The packages for GPTQ and AWQ are made for graphics cards first, and
# the methods are short: you see them written out. Their baseline is **rounding to nearest**: in each group of 64
# weights, as many even levels as the bits allow, from the smallest weight to the largest.

# %%
import itertools
import math
from functools import partial

import torch
from IPython.display import display

from course_utils import compat, figures, settings
from course_utils.measures import error_bars, percent, pooled, share
from course_utils.models import gguf_file, k_quants, layers, llama_cpp
from course_utils.prisma import lm, tasks, text
from course_utils.serving import quantising

folder = settings.MODELS / "prisma-lm"
prisma, tokenizer = lm.load(folder)  # on the CPU, in 32 bits
figures.source(quantising.grid, quantising.on_grid)

# %% [markdown]
# GPTQ and AWQ need a **calibration text**: what the model reads in its daily work, and nothing that you will measure
# on. Ours is 3,072 tokens of talk in the shop; the tasks are about another shop. Three kinds of tasks, from easy to
# hard: questions that need a tool, sums in steps, and rows of random words to be copied without one mistake. (prisma-lm
# answers the first kind so well that three bits lose nothing there. A task at its ceiling cannot show a trade-off.)

# %%
read: list[int] = []
for example in itertools.islice(text.mixture(seed=99), 150):
    ids, _ = lm.encode(tokenizer, example)
    read += ids
calibration = torch.tensor(read[:3072]).reshape(12, 256)  # (rows, tokens)
unseen = torch.tensor(read[3072:6144]).reshape(12, 256)

asked = {"tool tasks": tasks.tool_tasks(settings.paced(20, 4), seed=730)}
asked["sums"] = tasks.sum_tasks(settings.paced(24, 4), seed=730)
asked["copying"] = tasks.copy_tasks(settings.paced(24, 4), seed=730)

# %% [markdown]
# **What the outputs lose.** A matrix $W$ turns inputs $X$ into outputs $XW^T$. Rounding moves every weight as little
# as it can. But what counts is how far the *outputs* move, $\lVert XW^T - X\hat W^T \rVert^2$, and inputs depend on
# each other: what one weight loses, others can make up. GPTQ (Frantar et al. 2022, arXiv 2210.17323) rounds one column
# after the other and spreads its error over the columns that are still free. How, is in the **Hessian** $H = X^TX$, of
# which it needs the inverse's Cholesky factor $U$: with the error $e = (w_i - \hat w_i) / U_{ii}$, each later column
# $j$ becomes $w_j - e\,U_{ij}$.

# %% [markdown]
# # EXERCISE 7.4.gptq

# %% [markdown]
# The course's own version, with groups: a group's levels are made when its turn comes, from the weights as they are by
# then. (A test compares it with the older method of which it is the fast form, Optimal Brain Quantization, arXiv
# 2208.11580, inverting the Hessian anew for each column.)

# %% tags=["topic:quantisation-methods"]
figures.source(quantising.gptq, quantising.awq_power, quantising.stretched)

# %% [markdown]
# One matrix, three methods. Who moves the weights least? Who moves the outputs least, on the calibration text and on a
# text that nobody calibrated on?


# %% tags=["topic:quantisation-methods"]
def nearest(weights, inputs, bits):
    """Rounding as a method that takes inputs and does not look at them."""
    return quantising.round_to_nearest(weights, bits)


by_hand = {"rounding": nearest, "AWQ": quantising.awq, "GPTQ": quantising.gptq}
layer = prisma.model.layers[2]
weights = layer.mlp.down_proj.weight.detach()
known = quantising.what_is_read(layer, partial(prisma, calibration))["mlp.down_proj"]
new = quantising.what_is_read(layer, partial(prisma, unseen))["mlp.down_proj"]
rows = []
for bits, name in itertools.product((4, 3, 2), by_hand):
    changed = by_hand[name](weights, known, bits)
    distance = (changed - weights).norm() / weights.norm()
    row = {"method": name, "bits": bits, "weights moved": f"{distance:.1%}"}
    for label, inputs in (("calibration", known), ("other text", new)):
        moved = quantising.outputs_moved(weights, changed, inputs)
        row[f"outputs moved, {label}"] = f"{moved:.1%}"
    rows.append(row)
figures.table(rows, caption="Layer 2's down-projection: distance as a share of the whole")

# %% [markdown]
# **What to notice.** GPTQ's weights are *farther* from the original than rounded ones, and its outputs are nearer. That
# holds on the text that it never saw, too, though less: the Hessian describes the habits of the inputs, and a little of
# the very text. AWQ we come back to.
#
# **The whole model.** Layer by layer, each judged by what the quantised layers before it hand on. Embeddings and norms
# keep their 16 bits in all rows, so that only the formats differ. `bits` counts everything that a format stores, scales
# included. The loss is the mean over the tokens of the rows to copy, in nats (the negative natural logarithm of the
# right token's probability).

# %% tags=["topic:quantisation-methods"]
versions = {"16 bits": (16.0, prisma)}
int8 = compat.load_int8(folder, torch.float32, "cpu")
versions["bitsandbytes int8"] = (8 + 32 / 256, int8)  # a scale for each row of 256 weights
nf4 = compat.load_nf4(folder, torch.float32, "cpu", "sdpa")
versions["bitsandbytes NF4"] = (4 + 8 / 64 + 32 / (64 * 256), nf4)  # scales in 8 bits, and theirs
kinds = [] if k_quants.why_not() else ["Q8_0", "Q4_K", "Q3_K", "Q2_K"]
for kind in kinds:
    changed = layers.changed_copy(prisma, partial(k_quants.through, kind=kind))
    versions[f"GGUF {kind}"] = (k_quants.BITS[kind], changed)
for name, bits in itertools.product(by_hand, (4, 3, 2)):
    method = partial(by_hand[name], bits=bits)
    changed = quantising.calibrated_copy(prisma, calibration, method)
    versions[f"{name}, {bits} bits"] = (quantising.stored_bits(bits), changed)
finer = partial(quantising.gptq, bits=2, group=32)
changed = quantising.calibrated_copy(prisma, calibration, finer)
versions["GPTQ, 2 bits, groups of 32"] = (quantising.stored_bits(2, group=32), changed)
print(f"{len(versions)} versions of the same weights.", k_quants.why_not())


# %% tags=["topic:precision-tradeoffs"]
def answers(model):
    """For each kind of task, which ones `model` gets right; and its mean loss on the last kind."""
    right = {}
    for kind, examples in asked.items():
        rows = [lm.encode(tokenizer, example) for example in examples]
        read = lm.read(model, rows, tokenizer.pad_token_id, batch=16, use_cache=False)
        right[kind] = [one.right for one in read]
    return right, math.log(lm.perplexity(read))


def shares(right):
    """Those answers as the cells of a table."""
    return {kind: percent(share(answers)) for kind, answers in right.items()}


results, rows = {}, []
for name in figures.progress(versions, "Asking"):
    bits, model = versions[name]
    results[name], loss = answers(model)
    size = layers.megabytes(prisma, bits)
    row = {"format": name, "bits": bits, "MB": f"{size:.1f}", "loss": f"{loss:.3f}"}
    rows.append(row | shares(results[name]))
figures.table(rows, caption="prisma-lm: shares of tasks right with 95 % intervals")

# %% tags=["topic:precision-tradeoffs"]
families = {"GGUF k-quants": [f"GGUF {kind}" for kind in kinds]}
families |= {method: [f"{method}, {bits} bits" for bits in (4, 3, 2)] for method in by_hand}
fig, ax = figures.figure(height=4.0)
markers = iter("osD^")
told = {}
for family, names in families.items():
    shares = [pooled(results[name].values()) for name in names]
    heights, ends = error_bars(shares)
    places = [versions[name][0] for name in names]
    ax.errorbar(places, heights, ends, marker=next(markers), capsize=3, label=family)
    told[family] = ", ".join(f"{height:.0%}" for height in heights)
before = pooled(results["16 bits"].values())
ax.axhline(before.value, color=figures.GREY, linestyle="--", label="16 bits")
ax.set_xscale("log", base=2)
ax.set_xticks([2, 3, 4, 8], ["2", "3", "4", "8"])
ax.set(xlabel="bits a weight, scales included", ylabel="share of all tasks right", ylim=(0, 1.03))
ax.legend(loc="lower right")
said = figures.told(told)
figures.show(fig, alt=f"Share of all tasks right, from many bits to few; {said}.")

# %% [markdown]
# **What to notice.** Down to 4 bits nobody loses a task for sure: all intervals overlap with those of 16 bits. At 3
# bits the easy tasks still show nothing, while the loss on the rows to copy rises for most. At 2 bits the methods part.
# Plain rounding loses most of everything, and GPTQ keeps most of it *at the same size*; in the figure their intervals
# lie far apart. AWQ is not better than rounding here. llama.cpp's Q2_K has seen no text, and cannot be told from GPTQ
# in groups of 32, which stores about as many bits: many small scales are another way to spend half a bit. So compare
# formats by the bits that they *store*, not by the number in their name. And the file shrinks less than the bits do:
# what stays in 16 bits stays as large as it was.
#
# int8 is a little special: LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339) rounds the *inputs* to 8 bits, too,
# while it multiplies.
#
# **Why does AWQ not help here?** AWQ (Lin et al. 2023, arXiv 2306.00978) rests on an observation about large language
# models: a few inputs are many times larger than the others, and the weights that meet them matter most. Their columns
# are stretched before rounding, by the input's mean size to a power that is searched for; power 0 is plain rounding.
# Are there such inputs in prisma-lm, and which power does the search choose?

# %% tags=["topic:quantisation-methods"]
rows = []
for number, layer in enumerate(prisma.model.layers):
    known = quantising.what_is_read(layer, partial(prisma, calibration))
    row = {"layer": number}
    places = {"attention": "self_attn.q_proj", "MLP": "mlp.up_proj", "down": "mlp.down_proj"}
    for label, name in places.items():
        sizes = known[name].sizes
        weights = layer.get_submodule(name).weight.detach()
        row[f"{label}: ratio"] = (sizes.max() / sizes.median()).item()
        row[f"{label}: power"] = quantising.awq_power(weights, known[name], bits=3)
    rows.append(row)
caption = "Largest input by the median one, and AWQ's power at 3 bits, before three matrices"
figures.table(rows, caption=caption, digits=1)

# %% [markdown]
# Before the attention and the MLP the largest input is a few times the median, and nothing stands out; only the
# down-projections read larger ones. The search stays near rounding: it gains little. A test of this reason: give a
# matrix inputs that stand out. Multiply every sixteenth input by 30 and divide the weights that read it by
# 30. The outputs are what they were. But now a few columns hold tiny weights that meet huge inputs, and the levels are
# made for their neighbours.

# %% tags=["topic:quantisation-methods"]
layer = prisma.model.layers[2]
known = quantising.what_is_read(layer, partial(prisma, calibration))["mlp.up_proj"]
weights = layer.mlp.up_proj.weight.detach()
factors = torch.ones(len(known.sizes))
factors[::16] = 30
huge = quantising.Inputs(known.hessian * factors.outer(factors), known.sizes * factors)
cases = {"as they are": (weights, known), "every 16th huge": (weights / factors, huge)}
rows = []
for name, method in by_hand.items():
    row = {"to 3 bits by": name}
    for label, (matrix, inputs) in cases.items():
        moved = quantising.outputs_moved(matrix, method(matrix, inputs, 3), inputs)
        row[f"outputs moved, inputs {label}"] = f"{moved:.1%}"
    rows.append(row)
figures.table(rows, caption="Layer 2's up-projection, on the calibration text")

# %% [markdown]
# **What to notice.** With inputs that stand out, rounding loses much more than before, and AWQ most of the difference
# back: that is the case for which it was made. GPTQ loses least in both. (The paper finds AWQ ahead on models a
# thousand times as large. It also names what GPTQ risks: to learn the calibration text by heart. The two columns of the
# first table show a little of that.)
#
# ### A common claim: "4 bits is 4 times faster than 16"
#
# Most rows of the big table run at the speed of 32 bits: weights that were rounded *and turned back into ordinary
# numbers* show what a format loses, and save nothing. To be smaller and faster, a program has to keep the levels packed
# and to unpack them while it multiplies. llama.cpp does. We ask it for tokens per second, with prisma-lm and with a
# stand-in of more than ten times its size, whose weights are random: speed does not ask what the numbers say.
# **Reading** is the prompt, all tokens at once; **writing** is the answer, one token after the other.


# %% tags=["topic:precision-tradeoffs"]
def speeds(file):
    """Tokens a second that llama.cpp reads and writes with a model's file: the best of three."""
    engine = llama_cpp.Engine(file, window=512)
    prompt = calibration[0, :64].tolist()
    runs = [engine.speed(prompt, new=16) for _ in range(3)]
    reading, writing = zip(*runs, strict=True)
    return max(reading), max(writing)


def speed_rows(label, write):
    """Size and speeds of one model in each format, and how many times 16 bits' they are."""
    rows, base = [], None
    for kind in ("F16", "Q8_0", "Q4_K", "Q2_K"):
        file = write(folder, unit.folder / f"{label}-{kind}.gguf", kind)
        size = file.stat().st_size / 1e6
        reading, writing = speeds(file)
        file.unlink()
        base = base or (size, reading, writing)
        row = {"model": label, "format": kind, "MB": f"{size:.1f}", "smaller by": base[0] / size}
        row |= {"reads (tokens/s)": round(reading), "faster by": reading / base[1]}
        row |= {"writes (tokens/s)": round(writing), "faster by ": writing / base[2]}
        rows.append(row)
    return rows


# %% tags=["topic:precision-tradeoffs"]
if kinds and llama_cpp.is_installed():
    small = speed_rows("prisma-lm", gguf_file.write_gguf)
    large = speed_rows("stand-in", gguf_file.write_stand_in)
    display(figures.table(small + large, caption="llama.cpp on one core of this machine", digits=1))
else:
    print("No speeds here:", k_quants.why_not())

# %% [markdown]
# **What to notice.** Compare "smaller by" with the two columns "faster by". 4 bits are not 4 times smaller, because
# scales take room and embeddings keep their bits; and they are faster by less than they are smaller. Packed numbers
# have to be unpacked, and that is work: 2 bits need not beat 4. What fewer bits surely save is memory. Whether they
# save time depends on the program and on the machine, so measure on yours.
#
# **Try it.** Calibrate GPTQ on a text from another world (`text.copying` alone, or random tokens) and ask for the tool
# tasks at 2 bits: what does a wrong calibration text cost?

# %% [markdown]
# ## 2. What does your server do?

# %% [markdown]
# SECTION-2 (monitoring), SECTION-3 (logging), SECTION-4 (timeouts-fallbacks), SECTION-5 (prompt-injection), SECTION-6 (deployment-lifecycle)

# %% [markdown]
# ## 7. The same with a real model
#
# Now without Prisma and without our helpers: SmolLM2 with 135 million weights (arXiv 2502.02737, Apache-2.0), loaded
# in three formats by `transformers` and `bitsandbytes`. Leave out the first line of each cell, and you can paste it
# into an empty notebook of your own. At the small and the full tier these lines run here (a download of 0.3 GB). At the
# bundled tier you see a **recording**: what the same lines gave on a machine that has the model.
#
# We measure on English, the opening of Jane Austen's *Pride and Prejudice* (1813, in the public domain). **Perplexity**
# says between how many equally likely tokens the model hesitates on average: $e^L$ for a mean loss of $L$ nats. What do
# you expect of half the bits, and of a quarter: size, perplexity, time?

# %% tags=["topic:precision-tradeoffs"]
# %%real bits
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

# With more memory, put in "Qwen/Qwen2.5-0.5B-Instruct" or "HuggingFaceTB/SmolLM2-1.7B-Instruct".
hub_name = "HuggingFaceTB/SmolLM2-135M-Instruct"
words = AutoTokenizer.from_pretrained(hub_name)
formats = {"16 bits": None, "int8": BitsAndBytesConfig(load_in_8bit=True)}
formats["NF4"] = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
)
page = """It is a truth universally acknowledged, that a single man in possession of a good fortune,
must be in want of a wife. However little known the feelings or views of such a man may be on his
first entering a neighbourhood, this truth is so well fixed in the minds of the surrounding
families, that he is considered as the rightful property of some one or other of their daughters.
"My dear Mr. Bennet," said his lady to him one day, "have you heard that Netherfield Park is let
at last?" Mr. Bennet replied that he had not. "But it is," returned she; "for Mrs. Long has just
been here, and she told me all about it." Mr. Bennet made no answer. "Do not you want to know who
has taken it?" cried his wife, impatiently. "You want to tell me, and I have no objection to
hearing it." """.replace("\n", " ")
ids = words(page, return_tensors="pt")["input_ids"]
print(f"{ids.shape[1]} tokens")

# %% tags=["topic:precision-tradeoffs"]
# %%real bits
where = "cuda" if torch.cuda.is_available() else "cpu"
ids, losses = ids.to(where), {}
for label, config in formats.items():
    network = AutoModelForCausalLM.from_pretrained(
        hub_name, quantization_config=config, dtype=torch.bfloat16, device_map=where
    )
    begun = time.perf_counter()
    with torch.no_grad():
        scores = network(ids).logits[0, :-1].float()
    read = time.perf_counter() - begun
    begun = time.perf_counter()
    network.generate(ids[:, :32], min_new_tokens=24, max_new_tokens=24, do_sample=False)
    wrote = time.perf_counter() - begun
    losses[label] = torch.nn.functional.cross_entropy(scores, ids[0, 1:], reduction="none")
    change = losses[label] - losses["16 bits"]
    error = 1.96 * change.std() / len(change) ** 0.5
    print(f"{label}: {network.get_memory_footprint() / 1e6:.0f} MB", end=", ")
    print(f"perplexity {losses[label].mean().exp():.2f}", end=", ")
    print(f"loss {change.mean():+.3f} (95 %: {error:.3f} to either side)", end=", ")
    print(f"reads them in {read:.2f} s, writes 24 in {wrote:.2f} s")

# %% [markdown]
# **What to notice.** Each change of the loss is measured token by token against 16 bits, with its 95 % interval. In the
# recording int8 cannot be told from 16 bits, and NF4 loses something that this short page already shows. (Read it with
# care: no hub was to be had, and the weights came from a file of 4 bits with other levels. The line above the recording
# says so. NF4 has rounded what was rounded before.) Neither file shrinks as the bits do: the table of tokens stays in
# 16 bits, and in so small a model it is large.
#
# And time? On that processor int8 *writes* far more slowly than 16 bits: these formats are made for graphics cards, and
# a processor without the right instructions turns the numbers back before it multiplies. Fewer bits in memory are one
# thing, and a program that multiplies them fast is another.

# %% [markdown]
# ## What you take with you
