# %% [markdown] tags=["badge"]
# # 7.3 Lab: tokens and decoding
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.3_lab_tokens_and_decoding.ipynb)

# %% [markdown]
# **After this notebook you can**
# - train byte-pair encoding by hand, and prove that the library `tokenizers` learns the same merges;
# - say what a vocabulary costs: tokens per word, unknown words, numbers, and languages other than English;
# - turn scores into text by greedy decoding, beam search, temperature, top-k, nucleus sampling and min-p;
# - measure quality and diversity together, and choose between these methods;
# - test whether examples in a prompt teach a model anything, with random labels as the control;
# - tell encoder, decoder and encoder-decoder apart, and say what came before them.
#
# **Time:** about 45 minutes to read and run; the cells take about a minute and a half on two free CPU cores.
#
# **Downloads:** nothing. The model is prisma-lm, the course's own; GPT-2's, Whisper's and CLIP's *vocabularies* lie
# in packages that the course installs anyway.

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

unit = open_unit("7.3", tier="bundled")

# %%
import random
from collections import Counter
from functools import partial

import torch
from matplotlib.ticker import PercentFormatter
from torch import Tensor, nn
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers import RepetitionPenaltyLogitsProcessor as RepetitionPenalty

from course_utils import figures
from course_utils.exercises import check, hint, quiz, solution
from course_utils.exercises.authors import whose
from course_utils.measures import bootstrap, bootstrap_sums, error_bars, matches, percent, share
from course_utils.prisma import shop, text
from course_utils.research import decoding, explorer, inside, reasoning, tokenisers
from course_utils.settings import paced

torch.set_num_threads(1)  # the threads of so small a model wait longer than they work
chat = unit.load("chat")

# %% [markdown]
# ## 1. Words, characters, or something between?
#
# A model reads numbers. So a text is cut into *tokens*, and each token has a number in a *vocabulary*. Cut at
# **words**, and the text is short, but a word that was not in the training text has no number: it becomes
# `<unknown>`. Cut into **characters**, and nearly nothing is unknown, but the text is five times longer, and every
# layer pays for each token.
#
# Our text is real English prose that lies beside every Python: its language reference. We learn from three quarters
# of its chapters and hold back the rest. A **piece** is a word with the space before it, a number, or other signs.

# %% tags=["topic:tokenisation"]
chapters = tokenisers.manual()
held_out = chapters[::4]
learning = [chapter for place, chapter in enumerate(chapters) if place % 4]
counts = Counter()
for chapter in learning:
    counts.update(tokenisers.pieces(chapter))
print(tokenisers.pieces("Order 4821 won't fit, sorry."))
once = sum(count == 1 for count in counts.values())
print(f"{counts.total():,} pieces to learn from, {len(counts):,} different, {once:,} of them once")

# %% [markdown]
# **Byte-pair encoding** (BPE; Sennrich et al. 2016, arXiv 1508.07909) lies between. Begin with characters. Count all
# neighbours, join the most frequent pair everywhere, and do it again: frequent words become one token, rare ones
# stay in parts. Guess: which pair is joined first in English prose?

# %% tags=["topic:tokenisation"]
figures.source(tokenisers.count_pairs, tokenisers.merge, tokenisers.train)

# %% tags=["topic:tokenisation"]
few = learning[: paced(10, 4)]
few_counts = Counter()
for chapter in few:
    few_counts.update(tokenisers.pieces(chapter))
merges = tokenisers.train(few_counts, merges=150)
for place in (0, 1, 2, 3, 10, 50, 149):
    left, right = merges[place]
    print(f"merge {place:3}: {left!r} + {right!r}")

# %% [markdown]
# Is it what everybody else trains? The library's vocabulary counts the characters, too.

# %% tags=["topic:tokenisation"]
letters = set("".join(few_counts))
library = tokenisers.library_bpe(few, vocabulary=len(letters) + 150)
same = tokenisers.library_merges(library) == merges
print("the library learns the same 150 merges in the same order:", same)
print("a tie, by hand:", tokenisers.train({"cd": 3, "ab": 3}, merges=1))

# %% [markdown]
# The tie is the trap. Two pairs are often equally frequent, and whoever takes another one ends with another
# vocabulary. The library takes the pair whose symbols are *older*: characters first, in their order, then earlier
# merges. Now apply what was learned. To encode a word, join again and again the pair that was learned *first*, which
# is not the same as taking the longest token:

# %% tags=["topic:tokenisation"]
figures.source(tokenisers.encode)

# %% tags=["topic:tokenisation"]
ranks = tokenisers.numbered(merges)
pieces = tokenisers.pieces(held_out[0])
by_hand = []
for piece in pieces:
    by_hand += tokenisers.encode(piece, ranks)
print(" | ".join(by_hand[:24]))
known = [token for token in by_hand if library.token_to_id(token) is not None]
theirs = library.encode(held_out[0]).tokens
print(f"{len(pieces)} pieces became {len(by_hand)} tokens; as the library:", theirs == known)

# %% [markdown]
# **What to notice.** Nobody told it what a word is, and its first merges are beginnings of words (" a", " t") and
# most of "the". The library leaves out characters that it has never seen, and says nothing (that is why we compare
# with `known`). Section 2 has the cure.

# %% [markdown]
# ## 2. What does a vocabulary cost?
#
# Larger vocabularies make shorter texts, and larger embedding tables. How many tokens does a held-out word take?
# And how many words are unknown to a vocabulary of words?

# %% tags=["topic:tokenisation"]
sizes = [256, 512, 1024, 2048, 4096, 8192]
words = [len(chapter.split()) for chapter in held_out]
per_word, unknown = {}, {}
for size in sizes:
    library = tokenisers.library_bpe(learning, size)
    made = [len(encoded.tokens) for encoded in library.encode_batch(held_out)]
    cases = list(zip(made, words, strict=True))
    per_word[size] = bootstrap_sums(cases, lambda sums: sums[0] / sums[1], "tokens")
    vocabulary = tokenisers.word_vocabulary(counts, size)
    lost = []
    for chapter in held_out:
        tokens = tokenisers.word_tokens(tokenisers.pieces(chapter), vocabulary)
        lost.append((tokens.count(tokenisers.UNKNOWN), len(tokens)))
    unknown[size] = bootstrap_sums(lost, lambda sums: sums[0] / sums[1], "%")
letters = sum(map(len, held_out))
characters = letters / sum(words)

# %% tags=["topic:tokenisation"]
fig, axes = figures.figure(columns=2, width=10, height=3.6)
panels = ((axes[0], per_word, "tokens for a word"), (axes[1], unknown, "unknown pieces"))
for ax, found, label in panels:
    values, ends = error_bars(found.values())
    ax.errorbar(sizes, values, ends, marker="o", capsize=3)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="size of the vocabulary", ylabel=label, ylim=(0, None))
axes[0].axhline(characters, color=figures.GREY, linestyle="--", label="characters")
axes[1].yaxis.set_major_formatter(PercentFormatter(1.0))
axes[0].set(title="Byte-pair encoding", ylim=(0, 1.1 * characters))
axes[1].set_title("A vocabulary of whole words")
axes[0].legend()
first, last = per_word[sizes[0]].value, per_word[sizes[-1]].value
print(f"characters: {characters:.1f} for a word (with its space)")
print("BPE, largest vocabulary:", per_word[sizes[-1]])
print("words, largest vocabulary: unknown", unknown[sizes[-1]])
alt = (
    f"BPE: {first:.1f} tokens a word at {sizes[0]}, {last:.1f} at {sizes[-1]}. Unknown words fall."
)
figures.show(fig, alt=alt)

# %% [markdown]
# **Bytes.** GPT-2 (Radford et al. 2019) begins not with characters but with the 256 *bytes* of which every text
# consists. Then nothing can be unknown. What comes out is not pretty to look at: each byte is shown as a letter.

# %% tags=["topic:tokenisation"]
samples = ["naïve", "東京", "हिन्दी"]
for sample in samples:
    seen = library.encode(sample)
    in_bytes = tokenisers.as_bytes(sample)
    tokens = tokenisers.gpt2().encode(sample)
    back = tokenisers.gpt2().decode(tokens)
    kept = library.decode(seen.ids).replace(" ", "")
    print(f"{sample}: characters keep {kept!r}; {len(in_bytes)} bytes {in_bytes}", end="; ")
    print(f"GPT-2: {len(tokens)} tokens, read back as {back}")

# %% [markdown]
# **Numbers and spaces.** To a model with GPT-2's vocabulary, are 1999 and 7305 equally long?

# %% tags=["topic:tokenisation"]
english = tokenisers.gpt2()
numbers = [f" {number}" for number in range(1000, 10000)]
lengths = Counter(len(english.encode(number)) for number in numbers)
parts = [f"{count:,} are {size} tokens" for size, count in sorted(lengths.items())]
print("Of the numbers 1000 to 9999,", ", ".join(parts))
for sample in (" 1999", " 7305", " 12345", "hello", " Hello", "HELLO", "def  f( x ):"):
    cut = [english.decode([token]) for token in english.encode(sample)]
    ours = chat.tokenizer.convert_ids_to_tokens(chat.tokenizer(sample)["input_ids"])
    print(f"{sample!r:15} GPT-2: {cut}  prisma-lm: {ours}")

# %% [markdown]
# prisma-lm has each digit alone, so that one rule of carrying serves all numbers; Llama does the same (Touvron et al.
# 2023, arXiv 2302.13971).
#
# **Other languages.** Six articles of the Universal Declaration of Human Rights say the same in four languages. How
# many tokens does each reader pay for, compared with English? Guess first for Hindi.

# %% tags=["topic:tokenisation"]
counters = tokenisers.counters(chat.tokenizer)
rows, ratios = [], {}
for name, count in counters.items():
    row = {"tokeniser": name}
    base = [count(article) for article in tokenisers.RIGHTS["English"]]
    row["English, tokens"] = sum(base)
    for language in ("German", "Chinese", "Hindi"):
        here = [count(article) for article in tokenisers.RIGHTS[language]]
        cases = list(zip(here, base, strict=True))
        ratio = bootstrap_sums(cases, lambda sums: sums[0] / sums[1], "times")
        ratios[name, language] = ratio
        row[language] = f"{ratio.value:.1f} ({ratio.low:.1f} to {ratio.high:.1f})"
    rows.append(row)
figures.table(
    rows, caption="The same six articles: tokens, as multiples of English (95 % intervals)"
)

# %% [markdown]
# **What to notice.** A vocabulary is a price list. With GPT-2's, a reader of Hindi pays many times for the same
# sentence: in money, in waiting time, and in room, since a context of 1,024 tokens holds so much less. A vocabulary
# that has seen more languages makes it cheaper, not equal (Petrov et al. 2023, arXiv 2305.15425, measure it for many
# languages and models). prisma-lm's vocabulary has seen no English but the shop's: for the English articles alone it
# takes about three times as many tokens as GPT-2's.

# %% [markdown]
# **Glitches.** A token that is in the vocabulary, but hardly ever in the text that the *model* learned from, has a
# vector that nothing has trained. In GPT-2's vocabulary a user name of a forum is a token of its own, and models with
# this vocabulary are known to answer it with nonsense (Land and Bartolo 2024, arXiv 2405.05417, search for such
# tokens in many models). Does prisma-lm have some? We count its own training text, then let it copy five tokens.

# %% tags=["topic:tokenisation"]
print("GPT-2:", english.encode(" SolidGoldMagikarp"), "is one token")
tokenizer, vocabulary = chat.tokenizer, len(chat.tokenizer)
seen = Counter()
texts = text.mixture(unit.seed, text.SKILLS)
for _ in range(paced(1500, 300)):
    seen.update(tokenizer(next(texts).text)["input_ids"])
markers = set(tokenizer.all_special_ids)
rare = [token for token in range(vocabulary) if token not in seen]
rare = sorted(set(rare) - markers)
names = tokenizer.convert_ids_to_tokens(range(vocabulary))
frequent = [token for token in range(vocabulary) if seen[token] > 50]
common = [token for token in frequent if names[token] in text.LEXICON]
norms = chat.model.get_input_embeddings().weight.detach().norm(dim=-1)  # (vocabulary,)
print(f"{len(rare)} of {vocabulary} tokens are never met in {sum(seen.values()):,}")
print(
    f"mean length of their vectors: {norms[rare].mean():.2f}; of {len(common)} common words:",
    end=" ",
)
print(f"{norms[common].mean():.2f}")

# %% tags=["topic:tokenisation"]
space, line = tokenizer(" ")["input_ids"], tokenizer("\n")["input_ids"]
copied = {}
for name, pool in (("common words", common), ("tokens never met", rare)):
    rng = random.Random(unit.seed)
    hits = []
    for _ in range(paced(60, 20)):
        row = []
        for token in rng.sample(pool, 5):
            row += [token, *space]
        prompt = row[:-1] + line
        guesses = decoding.next_tokens(chat.model, prompt + row)[len(prompt) - 1 : -1]
        same = matches(guesses[::2], row[::2])  # without the spaces between them
        hits.append(sum(same) / len(same))
    copied[name] = bootstrap(hits, "%")
    print(f"{name}, copied: {copied[name]}")

# %% [markdown]
# **What to notice.** Compare the two shares and their intervals. More than half of this vocabulary is single bytes
# and parts of words that the shop's text never needs. They are no use, and they are a door: what was never trained
# can do anything. That is why a vocabulary is learned from the text that the model will read.

# %%
quiz("7.3.price_of_a_language")

# %% [markdown]
# ## 3. From scores to a text
#
# For each token of its vocabulary the model gives a score, the *logit*; a softmax turns the scores into
# probabilities. Then somebody has to choose. The choice is not part of the model, and it changes everything.

# %% tags=["topic:decoding"]
opening = "Our small red cube is 12 euros. "
prompt = tokenizer(opening)["input_ids"]
with torch.inference_mode():
    given = torch.tensor([prompt], device=chat.model.device)
    logits = chat.model(given).logits[0, -1:].cpu()  # (1, vocabulary)
chances = logits.softmax(-1)
best = chances[0].topk(8)
for chance, token in zip(best.values, best.indices, strict=True):
    bar = "█" * round(60 * chance.item())
    print(f"{tokenizer.decode(token):>8} {chance:5.1%} {bar}")

# %% [markdown]
# ### Follow another token
#
# A language model gives a probability to every token at every step; decoding picks one. Below stand the first four at
# each step. Click one that the model did *not* take, and the text goes on from there. Guess first: after another
# digit, will the model come back to the number that it meant?

# %% tags=["topic:decoding"]
bought = "Ben buys 7 cubes for 13 euros each and 4 stars for 21 euros each."
messages = [
    {"role": "system", "content": text.SYSTEM["direct"]},
    {"role": "user", "content": f"{bought} What is the total?"},
]
explorer.probabilities(chat, chat.prompt(messages))

# %% [markdown]
# **What to notice.** At words and spaces the model is sure, at the digits of a sum that it must say at once it is
# not: there its first choice is one of several. It reads its own text like anybody's: once another digit stands
# there, it goes on from that. The text is all that it has of what it meant.

# %% [markdown]
# **Greedy** decoding always takes the likeliest token. It is right for tasks with one answer. When does it go wrong?
# Continue sentences of the shop, and three random words, for 80 tokens each. A text *loops* if eight tokens in a row
# come twice. The third way is greedy with a **repetition penalty** (arXiv 1909.05858): the logits of tokens that
# stand there already are lowered, divided by 1.5 if positive and multiplied if negative.

# %% tags=["topic:decoding"]
prisma = shop.make_shop(unit.seed)
products = list(prisma.products.values())[: paced(24, 8)]
openings = [f"Our {product.name} is {product.price} euros. " for product in products]
rng = random.Random(unit.seed)
nonsense = [" ".join(rng.sample(text.WORDS, 3)) for _ in openings]
ways = {
    "greedy": {"do_sample": False},
    "drawn": {"do_sample": True, "top_k": 0},
    "greedy, penalty 1.5": {"do_sample": False, "repetition_penalty": 1.5},
}
rows = []
for name, settings in ways.items():
    row = {"way": name}
    for kind, prompts in (("sentences", openings), ("random words", nonsense)):
        written = decoding.generate(chat, prompts, paced(80, 40), unit.seed, **settings)
        looped = [decoding.loops(tokens) for tokens in written]
        row[f"{kind}: loops"] = percent(share(looped))
        row[f"after {kind}"] = tokenizer.decode(written[0])[:40].strip() + " ..."
    rows.append(row)
figures.table(rows, caption=f"{len(openings)} openings each")

# %% [markdown]
# **What to notice.** On text like its training it does not loop. Far from it, it does what it learned for such
# rows: it copies, and copying one's own words has no end. Drawing hardly helps, since the copy is nearly certain.
# The penalty helps by force: we come back to its price. (Holtzman et al. 2020, arXiv 1904.09751, show such loops in
# GPT-2 under greedy decoding and beam search.)

# %% [markdown]
# ## 4. Beam search
#
# Greedy decoding can take a likely word that leads to an unlikely sentence. **Beam search** keeps several texts under
# way, the *beams*, extends all of them and keeps the best again. The score of a finished text is its log-probability
# divided by its length (log-probabilities here use the natural logarithm; the unit is the nat).

# %% tags=["topic:decoding"]
figures.source(decoding.extended, decoding.beam_search)

# %% tags=["topic:decoding"]
sums = reasoning.sums(paced(32, 8), seed=unit.seed)


def question(mode: str, problem: text.Sum) -> str:
    """The prompt for a sum: mode "direct" asks for the answer at once, "steps" for worked steps."""
    system = {"role": "system", "content": text.SYSTEM[mode]}
    return chat.prompt([system, {"role": "user", "content": problem.question}])


worst = 0.0
for written in (opening, question("direct", sums[0]), question("steps", sums[1])):
    ids = tokenizer(written)["input_ids"]
    mine = decoding.beam_search(chat.model, ids, beams=4, steps=24)
    sequences, scores = decoding.library_beams(chat, written, beams=4, steps=24)
    texts = [decoding.until(list(one.tokens), tokenizer.eos_token_id) for one in mine]
    print("the same four texts as generate():", texts == sequences)
    for one, score in zip(mine, scores, strict=True):
        worst = max(worst, abs(one.score - score))
print(f"largest difference of a score: {worst:.0e} nats")

# %% [markdown]
# Does it find better answers? Sums that prisma-lm has to answer *at once* are beyond it. Guess: what do four beams
# change?

# %% tags=["topic:decoding"]
truth = [problem.answer for problem in sums]
asked = [question("direct", problem) for problem in sums]
likely, rows = {}, []
for beams in (1, 4):
    written = decoding.generate(chat, asked, 12, num_beams=beams, do_sample=False)
    ends = [[*tokens, tokenizer.eos_token_id] for tokens in written]
    ids = [tokenizer(prompt)["input_ids"] for prompt in asked]
    pairs = zip(ids, ends, strict=True)
    likely[beams] = [decoding.log_prob(chat.model, start, end) for start, end in pairs]
    answers = [reasoning.last_number(tokenizer.decode(tokens)) for tokens in written]
    right = percent(share(matches(answers, truth)))
    mean = bootstrap(likely[beams], "nats")
    rows.append({"beams": beams, "log-probability of the answer": str(mean), "right": right})
figures.table(rows, caption=f"{len(sums)} sums, answered at once")

# %% tags=["topic:decoding"]
gain = [four - greedy for four, greedy in zip(likely[4], likely[1], strict=True)]
better = sum(change > 1e-4 for change in gain)
print("four beams minus greedy, on the same sums:", bootstrap(gain, "nats"))
print(f"a likelier answer for {better} of {len(gain)} sums")

# %% [markdown]
# **What to notice.** Beam search does what it promises, it finds *likelier* texts, and on these sums the likelier
# answers are as wrong. A search for the model's favourite can't know more than the model. It pays where the likeliest
# text is what you want: translation and speech recognition (Whisper uses it).

# %% [markdown]
# ## 5. Draw, but not from the tail
#
# For open texts one draws tokens by their probabilities. **Temperature** $T$ divides the logits first: below 1 the
# likely gets likelier, above 1 everything gets more alike. But a vocabulary has a long *tail* of tokens that fit
# nowhere. Each is unlikely, all together they are not, and one of them ruins a sentence. Three ways to cut it:
#
# - **top-k**: keep the $k$ likeliest tokens, however the probabilities are spread;
# - **nucleus** or **top-p** (arXiv 1904.09751): keep the smallest set of likeliest tokens that together have the
#   probability $p$ or more;
# - **min-p** (Nguyen et al. 2024, arXiv 2407.01082): keep tokens with at least a share of the *likeliest* one's
#   probability, so that the cut is strict when the model is sure and mild when it is not.

# %% tags=["topic:decoding"]
figures.source(decoding.temperature, decoding.top_k, decoding.min_p)

# %% [markdown]
# ### Exercise: The nucleus (medium, about 15 minutes)
#
# Cut off the tail of a distribution, and keep the rest in proportion. `hint("7.3.nucleus")` helps. Until your
# function passes, the notebook goes on with the course's own, and says so.


# %%
def nucleus(logits: Tensor, p: float) -> Tensor:
    """The probabilities (vocabulary,) of top-p sampling (Holtzman et al., arXiv 1904.09751).

    Of the tokens, the likeliest first, keep as few as have a probability of at least p together.
    The others get 0. What is kept is divided by its sum, so that it adds up to 1 again.
    `logits` are (vocabulary,), and 0 < p < 1.
    """
    # Your code here
    raise NotImplementedError


# %%
nucleus = check("7.3.nucleus", nucleus)

# %% tags=["topic:decoding"]
torch.manual_seed(unit.seed)
steps = torch.cat([logits, 3 * torch.randn(8, vocabulary)])  # (9, vocabulary)
library = TopPLogitsWarper(0.9)(torch.zeros(9, 1, dtype=torch.long), steps.clone()).softmax(-1)
ours = torch.stack([nucleus(row, 0.9) for row in steps])  # (9, vocabulary)
difference = (ours - library).abs().max()
sizes = (ours > 0).sum(-1).tolist()
print(f"{whose(nucleus)} against transformers: largest difference {difference:.1e}")
print("tokens in the nucleus of a real step, and of eight random ones:", *sizes)

# %% [markdown]
# The three cuts and the repetition penalty, by hand, against `transformers`' own processors, on the logits of a real
# step and on random ones:

# %% tags=["topic:decoding"]
torch.manual_seed(unit.seed)
tests = torch.cat([logits, 3 * torch.randn(8, vocabulary)])  # (9, vocabulary)
ids = torch.randint(0, vocabulary, (9, 12))
penalised = partial(decoding.repetition_penalty, ids=ids, penalty=1.3)
pairs = {
    "top-k, 10": (partial(decoding.top_k, k=10), TopKLogitsWarper(10)),
    "nucleus, 0.9": (partial(decoding.nucleus, p=0.9), TopPLogitsWarper(0.9)),
    "min-p, 0.1": (partial(decoding.min_p, share=0.1), MinPLogitsWarper(0.1)),
    "repetition penalty, 1.3": (penalised, RepetitionPenalty(1.3)),
}
for name, (by_hand, theirs) in pairs.items():
    mine = by_hand(tests).softmax(-1)
    library = theirs(ids, tests.clone()).softmax(-1)
    kept = (mine[0] > 0).sum()
    off = inside.largest_difference(mine, library)
    print(f"{name:24} keeps {kept:4} tokens of the real step; probabilities differ by {off:.0e}")

# %% [markdown]
# ## 6. A common claim: a higher temperature makes a model more creative
#
# More *different*, certainly. But is it still good? Take the opening above: what may come next is open, and yet we
# can check it, since the shop's catalogue knows thirteen forms of sentences. **Quality** is the share of drawn
# sentences that have one of these forms; **diversity** is the share of *different* sentences among sixteen. One line
# changes the temperature alone. The three others stay at temperature 2, where alone nearly everything breaks, and cut
# the tail more or less. Where do you want to be in this figure, and who gets there?

# %% tags=["topic:decoding"]
GROUP = 16
methods = {
    "temperature": (decoding.temperature, "t", (0.3, 0.7, 1.0, 1.4, 2.0)),
    "top-k at T = 2": (decoding.top_k, "k", (3, 10, 30)),
    "nucleus at T = 2": (decoding.nucleus, "p", (0.5, 0.7, 0.9)),
    "min-p at T = 2": (decoding.min_p, "share", (0.2, 0.1, 0.05)),
}
hot = partial(decoding.temperature, t=2.0)
drawn = {}
for name, (change, setting, values) in figures.progress(methods.items(), "Drawing"):
    for value in values:
        cut = partial(change, **{setting: value})
        filters = [cut] if name == "temperature" else [hot, cut]
        rows = decoding.sample(chat.model, prompt, paced(96, 32), 30, filters, seed=unit.seed)
        texts = [tokenizer.decode(row) for row in rows]
        drawn[name, value] = [decoding.first_sentence(one) for one in texts]


# %% tags=["topic:decoding"]
def different(sentences: list[str]) -> list[float]:
    """For each group of sixteen the share of different sentences in it (%)."""
    starts = range(0, len(sentences), GROUP)
    sizes = [len(set(sentences[start : start + GROUP])) for start in starts]
    return [100 * size / GROUP for size in sizes]


rows, points = [], {}
for (name, value), sentences in drawn.items():
    fits = [decoding.is_sentence(sentence) for sentence in sentences]
    quality, diversity = share(fits), bootstrap(different(sentences), "")
    points[name, value] = quality, diversity
    good = {sentence for sentence, fit in zip(sentences, fits, strict=True) if fit}
    alike = bootstrap(decoding.self_bleu(sentences[:32]), "")
    words = [sentence.split() for sentence in sentences]
    row = {"method": name, "setting": f"{value:g}", "fit (%)": percent(quality)}
    row["different of 16 (%)"] = (
        f"{diversity.value:.0f} ({diversity.low:.0f} to {diversity.high:.0f})"
    )
    row["distinct-2"] = decoding.distinct(words, 2)
    row["self-BLEU"] = f"{alike.value:.0f} ({alike.low:.0f} to {alike.high:.0f})"
    row["different and fit"] = len(good)
    rows.append(row)
figures.table(rows, caption=f"{len(sentences)} sentences each, with 95 % intervals")

# %% tags=["topic:decoding"]
fig, ax = figures.figure(width=8, height=4.2)
for (name, (_, _, values)), marker in zip(methods.items(), "os^D", strict=True):
    quality = [points[name, value][0] for value in values]
    diversity = [points[name, value][1] for value in values]
    heights, up_down = error_bars(quality)
    places, sideways = error_bars(diversity)
    ax.errorbar(places, heights, up_down, sideways, marker=marker, capsize=2, label=name)
    for value, x, y in zip(values, places, heights, strict=True):
        ax.annotate(f"{value:g}", (x, y), textcoords="offset points", xytext=(5, 5), fontsize=9)
ax.set(xlabel="diversity: different sentences of sixteen (%)", ylabel="quality: share that fits")
ax.legend(loc="lower left")
told = {f"{name} {value:g}": f"{fit.value:.0%} fit" for (name, value), (fit, _) in points.items()}
figures.show(fig, alt=f"Quality against diversity for four methods. {figures.told(told)}.")

# %% [markdown]
# **Verdict: different, yes; better, no.** Along the line of temperature quality falls to the right, from 1 on beyond
# doubt (before that the bars meet). Up and to the right is where you want to be, and what gets there is a high
# temperature *with the tail cut off*: compare min-p and nucleus with the temperature that is as diverse, and believe
# a difference only where the bars do not meet. Nucleus and min-p both look at the shape of the distribution; top-k
# keeps $k$ tokens even where only one is right. The numbers beside the points are the settings. (The paper on min-p
# claims more than that for larger models; Schaeffer et al. 2025, arXiv 2506.13681, went through its evidence again
# and doubt it. On our small grammar the two can be compared above.) *self-BLEU* (arXiv 1802.01886) and *distinct-2*
# (arXiv 1510.03055) are two other measures of diversity: how much a sentence shares with the others (high means
# alike), and the share of different pairs of words. They rank the settings nearly alike.
#
# And a task with one right answer? Worked sums, drawn:

# %% tags=["topic:decoding"]
asked = [question("steps", problem) for problem in sums]
plain, draw = {"do_sample": False}, {"do_sample": True, "top_k": 0}
settings = {
    "greedy": plain,
    "T = 1": draw,
    "T = 3": draw | {"temperature": 3.0},
    "T = 3, min-p 0.1": draw | {"temperature": 3.0, "min_p": 0.1},
    "greedy, penalty 1.5": plain | {"repetition_penalty": 1.5},
    "greedy, penalty 2": plain | {"repetition_penalty": 2.0},
}
rows = []
for name, options in figures.progress(settings.items(), "Answering"):
    written = decoding.generate(chat, asked, 48, unit.seed, **options)
    replies = [tokenizer.decode(tokens) for tokens in written]
    answers = [reasoning.last_number(reply) for reply in replies]
    right = percent(share(matches(answers, truth)))
    rows.append({"way": name, "right": right, "the first reply": replies[0]})
figures.table(rows, caption=f"{len(sums)} sums with worked steps")

# %% [markdown]
# **What to notice.** Where one answer is right, drawing has nothing to win: the likeliest digit is the best guess.
# How much it loses depends on how sure the model is; where intervals overlap, so few sums show no difference. And
# here is the price of the repetition penalty, which looked so good above: a sum *has* to repeat its numbers. Look at
# the replies in the last row.

# %%
quiz("7.3.temperature_zero")

# %% [markdown]
# ## 7. Do examples in the prompt help?
#
# GPT-3 (Brown et al. 2020, arXiv 2005.14165) learned tasks from a few examples in its prompt, without a step of
# training: *few-shot* or **in-context learning**. Does prisma-lm? First a task that it knows when it is asked in its
# own words: sums. We leave out its system message and show worked examples instead. Guess before you run.

# %% tags=["topic:few-shot"]
fresh = reasoning.sums(paced(24, 8), seed=unit.seed + 1)
examples = reasoning.sums(100, seed=unit.seed + 2)


def conversation(place: int, shots: int, system: str = "") -> str:
    """The prompt for sum number `place` after `shots` worked examples, each a turn of two."""
    messages = [{"role": "system", "content": system}] if system else []
    for example in examples[4 * place : 4 * place + shots]:
        reply = f"{example.steps}Answer: {example.answer}"
        messages.append({"role": "user", "content": example.question})
        messages.append({"role": "assistant", "content": reply})
    return chat.prompt([*messages, {"role": "user", "content": fresh[place].question}])


# %% tags=["topic:few-shot"]
prompts_of_sums = {
    "its own words: Think step by step.": (0, text.SYSTEM["steps"]),
    "no word, no example": (0, ""),
    "one example": (1, ""),
    "four examples": (4, ""),
}
truth = [problem.answer for problem in fresh]
rows = []
for name, (shots, system) in prompts_of_sums.items():
    prompts = [conversation(place, shots, system) for place in range(len(fresh))]
    replies = chat.complete_many(prompts, max_new_tokens=48)
    answers = [reasoning.last_number(reply) for reply in replies]
    row = {"prompt": name, "right": percent(share(matches(answers, truth)))}
    rows.append(row | {"the first reply": replies[0][:50]})
figures.table(rows, caption=f"{len(fresh)} sums")

# %% [markdown]
# Now a task that nobody ever asked it. Words are followed by a label: "hello" behind a colour, "thanks" behind a
# shape. No text says so; the examples do. Min et al. (2022, arXiv 2202.12837) found that larger models often do as
# well with *random* labels: the examples only show which labels there are. So that is our control. And the word in
# question can be one of the examples (then copying is enough), or a new one.


# %% tags=["topic:few-shot"]
def labelled(seed: int, shots: int, random_labels: bool, shown: bool) -> tuple[str, str]:
    """`shots` words with labels and one more word, which was `shown` or is new; and its label."""
    rng = random.Random(seed)
    items = [(word, "hello") for word in shop.COLOURS] + [(word, "thanks") for word in shop.SHAPES]
    rng.shuffle(items)
    first, (word, label) = items[:shots], items[shots]
    if shown:
        word, label = rng.choice(first)
    if random_labels:
        first = [(known, rng.choice(("hello", "thanks"))) for known, _ in first]
    lines = "".join(f"{known}: {said}\n" for known, said in first)
    return f"{lines}{word}:", label


cases = {f"{shots} true": (shots, False, False) for shots in (0, 1, 4, 8, 12)}
cases |= {"8 random": (8, True, False), "12 random": (12, True, False)}
cases |= {"4 true, word shown": (4, False, True), "8 true, word shown": (8, False, True)}

# %% tags=["topic:few-shot"]
scores, rows = {}, []
for name, (shots, random_labels, shown) in figures.progress(cases.items(), "Asking"):
    made = [labelled(seed, shots, random_labels, shown) for seed in range(paced(120, 40))]
    prompts, truth = zip(*made, strict=True)
    replies = [reply.strip() for reply in chat.complete_many(prompts, max_new_tokens=2)]
    scores[name] = share(matches(replies, truth))
    a_label = share([reply in ("hello", "thanks") for reply in replies])
    row = {
        "examples": name,
        "right": percent(scores[name]),
        "answers with a label": percent(a_label),
    }
    rows.append(row)
figures.table(
    rows, caption=f"{len(prompts)} prompts each; chance is 50 % for one who knows the labels"
)

# %% tags=["topic:few-shot"]
fig, ax = figures.figure(height=3.2)
values, ends = error_bars(scores.values())
kinds = ["orange" if "random" in name else "blue" for name in scores]
ax.barh(list(scores), values, xerr=ends, capsize=3, color=[figures.PALETTE[k] for k in kinds])
ax.axvline(0.5, color=figures.GREY, linestyle="--")
ax.invert_yaxis()
ax.set(xlabel="share right (dashed: a guess between the two labels)", xlim=(0, 1.02))
told = {name: f"{measure.value:.0%}" for name, measure in scores.items()}
figures.show(fig, alt=f"Share of right labels. {figures.told(told)}.")

# %% [markdown]
# **What to notice.** Three different things are called in-context learning, and a control tells them apart. *The
# format*: without an example no answer is a label. *Copying*: a word that was shown is answered almost always, which
# is the induction heads of the core notebook at work. *A rule*: for a new word true labels beat random ones where the
# orange bar ends below the blue one's interval; words of a kind have similar vectors, and attention follows them. And
# no example teaches prisma-lm to calculate on demand: its skills hang on the words that they were trained with. In
# Min et al.'s larger models random labels cost little. That is no law either: it depends on model and task.

# %% [markdown]
# ## 8. Three families, and what came before
#
# All of this unit's models are transformers, and yet there are three kinds. What differs is who may look at whom:

# %% tags=["topic:architecture-families"]
read, write = 6, 5
everyone = torch.ones(read, read)
causal = torch.ones(write, write).tril()
both = torch.zeros(read + write, read + write)
both[:read, :read] = 1  # the encoder's tokens see each other
both[read:, :read] = 1  # cross-attention: what is written sees all that was read
both[read:, read:] = causal
panels = {
    "encoder\nMiniLM, BERT, CLIP's vision": everyone,
    "decoder\nprisma-lm, GPT, Llama": torch.ones(read + write, read + write).tril(),
    "encoder-decoder\nWhisper, T5": both,
}
fig, axes = figures.figure(columns=3, width=10, height=3.6)
for ax, (name, mask) in zip(axes, panels.items(), strict=True):
    ax.imshow(mask, cmap="Blues", vmin=0, vmax=1.4)
    ax.set(title=name, xlabel="looks at token", xticks=[], yticks=[])
axes[0].set_ylabel("token")
axes[2].axhline(read - 0.5, color="black", linewidth=1)
axes[2].axvline(read - 0.5, color="black", linewidth=1)
alt = "Who may look at whom. Encoder: all at all. Decoder: only at what came before. "
alt += "Encoder-decoder: what is written looks at all that was read, and at what came before."
figures.show(fig, alt=alt)

# %% [markdown]
# | family | learns by | good for | in this course |
# | --- | --- | --- | --- |
# | encoder (BERT, arXiv 1810.04805) | filling gaps, comparing texts | search, classification | MiniLM, CLIP's towers |
# | decoder (GPT-2, Llama) | the next token | writing, chat, agents | prisma-lm, Qwen |
# | encoder-decoder (T5, arXiv 1910.10683) | writing one text from another | translation, speech | Whisper |
#
# Before them came **recurrent networks**: one state, handed from token to token. What the last token can know of the
# first has to pass through every step between, and so does the gradient that should teach it. How much of it arrives?
# Three *untrained* layers of the same width. We measure the gradient of the last output for the first input, relative
# to a text of two tokens.


# %% tags=["topic:architecture-families"]
class OneAttention(nn.Module):
    """One layer of attention, called as a recurrent layer is."""

    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.MultiheadAttention(width, num_heads=4, batch_first=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.layer(x, x, x, need_weights=False)


def signal(layer: nn.Module, length: int, width: int) -> float:
    """How strongly the last output answers to the first input: the norm of its gradient."""
    x = torch.randn(8, length, width, dtype=torch.float64, requires_grad=True)
    output, _ = layer(x)
    output[:, -1].sum().backward()
    return x.grad[:, 0].norm().item()


# %% tags=["topic:architecture-families"]
width, lengths = 64, [2, 4, 8, 16, 32, 64, 128]
makers = {
    "RNN": partial(nn.RNN, width, width, batch_first=True),
    "LSTM": partial(nn.LSTM, width, width, batch_first=True),
    "attention": partial(OneAttention, width),
}
arrives = {name: [] for name in makers}  # a row of signals for each seed
for name, make in makers.items():
    for seed in range(5):
        torch.manual_seed(seed)
        layer = make().double()
        strengths = torch.tensor([signal(layer, length, width) for length in lengths])
        arrives[name].append(strengths / strengths[0])

# %% tags=["topic:architecture-families"]
fig, ax = figures.figure(height=3.4)
for (name, rows), marker in zip(arrives.items(), "os^", strict=True):
    found = torch.stack(rows)  # (seeds, lengths)
    middle = found.median(0).values
    [line] = ax.plot(lengths, middle, marker=marker, label=name)
    ax.fill_between(lengths, found.amin(0), found.amax(0), color=line.get_color(), alpha=0.2)
    print(f"{name:>9}: after {lengths[-1]} tokens {middle[-1]:.0e} of the signal arrives")
ax.set_xscale("log", base=2)
ax.set_yscale("log")
ax.set(xlabel="tokens", ylabel="signal of the first (2 tokens = 1)", ylim=(1e-48, 100))
ax.legend()
figures.show(fig, alt="The signal falls exponentially for RNN and LSTM, and slowly for attention.")

# %% [markdown]
# **What to notice.** In a recurrent layer the signal is multiplied at each step, so it vanishes *exponentially*. The
# **LSTM** (Hochreiter and Schmidhuber 1997) adds a memory with gates that can learn to stay open; untrained, its
# gates are half open, and half of a half is soon nothing. Attention reaches every token in one step: its signal falls
# only as the weight is shared among more tokens. That, and that all tokens can be trained at once, is why it took
# over. Its price is a cache that grows with the text. The lab on other architectures asks who can have both.

# %% [markdown]
# ## What you take with you
# - BPE is "join the most frequent pair, again"; the tie-breaking rule decides whether two vocabularies agree.
# - Tokens are a price list: look at numbers, rare words and every language that your readers write.
# - One right answer: greedy. A transcript or a translation: beams. Open text: draw, and cut the tail.
# - Quality without diversity is half a measurement, and so is diversity without quality.
# - Examples in a prompt need a control: random labels, and a word that was not shown.
#
# **Papers.** Sennrich et al. 2016 (arXiv 1508.07909), Holtzman et al. 2020 (arXiv 1904.09751), Petrov et al. 2023
# (arXiv 2305.15425), Min et al. 2022 (arXiv 2202.12837).
#
# **Try it.** Train 150 merges on German sentences of your own: which pair comes first now? Put `top_k` *before* the
# temperature in section 6: does the order matter? Use other labels in section 7, such as "red" for a shape: can an
# example win against what the model has learned?
