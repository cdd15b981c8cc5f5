# %% [markdown] tags=["badge"]
# # 7.1 Lab: a vision-language model
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.1_lab_vision_language_model.ipynb)

# %% [markdown]
# **After this notebook you can**
# - join a vision tower and a language model with a projector, and say what each of the three does;
# - teach captions by training the projector alone, and questions with LoRA on top;
# - show that an answer comes from the picture and not from habit;
# - measure object hallucination, and treat one kind of it with data.
#
# **Time:** about 25 minutes to read and run; the cells take about a minute and a half on two free CPU cores.
#
# **Downloads:** nothing. This lab trains, so it takes the two small Prisma models at every tier. They know
# Prisma's toys and nothing else. The unit's core notebook, `7.1_multimodal_ai`, explains CLIP and its patches.

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

unit = open_unit("7.1", tier="bundled")

# %%
import copy
from collections import Counter

import torch
from torch import Tensor, nn

from course_utils import figures
from course_utils.finetuning import lora_by_hand
from course_utils.measures import error_bars, percent, share
from course_utils.models import hardware
from course_utils.multimodal import representations
from course_utils.multimodal import vision_language as vl
from course_utils.prisma import pictures
from course_utils.prisma.shop import HELD_OUT
from course_utils.settings import paced

clip = unit.load("image-text")
chat = unit.load("chat")
tokenizer = chat.tokenizer

# %% [markdown]
# ## 1. One model sees, the other one speaks
#
# `prisma-clip` looks at pictures and cannot talk: it gives vectors. `prisma-lm` writes, and has never seen
# anything. Can we join them without training either of them again?
#
# There is a place where they could meet. The vision tower holds one vector for each patch of the picture. The
# language model turns each word into a vector before its first layer. If a patch vector looked like a word
# vector, the language model could read it. How far apart are the two?

# %%
scenes = {}
scenes["one toy"] = vl.scenes(paced(1200), 1, (1,))  # to learn from
scenes["several toys"] = vl.scenes(paced(1800), 2, (1, 2, 2))
scenes["trained pairs"] = vl.scenes(paced(160, 48), 3, (1,))  # to test with, as all that follow
scenes["held-out pairs"] = vl.scenes(paced(160, 48), 4, (1,), HELD_OUT)
scenes["asked about"] = vl.scenes(paced(300, 96), 5, (1, 2, 2))
scenes["asked, held out"] = vl.scenes(paced(300, 96), 6, (1, 2, 2), HELD_OUT)


def see(images: list) -> Tensor:
    """What the vision tower holds of each picture: 4 x 4 patch vectors, (n, 16, width)."""
    with hardware.autocast(unit.device):
        return representations.picture_tokens(clip, images, grid=4)


images, raw = {}, {}
for seed, (name, some) in enumerate(scenes.items()):
    images[name] = pictures.draw_many(some, seed)
    raw[name] = see(images[name])
flat = raw["one toy"].flatten(0, 1)  # (1200 * 16, width)
mean, deviation = flat.mean(0), flat.std(0) + 1e-5
vectors = {name: (seen - mean) / deviation for name, seen in raw.items()}
words = chat.model.get_input_embeddings().weight
print(f"a picture: {raw['one toy'].shape[1]} vectors of {flat.shape[1]} numbers")
print(f"a word: 1 vector of {words.shape[1]} numbers")

# %% [markdown]
# They do not even have the same length. (The tower has 8 x 8 patches. We take the mean of each 2 x 2 of them:
# a picture token costs as much as a word, and 16 of them keep the sentence short. The line that makes `vectors`
# brings every number to mean 0 and deviation 1, as measured on training pictures.)
#
# Eight colour-shape pairs were kept out of the training of `prisma-clip`. They are kept out of this lab's
# training too. So a **held-out** picture shows a pair that is new to every part of the joint model.

# %%
shown = [
    ("one toy", 0),
    ("several toys", 1),
    ("several toys", 3),
    ("asked about", 2),
    ("held-out pairs", 0),
]
fig, axes = figures.figure(columns=5, width=11, height=2.7)
rows = []
for ax, (name, i) in zip(axes, shown, strict=True):
    toys = [toy.name for toy in scenes[name][i].toys]  # from left to right
    figures.picture(ax, images[name][i], title="\n".join(toys), size=9)
    ax.set_xlabel(name)
    rows.append(" left of ".join(toys))
figures.show(fig, alt=f"Five drawn pictures: {'; '.join(rows)} (held out).")

# %% [markdown]
# ## 2. A picture in the place of words
#
# LLaVA (Liu et al. 2023, arXiv 2304.08485) joins two such models with a single matrix, the **projector**. It
# maps each patch vector to the width of a word vector, and the results stand in the prompt like words. The
# language model needs no change: attention does not ask where a vector came from. LLaVA-1.5 (arXiv
# 2310.03744) replaces the matrix by a two-layer network.


# %% tags=["topic:vlm-captioning-vqa"]
class Talker(nn.Module):
    """A language model that reads projected patch vectors as if they were words."""

    def __init__(self, projector: nn.Module, lm: nn.Module) -> None:
        super().__init__()
        self.projector, self.lm = projector, lm

    def embed(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """<|user|>, the picture, the rest of the prompt: (n, 1 + patches + words, width)."""
        table = self.lm.get_input_embeddings()
        words = table(ids)  # (n, 1 + words, width)
        seen = self.projector(vectors).to(words.dtype)  # (n, patches, width)
        return torch.cat([words[:, :1], seen, words[:, 1:]], 1)

    def forward(self, vectors: Tensor, ids: Tensor) -> Tensor:
        embedded = self.embed(vectors, ids)
        return self.lm(inputs_embeds=embedded).logits


# %% tags=["topic:vlm-captioning-vqa"]
def projector(kind: str) -> nn.Module:
    """From a patch vector to the width of a word: "one matrix" or "two layers"."""
    torch.manual_seed(unit.seed)
    eye, width = flat.shape[1], words.shape[1]
    matrix = nn.Linear(eye, width)
    first, second = nn.Linear(eye, width), nn.Linear(width, width)
    network = nn.Sequential(first, nn.GELU(), second)
    chosen = matrix if kind == "one matrix" else network
    return chosen.to(words.device)


# %% [markdown]
# Is the language model still the same? Give it a picture of *zero* patches and compare. And what does it say
# to a real picture, through a projector that has learned nothing?

# %%
frozen = copy.deepcopy(chat.model).requires_grad_(False)
# For short rows on a CPU this kernel trains faster than the fused one.
frozen.set_attn_implementation("eager")
untrained = Talker(projector("one matrix"), frozen)
prompt = vl.prompt_ids(tokenizer, "What is this?")
ids = torch.tensor([prompt], device=words.device)  # (1, words)
nothing = torch.zeros(1, 0, flat.shape[1], device=words.device)
with torch.inference_mode():
    joint = untrained(nothing, ids)  # (1, words, vocabulary)
    alone = frozen(ids).logits
difference = (joint - alone).abs().max()
print(f"without a picture, the largest difference from prisma-lm: {difference:.0e}")

captions = {name: vl.questions(some, 0, ["caption"]) for name, some in scenes.items()}
few = captions["trained pairs"][:3]
replies = vl.answers(untrained, tokenizer, vectors["trained pairs"], few)
for caption, reply in zip(few, replies, strict=True):
    print(f"shown: {caption.answer:<22} said: {reply!r}")

# %% [markdown]
# **What to notice.** Without a picture it is `prisma-lm` itself. With an untrained projector the picture is
# noise in the prompt, and what the model says has nothing to do with what is shown.

# %% [markdown]
# ## 3. Stage one: only the projector learns
#
# LLaVA trains in two stages. In the first, tower and language model are frozen, and the projector learns from
# captions. What is there to learn, if the language model must not change? Where in its space of words a red
# patch has to land so that the model *says* "red". The loss is the usual one, on the words of the answer: the negative
# natural logarithm of the probability that the model gave to the right token. Its unit is the **nat**; a token at
# 50 % costs 0.69 nats.
#
# Before you run it: is one matrix enough, or does it take two layers?

# %% tags=["topic:vlm-captioning-vqa"]
taught = vl.lesson(tokenizer, captions["one toy"])
talkers, losses, said, rows = {}, {}, {}, []
for kind in ("one matrix", "two layers"):
    talker = Talker(projector(kind), frozen)
    losses[kind] = vl.fit(talker, vectors["one toy"], taught, 90, unit.seed, batch=32, label=kind)
    weights = lora_by_hand.parameters(talker)
    for name in ("trained pairs", "held-out pairs"):
        asked = captions[name]
        replies = vl.answers(talker, tokenizer, vectors[name], asked)
        row = {"projector": kind, "weights": weights["trained"], "pictures": name}
        row["whole caption"] = percent(vl.exact(asked, replies))
        for word, mark in vl.by_word(asked, replies).items():
            row[word] = percent(mark)
        rows.append(row)
        said[kind, name] = replies
    talkers[kind] = talker
figures.table(
    rows, caption="Captions of 160 fresh pictures each: right word for word, with 95 % intervals"
)

# %%
fig, ax = figures.figure(height=3.2)
last = []
for kind, line in losses.items():
    tens = torch.tensor(line).unfold(0, 10, 1)  # (steps - 9, 10)
    steps = range(10, len(line) + 1)
    ax.plot(steps, tens.mean(1), label=kind)
    end = sum(line[-10:]) / 10
    last.append(f"{kind} {end:.2f}")
ax.set(xlabel="step", ylabel="loss (nats a token)")
ax.set_title("Stage one: the projector alone (mean of 10 steps)")
ax.set_ylim(bottom=0)
ax.legend(loc="upper right")
told = f"at the end: {', '.join(last)} nats a token"
figures.show(fig, alt=f"Loss of the captions against training steps; {told}.")

# %% [markdown]
# **What to notice.** The language model has learned nothing here, and yet it captions. Both halves of the
# knowledge were there; a small network connects them (compare the column of weights with the 5.4 million of
# `prisma-lm`). One matrix and two layers got the same steps: compare them, then compare trained pairs with
# held-out ones. The columns on the right say which word goes wrong.
#
# **Exercise.** Give the picture fewer tokens: `grid=1` in `see` makes one vector of the whole picture. Which
# word of the caption suffers most?

# %% [markdown]
# ## 4. Does the answer come from the picture?
#
# A model that answers well may still not look: it could say what is usually right. Two tests are cheap and
# always worth it. Show it the **wrong picture** and keep the question. And compare with the **best blind
# guess**: the answer that training gave most often to the same words.

# %% tags=["topic:vlm-captioning-vqa"]
name = "trained pairs"
asked, talker = captions[name], talkers["two layers"]
astray = vl.answers(talker, tokenizer, vectors[name], asked, shift=1)
moved = asked[1:] + asked[:1]
guesses = vl.blind_guesses(captions["one toy"], asked)
results = {}
results["the right picture"] = vl.exact(asked, said["two layers", name])
results["a wrong picture"] = vl.exact(asked, astray)
results["a wrong picture, but judged by that one"] = vl.exact(moved, astray)
results["no picture: the best blind guess"] = vl.exact(asked, guesses)
table = [{"the model gets": what, "caption right": percent(mark)} for what, mark in results.items()]
figures.table(table, caption="160 pictures; 3 x 56 captions are possible")

# %% [markdown]
# **What to notice.** The caption follows the picture, wherever the picture goes. For captions that is no
# surprise, because the question is always the same. For the questions of the next section it is a real test.

# %% [markdown]
# ## 5. Stage two: questions, with LoRA on the language model
#
# "What colour is the ring?" takes more than naming: the model must find the ring among several toys. "What is
# left of the red cube?" takes two places. In LLaVA's second stage the language model learns too. We give it
# LoRA adapters (arXiv 2106.09685; the very ones of Unit 7.5) and let the projector learn on.
#
# The kinds of question: a list of what is there, from left to right; colour, shape and number; what is left of
# what ("no toy", if nothing is); and polls with the answer yes or no.

# %% tags=["topic:vlm-captioning-vqa"]
kinds = ["list", "colour", "shape", "count", "left", "there", "not there"]
kinds += ["colour", "left"]  # twice: asked more often
lessons = vl.questions(scenes["several toys"], 0, kinds, each=4)
exams = {}
for name in ("asked about", "asked, held out"):
    exams[name] = vl.questions(scenes[name], 1, kinds, each=2)
examples = {question.kind: question for question in lessons[:60]}  # one of each kind
for kind, question in examples.items():
    print(f"{kind:<10} {question.text:<44} {question.answer}")

# %% tags=["topic:vlm-captioning-vqa"]
answerer = copy.deepcopy(talkers["two layers"])
added = lora_by_hand.add_lora(answerer.lm, rank=16, alpha=32)
answerer.to(words.device)
answerer.projector.requires_grad_(True)
taught = vl.lesson(tokenizer, lessons)
seen = vectors["several toys"]
label = "LoRA and projector"
loss = vl.fit(answerer, seen, taught, 320, unit.seed, peak=4e-3, batch=32, label=label)
print(f"\n{len(lessons):,} questions on {len(seen):,} pictures; adapters in {len(added)} matrices")
learned = lora_by_hand.parameters(answerer)["trained"]
end = sum(loss[-10:]) / 10
print(f"{learned:,} weights learned, the loss fell from {loss[0]:.2f} to {end:.2f}")

# %% tags=["topic:vlm-captioning-vqa"]
exam, held = exams["asked about"], exams["asked, held out"]
written = vl.answers(answerer, tokenizer, vectors["asked about"], exam)
held_written = vl.answers(answerer, tokenizer, vectors["asked, held out"], held)
astray = vl.answers(answerer, tokenizer, vectors["asked about"], exam, shift=7)
guesses = vl.blind_guesses(lessons, exam)
columns = {}
columns["right picture"] = vl.by_kind(exam, written)
columns["held-out pairs"] = vl.by_kind(held, held_written)
columns["wrong picture"] = vl.by_kind(exam, astray)
columns["best blind guess"] = vl.by_kind(exam, guesses)
rows = []
for kind, mark in columns["right picture"].items():
    row = {"question": kind, "asked": mark.n}
    for name, marks in columns.items():
        row[name] = percent(marks[kind]) if kind in marks else "-"
    rows.append(row)
figures.table(rows, caption="Answers that are right word for word, with 95 % intervals")

# %% [markdown]
# **What to notice.** Read each row against its *own* blind guess, not against zero: a poll is half right with
# closed eyes. Where "right picture" lies clearly above "best blind guess", the model looks, and it helps. Where the
# two intervals meet, nothing has been learned that deserves the name. Then read "wrong picture". Where the model
# looks, a wrong picture brings it down to the guess or below: it then answers truly, about something else. In the row
# *left*, too, compare the two. If it falls below the guess, the model does look there, and sees too little to beat it.
#
# How does it fail? With two toys, a wrong colour can be the colour of the *other* toy. That is a mistake in
# **binding**, the weak point of CLIP in the core notebook: the model saw both colours and took the wrong one.

# %% tags=["topic:vlm-captioning-vqa"]
fails = []
for question, text in zip(exam, written, strict=True):
    toys = scenes["asked about"][question.picture].toys
    wrong = text != question.answer
    if question.kind == "colour" and len(toys) == 2 and wrong:
        colours = [toy.colour for toy in toys]
        fails.append(text in colours)
print("wrong colours in scenes of two toys that are the colour of the other toy:", share(fails))
print(f"one of the seven wrong colours at random would be that in {1 / 7:.0%}")

# %% [markdown]
# ## 6. Does it see what is not there?
#
# **Object hallucination**: the model says yes to something that is not in the picture. POPE (Li et al. 2023,
# arXiv 2305.10355) measures it with polls like ours, half of them about objects that are not there.

# %% tags=["topic:vlm-captioning-vqa"]
polls = {"it is there": "there", "it is not there": "not there"}
yes = {label: vl.said_yes(exam, written, kind) for label, kind in polls.items()}
fig, ax = figures.figure(height=2.3)
values, ends = error_bars(yes.values())
colours = [figures.PALETTE["blue"], figures.PALETTE["vermilion"]]
ax.barh([0, 1], values, xerr=ends, capsize=4, color=colours)
names = [f"{label} (n = {mark.n})" for label, mark in yes.items()]
ax.set_yticks([0, 1], names)
ax.set(xlabel='share of answers "yes" (95 % intervals)', xlim=(0, 1))
ax.set_title('Polls such as "Is there a cube?"')
ax.invert_yaxis()
told = [f"{label} {percent(mark)}" for label, mark in yes.items()]
figures.show(fig, alt=f"Share of yes: {'; '.join(told)}")

# %% [markdown]
# The vermilion bar should be empty: each yes there is a hallucination. A model that says yes to everything
# would have two full bars, so look at the distance between them.
#
# Now a question that is itself wrong: "What colour is the ring?", where there is no ring. All colour questions
# in training were about toys that were there. What will it say?

# %% tags=["topic:vlm-captioning-vqa"]
trick = vl.questions(scenes["asked about"], 2, ["absent"])
real = [question for question in exam if question.kind == "colour"]
replies = vl.answers(answerer, tokenizer, vectors["asked about"], trick)
frequent = Counter(replies).most_common(5)
print("no such toy, and it says:", dict(frequent))
trick_before = vl.exact(trick, replies)
real_before = vl.by_kind(exam, written)["colour"]

# %% tags=["topic:vlm-captioning-vqa"]
mixed = [*kinds, "absent"]
cured = copy.deepcopy(answerer)
more = vl.questions(scenes["several toys"], 3, mixed, each=4)
taught = vl.lesson(tokenizer, more)
label = "with wrong questions"
vl.fit(cured, seen, taught, 50, unit.seed, peak=2e-3, batch=32, label=label)
trick_replies = vl.answers(cured, tokenizer, vectors["asked about"], trick)
real_replies = vl.answers(cured, tokenizer, vectors["asked about"], real)
trick_after = vl.exact(trick, trick_replies)
real_after = vl.exact(real, real_replies)
refused = share([text.startswith("no ") for text in real_replies])
lines = {'"no ring" where there is none': (percent(trick_before), percent(trick_after))}
lines["the right colour where there is one"] = (percent(real_before), percent(real_after))
lines['"no ring" where there is one'] = ("-", percent(refused))
rows = []
for what, (before, after) in lines.items():
    rows.append({"What colour is the ring?": what, "before": before, "after": after})
figures.table(
    rows,
    caption="Questions about a toy that is not there: before, and after 50 steps that contain some",
)

# %% [markdown]
# **What to notice.** Before, the model names a colour for a toy that does not exist: nothing in its training said
# that a question can be wrong. A few steps with wrong questions change that (LRV-Instruction, arXiv
# 2306.14565, is this idea at full size). The other two rows are the price. A model that cannot see well whether
# the ring is there learns to *doubt* rather than to look, and then denies real rings too. Measure both sides;
# the first row alone would have sold this as a cure.
#
# **Exercise.** Put "absent" into `mixed` three times instead of once. Which row gets better, which one worse?

# %% [markdown]
# ## 7. From here to LLaVA
#
# | | this lab | LLaVA (arXiv 2304.08485) |
# | --- | --- | --- |
# | vision tower, frozen | `prisma-clip`, 16 vectors a picture | CLIP ViT-L/14, 256 vectors |
# | projector | one matrix, or two layers | one matrix (two layers in LLaVA-1.5) |
# | language model | `prisma-lm`, 5.4 million weights | Vicuna, 7 or 13 billion |
# | stage one | 1,200 captions, projector only | 595,000 captions, projector only |
# | stage two | drawn questions, projector and LoRA | 158,000 written by GPT-4, projector and the whole model |
#
# The parts and the two stages are the same. What the small one lacks is a language model that can talk about
# more than toys, and a tower that has seen more than drawings.
#
# **You have now** made a blind language model see, by training a projector and a few adapters; shown what it
# takes from the picture and what from habit; and measured what it makes up.
