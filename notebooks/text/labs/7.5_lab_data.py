# %% [markdown] tags=["badge"]
# # 7.5 Lab: data
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.5_lab_data.ipynb)

# %% [markdown]
# **After this notebook you can**
# - bring Alpaca, ShareGPT and chat rows into one form, and say what each of them loses;
# - find near-duplicates, leaks, contradictions, insults, broken rows and personal data, and say how well you find them;
# - write a data card that anyone can check;
# - measure how many examples a task needs, and what wrong examples cost;
# - grow data from ten seeds with a language model, and keep only what passes your controls.
#
# **Time:** about 30 minutes to read and run; the cells take about two minutes on two free CPU cores.
#
# **Downloads:** nothing at the bundled tier. At the small and full tiers section 8 uses the unit's instruct model.
# The core notebook, `7.5_finetuning`, explains the support task; you do not need to have run it.

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
import random
from collections import Counter
from collections.abc import Callable

import numpy as np

from course_utils import figures
from course_utils.finetuning import data_quality as dq
from course_utils.finetuning import growing
from course_utils.measures import error_bars, share
from course_utils.models import loaders
from course_utils.prisma import conversations, manners
from course_utils.settings import paced

talks = conversations.make_conversations()
rows = dq.rows_of(talks)
splits = Counter(row.split for row in rows)
print(f"{len(rows):,} conversations:", dict(splits))

# %% [markdown]
# ## 1. Three formats, one conversation
#
# You will meet training data in three formats. Every tool wants its own, so you convert. What can go wrong? Take one
# conversation through each format and back, and look at what the model would read as the customer's turn.

# %% tags=["topic:dataset-formats"]
formats = {
    "chat": conversations.chat_row,
    "ShareGPT": conversations.sharegpt_row,
    "Alpaca": conversations.alpaca_row,
}
for name, convert in formats.items():
    same = 0
    for talk in talks:
        stored = convert(talk)
        if dq.to_messages(stored) == talk.messages:
            same += 1
    stored = convert(talks[0])
    back = dq.to_messages(stored)
    print(f"--- {name}: keys {', '.join(stored)}; {same:,} of {len(talks):,} come back unchanged")
    print(f"the customer's turn: {back[-2]['content']}\n")

# %% [markdown]
# **What to notice.** Chat and ShareGPT keep who says what. Alpaca (2023) has one instruction, one input, one output.
# The shop's facts and the customer's letter run together in the input, and nothing marks the border. If a customer
# writes a line that looks like a record, the model cannot tell. A second turn has no place at all. Convert *to*
# Alpaca only if a tool leaves you no choice, and keep the original.

# %% [markdown]
# ## 2. A data set with faults in it
#
# Real data is dirty, but nobody can tell you *how* dirty. So nobody can tell you how good your cleaning is. We turn
# it round: we take clean data and plant faults, a known number of each kind. Then each detector can be scored.
#
# Here are four rows. Which of them has a fault? Try before you read on.

# %% tags=["topic:data-quality"]
dirty, truth = dq.plant_faults(rows, seed=unit.seed, each=20)
by_id = {row.id: row for row in dirty}
rng = random.Random(3)
faulty = rng.sample(sorted(truth), 3)
sample = sorted([*faulty, rows[5].id])
for id_ in sample:
    row = by_id[id_]
    print(f"--- row {id_} ({row.split})\n{row.text}\n")

# %%
kinds = Counter(truth.values())
print({id_: truth.get(id_, "sound") for id_ in sample})
print(f"{len(dirty):,} rows, {len(truth)} with a fault:", dict(kinds))

# %% [markdown]
# ## 3. Near-duplicates
#
# Copies waste steps and make the model repeat. Exact copies are easy. But one word less, another comma, and `==` sees
# two different texts. Cut each text into runs of three words (*shingles*) and compare the sets (Broder 1997):
#
# $$J(A, B) = \frac{|A \cap B|}{|A \cup B|}$$


# %% tags=["topic:data-quality"]
def shingles(text: str, n: int = 3) -> set[str]:
    plain = text.lower().replace(".", "").replace(",", "")
    words = plain.split()
    last = max(0, len(words) - n)  # where the last run begins; a short text is one run
    runs = set()
    for start in range(last + 1):
        run = words[start : start + n]
        runs.add(" ".join(run))
    return runs


def jaccard(a: set, b: set) -> float:
    shared, together = a & b, a | b
    return len(shared) / len(together)


first = "Please cancel order 4821, I do not need it."
second = "Please cancel order 4821, I do not need it now."
by_hand = jaccard(shingles(first), shingles(second))
in_package = dq.jaccard(dq.shingles(first), dq.shingles(second))
print(f"by hand {by_hand:.3f}, in the package {in_package:.3f}")

# %% [markdown]
# Two thousand rows make two million pairs, and a web corpus makes far too many. *MinHash* replaces each set by a
# few numbers: for each of many hash functions, the smallest hash in the set. Two sets agree in such a number with
# a probability that is just $J$. `datasketch` files rows by pieces of these numbers (locality-sensitive hashing),
# so that only rows that may be alike are ever compared. Is our MinHash the library's?

# %% tags=["topic:data-quality"]
from datasketch import MinHash

other_letter = rows[1].says("user")
edited = rows[0].saying("user", other_letter)
sets = [dq.shingles(row.text) for row in (rows[0], edited)]
sketches = []
for items in sets:
    theirs = MinHash(num_perm=dq.PERMUTATIONS, seed=1, scheme="legacy")
    as_bytes = [item.encode() for item in items]
    theirs.update_batch(as_bytes)
    ours = dq.minhash(items, *theirs.permutations)  # (PERMUTATIONS,)
    same = np.array_equal(ours, theirs.hashvalues)
    print(f"equal to datasketch's, all {len(ours)} numbers: {same}")
    sketches.append(ours)
agree = sketches[0] == sketches[1]
exact, estimate = dq.jaccard(*sets), agree.mean()
print(f"exact Jaccard {exact:.3f}, estimated from {dq.PERMUTATIONS} numbers {estimate:.3f}")

# %% [markdown]
# Where is the border between "alike" and "the same"? Look at the data before you choose a threshold. For some rows,
# we find the most similar other row: sound rows first, then the planted copies.

# %% tags=["topic:data-quality"]
texts = [row.text for row in dirty]
pairs = dq.similar_pairs(texts, threshold=0.5)
nearest = {row.id: 0.0 for row in dirty}
for i, j, similar in pairs:
    for row in (dirty[i], dirty[j]):
        nearest[row.id] = max(nearest[row.id], similar)
copies = {id_ for id_, kind in truth.items() if kind in ("duplicate", "leak")}

# %% tags=["topic:data-quality"]
fig, ax = figures.figure(height=3.0)
bins = np.linspace(0.5, 1, 26)
others, planted = [], []
for id_, similar in nearest.items():
    if similar:  # 0 stands for: no other row is half as similar
        group = planted if id_ in copies else others
        group.append(similar)
ax.hist([others, planted], bins, label=["other rows", "planted copies and leaks"])  # side by side
ax.axvline(dq.THRESHOLD, color="black", linestyle="--", label="threshold")
ax.set(xlabel="similarity to the nearest other row (Jaccard)", ylabel="rows", yscale="log")
ax.legend()
above = [similar for similar in planted if similar >= dq.THRESHOLD]
figures.show(
    fig,
    alt=f"Histogram of each row's highest similarity to another row, from 0.5 up. {len(above)} "
    f"of {len(copies)} planted copies and leaks lie above the threshold of {dq.THRESHOLD}; rows "
    "above it that are no copies are the originals.",
)

# %% [markdown]
# **What to notice.** Rows from templates are similar by nature, so the border between alike and same lies high, and
# it belongs to *this* data: a lower one throws sound rows away, a higher one keeps copies that lost two words. Some
# planted rows lie left of the line. They lost more words, or they are another letter about an order of the test: no
# text comparison finds those. (The other rows right of the line are the originals.)
#
# **Exercise.** Set `dq.similar_pairs(..., threshold=0.65)` and count pairs of sound rows. How many would you lose?

# %% [markdown]
# ## 4. All detectors, scored
#
# | detector | looks for | misses by design |
# | --- | --- | --- |
# | broken format | empty turns, roles out of order, template marks, replies cut off | a wrong text in a right form |
# | personal data | mail, telephone, card number (with its check digit) | anything spelled out |
# | toxic | a word list, and a small classifier | insults that need the world to be understood |
# | contradiction | a reply against its record; one unlike all others in its situation | an error that all make |
# | leak | training rows with a text, an order or a customer of validation or test | a paraphrase about another order |
# | duplicate | rows nearly the same as an earlier one | a paraphrase |
#
# Which detector will miss most? Guess from the third column. *Recall*: how many of the planted faults are found.
# *Precision*: how many of the flagged rows have a fault.

# %% tags=["topic:data-quality"]
found = dq.examine(dirty)
scores = dq.scores(found, truth)
figures.table(scores, caption="Planted faults found, with 95 % intervals")

# %% tags=["topic:data-quality"]
for kind, reasons in found.items():
    planted = [id_ for id_, fault in truth.items() if fault == kind]
    missed = [id_ for id_ in planted if id_ not in reasons]
    first, *_ = reasons
    print(f"--- {kind}: row {first}: {reasons[first]}")
    for id_ in missed[:1]:
        row = by_id[id_]
        turns = [row.says(role) for role in ("system", "user", "assistant")]
        print(f"    missed, row {id_}: {' | '.join(turns)}")

# %% [markdown]
# **What to notice.** Read the misses. A mail address "at example dot org" is no pattern. A contradiction would
# pass if its wrong number stood somewhere else in the facts: "covered for 3 months" where 3 is how many toys were
# ordered. So full marks in that row are luck, too. And remember what these scores are: recall on faults *we thought
# of*. A fault that nobody thought of is in no table.
#
# The detector for contradictions needs no list of right answers. It groups replies by situation (topic and status of
# the order), takes out names and numbers, and flags what few others say. An error that *most* rows share looks like
# policy to it.

# %% [markdown]
# ### A word list, a classifier, and a surprise
#
# The toxic detector has two parts. Is the crude one enough? Both are tested on sentences written to be hard: insults
# without a bad word ("You have the brain of a ball") and bad words without an insult ("I feel stupid").


# %% tags=["topic:data-quality"]
def judged(name: str, insults: list[bool], civil: list[bool], alarms: int) -> dict:
    """A line of the table: which hard sentences are called rude, and how many sound rows."""
    spared = [not called_rude for called_rude in civil]
    line = {"judge": name, "hard insults found": str(share(insults))}
    line["hard civil ones spared"] = str(share(spared))
    line[f"flagged of {len(rows):,} sound rows"] = alarms
    return line


insults = [bool(dq.listed(text)) for text in manners.RUDE_TEST]
civil = [bool(dq.listed(text)) for text in manners.CIVIL_TEST]
alarms = [row for row in rows if dq.listed(row.text)]
lines = [judged("word list", insults, civil, len(alarms))]
for name, known in (("classifier", ()), ("classifier that knows our shop", dq.stock())):
    tone = dq.ToneClassifier(known)
    insults = tone.rudeness(manners.RUDE_TEST) > 0.5
    civil = tone.rudeness(manners.CIVIL_TEST) > 0.5
    alarms = dq.toxic(rows, known)
    line = judged(name, insults.tolist(), civil.tolist(), len(alarms))
    lines.append(line)
figures.table(lines, caption="Who is rude?")

# %% [markdown]
# **What to notice.** On the hard sentences the classifier beats the list clearly. Then it meets our 2,000 rows and
# flags hundreds of sound ones: "You are always welcome" looks like "You are always ...". If one row in a hundred is
# toxic, such a detector is wrong nearly every time it speaks. Nothing about its test score warned us, because the test
# had other sentences than the shop. Shown the shop's own sentences as civil, it is quiet, and finds a little less.
#
# Our classifier learned from about a hundred sentences. Larger ones (trained on Wikipedia comments, say) have the
# same weakness: test them on *your* sound data first.

# %% [markdown]
# ## 5. Clean, split, and write it down
#
# What do you owe to somebody whose rows you throw away? A reason for each, so that they can disagree. A leak is
# always taken from the training side: the test stays what it was.

# %% tags=["topic:data-quality", "topic:splits-provenance"]
kept, removed = dq.clean(dirty, found)
print(f"{len(dirty):,} rows, {len(removed)} removed, {len(kept):,} kept")
left = [truth[row.id] for row in kept if row.id in truth]
part, kinds = len(left) / len(kept), Counter(left)
print(f"faults that are still in: {len(left)} ({part:.2%} of the rows): {dict(kinds)}")
lost = [line for line in removed if line["row"] not in truth]
print("sound rows lost:", len(lost))
apart = len(removed) // 8
examples = removed[::apart][:8]
figures.table(examples, caption="Some of the removals")

# %% [markdown]
# Which split does a row belong to? Not a random one. If the same customer or the same order stands on both sides, the
# test asks what training has told. Split by the thing that must be new: here the order, the customer, and the pair
# of sentences. What would a random split have done?


# %% tags=["topic:splits-provenance"]
def customer(row: dq.Row) -> str:
    return dq.record(row)["customer"]


def product(row: dq.Row) -> str:
    return dq.record(row)["product"]


def wording(row: dq.Row) -> str:
    """The customer's letter without what `policy` takes out: numbers, names, products."""
    letter = row.says("user")
    in_its_place = row.saying("assistant", f"x:{letter}")
    _, plain = dq.policy(in_its_place)
    return plain


def in_training(trait: Callable, train: list[dq.Row], test: list[dq.Row]) -> str:
    """The share of the test rows whose trait some training row has, too."""
    known = {trait(row) for row in train}
    seen = [trait(row) in known for row in test]
    return f"{np.mean(seen):.0%}"


# %% tags=["topic:splits-provenance"]
train = [row for row in rows if row.split == "train"]
test = [row for row in rows if row.split == "test"]
rng = random.Random(unit.seed)
shuffled = rng.sample(rows, len(rows))
parts = {
    "by order, customer and wording": (train, test),
    "at random": (shuffled[:1600], shuffled[1800:]),
}
lines = []
for name, part in parts.items():
    line = {"split": name}
    line["test rows whose customer is in training"] = in_training(customer, *part)
    line["test rows whose product is in training"] = in_training(product, *part)
    line["test letters whose wording is in training"] = in_training(wording, *part)
    lines.append(line)
figures.table(lines, caption="What a split lets through")

# %% tags=["topic:splits-provenance"]
origin = dq.ORIGIN.format(seed=conversations.SEED)
card = dq.data_card(kept, origin, dq.LIMITS, removed)
print(card)

# %% [markdown]
# **What to notice.** Several detectors can flag one row, and the card names the first of them: so its counts are
# not those of the scores above. The split by customer lets no customer through, and products on purpose: there are
# few, and a test with new colours would ask something else. The card is written by the program that holds the data,
# so it cannot go out of date: change one letter of one row, and the fingerprint changes. (*Datasheets for
# Datasets*, arXiv 1803.09010, has the questions that a fuller card answers.)

# %% [markdown]
# ## 6. How many examples?
#
# ### Check the slide: "minimum 100-200 examples, sweet spot 1,000-10,000"
#
# The task decides. We take one that is small enough to train many times: **the mail room**. `prisma-lm` reads a letter
# (no web form this time, so the words must tell) and files it: topic and order number. Each run gets the same number
# of steps, whatever the number of examples, and two seeds.
#
# Two tests. The *held-out pairs* are made of sentences that training has seen, in new pairs, as in the core notebook.
# The *letters* are a hundred, written by hand, in nobody's template. Before you run it: which test will be easier,
# and by how much?

# %% tags=["topic:data-quality"]
mailroom = loaders.load("chat", unit.hardware, "bundled")
seeds = growing.by_hand(each=1)
archive = growing.by_hand()
held_out = growing.by_hand("test")
letters = growing.letters()
tests = {
    "held-out pairs": growing.tickets(held_out, paced(60), seed=5),
    "letters": growing.tickets(letters, paced(100), seed=6),
}
STEPS, RUNS = 50, range(1, 1 + paced(2, least=1))


def exam(tickets: list) -> dict[str, list[bool]]:
    """Train the mail room anew with each seed; which tickets it files right, over all seeds."""
    marks = {name: [] for name in tests}
    for seed in RUNS:
        trained = growing.learn(mailroom, tickets, STEPS, seed)
        for name, test in tests.items():
            marks[name] += growing.right(trained, test)
    return marks


print("a letter:", tests["letters"][0])
print("a held-out pair:", tests["held-out pairs"][0])

# %% tags=["topic:data-quality"]
results = {}
for n in (10, 40, 160, 640):
    each = min(18, n // 10)  # there are no more than 18 for a topic
    wordings = growing.by_hand(each=each)
    tickets = growing.tickets(wordings, n, seed=n)
    results[n] = exam(tickets)

# %% tags=["topic:data-quality"]
fig, ax = figures.figure(height=3.2)
for (name, test), style in zip(tests.items(), ("o-", "s--"), strict=True):
    marks = [share(result[name]) for result in results.values()]
    values, ends = error_bars(marks)
    label = f"{name} (n = {len(test)})"
    ax.errorbar(list(results), values, ends, fmt=style, capsize=3, label=label)
ax.set(xscale="log", xlabel="training examples", ylabel="share filed right", ylim=(0, 1))
ax.set_xticks(list(results), list(results))
ax.legend()
said = []
for n, result in results.items():
    on_pairs = share(result["held-out pairs"])
    on_letters = share(result["letters"])
    said.append(f"{n} examples {on_pairs.value:.0%} and {on_letters.value:.0%}")
figures.show(fig, alt=f"Filed right, held-out pairs and letters: {'; '.join(said)}.")

# %% [markdown]
# **What to notice.** With ten examples the model learns ten order numbers by heart. Then the first line climbs fast,
# and slower after the second hundred, or no more: at the same cost in steps, four times as many examples added a
# tenth on one of our processors and nothing on another. So the slide's *minimum* takes you most of the way in this
# task. But look at the second line. On letters that nobody's template wrote, hundreds of examples help little: they
# are hundreds of fillings of the same few sentences. Up to 160 examples every one brings a wording of its own; 640
# are fillings of 180. **Count the different sentences, not the rows.** The usual test, drawn from the same templates,
# would never have told us. (The intervals count each test message once for each seed, so they are a little too
# narrow.)
#
# LIMA (arXiv 2305.11206) made a good assistant from 1,000 examples, chosen for quality and variety, on a model of 65B
# that had read much of the web. Ours has read a toy shop. "Sweet spot" without task and model means nothing.

# %% [markdown]
# ## 7. Few good ones or many bad ones?
#
# The slide also says that quality beats quantity. We file four letters in ten of the 640 under a wrong topic, and
# compare with 160 right ones.

# %% tags=["topic:data-quality"]
rng = random.Random(unit.seed)
wrong = []
for ticket in growing.tickets(archive, 640, seed=640):
    topic, number = ticket.filed.split()
    if rng.random() < 0.4:
        others = [other for other in conversations.INTENTS if other != topic]
        topic = rng.choice(others)
    refiled = growing.Ticket(ticket.message, f"{topic} {number}")
    wrong.append(refiled)
spoiled = exam(wrong)
compared = {
    "640, all right": results[640],
    "160, all right": results[160],
    "640, four in ten wrong": spoiled,
}
lines = []
for name, result in compared.items():
    line = {"training examples": name}
    for test, marks in result.items():
        line[test] = str(share(marks))
    lines.append(line)
figures.table(lines, caption=f"Filed right: the same {STEPS} steps, {len(RUNS)} seeds")

# %% [markdown]
# **What to notice.** Compare the last two lines, with their intervals. On the held-out pairs the 160 right rows come
# out ahead of four times as many spoiled ones. If the intervals touch, take it as a hint and no proof of the slide. On
# the letters they overlap widely: no difference to be seen. Wrong topics drawn at random partly cancel out: no other
# topic gets more than one in twenty. Errors *with a system*, such as one topic always filed as another, would not
# cancel. We have not measured those: one line of the cell above does it.

# %% [markdown]
# ## 8. Ten seeds, and a language model that writes more
#
# You have ten letters with their topics, and need hundreds. *Seed-driven growth*: (1) replace data by placeholders, so
# that a program can fill in new customers and orders; (2) let a language model write new wordings; (3) keep only what
# passes two controls. **Consistency**: the placeholders are there, and an independent judge finds a clear topic.
# **Diversity**: it is not too similar to what you have. (Self-Instruct, arXiv 2212.10560, refuses what is more than
# 0.7 alike by ROUGE-L.)
#
# The writer must know how customers write. A large model does. At the bundled tier `prisma-lm` does not, so it reads
# the shop's archive first: 180 old letters, *without* their topics. What is said about which topic comes from the
# ten seeds alone. The seeds:

# %% tags=["topic:seed-driven-growth"]
for seed in seeds:
    print(f"{seed.topic:>9}: {seed.text}")
chat = unit.load("chat")
writer = growing.teach_writing(chat, archive, steps=70, seed=unit.seed)
written = growing.write(writer, seeds, n=300, temperature=0.7, seed=unit.seed)
print("\nThe writer's first six, as they come:")
for text in written[:6]:
    print(f"  {text}")

# %% [markdown]
# The judge compares the words of a text with those of each seed (cosine of TF-IDF vectors: rare words count more), and
# says by how much the best seed leads the second. How strict should it be? We can check, because the archive's topics
# are known: to us, not to the growth.

# %% tags=["topic:seed-driven-growth"]
texts = [letter.text for letter in archive]
guess = growing.TopicGuess(seeds, texts)
lines = []
for lead in (0.0, 0.05, 0.1, 0.2, 0.3):
    right = []
    for letter in archive:
        topic, margin = guess(letter.text)
        if margin >= lead:
            right.append(topic == letter.topic)
    accepted, refused = growing.control(written, seeds, lead)
    line = {"lead asked for": lead, "archive letters judged": len(right)}
    line["judged right"] = str(share(right))
    line["written letters accepted"] = len(accepted)
    for reason in ("form", "topic unclear", "not new"):
        line[reason] = refused[reason]
    lines.append(line)
figures.table(lines, caption="How sure must the judge be? Archive: 180 letters. Written: 300")

# %% tags=["topic:seed-driven-growth"]
LEAD = 0.1
accepted, refused = growing.control(written, seeds, LEAD)
loose, _ = growing.control(written, seeds, lead=0.0, limit=1.01)
topics = Counter(letter.topic for letter in accepted)
print(f"accepted: {len(accepted)} of {len(written)}, topics {dict(topics)}")
known = {letter.text for letter in archive}
copied = [letter for letter in accepted if letter.text in known]
print(f"word for word in the archive: {len(copied)}")
apart = max(1, len(accepted) // 8)
for letter in accepted[::apart]:
    print(f"  {letter.topic:>9}: {letter.text}")

# %% tags=["topic:seed-driven-growth"]
groups = {
    "ten seeds": seeds,
    "written, form checked": loose,
    "written, accepted": accepted,
    "by hand": archive,
}
lines = []
for name, wordings in groups.items():
    texts = [wording.text for wording in wordings]
    line = {"wordings": name, "number": len(wordings)}
    line["distinct-1"] = growing.distinct(texts, 1)
    line["distinct-2"] = growing.distinct(texts, 2)
    lines.append(line)
caption = "How varied? distinct-n: different runs of n words, as a share of all"
figures.table(lines, caption=f"{caption} (falls as texts get more)")

# %% [markdown]
# ### Check the slide: "up to 114 % of human-labelled quality"
#
# The slide's source says "on some tasks". Ours: the mail room, trained on 640 tickets from each kind of wordings, in
# the same steps. "By hand" are the course's 180 template wordings, written by one person. That is not what a paper
# means by human-labelled, but it is what you would have without growth.

# %% tags=["topic:seed-driven-growth"]
kinds = {"ten seeds, filled anew": seeds, "seeds and written, form checked": [*seeds, *loose]}
kinds["seeds and written, accepted"] = [*seeds, *accepted]
outcome = {"ten seeds as they are": results[10]}
for name, wordings in kinds.items():
    tickets = growing.tickets(wordings, 640, seed=11)
    outcome[name] = exam(tickets)
outcome["by hand"] = results[640]


# %% tags=["topic:seed-driven-growth"]
def compared_with(by_hand: list[bool], marks: list[bool]) -> str:
    """What is filed right, as a part of what the wordings by hand reach, if that is anything."""
    if not any(by_hand):
        return "-"
    ratio = np.mean(marks) / np.mean(by_hand)
    return f"{ratio:.0%}"


lines = []
for name, result in outcome.items():
    line = {"trained on": name}
    for place, (test, marks) in enumerate(result.items()):
        column = "of by hand" + " " * place  # no two columns may have the same name
        line[test] = str(share(marks))
        line[column] = compared_with(outcome["by hand"][test], marks)
    lines.append(line)
figures.table(
    lines,
    caption=f"Filed right, {len(RUNS)} seeds, {STEPS} steps each; intervals do not count the "
    "choice of wordings",
)

# %% [markdown]
# **What to notice.** Go down both columns. The cheapest step is placeholders, and it more than doubles them: ten
# rows learned by heart become ten wordings that any order fits. On the held-out pairs the writer adds to that. The
# controls surprised us: half of the wordings are thrown away, and the result is no better and no worse. Look at the
# topics of the accepted letters above. A strict judge keeps only what it is sure of, and a topic may be left with a
# letter or two. What wrong topics cost, the lost variety costs, too: that is our suspicion, and no proof.
#
# Then the second column. Nobody's template wrote these letters, and "by hand" does badly on them, too. So it is no
# gold standard there, and a ratio above 100 % would say as much about the hand as about the growth. The verdict on
# the slide: "up to" means on the best of their tasks. On ours, no row of growth comes up to the hand-made wordings.
#
# A model as small as ours brings no knowledge of language. It recombines what it read, and part of its "new" wordings
# are the archive's, word for word (counted above). That is also how a writer gives away what a customer once wrote.
# With an instruct model (open this notebook at the small tier) the same cells vary each seed with words that no
# archive of yours has.
#
# **Exercise.** Ask for `LEAD = 0.3`, then for 0.0. Cleaner topics, fewer wordings: which side wins?

# %% [markdown]
# ## What you take with you
# - Plant faults before you trust a detector, and run it on sound data before you trust its test score.
# - Split by what must be new. A random split lets customers and wordings through.
# - A card that a program writes cannot go out of date.
# - Count different sentences, not rows, and test on something that your templates did not write.
# - Growth: placeholders first, then a writer, then controls. It cannot bring in what the writer does not know.
