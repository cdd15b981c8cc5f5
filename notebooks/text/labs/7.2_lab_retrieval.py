# %% [markdown] tags=["badge"]
# # 7.2 Lab: retrieval
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.2_lab_retrieval.ipynb)

# %% [markdown]
# **After this notebook you can**
# - build every step of retrieval-augmented generation: chunk, embed, index, retrieve, augment, answer with citations;
# - compare bag of words, BM25, static and contextual vectors on real English text, with intervals;
# - say when a hybrid of two searches helps, and when it harms;
# - keep vectors in FAISS and Chroma behind one interface, and check them against an exact search;
# - measure whether an answer is right, whether its source holds it, and what is said when no source does.
#
# **Time:** about 35 minutes to read and run; the cells take about a minute and a half on two free CPU cores.
#
# **Downloads:** nothing. The sentence vectors (MiniLM, 88 MB) and Chroma come with the extra `agents`; where it is
# missing, the lab says so and does the rest.

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

unit = open_unit("7.2", tier="bundled")

# %%
import re
import textwrap
import time
from collections.abc import Sequence

import numpy as np

from course_utils import figures
from course_utils.agents.retrieval import chunks, constitution, ranking, vector_stores, vectors
from course_utils.agents.retrieval.keyword_search import BM25
from course_utils.exercises import check, hint, quiz, solution
from course_utils.exercises.authors import whose
from course_utils.measures import error_bars, percent, share
from course_utils.prisma import text
from course_utils.prisma.shop import make_shop, policy_text
from course_utils.settings import paced

# %% [markdown]
# ## 1. Why retrieve?
#
# Ask `prisma-lm` about orders without showing it anything. It has seen many shops in training, and never this one:
# nothing in its weights can know these orders.

# %% tags=["topic:rag-why-how"]
shop = make_shop(unit.seed)
chat = unit.load("chat")
LOOKED_UP = ("status", "owner", "contents", "quantity", "price", "stock", "policy")
drawn = text.episodes(600, unit.seed, shop)
tasks = [task for task in drawn if task.kind in LOOKED_UP]
tasks = tasks[: paced(200)]

prompts = [text.prompt("direct", task.question) for task in tasks]
guesses = chat.complete_many(prompts, max_new_tokens=24)
for task, guess in zip(tasks[:4], guesses, strict=False):
    print(f"{task.question:<48} {guess.strip():<28} true: {task.answer}")
guessed = [text.correct(task.answer, guess) for task, guess in zip(tasks, guesses, strict=True)]
print("right by guessing:", share(guessed))

# %% [markdown]
# **What to notice.** Each guess has the right form, is stated with full confidence, and is wrong but for luck.
# **Retrieval-augmented generation** (RAG; Lewis et al. 2020, arXiv 2005.11401) splits the work: a search finds
# passages, and the model reads them. Facts then live in documents, where they can be corrected today.
#
# Sections 2 to 6 build the search on real text, section 7 lets a model read what was found.
#
# ## 2. Chunk
#
# A vector has a fixed width, however long the text. A whole document in one vector is a blur, and a small model
# cannot read a whole document anyway. So a document is cut into **chunks**. Ours are whole sentences, and neighbours
# overlap by a sentence, so that a thought on the border stands whole in one of them.
#
# The text is the Constitution of the United States: real, old, in the public domain, and worded as nobody speaks. Its
# 80 questions ask in everyday words, and were written before any search was tried on them; its 40 look-ups use the
# text's own terms, and were written after. A chunk answers a question if it holds a phrase that was noted with it.

# %% tags=["topic:rag-why-how"]
document = constitution.text()
questions = constitution.questions()
lookups = constitution.lookups()
for example in (*questions[:3], *lookups[:2]):
    print(f"{example.text:<58} {example.says[0]}")
pieces = chunks.chunk(document, constitution.SOURCE, size=80, overlap=1)
for piece in pieces[3:5]:
    print(f"\n{piece.source}, from character {piece.start}:\n{piece.text}")
    assert document[piece.start :].startswith(piece.text)  # so a citation can be looked up

# %% [markdown]
# ### Exercise: Chunks with an overlap (medium, about 20 minutes)
#
# Cut a text so that nothing is lost, and neighbours share a little. `hint("7.2.chunk")` helps. Until your function
# passes, the notebook goes on with the course's own, and says so.


# %%
def chunk(sentences: Sequence[str], size: int, overlap: int) -> list[str]:
    """A text cut into chunks for a search index: whole sentences, joined by blanks.

    A chunk takes sentence after sentence, as long as it has at most `size` words. A sentence of
    more words is a chunk of its own, whole. The next chunk begins with the last sentences of the
    one before: as many as together have at most `overlap` words. If the next new sentence does not
    fit behind them, leave out the first of them until it does. Every chunk brings a new sentence.
    """
    # Your code here
    raise NotImplementedError


# %%
chunk = check("7.2.chunk", chunk)

# %% tags=["topic:rag-why-how"]
cut = chunk(chunks.sentences(document), size=80, overlap=20)
print(f"{len(cut)} chunks by {whose(chunk)}; the third begins: {cut[2][:60]} ...")

# %% [markdown]
# ## 3. Embed
#
# Four ways to turn a text into a vector, all of length 1, so that their product is the cosine:
#
# - **bag of words**: one number a word of the vocabulary, its count;
# - **static**: each word has one vector, whatever stands beside it; the text's vector is their mean. Ours are counted
#   from the document (LSA, latent semantic analysis: words of the same chunks lie close together), or the word table
#   of MiniLM;
# - **contextual**: MiniLM, a transformer of 22 million weights, trained on a billion pairs of sentences to place what
#   means the same close together (Reimers and Gurevych 2019, arXiv 1908.10084).
#
# MiniLM's file is loaded only if its checksum is the published one. And for comparison **BM25**, the classic search
# by words: rare words count more, repeated ones ever less. Which one do you expect to win on the questions, and which
# on the look-ups?

# %% tags=["topic:embeddings"]
passages = [piece.text for piece in pieces]
minilm = vectors.minilm()
encoders = [vectors.BagOfWords(passages), vectors.LatentWords(passages)]
if minilm:
    encoders += [vectors.Static(minilm), vectors.Contextual(minilm)]
best = encoders[-1]


def ranked(encoder, asked: list[str], among: list[str]) -> list[list[int]]:
    """For each question, the places of all passages, the nearest first."""
    stored = encoder.encode(among)  # (passages, width)
    wanted = encoder.encode(asked)  # (questions, width)
    cosines = wanted @ stored.T  # (questions, passages)
    return np.argsort(-cosines, axis=1, kind="stable").tolist()


def found_by(words: BM25, question: str, k: int) -> list[int]:
    """The places of the best `k` texts of a search by words."""
    return [place for place, _ in words.search(question, k)]


# %% tags=["topic:embeddings"]
SETS = {"questions": questions, "look-ups": lookups}
rankings, truth = {}, {}
words = BM25(passages)
for name, asked in SETS.items():
    texts = [one.text for one in asked]
    truth[name] = [constitution.answering(pieces, one) for one in asked]
    rankings["BM25", name] = [found_by(words, one, len(passages)) for one in texts]
    for encoder in encoders:
        rankings[encoder.name, name] = ranked(encoder, texts, passages)

# %% tags=["topic:embeddings"]
ways = [encoder.name for encoder in encoders] + ["BM25"]


def recall_table(ways: list[str], caption: str):
    """Recall@1 and recall@5 of each way, on questions and on look-ups."""
    rows = []
    for way in ways:
        row = {"search": way}
        for name in SETS:
            for k in (1, 5):
                recall = ranking.recall(rankings[way, name], truth[name], k)
                row[f"{name} @{k}"] = percent(recall)
        rows.append(row)
    return figures.table(rows, caption)


recall_table(ways, f"Recall@k with 95 % intervals: {len(pieces)} chunks")

# %% tags=["topic:embeddings"]
for name in SETS:
    best_hits = ranking.hits(rankings[best.name, name], truth[name], 5)
    for other in ("bag of words", "BM25"):
        hits = ranking.hits(rankings[other, name], truth[name], 5)
        print(f"{name:<9} {best.name} over {other}: {ranking.gain(best_hits, hits)}")

# %%
fig, ax = figures.figure(height=3.4)
middles = np.arange(len(ways))
for shift, name in ((-0.2, "questions"), (0.2, "look-ups")):
    measures = [ranking.recall(rankings[way, name], truth[name], 5) for way in ways]
    heights, ends = error_bars(measures)
    ax.bar(middles + shift, heights, 0.38, yerr=ends, capsize=2, label=name)
ax.set_xticks(middles, [textwrap.fill(way, 13) for way in ways])
ax.set(ylabel="recall@5 (95 % intervals)", ylim=(0, 1.05))
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
figures.show(fig, alt="Recall at 5 of each search, on questions and on look-ups; see the table.")

# %% [markdown]
# **What to notice.** Read the two kinds apart. On *questions*, contextual vectors find several times as much as any
# count of words, far outside the intervals. MiniLM's static vectors lie between; those counted from one document know
# no more than its words. "Can I own a gun?" shares no word of weight with "keep and bear Arms". On *look-ups* it is
# the other way round: who knows the term is served best by a search for the term. Neither search is better; your
# users decide.
#
# ### The size of a chunk
#
# Are larger chunks found more easily, since each holds more of the text? Five large chunks are also more to read.

# %% tags=["topic:rag-why-how"]
rows = []
texts = [one.text for one in questions]
for size, overlap in ((30, 0), (80, 0), (80, 1), (160, 1)):
    cut = chunks.chunk(document, constitution.SOURCE, size, overlap)
    bodies = [piece.text for piece in cut]
    right = [constitution.answering(cut, one) for one in questions]
    recall = ranking.recall(ranked(best, texts, bodies), right, 5)
    mean_words = np.mean([len(body.split()) for body in bodies])
    row = {"words at most": size, "overlap": overlap, "chunks": len(cut)}
    row["phrases cut apart"] = sum(not places for places in right)
    row |= {"recall@5": percent(recall), "words in five chunks": round(5 * mean_words)}
    rows.append(row)
figures.table(rows, f"Chunk size and overlap, {best.name}, 80 questions")

# %% [markdown]
# **What to notice.** Small chunks cut some answers apart, and no search can find what no chunk holds. Between all
# sizes the intervals overlap: do not tune on noise. Compare with the last column, for the reader pays for it.
#
# ## 4. A language model is not an embedder
#
# `prisma-lm` has hidden states, too: take the mean of the last ones. It knows Prisma's language, so it gets Prisma's
# own documents: 192 products, 400 orders, 6 policies. We ask with Prisma's own questions.

# %% tags=["topic:embeddings"]
notes = [policy_text(shop, topic) for topic in shop.policies]
for item in shop.products.values():
    notes.append(f"The {item.name} costs {item.price} euros, and we have {item.stock} in stock.")
for order in shop.orders.values():
    goods = f"{order.quantity} {order.product.name}"
    notes.append(f"Order {order.number} of {order.customer}: {goods}, {order.status}.")


def place_of(task: text.Episode) -> int:
    """The place of the note that answers a question."""
    [step] = task.steps
    if step.tool == "policy":
        return notes.index(policy_text(shop, step.argument))
    mark = f"Order {step.argument} " if step.tool == "orders" else f"The {step.argument} costs"
    return next(place for place, note in enumerate(notes) if note.startswith(mark))


# %% tags=["topic:embeddings"]
wanted = [{place_of(task)} for task in tasks]
asked = [task.question for task in tasks]
note_words = BM25(notes)
by_words = [found_by(note_words, one, 20) for one in asked]
compared = {"BM25": by_words}
if minilm:
    compared["contextual (MiniLM)"] = ranked(best, asked, notes)
states = unit.load("embedding")
compared["prisma-lm's hidden states"] = ranked(vectors.Contextual(states), asked, notes)
rows = []
for way, found in compared.items():
    row = {"search": way}
    row |= {f"@{k}": percent(ranking.recall(found, wanted, k)) for k in (1, 4)}
    rows.append(row)
figures.table(rows, f"Recall on Prisma's {len(notes)} notes, {len(tasks)} questions")

# %% [markdown]
# **What to notice.** Hidden states that predict the next word are no map of meaning: nobody trained them to lie close
# where texts belong together. And even MiniLM, strong on everyday words, mixes up order numbers and near-equal
# products: for names and numbers, words win.
#
# ## 5. Hybrid: two rankings made one
#
# Your users ask both ways. **Reciprocal rank fusion** (Cormack et al. 2009, "Reciprocal Rank Fusion outperforms
# Condorcet and individual rank learning methods") gives a document `1 / (60 + rank)` from each ranking and adds up.
# It needs no training, and no scores on a common scale. We fuse the first 20 of each.

# %% [markdown]
# ### Exercise: Two rankings, one result (easy, about 10 minutes)
#
# Two searches, two rankings, scores that cannot be compared. Make one ranking of them. `hint("7.2.rank_fusion")`
# helps. Until your function passes, the notebook goes on with the course's own, and says so.


# %%
def rank_fusion(rankings: Sequence[Sequence[str]], k: int = 60) -> list[str]:
    """Several rankings made one, by reciprocal rank fusion (Cormack et al. 2009, SIGIR).

    A ranking lists ids, the best first. An id's score is the sum of 1 / (k + rank) over the
    rankings that list it; ranks count from 1. A ranking that does not list it adds nothing. Return
    all ids, the highest score first. Ids of equal score come in the order of the alphabet.
    """
    # Your code here
    raise NotImplementedError


# %%
rank_fusion = check("7.2.rank_fusion", rank_fusion)

# %% tags=["topic:rag-why-how"]
HYBRID = "hybrid (RRF)"
for name in SETS:
    pairs = zip(rankings["BM25", name], rankings[best.name, name], strict=True)
    fused = [rank_fusion([one[:20], two[:20]]) for one, two in pairs]
    rankings[HYBRID, name] = fused

recall_table(["BM25", best.name, HYBRID], "The hybrid against its two parts")


# %% tags=["topic:rag-why-how"]
def hits_of_all(way: str, k: int) -> list[bool]:
    """Hits on a mix of 40 questions and 40 look-ups."""
    mixed = []
    for name in SETS:
        mixed += ranking.hits(rankings[way, name][:40], truth[name][:40], k)
    return mixed


for k in (1, 5, 10):
    row = {way: share(hits_of_all(way, k)) for way in ("BM25", best.name, HYBRID)}
    better = max(("BM25", best.name), key=lambda way: row[way].value)
    over = ranking.gain(hits_of_all(HYBRID, k), hits_of_all(better, k))
    told = ", ".join(f"{way} {percent(measure)}" for way, measure in row.items())
    print(f"half and half @{k}: {told}\n    hybrid over {better}: {over}")

# %% [markdown]
# **What to notice.** "Hybrid is always better" is not what we measure. On each kind alone, the hybrid is at best
# equal to the search that suits this kind: fusion is a mean, and the worse half drags it down. On questions, where
# BM25 finds next to nothing, that costs much. On the mix, read the intervals of the last lines. A hybrid insures you
# against the kind of question that you did not expect; where you know the kind, or can tell it, choose.
#
# ## 6. Where vectors live
#
# A store keeps vectors under ids and finds the nearest. Ours have one interface, `add(ids, vectors)` and
# `search(vector, k)`. By hand in **NumPy** the search is exact. **FAISS** is a library: this index is exact, too.
# **Chroma** is a database that also keeps texts and filters; its graph of neighbours (HNSW) is approximate and, for
# millions of vectors, much faster. **Pinecone** is a hosted service with the same two verbs: your vectors, and so
# your documents' content, leave the house, and you pay for it. It is not run here.

# %% tags=["topic:vector-stores"]
if not vector_stores.has_chroma():
    print(vector_stores.missing_chroma())
stored = best.encode(passages)  # (passages, width)
queries = best.encode(texts)  # (questions, width)
found = {}
for kind in vector_stores.kinds():
    store = kind()
    ids = [str(place) for place in range(len(passages))]
    store.add(ids, stored)
    found[store.name] = []
    for query in queries:
        five = store.search(query, 5)
        found[store.name].append([hit.id for hit in five])
for name, results in found.items():
    same = [one == two for one, two in zip(results, found["NumPy"], strict=True)]
    print(f"{name}: the same five as the exact search, in order: {share(same)}")

# %% tags=["topic:vector-stores"]
rng = np.random.default_rng(unit.seed)
many = rng.normal(size=(paced(4000), 384)).astype(np.float32)  # (n, width), as wide as MiniLM's
rows = []
for kind in vector_stores.kinds():
    store = kind()
    start = time.perf_counter()
    store.add([str(place) for place in range(len(many))], many)
    added = time.perf_counter() - start
    start = time.perf_counter()
    for vector in many[:20]:
        store.search(vector, 10)
    searched = time.perf_counter() - start
    row = {"store": store.name, "seconds to add all": added}
    rows.append(row | {"ms a search": 1000 * searched / 20})
megabytes = many.nbytes / 1e6
figures.table(
    rows, f"{len(many)} random vectors, 384 wide: {megabytes:.1f} MB of numbers", digits=3
)

# %% [markdown]
# **What to notice.** The exact stores agree, and Chroma's graph finds the same here. At this size an exact search
# takes no time worth saving, and building a graph costs more than all searches together. Approximate indices are for
# millions. The numbers alone take 4 bytes times the width for each vector, in every store.

# %%
quiz("7.2.order_number")

# %% [markdown]
# ## 7. Augment, and answer with citations
#
# Now a model reads what was found. We retrieve four notes by words, which section 4 found best here, put them above
# the question, and ask. `prisma-lm` has read facts in its training, but was never taught to cite. So a program cites:
# it looks for a note that holds the answer *and* what the question is about, an order number or a product's name.
# An answer that a note holds is called **faithful**.

# %% tags=["topic:rag-why-how"]
KEY = re.compile(r"\d{4}|(?:small|medium|large) \w+ \w+")


def citation(question: str, answer: str, shown: list[str]) -> int | None:
    """The first note that holds the answer and the question's key, counted from 1; or None."""
    key = KEY.search(question)
    needed = [answer.lower().removesuffix(" euros")] + ([key.group().lower()] if key else [])
    for number, note in enumerate(shown, 1):
        said = [re.search(rf"\b{re.escape(part)}\b", note.lower()) for part in needed]
        if all(said):
            return number
    return None


def read(questions: list[str], shown: list[list[str]]) -> tuple[list[str], list[int | None]]:
    """What prisma-lm answers from the notes above each question, and the note that holds it."""
    texts = ["\n".join((*four, one)) for one, four in zip(questions, shown, strict=True)]
    prompts = [text.prompt("read", told) for told in texts]
    replies = chat.complete_many(prompts, max_new_tokens=24)
    answers = [text.final_answer(reply) for reply in replies]
    triples = zip(questions, answers, shown, strict=True)
    return answers, [citation(*one) for one in triples]


# %% tags=["topic:rag-why-how"]
sources = []
for places in by_words:
    sources.append([notes[place] for place in places[:4]])
answers, cited = read(asked, sources)
for number, note in enumerate(sources[0], 1):
    print(f"[{number}] {note}")
print(asked[0], "->", answers[0], f"[{cited[0]}]")

# %% tags=["topic:rag-why-how"]
right = [text.correct(task.answer, one) for task, one in zip(tasks, answers, strict=True)]
held = [number is not None for number in cited]
kept = [good for good, number in zip(right, cited, strict=True) if number]
rows = [
    {"measure": "right, guessing without notes", "share": percent(share(guessed))},
    {
        "measure": "the right note is among the four",
        "share": percent(ranking.recall(by_words, wanted, 4)),
    },
    {"measure": "right, reading four notes", "share": percent(share(right))},
    {"measure": "a note holds the answer (faithful)", "share": percent(share(held))},
    {"measure": "right, of those that a note holds", "share": percent(share(kept))},
]
figures.table(rows, f"{len(tasks)} questions on {len(notes)} notes")

# %% [markdown]
# ### When the answer is not there
#
# We take the answering note away, as if it had never been written. Any answer is now an invention.

# %% tags=["topic:rag-why-how"]
without = []
for places, answering in zip(by_words, wanted, strict=True):
    others = [place for place in places if place not in answering]
    without.append([notes[place] for place in others[:4]])
invented, cited = read(asked, without)
print(asked[0], "->", invented[0], f"[{cited[0]}]")
silent = [not answer or "not know" in answer for answer in invented]
refused = [number is None for number in cited]
print("the model says that it does not know:", share(silent))
print("the program finds no note and withholds the answer:", share(refused))

# %% [markdown]
# **What to notice.** Follow the chain. No reader can be better than its search, and what the search finds must still
# be read: `prisma-lm` reads far more than it guesses right, and still errs where near-equal notes stand side by side.
# Asked for what is not there, it does not say so, for it never learned to. A citation that is *checked* catches most
# of that, and most of what was misread: what no note holds is withheld. It costs a program that knows what a question
# is about. For text like the Constitution a real instruct model takes this model's place, and the search stays.
#
# ## What you take with you
# - Retrieval puts facts into documents and leaves reading to the model. Measure both, each with its interval.
# - Test a search with questions in your users' words. Questions copied from the text flatter the search by words.
# - The hidden states of a language model are no embeddings of meaning: those have to be trained for it.
# - A hybrid insures; it does not beat the search that suits the question.
# - A citation is worth something if somebody, or a program, looks it up. Ask also what is said when the answer is
#   missing.
#
# **Try it.** Write ten questions of your own on the Constitution before you look, and add them. Fuse three rankings
# instead of two: does the static one help or harm? Give `prisma-lm` eight notes instead of four:
# what does it lose?
