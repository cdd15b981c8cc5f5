# %% [markdown] tags=["badge"]
# # 7.1 Lab: your voice, your pictures, your language
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.1_lab_your_own_media.ipynb)

# %% [markdown]
# **After this notebook you can**
# - say which models were chosen on this machine, why, and how to get larger ones;
# - let Whisper hear your own voice, and let CLIP look at your own pictures;
# - tell what a probability of CLIP means, and what it does not mean;
# - detect a language, and find out whether your detector knows the language or only the sentences;
# - translate speech, and know when a model does not understand you.
#
# **Time:** about 30 minutes; the cells take less than a minute on two CPU cores. With real models on a CPU, a few
# minutes more.
#
# **Downloads:** nothing at the bundled tier; about 0.9 GB at the small tier and 4.3 GB at the full tier. Nothing is
# fetched before it is announced, with its size and licence.
#
# **Your data:** a recording, a file or a picture is taken only when you press a button or write a path. It goes into
# the memory of this notebook's kernel, and nowhere else. If nobody presses, the cells go on with what the course ships.

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
import numpy as np
import torch
from IPython.display import Audio, display
from torch import Tensor
from torch.nn import functional as F

from course_utils import figures
from course_utils.measures import share
from course_utils.models import catalogue, tiers
from course_utils.multimodal import listening, media, transcripts
from course_utils.prisma import clip as prisma_clip
from course_utils.prisma import languages, natural, speech
from course_utils.prisma.shop import COLOURS

clip = unit.load("image-text")
hearing = unit.load("speech")

# %% [markdown]
# ## 1. Which models are these, and how do you get larger ones?
#
# Each role has a model at each tier, and all of them go through the same cells. What stands between you and the
# larger ones?

# %%
rows = []
for role in ("image-text", "speech", "translation"):
    choice = unit.choices.get(role) or tiers.choose(role, unit.hardware, unit.tier)
    for tier in catalogue.tiers_of(role):
        model = catalogue.find(role, tier)
        here = (
            "chosen"
            if tier == choice.tier
            else tiers.obstacle(model, unit.hardware) or "can run here"
        )
        row = {
            "role": role,
            "tier": tier,
            "model": model.id.split("/")[-1],
            "licence": model.licence,
        }
        size = f"{model.download_gb:g}" if model.download_gb else "ships with the course"
        rows.append(
            row | {"download (GB)": size, "memory (GiB)": f"{model.memory_gb:g}", "here": here}
        )
figures.table(rows, caption="Every model for this lab")

# %% [markdown]
# **What to notice.** The last column is the whole rule: a model is chosen if it can be fetched and fits. To get a
# larger one, remove what stands there:
# - *no network*: connect, run the cell with `open_unit` again, and all cells after it;
# - *no NVIDIA GPU*: in Colab, "Runtime > Change runtime type > T4 GPU". There the full tier is chosen by itself;
# - a patient CPU with 20 GB of memory: `open_unit("7.1", tier="full")`. In the other direction, `tier="bundled"`.
#
# `open_clip`'s ViT-B-32 and ViT-L-14 were trained on two billion pictures from the web, Whisper on 680,000 hours of
# speech (arXiv 2212.04356). The two Prisma models know one toy shop.

# %% [markdown]
# ## 2. Your voice
#
# Press the button and ask for a toy, in English: *"I want the blue one"*. Or choose a sound file. Then go on with
# the next cell.

# %%
microphone = media.microphone(seconds=4)

# %%
mine = media.sound(microphone)  # or media.sound("path/to/file.wav")
said = mine.text  # what was really said; for your own voice write it here: said = "..."
pieces = [mine.audio[i : i + hearing.window] for i in range(0, len(mine.audio), hearing.window)]
heard = " ".join(hearing.transcribe_many(pieces))
print(f"{mine.origin}: {len(mine.audio) / speech.RATE:.1f} s")
print("heard:", heard)
if said:
    wrong = speech.word_errors(transcripts.plain_words(said), transcripts.plain_words(heard))
    print(f"said:  {said} ({wrong} of {len(said.split())} words wrong)")
Audio(mine.audio, rate=speech.RATE)

# %% [markdown]
# One sentence is no measurement. What does *your* microphone do to it? Here is the same sound as you would get it
# from further away (a room with echo), over a bad line (everything above 4 kHz cut off), and clipped.

# %%
draw = np.random.default_rng(unit.seed)
spectrum = np.fft.rfft(mine.audio)
spectrum[len(spectrum) // 2 :] = 0  # above 4 kHz
harder = {"as recorded": mine.audio, "in a room": speech.add_room(mine.audio, draw)}
harder["a telephone line"] = np.fft.irfft(spectrum, len(mine.audio)).astype(np.float32)
harder["clipped at a tenth"] = speech.level(speech.clip_peaks(mine.audio, 0.1))
harder["noise at 0 dB"] = speech.add_noise(mine.audio, 0, draw)

# %%
fig, axes = figures.figure(columns=5, width=8, height=1.7)
for ax, (name, sound) in zip(axes, harder.items(), strict=True):
    mel = hearing.mel(sound[: hearing.window]).cpu()[
        :, : 1 + min(len(sound), hearing.window) // 160
    ]
    ax.imshow(mel, origin="lower", aspect="auto", vmin=-1, vmax=1.5)
    ax.set(xticks=[], yticks=[])
    ax.set_title(name, fontsize=9)
    ax.grid(False)
axes[0].set(xlabel="time", ylabel="mel band")
written = dict(
    zip(
        harder, hearing.transcribe_many([s[: hearing.window] for s in harder.values()]), strict=True
    )
)
figures.show(
    fig,
    alt="Log-mel spectrograms of one sound, five ways: "
    + "; ".join(f"{k}: {v}" for k, v in written.items()),
)
figures.table([{"the sound": name, "heard": text} for name, text in written.items()])

# %% [markdown]
# **What to notice.** All five are the same words to you. Look at what is lost first. The frame of the sentence, which
# every customer says, stays; the colour, which only this one says, goes. And every transcript reads well: nothing in
# it says that something went wrong. `prisma-whisper` learned from espeak-ng's synthetic voices, with rooms and noise
# added, and one sentence proves little either way. A person's voice is further from its training than any of these
# five. Speak to it yourself, and be lenient. A real Whisper has heard people.
#
# **Try it.** Say a sentence without any toy in it. What does the model write? Remember it for section 4.

# %% [markdown]
# ## 3. Your pictures, your labels
#
# Zero-shot classification needs no training, so nothing stops you from asking about anything: choose pictures, write
# labels, and a sentence to put them in. (The browser shrinks a picture before it sends it, and drops the place and
# the camera that a photo carries. A folder's path works, too.)

# %%
chosen = media.picture_field()

# %%
gallery = media.pictures(chosen)  # or media.pictures("path/to/folder")
seen = clip.encode_images(list(gallery.values()))  # a unit vector for each picture
labels = ["a ball", "a cone", "a cube", "a cylinder", "a heart", "a pyramid", "a ring", "a star"]
templates = ("a photo of {}", "there is {}", "{}")
if clip.tier == "bundled":
    unknown = {w for label in labels for w in label.split()} - set(prisma_clip.vocabulary())
    print(
        "prisma-clip knows only Prisma's eight shapes in eight colours. Of photographs it knows "
        "nothing."
    )
    print("Words of your labels that it does not know:", ", ".join(sorted(unknown)) or "none")


def zero_shot(seen: Tensor, names: list[str]) -> Tensor:
    """The probability of each name for each picture vector, (pictures, names): each row adds up to
    1."""
    vectors = torch.stack(
        [clip.encode_texts([t.format(name) for name in names]) for t in templates]
    ).mean(0)
    alike = seen @ F.normalize(vectors, dim=-1).T
    return (clip.model.logit_scale.exp().cpu().float() * alike).softmax(-1).detach()


# %%
shown = dict(list(gallery.items())[:6])
chances = zero_shot(seen[: len(shown)], labels)
fig, axes = figures.figure(2, len(shown), width=9, height=3.2)
axes = axes.reshape(2, -1)
for (above, below), (name, image), row in zip(axes.T, shown.items(), chances, strict=True):
    above.imshow(image)
    above.set(xticks=[], yticks=[], title=name[:16])
    best = row.topk(min(3, len(labels)))
    below.barh(range(len(best.values)), best.values, color=figures.PALETTE["sky"])
    below.set(yticks=[], xlim=(0, 1), xticks=[0, 1])
    below.invert_yaxis()
    for k, (value, i) in enumerate(zip(*best, strict=True)):
        below.text(0.04, k, f"{labels[i]} {value:.0%}", va="center", fontsize=8)
axes[1, 0].set_xlabel("probability")
answers = [
    f"{name}: {labels[row.argmax()]} {row.max():.0%}"
    for name, row in zip(shown, chances, strict=True)
]
figures.show(fig, alt="Pictures, and the three most probable labels of each. " + "; ".join(answers))

# %% [markdown]
# The bars look like knowledge. How sure is the model when *no* label is right? Take the winner of each picture off the
# list, and ask again with the rest. Then ask about things that none of the pictures shows. Write down a guess first:
# how high is the highest bar?

# %%
absent = [
    "a dog",
    "a bicycle",
    "a cup of tea",
    "a violin",
    "a passport",
    "a volcano",
    "a bus stop",
    "a mirror",
]
yours = zero_shot(seen, labels).sort(descending=True).values
rest = yours[:, 1:] / yours[:, 1:].sum(1, keepdim=True)
tops = {"your labels": yours[:, 0], "your labels without the winner": rest[:, 0]}
tops["things that are not there"] = zero_shot(seen, absent).max(1).values
rows = [
    {"asked about": k, "mean": v.mean().item(), "lowest": v.min().item(), "highest": v.max().item()}
    for k, v in tops.items()
]
figures.table(rows, caption=f"Probability of the best label, {len(gallery)} pictures, {clip.name}")

# %% [markdown]
# **What to notice.** The probabilities are a softmax over *your* labels: they add up to 1, whatever is in the picture.
# They say which label fits best, never that one fits. Without its winner a picture often has a new favourite that
# looks as good (some of our pictures show a second toy, and there the new winner is right). The absent things get
# even chances from `prisma-clip` for a poor reason: to it they are nearly all the same unknown word. CLIP has no label
# "none of these"; whoever needs one must measure a threshold on pictures with known answers.
#
# Can you ask your own pictures aloud? Sound to text, text to picture: section 6 of the core notebook, now with your
# voice.

# %%
match = (clip.encode_texts([heard or "a toy"]) @ seen.T)[0]
best = list(gallery)[match.argmax()]
fig, ax = figures.figure(width=2.6, height=2.6)
ax.imshow(gallery[best])
ax.set(xticks=[], yticks=[], title=best[:24])
print(f'asked: "{heard}"')
print(
    f"nearest of {len(gallery)} pictures: {best}, {match.max():.2f}; the furthest is at "
    f"{match.min():.2f}"
)
figures.show(fig, alt=f"The picture {best}, which is nearest to the words: {heard}")

# %% [markdown]
# ## 4. Does the model know when it does not understand?
#
# Here are twenty sentences in five languages, the same meaning in each (espeak-ng speaks them; no person was
# recorded). Twelve of them are to learn from, by four voices. Two other voices say half of those, and eight new
# sentences. Let the model write down all of them *as English*.

# %%
sayings = languages.load()
made = listening.listen(hearing, [saying.audio for saying in sayings])
tongue = torch.tensor([list(languages.NAMES).index(saying.language) for saying in sayings])
test = torch.tensor([saying.test for saying in sayings])
new = torch.tensor([saying.number >= languages.KNOWN for saying in sayings])
print(
    f"{len(sayings)} sayings, {sum(len(s.audio) for s in sayings) / speech.RATE:.0f} s; "
    f"{int(test.sum())} for testing"
)
examples = {
    (s.language, s.number): i for i, s in enumerate(sayings) if s.test and s.number in (12, 16)
}
rows = [(sayings[i], made.texts[i], made.sureness[i].item()) for i in examples.values()]
figures.table(
    [
        {"said": s.text, "means": s.english, "written": text, "sureness": sure}
        for s, text, sure in rows
    ]
)

# %% [markdown]
# *Sureness* is the mean log-probability of a written token: 0 is certainty. `prisma-whisper` writes English words for
# everything, as fluently as before. But is it as sure? Choose a threshold so that one in ten English sentences of
# the learning part falls below it. What share of the test falls below?

# %%
WISHES = (0, 1, 2, 3, 12, 13, 14, 15)  # sentences in words that prisma-whisper knows
shop = torch.tensor([saying.number in WISHES for saying in sayings])
english = tongue == 0
threshold = made.sureness[english & shop & ~test].quantile(0.1)
groups = {"English, the shop's words": english & shop, "English, other words": english & ~shop}
groups |= {name: tongue == i for i, name in enumerate(languages.NAMES.values()) if i}
rows = []
for name, group in groups.items():
    low = share((made.sureness[group & test] < threshold).tolist())
    rows.append({"test sayings": name, 'called "not understood"': str(low)})
figures.table(rows, caption=f"{hearing.name}: sureness below {threshold:.3f}")

# %% [markdown]
# **What to notice.** The words do not tell you that the model is lost, but its probabilities do. It is a cheap
# safety net that many applications leave out: ask again when the model is unsure. It is not a language detector: look
# at the English sentences with other words. Whisper's own `transcribe` uses the same number, with a
# threshold of -1, to decide whether to try again at a higher temperature (arXiv 2212.04356, section 4.5).

# %% [markdown] tags=["topic:whisper-multilingual"]
# ## 5. Which language is it?
#
# Whisper detects a language in the plainest way. Its vocabulary has a token for each of 99 languages.
# The sound goes through the encoder; the decoder gets the start token and takes **one** step; of its output
# probabilities only those of the language tokens count (section 2.3 of the paper). If the model here has such tokens,
# the next cell uses them. If not, it says what is missing.
#
# A real Whisper learned from people, and hears espeak-ng badly. So it gets two other sources: the same sentences in
# the voices of Kokoro-82M, a neural synthesiser, and telephone prompts that three people recorded for Asterisk.

# %% tags=["topic:whisper-multilingual"]
# The same sentences in more natural voices (there is no German one), and people on the telephone.
tested, people = natural.load_sayings(), natural.load_prompts()
if hearing.multilingual:
    for source, spoken in {"synthetic": tested, "people": people}.items():
        chances = hearing.languages([one.audio for one in spoken])
        codes = [next(iter(row)) for row in chances]
        for code in natural.SPEAKERS:
            right = [
                guess == code
                for guess, one in zip(codes, spoken, strict=True)
                if one.language == code
            ]
            print(f"{source:9} {languages.NAMES[code]:8} {share(right)}")
    mine_is = list(hearing.languages([mine.audio[: hearing.window]])[0].items())[:3]
    print(f"{mine.origin}:", ", ".join(f"{code} {chance:.0%}" for code, chance in mine_is))
else:
    model = catalogue.find("translation", "small")
    print(
        f"{hearing.name} has no language tokens: its vocabulary is that of the English-only "
        "Whisper."
    )
    print(
        f"{model.id} has 99 of them ({model.download_gb:g} GB): connect, then open_unit('7.1', "
        "tier='small')."
    )

# %% [markdown]
# A token's probability comes from one row of numbers, multiplied with the decoder's state: that product is the token's
# **logit**, and a softmax turns all logits into probabilities. Rows can be learned. So
# take the same step on the model that is here: keep it frozen, and learn five rows, one a language, from the learning
# part. As a rival, learn five rows on the *encoder's* mean state.
#
# Test it twice, always with voices that are new: on sentences that it learned, and on new sentences. Before you run
# it: what is the difference between the two tests?


# %% tags=["topic:whisper-multilingual"]
def language_rows(states: Tensor, learn: Tensor) -> Tensor:
    """The logit of each language for each saying (n, 5), from rows learned on the sayings `learn`
    (n,) alone."""
    scaled = (states - states[learn].mean(0)) / (states[learn].std(0) + 1e-4)
    weights = torch.zeros(states.shape[1], len(languages.NAMES), requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200)

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (
            F.cross_entropy(scaled[learn] @ weights, tongue[learn]) + 0.01 * weights.square().sum()
        )
        value.backward()
        return value

    optimiser.step(loss)
    return (scaled @ weights).detach()


# %% tags=["topic:whisper-multilingual"]
rows = []
for name, states in {
    "the decoder's first state": made.first,
    "the encoder's mean": made.mean,
}.items():
    right = language_rows(states, ~test).argmax(1) == tongue
    known, fresh = share(right[test & ~new].tolist()), share(right[test & new].tolist())
    rows.append(
        {"rows learned on": name, "known sentences": str(known), "new sentences": str(fresh)}
    )
figures.table(rows, caption=f"Language found, new voices, {hearing.name} frozen; guessing: 20 %")

# %% [markdown]
# The gap is a lesson about testing. Five rows on known sentences look like a language detector; on new sentences
# much of it is gone. They had learned *sentences*. More sentences should help, then: learn from fewer, and look
# where the curves go.

# %% tags=["topic:whisper-multilingual"]
number = torch.tensor([saying.number for saying in sayings])
counts, curves = (1, 2, 4, 8, 12), {}
for count in figures.progress(counts, "Learning"):
    for seed in range(5):
        picked = torch.randperm(languages.KNOWN, generator=torch.Generator().manual_seed(seed))[
            :count
        ]
        among = torch.isin(number, picked)
        right = language_rows(made.mean, ~test & among).argmax(1) == tongue
        for name, rows in {"known sentences": test & among, "new sentences": test & new}.items():
            curves.setdefault(name, {}).setdefault(count, []).append(
                right[rows].float().mean().item()
            )

# %% tags=["topic:whisper-multilingual"]
fig, ax = figures.figure(height=3)
for (name, points), marker in zip(curves.items(), "os", strict=True):
    middle = [np.mean(values) for values in points.values()]
    low, high = zip(
        *[(m - min(v), max(v) - m) for m, v in zip(middle, points.values(), strict=True)],
        strict=True,
    )
    ax.errorbar(counts, middle, [low, high], marker=marker, capsize=4, label=name)
ax.axhline(0.2, color=figures.GREY, linestyle="--")
ax.set(
    xlabel="sentences to learn from, in each language",
    ylabel="language found",
    ylim=(0, 1.03),
    xticks=counts,
)
ax.legend(loc="center right", bbox_to_anchor=(1, 0.35))
first, last = (np.mean(curves["new sentences"][count]) for count in (1, 12))
figures.show(
    fig,
    alt=f"Languages found in new sentences: {first:.0%} after one sentence, {last:.0%} after "
    "twelve.",
)

# %% [markdown]
# **What to notice.** Points are means, bars reach from the lowest to the highest of five draws of sentences (all
# twelve can be drawn in one way only). With one sentence to learn from, the known one is always found, and new
# ones seldom: a perfect score on the wrong test. With more sentences the known ones get harder and the new ones
# easier, because what all sentences share is the language. Whisper learned from 680,000 hours of speech, 117,000
# of them in 96 languages other than English (its paper, section 1). And whatever is learned here is learned from
# one synthesiser: "Italian" may mean "espeak-ng's Italian vowels".
#
# **Try it.** Leave the colour wishes (numbers 0 to 3) out of learning. Who loses more, the known or the new ones?

# %% [markdown]
# ## 6. Say it in English
#
# The same decoder translates: after the language token comes a task token, `transcribe` or `translate`. The text it
# then writes is English, whatever was said. No text in the other language is written in between.
#
# `whisper-large-v3-turbo` is "not trained for translation tasks" (README of openai-whisper), so the full tier loads a
# second, smaller Whisper for this step.

# %% tags=["topic:whisper-multilingual"]
translator = hearing if hearing.translates else unit.load("translation")
if translator.translates:
    wishes = [saying for saying in tested if saying.number in WISHES]
    english_texts = translator.translate_many([saying.audio for saying in wishes])
    foreign = [prompt for prompt in people if prompt.language != "en"]
    in_english = translator.translate_many([prompt.audio for prompt in foreign])
    rows = []
    for prompt, text in zip(foreign, in_english, strict=True):
        spoken = languages.NAMES[prompt.language]
        rows.append({"a person, in": spoken, "means": prompt.english, "translated": text})
    display(figures.table(rows))
else:
    model = catalogue.find("translation", "small")
    print(
        f"{translator.name} cannot translate: it never heard another language than English, and "
        "has no task tokens."
    )
    print(
        f"{model.id} can, for {model.download_gb:g} GB. What you see below is {hearing.name}'s "
        "*transcript*"
    )
    print(
        "of section 4 against the English meaning: what a shop would get that forgot to check the "
        "language."
    )
    translator = hearing
    wishes = [saying for saying in sayings if saying.number in WISHES]
    english_texts = [
        text for saying, text in zip(sayings, made.texts, strict=True) if saying.number in WISHES
    ]


# %% tags=["topic:whisper-multilingual"]
def colour_of(text: str) -> set[str]:
    return set(transcripts.plain_words(text).split()) & set(COLOURS)


rows = []
heard_in = dict.fromkeys(saying.language for saying in wishes)  # each language once, in order
for code in heard_in:
    pairs = zip(wishes, english_texts, strict=True)
    some = [(saying.english, text) for saying, text in pairs if saying.language == code]
    row = {
        "spoken": languages.NAMES[code],
        "word error against the meaning": str(transcripts.word_error(*zip(*some, strict=True))),
    }
    rows.append(
        row
        | {
            "colour right": str(
                share([colour_of(meant) == colour_of(text) for meant, text in some])
            )
        }
    )
figures.table(
    rows, caption=f"{translator.name}: {len(wishes)} wishes, {len(some)} in each language"
)

# %% [markdown]
# **What to notice.** Look at two numbers. The word error is strict: a right translation in other words counts as
# wrong, so for translations read it beside the colour, which is what the shop needs. And an English-only model gives
# a confident order for a toy that nobody asked for. With section 4's threshold you could refuse; with section 5's
# detector you could ask the customer to speak English. Neither is understanding.
#
# How good is the real one? Measure it here, on *your* language: record yourself in section 2, then run
# `translator.translate_many([mine.audio])` and `hearing.transcribe(mine.audio, language=None)`. The paper reports
# large differences between languages; they follow the hours of training for each (figures 3 and 4).
#
# **Before you share this notebook:** players, pictures and transcripts are in its outputs. "Edit > Clear Outputs of
# All Cells" takes them out.
