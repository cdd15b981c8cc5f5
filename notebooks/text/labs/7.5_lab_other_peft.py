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

import numpy as np
import torch
from torch import Tensor, nn

from course_utils import compat, figures
from course_utils.finetuning import lora_by_hand
from course_utils.finetuning import peft_methods as pm
from course_utils.measures import error_bars, percent, share
from course_utils.models import bundled
from course_utils.prisma import conversations, lm, text

base, tokenizer = lm.load(bundled.verify("prisma-lm"))
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
lessons = {"call": pm.calls(400, 1), "ticket": pm.tickets(talks["train"])}
exams = {"call": pm.calls(140, 2), "ticket": pm.tickets(talks["test"] + talks["validation"])}
rows = {name: pm.encode(tokenizer, some, 48) for name, some in lessons.items()}
tests = {name: pm.encode(tokenizer, some, 48)[:100] for name, some in exams.items()}
for name, (example, *_) in exams.items():
    print(f"{name:>6} asked:  {pm.request(example)}\n{'':>6} wanted: {example.pieces[1][0]}\n")

known = tokenizer(
    text.turn("system", text.tool_system(list(text.SIGNATURES))), return_tensors="pt"
).input_ids
reminded = [
    (known[0].tolist() + ids, [lm.IGNORED] * known.shape[1] + kept) for ids, kept in tests["call"]
]
print("call, without any prompt:        ", share(pm.right(base, tests["call"])))
print("call, with the usual prompt:     ", share(pm.right(base, reminded)))
print("ticket, without any prompt:      ", share(pm.right(base, tests["ticket"])))

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
        words = self.model.get_input_embeddings()(input_ids)
        seen = torch.cat([self.vectors.expand(n, -1, -1), words], 1)
        mask = torch.cat([attention_mask.new_ones(n, length), attention_mask], 1)
        if labels is not None:
            labels = torch.cat([labels.new_full((n, length), lm.IGNORED), labels], 1)
        out = self.model(inputs_embeds=seen, attention_mask=mask, labels=labels)
        out.logits = out.logits[:, length:]
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
        for number, (keys, values) in enumerate(self.vectors):
            cache.update(keys.expand(n, -1, -1, -1), values.expand(n, -1, -1, -1), number)
        mask = torch.cat([attention_mask.new_ones(n, length), attention_mask], 1)
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
        self.down, self.up = nn.Linear(base.out_features, size), nn.Linear(size, base.out_features)
        nn.init.zeros_(self.up.weight)  # as with LoRA: training starts from the model as it is
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        return y + self.up(nn.functional.gelu(self.down(y)))


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
words = pm.random_words(base, 20, unit.seed)
starts = {
    "prompt tuning": base.get_input_embeddings()(words)[0],
    "prefix tuning": pm.keys_and_values(base, words),
}
batch = {k: v for k, v in lm.collate(tests["ticket"][:4], pad=0).items() if k != "labels"}
plain = base(**batch).logits
for (name, start), ours in zip(starts.items(), (SoftPrompt, Prefix), strict=True):
    theirs = compat.add_virtual_tokens(copy.deepcopy(base), 20, every_layer=ours is Prefix).eval()
    (vectors,) = [p for p in theirs.parameters() if p.requires_grad]
    # PEFT keeps a prefix flat: for each token one row, with the keys and values of all layers.
    flat = start if ours is SoftPrompt else start.permute(3, 0, 1, 2, 4).flatten(1)
    vectors.data.copy_(flat)
    with torch.no_grad():
        reference, by_hand = (
            theirs(**batch).logits[:, -plain.shape[1] :],
            ours(base, start)(**batch).logits,
        )
    kept = batch["attention_mask"].bool()
    apart, moved = ((by_hand - other)[kept].abs().max() for other in (reference, plain))
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


def tunable(method: str, seed: int) -> nn.Module:
    """A fresh copy of prisma-lm, ready to be tuned by `method`."""
    torch.manual_seed(seed)
    model = copy.deepcopy(base)
    words = pm.random_words(model, 20, seed)
    if method == "prompt tuning":
        return SoftPrompt(model, model.get_input_embeddings()(words)[0])
    if method == "prefix tuning":
        return Prefix(model, pm.keys_and_values(model, words))
    if method == "adapters":
        return add_bottlenecks(model, 16)
    if method == "IA3":
        return compat.add_ia3(model)
    rank = {"LoRA, rank 1": 1, "LoRA, rank 8": 8}.get(method)
    return compat.add_peft_lora(model, rank, 2 * rank) if rank else model.requires_grad_(True)


# %% tags=["topic:adapters-prompt-tuning"]
counts = {method: lora_by_hand.parameters(tunable(method, 0))["trained"] for method in RATES}
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
STEPS, SEEDS = {"call": 30, "ticket": 80}, (0, 1)
marks, results, keep = {}, [], {}
for method, rate in RATES.items():
    row, paces = {"method": method, "trained": counts[method]}, []
    for job in rows:
        for seed in SEEDS:
            model = tunable(method, seed)
            run = pm.fit(model, rows[job], STEPS[job], rate, seed, label=f"{method}, {job}")
            marks[method, job, seed] = pm.right(model, tests[job])
            paces.append(1000 * run.seconds / STEPS[job])
            if method == "LoRA, rank 8":
                keep[job] = model  # the last seed's, for section 4
        scores = [share(marks[method, job, seed]) for seed in SEEDS]
        both = share([one for seed in SEEDS for one in marks[method, job, seed]])
        row |= {
            f"{job}: right": percent(both),
            f"{job}: seeds": ", ".join(f"{100 * s.value:.0f}" for s in scores),
        }
    kilobytes = pm.stored(model, unit.folder / "trained.safetensors") / 1000
    results.append(row | {"ms a step": min(paces), "file (kB)": round(kilobytes)})
figures.table(
    results,
    caption="200 replies a job (100 for each seed), 95 % intervals; ms of the fastest of four runs",
    digits=0,
)

# %%
fig, ax = figures.figure(height=3.6)
for job, mark, colour in (("call", "o", "blue"), ("ticket", "s", "vermilion")):
    both = {m: share([x for seed in SEEDS for x in marks[m, job, seed]]) for m in RATES}
    values, ends = error_bars(both.values())
    places = [counts[method] for method in both]
    what = "call (known to the model)" if job == "call" else "ticket (new to it)"
    colour = figures.PALETTE[colour]
    ax.errorbar(places, values, ends, fmt=mark, color=colour, label=what, capsize=3)
for method in RATES:
    ax.annotate(method, (counts[method], 1.06), rotation=35, fontsize=8.5, annotation_clip=False)
ax.set(
    xscale="log", xlabel="trained parameters", ylabel="replies that are right", ylim=(-0.05, 1.05)
)
ax.legend(loc="lower right")
told = "; ".join(
    f"{r['method']}: call {r['call: right']}, ticket {r['ticket: right']}" for r in results
)
figures.show(fig, alt=f"Share of right replies against trained parameters, for two jobs. {told}.")

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
exams |= {"label": pm.labels(100, 12), "notice": pm.notices(100, 12)}
for job in ("label", "notice"):
    rows[job], tests[job] = (pm.encode(tokenizer, some[job]) for some in (lessons, exams))
    keep[job], STEPS[job] = tunable("LoRA, rank 8", unit.seed), 50
    pm.fit(keep[job], rows[job], STEPS[job], RATES["LoRA, rank 8"], unit.seed, label=job)
    print(f"asked:  {pm.request(exams[job][0])}\n{job}: {exams[job][0].pieces[1][0]}\n")

folders = {f"for_{job}": unit.folder / job for job in rows}
for job, model in keep.items():
    model.save_pretrained(folders[f"for_{job}"])
shop = compat.load_loras(copy.deepcopy(base), folders).eval()
print("adapters beside one model:", ", ".join(shop.peft_config))

# %% [markdown]
# `set_adapter` swaps while the model runs. Every adapter meets the requests of every job: what does the *wrong* one
# do?


# %% tags=["topic:mixture-of-adapters"]
def results_of(adapter: str) -> dict[str, list[bool]]:
    """Right or wrong for each test request of each job."""
    shop.set_adapter(adapter)
    return {job: pm.right(shop, tests[job]) for job in tests}


with shop.disable_adapter():
    table = {"none": {job: pm.right(shop, tests[job]) for job in tests}}
table |= {name: results_of(name) for name in folders}

# %% tags=["topic:mixture-of-adapters"]
grid = [[np.mean(line[job]) for job in tests] for line in table.values()]
fig, ax = figures.figure(width=6, height=3.2)
figures.heatmap(ax, grid, None, list(table), label="replies that are right", low=0, high=1)
ax.set_xticks(range(len(tests)), tests)
for y, line in enumerate(grid):
    for x, value in enumerate(line):
        colour = "black" if value > 0.6 else "white"
        ax.text(x, y, f"{value:.0%}", ha="center", va="center", color=colour)
ax.set(xlabel="requests for", ylabel="adapter in use")
told = "; ".join(
    f"{a}: " + ", ".join(f"{j} {np.mean(r):.0%}" for j, r in line.items())
    for a, line in table.items()
)
figures.show(fig, alt=f"Share of right replies for each adapter and each job's requests. {told}.")

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
    compat.blend_loras(shop, f"blend_{name}", dict.fromkeys(folders, weight), how)
    table[f"blend_{name}"] = results_of(f"blend_{name}")

together = tunable("LoRA, rank 8", unit.seed)
mixed = [row for job in rows for row in rows[job][:300]]
pm.fit(
    together, mixed, sum(STEPS.values()), RATES["LoRA, rank 8"], unit.seed, label="all four jobs"
)
table["trained_on_all"] = {job: pm.right(together, tests[job]) for job in tests}
names = [name for name in table if name.startswith(("blend", "trained"))]
lines = [{"adapter": n} | {job: f"{np.mean(r):.0%}" for job, r in table[n].items()} for n in names]
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
centres = np.stack(
    [embedder.encode([pm.request(e) for e in lessons[job][:8]]).mean(0) for job in rows]
)


def route(requests: list[str]) -> list[str]:
    """The adapter whose eight examples a request is nearest to."""
    apart = np.linalg.norm(embedder.encode(requests)[:, None] - centres, axis=2)
    return [f"for_{list(rows)[nearest]}" for nearest in apart.argmin(1)]


whole = {job: [tokenizer.decode(ids) for ids, _ in tests[job]] for job in tests}
asked = {
    job: [one.removeprefix("<|user|>").split("<|end|>")[0] for one in some]
    for job, some in whole.items()
}
chosen = {job: route(asked[job]) for job in tests}
figures.table(
    [{"requests for": job} | {name: chosen[job].count(name) for name in folders} for job in tests],
    caption="Where the router sends 100 requests of each job",
)

# %% [markdown]
# PEFT can use a different adapter for every request *of one batch*, so requests need not wait for others of their
# kind. S-LoRA (arXiv 2311.03285) serves thousands of adapters this way.

# %% tags=["topic:mixture-of-adapters"]
mixed = [(row, name) for job in tests for row, name in zip(tests[job], chosen[job], strict=True)]
mixed.sort(key=lambda pair: len(pair[0][0]))
order = [name for _, name in mixed]
routed = []
for at in range(0, len(mixed), 64):
    part = [row for row, _ in mixed[at : at + 64]]
    routed += pm.right(shop, part, adapter_names=order[at : at + 64])

wrong = [x for job in tests for name in folders for x in table[name][job] if name != f"for_{job}"]
best = max(BLENDS, key=lambda name: sum(map(sum, table[f"blend_{name}"].values())))
ways = {
    "the right adapter": [x for job in tests for x in table[f"for_{job}"][job]],
    "routed": routed,
    "trained on all": [x for results in table["trained_on_all"].values() for x in results],
    f"best blend ({best})": [x for results in table[f"blend_{best}"].values() for x in results],
    "a wrong adapter": wrong,
}

# %%
scores = {name: share(line) for name, line in ways.items()}
fig, ax = figures.figure(height=2.8)
values, ends = error_bars(scores.values())
ax.barh(range(len(scores)), values, xerr=ends, capsize=4)
ax.set_yticks(range(len(scores)), [f"{name} (n = {m.n})" for name, m in scores.items()])
ax.set(xlabel="replies that are right, all four jobs (95 % intervals)", xlim=(0, 1))
ax.invert_yaxis()
figures.show(
    fig,
    alt="Right replies: " + "; ".join(f"{name} {percent(m)}" for name, m in scores.items()) + ".",
)

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
