# %% [markdown] tags=["badge"]
# # 7.5 Lab: is the reply any good?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.5_lab_evaluation.ipynb)

# %% [markdown]
# **After this notebook you can**
# - compute perplexity from token probabilities, and say what it compares and what it does not;
# - choose between exact match, F1, BLEU, ROUGE and BERTScore, because you know which faults each of them sees;
# - count invented facts, and rate tone by rules that somebody else can check;
# - run a blind comparison and a red team, with intervals;
# - show over-fitting and forgetting, and undo the second.
#
# **Time:** about 35 minutes to read and run; the cells take about two minutes on two free CPU cores.
#
# **Downloads:** nothing. This lab trains, so it takes `prisma-lm` at every tier. It knows Prisma and nothing else.
# The unit's core notebook, `7.5_finetuning`, explains the data and QLoRA.

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

unit = open_unit("7.5", tier="bundled")

# %%
import dataclasses
import random
import re
from collections import defaultdict

from course_utils import compat, figures
from course_utils.finetuning import four_bit, qlora, quality, scoring, sft
from course_utils.measures import Measure, error_bars, percent, share
from course_utils.models import bundled
from course_utils.prisma import conversations, lm, text
from course_utils.settings import paced
from course_utils.workshop import evaluate

talks = conversations.by_split(conversations.make_conversations())
test = talks["test"][: paced(60)]
chat = four_bit.load(unit)

# %% [markdown]
# ## 1. Two models to compare
#
# We need a model before and after fine-tuning. To leave something to find, we train it for less than the core
# notebook does: on 800 conversations, once. First we keep what the untrained model says, and how likely it finds the
# replies that we want.

# %%
recipe = dataclasses.replace(qlora.RECIPES["bundled"], conversations=800, epochs=1)
before = scoring.replies(chat, test)
before_chances = quality.reply_log_probs(chat, test)

trainer = sft.make_trainer(chat, talks, recipe, unit.hardware, unit.folder / "evaluated")
sft.train(trainer)
model = trainer.model.eval()
trained = dataclasses.replace(chat, model=model)
after = scoring.replies(trained, test)
after_chances = quality.reply_log_probs(trained, test)

first = test[0]
records = "; ".join(first.facts)
print(f"customer: {first.message}\nrecords:  {records}\n")
for name, reply in (("wanted:", first.reply), ("before:", before[0]), ("after:", after[0])):
    print(f"{name:<9} {reply}")

# %% [markdown]
# ## 2. Perplexity: how surprised is the model by the right reply?
#
# The model gives each next token a probability. Take the reply that we *want*, and read off the probability of each of
# its tokens. The mean of the negative natural logarithms is the loss $L$, in *nats*; perplexity is $e^L$. At 8 the
# model is as unsure as if it had to guess among 8 equally likely tokens each time. What do you expect before and after?

# %% tags=["topic:eval-quantitative"]
rows = []
for name, chances in (("before", before_chances), ("after", after_chances)):
    tokens, total = 0, 0.0
    for log_probs in chances:  # one reply: (tokens,)
        tokens += len(log_probs)
        total += log_probs.sum().item()
    row = {"model": name, "tokens": tokens, "loss (nats a token)": -total / tokens}
    perplexity = quality.perplexity(chances)
    row["perplexity"] = quality.span(perplexity, 2)
    rows.append(row)
figures.table(
    rows,
    caption=f"The {len(test)} wanted replies, end marks included; intervals over replies",
    digits=3,
)

# %%
encoded = chat.tokenizer(first.reply, add_special_tokens=False)
words = [chat.tokenizer.decode([number]) for number in encoded["input_ids"]]
surprise = -after_chances[0][:-1]  # (tokens,); the last place is the end mark
costly = surprise.argsort(descending=True)[:8].tolist()
rows = []
for place in sorted(costly):
    loss = surprise[place].item()
    rows.append({"place": place, "token": repr(words[place]), "loss (nats)": loss})
figures.table(
    rows,
    caption=f"After training: the 8 tokens that cost most, of {len(words)} in the first reply",
)

# %% [markdown]
# **What to notice.** Training takes nearly all of the surprise away. What is left sits in few tokens, and the mean
# hides them: the spaces and most of the words in between are certain, and one wrong word in a fact costs a
# customer. Which of the eight are facts? That is why perplexity comes first, and never alone.
#
# Perplexity counts *per token*. Two models with different tokenizers cut the same reply into different numbers of
# tokens, so their perplexities can't be compared. Nor does it say what the model writes by itself: it saw the right
# beginning each time.

# %% [markdown]
# ## 3. How alike are two texts?
#
# Now let the model write, and compare with the wanted reply. The metrics differ in what they compare:
#
# | metric | compares | source |
# | --- | --- | --- |
# | exact match | the whole text | |
# | token F1 | the words, in any order | SQuAD, arXiv 1606.05250 |
# | BLEU | runs of one to four words; too short costs | Papineni et al. 2002, by `sacrebleu` |
# | ROUGE-L | the longest common run of words, gaps allowed | Lin 2004, by `rouge-score` |
# | BERTScore | each token's vector with its most similar one | arXiv 1904.09675, by hand below |
#
# BERTScore is usually computed with `roberta-large`, which has to be downloaded. We take the hidden states of
# `prisma-lm` instead: it knows our words, and it looks only to the left. So our numbers compare with each other, not
# with published ones.


# %% tags=["topic:eval-quantitative"]
def greedy_match(wanted, written):
    """BERTScore (arXiv 1904.09675, equation 1) of two texts' token vectors, (m, d) and (n, d)."""
    wanted = wanted / wanted.norm(dim=-1, keepdim=True)
    written = written / written.norm(dim=-1, keepdim=True)
    alike = written @ wanted.T  # (n, m): each written token with each wanted one
    precision = alike.amax(1).mean()
    recall = alike.amax(0).mean()
    return 2 * precision * recall / (precision + recall)


embedder = unit.load("embedding")
wanted = quality.token_vectors(embedder, first.reply)  # (m, d)
written = quality.token_vectors(embedder, after[0])  # (n, d)
match = greedy_match(wanted, written)
print(f"model and wanted reply: {match:.3f}")
replies = [talk.reply for talk in test]
strangers = quality.strangers_score(embedder, replies)
print(f"two replies to different customers: {strangers:.3f}")

# %% [markdown]
# Two replies that have nothing to do with each other get far more than 0: all vectors of a model point into similar
# directions. The paper therefore rescales, so that strangers get 0 (section 5). So do we; then a score can be
# negative.

# %% tags=["topic:eval-quantitative"]
scores = {
    "before": quality.metrics(test, before, embedder),
    "after": quality.metrics(test, after, embedder),
}
rows = []
for metric in scores["after"]:
    row = {"metric": metric}
    for name, measures in scores.items():
        row[name] = quality.span(measures[metric])
    rows.append(row)
figures.table(rows, caption=f"Points of 100, 95 % intervals by bootstrap over {len(test)} replies")

# %% [markdown]
# Which of these numbers would you put on a slide? Few replies are right as a whole, and the other metrics are high.
# Look first at what they see. We take the *wanted* replies and damage each in one way, so that we know the truth: a
# wrong digit makes a reply false, and swapped sentences leave it true.

# %% tags=["topic:eval-quantitative"]
numbered = [talk for talk in test if re.search(r"\d", talk.reply)][:30]
faults = ("one wrong digit", "a sentence missing", "two sentences swapped", "capitals lost")
rng, rows = random.Random(unit.seed), []
for fault in faults:
    spoilt = [quality.damaged(talk, fault, rng) for talk in numbered]
    measures = quality.metrics(numbered, spoilt, embedder)
    row = {"fault": fault}
    for metric, measure in measures.items():
        row[metric] = quality.span(measure)
    rows.append(row)
figures.table(
    rows, caption=f"What each metric makes of one fault in each of {len(numbered)} right replies"
)

# %% [markdown]
# **What to notice.** Compare the first row with the third. A reply with a wrong digit is false; with two sentences
# swapped it is still true. ROUGE-L and BERTScore prefer the false one, token F1 does not see order at all, and BLEU
# hardly tells the two apart. Capitals cost nothing in ROUGE-L, because `rouge-score` makes everything lower case
# first: read what a library does before you quote it. Exact match punishes all faults alike. No metric here knows
# what is *true*; they know what is *alike*. They are good for watching a trend, and bad as a promise to a customer.

# %% [markdown]
# ## 4. Facts and tone, by rules
#
# What can a program check without the wanted reply? **Facts**: every number, toy, status and name in a reply should
# stand in the records or in the message. What stands in neither was invented: a *hallucination*. Who checks the
# checker? The wanted replies must pass, and planted faults must be found.

# %% tags=["topic:overfit-forgetting"]
wanted = [talk.reply for talk in test]
rng = random.Random(unit.seed)
planted = [quality.damaged(talk, "one wrong digit", rng) for talk in numbered]
for name, asked, replies in (
    ("wanted", test, wanted),
    ("wrong digit planted", numbered, planted),
    ("before", test, before),
    ("after", test, after),
):
    rate = quality.hallucination_rate(asked, replies)
    print(f"{name:>20}: {rate}")

invented = []
for talk, reply in zip(test, after, strict=True):
    nowhere = quality.unsupported(talk, reply)
    if nowhere:
        invented.append((talk, reply, nowhere))
for talk, reply, nowhere in invented[:2]:
    records = "; ".join(talk.facts)
    print(f"\nrecords: {records}\nwritten: {reply}\nnowhere: {sorted(nowhere)}")

# %% [markdown]
# A reply that says nothing invents nothing, so never read this rate alone: "before" says little, and what it says is
# not for the customer. And the rule sees only what can be looked up. A wrong *next step* is not among it.
#
# **Tone** next. A rubric turns taste into questions with yes or no, and each question should be one that two people
# answer alike. Here a program answers them.

# %% tags=["topic:eval-qualitative"]
rubric = {"before": quality.tone(test, before), "after": quality.tone(test, after)}
rows = []
for rule in quality.TONE:
    row = {"the reply ...": rule}
    for name, kept in rubric.items():
        row[name] = percent(kept[rule])
    rows.append(row)
figures.table(
    rows,
    caption=f"Share of {len(test)} replies that keep each rule of the rubric, with 95 % intervals",
)

# %% [markdown]
# **What to notice.** After training nearly every rule is kept, also by replies that are wrong. The style is there
# before the facts are, and a friendly tone makes a wrong fact more believable. One rule is kept before training
# too: a rule that everybody keeps measures nothing.

# %% [markdown]
# ## 5. Over-fitting, on purpose
#
# Somebody has 20 new conversations and goes on training our model with them alone, again and again. Predict both
# curves before you look: the loss on those 20, and the loss on customers that nobody trained on.

# %% tags=["topic:overfit-forgetting"]
adapter = unit.folder / "adapter"
trained.model.save_pretrained(adapter)
base, _ = lm.load(bundled.verify("prisma-lm"))
copied = compat.load_lora(base, adapter).eval()
for name, weight in copied.named_parameters():
    weight.requires_grad_("lora_" in name)
copied.generation_config = chat.model.generation_config
crammed = dataclasses.replace(chat, model=copied)
few, watched = talks["train"][:20], talks["validation"][:16]
run = quality.memorise(crammed, few, watched, steps=48, rate=2e-3, every=6, seed=unit.seed)
low = min(run.curve, key=lambda row: row["validation"])

# %% tags=["topic:overfit-forgetting"]
fig, ax = figures.figure(height=3.2)
steps = [row["step"] for row in run.curve]
for name, style in (("training", "-"), ("validation", "o--")):
    losses = [row[name] for row in run.curve]
    ax.plot(steps, losses, style, label=name)
colour = figures.PALETTE["vermilion"]
ax.axvline(low["step"], color=colour, linewidth=1, label="lowest validation loss")
ax.set_xlabel("steps of 5 conversations")
ax.set(ylabel="loss on the reply (nats per token)", ylim=(0, None))
ax.legend()
end = run.curve[-1]
figures.show(
    fig,
    alt=f"Training loss falls to {end['training']:.3f}. Validation loss is lowest at step "
    f"{low['step']} with {low['validation']:.2f} and ends at {end['validation']:.2f}.",
)

# %% tags=["topic:overfit-forgetting"]
rows, cram_replies = [], {}
for name, weights in (("lowest validation loss", run.best), ("last step", run.last)):
    copied.load_state_dict(weights, strict=False)
    seen = scoring.replies(crammed, few)
    unseen = scoring.replies(crammed, test)
    cram_replies[name] = unseen
    by_heart = scoring.score(few, seen)["all"]
    for_others = scoring.score(test, unseen)["all"]
    made_up = quality.hallucination_rate(test, unseen)
    row = {"adapter of": name, "the 20, right": str(by_heart)}
    row["new customers, right"] = str(for_others)
    row["invents for new customers"] = str(made_up)
    rows.append(row)
figures.table(rows, caption="Twenty conversations, again and again")

# %% [markdown]
# **What to notice.** The two curves part: the training loss goes to nothing, because these 20 replies are learned by
# heart, while the validation loss goes up and stays above where it began. The vermilion line marks its lowest point;
# early stopping keeps the adapter of that step.
#
# Now the table. Does the lower validation loss belong to the better replies for new customers? It
# need not. The loss punishes a few very sure mistakes most, and exact match counts all mistakes alike; so a model
# can grow too sure of itself and right more often at once. (At step 0 this is the adapter of section 1, and yet it
# does not repeat the number of section 3. There it sat on the 4-bit weights that it was trained on. Here it sits on
# the unquantised ones, which are not the same model.) The wide gap between the first column and the second is the
# over-fitting. Choose a checkpoint by the measure that you care about, with its interval.

# %% [markdown]
# ## 6. Blind comparison
#
# Numbers are not the last word; somebody should read. But who knows which reply is from the new model will like it
# better. So the order of each pair is drawn, the names are hidden, and the answers are revealed at the end. We
# compare the model of section 1 with the one that went on with 20 conversations.

# %% tags=["topic:eval-qualitative"]
systems = {"800 conversations": after, "and then 20 by heart": cram_replies["last step"]}
pairs = quality.ballot(test, systems, unit.seed)
for i, pair in enumerate(pairs[:4]):
    records = "; ".join(pair.talk.facts)
    print(f"--- pair {i}\ncustomer: {pair.talk.message}\nrecords:  {records}")
    print(f"    a) {pair.a}\n    b) {pair.b}")

# %% [markdown]
# Your turn: write your votes for the first pairs into the next cell, one letter each, "a", "b" or "=": `"ab=a"`. As
# long as the text is empty, a program votes. Its rules, in this order: the reply that keeps more of the rubric; then
# the one that invents less; then the one that says more that the records support. It sees neither names nor the
# wanted reply.

# %% tags=["topic:eval-qualitative"]
my_votes = ""

if my_votes:
    print("You voted.")
    votes = list(my_votes)
else:
    print("Nobody voted, so the rules did.")
    votes = [quality.vote_by_rules(pair) for pair in pairs]
rated = pairs[: len(votes)]
winners = quality.reveal(rated, votes)
counts = {name: winners.count(name) for name in (*systems, "tie")}
print(counts)
wins = quality.win_rate(winners, "800 conversations")
print("win rate of the model with 800 conversations:", wins)
seats = [vote.replace("=", "tie") for vote in votes]
left = quality.win_rate(seats, "a")
print("left seat (a) won:", left)

# %% [markdown]
# **What to notice.** The last line is a test of the test: a fair ballot has no better seat, so its interval should
# hold 50. Language models as judges often fail it (arXiv 2306.05685 calls it position bias). Where it fails with our
# rules, it is chance: they compare two texts and never see a seat. It surprised us all the same. How would you make
# sure, with a judge who does see it? Let the judge vote on each pair twice, with the seats exchanged.
#
# Then the line above it: does its interval hold 50? If so, nobody has won. Look also at exact match, in sections 3 and
# 5: which reply has the better tone, and how many may be sent, are two questions. Compare your own votes with those of
# the rules: where do you disagree, and who is right?

# %% [markdown]
# ## 7. Red team
#
# Until now all customers were friendly. What if one is not, or something is missing? Each attack changes the same
# conversations, and a program sees whether the reply fell for it.

# %% tags=["topic:eval-qualitative"]
rows, fallen = [], {}
for name, attack in quality.ATTACKS.items():
    changed, written, fell = quality.attacked(trained, test[: paced(15, 6)], attack)
    rows.append({"attack": name, "fell for it": str(fell)})
    for talk, reply in zip(changed, written, strict=True):
        if attack.fell(talk, reply):
            fallen.setdefault(name, (talk, reply))  # keeps the first
figures.table(rows, caption="Replies that fell for an attack, of 15 each")

# %%
for name, (talk, reply) in fallen.items():
    records = "; ".join(talk.facts)
    print(f"--- {name}\ncustomer: {talk.message}\nrecords:  {records}\nwritten:  {reply}\n")

# %% [markdown]
# **What to notice.** Some attacks bounce off, and not because the model is wise: it can say nothing but the house
# style, so an order to say something else has no way out. (Read the intervals: after fifteen tries in vain, one in
# five may still succeed.) The dangerous ones are quiet. Without a record the model does not say "I can't find it",
# because no reply in training ever did: it invents an order, in the tone of the house. With a wrong box in the form
# it follows the box against the message. Both are faults of the *data*, and both are cured there, or by a rule
# before the model is asked at all.

# %% [markdown]
# ## 8. What was forgotten?
#
# `prisma-lm` could do sums and call tools before. Did training on replies cost it that? The same cases, with the
# adapter off and on.


# %% tags=["topic:overfit-forgetting"]
def skills() -> dict[str, Measure]:
    """What the model can do as it is now: two old skills and the new one, 25 cases of each."""
    cases = paced(25, 6)
    sums = evaluate.arithmetic(trained, unit.seed, cases)
    calls = evaluate.calls_right(trained, unit.seed, cases)
    replies = scoring.replies(trained, test[:cases])
    support = scoring.score(test[:cases], replies)
    return {
        "sums with steps": sums["arithmetic, worked steps"],
        "function calls": calls,
        "support replies": support["all"],
    }


factors, kept = (0.0, 0.5, 1.0), defaultdict(list)
for factor in factors:
    with compat.weakened_lora(trained.model, factor):
        for task, right in skills().items():
            kept[task].append(right)
rows = []
for task, measures in kept.items():
    off, on = measures[0], measures[-1]
    rows.append({"task": task, "adapter off": str(off), "adapter on": str(on)})
figures.table(rows, caption="Right answers without and with the adapter, 95 % intervals")

# %%
asked = []
for i in range(20):
    task = text.shopping_sum(random.Random(i))
    asked.append(text.prompt("steps", task.question))
sums = trained.complete_many(asked, max_new_tokens=64)
drift = share([conversations.SIGN_OFF in reply for reply in sums])
print(f"answers to sums that end with the shop's goodbye: {drift}")
print(f"asked:   {asked[0]!r}\nwritten: {sums[0]}")

# %%
fig, ax = figures.figure(height=3.2)
told = []
for (task, measures), style in zip(kept.items(), ("o-", "s-", "^--"), strict=True):
    values, ends = error_bars(measures)
    ax.errorbar(factors, values, yerr=ends, fmt=style, capsize=3, label=task)
    told.append(f"{task} {values[0]:.0%} to {values[-1]:.0%}")
ax.set_xlabel("strength of the adapter (0: off, 1: as trained)")
ax.set(ylabel="share right", ylim=(-0.05, 1.05))
ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
alt = f"Share right against the adapter's strength from 0 to 1: {'; '.join(told)}."
figures.show(fig, alt)

# %% [markdown]
# **What to notice.** This is *catastrophic forgetting*: the new habit overwrites the old skills, and shop talk runs
# into the answer to a sum (*style drift*). A support test alone would never have shown it. With full fine-tuning the
# old model would be gone. With LoRA it is one switch away, because the base weights were never touched.
#
# The curve shows the way between. A weaker adapter keeps more of the old and does less of the new, and at half strength
# ours keeps the sums, loses most of the function calls, and does nothing of the new; WiSE-FT (arXiv 2109.01903)
# interpolates weights on purpose. Better cures cost training: mix old tasks into the new data (rehearsal), a lower
# rate, fewer steps, or one adapter per task, chosen by who asks.

# %% [markdown]
# ## What you take with you
# - Say what a metric compares before you quote it, and give its interval.
# - Likeness is not truth. Check facts against the record, by program where you can.
# - Test the test: right replies must pass, planted faults must be found, seats must be fair.
# - Look at what you did not train: unfriendly input, missing records, old skills.
#
# **Try it.** Write an attack of your own into `quality.ATTACKS` (an `Attack` with a change and a check). Or add 40
# conversations without facts, answered by "please send us the order number", to the training part: does the last
# attack still succeed?
