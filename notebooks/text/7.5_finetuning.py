# %% [markdown] tags=["badge"]
# # 7.5 Fine-tuning a language model
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.5_finetuning.ipynb)

# %% [markdown]
# **After this notebook you can**
# - write LoRA by hand and prove that PEFT does the same;
# - say what 4-bit NormalFloat stores, and what it loses;
# - prepare conversations for training and check, token by token, what the model learns from;
# - tell before you start whether a model and a method fit on a card;
# - fine-tune with QLoRA, and prove on conversations never seen before that it worked;
# - check three popular claims about LoRA against your own numbers.
#
# **Time:** about 45 minutes with the exercises begun; the cells take about a minute and a half on two CPU cores.
#
# **Downloads:** nothing at the bundled tier; about 1.5 GB at the small tier, 16 GB at the full tier, where
# the very same cells fine-tune a model with 8 billion parameters. The plain cells of the last section but one take
# 0.3 GB more there. Nothing is fetched before the card below has named it.

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
# The next cell looks at your machine, chooses a model and says why.

# %%
from course_utils import open_unit

unit = open_unit("7.5")

# %%
import dataclasses
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_utils import compat, figures
from course_utils.exercises import check, hint, quiz, solution
from course_utils.finetuning import (
    data_quality,
    four_bit,
    lora_by_hand,
    publishing,
    qlora,
    quality,
    scoring,
    sft,
)
from course_utils.measures import error_bars
from course_utils.memory import fit, formulas, shapes, simulate
from course_utils.models import bundled
from course_utils.prisma import conversations, lm

# %% [markdown]
# ## 1. What should change?
#
# Prisma, the toy shop, answers its customers in a style of its own: the topic for the files, the customer's name,
# one sentence of feeling that suits the problem, one fact from the records, the next step, and always the same
# goodbye. Our model
# knows the shop, but it has never seen this style. What does it answer today?
#
# We load it the way we will train it: its matrices in 4 bits. Section 3 shows what that means.

# %%
everything = conversations.make_conversations()
talks = conversations.by_split(everything)
test = talks["test"][:100]
chat = four_bit.load(unit)

before = scoring.replies(chat, test[:30])
for turn in test[0].prompt:
    print(f"[{turn['role']}] {turn['content']}\n")
print(f"[{chat.name}, before] {before[0]}\n")
print(f"[what Prisma wants] {test[0].reply}")

# %%
score_before = scoring.score(test[:30], before)
for part, measure in score_before.items():
    print(f"{part:>9}: {measure}")

# %% [markdown]
# **What to notice.** The score is strict: a part counts only word for word, and "all" means that the whole reply
# could be sent as it is. A support team needs that, because somebody signs for every sentence. The model writes words
# of the shop, and hardly a sentence: its training was full of records, and it falls back on them. Everything that a
# good reply needs stands in its prompt. What it lacks is the habit of using it in this way, and habits are what
# fine-tuning is good at.
#
# Before you fine-tune anything, ask whether a better prompt does it. A large model follows a style that the prompt
# describes; a model with five million parameters does not (`7.5_finetuning_choices` tries it, with prompts and with
# examples). Fine-tuning pays when the behaviour must be the same every time, when the prompt would be long, or when
# the model is too small to be told.

# %%
quiz("7.5.todays_price")

# %% [markdown]
# ## 2. LoRA by hand
#
# Full fine-tuning changes every weight. *LoRA* (Hu et al. 2021, arXiv 2106.09685) leaves the weight matrix
# $W$ alone and learns a change to it, as the product of two thin matrices (equation 3 of the paper):
#
# $$W' = W + \frac{\alpha}{r}\,B A \qquad W: d \times k,\quad B: d \times r,\quad A: r \times k$$
#
# How many numbers does a $256 \times 256$ matrix have, and how many have $A$ and $B$ at rank $r = 16$?
# Guess, then read on. Here is all of it:


# %% tags=["slide", "topic:lora-by-hand"]
class LoRALinear(nn.Module):
    """A frozen W with a trained change of low rank: W + (alpha / r) B A (arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.base = base.requires_grad_(False)
        start = torch.randn(rank, base.in_features)
        zeros = torch.zeros(base.out_features, rank)
        self.A = nn.Parameter(start / rank)
        self.B = nn.Parameter(zeros)  # so training starts from W
        self.scale = alpha / rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        narrow = x @ self.A.T  # (..., rank)
        change = narrow @ self.B.T  # (..., outputs)
        return self.base(x) + self.scale * change

    def merge(self) -> nn.Linear:
        """One linear layer again, with W' as its weight."""
        change = self.scale * (self.B @ self.A)  # (outputs, inputs)
        self.base.weight.data += change.data
        return self.base


# %% tags=["nbval-check-output", "topic:lora-by-hand"]
base = nn.Linear(256, 256, bias=False)
layer = LoRALinear(base, rank=16, alpha=32)
trained = layer.A.numel() + layer.B.numel()
print(f"W has {base.weight.numel():,} numbers")
print(f"A and B have {trained:,}")

# %% [markdown]
# Is that what the library does? We give PEFT's LoRA and ours the same random adapters, in all 42 matrices
# of prisma-lm, and compare what the two models say. This section always uses prisma-lm, because it is small
# enough to hold three times.

# %% tags=["topic:lora-by-hand"]
torch.manual_seed(unit.seed)  # the adapters start at random, and the same whenever you run this
folder = bundled.verify("prisma-lm")
plain, tokenizer = lm.load(folder)
ours, _ = lm.load(folder)
theirs, _ = lm.load(folder)
with_peft = compat.add_peft_lora(theirs, rank=16, alpha=32)
with_peft.eval()
for name, parameter in with_peft.named_parameters():
    if "lora_B" in name:
        nn.init.normal_(parameter, std=0.02)  # else B A is zero and there is nothing to compare

adapters = lora_by_hand.add_lora(ours, rank=16, alpha=32)
lora_by_hand.copy_from_peft(with_peft, adapters)
ids = tokenizer(test[0].reply, return_tensors="pt").input_ids
with torch.no_grad():
    reference = with_peft(ids).logits  # (1, tokens, vocabulary)
    by_hand = ours(ids).logits
    without = plain(ids).logits
    for name, layer in adapters.items():
        ours.set_submodule(name, layer.merge())
    merged = ours(ids).logits


# %% tags=["topic:lora-by-hand"]
def largest_difference(one: Tensor, other: Tensor) -> float:
    """How far two tensors of the same shape lie apart where they differ most."""
    difference = one - other
    return difference.abs().max().item()


moved = largest_difference(reference, without)
ours_and_peft = largest_difference(by_hand, reference)
merged_and_not = largest_difference(merged, by_hand)
print(f"{len(adapters)} matrices adapted; the adapters move the logits by up to {moved:.2f}")
print(f"largest difference, ours and PEFT's:       {ours_and_peft:.1e}")
print(f"largest difference, merged and not merged: {merged_and_not:.1e}")

# %% [markdown]
# **What to notice.** With the same matrices ours and PEFT's give the same logits. (*Logits* are the scores that a model
# gives each token of its vocabulary; a softmax turns them into probabilities.) So the twenty lines above are all
# there is to it. Merging changes the order in which the same numbers are added, so only rounding differs, far below
# what the adapters move. A merged model is an ordinary model again.

# %% [markdown]
# ### Exercise: A layer with LoRA (easy, about 10 minutes)
#
# The class above is a module. Write its forward pass once more, as a plain function of four matrices. Fill in the
# stub, check it, and run the cell below: it puts your function beside PEFT's. `hint("7.5.lora_forward")` helps. Until
# your function passes, the notebook goes on with the course's own, and says so.


# %%
def lora_forward(x: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """What a linear layer with a LoRA adapter gives (arXiv 2106.09685, equation 3): (..., d).

    `x` is (..., k). The frozen `weight` is (d, k), as PyTorch stores it. `A` is (r, k) and `B` is
    (d, r). The change B A counts alpha / r times. There is no bias.
    """
    # Your code here
    raise NotImplementedError


# %%
lora_forward = check("7.5.lora_forward", lora_forward)

# %% tags=["topic:lora-by-hand"]
from course_utils.exercises.authors import whose

theirs = with_peft.base_model.model.model.layers[0].mlp.up_proj
A = theirs.lora_A["default"].weight  # (rank, inputs)
B = theirs.lora_B["default"].weight  # (outputs, rank)
generator = torch.Generator().manual_seed(unit.seed)
x = torch.randn(2, 7, A.shape[1], generator=generator)
with torch.no_grad():
    by_function = lora_forward(x, theirs.base_layer.weight, A, B, 32)
    by_peft = theirs(x)
goes_in, comes_out = tuple(x.shape), tuple(by_function.shape)
print(f"With {whose(lora_forward)}: {goes_in} in, {comes_out} out")
print(f"largest difference from PEFT's: {largest_difference(by_function, by_peft):.1e}")

# %%
quiz("7.5.zero_start")

# %% [markdown]
# ### Check the slide: "LoRA reduces trainable parameters 10,000 times"
#
# Always? The number comes from one case in the paper: GPT-3 with 175 billion parameters, rank 4, and only two
# matrices of each layer adapted, those for queries and values (arXiv 2106.09685, section 4.2; 96 layers, 12,288
# wide). Let us count that case, and ours.


# %% tags=["topic:lora-by-hand"]
def row(name: str, parameters: int, trained: int) -> dict:
    """One line of the table: what there is, what LoRA trains, and how many times fewer that is."""
    factor = parameters / trained
    line = {"model": name, "parameters": parameters, "trained": trained}
    return line | {"times fewer": round(factor)}


matrices = 96 * 2  # 96 layers, and in each the matrices for queries and values
an_adapter = 4 * (12_288 + 12_288)  # rank x (inputs + outputs)
rows = [row("GPT-3, rank 4, two matrices a layer", 175_000_000_000, matrices * an_adapter)]
for name in ("llama-2-70b", "mistral-7b", "qwen2.5-7b", "prisma-lm"):
    for rank in (4, 16):
        parameters = shapes.parameter_count(name)
        trained = shapes.lora_count(name, rank)
        line = row(f"{name}, rank {rank}, all matrices", parameters, trained)
        rows.append(line)
figures.table(rows, caption="What LoRA trains, counted from the shapes")

# %% [markdown]
# **What to notice.** The claim is right for the case it was made for, and far off for the recipe that most
# people use today, with all linear layers at rank 16. Then a 7B model trains less than 200 times
# fewer parameters. The smaller the model, the smaller the factor: a matrix grows with the square of its width, an
# adapter only in proportion to it.

# %% [markdown]
# ## 3. Four bits: what is kept, what is lost?
#
# QLoRA (Dettmers et al. 2023, arXiv 2305.14314) stores the frozen $W$ in 4 bits, so each weight is one of
# only 16 values. Which 16? Trained weights look like a bell curve: many near zero, few far out. *NF4* puts
# its levels where a bell curve has its mass. Compare it with 15 levels at even distances; both scale each
# block of 64 weights to its largest.


# %% tags=["slide", "topic:qlora"]
def evenly_quantised(weights: torch.Tensor, block: int = 64) -> torch.Tensor:
    """The same weights through 15 even levels, scaled to the largest in each block of `block`."""
    blocks = weights.float().reshape(-1, block)  # (blocks, block)
    largest = blocks.abs().amax(1, keepdim=True)  # (blocks, 1)
    scale = largest.clamp(min=1e-12)  # a block of zeros stays zero
    steps = torch.round(blocks / scale * 7)  # whole numbers from -7 to 7
    rounded = steps / 7 * scale
    return rounded.reshape(weights.shape)


# %% tags=["topic:qlora"]
def relative_error(coarse: Tensor, exact: Tensor) -> float:
    """The size of the error as a share of the size of what should be there."""
    error = coarse - exact
    share = error.norm() / exact.norm()
    return share.item()


exact = plain.model.layers[2].mlp.up_proj.weight.data
in_nf4 = compat.load_nf4(folder, torch.float32, "cpu", "eager")
small = in_nf4.model.layers[2].mlp.up_proj
nf4 = four_bit.dequantised(small)
even = evenly_quantised(exact)
for name, coarse in (("NF4", nf4), ("even levels", even)):
    error = relative_error(coarse, exact)
    print(f"{name:>11}: error {error:.1%} of the weights' own size")
print(f"stored for each weight: {four_bit.stored_bits(small):.2f} bits instead of 16")

# %%
blocks = exact.reshape(-1, 64)  # (blocks, 64)
largest = blocks.abs().amax(1, keepdim=True)  # (blocks, 1)
scaled = (blocks / largest).flatten()
levels = small.weight.quant_state.code  # (16,)

fig, ax = figures.figure(height=3.0)
ax.hist(scaled.numpy(), bins=80, color=figures.PALETTE["sky"], label="weights of one matrix")
for level in levels.tolist():
    line = ax.axvline(level, color=figures.PALETTE["vermilion"], linewidth=1)
line.set_label("the 16 levels of NF4")  # one entry in the legend for all of them
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
ax.set(xlabel="weight, divided by the largest of its block of 64", ylabel="weights (number)")
figures.show(
    fig,
    alt="Histogram of scaled weights, a bell around zero with a peak at each end, where the "
    "largest of a block is. The 16 levels of NF4 are drawn as lines: dense around zero, wide "
    "apart near plus and minus one.",
)

# %% [markdown]
# ### Exercise: Four bits for a weight (medium, about 20 minutes)
#
# How does a matrix become four bits a weight? Write it. The cell after the check quantises a matrix of prisma-lm with
# your function and compares it, byte by byte, with what bitsandbytes has stored.


# %%
def nf4_quantise(weights: Tensor, levels: Tensor, block: int = 64) -> Tensor:
    """Each weight as one of 16 levels, two in a byte (arXiv 2305.14314): (n / 2,), torch.uint8.

    Cut `weights` (n,) into blocks of `block` in a row and divide each block by its largest absolute
    value. The code of a weight is the place (0 to 15) of the nearest of the `levels` (16,), which
    rise from -1 to 1. Of two weights in a row the first goes into the upper four bits of a byte. A
    block of zeros gets the code of the level 0.
    """
    # Your code here
    raise NotImplementedError


# %%
nf4_quantise = check("7.5.nf4_quantise", nf4_quantise)

# %% tags=["topic:qlora"]
weights = exact.flatten()  # (n,)
ours = nf4_quantise(weights, levels)  # (n / 2,)
theirs = small.weight.data.flatten()  # (n / 2,)
unlike = ours != theirs
print(f"With {whose(nf4_quantise)}: {len(weights):,} weights in {len(ours):,} bytes")
print(f"bytes unlike bitsandbytes': {unlike.sum().item()}")

# %% [markdown]
# ### Exercise: And back to numbers (easy, about 10 minutes)
#
# And back. Each block needs its scale. Does it matter that bitsandbytes stores the scales in 8 bits?


# %%
def nf4_dequantise(packed: Tensor, scales: Tensor, levels: Tensor, block: int = 64) -> Tensor:
    """The weights (n,) for which the bytes `packed` (n / 2,) stand: `nf4_quantise` undone.

    `scales` (n / block,) holds the largest absolute value of each block of `block` weights.
    """
    # Your code here
    raise NotImplementedError


# %%
nf4_dequantise = check("7.5.nf4_dequantise", nf4_dequantise)

# %% tags=["topic:qlora"]
scales = blocks.abs().amax(1)  # (blocks,)
numbers = nf4_dequantise(ours, scales, levels)  # (n,)
back = numbers.reshape(exact.shape)
in_32_bits = 32 / 64  # bits of scale for each weight
doubly = 8 / 64 + 32 / (64 * 256)
kinds = {"32-bit": (back, in_32_bits), "doubly quantised": (nf4, doubly)}
print(f"32-bit scales: with {whose(nf4_dequantise)}. Doubly quantised: bitsandbytes'.")
for name, (coarse, scale) in kinds.items():
    error = relative_error(coarse, exact)
    print(f"{name:>16} scales: {4 + scale:.3f} bits a weight, error {error:.3%}")

# %% [markdown]
# **Double quantisation**: the scales are numbers too, so they can be quantised as the weights were. bitsandbytes takes
# their mean away, cuts them into blocks of 256, and stores each in 8 bits, with one 32-bit scale for the 256. Compare
# the two errors above: the second rounding costs almost nothing, and it saves 0.37 bits a weight (arXiv 2305.14314,
# section 3).

# %%
quiz("7.5.double_quantisation")

# %% [markdown]
# **What to notice.** NF4 loses less than even levels at the same size, because it spends its levels where
# the weights are. The scales need room too: with one 32-bit scale for each 64 weights it would be half a
# bit more. *Double quantisation* stores these scales in 8 bits, and brings the sum close to 4.1 bits.
#
# And the error of some nine per cent? The adapters are trained *on top of the quantised weights*, in full
# precision, so they can make up for much of it. Section 7 measures the result, and `7.5_finetuning_choices` puts it
# beside LoRA on weights that are not quantised.

# %% [markdown]
# ## 4. The data
#
# Ten conversations were written by hand, one for each thing that customers want. A generator grows them to
# 2,000: other wordings, names, orders, products, prices and policies. The same conversation can be stored in
# three common formats:

# %% tags=["topic:dataset-formats"]
import json

talk = talks["train"][0]
for name, made in (
    ("Alpaca", conversations.alpaca_row(talk)),
    ("ShareGPT", conversations.sharegpt_row(talk)),
    ("chat, prompt and completion", conversations.chat_row(talk)),
):
    print(f"--- {name}\n{json.dumps(made, indent=1)}\n")
as_read = chat.tokenizer.apply_chat_template(talk.messages, tokenize=False)
print(f"--- what the model reads, after its chat template\n{as_read}")

# %% [markdown]
# Which of these tokens should the model learn to write? If it also learned to write the customer's part, it
# would spend most of its effort on guessing order numbers. So the loss counts only on the reply, and on the
# token that ends it: everything else gets the label -100. Do not believe that a setting does this; look at
# the labels. First the trainer, with the settings for your tier:
#
# Two more parts of QLoRA show up there. The *adapters* stay in 32 bits: a small step would be rounded away in
# fewer. And on an NVIDIA card the optimiser is *paged* (`paged_adamw_8bit`): its averages take one byte each
# instead of four, and when a long conversation needs the room, the driver moves them to the CPU's memory for a
# moment (section 3 of the paper). A CPU has nothing to page to, so there it is ordinary AdamW.

# %% tags=["topic:qlora"]
recipe = qlora.adapted(qlora.RECIPES[chat.tier], chat, unit.hardware)
checkpoints = unit.lasting("support")
trainer = sft.make_trainer(chat, talks, recipe, unit.hardware, checkpoints)
formats = set()
for parameter in trainer.model.parameters():
    if parameter.requires_grad:
        formats.add(str(parameter.dtype))
optimiser = trainer.args.to_dict()["optim"]
counts = lora_by_hand.parameters(trainer.model)
part = counts["trained"] / counts["all"]
print(recipe)
print(f"adapters and their gradients in {', '.join(formats)}; optimiser: {optimiser}")
print(f"{counts['trained']:,} of {counts['all']:,} parameters are trained ({part:.2%})")

# %% tags=["topic:dataset-formats"]
batch = trainer.data_collator([trainer.train_dataset[0]])  # what a step is given, here of one row
ids = batch["input_ids"][0].tolist()
labels = batch["labels"][0].tolist()
learned = [label != -100 for label in labels]
first = learned.index(True)
length = len(ids)
print(f"{first} tokens to read, {length - first} to learn. Around the border, and the end:")
border = range(first - 6, first + 10)
end = range(length - 3, length)
rows = []
for i in (*border, *end):
    token = chat.tokenizer.decode(ids[i])
    rows.append({"position": i, "token": repr(token), "learned": learned[i]})
figures.table(rows)

# %% [markdown]
# ### Exercise: What is learned (medium, about 15 minutes)
#
# Write the labels yourself, for conversations with any number of replies. Then compare with the trainer's.


# %%
def loss_labels(ids: Tensor, opens: int, ends: int) -> Tensor:
    """The labels (t,) for the tokens `ids` (t,): the token where it is to be learned, else -100.

    The model learns each reply: what follows the token `opens`, up to and with the next token
    `ends`. There can be several replies. It does not learn the mark `opens`, the other turns (they
    end with `ends` too), or the padding at the end. A reply that was cut off has no `ends`; what is
    there of it is learned.
    """
    # Your code here
    raise NotImplementedError


# %%
loss_labels = check("7.5.loss_labels", loss_labels)

# %% tags=["topic:dataset-formats"]
if chat.tier == "bundled":  # the templates of other models open a reply with several tokens
    opens, ends = chat.tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
    same = []
    for i in range(100):
        batch = trainer.data_collator([trainer.train_dataset[i]])
        theirs = batch["labels"][0]
        ours = loss_labels(batch["input_ids"][0], opens, ends)
        same.append(torch.equal(ours, theirs))
    right = sum(same)
    print(f"With {whose(loss_labels)}: {right} of {len(same)} rows have exactly TRL's labels")

# %%
quiz("7.5.never_stops")

# %% tags=["topic:splits-provenance"]
sizes, orders, customers = {}, {}, {}
for name, part in talks.items():
    sizes[name] = len(part)
    orders[name] = {talk.number for talk in part}
    customers[name] = {talk.required["name"] for talk in part}
both_orders = orders["train"] & orders["test"]
both_customers = customers["train"] & customers["test"]
print(sizes)
print("orders in training and in the test:  ", len(both_orders))
print("customers in training and in the test:", len(both_customers))

# %% [markdown]
# **What to notice.** The border is where it should be: the mark that opens the reply is read, the first word
# of the reply is learned, and so is the end mark. Without the end mark the model would never stop.
#
# The test is kept apart in three ways: other orders, other customers (the cell counts both), and other pairs of
# sentences in the message (`7.5_lab_data` counts these). But each sentence alone was in training, the records that
# come with a message hint at what it is about, and the shop's web form asks for the topic. All that makes the task
# easier than real mail. And we chose the task, its data and the learning rate while we looked at replies, to test
# messages too. So a fair number comes from conversations that we had not seen: section 7 quotes four more seeds.

# %% [markdown]
# ### Is the data any good?
#
# Nobody can tell you how dirty your data is, so nobody can tell you how good your cleaning is. Turn it round: plant a
# known number of faults in clean data, and score what your detectors find. Six kinds of fault, twenty of each: rows
# that no template can take, personal data, insults, replies against their own record, rows that the test knows too,
# and copies with a word or two changed. *Recall* says how many of the planted faults are found, *precision* how many
# of the flagged rows have one.

# %% tags=["topic:data-quality"]
in_order = [*talks["train"], *talks["validation"], *talks["test"]]
rows = data_quality.rows_of(in_order)
dirty, truth = data_quality.plant_faults(rows[::2], seed=unit.seed, each=20)
found = data_quality.examine(dirty)
scores = data_quality.scores(found, truth)
figures.table(scores, caption="Planted faults found, with 95 % intervals")

# %% tags=["topic:data-quality"]
kept, removed = data_quality.clean(dirty, found)
left = Counter()
for kept_row in kept:
    if kept_row.id in truth:
        left[truth[kept_row.id]] += 1
print(f"{len(dirty):,} rows, {len(removed)} removed; faults that are still in: {dict(left)}")
apart = len(removed) // 6
examples = removed[::apart][:6]
figures.table(examples, caption="Some of the removals, each with its reason")

# %% [markdown]
# **What to notice.** What is left is what patterns cannot see: a mail address "at example dot org", "My dog writes
# better letters than you", a copy that lost many words. And these are faults *we thought of*. The lab
# `7.5_lab_data` takes each detector apart, and measures how quality depends on the number of examples, on wrong
# ones, and on data grown by a model.
#
# Data needs papers. Where does it come from, who may use it, what is it bad for? The **data card** below is written by
# the program that holds the data: change one letter, and its fingerprint changes.

# %% tags=["topic:splits-provenance"]
origin = data_quality.ORIGIN.format(seed=conversations.SEED)
print(data_quality.data_card(rows, origin, data_quality.LIMITS))

# %% [markdown]
# ### Exercise: Copies out (medium, about 20 minutes)
#
# Real data holds copies. We plant six: three messages of the test, and three of the training part with one word added.
# Does your filter find them, and what else does it throw away?


# %%
def without_copies(texts: Sequence[str], test: Sequence[str], limit: float) -> list[int]:
    """Which training `texts` may stay: their places, counted from 0, in rising order.

    A text goes if it is too like a text of `test` (leakage), or too like an earlier text that stays
    (a near-duplicate). Take the set of all runs of three words of each text, in lower case; a text
    of fewer words is one run. Too like: of the runs that either of two texts has, the share that
    both have is at least `limit`.
    """
    # Your code here
    raise NotImplementedError


# %%
without_copies = check("7.5.without_copies", without_copies)

# %% tags=["topic:data-quality"]
texts = [talk.message for talk in talks["train"][:300]]
exam = [talk.message for talk in talks["test"][:50]]
nearly_copied = [f"{text} thanks" for text in texts[:3]]
texts += [*exam[:3], *nearly_copied]  # the planted ones have the places 300 to 305
print(f"With {whose(without_copies)}:")
for limit in (0.2, 0.5, 0.95):
    stays = without_copies(texts, exam, limit)
    gone = [place for place in range(306) if place not in stays]
    found = [place for place in gone if place >= 300]
    others = len(gone) - len(found)
    print(f"limit {limit}: {len(found)} of 6 planted copies found, {others} of 300 others gone")

# %% [markdown]
# **What to notice.** The limit is a decision. These messages grew from a few sentences, so many share runs of words
# without being copies. A low limit throws good conversations away; a high one lets a copy with a few more words
# through.

# %% [markdown]
# ## 5. Will it fit?
#
# Fine-tuning usually fails with *out of memory*, after a long download. It can be told before. What must be in
# memory for one training step? The weights; the adapters with their gradients and two running averages for each
# (AdamW); what the backward pass needs to remember (*activations*); the scores over the vocabulary (*logits*).

# %% tags=["topic:qlora"]
at_7b = qlora.Recipe(learning_rate=2e-4, at_once=1, max_length=512, checkpointing=True)
needed = qlora.qlora_estimate("mistral-7b", at_7b)
figures.table(
    needed.rows(),
    caption="QLoRA on Mistral 7B: one conversation of 512 tokens at a time, AdamW in 32 bits",
)

# %%
places = {"this machine": unit.hardware, "T4, 16 GB": "t4", "RTX 4090, 24 GB": "rtx4090"}
rows = []
for method in ("full", "lora", "qlora"):
    wanted = formulas.estimate("mistral-7b", method, seq=512)
    if method == "qlora":
        wanted = needed
    line = {"method": method, "needs (GiB)": wanted.total}
    for name, place in places.items():
        verdict = fit.fits(wanted, place)
        answer = "fits" if verdict.fits else "no"
        line[name] = f"{answer} ({verdict.available:.1f} GiB)"
    rows.append(line)
figures.table(rows, caption="Fine-tuning a 7B model, 512 tokens, batch 1", digits=1)

# %% [markdown]
# ### Check the slide: "QLoRA fine-tunes Llama 2 70B on a single 24 GB RTX 4090"
#
# Count the weights first, in 4 bits and nothing else. Then the whole step, by the formula, and by a simulation that
# runs it with tensors that have a shape and no content (`7.5_finetuning_choices`, section 6, explains it). The
# paper's own claim is 65B on one card of 48 GB.

# %% tags=["topic:qlora"]
for model, card in (("llama-2-70b", "rtx4090"), ("llama-65b", "a6000")):
    wanted = qlora.qlora_estimate(model, at_7b)
    step = qlora.trainer_step(model, at_7b)
    simulated = simulate.quick_total(step)
    print(
        f"{model}: weights {wanted.weights:.1f} GiB, training {wanted.total:.1f} GiB, simulated "
        f"{simulated:.1f} GiB"
    )
    print(f"  {fit.fits(wanted, card)}")

# %% [markdown]
# **What to notice.** On the T4 that Colab lends for free, QLoRA is the only one of the three that fits. The slide's
# 70B model does not fit on 24 GB with QLoRA: its 4-bit weights alone are larger than the card. (With 2 bits a
# weight, others did it for 65B: ModuLoRA, arXiv 2309.16119.) What the paper says, and what our count and the
# simulation confirm, is 65B on 48 GB.

# %% [markdown]
# ## 6. Train
#
# TRL's `SFTTrainer` does the loop; we gave it the 4-bit model, LoRA of rank 16 on every linear layer, and the data.
# The loss is minus the natural logarithm of the probability that the model gives to the right token, the mean over the
# tokens of the replies. It is counted in *nats*: 2.3 nats are a probability of 1 in 10, 0.69 of 1 in 2, 0.01 of 99 in
# 100. The validation loss is measured on conversations that are not trained on. Before you run the cell: which of the
# two losses will be lower at the end?
#
# The slides give a recipe for such a case: 2,000 conversations, rank 16, alpha 32, 3 epochs, a rate of 2e-4,
# batches of 8. We keep the conversations (1,600 of them to train on), the rank, alpha and the batch. A model this
# small needs, and bears, a much higher rate, and half the epochs are enough for it. The full tier trains a model
# of 8 billion weights at the slides' rate.

# %% tags=["topic:qlora", "topic:customer-support", "topic:training-monitoring"]
seconds = sft.train(trainer)
curves = sft.curves(trainer)
print(f"{trainer.state.global_step} steps of {recipe.batch} conversations in {seconds:.0f} s")

fig, ax = figures.figure(height=3.2)
sft.draw_curves(ax, curves)
ax.set(xlabel="training steps", ylabel="loss on the reply (nats per token)", yscale="log")
ax.legend()
_, training = curves["training"][-1]
_, validation = curves["validation"][-1]
figures.show(
    fig,
    alt=f"Training and validation loss fall together, to {training:.3f} and {validation:.3f}.",
)
print(f"at the end: training {training:.3f}, validation {validation:.3f}")

# %% [markdown]
# **What to notice.** On the logarithmic axis you can see what a plain one would hide: both curves go on falling
# when they look like zero. We expected the training loss to end lower: in the last steps it is measured on
# conversations that the model has met once already, and the validation loss never is. But the two end side by side.
# What was learned is the way from records to replies, and that serves new customers as well. Do not read much into
# which one is below: a training point is the mean of a few steps, a validation point that of 16 conversations.

# %%
quiz("7.5.two_curves")

# %% [markdown]
# If the cell is interrupted, run it again: it goes on from the last checkpoint in `unit.folder`. That
# folder goes when the kernel ends. On Colab and Kaggle, call `colab.keep()` before this cell: each checkpoint is copied
# to your Drive, or to `/kaggle/working`. If the machine is lost, open the notebook on the next one, call `colab.keep()`
# and choose "Run all": the training goes on from there. On your own machine, name a folder that stays.

# %% [markdown]
# ## 7. Did it work?
#
# A falling loss is a promise. The test is whether the replies to customers that the model has never met may
# be sent.

# %% tags=["topic:qlora"]
trained = dataclasses.replace(chat, model=trainer.model.eval())
after = scoring.replies(trained, test)
score_after = scoring.score(test, after)
for part, measure in score_after.items():
    print(f"{part:>9}: {score_before[part].value:6.1%} before, after: {measure}")

# %%
fig, ax = figures.figure(height=3.2)
for name, scores, shift in (("before", score_before, -0.2), ("after", score_after, 0.2)):
    values, ends = error_bars(scores.values())
    places = [i + shift for i, _ in enumerate(values)]
    ax.bar(places, values, 0.38, yerr=ends, capsize=3, label=name)
ax.set_xticks(range(len(score_after)), score_after)
ax.set(ylabel="share of replies that are right", ylim=(0, 1.05))
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
figures.show(
    fig,
    alt="Bars for each part of the reply before and after training, with 95 % intervals. Whole "
    f"replies: {score_before['all'].value:.0%} before, {score_after['all'].value:.0%} after.",
)

# %% [markdown]
# ### What would the usual metrics say?
#
# Other reports quote F1, BLEU, ROUGE or BERTScore. The last one compares vectors of tokens; its usual model has to be
# downloaded, so we take the embedding model of your tier (at the bundled tier: the hidden states of `prisma-lm`), and
# rescale so that replies to different customers get 0. *Perplexity* is $e$ to the power of the loss on the wanted
# reply: at 8 the model is as unsure as in a fair guess among 8 tokens, at 1 it is sure. What will they say about a
# reply that is friendly and wrong?

# %% tags=["topic:eval-quantitative"]
embedder = unit.load("embedding")
wrong = []
for talk, text in zip(test, after, strict=True):
    if not conversations.graded(talk, text):
        wrong.append((talk, text))

groups = {"before": (test[:30], before), "after": (test[:30], after[:30])}
if len(wrong) > 1:
    groups[f"the {len(wrong)} wrong ones after"] = zip(*wrong, strict=True)
marks = {}
for name, (some_talks, texts) in groups.items():
    marks[name] = quality.metrics(some_talks, texts, embedder)
rows = []
for metric in marks["after"]:
    line = {"metric": metric}
    for name, measures in marks.items():
        line[name] = quality.span(measures[metric])
    rows.append(line)
figures.table(rows, caption="Points of 100, with 95 % intervals")

# %% tags=["topic:eval-quantitative"]
chances = quality.reply_log_probs(trained, test[:30])
with trained.model.disable_adapter():
    chances_before = quality.reply_log_probs(trained, test[:30])
tokens = sum(map(len, chances))
print(f"{tokens:,} tokens; perplexity before {quality.perplexity(chances_before)}")
print(f"{'':>14} perplexity after  {quality.perplexity(chances)}")

# %% [markdown]
# **What to notice.** Read the last column of the table. These replies may not be sent, and yet they get high marks:
# a wrong status, or the wrong toy, is a few words among thirty. (BERTScore can be negative: before training the
# replies were less like the wanted ones than replies to different customers are.) The metrics measure likeness, and
# exact match is the only one here that knows a reply that may be sent. Perplexity says that training took away
# nearly all surprise; it says nothing about which word is left. The lab `7.5_lab_evaluation` damages replies on
# purpose to show what each metric sees.
#
# ### Blind: which one would you send?
#
# Before and after would be too easy to tell apart. So one side is the trained model's reply, and the other the reply
# that we want, written by the rules of the shop. The order is drawn. Write your votes ("a", "b" or "="), one letter for
# each pair, into `my_votes`; while it is empty a program votes: more of the tone rubric wins, then fewer invented
# facts, then more facts that the records support.

# %% tags=["topic:eval-qualitative"]
wanted = [talk.reply for talk in test]
sides = {"trained model": after, "wanted": wanted}
drawn = quality.ballot(test, sides, unit.seed)
different = [pair for pair in drawn if pair.a != pair.b]
pairs = different[:6]
for i, pair in enumerate(pairs):
    records = "; ".join(pair.talk.facts)
    print(f"{i}) {pair.talk.message}\n   records: {records}")
    print(f"   a) {pair.a}\n   b) {pair.b}\n")

# %% tags=["topic:eval-qualitative"]
my_votes = ""

if my_votes:
    votes = list(my_votes)
    print("You voted.")
else:
    votes = [quality.vote_by_rules(pair) for pair in pairs]
    print("Nobody voted, so the rules did.")
winners = quality.reveal(pairs, votes)
for pair, vote, winner in zip(pairs, votes, winners, strict=False):
    print(f"vote {vote}: {winner:<14} (a was the {pair.first})")

# %% [markdown]
# **What to notice.** Where the vote was a tie, the rules found nothing to choose. Do you? And were these all the wrong
# replies? The next cell counts, and shows some of the others if there are any: only a person sees what *kind* of
# mistake it is.

# %%
shown = {pair.talk.message for pair in pairs}
unseen = [(talk, text) for talk, text in wrong if talk.message not in shown]
print(f"{len(wrong)} of {len(test)} replies may not be sent. ", end="")
print(f"Not in the vote above: {len(unseen)}\n")
for talk, text in unseen[:3]:
    print(f"customer: {talk.message}")
    print(f"facts:    {'; '.join(talk.facts)}")
    print(f"wanted:   {talk.reply}")
    print(f"written:  {text}\n")

# %% [markdown]
# **What to notice.** Look at the parts one by one. The topic, the name, the feeling and the goodbye are learned
# almost perfectly: they follow from one word of the message, or never change. The *fact* and the *next step* lag
# behind. They depend on the record, and on a rule for each status of the order. These few words are a small share
# of the loss, so the loss looks finished long before the replies are. Much of what is still wrong you have read
# above, word for word. (In the figure, "before" has no bars: only the intervals show.) "Try it" at the end lets you
# see what fewer steps leave unlearned.
#
# That is why you never report a loss alone.
#
# How would you get more of them right: another rate, more steps, a higher rank? We tried all three, and the seed
# moved the result more than any of them: 78 to 92 % of 200 replies. Then we sorted the wrong replies by kind. Of 160
# questions about a status, 97 were about returned orders and 7 about shipped ones. And "please keep the green one"
# asks for a colour that only the customer names: with one seed it was wrong in 18 of 20 replies. So each status now
# has its share, and customer and shop both say "is green". With new conversations and a new adapter for each seed
# (1, 2, 3 and 2026) the same training now reaches 86.5 to 93.5 %; `course evaluate --seed 1` measures one of them. Read
# the mistakes before you turn a knob.

# %% [markdown]
# ## 8. After training: merge
#
# The adapter is a small file beside the model. Or it becomes part of it: add $\frac{\alpha}{r} B A$ to
# every $W$ once, and the model is an ordinary model again. We put the adapter on the model *before*
# quantising, because a merge into 4-bit weights would round part of it away. The exercise below measures how much.

# %% tags=["topic:merge-swap-serve"]
adapter = unit.folder / "adapter"
final = four_bit.for_merging(unit, trained, adapter)
file = adapter / "adapter_model.safetensors"
size = file.stat().st_size  # bytes
twelve = test[:12]
beside = scoring.replies(final, twelve)
final.model.merge_adapter()
merged = scoring.replies(final, twelve)
final.model.unmerge_adapter()
same = publishing.same_replies(beside, merged)
score_merged = scoring.score(twelve, merged)
score_in_4_bits = scoring.score(twelve, after[:12])
print(f"the adapter is a file of {size / 1e6:.1f} MB")
print(f"replies that merging changed: {same.count(False)} of {len(same)}")
print(f"merged, fit to be sent:                   {score_merged['all']}")
print(f"the same 12, on the 4-bit weights before: {score_in_4_bits['all']}")

# %% [markdown]
# **What to notice.** Merging changes no reply. The last two lines may differ all the same, in either direction, and
# not because of the merge. The adapter was trained on the 4-bit weights and has learned to live with their errors;
# now it sits on the weights without these errors, which is not quite the model that it knows. Twelve replies cannot
# measure that, so look at the intervals. The lab `7.5_lab_share_and_serve` takes more.

# %% [markdown]
# ### Exercise: The adapter becomes part of the weights (easy, about 10 minutes)
#
# Merge one matrix yourself. Then look at what a merge into 4 bits would do to the change that was learned.


# %%
def merge(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """One matrix (d, k) that does what `weight` and its adapter did: W + (alpha / r) B A.

    `weight` (d, k) may be in 16 bits; `A` (r, k) and `B` (d, r) are in 32. Add in 32 bits, and
    round once, to the number format of `weight`.
    """
    # Your code here
    raise NotImplementedError


# %%
merge = check("7.5.merge", merge)

# %% tags=["slide", "topic:merge-swap-serve"]
layer = final.model.base_model.model.model.layers[0].mlp.up_proj
W = layer.base_layer.weight.data.float().cpu()
A = layer.lora_A["default"].weight.data.float().cpu()
B = layer.lora_B["default"].weight.data.float().cpu()
whole = merge(W, A, B, recipe.alpha)
change = whole - W
print(f"With {whose(merge)}: the change is {relative_error(whole, W):.0%} of the size of W")


def in_16_bits(matrix: Tensor) -> Tensor:
    return matrix.bfloat16().float()


def in_4_bits(matrix: Tensor) -> Tensor:
    scales = matrix.reshape(-1, 64).abs().amax(1)
    codes = nf4_quantise(matrix.flatten(), levels)
    numbers = nf4_dequantise(codes, scales, levels)
    return numbers.reshape(matrix.shape)


for name, rounded in (("16 bits", in_16_bits), ("4 bits", in_4_bits)):
    arrived = rounded(whole) - rounded(W)
    error = relative_error(arrived, change)
    print(f"merged into {name}: {error:.1%} of the change is rounding error")

# %%
quiz("7.5.merge_4bit")

# %% [markdown]
# ### Check the slide: "no inference latency overhead"
#
# With the adapter beside the weights, each layer does three multiplications instead of one. The added
# matrices are thin; is it noticeable?

# %%
import statistics

prompt = final.prompt(test[0].prompt)
taken = scoring.reply_times(final, prompt)
medians = []
for name, times in taken.items():
    median = statistics.median(times)
    medians.append(median)
    spread = f"from {min(times):.1f} to {max(times):.1f}"
    print(f"{name:>26}: {median:.1f} ms a token ({spread})")
beside_ms, merged_ms = medians
overhead = beside_ms / merged_ms - 1
print(f"{'overhead of not merging':>26}: {overhead:+.0%}")

# %% [markdown]
# **What to notice.** The claim is right for a merged model, and only for that one: then nothing is left that
# could cost time. Unmerged, the extra multiplications are small, but each is one more call, and at this size
# calls are what takes the time. That is the price for swapping adapters while the model runs.

# %% [markdown]
# ## The same with a real model
#
# Now without Prisma and without our helpers: a general instruct model from the hub, in the libraries' own words. Leave
# out the first line of each cell, and you can paste it into an empty notebook of your own that has the packages
# transformers, peft, trl, bitsandbytes and datasets. (Colab brings an old torchao, which PEFT refuses: there, uninstall
# it in that notebook first.) At the small and the full tier these lines run here (a download of 0.3 GB, Apache-2.0). At
# the bundled tier you see a **recording**: what the same lines gave on a machine that has the model. It says when and
# where.
#
# SmolLM2 (arXiv 2502.02737) has 135 million weights here: 60 times less than the full tier's model has, and enough
# to see every step on two processor cores. What will it know about penguins?

# %% tags=["topic:qlora"]
# %%real instruct
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# With more memory, put in "Qwen/Qwen2.5-0.5B-Instruct" or "HuggingFaceTB/SmolLM2-1.7B-Instruct";
# in four bits and on a card of 16 GB, "mistralai/Mistral-7B-Instruct-v0.3".
hub_name = "HuggingFaceTB/SmolLM2-135M-Instruct"
words = AutoTokenizer.from_pretrained(hub_name)
whole = AutoModelForCausalLM.from_pretrained(hub_name, dtype=torch.float32)

question = [{"role": "user", "content": "Where do penguins live? Answer in one sentence."}]
asked = words.apply_chat_template(
    question, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
print(words.decode(asked["input_ids"][0]))
reply = whole.generate(**asked, max_new_tokens=40, do_sample=False)
print(words.decode(reply[0], skip_special_tokens=True).split("assistant\n")[-1])

# %% [markdown]
# The same weights in four bits: how much smaller, and is the answer still the same?

# %% tags=["topic:qlora"]
# %%real instruct
from transformers import BitsAndBytesConfig

nf4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
)
quarter = AutoModelForCausalLM.from_pretrained(
    hub_name, quantization_config=nf4, dtype=torch.float32
)
for name, network in (("32 bits", whole), ("4 bits", quarter)):
    reply = network.generate(**asked.to(network.device), max_new_tokens=40, do_sample=False)
    said = words.decode(reply[0], skip_special_tokens=True).split("assistant\n")[-1]
    print(f"{name}, {network.get_memory_footprint() / 1e6:.0f} MB: {said}")

# %% [markdown]
# **What to notice.** The first output shows what the model reads: the chat template has put in a system message that
# nobody wrote. In the recording the penguins are fine, and the two answers differ: rounding changed the choice of a
# word, and all later words follow from it. Both can be sent. 538 MB became 166 and not an eighth, because only the
# matrices of the layers are quantised. The table of 49,152 tokens times 576 numbers stays as it was, a fifth of so
# small a model.
#
# Now QLoRA, in the plain lines of PEFT and TRL. The task: a letter to a shop becomes one line of JSON that a program
# can read. The letters are combined from parts, so the right answer to each is known. Clocks and green things are kept
# out of the training. Can an instruction alone get the model to do it?

# %% tags=["topic:qlora"]
# %%real qlora
import json
import random
from itertools import product

TASK = "Answer with one line of JSON: item, colour, action (refund, apology, repair or exchange)."
things = ["kettle", "lamp", "bicycle", "phone", "jacket", "printer", "table", "clock"]
colours = ["red", "blue", "black", "white", "green"]
faults = {"does not work": "refund", "came a week late": "apology"}
faults |= {"has a scratch": "repair", "is too small": "exchange"}
openings = ["Hello, my {} {} {}.", "The {} {} that you sent me {}!", "A {} {} {}. Please help."]

letters = []
for thing, colour, fault, opening in product(things, colours, faults, openings):
    record = {"item": thing, "colour": colour, "action": faults[fault]}
    messages = [{"role": "system", "content": TASK}]
    messages.append({"role": "user", "content": opening.format(colour, thing, fault)})
    wanted = [{"role": "assistant", "content": json.dumps(record)}]
    letters.append({"prompt": messages, "completion": wanted})
random.Random(7).shuffle(letters)
unseen = [row for row in letters if "clock" in str(row) or "green" in str(row)]
known = [row for row in letters if row not in unseen]
print(f"{len(known)} letters to learn from, {len(unseen)} with a clock or something green")

# %% tags=["topic:qlora"]
# %%real qlora
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

hub_name = "HuggingFaceTB/SmolLM2-135M-Instruct"
words = AutoTokenizer.from_pretrained(hub_name, padding_side="left")
nf4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
)
frozen = AutoModelForCausalLM.from_pretrained(
    hub_name, quantization_config=nf4, dtype=torch.float32
)


# %% tags=["topic:qlora"]
# %%real qlora
def answers(network, rows):
    prompts = [row["prompt"] for row in rows]
    asked = words.apply_chat_template(
        prompts, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
    ).to(network.device)
    replies = network.generate(**asked, max_new_tokens=28, do_sample=False)
    return words.batch_decode(replies[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)


before = answers(frozen, unseen[:12])
for row, answer in zip(unseen[:3], before, strict=False):
    print(f"{row['prompt'][1]['content']}\n  -> {answer!r}")

# %% tags=["topic:qlora"]
# %%real qlora
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

data = Dataset.from_list(known)
lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
recipe = SFTConfig(
    output_dir="adapter",
    max_steps=24,
    per_device_train_batch_size=2,
    learning_rate=1e-3,
    warmup_steps=2,
    logging_steps=4,
    gradient_checkpointing=False,  # so small a model has room for its activations
    bf16=False,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
)
trainer = SFTTrainer(frozen, recipe, train_dataset=data, peft_config=lora, processing_class=words)
trainer.model.print_trainable_parameters()
trained = trainer.train()  # prints the loss every four steps

# %% tags=["topic:qlora"]
# %%real qlora
after = answers(trainer.model.eval(), unseen[:12])
for row, answer in zip(unseen[:3], after, strict=False):
    print(f"{row['prompt'][1]['content']}\n  -> {answer!r}")
wanted = [row["completion"][0]["content"] for row in unseen[:12]]
for label, given in (("before", before), ("after", after)):
    right = [answer == wish for answer, wish in zip(given, wanted, strict=True)]
    print(f"{label}: {sum(right)} of 12 unseen letters exactly right")

# %% [markdown]
# **What to notice.** In the recording the instruction alone got no letter right: asked for JSON, the model chats. After
# 24 steps with two letters each, 11 of 12 letters are right to the last sign, about things or in a colour that no
# letter of the training had. It has learned a habit, not a list: which words to copy, and which fault asks for which
# action. Look at the last loss, too: 97.6 % of the *tokens* were right there, and still a line is wrong here. A line is
# right only if all of its tokens are.
#
# The adapter has 3.5 % of the weights, more than you read elsewhere. The rank is the same as for large models, and the
# matrices beside it are small. And what does the course's own training (section 6) add to these lines? A deadline,
# checkpoints that know their recipe, and a look at the labels before the first step.
#
# **Try it.** Write a letter with two faults, or in another tone. What does the habit do where it does not fit?

# %% [markdown]
# ## What you take with you
# - LoRA is one line: $W + \frac{\alpha}{r} BA$. Count its parameters for *your* model before you quote a
#   factor.
# - NF4 keeps about 4.1 bits a weight. The frozen base may be coarse, because what is trained is not.
# - Look at the labels, token by token, before you train. A wrong mask trains happily.
# - Count memory before you download.
# - Judge by a strict test on unseen cases, with an interval, before and after.
#
# **Try it.** Run the cell of section 6 that makes `recipe` once more: the plain cells may have taken its name. Then
# train for half as long (`dataclasses.replace(recipe, epochs=recipe.epochs / 2)`), with 200 conversations instead of
# 1,600 (`conversations=200`), or at rank 2: which part of the reply suffers first? Write a message of your own and let
# the trained model answer it.
