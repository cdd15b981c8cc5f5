# %% [markdown] tags=["badge"]
# # 7.5 Lab: track, compare, write it for another tool
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.5_lab_tracking_and_frameworks.ipynb)

# %% [markdown]
# **After this notebook you can**
# - keep a training run so that you can compare it, find it and repeat it, in TensorBoard and in MLflow;
# - switch off what a tracker sends home;
# - run three kinds of benchmark with a standard harness, and say what each can see;
# - write one recipe for Axolotl, LLaMA-Factory, AutoTrain, Ludwig and Unsloth, and know what gets lost on the way.
#
# **Time:** about 25 minutes to read and run; the cells take about a minute and a half on two free CPU cores.
#
# **Downloads:** nothing. **Uploads:** nothing; all trackers write to this machine only. This lab trains, so it takes
# prisma-lm at every tier.

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
from dataclasses import replace

from IPython.display import display

from course_utils import figures
from course_utils.finetuning import benchmarks, four_bit, qlora, scoring, sft, tracking
from course_utils.finetuning import recipes_elsewhere as elsewhere
from course_utils.models import loaders, roles
from course_utils.prisma import conversations

have = tracking.installed()
for module, name in tracking.TRACKERS.items():
    if have[module]:
        print(f"{name}: is here")
    else:
        print(f"{name}: is not installed; its part is left out, the rest works")
if not (have["tensorboard"] and have["mlflow"]):
    print("To get TensorBoard and MLflow:", tracking.how_to_install())

# %% [markdown]
# ## 1. Which run was the good one?
#
# Last month you trained twelve times. One of them was good. Which learning rate had it, which data, which version of
# the library? A *tracker* keeps for every run what went in (settings) and what came out (numbers by step).
#
# Our job is a small one, so that a run takes seconds: read a customer's message, and write the line for the files,
# topic and order number. Three runs, three learning rates. Which one will win, and how will the others fail? Guess.


# %% tags=["topic:experiment-tracking"]
def filed(talk: conversations.Conversation) -> conversations.Conversation:
    """The same message, with the ticket line as what should be written."""
    ticket = {"topic": talk.intent, "number": str(talk.number)}
    return replace(talk, required=ticket)


talks = conversations.by_split(conversations.make_conversations())
tickets = {}
for part, group in talks.items():
    tickets[part] = [filed(talk) for talk in group]
tickets["validation"] = tickets["validation"][:16]
test, data = tickets["test"][:60], sft.rows(tickets["train"])

base = qlora.RECIPES["bundled"]
short = replace(base, conversations=192, epochs=1.0)
runs = {}
for rate in (2e-4, 5e-3, 1e-1):
    runs[f"rate {rate:g}"] = replace(short, learning_rate=rate)
runs["rate 0.005, again"] = runs["rate 0.005"]
steps = {name: recipe.steps for name, recipe in runs.items()}
print(steps)
print("what is kept of each:", tracking.settings(short, data[: short.conversations]))

# %% [markdown]
# The last run repeats the second one. A record is worth something if the same record gives the same run.
#
# MLflow reports its own use to its makers, unless `MLFLOW_DISABLE_TELEMETRY` is set before it is imported.
# `tracking.mlflow` sets it, and keeps everything in one SQLite file. TensorBoard writes one folder for each run. Both
# get their numbers from the same callback, ten lines long: trainers call it whenever they log.


# %% tags=["topic:experiment-tracking"]
def recorded(name: str, recipe: qlora.Recipe) -> roles.Chat:
    """Train by `recipe` while the trackers that are here look on; the trained model."""
    plain = loaders.load("chat", unit.hardware, "bundled")
    chat = four_bit.quantised(plain, unit.hardware)
    folder = unit.folder / name.replace(" ", "-")
    trainer = sft.make_trainer(chat, tickets, recipe, unit.hardware, folder)
    trackers = []
    if have["tensorboard"]:
        trackers.append(tracking.tensorboard(boards / name))
    if client:
        kept = tracking.settings(recipe, data[: recipe.conversations])
        trackers.append(tracking.mlflow_run(client, experiment, name, kept))
    writers = [write for write, _ in trackers]
    trainer.add_callback(tracking.follow(writers))
    sft.train(trainer)
    trained = replace(chat, model=trainer.model)
    replies = scoring.replies(trained, test)
    right = scoring.score(test, replies)["all"]
    for write, close in trackers:
        write("right on the test", right.value, recipe.steps)
        close()
    return trained


# %% tags=["topic:experiment-tracking"]
boards, client = unit.folder / "board", None
if have["mlflow"]:
    client, experiment = tracking.mlflow(unit.folder / "mlflow")
models = {name: recorded(name, recipe) for name, recipe in runs.items()}
if client:
    shown = ("run", "learning_rate", "rank", "data", "loss", "eval_loss", "right on the test")
    rows = []
    for run in tracking.read_mlflow(client, experiment):
        row = {key: run[key] for key in shown}
        rows.append(row)
    display(figures.table(rows, digits=3))
else:
    print("MLflow is not here, so there is no table to ask for.")

# %% [markdown]
# This table came out of MLflow's database: it can be asked for any column, and sorted by any of them. TensorBoard
# keeps the same numbers as curves. Here they are, read back from its files. (A loss is counted in *nats*: minus the
# natural logarithm of the right token's probability, on average. 0.69 nats are 1 in 2, 2.3 are 1 in 10.)

# %% tags=["topic:experiment-tracking"]
if have["tensorboard"]:
    curves = {name: tracking.read_tensorboard(boards / name) for name in runs}
    fig, axes = figures.figure(columns=2, width=9, height=3.2)
    labels = {"eval_loss": "validation loss (nats per token)"}
    labels |= {"grad_norm": "length of the gradient"}
    for ax, (tag, label) in zip(axes, labels.items(), strict=True):
        for name, numbers in curves.items():
            steps, values = zip(*numbers[tag], strict=True)
            # The repeated run is drawn over the first one, so as wide dots.
            style, width = (":", 4) if name == "rate 0.005, again" else ("-", 2)
            ax.plot(steps, values, style, label=name, linewidth=width)
        ax.set(xlabel="training steps", ylabel=label, yscale="log")
    axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    ends = []
    for name, numbers in curves.items():
        _, loss = numbers["eval_loss"][-1]
        ends.append(f"{name} ends at {loss:.2f}")
    alt = f"Validation loss and gradient length of four runs by step; {', '.join(ends)}."
    figures.show(fig, alt)

# %% tags=["topic:experiment-tracking"]
if have["tensorboard"]:
    first, again = curves["rate 0.005"], curves["rate 0.005, again"]
    differences = []
    for (_, loss), (_, repeated) in zip(first["loss"], again["loss"], strict=True):
        differences.append(abs(loss - repeated))
    off = max(differences)
    print(f"the repeated run differs from the first by at most {off:.1e} in its training loss")
    print(f"numbers kept for a run: {', '.join(sorted(first))}")

# %% [markdown]
# **What to notice.** The lowest rate has not arrived when the run ends. The highest one breaks the model: its gradient
# leaps after a few steps, and it ends as a model that files nothing right. Sorted by loss, the broken run may even
# stand above the slow one; the column "right on the test" tells you more.
#
# The repeated run follows the first one: seed, data and settings are all that a rerun needs, as long as the machine and
# the library versions are the same. That is why they stand in the record, with a *fingerprint* of the data, and not its
# file name: a name can stay while the content changes.
#
# With one seed for each rate you know which *run* was best, and not yet which rate is. Differences as large as these
# are no accident; before you choose between two that are close, repeat both with other seeds.
#
# To look around yourself, in a terminal: `tensorboard --logdir FOLDER` or, with the full MLflow, `mlflow ui
# --backend-store-uri sqlite:///FOLDER/mlflow.db`. Both listen on this machine only, unless you tell them otherwise.
#
# ### Weights & Biases
#
# It keeps the same things, by default on its makers' servers, with an account. Offline mode writes files that you can
# send later with `wandb sync`, or never.

# %% tags=["topic:experiment-tracking"]
if have["wandb"]:
    write, finish = tracking.wandb(unit.folder, "rate 0.005")
    losses = curves["rate 0.005"]["loss"] if have["tensorboard"] else []
    for step, value in losses:
        write("loss", value, step)
    finish()
    folders = (unit.folder / "wandb").glob("offline-run-*")
    names = [folder.name for folder in folders]
    print("offline run in:", ", ".join(names))
else:
    print("Weights & Biases is not installed, so nothing was written for it.")
    print(f"`{colab.how_to_add('wandb')}` brings it;")
    print("this cell then writes an offline run, and sends nothing.")

# %% [markdown]
# ## 2. Benchmarks: what did the fine-tuning do to everything else?
#
# Our test asks for the new job only. Benchmarks ask for the rest. Three kinds have become standard, and they
# differ in *how the answer is marked*:
#
# - **choose** one of several answers: MMLU (arXiv 2009.03300). Nothing is written; the likeliest choice counts.
# - **run** what the model wrote: HumanEval (arXiv 2107.03374). Many programs are right, so they are executed.
# - **judge** an open answer: MT-Bench (arXiv 2306.05685), where a large language model gives the points.
#
# EleutherAI's `lm-evaluation-harness` runs hundreds of published tasks with one command. prisma-lm knows a toy
# shop, and none of them would say anything about it. So we hand the harness three tasks of our own, of the same
# three kinds: choose the topic of a message; write a calculator call that gives the right sum; answer a customer,
# judged by rules.
#
# One warning first. HumanEval executes what a model wrote. A model can write anything, so the harness refuses
# such tasks until you allow them, and you should only do that in a sandbox (a container without network). Our
# "programs" are sums: the shop's calculator reads them as a syntax tree and executes nothing.

# %% tags=["topic:eval-benchmarks"]
candidates = {"prisma-lm": loaders.load("chat", unit.hardware, "bundled")}
for name in ("rate 0.005", "rate 0.1"):
    candidates[f"tickets, {name}"] = models[name]
rows = []
try:
    for name, chat in candidates.items():
        row = {"model": name}
        for kind, mark in benchmarks.evaluate(chat, 40).items():
            row[kind] = str(mark)
        rows.append(row)
    table = figures.table(rows, caption="40 questions of each kind, with 95 % intervals")
    display(table)
except ImportError:
    print(benchmarks.missing())

# %% [markdown]
# **What to notice.** Fine-tuned on tickets, the model chooses the right topic far more often: that is its new job,
# asked in another form. And the sums? It was good at them, and a few seconds of training on something else can cost
# that skill. Nobody would have seen it in the ticket score. That is *catastrophic forgetting*, and a benchmark from
# before is how you notice. The third column is zero, or nearly, for all: nobody taught the house style here. A
# benchmark on which all candidates lie on the floor tells nothing about their differences.
#
# Read the numbers of published models in the same spirit. A choice can be guessed (one in ten here, one in four in
# MMLU), a judge has tastes, and a test that was in the training data measures memory.

# %% [markdown]
# ## 3. The same run in five other tools
#
# transformers, PEFT, TRL and Accelerate are what we used so far. Many teams use a tool on top of them that takes
# a file of settings instead of code. Is it the same run? One `Recipe`, the 7B one of this course, written for
# each:

# %% tags=["topic:frameworks"]
recipe = qlora.RECIPES["full"]
model, file = "mistralai/Mistral-7B-Instruct-v0.3", "data/train.jsonl"
configs = {}
for tool, make in elsewhere.TOOLS.items():
    configs[tool] = make(recipe, model, file)
axolotl = elsewhere.written("axolotl", configs["axolotl"], file)
print(axolotl)

# %% [markdown]
# What is a rank called elsewhere? And what cannot be said at all? "No key found" means that we found none in the files
# that we read.

# %% tags=["topic:frameworks"]
rows = []
for meaning, places in elsewhere.PLACES.items():
    row = {"the recipe's": meaning}
    for tool, place in zip(configs, places, strict=True):
        row[tool] = elsewhere.in_words(configs[tool], place)
    rows.append(row)
figures.table(rows, caption="One recipe, in the words of five tools")

# %% [markdown]
# **What to notice.** "At once" and "accumulated" are everywhere, and their product is the batch. But "the same
# recipe" hides choices that somebody else makes for you:
#
# - Ludwig and Unsloth want the matrices by name. Leave Ludwig's key out, and PEFT's default decides: fewer
#   matrices than "all linear layers".
# - AutoTrain and Ludwig have no key for the loss on the reply only. Ludwig's code does it anyway; AutoTrain's trains
#   on the whole text, and packs several conversations into one row. Both count whole epochs.
# - Ludwig sets rows aside for validation and test unless the file says otherwise, and so trains on fewer.
# - NF4 is a setting in two of the five. The others choose the 4-bit format themselves.
#
# So compare two tools by what they *train*: the number of trained parameters and the labels of one example, as
# the core notebook does, and not by their config files.
#
# ### Would the tool take this file?
#
# A misspelt key is a quiet mistake: some tools ignore it and train with their default. So every key was looked up
# in the tool's own repository, and a list says in which file of which commit. And a right key can hold a wrong value.
# So the tool's own code has read the file, too, without a card and without a model, and gave every value back
# unchanged. (Of Unsloth's own two calls we could check the names only.) The last columns say which version, which
# part of it, and when.

# %% tags=["topic:frameworks"]
rows = [elsewhere.checked(tool, config) for tool, config in configs.items()]
misspelt = configs["llama-factory"] | {"lora_rnak": 16}
mistakes = elsewhere.unknown("llama-factory", misspelt)
print("a planted mistake is found:", mistakes)
figures.table(rows, caption="Where the keys were read; recipes_elsewhere.toml has the paths")

# %%
for tool, config in configs.items():
    folder = unit.folder / "elsewhere" / tool
    files = elsewhere.save(tool, config, file, folder)
    names = [path.name for path in files]
    print(f"{tool:>14}: {', '.join(names)}")
unsloth = elsewhere.written("unsloth", configs["unsloth"], file)
print(f"\n{unsloth}")

# %% [markdown]
# **What the tools' own code told us.** An older version of LLaMA-Factory calls its 4-bit method `bitsandbytes`, and
# our file did, too. Version 0.9.5 calls it `bnb`. From a file it takes the old word without complaint, and then
# quantises nothing: a LoRA run in 16 bits, on a card that was chosen for 4. The same word on its command line is
# refused. And a misspelt key? LLaMA-Factory refuses it, AutoTrain and Ludwig warn and drop it, Axolotl drops it in
# silence.
#
# **What was not done.** No training was run in any of the five: they want an NVIDIA card, and versions of torch and
# transformers that do not live beside the course's. That a file is taken does not prove that the runs are the same,
# nor that a newer version takes it. Unsloth's is a script, because Unsloth is a library: it replaces parts of
# transformers by faster ones, and wants a card before it looks at a value.
#
# Which one? If you want to change the loop, stay with TRL. If you want to keep runs as files that a colleague can
# read, Axolotl or LLaMA-Factory. If memory on one card is the problem, Unsloth.

# %% [markdown]
# ## What you take with you
# - A record is settings, data fingerprint, versions and numbers. Try once whether the record gives the run.
# - Trackers talk. Know what is sent, and where to switch it off.
# - After fine-tuning, ask for what you did not train. Three kinds of marking see three kinds of damage.
# - A config file hides defaults. Compare what is trained, not what is written.
#
# **Try it.** Track a run with rank 2. Add a fourth benchmark: the status of an order, as a choice among five.
