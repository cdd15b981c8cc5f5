# %% [markdown] tags=["badge"]
# # 7.5 Lab: one run on several processors
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.5_lab_scale_out.ipynb)

# %% [markdown]
# **After this notebook you can**
# - say why a batch may be cut, over time or over processors, and when the cut changes the result;
# - run the same training on two processes with DDP, with Accelerate and with FSDP, and prove that the losses agree;
# - predict what each process must hold in memory, and check it to the byte;
# - say which of them you need for a 7B model, and what it costs.
#
# **Time:** about 20 minutes to read and run; the cells take about a minute and a half on two free CPU cores.
#
# **Downloads:** nothing. This lab trains prisma-lm, all of its weights. On a machine with two or more NVIDIA cards the
# same cells put one process on each card; otherwise the processes share the CPU. What they say to each other stays on
# this machine.

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
import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from course_utils import figures, ranks
from course_utils.finetuning import scale_out
from course_utils.finetuning.scale_out import loss_sum
from course_utils.memory import fit, shapes
from course_utils.models import bundled
from course_utils.prisma import lm

STEPS, BATCH = 8, 8

# %% [markdown]
# ## 1. May a batch be cut?
#
# Eight conversations make one step. Your card has room for four. So you run four, keep the gradient, run the other
# four, add, and only then change the weights: *gradient accumulation*. Is that the same step? And if two cards take
# four conversations each, is that the same step?
#
# The gradient of a sum is the sum of the gradients. So a *sum* over tokens may be cut wherever you like. A *mean* may
# not. Conversations differ in length, so the parts hold different numbers of tokens. The mean of their means is not
# the mean over all: a token in the shorter part would count more. The loss must be divided by the tokens of the
# *whole* batch. In October 2024 it turned out that the common trainers did it the wrong way (the README of Unsloth
# names the bug and its repair). Here is the right way, and then both.


# %% tags=["topic:multi-gpu"]
def backward(
    model: nn.Module,
    parts: Sequence[dict[str, Tensor]],
    tokens: int,
    processes: int = 1,
) -> Tensor:
    """Add up the gradient of the mean loss over a batch of `tokens` counted tokens, part by part.

    DDP and FSDP average gradients over the processes; times `processes`, the average is the sum
    again. Returns this process's share of the mean loss.
    """
    total = 0.0
    for part in parts:
        loss = loss_sum(model, part) / tokens
        (loss * processes).backward()
        total = total + loss.detach()
    return total


# %%
def gradient(parts: list[list[lm.Row]], wrong: bool = False) -> Tensor:
    """All gradients of one step as one vector, for a batch cut into `parts`."""
    model, tokenizer = lm.load(bundled.folder("prisma-lm"))
    counts = [scale_out.learned(part) for part in parts]
    tokens = sum(counts)
    for part, count in zip(parts, counts, strict=True):
        # The mistake: each part's own mean, and then the mean of these.
        divide = count * len(parts) if wrong else tokens
        padded = scale_out.padded(part, tokenizer.pad_token_id)
        backward(model, [padded], divide)
    gradients = [weight.grad.flatten() for weight in model.parameters()]
    return torch.cat(gradients)


# %% tags=["topic:multi-gpu"]
_, tokenizer = lm.load(bundled.folder("prisma-lm"))
batch = scale_out.rows(tokenizer, BATCH)
# Shorter replies in the second half.
batch[4:] = [(ids[:-30], labels[:-30]) for ids, labels in batch[4:]]
halves = [batch[:4], batch[4:]]
eighths = [[row] for row in batch]
whole = gradient([batch])
table = []
for name, parts, wrong in (
    ("two halves, divided by all tokens", halves, False),
    ("eight parts, divided by all tokens", eighths, False),
    ("two halves, mean of the means", halves, True),
    ("eight parts, mean of the means", eighths, True),
):
    difference = gradient(parts, wrong) - whole
    off = difference.norm() / whole.norm()
    table.append({"cut into": name, "gradient differs by": f"{off:.1e}"})
counts = [scale_out.learned(part) for part in eighths]
print("tokens that count, by conversation:", counts)
figures.table(table, caption="Against the whole batch at once, as a share of the gradient's length")

# %% [markdown]
# **What to notice.** Divided by all tokens, only rounding is left: a batch of eight is a batch of eight, at once, in
# halves, or one by one. So *effective batch = at once x accumulated x processes*, and if one of the three changes, you
# change another one and keep your learning rate. The mean of the means is another step, and it looks just as healthy
# on a loss curve.

# %% [markdown]
# ## 2. Two processes, three ways
#
# Training on several cards means several *processes*, each with its own Python. They meet, get a number (their
# *rank*), and take turns at nothing: each does its part of the batch, then they exchange numbers.
#
# - **DDP** (distributed data parallel, arXiv 2006.15704): each process holds the whole model. After each step they
#   average their gradients, so the copies stay equal.
# - **Accelerate**: the library that TRL uses. One line, `accelerator.prepare(model)`, chooses the wrapping for the
#   machine. With several processes on CPUs that is DDP again; let us see whether it is.
# - **FSDP** (fully sharded, arXiv 2304.11277; the idea is ZeRO's, arXiv 1910.02054): each process holds only its
#   *part* of every weight, gradient and optimiser state. A layer's weights are gathered when it is their turn, used,
#   and let go.
#
# What will differ: the losses, the memory, the time? Write down a guess.

# %% tags=["topic:multi-gpu"]
alone = scale_out.train("single", STEPS, BATCH)
accumulated = scale_out.train("single", STEPS, BATCH, pieces=2)
reports = scale_out.launch(["ddp", "accelerate", "fsdp"], processes=2, steps=STEPS, batch=BATCH)
runs = {"one process": alone, "one process, accumulated": accumulated}
for report in reports:
    if report.rank == 0:
        runs[report.mode] = report
devices = {report.device for report in reports}
print("devices:", ", ".join(sorted(devices)))
rows = []
for name, run in runs.items():
    differences = np.subtract(run.losses, alone.losses)  # (steps,)
    off = np.abs(differences).max()
    weights_off = run.fingerprint / alone.fingerprint - 1
    row = {"run": name, "first loss": f"{run.losses[0]:.5f}", "last loss": f"{run.losses[-1]:.5f}"}
    row["largest difference"] = f"{off:.1e}"
    row["weights differ by"] = f"{abs(weights_off):.1e}"
    rows.append(row)
figures.table(rows, caption=f"{STEPS} steps of {BATCH} conversations, all weights trained")

# %% [markdown]
# **What to notice.** The losses agree but for a last digit, and the last column compares the sum of all weights
# after training: nothing but rounding is left in it. Cut by hand, by DDP, by Accelerate or by FSDP, it is one and
# the same training.
#
# ## 3. Who holds what?
#
# Full fine-tuning in 32 bits with AdamW keeps four numbers for each parameter: the weight, its gradient, and two
# running averages. That is 16 bytes. With $N$ parameters and $P$ processes:
#
# $$\text{DDP: } 16N \text{ bytes on each} \qquad \text{FSDP: } \frac{16N}{P} \text{ bytes on each}$$
#
# Each process counted its own tensors after the last step.

# %% tags=["topic:multi-gpu"]
count = shapes.parameter_count("prisma-lm")
rows = []
for report in [replace(alone, mode="one process"), *reports]:
    expected = scale_out.expected_bytes(count, report.processes, report.mode == "fsdp")
    off = report.bytes / expected - 1
    row = {"run": report.mode, "rank": report.rank, "weights": report.parameters}
    row |= {"gradients": report.gradients, "optimiser": report.optimiser}
    row |= {"in all": report.bytes, "formula": round(expected), "off by": f"{off:+.2%}"}
    rows.append(row)
figures.table(rows, caption=f"Bytes held between steps; prisma-lm has {count:,} parameters")

# %%
fig, ax = figures.figure(height=3.0)
shown = {"one process": alone}
for report in reports:
    shown[f"{report.mode}, rank {report.rank}"] = report
names, left = list(shown), 0.0
for part in ("parameters", "gradients", "optimiser"):
    held = [getattr(report, part) for report in shown.values()]  # bytes
    megabytes = np.divide(held, 1e6)
    ax.barh(names, megabytes, left=left, label=part)
    left = left + megabytes
for processes, sharded in ((1, False), (2, True)):
    formula = scale_out.expected_bytes(count, processes, sharded)
    ax.axvline(formula / 1e6, color=figures.GREY, linestyle="--")
ax.invert_yaxis()
ax.set(xlabel="MB on this process (dashed: the formulas)")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
figures.show(
    fig,
    alt="Bars of memory for each process: with DDP and Accelerate as much as alone, with FSDP "
    "half of it.",
)

# %% [markdown]
# **What to notice.** DDP shares the work and saves no memory at all: each copy is complete. FSDP saves the factor $P$.
# The few bytes too many are AdamW's step counters, and rows that do not divide by two. Not in the picture: the
# activations, which shrink because each process has fewer conversations at once, and the one layer that FSDP gathers
# at a time.
#
# ## 4. And the time?

# %% tags=["topic:multi-gpu"]
rows = []
for name, run in runs.items():
    times = run.seconds[1:]  # the first step also warms up
    row = {"run": name, "processes": run.processes}
    row["seconds a step (median)"] = statistics.median(times)
    row |= {"from": min(times), "to": max(times)}
    rows.append(row)
print(f"this machine: {unit.hardware.describe()}")
figures.table(rows, caption=f"The same {STEPS} steps of {BATCH} conversations, without the first")

# %% [markdown]
# **What to notice.** Two processes on one CPU share its cores, so do not expect half the time here. DDP and
# Accelerate run the same code, so the difference between their rows is noise. Compare every other difference with
# it, and with *from* and *to*. What can be said without a clock is how much is sent. FSDP talks most, because it
# gathers the weights twice in each step, forward and backward. In numbers sent and received per step: DDP about
# $2N$, FSDP about $3N$ (arXiv 1910.02054, section 7). On cards that are joined by a fast link this hides behind the
# computing. Over a slow network it does not.

# %% [markdown]
# ## 5. A 7B model: which way?
#
# Sixteen bytes for each parameter (in mixed precision it is 16 too: 2 + 2 + 12; same paper, section 3.1), without
# activations:

# %% tags=["topic:multi-gpu"]
cards = [fit.gpu(name) for name in ("rtx4090", "a100-80")]
rows = []
for model in ("mistral-7b", "llama-2-13b", "llama-2-70b"):
    parameters = shapes.parameter_count(model)
    for processes in (1, 2, 8):
        held = scale_out.expected_bytes(parameters, processes, sharded=True)
        needed = held / shapes.GIB
        row = {"model": model, "FSDP over": processes, "GiB on each": needed}
        for card in cards:
            row[card.name] = "may fit" if needed < card.usable else "no"
        rows.append(row)
figures.table(
    rows,
    caption="Weights, gradients and optimiser of full fine-tuning; activations come on top",
    digits=1,
)

# %% [markdown]
# With QLoRA the same 7B model trains on *one* card of 16 GB (`7.5_finetuning`, section 5). So for several cards the
# first choice is QLoRA with DDP: every card holds the small model, and the batch is shared out. FSDP is for what does
# not fit on one card: full fine-tuning, or LoRA on 70B.
#
# You do not write the wrapping yourself for that. `accelerate` takes it from a file, and TRL's trainer needs no
# change. The cell writes the file and lets Accelerate's own reader check it.

# %% tags=["topic:multi-gpu"]
from accelerate.commands.config.config_args import ClusterConfig

config = """compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: bf16
num_machines: 1
num_processes: 2
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_reshard_after_forward: true
  fsdp_state_dict_type: SHARDED_STATE_DICT
"""
path = unit.folder / "fsdp.yaml"
path.write_text(config)
read = ClusterConfig.from_yaml_file(path)
print(config)
where = f"{read.num_processes} processes, {read.mixed_precision}"
print(f"Accelerate reads: {read.distributed_type.value}, {where}")
print("run with: accelerate launch --config_file fsdp.yaml train.py")
print("Not run here: Accelerate's FSDP wants accelerators.")
print("Section 2 used the same PyTorch function without it.")

# %% [markdown]
# **What to notice.** The commands `torchrun` and `accelerate launch` do what `scale_out.launch` did: start $P$
# processes and tell each its rank. (For the meeting they open a port that the whole network can reach; ours meet
# through a file.) If one process dies, the others wait for it for ever, so a launcher must stop them. Try it:

# %%
try:
    # One conversation cannot be shared by two.
    scale_out.launch(["ddp"], processes=2, steps=1, batch=1)
except ranks.RanksError as error:
    first, *_, last = str(error).splitlines()
    print(first)
    print("...", last)

# %% [markdown]
# ## What you take with you
# - Effective batch = at once x accumulated x processes. Divide by the tokens of the whole batch, and the cut does
#   not matter.
# - DDP for speed, FSDP for memory. The losses are the same, and if yours are not, look for a mean of means.
# - 16 bytes for each parameter, divided by the processes only if they shard.
# - Try QLoRA before you rent the second card.
#
# **Try it.** Launch three processes with a batch of nine: which sizes change, which losses? Set `pieces=2` for DDP:
# is the result still the same, and what does it cost?
