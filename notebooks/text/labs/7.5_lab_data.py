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

import numpy as np

from course_utils import figures
from course_utils.finetuning import data_quality as dq
from course_utils.finetuning import growing
from course_utils.measures import error_bars, share
from course_utils.models import loaders
from course_utils.prisma import conversations, manners

talks = conversations.make_conversations()
rows = dq.rows_of(talks)
print(f"{len(rows):,} conversations:", dict(Counter(row.split for row in rows)))

# %% [markdown]
# ## 1. Three formats, one conversation
#
# You will meet training data in three formats. Every tool wants its own, so you convert. What can go wrong? Take one
# conversation through each format and back, and look at what the model would read as the customer's turn.

# %% tags=["topic:dataset-formats"]
talk = talks[0]
formats = {
    "chat": conversations.chat_row(talk),
    "ShareGPT": conversations.sharegpt_row(talk),
    "Alpaca": conversations.alpaca_row(talk),
}
for name, stored in formats.items():
    back = dq.to_messages(stored)
    same = sum(
        dq.to_messages(make(t)) == t.messages
        for t in talks
        for make in [getattr(conversations, f"{name.lower()}_row")]
    )
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
sample = random.Random(3).sample(sorted(truth), 3) + [rows[5].id]
for id_ in sorted(sample):
    row = by_id[id_]
    print(f"--- row {id_} ({row.split})\n{row.text}\n")

# %%
print({id_: truth.get(id_, "sound") for id_ in sorted(sample)})
print(f"{len(dirty):,} rows, {len(truth)} with a fault:", dict(Counter(truth.values())))

# %% [markdown]
# ## 3. Near-duplicates
#
# Copies waste steps and make the model repeat. Exact copies are easy. But one word less, another comma, and `==` sees
# two different texts. Cut each text into runs of three words (*shingles*) and compare the sets (Broder 1997):
#
# $$J(A, B) = \frac{|A \cap B|}{|A \cup B|}$$


# %% tags=["topic:data-quality"]
def shingles(text: str, n: int = 3) -> set[str]:
    words = text.lower().replace(".", "").replace(",", "").split()
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b)


first, second = (
    "Please cancel order 4821, I do not need it.",
    "Please cancel order 4821, I do not need it now.",
)
print(f"by hand {jaccard(shingles(first), shingles(second)):.3f}", end=", ")
print(f"in the package {dq.jaccard(dq.shingles(first), dq.shingles(second)):.3f}")

# %% [markdown]
# Two thousand rows make two million pairs, and a web corpus makes far too many. *MinHash* replaces each set by a
# few numbers: for each of many hash functions, the smallest hash in the set. Two sets agree in such a number with
# a probability that is just $J$. `datasketch` files rows by pieces of these numbers (locality-sensitive hashing),
# so that only rows that may be alike are ever compared. Is our MinHash the library's?

# %% tags=["topic:data-quality"]
from datasketch import MinHash

sketches, sets = (
    [],
    [dq.shingles(row.text) for row in (rows[0], rows[0].saying("user", rows[1].says("user")))],
)
for items in sets:
    theirs = MinHash(num_perm=dq.PERMUTATIONS, seed=1, scheme="legacy")
    theirs.update_batch([item.encode() for item in items])
    sketches.append(dq.minhash(items, *theirs.permutations))
    print(
        "equal to datasketch's, all",
        len(sketches[-1]),
        "numbers:",
        np.array_equal(sketches[-1], theirs.hashvalues),
    )
estimate = np.mean(sketches[0] == sketches[1])
print(
    f"exact Jaccard {dq.jaccard(*sets):.3f}, estimated from {dq.PERMUTATIONS} numbers "
    f"{estimate:.3f}"
)

# %% [markdown]
# Where is the border between "alike" and "the same"? Look at the data before you choose a threshold. For some rows,
# we find the most similar other row: sound rows first, then the planted copies.

# %% tags=["topic:data-quality"]
pairs = dq.similar_pairs([row.text for row in dirty], threshold=0.5)
nearest = {row.id: 0.0 for row in dirty}
for i, j, similar in pairs:
    for row in (dirty[i], dirty[j]):
        nearest[row.id] = max(nearest[row.id], similar)
copies = {id_ for id_, kind in truth.items() if kind in ("duplicate", "leak")}

# %% tags=["topic:data-quality"]
fig, ax = figures.figure(height=3.0)
bins = np.linspace(0.5, 1, 26)
groups = (
    [v for id_, v in nearest.items() if id_ not in copies and v],
    [nearest[id_] for id_ in copies if nearest[id_]],
)
ax.hist(groups, bins, label=["other rows", "planted copies and leaks"])  # side by side
ax.axvline(dq.THRESHOLD, color="black", linestyle="--", label="threshold")
ax.set(xlabel="similarity to the nearest other row (Jaccard)", ylabel="rows", yscale="log")
ax.legend()
above = sum(v >= dq.THRESHOLD for id_, v in nearest.items() if id_ in copies)
figures.show(
    fig,
    alt=f"Histogram of each row's highest similarity to another row, from 0.5 up. {above} of "
    f"{len(copies)} planted copies and leaks lie above the threshold of {dq.THRESHOLD}; rows "
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
figures.table(dq.scores(found, truth), caption="Planted faults found, with 95 % intervals")

# %% tags=["topic:data-quality"]
for kind in found:
    missed = [id_ for id_, fault in truth.items() if fault == kind and id_ not in found[kind]]
    id_, reason = next(iter(found[kind].items()))
    print(f"--- {kind}: row {id_}: {reason}")
    for id_ in missed[:1]:
        print(
            f"    missed, row {id_}: "
            + " | ".join(by_id[id_].says(role) for role in ("system", "user", "assistant"))
        )

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
sentences = [(text, True) for text in manners.RUDE_TEST] + [
    (text, False) for text in manners.CIVIL_TEST
]
judges = {"word list": lambda text: bool(dq.listed(text))}
for name, civil in (("classifier", ()), ("classifier that knows our shop", dq.stock())):
    tone = dq.ToneClassifier(civil)
    judges[name] = lambda text, tone=tone: tone.rudeness([text])[0] > 0.5
alarms = {"word list": sum(bool(dq.listed(row.text)) for row in rows)}
alarms |= {
    "classifier": len(dq.toxic(rows, civil=())),
    "classifier that knows our shop": len(dq.toxic(rows)),
}
lines = []
for name, judge in judges.items():
    caught = share([judge(text) for text, rude in sentences if rude])
    spared = share([not judge(text) for text, rude in sentences if not rude])
    line = {"judge": name, "hard insults found": str(caught), "hard civil ones spared": str(spared)}
    lines.append(line | {f"flagged of {len(rows):,} sound rows": alarms[name]})
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
print(
    f"faults that are still in: {len(left)} ({len(left) / len(kept):.2%} of the rows): "
    f"{dict(Counter(left))}"
)
print("sound rows lost:", sum(line["row"] not in truth for line in removed))
figures.table(removed[:: len(removed) // 8][:8], caption="Some of the removals")

# %% [markdown]
# Which split does a row belong to? Not a random one. If the same customer or the same order stands on both sides, the
# test asks what training has told. Split by the thing that must be new: here the order, the customer, and the pair
# of sentences. What would a random split have done?

# %% tags=["topic:splits-provenance"]
shuffled = random.Random(unit.seed).sample(rows, len(rows))
parts = {
    "by order, customer and wording": (
        [r for r in rows if r.split == "train"],
        [r for r in rows if r.split == "test"],
    )
}
parts["at random"] = (shuffled[:1600], shuffled[1800:])
lines = []
for name, (train, test) in parts.items():
    line = {"split": name}
    for what, key in (("customer", "customer"), ("product", "product")):
        known = {dq.record(row)[key] for row in train}
        line[f"test rows whose {what} is in training"] = (
            f"{np.mean([dq.record(row)[key] in known for row in test]):.0%}"
        )
    wordings = {dq.policy(row.saying("assistant", "x:" + row.says("user")))[1] for row in train}
    seen = [
        dq.policy(row.saying("assistant", "x:" + row.says("user")))[1] in wordings for row in test
    ]
    lines.append(line | {"test letters whose wording is in training": f"{np.mean(seen):.0%}"})
figures.table(lines, caption="What a split lets through")

# %% tags=["topic:splits-provenance"]
card = dq.data_card(kept, dq.ORIGIN.format(seed=conversations.SEED), dq.LIMITS, removed)
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
seeds, archive = growing.by_hand(each=1), growing.by_hand()
tests = {
    "held-out pairs": growing.tickets(growing.by_hand("test"), 60, seed=5),
    "letters": growing.tickets(growing.letters(), 100, seed=6),
}
STEPS, RUNS = 50, (1, 2)


def exam(tickets: list) -> dict[str, list[bool]]:
    """Train the mail room anew with each seed; which tickets it files right, over all seeds."""
    trained = [growing.learn(mailroom, tickets, STEPS, seed) for seed in RUNS]
    return {
        name: [mark for one in trained for mark in growing.right(one, test)]
        for name, test in tests.items()
    }


print("a letter:", tests["letters"][0])
print("a held-out pair:", tests["held-out pairs"][0])

# %% tags=["topic:data-quality"]
results = {}
for n in (10, 40, 160, 640):
    results[n] = exam(growing.tickets(growing.by_hand(each=min(18, n // 10)), n, seed=n))
fig, ax = figures.figure(height=3.2)
for (name, test), style in zip(tests.items(), ("o-", "s--"), strict=True):
    marks = [share(result[name]) for result in results.values()]
    values, ends = error_bars(marks)
    ax.errorbar(
        list(results),
        values,
        ends,
        fmt=style,
        capsize=3,
        label=f"{name} (n = {len(test)})",
    )
ax.set(xscale="log", xlabel="training examples", ylabel="share filed right", ylim=(0, 1))
ax.set_xticks(list(results), [str(n) for n in results])
ax.legend()
texts = [
    f"{n} examples {share(r['held-out pairs']).value:.0%} and {share(r['letters']).value:.0%}"
    for n, r in results.items()
]
figures.show(fig, alt="Filed right, held-out pairs and letters: " + "; ".join(texts) + ".")

# %% [markdown]
# **What to notice.** With ten examples the model learns ten order numbers by heart. Then the first line climbs fast,
# and slower after the second hundred: at the same cost in steps, four times as many examples add about a tenth, with
# intervals that may still overlap. So the slide's *minimum* takes you most of the way in this task. But look at the
# second line. On letters that nobody's template wrote, hundreds of examples help little: they are hundreds of fillings
# of the same few sentences. Up to 160 examples every one brings a wording of its own; 640 are fillings of 180. **Count
# the different sentences, not the rows.** The usual test, drawn from the same templates, would never have told us.
# (The intervals count each test message once for each seed, so they are a little too narrow.)
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
        topic = rng.choice([other for other in conversations.INTENTS if other != topic])
    wrong.append(growing.Ticket(ticket.message, f"{topic} {number}"))
spoiled = exam(wrong)
lines = []
for name, result in (
    ("640, all right", results[640]),
    ("160, all right", results[160]),
    ("640, four in ten wrong", spoiled),
):
    lines.append(
        {"training examples": name} | {test: str(share(marks)) for test, marks in result.items()}
    )
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
writer = growing.teach_writing(unit.load("chat"), archive, steps=70, seed=unit.seed)
written = growing.write(writer, seeds, n=300, temperature=0.7, seed=unit.seed)
print("\nThe writer's first six, as they come:")
for text in written[:6]:
    print(f"  {text}")

# %% [markdown]
# The judge compares the words of a text with those of each seed (cosine of TF-IDF vectors: rare words count more), and
# says by how much the best seed leads the second. How strict should it be? We can check, because the archive's topics
# are known: to us, not to the growth.

# %% tags=["topic:seed-driven-growth"]
guess = growing.TopicGuess(seeds, [one.text for one in archive])
lines = []
for lead in (0.0, 0.05, 0.1, 0.2, 0.3):
    sure = [guess(one.text)[0] == one.topic for one in archive if guess(one.text)[1] >= lead]
    accepted, refused = growing.control(written, seeds, lead)
    line = {
        "lead asked for": lead,
        "archive letters judged": len(sure),
        "judged right": str(share(sure)),
    }
    counts = {reason: refused[reason] for reason in ("form", "topic unclear", "not new")}
    lines.append(line | {"written letters accepted": len(accepted)} | counts)
figures.table(lines, caption="How sure must the judge be? Archive: 180 letters. Written: 300")

# %% tags=["topic:seed-driven-growth"]
LEAD = 0.1
accepted, refused = growing.control(written, seeds, LEAD)
loose, _ = growing.control(written, seeds, lead=0.0, limit=1.01)
print(
    f"accepted: {len(accepted)} of {len(written)}, topics "
    f"{dict(Counter(one.topic for one in accepted))}"
)
known = {one.text for one in archive}
print(f"word for word in the archive: {sum(one.text in known for one in accepted)}")
for one in accepted[:: max(1, len(accepted) // 8)]:
    print(f"  {one.topic:>9}: {one.text}")

# %% tags=["topic:seed-driven-growth"]
lines = []
for name, some in (
    ("ten seeds", seeds),
    ("written, form checked", loose),
    ("written, accepted", accepted),
    ("by hand", archive),
):
    texts = [one.text for one in some]
    line = {"wordings": name, "number": len(some), "distinct-1": growing.distinct(texts, 1)}
    lines.append(line | {"distinct-2": growing.distinct(texts, 2)})
figures.table(lines, caption="distinct-n: different runs of n words, as a share of all")

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
outcome |= {name: exam(growing.tickets(some, 640, seed=11)) for name, some in kinds.items()}
outcome["by hand"] = results[640]
lines = []
for name, result in outcome.items():
    line = {"trained on": name}
    for test, marks in result.items():
        ratio = np.mean(marks) / np.mean(outcome["by hand"][test])
        line |= {
            test: str(share(marks)),
            "of by hand" + " " * list(tests).index(test): f"{ratio:.0%}",
        }
    lines.append(line)
figures.table(
    lines,
    caption=f"Filed right, {len(RUNS)} seeds, {STEPS} steps each; intervals do not count the "
    "choice of wordings",
)

# %% [markdown]
# **What to notice.** Go down both columns. The cheapest step is placeholders, and it more than doubles them: ten
# rows learned by heart become ten wordings that any order fits. On the held-out pairs the writer adds to that. The
# controls surprised us: with them the result is no better, and on the letters perhaps worse. Look at the topics of
# the accepted letters above. A strict judge keeps only what it is sure of, and some topics are left with a letter or
# two. The intervals of these two rows overlap, so it is a suspicion and no proof.
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
