# %% [markdown] tags=["badge"]
# # 7.5 Fine-tuning, part 2: choices
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.5_finetuning_choices.ipynb)

# %% [markdown]
# **After this notebook you can**
# - climb the ladder from a prompt to fine-tuning, and say which rung is enough;
# - compare full fine-tuning, LoRA and QLoRA by parameters, memory, time and quality;
# - sweep a learning rate and a rank, and read the result without fooling yourself;
# - see over-fitting begin, stop in time, and go on after a power cut;
# - measure what a model forgets while it learns.
#
# **Time:** about 25 minutes to read and run; the cells take about a minute and a half on two CPU cores. Part 1,
# `7.5_finetuning`, explains LoRA, 4 bits and the data; you can run the two in any order.
#
# **Downloads:** nothing at the bundled tier. At the small and full tiers the rungs without training ask the
# larger model; the card below names its size first. The plain cells before the end take 0.3 GB more there. What
# trains in the other sections is prisma-lm, because it trains a dozen times.

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

unit = open_unit("7.5")

# %%
import dataclasses
import math
import random
import shutil
import statistics
import time

import torch

from course_utils import compat, figures
from course_utils.finetuning import (
    dryrun,
    four_bit,
    lora_by_hand,
    qlora,
    quality,
    recipes_elsewhere,
    scoring,
    sft,
)
from course_utils.measures import Measure, bootstrap, percent, share
from course_utils.memory import shapes, simulate
from course_utils.models import loaders, roles
from course_utils.prisma import conversations, text

# %%
from course_utils.settings import paced
from course_utils.workshop import evaluate

asked = unit.load("chat")
chat = loaders.load("chat", unit.hardware, "bundled")
everything = conversations.make_conversations()
talks = conversations.by_split(everything)
test = talks["test"][: paced(24, 8)]
cases = test[:16]  # for the rungs without training, whose long prompts take time


# %%
def reply_losses(model: roles.Chat, some: list, prompts: list[str] | None = None) -> list[float]:
    """The loss on each wanted reply, in nats a token."""
    log_probs = quality.reply_log_probs(model, some, prompts)  # for each reply a tensor (tokens,)
    return [-of_reply.mean().item() for of_reply in log_probs]


def parts_right(some: list[conversations.Conversation], replies: list[str]) -> Measure:
    """Of all parts of the style in all replies, the share that is right."""
    right = []
    for talk, reply in zip(some, replies, strict=True):
        right += conversations.parts_right(talk, reply).values()
    return share(right)


def against(losses: dict[str, list[float]], one: str, other: str) -> str:
    """How much higher the loss of `one` is than that of `other`, on the same replies."""
    apart = [a - b for a, b in zip(losses[one], losses[other], strict=True)]
    return str(bootstrap(apart, "nats"))


def three_of(times: list[float]) -> str:
    """The median of some times, with the fastest and the slowest."""
    return f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"


# %% [markdown]
# ## 1. The ladder
#
# Prisma wants every reply in its own style: the topic, the customer's name, a sentence of feeling, a fact from
# the records, the next step, and always the same goodbye. There are cheaper ways to get there than training:
#
# 1. **Prompt**: describe the style.
# 2. **Few-shot**: show two replies.
# 3. **Retrieval**: show the two past replies that are most like this case.
# 4. **Fine-tune**: change weights (section 2).
# 5. **Pre-train**: start from nothing. `course train prisma-lm` did that, for 90 minutes.
#
# Each rung costs more than the one below. How high do you have to climb? The first three rungs ask the chat
# model of your tier; which one that is, the card above says.
#
# Two measures. *Parts right*: each reply has six parts, and each part counts. And the *loss* on the wanted reply: how
# much it surprises the model. That is minus the natural logarithm of the probability of each of its tokens, on average,
# in *nats*: 0.69 nats are a probability of 1 in 2, 2.3 of 1 in 10, 6.9 of 1 in 1,000.


# %% tags=["topic:adaptation-ladder"]
STYLE = (
    "Answer the customer of our toy shop: the topic, the name, one sentence about how we feel, one "
    "fact of the order, what we do next, and then: Our kind regards, the toy shop team"
)


def turns(
    talk: conversations.Conversation, system: str = conversations.SYSTEM, shown: tuple = ()
) -> list[dict]:
    """Chat messages: `system`, the conversations `shown` as examples, then the one to answer."""
    messages = [{"role": "system", "content": system}]
    for case in (*shown, talk):
        question = "\n".join((*case.facts, case.message))
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": case.reply})
    return messages[:-1]  # the last reply is what the model has to write


# %% tags=["topic:adaptation-ladder"]
def words_of(talk: conversations.Conversation) -> set[str]:
    message = talk.message.lower()
    return set(message.split())


def nearest(talk: conversations.Conversation, k: int = 2) -> list[conversations.Conversation]:
    """The `k` training conversations that share most words with the message of `talk`."""
    words = words_of(talk)

    def shared(other: conversations.Conversation) -> int:
        return len(words & words_of(other))

    nearest_first = sorted(talks["train"][:400], key=shared, reverse=True)
    return nearest_first[:k]


# %% tags=["topic:adaptation-ladder"]
rungs = {"nothing": [], "prompt": [], "few-shot": [], "retrieval": []}
for talk in cases:
    rungs["nothing"].append(turns(talk))
    rungs["prompt"].append(turns(talk, STYLE))
    rungs["few-shot"].append(turns(talk, STYLE, talks["train"][:2]))
    rungs["retrieval"].append(turns(talk, STYLE, nearest(talk)))
written, losses = {}, {}
for rung, messages in rungs.items():
    prompts = [asked.prompt(turn) for turn in messages]
    written[rung] = asked.complete_many(prompts, max_new_tokens=80)
    losses[rung] = reply_losses(asked, cases, prompts)
print(f"after retrieval: {written['retrieval'][0]}\nPrisma wants:    {test[0].reply}")

# %% tags=["topic:adaptation-ladder"]
rows = []
for rung, replies in written.items():
    right = parts_right(cases, replies)
    loss = bootstrap(losses[rung], "nats")
    row = {"rung": rung, "parts right": percent(right), "loss on the wanted reply": str(loss)}
    row["change from nothing"] = ""
    if rung != "nothing":
        row["change from nothing"] = against(losses, rung, "nothing")
    rows.append(row)
figures.table(rows, caption=f"{asked.name}, {len(cases)} test messages, 95 % intervals")

# %% [markdown]
# **What to notice.** At the bundled tier no prompt reaches prisma-lm: it was trained on a few fixed formats, so every
# rung scores 0. (Learning from examples in the prompt is a skill of much larger models, trained on varied text; GPT-3,
# arXiv 2005.14165, is known for it.) The loss tells the rungs apart all the same. The last column compares the same
# messages: where its interval lies below 0, the rung has made the wanted reply less surprising. Two similar cases and
# two from the top of the list are not the same thing. And no rung comes near the loss that training reaches (section
# 2).
#
# A real chat model climbs the same ladder with `COURSE_TIER=small`. These rungs cost nothing to try, so try them first,
# on *your* model, with a score.

# %% [markdown] tags=["topic:when-to-finetune"]
# ### When to fine-tune
#
# | you see | rung | why |
# | --- | --- | --- |
# | the model has not been told what you want | prompt | costs minutes, and is changed in seconds |
# | it understands, but gets the form wrong | few-shot | examples say more than descriptions |
# | it lacks facts, or the facts change | retrieval | what is looked up can be corrected today; weights cannot |
# | form or tone must be the same every time; the prompt has grown long | fine-tune | a habit needs no prompt |
# | the model must be small, cheap or private | fine-tune a small one | it learns one task that nobody could tell it |
# | a language or a field that the model has hardly seen | continue pre-training, then fine-tune | needs much text |
# | no model suits, and you have the data of a continent | pre-train | the most expensive rung by far |
#
# Retrieval and fine-tuning are no rivals: one brings facts, the other habits.

# %% [markdown]
# ## 2. Fine-tune: everything, or a little?
#
# Full fine-tuning changes every weight. LoRA trains two thin matrices beside each one. QLoRA does the same on a
# model in 4 bits. The same data, the same 80 steps: what does each one cost, and what does it learn? Each
# method gets the learning rate that suits it; section 3 shows how to find one. Eighty steps do not finish the job
# (part 1 takes almost four times as many, of twice the size). Which parts of the style will be there first?


# %% tags=["slide", "topic:full-vs-peft"]
RATES = {"full": 1e-3, "lora": 5e-3, "qlora": 5e-3}
base = dataclasses.replace(qlora.RECIPES["bundled"], epochs=1, batch=4, at_once=4, measured=1)
short = dataclasses.replace(base, conversations=320)


def prepared(recipe: qlora.Recipe, place: str):
    """A trainer for `recipe` on a fresh prisma-lm; the rate is at its height after one step."""
    start = four_bit.fresh(chat, recipe.method, unit.hardware)
    folder = unit.folder / place
    shutil.rmtree(folder, ignore_errors=True)  # a second run of this cell starts anew
    trainer = sft.make_trainer(start, talks, recipe, unit.hardware, folder)
    trainer.args.warmup_steps = 1  # the usual five are too many for the short runs of section 3
    return trainer


# %% tags=["topic:full-vs-peft"]
tuned, table = {}, []
for method, rate in RATES.items():
    recipe = dataclasses.replace(short, method=method, learning_rate=rate)
    trainer = prepared(recipe, method)
    sft.train(trainer)
    tuned[method] = dataclasses.replace(chat, model=trainer.model.eval())
    counts = lora_by_hand.parameters(trainer.model)
    held = sft.held_mb(trainer)
    row = {"method": method, "trained": counts["trained"], "weights (MB)": held["weights"]}
    row["gradients, optimiser (MB)"] = held["gradients"] + held["optimiser"]
    row["to store (MB)"] = held["gradients"]  # a number for each that is trained, in 32 bits
    table.append(row)
figures.table(table, caption="What each method holds between two steps")

# %% tags=["topic:full-vs-peft"]
written, rows = {}, []
for method, model in tuned.items():
    written[method] = scoring.replies(model, test)
    losses[method] = reply_losses(model, test)
    right = parts_right(test, written[method])
    row = {"method": method, "parts right": percent(right)}
    scores = scoring.score(test, written[method])
    for part, measure in scores.items():
        row[part] = f"{measure.value:.0%}"
    rows.append(row)
for method, loss in losses.items():
    measured = bootstrap(loss[: len(cases)], "nats")
    print(f"{method:>9}: loss on the first {len(cases)} replies {measured}")
for one, other in (("lora", "full"), ("qlora", "full"), ("qlora", "lora")):
    print(f"{one} minus {other}: {against(losses, one, other)}")
figures.table(rows, caption=f"{short.steps} steps of {short.batch}; {len(test)} replies")

# %% [markdown]
# **What to notice.** Compare the ladder with the three methods: training takes most of the surprise away. Then read the
# three differences. Where an interval holds 0, the two methods cannot be told apart. Where it does not, the one with
# less loss has learned more, in this run. Full fine-tuning may change every number, and it gets furthest in the same
# steps. The four bits cost QLoRA a little of what LoRA learns here, next to what both have gained.
#
# Go along the rows of the parts. Topic, name and goodbye are there first: one word of the message decides them, or
# they never change. The fact and the next step come last, because they depend on the record. (*all* counts the replies
# that could be sent.) The parts of one reply are right or wrong together, so the intervals of *parts right* are too
# narrow; the loss is the better judge here.
#
# What full fine-tuning pays in is memory: gradients and the optimiser's two averages for each weight, in 32 bits.
# For LoRA they are a tenth, and the file to store is a tenth, too. The 4 bits of QLoRA then shrink the weights as
# well. prisma-lm is too small for any of this to matter. And at 7B? With 4 and 12 bytes for each number the first
# column of memory is 29 GB, against less than 5 in 4 bits. The second is 87, against 0.5 for LoRA's 42 million. Then
# the question is no longer what is best but what is possible. Section 5 of `7.5_finetuning` counts all three.

# %% [markdown]
# ### Is LoRA faster, too?
#
# A step of training has three parts of nearly the same size: the signal forward, the signal backward, and the gradient
# of each weight matrix. Which of the three can LoRA leave out? Guess how much of a step that is. The next cell counts
# the operations of one step of prisma-lm. Then it takes the time of a step through four matrices, narrow and wide.

# %% tags=["topic:full-vs-peft"]
from torch.utils.flop_counter import FlopCounterMode

some = [chat.prompt(talk.prompt) + talk.reply for talk in test[:4]]
ids = chat.tokenizer(some, return_tensors="pt", padding=True).input_ids
work = {}
for method in ("full", "lora"):
    start = four_bit.fresh(chat, method, unit.hardware)
    model = start.model.to("cpu").float()
    if method == "lora":
        model = compat.add_peft_lora(model, rank=16, alpha=32)
    with FlopCounterMode(display=False) as counter:
        loss = model(ids, labels=ids).loss
        loss.backward()
    work[method] = counter.get_total_flops()
    print(f"{method}: {work[method] / 1e9:.1f} billion operations in a step of prisma-lm")
left_out = 1 - work["lora"] / work["full"]
print(f"LoRA leaves out {left_out:.0%} of them")


# %% tags=["slide", "topic:full-vs-peft"]
def four_matrices(width: int, lora: bool) -> torch.nn.Module:
    """Four linear layers one behind the other, with or without LoRA of rank 16."""
    layers = [torch.nn.Linear(width, width, bias=False) for _ in range(4)]
    stack = torch.nn.Sequential(*layers)
    if lora:
        lora_by_hand.add_lora(stack, rank=16, alpha=32)
    return stack


# %% tags=["topic:full-vs-peft"]
rows = []
for width in (256, 1024):
    stacks = {"full": four_matrices(width, False), "lora": four_matrices(width, True)}
    taken = {"full": [], "lora": []}
    signal = torch.ones(256, width)
    for turn in range(-1, 10):  # in turn, so that a busy moment hits both; the first only warms up
        for method, stack in stacks.items():
            started = time.perf_counter()
            loss = stack(signal).square().mean()
            loss.backward()
            seconds = time.perf_counter() - started
            if turn >= 0:
                taken[method].append(1000 * seconds)
    row = {"width": width}
    for method, times in taken.items():
        row[f"{method} (ms)"] = three_of(times)
    rows.append(row)
figures.table(rows, caption="A step, 256 tokens: median (fastest to slowest of ten)")

# %% [markdown]
# **What to notice.** LoRA leaves out the third part: frozen matrices need no gradient. The signal still runs through
# them, forward and backward. So nearly a third of the arithmetic goes where the matrices do all the work, and less in
# prisma-lm, where attention and the vocabulary take their share and the adapters are not thin beside its 256 columns.
# The clock agrees at a width of 1,024, if the spread of the two does not overlap. At 256 the extra calls cost what is
# saved. For GPT-3 the paper reports 25 % faster training (arXiv 2106.09685, section 4.2). QLoRA gives some of it back:
# it turns the 4-bit codes into numbers again in each pass.

# %% [markdown]
# ## 3. Which learning rate, which rank?
#
# A sweep trains the same thing several times, with one setting changed. The judge is the *validation* loss: if
# you chose by the test, the test would no longer say how you do on new cases. Two things are swept here, the
# learning rate and LoRA's rank, and one setting is run with three seeds, to see how much is luck. Which costs
# more: a rate three times too small, or a rank eight times too small?


# %% tags=["topic:hyperparameters"]
def validation_loss(rate: float, rank: int, seed: int = 7) -> float:
    """The validation loss after LoRA on 80 conversations; alpha is twice the rank."""
    settings = {"learning_rate": rate, "rank": rank, "alpha": 2 * rank, "seed": seed}
    recipe = dataclasses.replace(base, method="lora", conversations=80, **settings)
    trainer = prepared(recipe, f"rate-{rate}-rank-{rank}-seed-{seed}")
    sft.train(trainer)
    _, loss = sft.curves(trainer)["validation"][-1]
    return loss


rates, ranks = (1.5e-3, 5e-3, 1.5e-2), (2, 16)
sweep = []
for rank in ranks:
    losses_of_rank = [validation_loss(rate, rank) for rate in rates]
    sweep.append(losses_of_rank)
luck = [sweep[1][1]]  # the box in the middle of the lower row, with seed 7
for seed in (8, 9):
    luck.append(validation_loss(5e-3, 16, seed=seed))

# %% tags=["topic:hyperparameters"]
fig, ax = figures.figure(height=2.4, width=6)
across = [f"{rate:g}" for rate in rates]
down = [f"rank {rank}" for rank in ranks]
figures.heatmap(ax, sweep, across, down, "nats per token")
paper = {"color": "white", "alpha": 0.7}
told = []
for row, line in enumerate(sweep):
    for column, loss in enumerate(line):
        ax.text(column, row, f"{loss:.2f}", ha="center", va="center", bbox=paper)
    rounded = [round(loss, 2) for loss in line]
    told.append(rounded)
ax.set(xlabel="learning rate", title="Validation loss after 20 steps")
figures.show(fig, alt=f"Validation loss for each rate and rank, rank 2 first: {told}")
by_seed = ", ".join(f"{loss:.2f}" for loss in luck)
print(f"rank 16 at 0.005 with three seeds: {by_seed}")

# %% [markdown]
# **What to notice.** Compare each difference with the spread of the three seeds before you believe it. Start in the
# middle of the lower row: a rate three times too small and a rank eight times too small cost about the same. And along
# the diagonals rank 2 at three times the rate does nearly what rank 16 does. So the two interact, and who sweeps only
# the rank, at one rate, concludes that a small rank cannot learn. Where is the best box? If it is at the edge of the
# map, the sweep is not finished: widen it ("Try it", below). And twenty steps favour high rates: a long run often
# wants a lower one, so repeat the best two at full length. (Section 2 trains four times as long, at the rate in the
# middle.)
#
# What about the other settings? **Alpha** scales the change by alpha / r, so a smaller alpha acts like a smaller rate.
# In the map we kept alpha at twice the rank, a common habit, so that alpha / r is 2 in every box. The map shows that
# this does not make two ranks equal. (arXiv 2312.03732 proposes a fixed alpha over the *square root* of r; from rank
# 16 to rank 2 that makes 2.8 times as much, close to one step along the diagonal.) A larger **batch** gives less noise
# and fewer steps from the same conversations; a run as short as this one wants steps, so it takes four at a time. More
# **epochs** help until the validation loss turns (section 4). **Warm-up** lets the optimiser's averages fill before it
# takes full steps: one step here, five in the longer runs of part 1. The worked case of the slides, a 7B model with
# rank 16, alpha 32, 3 epochs, 2e-4 and batch 8, is where many people start; sweep the rate first when you leave it.

# %% [markdown]
# ## 4. Too long: over-fitting, and when to stop
#
# Now we train on eight conversations only, again and again. The training loss can only fall. What will the
# validation loss do? While it trains, we look at one reply three times. And after step 14 we pull the
# plug, to see what a power cut costs.


# %% tags=["topic:overfit-forgetting", "topic:training-monitoring"]
from transformers import TrainerCallback


class PowerCut(TrainerCallback):
    """Stops the training after step 14, as Ctrl-C would."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 14:
            raise KeyboardInterrupt


class Sample(TrainerCallback):
    """Keeps what the model answers to one customer after some of the measurements."""

    def on_evaluate(self, args, state, control, model, **_):
        if state.global_step in (4, 12, 36):
            now = dataclasses.replace(chat, model=model.eval())
            samples[state.global_step] = scoring.replies(now, test[:1])[0]


# %% tags=["topic:overfit-forgetting", "topic:training-monitoring"]
def few(*callbacks: TrainerCallback):
    """A trainer on eight conversations for 18 epochs, with `callbacks`, in the same folder."""
    settings = {"learning_rate": 5e-3, "conversations": 8, "epochs": 18, "measured": 9}
    recipe = dataclasses.replace(short, method="lora", **settings)
    start = four_bit.fresh(chat, "lora", unit.hardware)
    trainer = sft.make_trainer(start, talks, recipe, unit.hardware, unit.folder / "few")
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


samples = {}
shutil.rmtree(unit.folder / "few", ignore_errors=True)  # a second run of this cell starts anew
trainer = few(Sample(), PowerCut())
try:
    sft.train(trainer)
except KeyboardInterrupt:
    print("Power cut after step 14.")
trainer = few(Sample())
seconds = sft.train(trainer)
print(f"The rest took {seconds:.0f} s.")

# %% tags=["slide", "topic:overfit-forgetting", "topic:training-monitoring"]
curves = sft.curves(trainer)


def stop_at(
    points: list[tuple[int, float]], patience: int = 3, least: float = 0.1
) -> tuple[int, float]:
    """The (step, loss) after which `patience` measurements were not better by `least`."""
    best, waited = points[0], 0
    for step, loss in points[1:]:
        if loss < best[1] - least:
            best, waited = (step, loss), 0
        else:
            waited += 1
        if waited == patience:
            break
    return best


best_step, best_loss = stop_at(curves["validation"])

# %% tags=["topic:overfit-forgetting", "topic:training-monitoring"]
fig, ax = figures.figure(height=3.0)
sft.draw_curves(ax, curves)
ax.axvline(best_step, color=figures.GREY, linestyle=":", label="stop here")
ax.set(xlabel="training steps", ylabel="loss on the reply (nats per token)", ylim=(0, None))
ax.legend()
_, training = curves["training"][-1]
_, validation = curves["validation"][-1]
figures.show(
    fig,
    alt=f"Training loss ends at {training:.2f}, validation loss at {validation:.2f}; "
    f"early stopping would keep step {best_step}, with {best_loss:.2f}.",
)
for step, reply in samples.items():
    print(f"step {step:>2}: {reply}")
print(f"   wanted: {test[0].reply}")

# %% [markdown]
# **What to notice.** We expected the validation loss to turn and rise, as textbooks draw it. It hardly does: it stops
# falling, far above the training loss, and creeps up by a tenth. The training loss says that eight conversations are
# now known by heart. The gap between the two is the over-fitting; a curve that climbs is its loud form. Once the
# training loss is zero, nothing pulls on the weights any more, so here it stays quiet. **Early stopping** keeps the
# checkpoint from which on little was gained, and saves the rest of the bill. The power cut cost the steps since the
# last checkpoint and no more, because a checkpoint holds the adapter, the optimiser's averages, the schedule and the
# place in the data. Read the samples, too: a loss of 0.5 does not say whether it is the name that is wrong or the
# price. And the last one: whose name is that, and whose sentences?

# %% [markdown]
# ## 5. What was forgotten?
#
# prisma-lm could call functions and work out sums before we taught it the house style. Nobody asked it to
# forget them. Did it? For LoRA there is one more answer: switch the adapter off.

# %% tags=["topic:overfit-forgetting"]
overfit = dataclasses.replace(chat, model=trainer.model.eval())
sums = []
for seed in range(paced(32, 8)):
    rng = random.Random(seed)
    sums.append(text.shopping_sum(rng))
SHOP_TALK = ("order", "team", "sorry", "regards")  # no worked sum needs these words


def old_skills(model: roles.Chat) -> dict[str, str]:
    """Two tasks of prisma-lm's own training, and how often the shop talks in a sum."""
    prompts = [text.prompt("steps", example.question) for example in sums]
    said = model.complete_many(prompts, max_new_tokens=64)
    right, drifted = [], []
    for example, reply in zip(sums, said, strict=True):
        right.append(text.correct(example.answer, reply))
        shop_talk = [word for word in SHOP_TALK if word in reply]
        drifted.append(bool(shop_talk))
    calls = evaluate.calls_right(model, 11, len(sums))
    skills = {"function calls": percent(calls)}
    skills["worked sums"] = percent(share(right))
    skills["sums with shop talk"] = percent(share(drifted))
    return skills


# %% tags=["topic:overfit-forgetting"]
rows = [{"model": "before"} | old_skills(chat)]
for method in ("full", "lora"):
    row = {"model": f"{method}, {short.steps} steps"}
    rows.append(row | old_skills(tuned[method]))
row = {"model": "lora, 8 conversations, 36 steps"}
rows.append(row | old_skills(overfit))
figures.table(rows, caption="Skills of before, 32 cases each")


# %% tags=["topic:overfit-forgetting"]
def scores(model) -> torch.Tensor:
    """What `model` gives each next token of a sum: (1, tokens, vocabulary)."""
    prompt = text.prompt("steps", sums[0].question)
    ids = chat.tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        return model(ids.to(model.device)).logits


inside = overfit.model.get_base_model()  # without the mixed precision that the trainer put around
start = four_bit.fresh(chat, "lora", unit.hardware)
before = scores(start.model.to(inside.device))
adapter_on = scores(inside)
with overfit.model.disable_adapter():
    adapter_off = scores(inside)
print("adapter on, the same scores as before: ", torch.equal(adapter_on, before))
print("adapter off, the same scores as before:", torch.equal(adapter_off, before))

# %% [markdown]
# And the facts? A reply *hallucinates* if it names a number, a toy, a status or a person that stands neither in the
# records nor in the message. A program can look that up. Which model will invent most?

# %% tags=["topic:overfit-forgetting"]
said = {f"{method}, {short.steps} steps": replies for method, replies in written.items()}
said["lora, 8 conversations, 36 steps"] = scoring.replies(overfit, test)
for name, replies in said.items():
    rate = quality.hallucination_rate(test, replies)
    print(f"{name:>31}: {percent(rate)} of the replies invent something")

# %% [markdown]
# **What to notice.** Teaching one thing costs others. That is **catastrophic forgetting**: nothing in the new data
# asks for the old skills, so nothing protects them. "LoRA learns less and forgets less", says a paper of that name
# (arXiv 2405.09673). Compare the two rows of 80 steps, with their intervals: is less forgotten here? A low rank limits
# *where* the weights may go, but our LoRA runs at five times the rate, and may go far. Does a small job protect the
# old skills? Look at the row of eight conversations: it was trained for fewer steps and on one handful of replies, and
# what it keeps of the sums it does not keep of the function calls. Each row is one run. So quote that finding with its
# rates, and measure your own.
#
# The last column is **style drift**: where the shop talks in a sum, the new manner has spread to a job that nobody
# meant. And the **hallucinations**: these half-trained models have the tone already and not yet the facts, which is the
# worst moment to show a model to anybody. Do not rank the lines unless their intervals lie apart: with 24 replies each
# is wide, and another seed moves the number. (`7.5_lab_evaluation` goes further with all three.)
#
# LoRA has a way back that full fine-tuning has not: without its adapter the model is what it was, to the last bit, as
# the two lines under the table show. The other cure is *replay*, a little of the old data among the new.

# %% [markdown]
# ## 6. And at seven billion parameters?
#
# Fine-tuning on a card usually fails with *out of memory*, after a long download. How much does a step need? There are
# two ways to know it before. A *formula* adds up the parts, and you can check it by hand. A *simulation* runs the real
# step of the real architecture, forward, backward, optimiser, with tensors that have a shape and no memory (PyTorch's
# FakeTensorMode), and counts what is alive at each moment. Here is QLoRA for Mistral 7B, rank 16, 512 tokens,
# both ways. No card and no weights are needed.

# %% tags=["topic:qlora-7b"]
simulation = simulate.simulate("mistral-7b", "qlora", seq=512)
print(f"simulated in {simulation.seconds:.0f} s")
figures.table(simulate.side_by_side(simulation), caption="One step of QLoRA on Mistral 7B, GiB")

# %% [markdown]
# The parts at rest agree nearly to the byte, because they are counted from shapes. The working memory differs a
# little: the formula adds pieces that are never there at the same moment. At the peak, early in the backward pass,
# there are no gradients yet. So much for one conversation. How many fit on *your* card at once, and how long may
# one be?

# %% tags=["topic:qlora-7b"]
cards = ["t4", "l4", "rtx3060", "rtx4090", "a100-40", "h100", "h200"]
figures.table(
    simulate.largest("mistral-7b", "qlora", cards),
    caption="QLoRA on Mistral 7B: the largest batch of 512 tokens, and the longest single "
    "sequence (tokens)",
    digits=0,
)

# %% [markdown]
# Do not take our word for it. The next cell makes one layer of Mistral at its real width, with random 4-bit weights
# and a small vocabulary, and trains it for one step with the very trainer of the full tier. (`course dryrun-7b` does
# it with all 32 layers: 7 GiB, and one to a few minutes.) What will it need, beside what this notebook holds already?

# %% tags=["topic:qlora-7b"]
one_layer = dataclasses.replace(shapes.architecture("mistral-7b"), layers=1, vocab=4_000)
print(dryrun.run(unit.hardware, one_layer, steps=1, tokens=128))

# %% [markdown]
# **What to notice.** The weights are most of it, even in 4 bits. What LoRA trains, with gradients and averages, is
# about a tenth. Activations grow with batch times length, which is where a step breaks when the weights did fit.
# `course vram --model mistral-7b --method qlora` prints the same for any model and card, and what to change if it
# does not fit. The dry run gives two numbers. The peak of the whole process does not compare with a simulation: most of
# it is Python, its libraries, and what the sections above have left. What the run itself took does. It is somewhat more
# than the simulated tensors, because the optimiser's and the kernels' libraries keep room of their own, and what was
# freed is not given back at once. At 7B that is little beside the weights. And the loss of a dry run would say nothing:
# random weights know no language.

# %% [markdown]
# ### Check the slide: "85 % accuracy, 40 % faster than GPT-4, 90 % cheaper, six hours on a 4090"
#
# A case without a source: no data, no settings, no prices. Part 1 prints what ours reaches, on a task that we made,
# with a model that knows nothing else. "Faster" cannot be checked at all: of which reply, on which machine, with
# how many customers at once? "Six hours" at least is a speed, which the cell works out. "Cheaper" can be worked
# out, if every input is in sight. The prices below are *inputs, not facts*: 30 and 60 dollars for a million tokens
# read and written was GPT-4's list price in 2023; the rent of a card and its speed are round numbers. Put in your
# own.


# %% tags=["topic:customer-support"]
def dollars(replies_a_day: int, read: float, written: float) -> dict[str, float]:
    """What a day of replies costs: by tokens, and on a rented card, which costs while it idles."""
    one_reply = 30e-6 * read + 60e-6 * written  # dollars, by the token
    rent, speed, at_once = 0.40, 50, 8  # dollars an hour, tokens a second, replies side by side
    tokens = replies_a_day * written
    seconds = tokens / speed / at_once
    days = seconds / 3600 / 24  # that one card works for one day's replies
    cards = math.ceil(days)
    row = {"replies a day": replies_a_day, "by the token ($)": replies_a_day * one_reply}
    row["own card ($)"] = 24 * rent * cards
    row["card busy (%)"] = 100 * days
    return row


# %% tags=["topic:customer-support"]
def mean_tokens(texts: list[str]) -> float:
    encoded = chat.tokenizer(texts).input_ids
    lengths = [len(ids) for ids in encoded]
    return statistics.fmean(lengths)


prompts = [chat.prompt(talk.prompt) for talk in test]
replies = [talk.reply for talk in test]
read, answered = mean_tokens(prompts), mean_tokens(replies)
bills = [dollars(n, read, answered) for n in (100, 1_000, 10_000, 100_000)]
trained = 2_000 * 3 * (read + answered)  # conversations, epochs, tokens
speed = trained / 6 / 3600
print(f"three epochs of 2,000 conversations in six hours: {speed:.0f} tokens a second")
figures.table(bills, caption="A day of support, in tokens of prisma-lm")

# %% [markdown]
# **What to notice.** Whether your own model is cheaper depends on how busy it is, and on the price you compare
# with, which has fallen a lot since. With few customers the card stands idle and the token price wins. (prisma-lm
# counts every space as a token; other tokenizers need fewer.) And the six hours? That is a slow run, some times
# what the dry run of a whole 7B model reaches on two CPU cores (`course dryrun-7b`), so a card should beat it. The
# slide's number is possible, and says nothing. The table leaves out the people who collect data, test and keep
# watch; for most teams they are the largest number.

# %% [markdown]
# ## 7. The same run in other tools
#
# transformers, PEFT, TRL and Accelerate are libraries: you write the program. Other tools sit on top of them and take a
# file of settings. Does the recipe carry over? The 7B recipe of this course, in the words of five tools:

# %% tags=["topic:frameworks"]
recipe = qlora.RECIPES["full"]
model = "mistralai/Mistral-7B-Instruct-v0.3"
configs = {}
for tool, make in recipes_elsewhere.TOOLS.items():
    configs[tool] = make(recipe, model, "data/train.jsonl")
rows = []
for meaning, places in recipes_elsewhere.PLACES.items():
    row = {"the recipe's": meaning}
    for tool, place in zip(configs, places, strict=True):
        row[tool] = recipes_elsewhere.in_words(configs[tool], place)
    rows.append(row)
figures.table(rows[:7], caption="What each tool calls it")

# %% [markdown]
# **What to notice.** Most words differ, the ideas do not. Where a tool has no key, it decides for you. The lab
# `7.5_lab_tracking_and_frameworks` says in which file of which version each key was read, and writes the whole files.
#
# | tool | is | take it if |
# | --- | --- | --- |
# | transformers, PEFT, TRL, Accelerate | libraries | you want to change the loop, or understand it |
# | Axolotl, LLaMA-Factory | a file of settings and a command | runs should be files that a colleague can read |
# | Unsloth | a library that replaces parts of transformers by faster ones | one card is all you have |
# | Ludwig | a file of settings for many kinds of models | the language model is one part of several |
# | AutoTrain | a service and a command | you want no code at all |

# %% [markdown]
# ## The same with a real model
#
# prisma-lm was never taught to follow a prompt. So climb the ladder of section 1 again, with a model that a prompt can
# reach: SmolLM2, 135 million weights, in plain lines that you can paste into an empty notebook without the first one
# (with the packages transformers, peft, trl and datasets; on Colab, uninstall its old torchao first, which PEFT
# refuses). At the small and the full tier they run here (a download of 0.3 GB, Apache-2.0). At the bundled tier you see
# a **recording** of these very lines.
#
# A library wants its questions answered in one sentence with the right fact, and then: "Happy reading!" No model can
# know these facts. Eight questions are examples to show and to learn from, eight are the test. Which rung will bring
# the fact, and which the form?

# %% tags=["topic:adaptation-ladder"]
# %%real ladder
TABLE = """How long may I keep a book?|A book may be kept for 24 days.|24 days
What does a new card cost?|A new card costs 7 euros.|7 euros
Where is the reading room?|The reading room is on floor 3.|floor 3
When do you open on Saturdays?|On Saturdays we open at 8:30.|8:30
How many books can I borrow at once?|You can borrow 15 books at once.|15
What is the fine for a late book?|The fine for a late book is 40 cents a day.|40 cents
What does printing a page cost?|Printing a page costs 12 cents.|12 cents
How long can I borrow a film?|A film can be borrowed for 5 days.|5 days
When is story time for children?|Story time for children begins at 15:45.|15:45
How many seats does a group room have?|A group room has 6 seats.|6 seats
When is the book sale?|The book sale is on June 9.|June 9
What does the writing course cost?|The writing course costs 35 euros.|35 euros
How long can I use a laptop?|A laptop can be used for 2 hours.|2 hours
Where are the maps?|The maps are on floor 5.|floor 5
What is the password of the wifi?|The password of the wifi is otter42.|otter42
Who leads the chess club?|The chess club is led by Ms Okafor.|Okafor"""
rows = [line.split("|") for line in TABLE.split("\n")]
shown, tested = rows[:8], rows[8:]

# %% tags=["topic:adaptation-ladder"]
# %%real ladder
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

hub_name = "HuggingFaceTB/SmolLM2-135M-Instruct"  # or "Qwen/Qwen2.5-0.5B-Instruct", 1 GB
words = AutoTokenizer.from_pretrained(hub_name, padding_side="left")
network = AutoModelForCausalLM.from_pretrained(hub_name, dtype=torch.float32)
FORM = "You work in a library. Answer in one sentence. Then write: Happy reading!"


def retrieved(question):
    asked = set(question.lower().strip("?").split())
    return max((row[1] for row in rows), key=lambda fact: len(asked & set(fact.lower().split())))


def dialogue(question, examples=(), with_fact=False):
    turns = [{"role": "system", "content": FORM}]
    for example, fact, _ in examples:
        turns.append({"role": "user", "content": f"{fact} {example}" if with_fact else example})
        turns.append({"role": "assistant", "content": f"{fact} Happy reading!"})
    asked = f"{retrieved(question)} {question}" if with_fact else question
    return [*turns, {"role": "user", "content": asked}]


# %% tags=["topic:adaptation-ladder"]
# %%real ladder
def climb(rung, examples=(), with_fact=False):
    dialogues = [dialogue(row[0], examples, with_fact) for row in tested]
    asked = words.apply_chat_template(
        dialogues, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
    ).to(network.device)
    replies = network.generate(**asked, max_new_tokens=24, do_sample=False)
    said = words.batch_decode(replies[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    facts = [row[2] in reply for row, reply in zip(tested, said, strict=True)]
    forms = [reply.strip().endswith("Happy reading!") for reply in said]
    print(f"{rung:>22}: fact {sum(facts)} of 8, form {sum(forms)} of 8; {said[0]!r}")


climb("nothing but a prompt")
climb("few-shot", shown[:2])
climb("retrieval", with_fact=True)
climb("few-shot and retrieval", shown[:2], with_fact=True)

# %% tags=["topic:adaptation-ladder"]
# %%real ladder
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

lessons = []
for question, fact, _ in shown:
    reply = [{"role": "assistant", "content": f"{fact} Happy reading!"}]
    lessons.append({"prompt": dialogue(question, with_fact=True), "completion": reply})
lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
recipe = SFTConfig(
    output_dir="adapter",
    max_steps=10,
    per_device_train_batch_size=4,
    learning_rate=1e-3,
    gradient_checkpointing=False,
    bf16=False,
    logging_steps=2,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
)
data = Dataset.from_list(lessons)
trainer = SFTTrainer(network, recipe, train_dataset=data, peft_config=lora, processing_class=words)
trained = trainer.train()  # prints the loss every two steps

# %% tags=["topic:adaptation-ladder"]
# %%real ladder
network = trainer.model.eval()
climb("LoRA")
climb("LoRA and retrieval", with_fact=True)

# %% [markdown]
# **What to notice.** In the recording each rung brings one thing. The prompt alone brings nothing: this model is too
# small to obey a description. Two examples bring the form (7 of 8) and no fact. Retrieval brings the fact (6 of 8) and
# no form; together they bring both. Then read the two rows of LoRA. Ten steps on eight lessons give the form in 8 of 8
# without an example in the prompt, and not one fact: it answers in perfect style and invents. With retrieval it has 8
# of 8 in both, for its lessons were also lessons in reading what was retrieved. That is the table "When to fine-tune"
# in one run: retrieval brings facts, training brings habits.
#
# Eight questions are few: 6 and 8 of 8 cannot be told apart. And look at the last reply. It repeats the question before
# the goodbye, and both scores count it as right. A score sees what you thought of when you wrote it.
#
# **Try it.** Put a question to it whose fact is not in the table. Which rung admits that it does not know?

# %% [markdown]
# ## What you take with you
# - Climb the ladder from below, with a score on every rung.
# - Full fine-tuning costs most memory, and in our run it learned most per step. LoRA saves the optimiser and the
#   gradients of the weights: most of that memory, and up to a third of the arithmetic. QLoRA saves room for the
#   weights.
# - Sweep the learning rate first, choose on validation data, and know how much is luck.
# - A training loss of zero is not a goal. Stop when the validation loss no longer falls.
# - Measure what was forgotten. Nobody reports it unasked.
#
# **Try it.** Give the ladder a model of the small tier (`COURSE_TIER=small`): which rung is enough for it? Widen the
# sweep by a rate of 0.05: where does a higher rate begin to undo what it teaches? Mix a few sums into the training
# data and look at section 5 again.
