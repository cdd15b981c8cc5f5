# %% [markdown] tags=["badge"]
# # 7.1 Lab: deepfakes, and what holds against them
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.1_lab_deepfakes.ipynb)

# %% [markdown]
# **After this notebook you can**
# - tell replacement, re-enactment and editing apart;
# - train a detector, and measure how it fails on a manipulation that it never saw;
# - write an invisible watermark, and find what destroys it;
# - sign a picture's history, and say what a signature proves and what not;
# - name what the law of the European Union asks for.
#
# **Time:** about 20 minutes to read and run; the cells take less than a minute on two CPU cores.
#
# **Downloads:** nothing. No pictures of people are used: the toys of Prisma stand in for faces.

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
# The next cell looks at your machine. The detector is trained here; no other model is needed.

# %%
from course_utils import open_unit

unit = open_unit("7.1", tier="bundled")

# %%
import hashlib
import hmac
import json
from functools import partial

import torch
from torch import Tensor

from course_utils import figures
from course_utils.measures import share
from course_utils.multimodal import deepfakes

# %% [markdown] tags=["topic:deepfakes"]
# ## 1. Three things one can do to a picture
#
# A **deepfake** is a picture, sound or video made or changed by AI that passes for a true one. Reviews sort what
# is done to faces (Mirsky and Lee 2020, arXiv 2004.11138):
#
# | kind | what changes | what stays | with faces | here, with toys |
# | --- | --- | --- | --- | --- |
# | **replacement** | who it is | the scene, the pose | a face swap | another picture's toy is put in |
# | **re-enactment** | what somebody does | who it is | lips follow another speech | the toy is moved and turned |
# | **editing** | one attribute | the rest | other hair, another age | the toy gets another hue |
#
# (A fourth is *synthesis*: a person who does not exist.) Our manipulations use no neural network. For the
# question of this lab, whether one can find them, that makes no difference: what gives a fake away is traces.

# %% tags=["topic:deepfakes"]
photos = deepfakes.photos(400, seed=740)
test = {"real": photos}
for kind in deepfakes.EDITS:
    test[kind] = deepfakes.manipulate(photos, kind, seed=741)
fig, axes = figures.figure(4, 8, width=10, height=5.4)
for line, (name, pixels) in zip(axes, test.items(), strict=True):
    images = pixels[:8].permute(0, 2, 3, 1)  # (8, side, side, 3)
    for ax, image in zip(line, images, strict=True):
        figures.picture(ax, image)
    line[0].set_ylabel(name)
told = "the same with toys in other hues, with other toys put in, with toys moved"
figures.show(fig, alt=f"Eight pictures of toys; {told}.")

# %% [markdown]
# ## 2. Can a detector find what it never saw?
#
# A camera leaves grain in a picture, everywhere alike; so does Prisma's renderer. A manipulation disturbs it: new
# hues mix the channels, a moved toy is resampled and smoother. Our detector looks only at such traces, not at what
# the picture shows.
#
# Train it on **editing**, 1,500 real and 1,500 edited pictures. Then test it on fresh pictures: real ones, edited
# ones, and the two manipulations that it has never seen. What do you expect?

# %% tags=["topic:deepfakes"]
real = deepfakes.photos(1_500, seed=742)
source = deepfakes.photos(1_500, seed=743)


def caught(detector: deepfakes.Detector, pictures: dict[str, Tensor]) -> dict[str, str]:
    """The share of each kind of pictures that is called manipulated."""
    rates = {}
    for name, pixels in pictures.items():
        called = detector(pixels) > 0  # (n,)
        rates[name] = str(share(called.tolist()))
    return rates


lessons = {kind: [kind] for kind in deepfakes.EDITS}
lessons["all three"] = deepfakes.EDITS
rows = []
for lesson, kinds in lessons.items():
    parts = source.split(len(source) // len(kinds))  # one part for each kind
    fake = []
    for i, kind in enumerate(kinds):
        fake.append(deepfakes.manipulate(parts[i], kind, seed=i))
    detector = deepfakes.Detector(real, torch.cat(fake))
    rows.append({"trained on": lesson} | caught(detector, test))
caption = 'Called "manipulated", of 400 fresh pictures each (the column "real": false alarms)'
figures.table(rows, caption=caption)

# %% [markdown]
# And if nobody adds a new manipulation, but the picture is only saved again, as every messenger does?

# %% tags=["topic:deepfakes"]
sent = {name: deepfakes.jpeg(pixels, 75) for name, pixels in test.items()}
rows = []
for name, rate in caught(detector, sent).items():
    rows.append({"sent as JPEG, quality 75": name, "called manipulated": rate})
figures.table(rows, caption="The detector that was trained on all three")

# %% [markdown]
# **What to notice.** Read the first three rows from left to right: each detector is best on the kind that it was
# trained on. How much it finds of the others is an accident of which traces they share. The last table is worse
# news: JPEG disturbs the grain too, so a detector that has never seen JPEG takes a *saved* picture for a manipulated
# one, and its test promised nothing of the kind. Large benchmarks with faces tell the same story, for compression
# (Rossler et al. 2019, arXiv 1901.08971) and for new manipulations (Cozzolino et al. 2018, arXiv 1812.02510). So
# "real" out of a detector's mouth is no proof, and neither is "fake".
#
# **Exercise.** Train on JPEGs as well (`torch.cat` real and fake ones of quality 50 to 95). What does it cost on
# clean pictures?

# %% [markdown]
# ## 3. Instead of searching for fakes: mark what is made
#
# Who makes pictures with AI can mark them while they are made. A **watermark** must not be seen, must be found
# with the key, and should survive. The classic way is **spread spectrum** (Cox et al. 1997): add a faint pattern
# of plus and minus, drawn from a secret key, to many middle frequencies at once. Each change is far below what you
# see; together they are plain to a detector that knows the pattern.
#
# What would have to happen to the picture so that the mark is lost? Write down a guess: noise, JPEG, a cut at the
# edges, a mirror?


# %% tags=["topic:deepfakes"]
WIDE = 256
WAVES = deepfakes.cosines(WIDE)  # (256, 256): one wave a row
ring = torch.arange(WIDE)[:, None] + torch.arange(WIDE)[None]  # small where waves are coarse
# Not the coarse waves, which are seen, and not the fine ones, which JPEG drops.
BAND = (ring > 20) & (ring < 90)


def pattern(key: int) -> Tensor:
    """Plus and minus ones (256, 256) in the band, drawn from the key."""
    draw = torch.Generator().manual_seed(key)
    bits = torch.randint(2, (WIDE, WIDE), generator=draw)
    signs = 2 * bits - 1
    return signs * BAND


# %% tags=["topic:deepfakes"]
def marked(pixels: Tensor, key: int, strength: float = 0.02) -> Tensor:
    """The pictures (n, 3, 256, 256) with the mark, rounded to 8 bits."""
    spectrum = strength * pattern(key)
    added = WAVES.T @ spectrum @ WAVES  # (256, 256), grey: the same in all three channels
    levels = (pixels + added).clamp(0, 1) * 255
    return levels.round() / 255


def evidence(pixels: Tensor, key: int) -> Tensor:
    """How many standard deviations (n,) the agreement with the pattern is above chance."""
    grey = pixels.mean(1)  # (n, 256, 256)
    waves = WAVES @ grey @ WAVES.T  # (n, 256, 256)
    spectrum = waves * BAND
    damped = spectrum / (spectrum.abs() + 0.05)  # one strong edge must not outvote all others
    agreement = (damped * pattern(key)).sum((1, 2))  # (n,)
    variance = damped.square().sum((1, 2))  # of the agreement with signs drawn by lot
    return agreement / variance.sqrt()


# %% tags=["topic:deepfakes"]
KEY, LIMIT = 2026, 4.0  # chance goes beyond 4 deviations three times in 100,000
clean = deepfakes.photos(120, seed=744, side=WIDE)
ours = marked(clean, KEY)
change = (ours - clean).abs().mean()
distance = deepfakes.psnr(ours, clean)
print(f"the mark changes a pixel by {change:.4f} (of 0 to 1) on average")
print(f"marked and unmarked pictures are {distance:.1f} dB apart")

# What may happen to a picture: a name, and a function of pictures.
draw = torch.Generator().manual_seed(0)
ways = {"nothing": lambda pixels: pixels}
for spread in (0.05, 0.2):
    ways[f"noise {spread}"] = partial(deepfakes.noisy, spread=spread, draw=draw)
for quality in (90, 50, 10):
    ways[f"JPEG {quality}"] = partial(deepfakes.jpeg, quality=quality)
for border in (1, 4, 16):
    pixel = "pixel" if border == 1 else "pixels"
    ways[f"{border} {pixel} cut off each side"] = partial(deepfakes.cropped, border=border)
ways["turned left to right"] = lambda pixels: pixels.flip(3)


# %% tags=["topic:deepfakes"]
def found(deviations: Tensor) -> str:
    """The share of the pictures in which the mark is taken for present."""
    present = deviations > LIMIT  # (n,)
    return str(share(present.tolist()))


rows = []
for name, way in ways.items():
    hit = evidence(way(ours), KEY)  # (120,)
    wrong = evidence(way(clean), KEY)  # (120,)
    row = {"what happened": name, "mark found": found(hit), "without a mark": found(wrong)}
    row["evidence"] = hit.median().item()
    rows.append(row)
stranger = evidence(ours, 1)
row = {"what happened": "read with a wrong key", "mark found": found(stranger)}
row["without a mark"] = ""
row["evidence"] = stranger.median().item()
rows.append(row)
caption = "120 pictures of 256 pixels; evidence: median, in standard deviations"
figures.table(rows, caption=caption, digits=1)

# %%
difference = (ours[0] - clean[0]) * 20 + 0.5
shown = {"without": clean[0], "with the mark": ours[0], "difference x 20": difference}
fig, axes = figures.figure(columns=3, width=9, height=3.2)
for ax, (name, pixels) in zip(axes, shown.items(), strict=True):
    image = pixels.permute(1, 2, 0).clamp(0, 1)  # (256, 256, 3)
    figures.picture(ax, image, name)
told = "which look alike, and their difference twenty times enlarged"
figures.show(fig, alt=f"A picture without and with the mark, {told}.")

# %% [markdown]
# **What to notice.** Noise that you clearly see and ordinary JPEG leave the mark readable; only JPEG at quality
# 10 washes most of it out. Geometry is its weak side: cut off a few pixels and enlarge the rest to the old size,
# or mirror it, and the pattern no longer lies where the key says, although nearly all of it is still there.
# Deployed marks learn to survive that (Tree-Ring, arXiv 2305.20030, marks a diffusion model's *noise*; Stable
# Signature, arXiv 2303.15435, its decoder). And a mark is on the pictures of those who want to mark.
#
# **Exercise.** Let the detector try the mirrored picture as well. By how much does the chance of a false alarm grow?

# %% [markdown]
# ## 4. Or: sign where a picture comes from
#
# **Provenance** turns the question round: not "is this fake?" but "who says what about it?". C2PA (the standard
# behind "Content Credentials") stores a **manifest** with the picture: who made it, with what tool, what was done,
# and a hash of the content; and signs it. Below is the idea in a dozen lines.
#
# One thing is simplified: an HMAC needs one secret for signing *and* for checking, so who can check can also forge.
# C2PA signs with a private key and an X.509 certificate; anybody can check with the public key.
#
# Seven cases follow. In which of them does the signature tell you what you want to know?


# %% tags=["topic:deepfakes"]
def digest(pixels: Tensor) -> str:
    """A hash of the content: 64 hexadecimal digits that any other content would change."""
    levels = (pixels * 255).round().byte()
    content = levels.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def seal(claim: dict, secret: bytes) -> str:
    """What only those who have the secret can compute of a claim."""
    text = json.dumps(claim, sort_keys=True).encode()
    return hmac.new(secret, text, hashlib.sha256).hexdigest()


def sign(pixels: Tensor, actions: list[str], secret: bytes) -> dict:
    """A manifest of a picture's history, bound to its content and sealed."""
    claim = {"maker": "Prisma photo studio", "actions": actions, "sha256": digest(pixels)}
    return claim | {"seal": seal(claim, secret)}


# %% tags=["topic:deepfakes"]
def verify(pixels: Tensor, manifest: dict | None, secret: bytes) -> str:
    """What the manifest proves about the picture."""
    if manifest is None:
        return "no manifest: nothing is known"
    claim = dict(manifest)
    its_seal = claim.pop("seal")
    if not hmac.compare_digest(seal(claim, secret), its_seal):
        return "the manifest was changed"
    if digest(pixels) != claim["sha256"]:
        return "the picture was changed"
    return "as signed: " + ", ".join(claim["actions"])


# %% tags=["topic:deepfakes"]
secret = hashlib.sha256(b"only for this lesson").digest()
picture = clean[0]
manifest = sign(picture, ["photographed"], secret)
one_pixel = picture.clone()
one_pixel[0, 0, 0] = 1 - one_pixel[0, 0, 0].round()
recoloured = deepfakes.manipulate(clean[:1], "editing", seed=0)[0]
honest = sign(recoloured, ["photographed", "hue changed with AI"], secret)
forged = honest | {"actions": ["photographed"]}
saved = deepfakes.jpeg(picture[None], 90)[0]
cases = {
    "as it was": (picture, manifest),
    "one pixel changed": (one_pixel, manifest),
    "recoloured, old manifest": (recoloured, manifest),
    "recoloured, and said so": (recoloured, honest),
    "recoloured, the action deleted": (recoloured, forged),
    "saved as JPEG on the way": (saved, manifest),
    "manifest removed": (recoloured, None),
}
rows = []
for name, (pixels, its_manifest) in cases.items():
    rows.append({"case": name, "what can be said": verify(pixels, its_manifest, secret)})
figures.table(rows)

# %% [markdown]
# **What to notice.** A signature proves what somebody *said* about exactly these pixels, not that it is true: a
# liar can sign a lie. An innocent JPEG breaks the bond as surely as a fake does. And the last row is the gap that
# no signature can close: the manifest can be taken off, and most pictures never had one. That is why C2PA also
# knows watermarks, as a way to find a lost manifest again (it calls this a soft binding).

# %% [markdown] tags=["topic:deepfakes"]
# ## 5. What does the law ask for?
#
# In the European Union, Article 50 of the **AI Act** (Regulation (EU) 2024/1689) asks three things about such
# content:
# 1. Who **provides** a system that generates synthetic audio, images, video or text must see to it that its
#    outputs are marked in a machine-readable format and can be detected as artificially generated or manipulated
#    (paragraph 2).
# 2. Who **deploys** a system to make a deepfake must disclose that the content was artificially generated or
#    manipulated; for evidently artistic, satirical or fictional works, in a way that does not hamper the work
#    (paragraph 4).
# 3. The information must be clear and reach people at the latest at the first interaction or exposure (paragraph
#    5); by Article 113 of the text of 2024 these duties apply from 2 August 2026.
#
# Laws get amended, and other countries have other ones: look at the current text before you rely on this. And
# look at your tables again: which of the first two duties can section 3 fulfil, which section 4, and which neither?
#
# **What to notice.** No single tool holds. A detector finds what it knows, a mark survives what it was made for, a
# signature speaks for those who sign. Together they make honest pictures easy to trust; they do not make dishonest
# ones impossible.
