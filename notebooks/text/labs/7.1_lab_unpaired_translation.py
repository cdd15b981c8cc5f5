# %% [markdown] tags=["badge"]
# # 7.1 Lab: translating pictures without pairs
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.1_lab_unpaired_translation.ipynb)

# %% [markdown]
# **After this notebook you can**
# - train two translators between two piles of pictures that have no pairs;
# - write the cycle loss by hand, take it away, and measure what breaks;
# - say what cycle consistency promises, and what it does not.
#
# **Time:** about 15 minutes to read and run; the cells take about a minute on two CPU cores.
#
# **Downloads:** nothing. Every translator is trained in this notebook, from nothing; the judge is `prisma-clip`,
# which comes with the course.

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
# The next cell looks at your machine. At every tier this lab uses the bundled judge, so that your numbers can be
# compared with the ones that you see here.

# %%
from course_utils import open_unit

unit = open_unit("7.1", tier="bundled")

# %%
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import figures
from course_utils.measures import percent, share
from course_utils.multimodal import generative
from course_utils.multimodal.generative import Descent
from course_utils.prisma.shop import COLOURS, SHAPES
from course_utils.settings import paced

red = generative.toys(paced(4_000), seed=720, colours=("red",))
blue = generative.toys(paced(4_000), seed=721, colours=("blue",))
held = generative.toys(paced(512, 96), seed=722, colours=("red",))  # never in training
judge = generative.Judge(unit.load("image-text").model, generative.toys(paced(2_000), seed=723))

# %% [markdown]
# ## 1. Two piles, no pairs
#
# Prisma wants to show each red toy in blue. If we had each toy in both colours, this would be ordinary
# supervised learning. We have two piles: 4,000 red toys and 4,000 *other* toys that are blue. No red toy has a
# twin. (The piles are small pictures on plain grey, so that two CPU cores learn them in seconds.)
#
# The shapes are known to the judge only, never to the translators. The judge is the vision tower of
# `prisma-clip` with two linear probes. Is it reliable?

# %%
seen = judge.features(held.pixels)
colour, shape = judge.name(seen)
right_colour = (colour == held.colour).tolist()
right_shape = (shape == held.shape).tolist()
print("held-out red toys named red:", share(right_colour))
print("their shape named rightly: ", share(right_shape))
generative.show_rows(
    {"red pile": red.pixels[:16], "blue pile": blue.pixels[:16]},
    alt="Sixteen red toys, and sixteen other, blue toys.",
)

# %% [markdown]
# ## 2. What would a critic accept?
#
# As in a GAN, a discriminator of blue toys can tell the translator whether its output looks like the blue pile.
# But think: what does this loss ask for? Any blue toy will do. A translator that turns every red cube into a
# blue star is never caught.
#
# **CycleGAN** (Zhu et al. 2017, arXiv 1703.10593) trains both directions, $A$ from red to blue and $B$ from blue
# to red, and adds one demand: there and back again, you must be where you started.
#
# $$L = L_{\text{GAN}}(A) + L_{\text{GAN}}(B) + \lambda ( \| B(A(x)) - x \|_1 +
# \| A(B(y)) - y \|_1 ), \qquad \lambda = 10$$
#
# Our translators squeeze a picture into a map of 4 x 4 places and paint a new picture from it. They *may*
# repaint everything; that is what makes the question interesting.


# %% tags=["topic:cyclegan-style"]
def cycle_loss(x: Tensor, y: Tensor, there: nn.Module, back: nn.Module) -> Tensor:
    """How far pictures of the two piles (n, 3, h, w) are from themselves after both
    translations."""
    x_again = back(there(x))
    y_again = there(back(y))
    return F.l1_loss(x_again, x) + F.l1_loss(y_again, y)


same = nn.Identity()  # a translator that does nothing closes every cycle
idle = cycle_loss(red.pixels[:48], blue.pixels[:48], same, same)
print(f"cycle loss of doing nothing: {idle:.1f}")


# %% tags=["topic:cyclegan-style"]
def catch(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """A critic's loss: it should find the real pictures real, and the fake ones not."""
    on_real = critic(real)  # (n, 1): logits of "this one is real"
    on_fake = critic(fake.detach())
    return F.softplus(-on_real).mean() + F.softplus(on_fake).mean()


def deceive(critic: nn.Module, fake: Tensor) -> Tensor:
    """A translator's loss: the critic should find its pictures real."""
    on_fake = critic(fake)
    return F.softplus(-on_fake).mean()


# %% tags=["topic:cyclegan-style"]
def train(
    seed: int, weight: float, kind: Callable = generative.translator, steps: int = 250
) -> list[nn.Module]:
    """Translators red to blue and blue to red; `weight` is that of the cycle loss."""
    torch.manual_seed(seed)
    there, back = kind(), kind()
    is_blue, is_red = generative.critic(width=24), generative.critic(width=24)
    paint = Descent([there, back], 1e-3, steps, (0.5, 0.99))
    doubt = Descent([is_blue, is_red], 1e-3, steps, (0.5, 0.99))
    many_reds = generative.batches(red, steps, seed, "training", 48)
    many_blues = generative.batches(blue, steps, seed + 1, "training", 48)
    for reds, blues in zip(many_reds, many_blues, strict=True):
        x, y = reds.pixels, blues.pixels
        blue_fake, red_fake = there(x), back(y)
        caught = catch(is_blue, y, blue_fake) + catch(is_red, x, red_fake)
        doubt.step(caught)
        loss = deceive(is_blue, blue_fake) + deceive(is_red, red_fake)
        if weight:
            loss = loss + weight * cycle_loss(x, y, there, back)
        paint.step(loss)
    return [there.eval(), back.eval()]


# %% [markdown]
# Doing nothing costs nothing: without critics, the cycle loss would be worthless. What about critics without it?
# Take it away and put it back, two seeds each, and ask the judge about 512 held-out red toys:
#
# - Does the result look **blue**? Is its **shape** still that of the input? (Guessing would be right in 1 of 8.)
# - More forgiving: how many **bits** about the shape survive? If every cube became a ball and every ball a cube,
#   none of their shapes would be kept, yet not one bit lost. All would be 3 bits.


# %% tags=["topic:cyclegan-style"]
def measure(there: nn.Module, back: nn.Module) -> dict:
    """What becomes of the held-out red toys."""
    with torch.inference_mode():
        made = there(held.pixels)
        again = back(made)
    seen = judge.features(made)
    colour, shape = judge.name(seen)
    blue_number = COLOURS.index("blue")
    result = {"made": made, "named": shape}
    result["blue"] = (colour == blue_number).tolist()
    result["kept"] = (shape == held.shape).tolist()
    result["bits"] = generative.information(held.shape, shape)
    result["error"] = F.l1_loss(again, held.pixels).item()
    return result


# %% tags=["topic:cyclegan-style"]
arms = {"critics alone": 0.0, "critics and cycle": 10.0}
pairs, found, rows = {}, {}, []
for name, seed in product(arms, range(2)):
    pair = train(seed, arms[name])
    result = measure(*pair)
    row = {"losses": name, "seed": seed}
    row["blue"] = percent(share(result["blue"]))
    row["shape kept"] = percent(share(result["kept"]))
    row["bits of shape"] = result["bits"]
    row["there and back (L1)"] = result["error"]
    rows.append(row)
    pairs[name, seed], found[name, seed] = pair, result
figures.table(rows, caption="512 held-out red toys, with 95 % intervals", digits=3)

# %% tags=["topic:cyclegan-style"]
shown = {"red, held out": held.pixels[:16]}
for (name, seed), result in found.items():
    shown[f"{name}, {seed}"] = result["made"][:16]
told = "with critics alone other blue toys, with the cycle loss the same shapes in blue"
generative.show_rows(shown, alt=f"Sixteen red toys and their translations: {told}.", height=0.6)

# %% [markdown]
# Where do the shapes go? Each row below is a shape that went in, each column the shape that the judge reads in
# the result.

# %%
fig, axes = figures.figure(columns=2, width=10, height=4)
kept = []
for ax, name in zip(axes, arms, strict=True):
    result = found[name, 0]
    counts = torch.zeros(8, 8)  # (shape in, shape out)
    ones = torch.ones(len(held))
    counts.index_put_((held.shape, result["named"]), ones, accumulate=True)
    shares = counts / counts.sum(1, keepdim=True)
    label = "share of the row" if ax is axes[1] else ""
    figures.heatmap(ax, shares, SHAPES, SHAPES, label, 0, 1)
    ax.set(title=f"{name}, seed 0", xlabel="shape that comes out")
    diagonal = share(result["kept"])
    kept.append(f"{diagonal.value:.0%}")
axes[0].set_ylabel("shape that goes in")
told = f"{kept[0]} of the toys with critics alone and {kept[1]} with the cycle loss"
figures.show(fig, alt=f"Shapes in against shapes out; the diagonal holds {told}.")

# %% [markdown]
# **What to notice.** Both arms make blue toys. With critics alone the judge reads one and the same shape in most of
# them. Compare with the pictures: your eye still finds some outlines (rings, pyramids), under heavy grain.
# The judge has never seen such grain, so part of the gap is its confusion, not only lost shape. The cycle loss gives
# cleaner toys that both of you can name, because two inputs that become one cannot both be brought back.
#
# **Exercise.** Train with `weight=0.5`. Is a weak cycle enough?

# %% [markdown]
# ## 3. Was it the cycle, or the network?
#
# The cycle loss asks that nothing gets lost. It does *not* ask that a cube stays a cube: to exchange all cubes
# and balls, there and back, would cost nothing. Look at the right-hand map: most shapes stay what they were all
# the same (find the one that does not). Why? Something else must prefer the simple way: the network. So take a
# network that can hardly do anything but recolour, three small convolutions that see three pixels far, and train
# it with critics alone.

# %% tags=["topic:cyclegan-style"]
near, rows = [], []
for seed in range(2):
    there, back = train(seed, 0.0, generative.LocalTranslator, steps=100)
    result = measure(there, back)
    near.append(result)
    row = {"local network, seed": seed}
    row["blue"] = percent(share(result["blue"]))
    row["shape kept"] = percent(share(result["kept"]))
    rows.append(row)
generative.show_rows(
    {"red, held out": held.pixels[:16], "local, no cycle": near[0]["made"][:16]},
    alt="Sixteen red toys, and the same recoloured by the local network.",
    height=0.6,
)
figures.table(rows, caption="Critics alone, but a network that sees three pixels far")

# %% [markdown]
# **What to notice.** No cycle loss, and most shapes survive all the same. What a loss leaves open, the network
# decides. The CycleGAN paper says so from the other side (section 6): its translators, built to recolour and to
# change texture, turn horses into zebras, but hardly change anything when a dog should become a cat.

# %% [markdown]
# ## 4. Can it hide something?
#
# To come back exactly, the blue picture must carry everything about the red one, also what a blue toy does not
# show. Chu et al. (2017, arXiv 1712.02950) found that CycleGAN hides such things in patterns too faint to see. How
# would you find out? Disturb the blue picture a little, less than you would notice, and go back. As a yardstick,
# disturb the red picture equally before the whole journey: if nothing faint is used, the two should hurt alike.

# %% tags=["topic:cyclegan-style"]
there, back = pairs["critics and cycle", 0]
levels = (0.0, 0.02, 0.05, 0.1, 0.2)
lines = {"noise on the blue picture": [], "noise on the red picture": []}
with torch.inference_mode():
    blues = there(held.pixels)
    for level in levels:
        torch.manual_seed(0)
        noise = level * torch.randn_like(blues)
        from_blue = back(blues + noise)
        from_red = back(there(held.pixels + noise))
        for errors, result in zip(lines.values(), (from_blue, from_red), strict=True):
            misses = (result - held.pixels).abs()
            errors.append(misses.mean((1, 2, 3)))  # (512,)

# %% tags=["topic:cyclegan-style"]
fig, ax = figures.figure(height=3)
ends = {}
for (name, errors), marker in zip(lines.items(), "os", strict=True):
    middle = [error.mean() for error in errors]
    root = len(held) ** 0.5
    reach = [1.96 * error.std() / root for error in errors]  # of the 95 % interval
    ax.errorbar(levels, middle, reach, marker=marker, capsize=4, label=name)
    ends[name] = f"{middle[0]:.3f} to {middle[-1]:.3f}"
ax.set(xlabel="noise (standard deviation, pixels run from -1 to 1)")
ax.set(ylabel="error there and back (L1)", ylim=(0, None))
ax.legend()
figures.show(fig, alt=f"Error of there and back against noise; it grows from and to: {ends}.")
print(ends)

# %% [markdown]
# **What to notice.** Compare the two curves. Where noise on the blue picture hurts more than the same noise on the
# red one, the way back relies on small differences in the blue picture; where they lie together, it does not. The
# bars are 95 % intervals over the 512 toys. In our run they lie together for noise too faint to see, and part where
# you would notice it: no hidden pattern of the paper's kind. But this is one training run of one small network.
#
# **Where it went.** The idea lives on wherever pairs are missing: translating speech from voice to voice, summer
# to winter, one scanner's pictures to another's. In medicine its freedom is a danger: a translator that makes
# pictures "look like" the healthy pile may paint a tumour away (Cohen et al. 2018, arXiv 1805.08841).
#
# **Exercise.** Let Prisma's translators go from red to *white*. White toys have no hue to hide anything in: is
# the way back worse?
