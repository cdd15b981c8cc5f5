# %% [markdown] tags=["badge"]
# # 7.5 Lab: soft prompts, adapters, and several of them at once
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.5_lab_other_peft.ipynb)

# %% [markdown]
# **After this notebook you can**
# - write prompt tuning, prefix tuning and bottleneck adapters by hand, and prove that PEFT does the same;
# - say what a soft prompt can do and what it can't, with numbers, and compare it with LoRA at equal steps;
# - keep one adapter for each job, swap them while the model runs, and blend them;
# - send each request to the right adapter with a small router, and say when no router can.
#
# **Time:** about 25 minutes to read and run; the cells take about two minutes on two free CPU cores.
#
# **Downloads:** nothing. This lab trains many small models, so it takes `prisma-lm` at every tier.

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
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor, nn

from course_utils import compat, figures
from course_utils.finetuning import lora_by_hand
from course_utils.finetuning import peft_methods as pm
from course_utils.measures import error_bars, percent, pooled, share
from course_utils.models import bundled
from course_utils.prisma import conversations, lm, text
from course_utils.settings import paced

folder = bundled.verify("prisma-lm")
base, tokenizer = lm.load(folder)
# For short rows on a CPU it trains faster than the fused kernel.
base.set_attn_implementation("eager")

# %% [markdown]
# ## 1. Two jobs: one that the model knows, one that it does not
#
# LoRA changes every matrix a little. Can you change less? Perhaps only what the model *reads*? Before we try, we need
# jobs to measure with, and they should differ in one respect:
#
# - **call**: answer a question with the JSON function call that looks it up. `prisma-lm` can do this perfectly, *if*
#   its usual system prompt lists the functions. We leave that prompt out.
# - **ticket**: turn a customer's mail into a line for the files, topic and order number. No prompt makes it do that:
#   it has never seen such a line.

# %%
talks = conversations.by_split(conversations.make_conversations())
unseen = talks["test"] + talks["validation"]
lessons = {"call": pm.calls(400, 1), "ticket": pm.tickets(talks["train"])}
exams = {"call": pm.calls(140, 2), "ticket": pm.tickets(unseen)}
rows, tests = {}, {}
for job in ("call", "ticket"):
    rows[job] = pm.encode(tokenizer, lessons[job], 48)
    tests[job] = pm.encode(tokenizer, exams[job], 48)[: paced(100)]
    example, *_ = exams[job]
    print(f"{job:>6} asked:  {pm.request(example)}")
    print(f"{'':>6} wanted: {example.pieces[1][0]}\n")

functions = list(text.SIGNATURES)
usual_prompt = text.turn("system", text.tool_system(functions))
prompt_ids = tokenizer(usual_prompt)["input_ids"]
not_marked = [lm.IGNORED] * len(prompt_ids)  # only the reply counts
reminded = [(prompt_ids + ids, not_marked + labels) for ids, labels in tests["call"]]
call = pm.right(base, tests["call"])
with_prompt = pm.right(base, reminded)
ticket = pm.right(base, tests["ticket"])
print("call, without any prompt:        ", share(call))
print("call, with the usual prompt:     ", share(with_prompt))
print("ticket, without any prompt:      ", share(ticket))

# %% [markdown]
# A reply counts only if it is right word for word, to the end. We need not generate for that: a greedy reply is the
# wanted one exactly if each of its tokens is the likeliest after the wanted ones before it. One pass checks it.
#
# **What to notice.** The skill for *call* is in the model, and 40 tokens of prompt wake it. The skill for *ticket* is
# not there.
#
# ## 2. Three ways, by hand
#
# **Prompt tuning** (Lester et al. 2021, arXiv 2104.08691). A prompt is a row of vectors, one for each token. Who says
# that these vectors must be words? Put 20 vectors of your own there and train them; nothing else.


# %% tags=["topic:adapters-prompt-tuning"]
class SoftPrompt(nn.Module):
    """A frozen model behind trained vectors in the place of words (arXiv 2104.08691).

    `start` (length, width) are the vectors to begin with.
    """

    def __init__(self, model: nn.Module, start: Tensor):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.vectors = nn.Parameter(start.detach().clone())

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None):
        n, length = len(input_ids), len(self.vectors)
        embed = self.model.get_input_embeddings()
        soft = self.vectors.expand(n, -1, -1)  # (n, length, width)
        seen = torch.cat([soft, embed(input_ids)], 1)  # (n, length + t, width)
        visible = attention_mask.new_ones(n, length)
        mask = torch.cat([visible, attention_mask], 1)  # (n, length + t)
        if labels is not None:
            unmarked = labels.new_full((n, length), lm.IGNORED)
            labels = torch.cat([unmarked, labels], 1)  # (n, length + t)
        out = self.model(inputs_embeds=seen, attention_mask=mask, labels=labels)
        out.logits = out.logits[:, length:]  # those of the real tokens
        return out


# %% [markdown]
# **Prefix tuning** (Li and Liang 2021, arXiv 2101.00190). Only the first layer reads those vectors directly. Why not
# give *every* layer something to attend to? Trained keys and values, in the cache where earlier tokens would be.


# %% tags=["topic:adapters-prompt-tuning"]
class Prefix(nn.Module):
    """A frozen model whose layers all attend to trained keys and values (arXiv 2101.00190).

    `start` is (layers, 2, heads, length, head width): keys and values to begin with.
    """

    def __init__(self, model: nn.Module, start: Tensor):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.vectors = nn.Parameter(start.detach().clone())

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None):
        from transformers import DynamicCache

        n, length = len(input_ids), self.vectors.shape[3]
        cache = DynamicCache()
        for number, layer in enumerate(self.vectors):
            keys = layer[0].expand(n, -1, -1, -1)  # (n, heads, length, head width)
            values = layer[1].expand(n, -1, -1, -1)
            cache.update(keys, values, number)
        visible = attention_mask.new_ones(n, length)
        mask = torch.cat([visible, attention_mask], 1)  # (n, length + t)
        return self.model(input_ids, attention_mask=mask, labels=labels, past_key_values=cache)


# %% [markdown]
# **Adapters** (Houlsby et al. 2019, arXiv 1902.00751), the oldest of the family: a small network behind the attention
# and behind the feed-forward network of each layer, narrow in the middle, with a skip around it.


# %% tags=["topic:adapters-prompt-tuning"]
class Bottleneck(nn.Module):
    """A frozen layer and a small network with a skip: y + U gelu(D y) (arXiv 1902.00751)."""

    def __init__(self, base: nn.Linear, size: int):
        super().__init__()
        self.base = base.requires_grad_(False)
        width = base.out_features
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        nn.init.zeros_(self.up.weight)  # as with LoRA: training starts from the model as it is
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)  # (n, t, width)
        narrow = nn.functional.gelu(self.down(y))  # (n, t, size)
        return y + self.up(narrow)


def add_bottlenecks(model: nn.Module, size: int) -> nn.Module:
    """Freeze `model` and put its Bottlenecks in."""
    model.requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.o_proj = Bottleneck(layer.self_attn.o_proj, size)
        layer.mlp.down_proj = Bottleneck(layer.mlp.down_proj, size)
    return model


# %% [markdown]
# Is that what the library does? PEFT has the first two. We give its versions and ours the same vectors.

# %% tags=["topic:adapters-prompt-tuning"]
words = pm.random_words(base, 20, unit.seed)  # (1, 20)
embed = base.get_input_embeddings()
vectors = embed(words)[0]  # (20, width)
prefix = pm.keys_and_values(base, words)  # (layers, 2, heads, 20, head width)
# PEFT keeps a prefix flat: for each token one row, with the keys and values of all layers.
flat_prefix = prefix.permute(3, 0, 1, 2, 4).flatten(1)
batch = lm.collate(tests["ticket"][:4], pad=0)
del batch["labels"]
real = batch["attention_mask"].bool()  # (4, t): which tokens are no padding
without = base(**batch).logits  # (4, t, vocabulary)

for name, Method, start, flat in (
    ("prompt tuning", SoftPrompt, vectors, vectors),
    ("prefix tuning", Prefix, prefix, flat_prefix),
):
    peft_model = compat.add_virtual_tokens(copy.deepcopy(base), 20, every_layer=Method is Prefix)
    (parameter,) = [p for p in peft_model.parameters() if p.requires_grad]
    parameter.data.copy_(flat)
    peft_model.eval()
    with torch.no_grad():
        theirs = peft_model(**batch).logits[:, -real.shape[1] :]  # without the places in front
        ours = Method(base, start)(**batch).logits
    apart = (ours - theirs)[real].abs().max()
    moved = (ours - without)[real].abs().max()
    print(f"{name}: ours and PEFT's differ by {apart:.0e}, with and without it by {moved:.1f}")

# %% [markdown]
# **What to notice.** Ours and PEFT's agree to the last bit, so you have read all there is to it. And why do both
# methods move the model by the same amount? They start from the same 20 words, drawn at random: once as vectors,
# once as the keys and values that these vectors give. Before training the two are the same thing. (Both papers
# found random numbers a worse start than words.)
#
# Two more come from PEFT as they are: **LoRA**, the one you know, and **IA3** (Liu et al. 2022, arXiv 2205.05638),
# which learns one factor for each key, each value and each hidden unit, and nothing else. What does each of them
# train?

# %% tags=["topic:adapters-prompt-tuning"]
RATES = {"prompt tuning": 0.1, "prefix tuning": 0.1, "IA3": 0.03, "adapters": 0.005}
RATES |= {"LoRA, rank 1": 0.01, "LoRA, rank 8": 0.01, "full fine-tuning": 0.001}
RANKS = {"LoRA, rank 1": 1, "LoRA, rank 8": 8}


def tunable(method: str, seed: int) -> nn.Module:
    """A fresh copy of prisma-lm, ready to be tuned by `method`."""
    torch.manual_seed(seed)
    model = copy.deepcopy(base)
    words = pm.random_words(model, 20, seed)
    if method == "prompt tuning":
        embed = model.get_input_embeddings()
        return SoftPrompt(model, embed(words)[0])
    if method == "prefix tuning":
        return Prefix(model, pm.keys_and_values(model, words))
    if method == "adapters":
        return add_bottlenecks(model, 16)
    if method == "IA3":
        return compat.add_ia3(model)
    if method in RANKS:
        rank = RANKS[method]
        return compat.add_peft_lora(model, rank, 2 * rank)
    return model.requires_grad_(True)


# %% tags=["topic:adapters-prompt-tuning"]
counts = {}
for method in RATES:
    parameters = lora_by_hand.parameters(tunable(method, 0))
    counts[method] = parameters["trained"]
whole, lines = counts["full fine-tuning"], []
for method, count in counts.items():
    lines.append({"method": method, "trained": count, "of the model": f"{count / whole:.2%}"})
figures.table(lines)

# %% [markdown]
# ## 3. The same steps for all
#
# Each method gets the same rows, the same batches, the same number of steps; each has a learning rate that suits it
# (vectors need a much higher one than matrices). Twice, with two seeds. Guess first: which method fails at which job?

# %% tags=["topic:adapters-prompt-tuning"]
STEPS, SEEDS = {"call": 30, "ticket": 80}, range(paced(2, least=1))
runs = defaultdict(list)  # for each method and job: the marks of each seed
paces, kilobytes, keep = defaultdict(list), {}, {}
for method, rate in RATES.items():
    for job in ("call", "ticket"):
        for seed in SEEDS:
            model = tunable(method, seed)
            run = pm.fit(model, rows[job], STEPS[job], rate, seed, label=f"{method}, {job}")
            marks = pm.right(model, tests[job])
            runs[method, job].append(marks)
            paces[method].append(1000 * run.seconds / STEPS[job])
        if method == "LoRA, rank 8":
            keep[job] = model  # the last seed's, for section 4
    size = pm.stored(model, unit.folder / "trained.safetensors")
    kilobytes[method] = size / 1000

# %% tags=["topic:adapters-prompt-tuning"]
results = []
for method in RATES:
    row = {"method": method, "trained": counts[method]}
    for job in ("call", "ticket"):
        right = pooled(runs[method, job])
        shares = [share(marks).value for marks in runs[method, job]]
        row[f"{job}: right"] = percent(right)
        row[f"{job}: seeds"] = ", ".join(f"{100 * value:.0f}" for value in shares)
    row["ms a step"] = min(paces[method])
    row["file (kB)"] = round(kilobytes[method])
    results.append(row)
figures.table(
    results,
    caption="200 replies a job (100 for each seed), 95 % intervals; ms of the fastest of four runs",
    digits=0,
)

# %%
fig, ax = figures.figure(height=3.6)
places = list(counts.values())
for job, mark, colour, label in (
    ("call", "o", "blue", "call (known to the model)"),
    ("ticket", "s", "vermilion", "ticket (new to it)"),
):
    measures = [pooled(runs[method, job]) for method in RATES]
    values, ends = error_bars(measures)
    colour = figures.PALETTE[colour]
    ax.errorbar(places, values, ends, fmt=mark, color=colour, label=label, capsize=3)
for method, place in counts.items():
    ax.annotate(method, (place, 1.06), rotation=35, fontsize=8.5, annotation_clip=False)
ax.set(xscale="log", xlabel="trained parameters")
ax.set(ylabel="replies that are right", ylim=(-0.05, 1.05))
ax.legend(loc="lower right")
told = {}
for row in results:
    told[row["method"]] = f"call {row['call: right']}, ticket {row['ticket: right']}"
alt = f"Share of right replies against trained parameters, for two jobs. {figures.told(told)}."
figures.show(fig, alt)

# %% [markdown]
# **What to notice.** Read the two columns of seeds before the means. The job that the model *knows* needs almost
# nothing: 5,120 trained numbers replace a prompt of 40 tokens, and all methods do it. The job that is *new* separates
# them. Whatever only adds something to read, or only turns existing units up and down, stays near zero here. What adds
# *new computation*, adapters and LoRA, learns half of it or more with a few per cent of the parameters. Training all
# weights learns more than LoRA does. It is not the number that counts: prefix tuning trains twice as many as LoRA at
# rank 1. Petrov et al. (2023, arXiv 2310.19698) give the reason: a prefix can shift what attention puts out, but not
# how the tokens of a request attend to each other.
#
# Is prompt tuning useless, then? The paper's main figure says when it is not: with T5 it falls far behind full
# fine-tuning at 60 million parameters, and meets it at 10 billion. The larger the model, the more of your job is
# something that it knows already. Ours has 5 million. Would more steps help? **Try it** below.
#
# The other columns are the price. A soft prompt is the smallest file, but it takes 20 places of the context in every
# request. Adapters and LoRA add multiplications; of these only LoRA (and IA3) can be merged into the weights.

# %% [markdown]
# ## 4. One adapter for each job
#
# A full copy of the model for each job costs the whole model each time. Adapters are small files, so a shop can have
# many of them beside one model. We train two more, for jobs in the warehouse, and keep the two from above:
#
# - **label**: an order's record becomes the label of a parcel;
# - **notice**: an order's record becomes a note to the customer.

# %% tags=["topic:mixture-of-adapters"]
lessons |= {"label": pm.labels(400, 11), "notice": pm.notices(400, 11)}
exams |= {"label": pm.labels(paced(100), 12), "notice": pm.notices(paced(100), 12)}
for job in ("label", "notice"):
    rows[job] = pm.encode(tokenizer, lessons[job])
    tests[job] = pm.encode(tokenizer, exams[job])
    keep[job], STEPS[job] = tunable("LoRA, rank 8", unit.seed), 50
    pm.fit(keep[job], rows[job], STEPS[job], RATES["LoRA, rank 8"], unit.seed, label=job)
    example, *_ = exams[job]
    print(f"asked:  {pm.request(example)}")
    print(f"{job}: {example.pieces[1][0]}\n")

folders = {}
for job, model in keep.items():
    folders[f"for_{job}"] = unit.folder / job
    model.save_pretrained(unit.folder / job)
shop = compat.load_loras(copy.deepcopy(base), folders)
shop.eval()
names = ", ".join(shop.peft_config)
print("adapters beside one model:", names)

# %% [markdown]
# `set_adapter` swaps while the model runs. Every adapter meets the requests of every job: what does the *wrong* one
# do?


# %% tags=["topic:mixture-of-adapters"]
def all_jobs(model: nn.Module) -> dict[str, list[bool]]:
    """Right or wrong for each test request of each job."""
    return {job: pm.right(model, tests[job]) for job in tests}


def results_of(adapter: str) -> dict[str, list[bool]]:
    """The same, with one of the shop's adapters."""
    shop.set_adapter(adapter)
    return all_jobs(shop)


with shop.disable_adapter():
    table = {"none": all_jobs(shop)}
for name in folders:
    table[name] = results_of(name)

# %% tags=["topic:mixture-of-adapters"]
grid, told = [], {}
for adapter, by_job in table.items():
    shares = {job: np.mean(marks) for job, marks in by_job.items()}
    line = [f"{job} {right:.0%}" for job, right in shares.items()]
    grid.append(list(shares.values()))
    told[adapter] = ", ".join(line)

fig, ax = figures.figure(width=6, height=3.2)
adapters = list(table)
figures.heatmap(ax, grid, None, adapters, label="replies that are right", low=0, high=1)
places = range(len(tests))
ax.set_xticks(places, tests)
for y, line in enumerate(grid):
    for x, value in enumerate(line):
        colour = "black" if value > 0.6 else "white"
        ax.text(x, y, f"{value:.0%}", ha="center", va="center", color=colour)
ax.set(xlabel="requests for", ylabel="adapter in use")
alt = f"Share of right replies for each adapter and each job's requests. {figures.told(told)}."
figures.show(fig, alt)

# %% [markdown]
# **What to notice.** The diagonal is all there is. An adapter does its own job and no other. It acts on every
# request, and none of the four knows that a request is not for it. So the choice of the adapter decides everything,
# and somebody has to make it.

# %% [markdown]
# ## 5. Blend them?
#
# The easiest answer would be one adapter that holds all four. LoRA's changes are matrices, and matrices can be
# added. `add_weighted_adapter` offers several ways: the sum of the changes, their mean, and sums of $A$ and $B$
# each on their own. A fourth is TIES (arXiv 2306.01708), which first drops the weak half of each change and lets
# the rest vote on its sign. As a control we also train *one* adapter on all four jobs together, for as many steps
# as the four had in all.

# %% tags=["topic:mixture-of-adapters"]
BLENDS = {
    "sum": (1.0, "cat"),
    "mean": (0.25, "cat"),
    "linear": (0.25, "linear"),
    "ties": (1.0, "ties"),
}
for name, (weight, how) in BLENDS.items():
    weights = dict.fromkeys(folders, weight)
    compat.blend_loras(shop, f"blend_{name}", weights, how)
    table[f"blend_{name}"] = results_of(f"blend_{name}")

together, mixed = tunable("LoRA, rank 8", unit.seed), []
for job in rows:
    mixed += rows[job][:300]
steps = sum(STEPS.values())
pm.fit(together, mixed, steps, RATES["LoRA, rank 8"], unit.seed, label="all four jobs")
table["trained_on_all"] = all_jobs(together)

# %% tags=["topic:mixture-of-adapters"]
lines = []
for name in ("blend_sum", "blend_mean", "blend_linear", "blend_ties", "trained_on_all"):
    line = {"adapter": name}
    for job, marks in table[name].items():
        line[job] = f"{np.mean(marks):.0%}"
    lines.append(line)
figures.table(
    lines, caption="One adapter for everything: replies that are right, 100 requests of each job"
)

# %% [markdown]
# **What to notice.** Compare each blend with the diagonal above. Every adapter was trained as if it were alone; in
# a sum, three strangers add to every layer's output, and in a mean each one speaks at a quarter of its strength.
# That *call* survives the mean best is probably no accident: it was in the model already and needs only a nudge. Of
# what had to be learned, little or nothing survives. Blends work better for larger models and related tasks (task
# arithmetic, arXiv 2212.04089; LoraHub, arXiv 2307.13269, even searches for the weights).
#
# The adapter that was *trained* on everything had the same steps as the four together, and did not get as far. It also
# needs all the data in one place and on one day, and it can't tell label from notice: their requests look the same.

# %% [markdown]
# ## 6. Route them
#
# The other answer: look at the request, then choose. A router can be tiny. The embedding of a text is the mean of the
# model's last hidden states. We take eight example requests of each job, keep the mean of their embeddings, and send a
# request to the job whose mean is nearest. Nothing is trained.


# %% tags=["topic:mixture-of-adapters"]
embedder = unit.load("embedding")
jobs = list(rows)


def centre(job: str) -> np.ndarray:
    """The mean embedding of eight example requests of a job, (width,)."""
    requests = [pm.request(example) for example in lessons[job][:8]]
    return embedder.encode(requests).mean(0)


centres = np.stack([centre(job) for job in jobs])  # (jobs, width)


def route(requests: list[str]) -> list[str]:
    """The adapter whose eight examples a request is nearest to."""
    vectors = embedder.encode(requests)  # (requests, width)
    apart = vectors[:, None] - centres  # (requests, jobs, width)
    nearest = np.linalg.norm(apart, axis=2).argmin(1)  # (requests,)
    return [f"for_{jobs[number]}" for number in nearest]


# %% tags=["topic:mixture-of-adapters"]
def request_in(row: lm.Row) -> str:
    """The request in an encoded example: what stands in the user's turn."""
    ids, _ = row
    turns = tokenizer.decode(ids)
    request, *_ = turns.removeprefix("<|user|>").split("<|end|>")
    return request


chosen, lines = {}, []
for job in tests:
    requests = [request_in(row) for row in tests[job]]
    chosen[job] = route(requests)
    line = {"requests for": job}
    for name in folders:
        line[name] = chosen[job].count(name)
    lines.append(line)
figures.table(lines, caption="Where the router sends 100 requests of each job")

# %% [markdown]
# PEFT can use a different adapter for every request *of one batch*, so requests need not wait for others of their
# kind. S-LoRA (arXiv 2311.03285) serves thousands of adapters this way.

# %% tags=["topic:mixture-of-adapters"]
mixed = []
for job in tests:
    mixed += zip(tests[job], chosen[job], strict=True)
mixed.sort(key=lambda pair: len(pair[0][0]))  # equal lengths side by side need little padding
routed = []
for start in range(0, len(mixed), 64):
    part = mixed[start : start + 64]
    requests = [row for row, _ in part]
    names = [name for _, name in part]
    routed += pm.right(shop, requests, adapter_names=names)

right, wrong = [], []
for job in tests:
    for name in folders:
        marks = table[name][job]
        if name == f"for_{job}":
            right += marks
        else:
            wrong += marks

# %%
blends = {name: pooled(table[f"blend_{name}"].values()) for name in BLENDS}
best = max(blends, key=lambda name: blends[name].value)
scores = {
    "the right adapter": share(right),
    "routed": share(routed),
    "trained on all": pooled(table["trained_on_all"].values()),
    f"best blend ({best})": blends[best],
    "a wrong adapter": share(wrong),
}
fig, ax = figures.figure(height=2.8)
places = range(len(scores))
values, ends = error_bars(scores.values())
ax.barh(places, values, xerr=ends, capsize=4)
names = [f"{name} (n = {measure.n})" for name, measure in scores.items()]
ax.set_yticks(places, names)
ax.set(xlabel="replies that are right, all four jobs (95 % intervals)", xlim=(0, 1))
ax.invert_yaxis()
told = [f"{name} {percent(measure)}" for name, measure in scores.items()]
figures.show(fig, alt=f"Right replies: {'; '.join(told)}.")

# %% [markdown]
# **What to notice.** Where the text of a request shows its job, the router is mostly right. Where it does not, it sends
# all one way, and half go wrong: a record is a record, whether it wants a label or a note. No better router could
# help, because the information is not in the request. Then whoever sends it must say which adapter it is for, as a
# model name in the API, and you swap instead of route.
#
# | | swap by name | route | blend | train on all |
# | --- | --- | --- | --- | --- |
# | who chooses | the caller | a router | nobody | nobody |
# | a new job | one more file | one more file, a few examples | blend and test again | train everything again |
# | jobs whose requests look alike | fine | impossible | impossible | impossible, unless a prompt tells |
#
# Learned routers choose for every token and layer instead of once per request: MoLE (arXiv 2404.13628), and in PEFT
# X-LoRA (arXiv 2402.07148) and Arrow (arXiv 2405.11157), which needs no training at all.
#
# ## What you take with you
# - A soft prompt asks for what the model can do already. New computation needs weights: adapters or LoRA.
# - Compare methods at equal steps, with seeds, on a job that the model knows *and* on one that it does not.
# - Adapters are files. Swap them by name, or route to them if the request shows its job. Measure a blend before you
#   believe in it.
#
# **Try it.** Give prompt tuning 400 steps on *ticket* instead of 80, or 100 vectors instead of 20: does it catch up
# with LoRA at rank 1? Blend only two adapters, `for_call` and `for_ticket`: is the sum of two as bad as that of four?
