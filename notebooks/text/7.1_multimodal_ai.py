# %% [markdown] tags=["badge"]
# # 7.1 Multimodal AI
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.1_multimodal_ai.ipynb)

# %% [markdown]
# **After this notebook you can**
# - explain how a transformer reads a picture, and how CLIP brings pictures and texts into one space;
# - classify pictures of things that the model never saw, and say with an interval how well it works;
# - turn speech into text, and know what noise does to it;
# - find a picture by asking for it aloud;
# - build early fusion, late fusion and cross-attention, and choose between them by measurement;
# - check two popular claims, on CLIP and on GPT-4V.
#
# **Time:** about 25 minutes to read and run; the five exercises state their own minutes, an hour in all. The cells
# take about a minute on two CPU cores.
#
# **Downloads:** nothing at the bundled tier; about 0.9 GB at the small tier and 3.3 GB at the full tier,
# and there 0.8 GB more for the plain cells of "The same with a real model". Nothing is fetched before the card
# below has named it.

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
# The next cell looks at your machine, chooses a model for each role and says why.

# %%
from course_utils import open_unit

unit = open_unit("7.1")

# %%
import random
import textwrap
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from IPython.display import Audio, display
from open_clip import ClipLoss
from torch import Tensor, nn
from torch.nn import functional as F
from whisper import log_mel_spectrogram

from course_utils import figures
from course_utils.exercises import check, hint, quiz, solution
from course_utils.exercises.authors import whose
from course_utils.measures import error_bars, matches, share
from course_utils.multimodal import fusion, listening, representations, transcripts
from course_utils.prisma import natural, pictures, speech
from course_utils.prisma.shop import COLOURS, HELD_OUT, SHAPES, SIZES, TRAINED_PAIRS
from course_utils.settings import paced

clip = unit.load("image-text")
hearing = unit.load("speech")
side = representations.picture_side(clip.model)

# %% [markdown] tags=["topic:single-vs-multi-vs-any"]
# ## 1. One modality, several, any
#
# A model with a **single modality** reads and writes one kind of data: text in, text out. A **multimodal**
# model takes in more than one kind: picture and text, or sound and text. An **any-to-any** model also gives
# out more than one kind: it hears a question, looks at a picture, and answers with speech or a new picture.
#
# Which of the three is the pair that we use here? `prisma-clip` takes pictures and texts and gives vectors.
# `prisma-whisper` takes sound and gives text. Each is multimodal in its input and output together, neither
# is any-to-any, and in section 6 they form a chain: sound to text to picture.
#
# Prisma is a shop for coloured toys. Its customers show pictures and speak. Here is what they see and what
# they say. (The pictures are drawn by this course's own code, from seeds. The voices are synthetic: espeak-ng's, and
# Kokoro's, which sound more like people, where a real Whisper listens.)

# %%
rng = random.Random(unit.seed)
scenes = [pictures.random_scene(rng, (count,)) for count in (1, 2, 3)]
drawn = pictures.draw_many(scenes, unit.seed, 128)
fig, axes = figures.figure(columns=3, width=9, height=4.2)
for ax, scene, image in zip(axes, scenes, drawn, strict=True):
    caption = pictures.caption(scene, rng)
    figures.picture(ax, image, textwrap.fill(caption, 36), size=9)
first = scenes[0].toys[0].name
figures.show(fig, alt=f"Three drawn scenes with one, two and three toys, the first {first}.")

# prisma-whisper learned from espeak-ng's voices, a real Whisper from people.
clips = speech.load_clips() if hearing.tier == "bundled" else natural.load_clips()
slow = hearing.tier != "bundled" and unit.device != "cuda"
if slow:
    clips = clips[::2]
    print(f"{hearing.name} works on the CPU: half of the requests, one level of noise less.")
print("A customer says:", clips[0].text)
Audio(clips[0].audio, rate=speech.RATE)

# %% [markdown]
# ## 2. How does a transformer read a picture?
#
# A transformer reads tokens. What are the tokens of a picture? The vision transformer (Dosovitskiy et al.
# 2020, arXiv 2010.11929) gives the simplest answer: cut the picture into square **patches**, flatten each,
# and multiply it by one matrix. The library writes this as a convolution. Is it really the same?


# %% tags=["slide", "topic:vit-patches"]
def patch_tokens(pixels: Tensor, weight: Tensor) -> Tensor:
    """Cut pixels (n, 3, h, w) into patches and project each: (n, patches, width).

    `weight` is the (width, 3, size, size) kernel of the library's convolution.
    """
    size = weight.shape[-1]
    cut = pixels.unfold(2, size, size).unfold(3, size, size)
    grid = cut.permute(0, 2, 3, 1, 4, 5)  # (n, rows, columns, 3, size, size)
    flat = grid.flatten(3).flatten(1, 2)  # (n, patches, 3 * size * size)
    return flat @ weight.flatten(1).T


heart = pictures.scene_of(("blue", "heart"), size="large")
image = pictures.draw(heart, side, seed=3)
pixels = clip.preprocess(image)[None]  # (1, 3, side, side)
weight = clip.model.visual.conv1.weight.detach().cpu().float()  # (width, 3, patch, patch)
patch = weight.shape[-1]
ours = patch_tokens(pixels, weight)
convolved = F.conv2d(pixels, weight, stride=patch)  # (1, width, rows, columns)
theirs = convolved.flatten(2).transpose(1, 2)  # (1, patches, width)
apart = (ours - theirs).abs().max()
_, tokens, width = ours.shape
print(f"{side} x {side} pixels, patches of {patch}: {tokens} tokens of {width} numbers")
print(f"largest difference from the library's convolution: {apart:.1e}")

# %% [markdown]
# From here on, nothing in the transformer knows that the tokens came from a picture. In each layer every
# patch looks at every other one. Which patches get looked at?

# %% tags=["topic:vit-patches"]
device = next(clip.model.parameters()).device
maps = representations.attention_maps(clip.model, pixels.to(device))  # (layers, 1, heads, t, t)
between = maps[:, 0, :, 1:, 1:]  # (layers, heads, patches, patches): without the class token
mean = between.mean((1, 2))  # (layers, patches)
rows = side // patch
received = mean.unflatten(1, (rows, rows)) * rows**2  # (layers, rows, rows); 1 is the average
last = len(received) - 1
shown = [0, len(received) // 2, last]

fig, axes = figures.figure(columns=4, width=10, height=2.9)
figures.picture(axes[0], image, f"{rows} x {rows} patches")
for line in range(1, rows):
    edge = line * side / rows - 0.5
    axes[0].axhline(edge, color="white", linewidth=0.5)
    axes[0].axvline(edge, color="white", linewidth=0.5)
high = received.max().item()
for ax, layer in zip(axes[1:], shown, strict=True):
    drawn = figures.heatmap(ax, received[layer], low=0, high=high)
    ax.set(title=f"layer {layer}", xticks=[], yticks=[], aspect="equal")
fig.colorbar(drawn, ax=axes[1:], label="times the average")
told = f"A blue heart cut into {rows} by {rows} patches, and the attention that each receives"
figures.show(fig, alt=f"{told} in layers {shown}: evenly in the first, around the heart later.")

# %% [markdown]
# All three maps share one scale, so you can compare them. (Layers count from 0, here and in all notebooks.) How
# much of each layer's attention falls on the heart? It covers only some of the patches.

# %% tags=["topic:vit-patches"]
colours = np.asarray(image.convert("RGB"), float)  # (side, side, 3)
ground = np.median(colours, axis=(0, 1))
contrast = np.abs(colours - ground).max(2)  # (side, side)
stands_out = contrast > 40  # of 255
tiles = stands_out.reshape(rows, patch, rows, patch)  # row, y in it, column, x in it
on_heart = torch.from_numpy(tiles.any((1, 3)))  # (rows, rows)
touched = int(on_heart.sum())
covered = on_heart.float().mean()
print(f"the heart touches {touched} of {rows**2} patches: {covered:.0%}")
for layer, weights in enumerate(received):
    part = weights[on_heart].sum() / weights.sum()
    print(f"layer {layer}: {part:.0%} of the attention is on it")

# %% [markdown]
# **What to notice.** Cutting and projecting is exactly the convolution, so a picture enters the model as a
# sentence of patches. The first layer looks nearly evenly at everything: it does not know yet what is where. From
# the middle layer on, the patches look almost only at the heart and its edge, far more than its share of the picture.
# Nobody told the model where the toy is. The plain ground has nothing to say, so nobody asks it.
#
# **Try it.** Draw a second toy (`pictures.scene_of` takes several pairs and a `relation`) and look at the
# maps again. Does the model look at both?

# %% [markdown]
# ## 3. Can a model name what it never saw?
#
# CLIP (Radford et al. 2021, arXiv 2103.00020) has two towers, one for pictures and one for texts, and puts
# both into one space. To classify a picture we write each class as a sentence and take the nearest one. No
# classifier is trained; that is why it is called **zero-shot**.
#
# "Zero-shot" is easily said. Here it can be tested: eight of the 64 colour-shape pairs were kept out of
# every picture and every caption in the training of `prisma-clip`. It has seen red things and it has seen
# the shape, but never this shape in red. (A bigger CLIP from the hub was trained on none of these pictures;
# then both columns of the table are equally new to it.)
#
# The table gives each share with its **95 % interval**. We tested on some hundred pictures; other pictures would
# give another share. An interval that is made in this way holds the true share in 95 of 100 experiments, so where
# two intervals overlap widely, these pictures cannot tell which of the two is better.
#
# Does the wording matter? Try four: the bare name, one template, the mean over many templates, and a
# sentence whose words the model has mostly never read.

# %% tags=["topic:clip-zero-shot"]
never = [" ".join(pair) for pair in HELD_OUT]
print("never in training:", ", ".join(never))
class_names = [pictures.with_article(*pair) for pair in fusion.CLASSES]


def class_vectors(templates: tuple[str, ...]) -> Tensor:
    """A unit vector for each class (64, d): the mean over the templates, scaled to length 1."""
    encoded = []
    for template in templates:
        texts = [template.format(name) for name in class_names]
        encoded.append(clip.encode_texts(texts))  # (64, d)
    mean = torch.stack(encoded).mean(0)
    return F.normalize(mean, dim=-1)


tests = {"pairs in training": list(TRAINED_PAIRS) * 4}
tests["pairs never in training"] = list(HELD_OUT) * 28
images, vectors = {}, {}
for seed, (name, pairs) in enumerate(tests.items(), start=710):
    scenes = []
    for i, pair in enumerate(pairs):
        scene = pictures.scene_of(pair, size=SIZES[i % 3])
        scenes.append(scene)
    images[name] = pictures.draw_many(scenes, seed, side)
    vectors[name] = clip.encode_images(images[name])

# %% tags=["topic:clip-zero-shot"]
wordings = {"the bare name": ("{}",), "a photo of ...": ("a photo of {}",)}
wordings[f"mean of {len(pictures.PROMPTS)} templates"] = pictures.PROMPTS
wordings["an odd one"] = ("behold, upon yonder shelf there rests {}, is it not charming",)
rows, guesses = [], {}
for wording, templates in wordings.items():
    classes = class_vectors(templates)
    row = {"wording": wording}
    for name, pairs in tests.items():
        alike = vectors[name] @ classes.T  # (224, 64)
        nearest = alike.argmax(1).tolist()
        guesses[name] = [fusion.CLASSES[i] for i in nearest]
        right = share(matches(guesses[name], pairs))
        row[f"{name} (%)"] = f"{100 * right.value:.1f}"
        row[f"95 % ({name})"] = f"{100 * right.low:.0f} to {100 * right.high:.0f}"
    rows.append(row)
figures.table(rows, caption=f"Top-1 among 64 classes, 224 fresh pictures each, {clip.name}")

# %%
name = "pairs never in training"
right = matches(guesses[name], tests[name])
order = sorted(range(16), key=lambda i: right[i])  # of 16 pictures, the mistakes first
fig, axes = figures.figure(columns=8, width=11, height=1.9)
wrong = []
for ax, i in zip(axes, order[:8], strict=True):
    colour, shape = guesses[name][i]
    ink = "black"
    if not right[i]:
        ink = figures.PALETTE["vermilion"]
        wrong.append(f"{colour} {shape}")
    figures.picture(ax, images[name][i], f"{colour}\n{shape}", size=9, ink=ink)
mistakes = ", ".join(wrong) or "none"
told = "Eight toys of never-trained pairs with the guess above each"
figures.show(fig, alt=f"{told}; wrong: {mistakes}.")
guessed_colours, guessed_shapes = zip(*guesses[name], strict=True)
true_colours, true_shapes = zip(*tests[name], strict=True)
colour_right = share(matches(guessed_colours, true_colours))
shape_right = share(matches(guessed_shapes, true_shapes))
print("colour right:", colour_right, "| shape right:", shape_right)

# %% [markdown]
# **What to notice.** Compare the two columns. The gap between pairs that were in training and pairs that
# were not is the price of novelty. It is small here, and that had to be taught: one training picture in five
# showed a toy in a colour without a name, so that only its shape could be said. A shorter run without these
# pictures got four in five of the new pairs right (its card tells). The last line says what is still mixed up.
# The common wordings hardly differ, because this model trained on all of them; for the original CLIP the paper
# reports 1.3 points from "a photo of a" and 3.5 more from 80 templates on ImageNet (arXiv 2103.00020, section
# 3.1.4).
# The odd sentence tests what happens outside the training captions; words that `prisma-clip` does not know
# become one token, `[unk]`, which training taught it to overlook.

# %%
quiz("7.1.new_classes")

# %% [markdown]
# ### Exercise: A classifier made of sentences (easy, about 10 minutes)
#
# Write it yourself, for any classes: here the eight colours alone, and the eight shapes alone. Fill in the stub, run
# it and the cell with `check`, then the one that uses it. `hint("7.1.zero_shot")` helps. Until your function passes,
# the notebook goes on with the course's own, and each cell says whose function ran.


# %%
def zero_shot(
    images: Tensor,
    names: Sequence[str],
    templates: Sequence[str],
    encode_texts: Callable[[list[str]], Tensor],
) -> Tensor:
    """The class of each picture, as numbers (n,) that count along `names`.

    `images` are unit vectors (n, d). Each template, such as "a photo of {}", is filled with each
    class name. `encode_texts` turns a list of k texts into unit vectors (k, d). A class is the mean
    of its texts' vectors, brought back to length 1; a picture belongs to the class whose vector is
    nearest.
    """
    # Your code here
    raise NotImplementedError


# %%
zero_shot = check("7.1.zero_shot", zero_shot)

# %%
print(f"With {whose(zero_shot)}, on pairs that were never in training:")
toys = vectors["pairs never in training"]
templates = ("something {}", "a toy {}", "a {}")
for part, names, truth in (("colour", COLOURS, true_colours), ("shape", SHAPES, true_shapes)):
    classes = zero_shot(toys, names, templates, clip.encode_texts)
    named = [names[i] for i in classes.tolist()]
    right = share(matches(named, truth))
    print(f"{part} among {len(names)}: {right}")

# %% [markdown]
# **Try it.** Leave the article out of the class names above. Who suffers, the bare name or the mean?

# %% [markdown]
# ## 4. What is the model trained to do?
#
# Take $n$ pictures and their $n$ captions. Compare every picture with every caption: an $n \times n$ matrix
# of similarities. The true pairs lie on the diagonal. The **contrastive loss** asks each row, and each
# column, to pick its diagonal element: two cross-entropies, averaged. (A **cross-entropy** is the negative natural
# logarithm of the probability that the right answer got. Its unit is the **nat**: 0 nats is sure and right, and a
# guess among 64 costs log(64). The numbers that go into the softmax, here the scaled similarities, are called
# **logits**.)


# %% [markdown]
# ### Exercise: CLIP's loss (easy, about 10 minutes)
#
# Three lines are enough. Will they agree with open_clip's own loss?


# %%
def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss (arXiv 2103.00020, figure 3), one number as a tensor ().

    `image` and `text` are unit vectors (n, d); row i of both belongs together. `scale` is a tensor
    ().
    """
    # Your code here
    raise NotImplementedError


# %%
contrastive_loss = check("7.1.contrastive_loss", contrastive_loss)

# %% tags=["topic:contrastive-loss"]
print(f"With {whose(contrastive_loss)}:")
pairs = pictures.distinct_scenes(random.Random(1), 64)
drawn = pictures.draw_many(pairs, 1, side)
image_vectors = clip.encode_images(drawn)  # (64, d)
rng = random.Random(2)
captions = [pictures.caption(scene, rng) for scene in pairs]
text_vectors = clip.encode_texts(captions)  # (64, d)
learned = clip.model.logit_scale.detach()
scale = learned.exp().cpu().float()
by_hand = contrastive_loss(image_vectors, text_vectors, scale)
library = ClipLoss()(image_vectors, text_vectors, scale)
apart = (by_hand - library).abs()
print(f"{by_hand:.6f} nats, open_clip {library:.6f}: {apart:.1e} apart")
guessing = torch.tensor(64.0).log()
print(f"guessing would cost log(64) = {guessing:.3f}")
unscaled = contrastive_loss(image_vectors, text_vectors, torch.tensor(1.0))
print(f"scale: {scale:.1f}; with a scale of 1 the loss is {unscaled:.3f}")

# %% [markdown]
# The loss is about a batch; what we want is search. Among 500 scenes of two or three toys, no two with the
# same description: does each caption find its picture, and each picture its caption? **Recall@k** is the
# share of queries whose answer is among the best $k$.

# %% tags=["topic:clip-retrieval"]
many = pictures.distinct_scenes(random.Random(72), 500)
words = []
for i, scene in enumerate(many):
    rng = random.Random(i)
    words.append(pictures.caption(scene, rng))
seen = clip.encode_images(pictures.draw_many(many, 73, side))
read = clip.encode_texts(words)
alike = seen @ read.T  # (pictures, captions)


def ranks(similar: Tensor) -> Tensor:
    """For each row of a square matrix: how many columns beat the one on the diagonal."""
    true = similar.diagonal()[:, None]  # (n, 1)
    beaten_by = similar > true
    return beaten_by.sum(1)


# %% tags=["topic:clip-retrieval"]
directions = {"picture to caption": alike, "caption to picture": alike.T}
depth = [1, 2, 3, 5, 10, 20, 50]
fig, ax = figures.figure(height=3.2)
for (name, matrix), marker in zip(directions.items(), "os", strict=True):
    rank = ranks(matrix)
    recalls = []
    for k in depth:
        near = rank < k
        recalls.append(share(near.tolist()))
    values, ends = error_bars(recalls)
    ax.errorbar(depth, values, ends, marker=marker, capsize=3, label=name)
    print(f"{name}: R@1 {recalls[0]}")
ax.set_xscale("log")
ax.set_xticks(depth, depth)
ax.set(xlabel="k (best answers looked at)", ylabel="recall@k", title="500 distinct scenes")
ax.set_ylim(None, 1.005)
ax.legend(loc="lower right")
told = f"from {recalls[0].value:.0%} at 1 to {recalls[4].value:.0%} at 10"
figures.show(fig, alt=f"Recall at k for 500 scenes rises {told}.")

# %% [markdown]
# **What to notice.** The loss by hand and the library's agree to rounding. The learned scale matters: unit
# vectors differ by little, and without it the softmax could never be sure. In search, most right answers are
# near the top even when they are not first.
#
# **Try it.** Shuffle `text_vectors` before the loss. What value do you expect, more or less than log(64)?

# %% [markdown]
# ## 5. What does it not see?
#
# A caption says more than a list of words: *which* thing is red? Take a scene of two toys, and exchange the
# two colours in the caption. Every word is still there. Does the model prefer the true one? This is called
# **attribute binding**; large CLIPs often fail at it (Yuksekgonul et al. 2022, arXiv 2210.01936).
#
# And does it **hallucinate**? Put a toy into the caption that is not in the picture, beside the true ones or in the
# place of one. And turn it round: leave a toy out that *is* there. Which of the five tests will it fail?

# %% tags=["topic:crossmodal-hallucination"]
rng = random.Random(74)
scenes = [pictures.random_scene(rng, (2,)) for _ in range(700)]
twos = []
for scene in scenes:
    first, second = scene.toys
    if set(first.pair).isdisjoint(second.pair):  # else the exchange would change nothing
        twos.append(scene)
twos = twos[:300]
drawn = clip.encode_images(pictures.draw_many(twos, 74, side))  # (300, d)


def preferred(true: list[str], false: list[str]) -> list[bool]:
    """For each of the drawn scenes: is it nearer to its true caption than to the false one?"""
    difference = clip.encode_texts(true) - clip.encode_texts(false)
    margin = (drawn * difference).sum(1)
    return (margin > 0).tolist()


def listed(toys: Sequence[pictures.Toy]) -> str:
    names = [f"a {toy.name}" for toy in toys]
    return " and ".join(names)


# %% tags=["topic:crossmodal-hallucination"]
def captioned(scene: pictures.Scene, seed: int) -> str:
    rng = random.Random(seed)
    return pictures.caption(scene, rng)


rng = random.Random(75)
next_ones = twos[1:] + twos[:1]
true, other, swapped, lists, longer, exchanged, shorter = [], [], [], [], [], [], []
for i, (scene, next_one) in enumerate(zip(twos, next_ones, strict=True)):
    first, second = scene.toys
    free = [pair for pair in TRAINED_PAIRS if pair not in (first.pair, second.pair)]
    absent = pictures.Toy("medium", *rng.choice(free))
    exchange = pictures.swap_colours(scene)
    true.append(captioned(scene, i))
    other.append(captioned(next_one, i))
    swapped.append(captioned(exchange, i))
    lists.append(listed([first, second]))
    longer.append(listed([first, second, absent]))
    exchanged.append(listed([first, absent]))
    kept = rng.choice([first, second])
    shorter.append(listed([kept]))

# %% tags=["topic:crossmodal-hallucination"]
rivals = {
    "a caption of another scene": (true, other),
    "the same words, colours exchanged": (true, swapped),
    "a list with one toy too many": (lists, longer),
    "a list with one toy exchanged": (lists, exchanged),
    "a list with one toy left out": (lists, shorter),
}
results, rows = {}, []
for name, (right, false) in rivals.items():
    won = share(preferred(right, false))
    results[name] = won
    rows.append({"the true caption against": name, "true one preferred": str(won)})
figures.table(rows, caption=f"{len(twos)} scenes of two toys; a coin toss would win 50 %")

# %%
fig, ax = figures.figure(height=2.6)
values, ends = error_bars(results.values())
places = range(len(results))
ax.barh(places, values, xerr=ends, capsize=4, color=figures.CYCLE[0])
ax.axvline(0.5, color=figures.GREY, linestyle="--")
ax.set_yticks(places, results)
ax.invert_yaxis()
ax.set(xlim=(0, 1), xlabel="true caption wins (share of scenes)")
told = [f"against {name}: {won.value:.0%}" for name, won in results.items()]
figures.show(fig, alt="; ".join(told))

# %% [markdown]
# **What to notice.** A caption of another scene is an easy opponent: any wrong word gives it away. With the
# colours exchanged no word is wrong, only the *binding* is, and the model falls far behind its own result on
# the first line. In training the first kind of negative is common and the second is rare, so little in the
# loss asks for binding.
#
# The three lists are the answer about hallucination; the next cell states it with its intervals.

# %% tags=["topic:crossmodal-hallucination"]
coin = results["the same words, colours exchanged"]
level = "not told from a coin toss" if coin.low <= 0.5 <= coin.high else "not a coin toss"
print(f"binding: the true caption wins in {coin}, {level}")
for name in ("too many", "exchanged", "left out"):
    won = results[f"a list with one toy {name}"]
    ends = f"{1 - won.high:.1%} to {1 - won.low:.1%}"
    print(f"one toy {name}: fooled in {1 - won.value:.1%} of scenes ({ends})")

# %% [markdown]
# This model seldom "sees" a toy that is only in the words, and it seldom forgets one. It knows well *which* toys are
# there, and not which colour belongs to which. Keep in mind how easy the toys are to see: on photographs, and in models
# that write whole sentences, hallucination is common (Li et al. 2023, arXiv 2305.10355).

# %% [markdown]
# ### Check the slide: "CLIP is an example of early fusion"
#
# Is it? In **early fusion** the modalities are joined before the model has understood either: one network
# reads both. CLIP's towers never meet. Test it: change the caption and see whether the picture's vector
# changes; then count where the two meet.

# %% tags=["topic:clip-retrieval"]
alone = clip.encode_images([image])  # (1, d)
changes = []
for text in ("a blue heart", "a red cube"):
    clip.encode_texts([text])
    beside = clip.encode_images([image])
    change = (beside - alone).abs().max()
    changes.append(change.item())
of_pictures = {id(weight) for weight in clip.model.visual.parameters()}
of_texts = set()
for name, weight in clip.model.named_parameters():
    if not name.startswith("visual") and "logit" not in name:
        of_texts.add(id(weight))
shared = of_pictures & of_texts
print(f"the picture's vector changes with the caption by {max(changes):.0e}")
print(f"weights that both towers share: {len(shared)}")
print(f"where they meet: one dot product of {alone.shape[1]} numbers")

# %% [markdown]
# **Verdict: not early fusion.** Two separate encoders and a dot product at the very end: that is **late
# interaction** (some say late fusion). It is why a shop can encode a million pictures once and search them
# with any sentence later; and it is part of why binding is hard, because all that is known about the picture
# has to fit into one vector before the question is known. Section 7 builds the alternatives.

# %%
quiz("7.1.fusion")

# %% [markdown]
# ## 6. Ask aloud, find the picture
#
# Whisper (Radford et al. 2022, arXiv 2212.04356) does not read sound waves. Its front end turns 30 seconds
# (here: 5) into a **log-mel spectrogram**: how loud each of 80 bands of pitch (128 in the newest models) is,
# 100 times a second. An encoder reads that picture of sound, a decoder writes the words one by one.

# %% tags=["topic:whisper-transcribe"]
noise = np.random.default_rng(unit.seed)
levels = [None, 20, 10, 0] if slow else [None, 20, 10, 5, 0]  # dB above the noise; None is clean
sounds = {None: [request.audio for request in clips]}
for level in levels[1:]:
    sounds[level] = [speech.add_noise(sound, level, noise) for sound in sounds[None]]

seconds = len(clips[0].audio) / speech.RATE
frames = int(100 * seconds)
titles = {None: "clean", 0: "noise as loud as the speech (0 dB)"}
fig, axes = figures.figure(2, 1, width=8, height=4.6)
for ax, (level, title) in zip(axes, titles.items(), strict=True):
    mel = hearing.mel(sounds[level][0]).cpu()[:, :frames]  # (bands, frames)
    bands, length = mel.shape
    extent = [0, length / 100, 0, bands]
    drawn = ax.imshow(mel, origin="lower", aspect="auto", extent=extent, vmin=-1, vmax=1.5)
    ax.grid(False)
    ax.set(ylabel="mel band", title=title)
axes[1].set_xlabel("time (seconds)")
fig.colorbar(drawn, ax=axes, label="log loudness (scaled)")
print("said:", clips[0].text)
told = "bands of speech, and the same bands drowned in noise"
figures.show(fig, alt=f"Two log-mel spectrograms of one request: {told}.")

# %% [markdown]
# What happens between the sound and this picture? Six steps, all of them plain: windows, their frequencies, bands,
# logarithm, a floor, a scale. Here they are by hand, beside the library's.

# %% tags=["slide", "topic:whisper-transcribe"]
figures.source(listening.log_mel)

# %% tags=["topic:whisper-transcribe"]
sound = torch.from_numpy(clips[0].audio)
filters = listening.mel_filters(hearing.model.dims.n_mels)
ours = listening.log_mel(sound, filters)
bands, frames = ours.shape
theirs = log_mel_spectrogram(sound, bands)
apart = (ours - theirs).abs().max()
print(f"{len(sound):,} samples become {bands} bands in {frames} frames")
print(f"largest difference from whisper's own: {apart:.0e}")

# %% [markdown]
# How many words does it get wrong? The **word error rate** counts the words to put in, take out or swap until
# the transcript matches, divided by the words said. These requests are held out: neither their voices nor
# their sentence patterns were in the training of `prisma-whisper`. Then we make it harder, step by step.
#
# Before words are counted, both texts are **normalised**: "Where's order 42?" and "where is order four two" are the
# same words. Otherwise a model would pay for its commas. openai-whisper brings a normaliser for that.

# %% tags=["topic:whisper-transcribe"]
said = [request.text for request in clips]
heard, errors = {}, {}
for level in figures.progress(levels, "Transcribing"):
    heard[level] = hearing.transcribe_many(sounds[level])
    errors[level] = transcripts.word_error(said, heard[level])

# %% tags=["topic:whisper-transcribe"]
fig, ax = figures.figure(height=3)
noises = [f"{level} dB" for level in levels[1:]]
names = ["clean", *noises]
values, ends = error_bars(errors.values())
places = range(len(levels))
ax.errorbar(places, values, ends, marker="o", capsize=4)
ax.set_xticks(places, names)
ax.set(xlabel="speech above noise", ylabel="word error rate", ylim=(0, None))
ax.set_title(f"{len(clips)} held-out requests")
told = []
for name, error in zip(names, errors.values(), strict=True):
    print(f"{name:>6}: {error}")
    told.append(f"{name} {error.value:.0%}")
figures.show(fig, alt=f"Word error rate: {', '.join(told)}")

# %% [markdown]
# Now listen. Here is a request that goes wrong in the loudest noise, at 20, 10 and 0 dB. Do you still understand it
# where the model does not?

# %% tags=["topic:whisper-transcribe"]
plain_said = [transcripts.plain_words(text) for text in said]
plain_heard = [transcripts.plain_words(text) for text in heard[0]]
right = matches(plain_heard, plain_said)
example = 0 if all(right) else right.index(False)
print("said:", said[example])
for level in (20, 10, 0):
    print(f"heard at {level} dB:", heard[level][example])
    display(Audio(sounds[level][example], rate=speech.RATE))

# %% [markdown]
# ### Exercise: The word error rate (medium, about 20 minutes)
#
# The library that counts words for the curve above is this course's own. Do you get the same number?


# %%
def word_error_rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """Word errors in all sentences together, divided by all words said.

    `reference` holds what was said and `hypothesis` what was heard, in the same order. The errors
    of a sentence are the fewest words to put in, take out or swap that make both equal.
    """
    # Your code here
    raise NotImplementedError


# %%
word_error_rate = check("7.1.word_error_rate", word_error_rate)

# %%
print(f"With {whose(word_error_rate)}:")
for name, level in zip(names, levels, strict=True):
    plain_heard = [transcripts.plain_words(text) for text in heard[level]]
    rate = word_error_rate(plain_said, plain_heard)
    apart = abs(rate - errors[level].value)
    print(f"{name:>6}: {rate:.1%}, {apart:.0e} from the curve above")

# %%
quiz("7.1.above_100")

# %% [markdown]
# Now the chain. The shelf holds one picture of each of the 64 products. A customer asks aloud; Whisper
# writes down what it hears; CLIP finds the picture that fits the sentence best. Nobody tells either model
# which words are the product. Where do the mistakes come from: the ear or the eye? Give CLIP the true words
# as well, and compare.

# %% tags=["topic:clip-whisper-fusion"]
shelf = transcripts.shelf(side, seed=75)
stock = clip.encode_images(shelf)  # (64, d)
asked, products = [], []  # the requests that name one product, by number, and these products
for i, text in enumerate(said):
    toy = transcripts.wanted(text)
    if toy:
        asked.append(i)
        products.append(toy)


def found(sentences: list[str]) -> list[bool]:
    """For each request: is the nearest picture one of the product that was asked for?"""
    alike = clip.encode_texts(sentences) @ stock.T  # (n, 64)
    nearest = alike.argmax(1).tolist()
    guesses = [fusion.CLASSES[i] for i in nearest]
    return matches(guesses, products)


# %% tags=["topic:clip-whisper-fusion"]
readings = {"the true words": said, "what Whisper heard, clean": heard[None]}
for level in levels[1:]:
    readings[f"what Whisper heard, {level} dB"] = heard[level]
rows = []
for source, texts in readings.items():
    sentences = [texts[i] for i in asked]
    right = share(found(sentences))
    rows.append({"CLIP reads": source, "right product": str(right)})
caption = f"{len(asked)} spoken requests that name one product, 64 pictures on the shelf"
figures.table(rows, caption=caption)

# %%
requests = [heard[None][i] for i in asked[:4]]
alike = clip.encode_texts(requests) @ stock.T  # (4, 64)
nearest = alike.argmax(1).tolist()
fig, axes = figures.figure(columns=4, width=11, height=3.9)
for ax, request, i in zip(axes, requests, nearest, strict=True):
    title = textwrap.fill(f'heard: "{request}"', 30)
    figures.picture(ax, shelf[i], title, size=9)
told = "Four pictures from the shelf, each under the request that Whisper heard"
figures.show(fig, alt=f"{told}: {'; '.join(requests)}")

# %% [markdown]
# **What to notice.** Noise fills the gaps between the bands of speech, and the words go with them. Read the curve
# with its bars: where they overlap, a lower point is no better. Ear or eye? What is missing with the *true* words
# is the eye's fault; what is missing on top of that, in the rows with noise, is the ear's. With so few requests only
# a large loss can be told from chance: compare the intervals of the first row and the last. Look at the four
# pictures, too: does each show what was asked for? A wrong word hurts only if it is the colour or the shape. And
# a chain cannot repair: what the ear got wrong, the eye never gets to doubt, because only *words* are handed
# over, not how sure the ear was.
#
# **Try it.** Let the two models disagree: search with the transcript at 0 dB, and print the requests whose product
# changes.

# %% [markdown]
# ## 7. Where should two senses meet?
#
# A customer shows a picture of a toy and says: "I want the *blue* one." Which toy is wanted? The **shape**
# is only in the picture, the **colour** only in the voice. And one more question: is the toy in the picture
# already of that colour? For that, the two must be *compared*.
#
# We train three small networks on exactly this, on tokens from the two frozen towers: 16 picture tokens and
# 10 sound tokens a case. All three answer the same three questions (8 colours, 8 shapes, same or not).
#
# - **Early fusion**: put all tokens into one sequence; one transformer reads everything from its first layer.

# %% tags=["topic:early-fusion"]
ANSWERS = len(COLOURS) + len(SHAPES) + 2
training = {"n": paced(900, 192), "seed": 0, "test": False}
testing = {"n": paced(300, 64), "seed": 1, "test": True}
draws = [training, testing, testing | {"picture_noise": 0.15}, testing | {"snr_db": 5}]
cases = []
for draw in figures.progress(draws, "Encoding"):
    drawn = fusion.fusion_cases(clip, hearing, **draw)
    cases.append(drawn)
train, test, grainy, hissing = fusion.standardise(*cases)
eye, ear = train.picture.shape[2], train.sound.shape[2]  # numbers in a token


# %% tags=["topic:early-fusion"]
def reader(width: int, layers: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def positions(tokens: int, width: int) -> nn.Parameter:
    """A vector to learn for each place in a row of tokens."""
    start = torch.randn(tokens, width)
    return nn.Parameter(start * 0.1)


# %% tags=["slide", "topic:early-fusion"]
class Early(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.see = nn.Linear(eye, width)
        self.hear = nn.Linear(ear, width)
        # Where a token stands, and which sense it is.
        self.place = positions(16 + 10, width)
        self.read = reader(width, 2)
        self.answer = nn.Linear(width, ANSWERS)

    def forward(self, picture: Tensor, sound: Tensor) -> Tensor:
        seen, heard = self.see(picture), self.hear(sound)
        tokens = torch.cat([seen, heard], 1) + self.place  # (n, 26, width)
        states = self.read(tokens)
        return self.answer(states.mean(1))


# %% [markdown]
# - **Late fusion**: two networks that never meet. Each answers all the questions alone, as well as it can,
#   and only the answers are merged: here, the two sets of logits (section 4) are added.


# %% tags=["topic:late-fusion"]
class Alone(nn.Module):
    def __init__(self, features: int, tokens: int, width: int = 64) -> None:
        super().__init__()
        self.take = nn.Linear(features, width)
        self.place = positions(tokens, width)
        self.read = reader(width, 1)
        self.answer = nn.Linear(width, ANSWERS)

    def forward(self, tokens: Tensor) -> Tensor:
        placed = self.take(tokens) + self.place  # (n, tokens, width)
        states = self.read(placed)
        return self.answer(states.mean(1))


# %% tags=["slide", "topic:late-fusion"]
class Late(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.see = Alone(eye, 16)
        self.hear = Alone(ear, 10)

    def forward(self, picture: Tensor, sound: Tensor) -> Tensor:
        return self.see(picture) + self.hear(sound)


def size(network: nn.Module) -> int:
    counts = [weight.numel() for weight in network.parameters()]
    return sum(counts)


late, early = Late(), Early()
print(f"a late fusion has {size(late):,} weights, an early one {size(early):,}")

# %% [markdown]
# ### Exercise: Late fusion that survives a missing sense (easy, about 10 minutes)
#
# Merging answers needs no training at all. Two microphones hear the same request, one well (10 dB above the noise),
# one badly (0 dB). Each gives the search its own transcript. Does the sum beat the better of the two? And what if
# one microphone fails?


# %%
def late_fusion(predictions: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor:
    """Merge what several encoders say: probabilities (n, classes), each row adding up to 1.

    A prediction holds log-probabilities (n, classes), or is None if its modality is missing. Take
    the weighted mean of the log-probabilities that are there, then softmax. ValueError if all are
    missing.
    """
    # Your code here
    raise NotImplementedError


# %%
late_fusion = check("7.1.late_fusion", late_fusion)

# %% tags=["topic:late-fusion"]
print(f"With {whose(late_fusion)}:")
votes = {}
for level in (10, 0):
    wishes = clip.encode_texts([heard[level][i] for i in asked])  # (n, d)
    logits = scale * wishes @ stock.T  # (n, 64)
    votes[level] = logits.log_softmax(-1)
senses = {"10 dB alone": [votes[10], None], "0 dB alone": [None, votes[0]]}
senses["both"] = [votes[10], votes[0]]
right = {}
for name, predictions in senses.items():
    merged = late_fusion(predictions, [1.0, 1.0])
    guesses = [fusion.CLASSES[i] for i in merged.argmax(1).tolist()]
    right[name] = matches(guesses, products)
    print(f"{name:>11}: {share(right[name])}")
pairs = list(zip(right["both"], right["10 dB alone"], strict=True))
only_both = pairs.count((True, False))
only_good = pairs.count((False, True))
print(f"right only with both: {only_both} of {len(pairs)}, ", end="")
print(f"right only with the good one alone: {only_good}")

# %% [markdown]
# **What to notice.** When a sense is missing, nothing breaks: that is sure. Whether the sum is better or worse than
# the good microphone alone is *not* decided here. The intervals overlap widely, and the last line shows on how few
# requests the two differ. With equal weights a bad ear can outvote a good one. Try `[2.0, 1.0]`: a weight says how
# much you trust a sense. How many requests would you record before you decide?
#
# - **Cross-attention**: each sense keeps its own stream, and asks the other: picture tokens send queries to
#   sound tokens, and the other way round.

# %% [markdown]
# ### Exercise: Cross-attention (medium, about 15 minutes)
#
# Its heart is one formula, and it is the same in Flamingo and in Whisper's decoder. Write it, then compare it with
# PyTorch's on real tokens: 16 picture tokens ask 10 sound tokens, of which the last three are missing.


# %%
def cross_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    missing: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention (arXiv 1706.03762) from one modality to another: (b, n, d).

    `queries` (b, n, d) come from one modality, `keys` and `values` (b, m, d) from the other.
    `missing` (b, m) is True where the other modality has no token; nobody may look there.
    """
    # Your code here
    raise NotImplementedError


# %%
cross_attention = check("7.1.cross_attention", cross_attention)

# %% tags=["topic:cross-attention"]
print(f"With {whose(cross_attention)}:")
torch.manual_seed(0)
see, hear = nn.Linear(eye, 32), nn.Linear(ear, 32)
ask = see(train.picture[:4]).detach()  # (4, 16, 32)
tell = hear(train.sound[:4]).detach()  # (4, 10, 32)
gone = torch.zeros(4, 10, dtype=torch.bool)
gone[:, 7:] = True
ours = cross_attention(ask, tell, tell, gone)
there = ~gone[:, None, :]  # PyTorch's mask says where one may look
theirs = F.scaled_dot_product_attention(ask, tell, tell, attn_mask=there)
apart = (ours - theirs).abs().max()
print(f"{tuple(ask.shape)} ask {tuple(tell.shape)}: {tuple(ours.shape)}")
print(f"largest difference from PyTorch's: {apart:.1e}")

# %%
quiz("7.1.who_asks")

# %% [markdown]
# In the network, four such heads work side by side (`nn.MultiheadAttention`), in both directions:


# %% tags=["slide", "topic:cross-attention"]
class Cross(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.see = nn.Linear(eye, width)
        self.hear = nn.Linear(ear, width)
        self.eye_place = positions(16, width)
        self.ear_place = positions(10, width)
        self.read_eye = reader(width, 1)
        self.read_ear = reader(width, 1)
        self.eye_asks = nn.MultiheadAttention(width, 4, batch_first=True)
        self.ear_asks = nn.MultiheadAttention(width, 4, batch_first=True)
        both = nn.Linear(2 * width, width)
        self.answer = nn.Sequential(both, nn.GELU(), nn.Linear(width, ANSWERS))

    def forward(self, picture: Tensor, sound: Tensor) -> Tensor:
        seen = self.see(picture) + self.eye_place  # (n, 16, width)
        heard = self.hear(sound) + self.ear_place  # (n, 10, width)
        seen, heard = self.read_eye(seen), self.read_ear(heard)
        told, _ = self.eye_asks(seen, heard, heard, need_weights=False)
        seen = seen + told
        told, _ = self.ear_asks(heard, seen, seen, need_weights=False)
        heard = heard + told
        means = torch.cat([seen.mean(1), heard.mean(1)], 1)  # (n, 2 * width)
        return self.answer(means)


# %% tags=["topic:cross-attention"]
designs = {"early": Early, "late": Late, "cross-attention": Cross}
sizes = []
for name, design in designs.items():
    weights = size(design())
    sizes.append(f"{name}: {weights:,} weights")
print(", ".join(sizes))

# %% [markdown]
# Same cases, same number of steps, three seeds each. Before you run it: which design cannot answer which
# question, however long it trains? The test has new pictures and new voices.


# %% tags=["topic:early-fusion", "topic:late-fusion", "topic:cross-attention"]
def trained(design: type, seed: int, missing: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    network = design()
    return fusion.fit(network, train, seed, missing=missing)


jobs = list(product(designs, range(3)))
models = {}
for name, seed in figures.progress(jobs, "Training"):
    models[name, seed] = trained(designs[name], seed)


# %% tags=["topic:early-fusion", "topic:late-fusion", "topic:cross-attention"]
def spread(cases: fusion.Cases, name: str, networks: dict, question: str) -> tuple[float, ...]:
    """Mean, lowest and highest share of right answers over the seeds of one design."""
    values = []
    for seed in range(3):
        marks = fusion.marks(networks[name, seed], cases)
        values.append(marks[question])
    mean = sum(values) / len(values)
    return mean, min(values), max(values)


def written(marks: tuple[float, ...]) -> str:
    mean, low, high = marks
    return f"{mean:.0%} ({low:.0%} to {high:.0%})"


rows = []
for name in designs:
    row = {"fusion": name}
    for question in ("colour said", "shape seen", "wanted toy", "same colour?"):
        row[question] = written(spread(test, name, models, question))
    rows.append(row)
caption = f"Right answers on {len(test)} test cases: mean, lowest and highest of three seeds"
figures.table(rows, caption=caption)

# %% [markdown]
# **What to notice.** "Which toy is wanted?" needs both senses, yet no meeting: the ear knows the colour, the
# eye the shape, and adding logits is enough. "Is it the same colour?" is different. Late fusion stays near a
# coin toss there, and more training would not help: a *sum* of what the eye says and what the ear says cannot
# express "equal" (that is the XOR problem). The designs that let tokens meet can learn it.
#
# So is late fusion the worse design? Take something away: noise on the picture, noise on the voice, no picture,
# no voice.

# %% tags=["topic:fusion-robustness"]
hard = {"clean": test, "grainy picture": grainy, "noisy voice": hissing}
hard["no picture"] = fusion.without(test, "picture")
hard["no voice"] = fusion.without(test, "sound")


# %% tags=["topic:fusion-robustness"]
def bars(name: str, question: str) -> tuple[list[float], tuple[list[float], list[float]]]:
    """Heights, one a condition, and how far the seeds reach below and above."""
    means, below, above = [], [], []
    for cases in hard.values():
        mean, low, high = spread(cases, name, models, question)
        means.append(mean)
        below.append(mean - low)
        above.append(high - mean)
    return means, (below, above)


# %% tags=["topic:fusion-robustness"]
chances = {"colour said": 1 / 8, "shape seen": 1 / 8, "same colour?": 1 / 2}
conditions = range(len(hard))
fig, axes = figures.figure(columns=3, width=11, height=3.6)
for ax, (question, chance) in zip(axes, chances.items(), strict=True):
    for shift, name in zip((-0.27, 0, 0.27), designs, strict=True):
        means, ends = bars(name, question)
        at = [condition + shift for condition in conditions]
        ax.bar(at, means, 0.26, yerr=ends, capsize=2, label=name)
    ax.axhline(chance, color=figures.GREY, linestyle="--")
    ax.set_xticks(conditions, hard, rotation=40, ha="right")
    ax.set(title=question, ylim=(0, 1.02))
axes[0].set_ylabel("right answers (bars: three seeds)")
axes[2].legend(loc="upper right", fontsize=9, frameon=True)
told = []
for name in designs:
    mean, _, _ = spread(hard["no picture"], name, models, "colour said")
    told.append(f"{name} {mean:.0%}")
alt = "Right answers by fusion and condition. Colour without a picture: "
figures.show(fig, alt=alt + ", ".join(told))

# %% tags=["topic:fusion-robustness"]
rows = []
for name in designs:
    row = {"fusion": name}
    for case in ("clean", "grainy picture", "noisy voice", "no picture", "no voice"):
        row[case] = written(spread(hard[case], name, models, "colour said"))
    rows.append(row)
figures.table(rows, caption="The colour that was said: mean, lowest and highest of three seeds")

# %% [markdown]
# Look at the colour when there is no voice: not far above chance. Could a network do better without hearing
# anything? Yes: half of the customers want the very colour that is in the picture, so "the colour I see" is
# right every second time. But a network that always had both senses never learned to guess. The cure is
# cheap: now and then, leave a sense out in training (**modality dropout**). Is it free?

# %% tags=["topic:fusion-robustness"]
again = [job for job in jobs if job[0] != "cross-attention"]
cured = {}
for name, seed in figures.progress(again, "Training"):
    cured[name, seed] = trained(designs[name], seed, missing=0.4)
rows = []
for name in ("early", "late"):
    for label, networks in (("always both", models), ("modality dropout", cured)):
        row = {"fusion": name, "trained with": label}
        row["colour, no voice"] = written(spread(hard["no voice"], name, networks, "colour said"))
        row["colour, no picture"] = written(
            spread(hard["no picture"], name, networks, "colour said")
        )
        row["shape, no voice"] = written(spread(hard["no voice"], name, networks, "shape seen"))
        row["same colour?, both"] = written(spread(test, name, networks, "same colour?"))
        rows.append(row)
figures.table(rows, caption="When a sense is missing: mean, lowest and highest of three seeds")

# %% [markdown]
# **What to notice.** What surprised us: losing the *other* sense does little harm in any design. The colour
# survives without a picture and the shape without a voice, also in early fusion, because each is known to one
# sense alone. What is lost is what the senses share. Modality dropout teaches the networks to use the eye's hint
# about the colour; compare the last column to see what early fusion pays for it in the same number of steps.
# Noise on the one sense that knows the answer hurts all three designs: none can repair what did not get through.
# And look at the colour of the grainy picture: early fusion can be disturbed by a sense that it does not need;
# late fusion hardly can.
#
# There is no best fusion. Late fusion is modular, and a part of it can be trained or exchanged alone, but it cannot
# compare. Early fusion and cross-attention can compare. What each of them needs in data and steps you can find out:
# change the 900 cases and the 200 steps.

# %%
quiz("7.1.missing_sense")

# %% [markdown]
# **Try it.** Change one line of `Late` so that it can compare: add the dot product of the two means (that
# is CLIP's late interaction) as one more number for the answer. Which question gets better?

# %% [markdown]
# ### Check the slide: "GPT-4V uses cross-attention"
#
# Does it? Nobody outside can say. The *GPT-4V system card* (OpenAI 2023) and the *GPT-4 technical report*
# (arXiv 2303.08774) describe behaviour and safety; the latter states that it gives no details of the
# architecture. Cross-attention from a language model to picture tokens **is** published for **Flamingo**
# (Alayrac et al. 2022, arXiv 2204.14198): a frozen language model, with new cross-attention layers between
# its own. The other published design, in LLaVA (Liu et al. 2023, arXiv 2304.08485), is early fusion:
# projected picture tokens stand in the prompt like words.
#
# **Verdict: unknown.** Write "Flamingo uses cross-attention" instead.

# %% [markdown]
# ## The same with a real model
#
# Now without our toys and without our helpers: a photograph, a human voice, and the two models that everybody uses, in
# the libraries' own words. Leave out the first line of each cell, and you can paste it into an empty notebook of your
# own that has the packages open_clip_torch, openai-whisper, soundfile and matplotlib. At the small and the full
# tier these lines run here (CLIP 0.6 GB, Whisper 0.15 GB, both MIT). At the bundled tier you see a **recording**: what
# the same lines gave on a machine that has the model. It says when and where. Of
# CLIP there is none yet.
#
# First CLIP. The photograph shows Grace Hopper, who wrote one of the first compilers, in the uniform of the US Navy.
# Which of six sentences will win? And does the wording change the ranking, or only the numbers?

# %% tags=["topic:clip-zero-shot"]
# %%real clip
import matplotlib.cbook
import open_clip
import torch
from PIL import Image

architecture, training = "ViT-B-32", "laion2b_s34b_b79k"
eyes, _, prepare = open_clip.create_model_and_transforms(architecture, pretrained=training)
tokenize = open_clip.get_tokenizer(architecture)
eyes.eval()

# By the US Navy, public domain; it comes with matplotlib.
photo = Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg"))
things = ["a woman", "a man", "a sailor", "a flag", "a pizza", "a dog"]
for wording in ("{}", "a photo of {}", "a blurry painting of {}"):
    with torch.no_grad():
        picture = eyes.encode_image(prepare(photo)[None], normalize=True)  # (1, 512)
        texts = tokenize([wording.format(thing) for thing in things])  # (6, 77)
        likeness = picture @ eyes.encode_text(texts, normalize=True).T  # (1, 6)
        shares = (eyes.logit_scale.exp() * likeness).softmax(-1)[0]
    told = [f"{thing} {share:.0%}" for thing, share in zip(things, shares.tolist(), strict=True)]
    print(f"{wording:>24}: {', '.join(told)}")

# %% [markdown]
# Two questions that CLIP was never asked in training. Does it understand "without"? And what if somebody writes a word
# onto the picture? Guess both before you look.

# %%
# %%real clip
from PIL import ImageDraw

labelled = photo.copy()
draw = ImageDraw.Draw(labelled)
draw.rectangle((100, 400, 412, 520), fill="white")
draw.text((130, 400), "pizza", fill="black", font_size=110)

for pair in (["with glasses", "without glasses"], ["of a woman", "of a pizza"]):
    for name, seen in (("the photo", photo), ("with a word on it", labelled)):
        with torch.no_grad():
            picture = eyes.encode_image(prepare(seen)[None], normalize=True)  # (1, 512)
            texts = tokenize([f"a photo {words}" for words in pair])  # (2, 77)
            likeness = picture @ eyes.encode_text(texts, normalize=True).T  # (1, 2)
            shares = (eyes.logit_scale.exp() * likeness).softmax(-1)[0]
        told = [f"{words} {share:.0%}" for words, share in zip(pair, shares.tolist(), strict=True)]
        print(f"{name:>18}: {', '.join(told)}")

# %% [markdown]
# **What to look for.** A softmax shares 100 % among the sentences that *you* wrote: "a pizza" gets its share of a
# portrait, however small, and a missing sentence cannot win. Others measured both questions. CLIP hardly hears "not"
# and "without" (arXiv 2501.09425), and it reads: a word on the picture can beat what the picture shows, which its
# makers call a typographic attack (Goh et al. 2021, *Multimodal neurons in artificial neural networks*). Section 5
# found the same kind of blindness in `prisma-clip`, where the truth was drawn.
#
# Now a human voice: eleven seconds of John F. Kennedy's inaugural address, a public record. `prisma-whisper` knows 89
# words and would write nonsense here. What will Whisper base make of it, and which language will it name?

# %%
# %%real whisper
from pathlib import Path
from urllib.request import urlretrieve

import soundfile
import whisper

address = "https://github.com/ggml-org/whisper.cpp/raw/master/samples/jfk.wav"
if not Path("jfk.wav").exists():
    urlretrieve(address, "jfk.wav")  # 0.35 MB
voice, rate = soundfile.read("jfk.wav", dtype="float32")  # (176000,) at 16 kHz

listener = whisper.load_model("base")
heard = listener.transcribe(voice, fp16=False)
for segment in heard["segments"]:
    print(f"{segment['start']:5.1f} to {segment['end']:.1f} s: {segment['text'].strip()}")

window = whisper.pad_or_trim(voice)  # always 30 s: the rest is silence
mel = whisper.log_mel_spectrogram(window).to(listener.device)  # (80, 3000)
_, languages = listener.detect_language(mel)
for language in sorted(languages, key=languages.get, reverse=True)[:3]:
    print(f"{language}: {languages[language]:.1%}")

# %% [markdown]
# Whisper reads 30 seconds at a time. What does it do with a longer sound? We say the sentence twice, with 25 seconds of
# silence between: the second time begins at 36 s, and that we know for sure. Will it invent something for the silence?
# And will the time be right?

# %%
# %%real whisper
import numpy

silence = numpy.zeros(25 * rate, dtype="float32")
longer = numpy.concatenate([voice, silence, voice])  # 47 s: two windows
for by_word in (False, True):
    heard = listener.transcribe(longer, fp16=False, word_timestamps=by_word)
    print("times of words:" if by_word else "times of sentences:")
    for segment in heard["segments"]:
        print(f"{segment['start']:5.1f} to {segment['end']:.1f} s: {segment['text'].strip()}")

# %% [markdown]
# **What to notice.** In the recording every word is right, and so is the language: this is speech of the kind that
# Whisper was trained on. Look at the commas, though. They come and go over the same voice: nobody speaks a comma, so
# the decoder guesses it. Nothing was invented for the silence here. That is not always so (*Careless Whisper*, arXiv
# 2402.08021, counts the harm).
#
# Now the times. Sentence by sentence, the second one is said to begin at 30.0 s, six seconds too early: a timestamp is
# a token that the decoder writes like a word, and it wrote "at the beginning of my window". Word by word it is 35.8 s,
# nearly right. These times are read off the cross-attention of section 7: which piece of sound did the decoder look at
# when it wrote the word? For subtitles, take the second kind.

# %% [markdown] tags=["topic:model-table"]
# ## 8. The landscape
#
# | model | in | out | where the senses meet | published |
# | --- | --- | --- | --- | --- |
# | CLIP (arXiv 2103.00020) | picture, text | vectors | late: a dot product | all |
# | SigLIP 2 (arXiv 2502.14786) | picture, text | vectors | late: a dot product | all |
# | Whisper (arXiv 2212.04356) | sound | text | cross-attention from decoder to encoder | all |
# | ImageBind (arXiv 2305.05665) | six senses | vectors | late: all bound to pictures | all |
# | Flamingo (arXiv 2204.14198) | pictures, text | text | cross-attention layers | paper |
# | LLaVA (arXiv 2304.08485) | picture, text | text | early: picture tokens in the prompt | all |
# | GPT-4V (system card, 2023) | picture, text | text | not published | behaviour only |
# | Gemini (arXiv 2312.11805) | all four | text, picture | "multimodal from the beginning" | report |
# | Qwen2.5-Omni (arXiv 2503.20215) | all four | text, speech | early; a second network speaks | all |
# | Chameleon (arXiv 2405.09818) | text, picture | text, picture | early: one vocabulary | all (weights: only text) |
#
# ("All" means paper, code and weights. "All four" means text, picture, sound, video;
# the six senses are picture, text, sound, depth, heat and motion.)
# From top to bottom the table moves from "two encoders, one number" to "one network, every sense, in and
# out": from multimodal to any-to-any.

# %% [markdown] tags=["topic:applications-multimodal"]
# **What is it used for?** Three fields, and the weakness of this notebook that matters in each:
#
# - **Medicine**: BiomedCLIP (arXiv 2303.00915) matches medical pictures with the captions under them in
#   papers. *Left* and *right* lung are a binding problem (section 5).
# - **Driving**: cameras, radar and lidar are fused, and a sensor *will* fail: section 7's missing sense is the
#   normal case. TransFuser (arXiv 2205.15997) joins camera and lidar with attention.
# - **Accessibility**: reading the world aloud to someone who cannot see it. A hallucinated step or a missed
#   word is not a typo there (sections 5 and 6).

# %% [markdown]
# ## 9. Open problems, in numbers
#
# Four problems remain open: **alignment** (do the towers agree on more than the training pairs?), **paired
# data**, **compute** and **evaluation**. Two of them can be counted. How far is the model of this notebook from the
# original, CLIP ViT-L/14, in pairs and in operations? A forward pass costs about two operations for each weight and
# token, training three times that.


# %% tags=["topic:alignment-data-cost-eval"]
def training_operations(pairs: float, vision: int, patches: int, text: int, words: int) -> float:
    """About 6 operations for each weight, token and pair (arXiv 2001.08361), two towers."""
    of_picture = vision * (patches + 1)  # and the class token
    of_text = text * words
    return 6 * pairs * (of_picture + of_text)


vision, text = size(clip.model.visual.transformer), size(clip.model.transformer)
# What the model cards say. LAION's models saw 2 billion pairs, each about 16 times.
known = {"prisma-clip": 1_230_720, "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": 32e9}
pairs = known.get(clip.name, 34e9)
patches = (side // patch) ** 2
cost = training_operations(pairs, vision, patches, text, clip.model.context_length)
million = size(clip.model) / 1e6
print(f"{clip.name}: {million:.1f} million weights, {pairs:,.0f} pairs, {cost:.1e} operations")

# %% tags=["topic:alignment-data-cost-eval"]
# The original (arXiv 2103.00020): 24 layers of width 1024 read 256 patches, 12 of width 768 read
# 77 words; a layer has 12 times the square of its width in weights. 400 million pairs, 32 times.
vision = 24 * 12 * 1024**2
text = 12 * 12 * 768**2
original = 32 * 400e6
original_cost = training_operations(original, vision, 256, text, 77)
print(f"CLIP ViT-L/14: 428 million weights, {original:,.0f} pairs, {original_cost:.1e} operations")
more_pairs = original / pairs
more_operations = original_cost / cost
print(f"the original saw {more_pairs:,.3g} times as many pairs,")
print(f"and its training took {more_operations:,.3g} times as many operations")

# %% [markdown]
# **What to notice.** Drawing pairs made the data problem disappear here, because the world of this shop fits
# into a few hundred lines of code. Nobody can draw the real world, so real models take captions from the web,
# with their noise and their gaps. And evaluation: every test in this notebook was drawn from the same
# generator as the training data. Held-out pairs, voices and sentences make it honest, but none of it says
# anything about a photograph.
#
# **You have now** measured zero-shot recognition on truly new classes, written CLIP's loss, searched by voice,
# and seen what a fusion can and cannot do. Unit 7.2 gives a language model tools, so that it can answer the
# customer.
