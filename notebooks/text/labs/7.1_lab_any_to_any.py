# %% [markdown] tags=["badge"]
# # 7.1 Lab: one model for words, pictures and sounds
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.1_lab_any_to_any.ipynb)

# %% [markdown]
# **After this notebook you can**
# - turn pictures and sounds into tokens, and say what that costs;
# - put three modalities into one vocabulary and train one autoregressive transformer on all of them;
# - make it caption, draw and play, and measure each of the six directions with an interval;
# - say in bits how much one modality tells the model about another.
#
# **Time:** about 20 minutes to read and run; the cells take about a minute and a half on two CPU cores.
#
# **Downloads:** nothing. The one model of this lab starts from random weights and is trained here.

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
import math
from itertools import permutations, product

import torch
from IPython.display import Audio
from torch import Tensor

from course_utils import figures
from course_utils.measures import Measure, percent
from course_utils.multimodal import unified
from course_utils.prisma.shop import COLOURS, HELD_OUT, SHAPES

# %% [markdown] tags=["topic:single-vs-multi-vs-any"]
# ## 1. Can one network read, draw and play?
#
# The models of the core notebook have one job each: `prisma-clip` compares, `prisma-whisper` writes down what
# it hears. An **any-to-any** model takes any modality and gives any other one. One recipe for it is almost
# plain: turn everything into tokens, and train a language model on them. Chameleon (arXiv 2405.09818) does it
# with words and pictures, AnyGPT (arXiv 2402.12226) with speech and music too.
#
# We build one in a minute and a half, so the world has to be small: every toy has a name of two words, a
# picture of 24 x 24 pixels and a jingle of one second. Its shape is the tune, its colour the instrument. No
# two pictures and no two jingles are the same. Eight colour-shape pairs are **held out** of all training.

# %%
all_pairs = list(product(COLOURS, SHAPES))
toys = {"train": unified.pairs_of(2400, 0), "test": unified.pairs_of(224, 1)}
toys["held out"] = unified.pairs_of(160, 2, HELD_OUT)
toys["judges"] = unified.pairs_of(1200, 3, all_pairs)
pictures, waves, sounds = {}, {}, {}
for seed, (name, pairs) in enumerate(toys.items()):
    pictures[name] = unified.draw_toys(pairs, seed)  # (n, 3, 24, 24)
    waves[name] = unified.play_toys(pairs, seed)  # (n, samples)
    sounds[name] = unified.to_frames(waves[name])  # (n, 12, 80)

names = [" ".join(pair) for pair in toys["test"]]
low, high = sounds["test"][:4].aminmax()
fig, axes = figures.figure(rows=2, columns=4, width=10, height=4.6)
for i, (top, bottom) in enumerate(axes.T):
    image = pictures["test"][i].permute(1, 2, 0)  # (24, 24, 3)
    figures.picture(top, image, names[i])
    bands = sounds["test"][i].T.flip(0)  # (80, 12), the highest first
    drawn = figures.heatmap(bottom, bands, low=low.item(), high=high.item())
    bottom.set(xlabel="frame (80 ms)", yticks=[])
axes[1, 0].set_ylabel("mel band")
fig.colorbar(drawn, ax=axes[1], label="log energy")  # all four share one scale
told = "Four toys, each as a small picture and as the spectrogram of its jingle"
figures.show(fig, alt=f"{told}: {', '.join(names[:4])}.")
print("The jingle of the", names[0])
Audio(waves["test"][0], rate=unified.RATE)

# %% [markdown]
# ## 2. What is a token of a picture?
#
# A word is a token already. A picture is cut into 36 patches of 4 x 4 pixels, a jingle into 12 frames. But a
# patch is 48 numbers, and a language model chooses from a list. So we learn a list: k-means finds `k` typical
# patches, the **codebook**, and each patch is replaced by the number of the closest entry. (Big models train
# a network to do it, the VQ-VAE of arXiv 1711.00937; its codebook works in the same way.)
#
# What is lost on the way? Two measures: the error of the numbers, and whether a **judge** still recognises the
# toy. The judges are small classifiers, trained on real pictures and jingles of all 64 pairs.

# %% tags=["topic:unified-tokens"]
eye = unified.train_judge(pictures["judges"], toys["judges"], unit.seed)
ear = unified.train_judge(sounds["judges"], toys["judges"], unit.seed)


def cost(judge: unified.Judge, made: Tensor, real: Tensor) -> tuple[float, str]:
    """Of the test toys: the root mean square error, and how many of them the judge recognises."""
    error = (made - real).square().mean().sqrt()
    recognised = unified.agreement(judge(made), toys["test"])
    return error.item(), percent(recognised["both"])


# %% tags=["topic:unified-tokens"]
patches = {name: unified.to_patches(pictures[name]) for name in ("train", "test", "held out")}
samples = patches["train"][:500].flatten(0, 1)  # (18000, 48)
frames = sounds["train"][:500].flatten(0, 1)  # (6000, 80)
rows, tried = [], {}
for k in (8, 16, 32, 64, 128, 256):
    looks = unified.learn_codebook(samples, k, unit.seed)  # (k, 48)
    tones = unified.learn_codebook(frames, k, unit.seed)  # (k, 80)
    tried[k] = looks
    picture_codes = unified.nearest(patches["test"], looks)  # (224, 36): numbers of entries
    sound_codes = unified.nearest(sounds["test"], tones)  # (224, 12)
    seen = unified.from_patches(looks[picture_codes])
    heard = tones[sound_codes]
    row = {"codebook": k, "bits a token": k.bit_length() - 1}
    row["error (pictures)"], row["judge right (pictures)"] = cost(eye, seen, pictures["test"])
    row["error (jingles)"], row["judge right (jingles)"] = cost(ear, heard, sounds["test"])
    rows.append(row)
_, seen_right = cost(eye, pictures["test"], pictures["test"])
_, heard_right = cost(ear, sounds["test"], sounds["test"])
last = ("none", "-", "0", seen_right, "0", heard_right)
rows.append(dict(zip(row, last, strict=True)))
caption = "The cost of tokens: root mean square error, and toys recognised, 224 test toys"
figures.table(rows, caption=caption, digits=3)

# %%
chosen = {"picture": 128, "sound": 128}
samples = patches["train"][:800].flatten(0, 1)  # (28800, 48)
frames = sounds["train"][:800].flatten(0, 1)  # (9600, 80)
books = {"picture": unified.learn_codebook(samples, chosen["picture"], unit.seed)}
books["sound"] = unified.learn_codebook(frames, chosen["sound"], unit.seed)

eight = patches["test"][:8]  # (8, 36, 48)
versions = {"pixels": eight}
for label, book in {"16 entries": tried[16], "128 entries": books["picture"]}.items():
    versions[label] = book[unified.nearest(eight, book)]
fig, axes = figures.figure(rows=3, columns=8, width=10, height=4.2)
for line, (label, version) in zip(axes, versions.items(), strict=True):
    images = unified.from_patches(version).permute(0, 2, 3, 1)  # (8, 24, 24, 3)
    for ax, image in zip(line, images.clamp(0, 1), strict=True):
        figures.picture(ax, image)
    line[0].set_ylabel(label)
told = "Eight toys as pixels, from a codebook of 16 and from one of 128"
figures.show(fig, alt=f"{told}: {', '.join(names[:8])}.")

# %% [markdown]
# **What to notice.** The judge is the better of the two measures: an error says little until somebody has to
# recognise something. A bigger codebook costs bits and makes the language model's choice harder, so we stop
# at 128 for both. The last row is the ceiling without tokens; the row of 128 is the **ceiling for everything
# that our model will draw or play**, because it has no other material.

# %% [markdown]
# ## 3. One vocabulary, one kind of sentence
#
# Now the three lists are put behind each other into one vocabulary, with three tags in front. A training
# sentence names all three modalities of one toy, each behind its tag, **in any order**. That is the whole
# trick: whoever predicts the next token in every order must learn to go from each modality to each other one.


# %% tags=["topic:unified-tokens"]
LENGTH = {"words": 2, "picture": 36, "sound": 12}
SIZE = {"words": 16, "picture": chosen["picture"], "sound": chosen["sound"]}
TAG = {"words": 0, "picture": 1, "sound": 2}
FIRST = {"words": 3, "picture": 3 + 16, "sound": 3 + 16 + SIZE["picture"]}
VOCABULARY = 3 + sum(SIZE.values())


def sentence(codes: dict[str, Tensor], order: tuple[str, ...]) -> Tensor:
    """The modalities of `order`, each behind its tag, in one vocabulary: (n, tokens)."""
    pieces = []
    for name in order:
        own = codes[name]  # (n, LENGTH[name])
        tag = torch.full((len(own), 1), TAG[name])
        pieces += [tag, own + FIRST[name]]
    return torch.cat(pieces, 1)


# %% tags=["topic:unified-tokens"]
codes = {}
for name in ("train", "test", "held out"):
    spelt = []
    for colour, shape in toys[name]:
        spelt.append([COLOURS.index(colour), 8 + SHAPES.index(shape)])
    look = unified.nearest(patches[name], books["picture"])  # (n, 36)
    tone = unified.nearest(sounds[name], books["sound"])  # (n, 12)
    codes[name] = {"words": torch.tensor(spelt), "picture": look, "sound": tone}
orders = list(permutations(LENGTH))
everything = torch.cat([sentence(codes["train"], order) for order in orders])
count, length = everything.shape
print(f"{VOCABULARY} tokens; {count:,} sentences of {length} tokens each. One of them:")
example = sentence(codes["train"], ("words", "sound", "picture"))[0]
print(example.tolist())

# %% [markdown]
# The model is a Llama, like `prisma-lm`, only smaller, and it starts from random weights. Nothing in it knows
# which tokens are pictures. It predicts the next token, whatever that is. Its loss is the negative logarithm of the
# probability that it gave to the right token. With the natural logarithm the unit is the **nat**, with base 2 it is
# the **bit**: 1 nat is 1.44 bits.

# %% tags=["topic:unified-tokens"]
model = unified.transformer(VOCABULARY, 64, unit.seed)
test_sentences = torch.cat([sentence(codes["test"], order) for order in orders])
losses = unified.fit(model, everything, 400, unit.seed)

smooth = torch.tensor(losses).unfold(0, 10, 1).mean(1)  # each point the mean of ten steps
fig, ax = figures.figure(height=3.0)
ax.plot(range(10, len(losses) + 1), smooth)
ax.set(xlabel="step (48 sentences each)", ylabel="loss (nats a token)")
ax.set_title("Every token of every modality")
ax.set_ylim(bottom=0)
last = sum(losses[-10:]) / 10
figures.show(fig, alt=f"The loss falls from {losses[0]:.1f} to {last:.2f} nats a token.")
fresh = unified.bits(model, test_sentences, 1) / (length - 1)
known = last / math.log(2)  # in bits
guessing = math.log2(VOCABULARY)
weights = model.num_parameters()
print(f"{weights:,} weights; {fresh:.2f} bits a token on unseen toys, ", end="")
print(f"{known:.2f} on training toys; guessing costs {guessing:.2f}")

# %% [markdown]
# ## 4. From anything to anything
#
# To caption, write a picture and the tag of words, and let the model go on. To draw, write words and the tag
# of a picture. There are six such directions, and three from two modalities to the third. Words are taken
# greedily; pictures and jingles are **sampled**, because no toy has only one picture.
#
# Before you run it: which direction will be the hardest, and what will happen to held-out pairs?


# %% tags=["topic:unified-tokens"]
def decode(target: str, tokens: Tensor) -> list[tuple[str, str]] | Tensor:
    """What tokens of a modality stand for: names, pictures (n, 3, 24, 24) or frames (n, 12, 80)."""
    own = tokens - FIRST[target]
    own = own.clamp(0, SIZE[target] - 1)
    if target == "words":
        words = []
        for colour, shape in own.tolist():
            # A stray token, a shape first or a colour second, counts as the nearest right kind.
            word = COLOURS[min(colour, 7)], SHAPES[max(shape - 8, 0)]
            words.append(word)
        return words
    made = books[target][own]
    return unified.from_patches(made) if target == "picture" else made


# %% tags=["topic:unified-tokens"]
def make(name: str, given: tuple[str, ...], target: str, temperature: float = 0.5) -> Tensor:
    """The tokens that the model writes for `target` after those of `given`: toys of `name`."""
    source = sentence(codes[name], given)
    tag = torch.full((len(source), 1), TAG[target])
    begun = torch.cat([source, tag], 1)
    if target == "words":
        temperature = 0.0
    return unified.go_on(model, begun, LENGTH[target], temperature, unit.seed)


def recognised(target: str, tokens: Tensor) -> list[tuple[str, str]]:
    """The toys that the tokens show: read off from words, judged by eye or ear otherwise."""
    made = decode(target, tokens)
    judges = {"picture": eye, "sound": ear}
    return made if target == "words" else judges[target](made)


# %% tags=["topic:unified-tokens"]
ways = [((given,), target) for target, given in permutations(LENGTH, 2)]
for target in LENGTH:
    others = tuple(name for name in LENGTH if name != target)
    ways.append((others, target))

made, marks = {}, {}
for name, (given, target) in product(("test", "held out"), ways):
    tokens = make(name, given, target)
    made[name, given, target] = tokens
    toys_seen = recognised(target, tokens)
    marks[name, given, target] = unified.agreement(toys_seen, toys[name])


# %% tags=["topic:unified-tokens"]
def direction(source: str, target: str, known: dict[str, Measure], new: Measure) -> dict[str, str]:
    """A row of the table: marks on pairs in training, and one mark on held-out pairs."""
    row = {"from": source, "to": target}
    for part in ("colour", "shape", "both"):
        row[f"{part} right"] = percent(known[part])
    row["both right, held-out pairs"] = percent(new)
    return row


rows = []
for given, target in ways:
    new = marks["held out", given, target]["both"]
    rows.append(direction(" + ".join(given), target, marks["test", given, target], new))
for target in ("picture", "sound"):
    top = {}
    for name in ("test", "held out"):
        toys_seen = recognised(target, codes[name][target] + FIRST[target])
        top[name] = unified.agreement(toys_seen, toys[name])
    source = "ceiling: the real one as tokens"
    rows.append(direction(source, target, top["test"], top["held out"]["both"]))
tested = "224 toys of trained pairs, 160 of held-out pairs, 95 % intervals"
figures.table(rows, caption=f"One model, nine directions: {tested}")

# %%
tokens, strays = 0, 0
for (_, _, target), written in made.items():
    first = FIRST[target]
    own = (written >= first) & (written < first + SIZE[target])
    tokens += own.numel()
    strays += int((~own).sum())
print(f"{strays} of {tokens:,} tokens belong to another modality than the one that was asked for")

# %%
sources = {
    "from words": ("test", ("words",)),
    "from a sound": ("test", ("sound",)),
    "from words, held out": ("held out", ("words",)),
}
told = []
fig, axes = figures.figure(rows=3, columns=8, width=10, height=4.3)
for line, (label, (name, given)) in zip(axes, sources.items(), strict=True):
    drawn = decode("picture", made[name, given, "picture"][:8])
    images = drawn.permute(0, 2, 3, 1).clamp(0, 1)  # (8, 24, 24, 3)
    for ax, image, pair, seen in zip(line, images, toys[name][:8], eye(drawn), strict=True):
        ink = "black" if seen == pair else figures.PALETTE["vermilion"]
        figures.picture(ax, image, " ".join(pair), size=8, ink=ink)
    line[0].set_ylabel(label, fontsize=8)
    right = marks[name, given, "picture"]["both"]
    told.append(f"{label} {percent(right)}")
figures.show(fig, alt=f"Pictures that the model drew; recognised: {'; '.join(told)}")

# %% [markdown]
# The word above each picture is what was ordered; it is vermilion where the judge sees something else. And
# here is a jingle that the model composed from a *picture*. (A spectrogram has no phases, so it is played
# with one sine wave a band and sounds rough.)

# %%
print("Seen:", names[0], "- played:")
jingles = decode("sound", made["test", ("picture",), "sound"])
Audio(unified.hear(jingles[0]), rate=unified.RATE)

# %% [markdown]
# **What to notice.** One set of weights captions, draws and plays. Compare three things.
#
# - Each direction with its ceiling. What is missing there is the fault of the transformer; what the ceiling
#   itself lacks is the fault of the tokens.
# - The hard directions. A drawing stays furthest below its ceiling: 36 tokens have to fit together. From sound to
#   picture, and back, the toy must also be recognised and made at once, with no word in between. A second source
#   helps: compare the jingle from a picture with the one from words and picture.
# - The last column. On trained pairs the model looks as if it knew what a cone is. On held-out pairs most of that is
#   gone: it has learned 56 toys by heart. Look at the last row of pictures: the colour is carried over, and the
#   shape becomes one that it has met in this colour. `prisma-clip` in the core notebook does far better on the same
#   eight pairs, because its training showed each shape in many paints that have no name.
#
# **Exercise.** Draw at temperature 0 and at 1.3 (the last argument of `make`). What happens to the judge's
# marks, and what to the variety?

# %% [markdown]
# ## 5. What does one modality know about another?
#
# A language model can be asked how surprised it is. Without any hint, a picture costs so many **bits**. Behind
# the words it should cost fewer: the words have told the model what will come. How much can they tell? Of 56
# equally likely pairs, a name carries log2(56) = 5.8 bits and not one more.

# %% tags=["topic:unified-tokens"]
rows = []
for target in LENGTH:
    alone = unified.bits(model, sentence(codes["test"], (target,)), 1)
    row = {"modality": target, "alone (bits)": alone}
    for given in LENGTH:
        saved = "-"
        if given != target:
            both = sentence(codes["test"], (given, target))
            after = unified.bits(model, both, LENGTH[given] + 2)
            saved = f"{alone - after:.1f}"
        row[f"saved by {given}"] = saved
    rows.append(row)
told = math.log2(56)
caption = f"Bits for the tokens of 224 test toys, and bits saved; a name carries {told:.1f}"
figures.table(rows, caption=caption, digits=1)

# %% [markdown]
# **What to notice.** Once something was seen or heard, the words cost next to nothing. A picture costs many more
# bits than its name: turn, light and shade have no words, and no caption can save them. Where more than 5.8
# bits are saved, no extra information has come out of nowhere: this model wastes some bits on a picture
# without a hint, and a hint repairs that too. The true saving can never be more than what the hint carries.

# %% [markdown] tags=["topic:single-vs-multi-vs-any"]
# ## 6. The real ones
#
# | model | tokens for | network | trained to |
# | --- | --- | --- | --- |
# | Chameleon (arXiv 2405.09818) | text, pictures | one decoder | predict the next token |
# | AnyGPT (arXiv 2402.12226) | text, pictures, speech, music | one decoder | predict the next token |
# | Unified-IO 2 (arXiv 2312.17172) | text, pictures, sound, actions | encoder and decoder | repair what was hidden |
# | 4M (arXiv 2312.06647) | text, pictures, depth, segments and more | encoder and decoder | predict masked tokens |
# | this lab | words, pictures, jingles | one decoder | predict the next token |
#
# All of them pay the price that you measured in section 2. That is why some others keep the language model for
# words and leave pictures to diffusion, in the same network (Transfusion, arXiv 2408.11039).
#
# **Exercise.** Train with the order words, picture, sound only. Which of the six directions survive?
#
# **You have now** turned three modalities into one list of tokens, trained one model on it, measured every
# direction against its ceiling, and counted in bits what the senses tell each other.
