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
    choice = unit.choices.get(role)
    if choice is None:
        choice = tiers.choose(role, unit.hardware, unit.tier)
    for tier in catalogue.tiers_of(role):
        model = catalogue.find(role, tier)
        obstacle = tiers.obstacle(model, unit.hardware)
        size = "ships with the course"
        if model.download_gb:
            size = f"{model.download_gb:g}"
        name = model.id.split("/")[-1]
        row = {"role": role, "tier": tier, "model": name, "licence": model.licence}
        row["download (GB)"] = size
        row["memory (GiB)"] = f"{model.memory_gb:g}"
        row["here"] = obstacle or "can run here"
        if tier == choice.tier:
            row["here"] = "chosen"
        rows.append(row)
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
pieces = []  # the model hears one window at a time
for start in range(0, len(mine.audio), hearing.window):
    end = start + hearing.window
    pieces.append(mine.audio[start:end])
texts = hearing.transcribe_many(pieces)
heard = " ".join(texts)
seconds = len(mine.audio) / speech.RATE
print(f"{mine.origin}: {seconds:.1f} s")
print("heard:", heard)
if said:
    true_words = transcripts.plain_words(said)
    heard_words = transcripts.plain_words(heard)
    wrong = speech.word_errors(true_words, heard_words)
    length = len(said.split())
    print(f"said:  {said} ({wrong} of {length} words wrong)")
Audio(mine.audio, rate=speech.RATE)

# %% [markdown]
# One sentence is no measurement. What does *your* microphone do to it? Here is the same sound as you would get it
# from further away (a room with echo), over a bad line (everything above 4 kHz cut off), and clipped.

# %%
draw = np.random.default_rng(unit.seed)
harder = {"as recorded": mine.audio}
harder["in a room"] = speech.add_room(mine.audio, draw)
spectrum = np.fft.rfft(mine.audio)  # from 0 to 8 kHz
middle = len(spectrum) // 2
spectrum[middle:] = 0  # above 4 kHz
telephone = np.fft.irfft(spectrum, len(mine.audio))
harder["a telephone line"] = telephone.astype(np.float32)
clipped = speech.clip_peaks(mine.audio, 0.1)
harder["clipped at a tenth"] = speech.level(clipped)
harder["noise at 0 dB"] = speech.add_noise(mine.audio, 0, draw)

# %%
first_windows = [sound[: hearing.window] for sound in harder.values()]
fig, axes = figures.figure(columns=5, width=8, height=1.7)
for ax, name, sound in zip(axes, harder, first_windows, strict=True):
    mel = hearing.mel(sound).cpu()  # (80, frames), padded with silence
    frames = 1 + len(sound) // 160  # a frame begins every 160 samples
    ax.imshow(mel[:, :frames], origin="lower", aspect="auto", vmin=-1, vmax=1.5)
    ax.set(xticks=[], yticks=[])
    ax.set_title(name, fontsize=9)
axes[0].set(xlabel="time", ylabel="mel band")
texts = hearing.transcribe_many(first_windows)
written = dict(zip(harder, texts, strict=True))
told = figures.told(written)
figures.show(fig, alt=f"Log-mel spectrograms of one sound, five ways: {told}")
rows = [{"the sound": name, "heard": text} for name, text in written.items()]
figures.table(rows)

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
images = list(gallery.values())
seen = clip.encode_images(images)  # (pictures, d): a unit vector for each picture
labels = ["a ball", "a cone", "a cube", "a cylinder", "a heart", "a pyramid", "a ring", "a star"]
templates = ("a photo of {}", "there is {}", "{}")
if clip.tier == "bundled":
    words = set(" ".join(labels).split())
    unknown = words.difference(prisma_clip.vocabulary())
    known = "Prisma's eight shapes in eight colours"
    print(f"prisma-clip knows only {known}. Of photographs it knows nothing.")
    print("Words of your labels that it does not know:", ", ".join(sorted(unknown)) or "none")


def zero_shot(seen: Tensor, names: list[str]) -> Tensor:
    """The probability of each name for each picture: (pictures, names), each row adds up to 1."""
    asked = []
    for template in templates:
        sentences = [template.format(name) for name in names]
        asked.append(clip.encode_texts(sentences))
    mean = torch.stack(asked).mean(0)  # (names, d)
    vectors = F.normalize(mean, dim=-1)
    alike = seen @ vectors.T  # (pictures, names)
    scale = clip.model.logit_scale.exp()
    logits = scale.cpu().float() * alike
    return logits.softmax(-1).detach()


# %%
shown = list(gallery)[:6]
chances = zero_shot(seen, labels)  # (pictures, labels)
fig, axes = figures.figure(2, len(shown), width=9, height=3.2)
axes = axes.reshape(2, -1)
answers = {}
for (above, below), name, row in zip(axes.T, shown, chances[: len(shown)], strict=True):
    figures.picture(above, gallery[name], title=name[:16])
    best = row.topk(min(3, len(labels)))
    best_labels = [labels[i] for i in best.indices]
    figures.named_bars(below, best_labels, best.values)
    answers[name] = f"{best_labels[0]} {best.values[0]:.0%}"
axes[1, 0].set_xlabel("probability")
told = figures.told(answers)
figures.show(fig, alt=f"Pictures, and the three most probable labels of each. {told}")

# %% [markdown]
# The bars look like knowledge. How sure is the model when *no* label is right? Take the winner of each picture off the
# list, and ask again with the rest. Then ask about things that none of the pictures shows. Write down a guess first:
# how high is the highest bar?

# %%
absent = ["a dog", "a bicycle", "a cup of tea", "a violin"]
absent += ["a passport", "a volcano", "a bus stop", "a mirror"]
yours = chances.sort(descending=True).values
rest = yours[:, 1:]
rest = rest / rest.sum(1, keepdim=True)  # they add up to 1 again
strangers = zero_shot(seen, absent)  # (pictures, absent things)
tops = {"your labels": yours[:, 0], "your labels without the winner": rest[:, 0]}
tops["things that are not there"] = strangers.max(1).values
rows = []
for asked, top in tops.items():
    row = {"asked about": asked}
    row["mean"] = top.mean().item()
    row["lowest"] = top.min().item()
    row["highest"] = top.max().item()
    rows.append(row)
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
question = clip.encode_texts([heard or "a toy"])  # (1, d)
match = (question @ seen.T)[0]  # (pictures,)
names = list(gallery)
best = names[match.argmax()]
fig, ax = figures.figure(width=2.6, height=2.6)
figures.picture(ax, gallery[best], title=best[:24])
print(f'asked: "{heard}"')
nearest, furthest = match.max(), match.min()
print(f"nearest of {len(names)} pictures: {best}, {nearest:.2f}; the furthest is at {furthest:.2f}")
figures.show(fig, alt=f"The picture {best}, which is nearest to the words: {heard}")

# %% [markdown]
# ## 4. Does the model know when it does not understand?
#
# Here are twenty sentences in five languages, the same meaning in each (espeak-ng speaks them; no person was
# recorded). Twelve of them are to learn from, by four voices. Two other voices say half of those, and eight new
# sentences. Let the model write down all of them *as English*.

# %%
sayings = languages.load()
sounds = [saying.audio for saying in sayings]
made = listening.listen(hearing, sounds)
codes = list(languages.NAMES)
tongue = torch.tensor([codes.index(saying.language) for saying in sayings])  # (n,): 0 to 4
test = torch.tensor([saying.test for saying in sayings])
number = torch.tensor([saying.number for saying in sayings])
new = number >= languages.KNOWN
seconds = sum(map(len, sounds)) / speech.RATE
print(f"{len(sayings)} sayings, {seconds:.0f} s; {test.sum()} for testing")
examples = {}
for i, saying in enumerate(sayings):
    if saying.test and saying.number in (12, 16):
        examples[saying.language, saying.number] = i  # two voices say it: the last one stays
rows = []
for i in examples.values():
    row = {"said": sayings[i].text, "means": sayings[i].english}
    row["written"] = made.texts[i]
    row["sureness"] = made.sureness[i].item()
    rows.append(row)
figures.table(rows)

# %% [markdown]
# *Sureness* is the mean log-probability of a written token: 0 is certainty. `prisma-whisper` writes English words for
# everything, as fluently as before. But is it as sure? Choose a threshold so that one in ten English sentences of
# the learning part falls below it. What share of the test falls below?

# %%
WISHES = [0, 1, 2, 3, 12, 13, 14, 15]  # sentences in words that prisma-whisper knows
shop = torch.isin(number, torch.tensor(WISHES))
english = tongue == 0
learned = made.sureness[english & shop & ~test]
threshold = learned.quantile(0.1)
groups = {"English, the shop's words": english & shop, "English, other words": english & ~shop}
for i, name in enumerate(languages.NAMES.values()):
    if name != "English":
        groups[name] = tongue == i
rows = []
for name, group in groups.items():
    sureness = made.sureness[group & test]
    low = sureness < threshold
    lost = share(low.tolist())
    rows.append({"test sayings": name, 'called "not understood"': str(lost)})
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
        found = hearing.languages([one.audio for one in spoken])
        guesses = [next(iter(chances)) for chances in found]  # the most probable code comes first
        for code in natural.SPEAKERS:
            right = []
            for one, guess in zip(spoken, guesses, strict=True):
                if one.language == code:
                    right.append(guess == code)
            print(f"{source:9} {languages.NAMES[code]:8} {share(right)}")
    start = mine.audio[: hearing.window]
    chances = hearing.languages([start])[0]
    likeliest = list(chances.items())[:3]
    told = [f"{code} {chance:.0%}" for code, chance in likeliest]
    print(f"{mine.origin}:", ", ".join(told))
else:
    model = catalogue.find("translation", "small")
    size = f"{model.download_gb:g} GB"
    why = "its vocabulary is that of the English-only Whisper"
    print(f"{hearing.name} has no language tokens: {why}.")
    print(f"{model.id} has 99 of them ({size}): connect, then open_unit('7.1', tier='small').")

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
    known = states[learn]  # (learned, width)
    spread = known.std(0) + 1e-4
    scaled = (states - known.mean(0)) / spread  # (n, width)
    weights = torch.zeros(states.shape[1], len(languages.NAMES), requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200)

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = scaled[learn] @ weights  # (learned, 5)
        error = F.cross_entropy(logits, tongue[learn])
        size = weights.square().sum()  # keeps the weights small
        value = error + 0.01 * size
        value.backward()
        return value

    optimiser.step(loss)
    return (scaled @ weights).detach()


# %% tags=["topic:whisper-multilingual"]
places = {"the decoder's first state": made.first, "the encoder's mean": made.mean}
rows = []
for name, states in places.items():
    logits = language_rows(states, ~test)  # (n, 5)
    right = logits.argmax(1) == tongue
    known = right[test & ~new].tolist()
    fresh = right[test & new].tolist()
    row = {"rows learned on": name}
    row["known sentences"] = str(share(known))
    row["new sentences"] = str(share(fresh))
    rows.append(row)
figures.table(rows, caption=f"Language found, new voices, {hearing.name} frozen; guessing: 20 %")

# %% [markdown]
# The gap is a lesson about testing. Five rows on known sentences look like a language detector; on new sentences
# much of it is gone. They had learned *sentences*. More sentences should help, then: learn from fewer, and look
# where the curves go.

# %% tags=["topic:whisper-multilingual"]
counts = (1, 2, 4, 8, 12)
curves = {"known sentences": [], "new sentences": []}
for count in figures.progress(counts, "Learning"):
    known, fresh = [], []
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        order = torch.randperm(languages.KNOWN, generator=rng)
        among = torch.isin(number, order[:count])
        logits = language_rows(made.mean, ~test & among)  # (n, 5)
        right = (logits.argmax(1) == tongue).float()
        known_right = right[test & among]
        fresh_right = right[test & new]
        known.append(known_right.mean().item())
        fresh.append(fresh_right.mean().item())
    curves["known sentences"].append(known)
    curves["new sentences"].append(fresh)

# %% tags=["topic:whisper-multilingual"]
fig, ax = figures.figure(height=3)
for (name, rows), marker in zip(curves.items(), "os", strict=True):
    values = np.array(rows)  # (counts, draws)
    middle = values.mean(1)
    below = middle - values.min(1)
    above = values.max(1) - middle
    ax.errorbar(counts, middle, [below, above], marker=marker, capsize=4, label=name)
ax.axhline(0.2, color=figures.GREY, linestyle="--")
ax.set(xlabel="sentences to learn from, in each language", xticks=counts)
ax.set(ylabel="language found", ylim=(0, 1.03))
ax.legend(loc="center right", bbox_to_anchor=(1, 0.35))
means = np.array(curves["new sentences"]).mean(1)
first, last = means[0], means[-1]
told = f"{first:.0%} after one sentence, {last:.0%} after twelve"
figures.show(fig, alt=f"Languages found in new sentences: {told}.")

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
else:
    model = catalogue.find("translation", "small")
    why = "it never heard another language than English, and has no task tokens"
    print(f"{translator.name} cannot translate: {why}.")
    size = f"{model.download_gb:g} GB"
    print(f"{model.id} can, for {size}. What you see below is {hearing.name}'s *transcript*")
    forgetful = "what a shop would get that forgot to check the language"
    print(f"of section 4 against the English meaning: {forgetful}.")
    translator = hearing
    wishes = [saying for saying, wish in zip(sayings, shop, strict=True) if wish]
    english_texts = [text for text, wish in zip(made.texts, shop, strict=True) if wish]

# %% tags=["topic:whisper-multilingual"]
if translator.translates:
    foreign = [prompt for prompt in people if prompt.language != "en"]
    in_english = translator.translate_many([prompt.audio for prompt in foreign])
    rows = []
    for prompt, text in zip(foreign, in_english, strict=True):
        row = {"a person, in": languages.NAMES[prompt.language]}
        rows.append(row | {"means": prompt.english, "translated": text})
    display(figures.table(rows))


# %% tags=["topic:whisper-multilingual"]
def colour_of(text: str) -> set[str]:
    """The colours that a text names."""
    words = transcripts.plain_words(text).split()
    return set(words) & set(COLOURS)


rows = []
heard_in = dict.fromkeys(saying.language for saying in wishes)  # each language once, in order
for code in heard_in:
    meanings, texts, right = [], [], []
    for saying, text in zip(wishes, english_texts, strict=True):
        if saying.language == code:
            meanings.append(saying.english)
            texts.append(text)
            right.append(colour_of(saying.english) == colour_of(text))
    error = transcripts.word_error(meanings, texts)
    row = {"spoken": languages.NAMES[code], "word error against the meaning": str(error)}
    row["colour right"] = str(share(right))
    rows.append(row)
counted = f"{len(wishes)} wishes, {len(texts)} in each language"
figures.table(rows, caption=f"{translator.name}: {counted}")

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
