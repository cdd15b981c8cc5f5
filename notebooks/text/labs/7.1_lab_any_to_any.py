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
from itertools import permutations

import torch
from IPython.display import Audio
from torch import Tensor

from course_utils import figures
from course_utils.measures import percent
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
everything = [(colour, shape) for colour in COLOURS for shape in SHAPES]
toys = {"train": unified.pairs_of(2400, 0), "test": unified.pairs_of(224, 1)}
toys |= {
    "held out": unified.pairs_of(160, 2, HELD_OUT),
    "judges": unified.pairs_of(1200, 3, everything),
}
pictures = {name: unified.draw_toys(pairs, seed) for seed, (name, pairs) in enumerate(toys.items())}
waves = {name: unified.play_toys(pairs, seed) for seed, (name, pairs) in enumerate(toys.items())}
sounds = {name: unified.to_frames(wave) for name, wave in waves.items()}

fig, axes = figures.figure(rows=2, columns=4, width=10, height=4.6)
low, high = (value.item() for value in sounds["test"][:4].aminmax())
for i, (top, bottom) in enumerate(axes.T):
    top.imshow(pictures["test"][i].permute(1, 2, 0))
    top.set(xticks=[], yticks=[], title=" ".join(toys["test"][i]))
    drawn = figures.heatmap(bottom, sounds["test"][i].T.flip(0), low=low, high=high)
    bottom.set(xlabel="frame (80 ms)", ylabel="mel band" if i == 0 else "", yticks=[])
fig.colorbar(drawn, ax=axes[1], label="log energy")  # all four share one scale
names = ", ".join(" ".join(pair) for pair in toys["test"][:4])
figures.show(
    fig, alt=f"Four toys, each as a small picture and as the spectrogram of its jingle: {names}."
)
print("The jingle of the", " ".join(toys["test"][0]))
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
patches = {name: unified.to_patches(pictures[name]) for name in ("train", "test", "held out")}
rows, tried = [], {}
for k in (8, 16, 32, 64, 128, 256):
    samples = (x["train"][:500].flatten(0, 1) for x in (patches, sounds))
    looks, tones = tried[k] = [unified.learn_codebook(sample, k, unit.seed) for sample in samples]
    seen = unified.from_patches(looks[unified.nearest(patches["test"], looks)])
    heard = tones[unified.nearest(sounds["test"], tones)]
    row = {"codebook": k, "bits a token": k.bit_length() - 1}
    for name, judge, made, real in (
        ("pictures", eye, seen, pictures["test"]),
        ("jingles", ear, heard, sounds["test"]),
    ):
        row[f"error ({name})"] = (made - real).square().mean().sqrt().item()
        row[f"judge right ({name})"] = percent(unified.agreement(judge(made), toys["test"])["both"])
    rows.append(row)
real = [judge(x["test"]) for judge, x in ((eye, pictures), (ear, sounds))]
best = [percent(unified.agreement(said, toys["test"])["both"]) for said in real]
rows.append(dict(zip(row, ("none", "-", "0", best[0], "0", best[1]), strict=True)))
figures.table(
    rows,
    digits=3,
    caption="The cost of tokens: root mean square error, and toys recognised, 224 test toys",
)

# %%
chosen = {"picture": 128, "sound": 128}
books = {
    "picture": unified.learn_codebook(
        patches["train"][:800].flatten(0, 1), chosen["picture"], unit.seed
    )
}
books["sound"] = unified.learn_codebook(
    sounds["train"][:800].flatten(0, 1), chosen["sound"], unit.seed
)
fig, axes = figures.figure(rows=3, columns=8, width=10, height=4.2)
codings = {"pixels": None, "16 entries": tried[16][0], "128 entries": books["picture"]}
for line, (label, book) in zip(axes, codings.items(), strict=True):
    some = patches["test"][:8]
    drawn = some if book is None else book[unified.nearest(some, book)]
    for ax, image in zip(line, unified.from_patches(drawn), strict=True):
        ax.imshow(image.permute(1, 2, 0).clamp(0, 1))
        ax.set(xticks=[], yticks=[])
    line[0].set_ylabel(label)
names = ", ".join(" ".join(pair) for pair in toys["test"][:8])
figures.show(fig, alt=f"Eight toys as pixels, from a codebook of 16 and from one of 128: {names}.")

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
        tag = torch.full((len(codes[name]), 1), TAG[name])
        pieces += [tag, codes[name] + FIRST[name]]
    return torch.cat(pieces, 1)


# %% tags=["topic:unified-tokens"]
codes = {}
for name in ("train", "test", "held out"):
    spelt = [[COLOURS.index(colour), 8 + SHAPES.index(shape)] for colour, shape in toys[name]]
    look, tone = (
        unified.nearest(patches[name], books["picture"]),
        unified.nearest(sounds[name], books["sound"]),
    )
    codes[name] = {"words": torch.tensor(spelt), "picture": look, "sound": tone}
everything = torch.cat([sentence(codes["train"], order) for order in permutations(LENGTH)])
print(
    f"{VOCABULARY} tokens; {len(everything):,} sentences of {everything.shape[1]} tokens each. One "
    "of them:"
)
print(sentence(codes["train"], ("words", "sound", "picture"))[0].tolist())

# %% [markdown]
# The model is a Llama, like `prisma-lm`, only smaller, and it starts from random weights. Nothing in it knows
# which tokens are pictures. It predicts the next token, whatever that is. Its loss is the negative logarithm of the
# probability that it gave to the right token. With the natural logarithm the unit is the **nat**, with base 2 it is
# the **bit**: 1 nat is 1.44 bits.

# %% tags=["topic:unified-tokens"]
model = unified.transformer(VOCABULARY, 64, unit.seed)
test_sentences = torch.cat([sentence(codes["test"], order) for order in permutations(LENGTH)])
losses = unified.fit(model, everything, 400, unit.seed)

fig, ax = figures.figure(height=3.0)
ax.plot(range(10, len(losses) + 1), torch.tensor(losses).unfold(0, 10, 1).mean(1))
ax.set(
    xlabel="step (48 sentences each)",
    ylabel="loss (nats a token)",
    title="Every token of every modality",
)
ax.set_ylim(bottom=0)
figures.show(
    fig, alt=f"The loss falls from {losses[0]:.1f} to {sum(losses[-10:]) / 10:.2f} nats a token."
)
fresh = unified.bits(model, test_sentences, 1) / (everything.shape[1] - 1)
print(
    f"{sum(p.numel() for p in model.parameters()):,} weights; {fresh:.2f} bits a token on unseen "
    "toys, ",
    end="",
)
print(
    f"{sum(losses[-10:]) / 10 / math.log(2):.2f} on training toys; guessing costs "
    f"{math.log2(VOCABULARY):.2f}"
)

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
    """What the tokens of one modality stand for: names, pictures (n, 3, 24, 24) or frames (n, 12,
    80)."""
    own = (tokens - FIRST[target]).clamp(0, SIZE[target] - 1)
    if target == "words":
        return [(COLOURS[min(a, 7)], SHAPES[max(b - 8, 0)]) for a, b in own.tolist()]
    made = books[target][own]
    return unified.from_patches(made) if target == "picture" else made


# %% tags=["topic:unified-tokens"]
def make(name: str, given: tuple[str, ...], target: str, temperature: float = 0.5) -> Tensor:
    """The tokens that the model writes for `target` after the modalities `given` of the toys of
    `name`."""
    tag = torch.full((len(toys[name]), 1), TAG[target])
    begun = torch.cat([sentence(codes[name], given), tag], 1)
    return unified.go_on(
        model, begun, LENGTH[target], 0.0 if target == "words" else temperature, unit.seed
    )


READ = {"words": lambda names: names, "picture": eye, "sound": ear}
ways = [(g, t) for t in LENGTH for g in permutations(LENGTH, 1) if t not in g]
ways += [(g, t) for t in LENGTH for g in (tuple(x for x in LENGTH if x != t),)]
made = {(name, *way): make(name, *way) for name in ("test", "held out") for way in ways}
marks = {
    key: unified.agreement(READ[key[2]](decode(key[2], tokens)), toys[key[0]])
    for key, tokens in made.items()
}

# %% tags=["topic:unified-tokens"]
rows = []
for given, target in ways:
    row = {"from": " + ".join(given), "to": target}
    row |= {
        f"{part} right": percent(marks["test", given, target][part])
        for part in ("colour", "shape", "both")
    }
    rows.append(
        row | {"both right, held-out pairs": percent(marks["held out", given, target]["both"])}
    )
for name, judge in (("picture", eye), ("sound", ear)):
    top = {
        x: unified.agreement(judge(decode(name, codes[x][name] + FIRST[name])), toys[x])
        for x in ("test", "held out")
    }
    row = {"from": "ceiling: the real one as tokens", "to": name}
    row |= {f"{part} right": percent(top["test"][part]) for part in ("colour", "shape", "both")}
    rows.append(row | {"both right, held-out pairs": percent(top["held out"]["both"])})
figures.table(
    rows,
    caption="One model, nine directions: 224 toys of trained pairs, 160 of held-out pairs, 95 % "
    "intervals",
)

# %%
tokens, strays = 0, 0
for (_, _, target), written in made.items():
    own = (written >= FIRST[target]) & (written < FIRST[target] + SIZE[target])
    tokens, strays = tokens + own.numel(), strays + int((~own).sum())
print(f"{strays} of {tokens:,} tokens belong to another modality than the one that was asked for")

# %%
fig, axes = figures.figure(rows=3, columns=8, width=10, height=4.3)
sources = {"from words": ("words",), "from a sound": ("sound",), "from words, held out": ("words",)}
for line, (label, given) in zip(axes, sources.items(), strict=True):
    name = "held out" if "held" in label else "test"
    drawn = decode("picture", made[name, given, "picture"][:8])
    for ax, image, pair, said in zip(line, drawn, toys[name], eye(drawn), strict=False):
        ax.imshow(image.permute(1, 2, 0).clamp(0, 1))
        ax.set(xticks=[], yticks=[])
        ax.set_title(
            " ".join(pair),
            fontsize=8,
            color="black" if said == pair else figures.PALETTE["vermilion"],
        )
    line[0].set_ylabel(label, fontsize=8)
share = {
    label: marks["held out" if "held" in label else "test", given, "picture"]["both"]
    for label, given in sources.items()
}
figures.show(
    fig,
    alt="Pictures that the model drew; recognised: "
    + "; ".join(f"{k} {percent(v)}" for k, v in share.items()),
)

# %% [markdown]
# The word above each picture is what was ordered; it is vermilion where the judge sees something else. And
# here is a jingle that the model composed from a *picture*. (A spectrogram has no phases, so it is played
# with one sine wave a band and sounds rough.)

# %%
print("Seen:", " ".join(toys["test"][0]), "- played:")
Audio(unified.hear(decode("sound", made["test", ("picture",), "sound"])[0]), rate=unified.RATE)

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
told = torch.tensor(56.0).log2().item()
rows = []
for target in LENGTH:
    alone = unified.bits(model, sentence(codes["test"], (target,)), 1)
    row = {"modality": target, "alone (bits)": alone}
    for given in LENGTH:
        if given == target:
            row[f"saved by {given}"] = "-"
            continue
        after = unified.bits(model, sentence(codes["test"], (given, target)), LENGTH[given] + 2)
        row[f"saved by {given}"] = f"{alone - after:.1f}"
    rows.append(row)
figures.table(
    rows,
    digits=1,
    caption=f"Bits for the tokens of 224 test toys, and bits saved; a name carries {told:.1f}",
)

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
