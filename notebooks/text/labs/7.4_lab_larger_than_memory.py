# %% [markdown] tags=["badge"]
# # 7.4 Lab: a model that is larger than the memory
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.4_lab_larger_than_memory.ipynb)

# %% [markdown]
# **After this notebook you can**
# - run a model of which only a part fits into memory, with layers that stay on disk;
# - measure what that saves in memory and costs in time, and predict it for a larger model;
# - cut every matrix over two processes (tensor parallel), and prove that the answer is the same;
# - say which of the two you need: for memory, for speed, or neither.
#
# **Time:** about 20 minutes to read and run; the cells take about a minute on two free CPU cores.
#
# **Downloads:** nothing. The model is a Llama with *random* weights, because only its size matters here: what it writes
# is noise. It takes 0.2 GB in a temporary folder, which is removed at the end.

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

unit = open_unit("7.4", tier="bundled")

# %%
import numpy as np
import torch
from torch import Tensor

from course_utils import figures
from course_utils.memory import shapes
from course_utils.serving import larger

LAYERS = 8

# %% [markdown]
# ## 1. Too large
#
# A model of 8 billion parameters takes 16 GB in 16 bits, and your card has 12. What now? Three answers: fewer bits
# (the core notebooks), more cards, or a place that is larger and slower. On a machine with a GPU that place is the
# computer's own memory, and behind it the disk. Here the first place is the memory, and the second the disk. The
# library and its rules are the same.
#
# Our model is saved in many small files, as large models are. How many bytes is it?

# %% tags=["topic:offloading-sharding"]
folder = unit.folder / "random-llama"
size = larger.random_llama(folder, layers=LAYERS)
files = sorted(folder.glob("*.safetensors"))
print(f"{size / 1e6:.0f} MB of weights in {len(files)} files")

# %% [markdown]
# Which layer lives where? A *device map* says it. Here the last two of the eight stay on disk:

# %% tags=["topic:offloading-sharding"]
for part, place in larger.placement(LAYERS, 2).items():
    print(f"{part:20} {place}")

# %% [markdown]
# `from_pretrained(folder, device_map=..., offload_folder=...)` hands it to **Accelerate**. It leaves empty shells in
# place of the layers on disk. Just before a matrix is used, a *hook* reads it; just after, it lets go of it. On a
# machine with a GPU, `device_map="auto"` fills the card first, then the memory ("cpu"), then the disk.
#
# ## 2. What it saves, what it costs
#
# Every token needs every layer once. So each layer on disk is read once for *each token*. Guess: how much slower is a
# model with half of its layers on disk? (Each measurement is a process of its own, so that nothing of one is left
# in the memory of the next.)

# %% tags=["topic:offloading-sharding"]
reports = {}
for on_disk in (0, LAYERS // 2, LAYERS):
    reports[on_disk] = larger.from_disk(folder, on_disk)
whole = reports[0]
rows = []
for on_disk, report in reports.items():
    row = {"layers on disk": on_disk, "weights held (MB)": report.weights}
    row["memory grew by (MB)"] = report.grown
    row["tokens/s"] = 1 / report.seconds
    row["times the time"] = report.seconds / whole.seconds
    row["same tokens"] = "yes" if report.tokens == whole.tokens else "no"
    rows.append(row)
figures.table(rows, caption=f"{len(whole.tokens)} tokens, one thread", digits=1)

# %% tags=["topic:offloading-sharding"]
fig, axes = figures.figure(columns=2, width=8, height=3)
names = [str(on_disk) for on_disk in reports]
grown = [report.grown for report in reports.values()]
speeds = [1 / report.seconds for report in reports.values()]
axes[0].bar(names, grown)
axes[0].axhline(size / 1e6, color=figures.GREY, linestyle="--")
axes[0].set(xlabel="layers on disk", ylabel="MB (dashed: all weights)")
axes[1].bar(names, speeds)
axes[1].set(xlabel="layers on disk", ylabel="tokens per second")
alt = "Left: memory falls with the layers on disk. Right: so does the speed."
figures.show(fig, alt=alt)

# %% [markdown]
# **What to notice.** The tokens are the same: nothing is rounded and nothing left out, a layer only comes late. The
# memory falls to less than the embedding, the head and one whole layer need: the matrices of a layer come one by one,
# too. And the time rises, although this is the *kind* case: your system remembers files that were read a moment ago, so
# most of these reads never reached the disk. How fast is it, with and without that memory?

# %% tags=["topic:offloading-sharding"]
cold = larger.read_speed(folder, from_disk=True)
warm = max(larger.read_speed(folder, from_disk=False) for _ in range(3))
print(f"files that the system remembers: {warm:,.0f} MB/s")
if cold is None:
    print("This system cannot be told to forget a file; the figure below leaves the disk out.")
else:
    print(f"from disk, as far as this system lets us see: {cold:,.0f} MB/s")

# %% [markdown]
# A virtual machine may remember below what we can see; then the second number is still too good.
#
# ### What would that mean for a real model?
#
# A token waits for its bytes, however fast the processor is (*there*: on the way from where they are):
#
# $$\mathrm{seconds\ for\ a\ token} \geq \frac{\mathrm{bytes\ not\ in\ place}}{\mathrm{bytes\ a\ second\ there}}$$
#
# For three models in 16 bits, half of which is elsewhere. Besides what we have just measured, two ways that are
# *examples* to replace by your own: a PCIe 4.0 slot with 16 lanes, nominally 32 GB/s, between a computer's memory and
# its card, and a disk that reads 3 GB/s.

# %% tags=["topic:offloading-sharding"]
ways = {"a slot at 32 GB/s (example)": 32e9, "a disk at 3 GB/s (example)": 3e9}
if cold is not None:
    ways["this disk, measured"] = cold * 1e6
rows = []
for model in ("mistral-7b", "llama-2-13b", "llama-2-70b"):
    parameters = shapes.parameter_count(model)
    elsewhere = parameters * 2 / 2  # bytes: two for each, half of them elsewhere
    row = {"model": model, "GB elsewhere": elsewhere / 1e9}
    for way, speed in ways.items():
        row[f"s a token: {way}"] = elsewhere / speed
    rows.append(row)
figures.table(rows, caption="At least so many seconds for each token of one conversation")

# %% [markdown]
# **What to notice.** Reading is paid per *step*, not per conversation: a step that makes one token for each of 32
# conversations reads the layers once, too. So offloading suits work that can wait and comes in large batches, such as
# labelling a data set overnight. It does not suit a chat. And a CPU offload without a GPU saves nothing: what is in
# memory is in place already.

# %% [markdown]
# ## 3. Cut every matrix: tensor parallel
#
# With two cards there is a better way. Give each card *half of every matrix*. A layer $y = xW$ can be cut in two ways:
#
# - by **columns**: each holds half of the columns of $W$ and computes half of $y$;
# - by **rows**: each holds half of the rows, takes half of $x$, and computes a *part of the sum*; then both are added.
#
# A transformer uses one after the other (Megatron-LM, arXiv 1909.08053). The first matrices of a block are cut by
# columns, so that each process has its own heads, or its own half of the wide middle; the last one by rows. So nothing
# has to be exchanged but one sum at the end of each block. By hand:


# %% tags=["topic:offloading-sharding"]
def in_two_parts(x: Tensor, first: Tensor, second: Tensor) -> list[Tensor]:
    """What two processes make of relu(x W) V, each alone; only the sum of both is the answer.

    x: (batch, width); first, W: (width, wide); second, V: (wide, width).
    """
    parts = []
    for columns, rows_ in zip(first.chunk(2, dim=1), second.chunk(2, dim=0), strict=True):
        middle = torch.relu(x @ columns)  # (batch, wide / 2)
        parts.append(middle @ rows_)  # (batch, width), a part of the sum
    return parts


torch.manual_seed(unit.seed)
x, first, second = torch.randn(3, 64), torch.randn(64, 256), torch.randn(256, 64)
answer = torch.relu(x @ first) @ second
parts = in_two_parts(x, first, second)
off = (sum(parts) - answer).abs().max() / answer.abs().max()
alone = (parts[0] - answer).abs().max() / answer.abs().max()
print(f"sum of both parts, relative difference: {off:.1e}")
print(f"one part alone:                         {alone:.1e}")

# %% [markdown]
# Why does it work with the ReLU between them? Because it looks at each number of the middle by itself, and each number
# of the middle is complete on one process. Had we cut the first matrix by rows, its halves would have to be added
# *before* the ReLU: one exchange more.
#
# Now the real thing: `transformers` knows for each architecture which matrix is cut how (`tp_plan="auto"`). Two
# processes on this machine, talking over loopback, hold our Llama together. We compare their logits, too (the scores
# before the softmax):

# %% tags=["topic:offloading-sharding"]
halves = larger.in_two(folder)
rows = []
for name, report in {
    "one process": whole,
    "rank 0 of 2": halves[0],
    "rank 1 of 2": halves[1],
}.items():
    apart = np.subtract(report.first_logits, whole.first_logits)
    row = {"process": name, "weights held (MB)": report.weights}
    row["same tokens"] = "yes" if report.tokens == whole.tokens else "no"
    row["logits differ by"] = f"{np.abs(apart).max():.0e}"
    row["ms a token"] = 1000 * report.seconds
    rows.append(row)
figures.table(
    rows, caption="Tensor parallel with transformers and PyTorch (backend gloo)", digits=0
)

# %% [markdown]
# **What to notice.** Each process holds half, and both know the whole answer: after every sum they agree. The last
# digits may differ, because numbers are added in another order. The time is the surprise to think about. Each process
# has half of the arithmetic, but *two sums a layer* travel between them, one after the attention and one after the MLP.
# Count what that is for one token:

# %% tags=["topic:offloading-sharding"]
config = {"width": 768, "layers": LAYERS}
exchanges = 2 * config["layers"]
kilobytes = exchanges * config["width"] * 4 / 1e3  # 32 bits each
saved = (whole.seconds - halves[0].seconds) * 1000
print(f"{exchanges} sums for a token, {kilobytes:.0f} kB in all")
print(f"time saved for a token: {saved:+.0f} ms of {1000 * whole.seconds:.0f}")
if saved > 0:
    print("On this machine, half of the arithmetic saved more than the exchanges cost.")
else:
    print("On this machine, the exchanges cost more than half of the arithmetic saved.")

# %% [markdown]
# The bytes are few. It is the *waiting* that costs: each sum is a meeting, and the slower process decides. That is
# why tensor parallel stays within one machine, where cards are joined by a fast link, and why machines are joined in
# another way: **pipeline parallel**, where each holds some *layers* and hands the numbers on once. One request is then
# not faster, but many can be under way at once.
#
# ## 4. Which one?

# %% tags=["topic:offloading-sharding"]
choices = (
    ("one card, the model fits in fewer bits", "fewer bits", "no way is faster"),
    ("one card, work that can wait", "offload, large batches", "a read is shared"),
    ("several cards in one machine", "tensor parallel", "memory and time are shared"),
    ("several machines", "pipeline, inside it tensor parallel", "few meetings between them"),
    ("a model that fits, many users", "replicas", "nothing to exchange at all"),
)
rows = []
for have, take, because in choices:
    rows.append({"you have": have, "take": take, "because": because})
figures.table(rows)

# %% [markdown]
# vLLM takes it as two numbers: `--tensor-parallel-size 2` and `--pipeline-parallel-size 2`.
#
# ## What you take with you
# - A device map says where each layer lives. The answer does not change; memory falls, time rises.
# - Offloading pays the way to the bytes for every step. Share it over a large batch, or do not do it.
# - Tensor parallel halves memory and arithmetic with columns, then rows, then one sum.
# - Replicas come first. Cut a model only when it does not fit.
#
# **Try it.** Put the *first* layers on disk instead of the last: does it matter? Write 32 tokens instead of 8: which
# column of section 2 changes? Cut the first matrix of `in_two_parts` by rows, and find the place for the exchange.
