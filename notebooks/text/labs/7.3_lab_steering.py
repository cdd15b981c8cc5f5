# %% [markdown] tags=["badge"]
# # 7.3 Lab: steering a model
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.3_lab_steering.ipynb)

# %% [markdown]
# **After this notebook you can**
# - change how a model answers with one vector, and without training;
# - measure a dose against its effect *and* its side effects, beside a random vector of the same length;
# - edit one fact in one matrix, and test whether the edit holds elsewhere and spares its neighbours;
# - say what such a result does not show.
#
# **Time:** about 20 minutes to read and run; the cells take about a minute on two free CPU cores.
#
# **Downloads:** nothing. Everything runs on prisma-lm, because its answers can be checked exactly.

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

from course_utils import figures
from course_utils.exercises import check, hint, quiz, solution
from course_utils.measures import error_bars, percent, share
from course_utils.prisma import text
from course_utils.research import reasoning, steering
from course_utils.settings import is_quick

chat = unit.load("chat")
COUNT = 8 if is_quick() else 24  # sums for each condition

# %% [markdown]
# ## 1. A vector that changes how the model answers
#
# prisma-lm has two ways to answer a sum. A system message chooses: "Answer at once." or "Think step by step." It has
# no polite and no rude tone, so this is the style that we steer. The question stays the same, so whatever differs
# between the two is the style. Take the states of one layer in both cases, average each, and subtract:
#
# $$v = \mathrm{mean}(h_{\mathrm{steps}}) - \mathrm{mean}(h_{\mathrm{at\ once}})$$
#
# Then add a dose of $v$ to the same layer at every token (Turner et al. 2023, arXiv 2308.10248; Panickssery et al.
# 2023, arXiv 2312.06681). No weight changes.

# %% tags=["topic:steering"]
figures.source(steering.direction, steering.steered)

# %% tags=["topic:steering"]
LAYER = 2
learned_from = reasoning.sums(24, seed=1)
with_steps = [text.prompt("steps", made.question) for made in learned_from]
at_once = [text.prompt("direct", made.question) for made in learned_from]
vector = steering.direction(chat, with_steps, at_once, LAYER)
size = steering.question_states(chat, at_once, LAYER, "<|user|>").norm(dim=1).mean()
print(f"length of the vector: {vector.norm():.0f}; of a mean state: {size:.0f}")

# %% [markdown]
# (Layer 2 was found by trying layers and doses on other sums; at most settings the model wrote nonsense. What follows
# is measured on sums that were not used for that.)
#
# Now ask *other* sums. With the order "Answer at once." we add the vector; with "Think step by step." we take it
# away. Guess: will the steered model write steps? And will its sums then be right, as they are with a real order to
# think?


# %% tags=["topic:steering"]
problems = reasoning.sums(COUNT, seed=733)


def steered_answers(mode: str, push) -> list[str]:
    """What the model answers to the sums in this mode with `push` added to layer LAYER."""
    prompts = [text.prompt(mode, made.question) for made in problems]
    with steering.steered(chat.model, LAYER, push):
        return chat.complete_many(prompts, max_new_tokens=64)


def has_steps(replies: list[str]) -> list[bool]:
    """Which replies write out a product."""
    return ["*" in reply for reply in replies]


def right(replies: list[str]) -> list[bool]:
    """Which replies end with the right number."""
    pairs = zip(replies, problems, strict=True)
    return [reasoning.last_number(reply) == made.answer for reply, made in pairs]


# %% tags=["topic:steering"]
noise = steering.random_like(vector, unit.seed)
conditions = [("at once, not steered", "direct", 0 * vector)]
for dose in (1, 2, 3):
    conditions.append((f"at once, {dose} times the vector", "direct", dose * vector))
conditions.append(("at once, 2 times a random vector", "direct", 2 * noise))
conditions.append(("steps, not steered", "steps", 0 * vector))
conditions.append(("steps, minus the vector", "steps", -vector))
conditions.append(("steps, minus 2 times the vector", "steps", -2 * vector))
conditions.append(("steps, minus a random vector", "steps", -noise))
replies = {}
for name, mode, push in figures.progress(conditions, "Answering"):
    replies[name] = steered_answers(mode, push)

# %% tags=["topic:steering"]
rows = []
for name, written in replies.items():
    row = {"condition": name, "writes steps": percent(share(has_steps(written)))}
    row["right"] = percent(share(right(written)))
    row["an answer"] = written[0][:40].replace("\n", " ")
    rows.append(row)
figures.table(rows, caption=f"{COUNT} sums a row, 95 % intervals in brackets")

# %% tags=["topic:steering"]
fig, ax = figures.figure(height=3.6)
names = list(replies)
stepped = [share(has_steps(written)) for written in replies.values()]
correct = [share(right(written)) for written in replies.values()]
for measures, shift, label in ((stepped, -0.18, "writes steps"), (correct, 0.18, "right")):
    values, ends = error_bars(measures)
    places = [place + shift for place in range(len(names))]
    ax.barh(places, values, 0.34, xerr=ends, capsize=2, label=label)
ax.set_yticks(range(len(names)), names)
ax.invert_yaxis()
ax.set(xlabel="share of the sums", xlim=(0, 1))
ax.legend()
told = {name: f"{measure.value:.0%}" for name, measure in zip(names, stepped, strict=True)}
figures.show(fig, alt=f"Share of replies with steps. {figures.told(told)}.")

# %% [markdown]
# **What to notice.** Compare a row with the row of the random vector of the same length: only what differs there is
# the work of the *direction*. Then compare the two columns. A vector can carry the *look* of thinking without the
# thinking: writing a product and getting it right are two things. If you looked at the style alone, you would call
# the steering a success.

# %% [markdown]
# ## 2. What else does the vector change?
#
# A vector that is added at every token is added in every other task, too. Reading a fact has nothing to do with
# steps. Is it still done as before?

# %% tags=["topic:steering"]
rng = random.Random(unit.seed)
names = ("Ada", "Ben", "Ella", "Ines")
tasks = []
for _ in range(COUNT):
    number, other = rng.sample(range(1000, 9999), 2)
    status, wrong = rng.sample(["packed", "shipped", "delivered", "returned"], 2)
    first, second = rng.sample(names, 2)
    facts = [f"Order {number} of {first}: 2 large blue star, {status}."]
    facts.append(f"Order {other} of {second}: 3 small red cube, {wrong}.")
    rng.shuffle(facts)
    asked = "\n".join([*facts, f"Where is order {number}?"])
    tasks.append((text.prompt("read", asked), status))

# %% tags=["topic:steering"]
pushes = {"not steered": 0 * vector}
for dose in (1, 2, 3):
    pushes[f"{dose} times the vector"] = dose * vector
pushes["2 times a random vector"] = 2 * noise
read = {}
for name, push in pushes.items():
    with steering.steered(chat.model, LAYER, push):
        answers = chat.complete_many([prompt for prompt, _ in tasks], max_new_tokens=8)
    pairs = zip(answers, tasks, strict=True)
    read[name] = share([text.correct(status, answer) for answer, (_, status) in pairs])
    print(f"{name:>24}: {percent(read[name])} of the facts read")

# %% [markdown]
# **What to notice.** The dose that changes the style is the dose at which you have to look at everything else. Where
# the intervals of two lines overlap, this is too few tasks to call them different.

# %% [markdown]
# ## 3. Editing one fact
#
# Which facts are in prisma-lm's weights? No price: it learned from a new shop every 200 examples. But it knows its
# products of numbers by heart: `7 * 13 =` is answered with no example of it in the prompt. Can we change *one*?
#
# ROME (Meng et al. 2022, arXiv 2202.05262) reads the second matrix $W$ of an MLP as a store: the input $k$ is an
# address, the output $W k$ what is kept there. First find, by gradient descent, what the MLP would have to give out
# at the last token of `7 * 13 =` for the new answer to follow. Then change $W$ by a product of two vectors, so that
# exactly this address gives the new output. $C$ is the mean of $k k^\top$ over other text: it turns the address away
# from what others use.
#
# $$W' = W + (v - W k)\, \frac{(C^{-1} k)^\top}{k^\top C^{-1} k}$$

# %% tags=["topic:steering"]
figures.source(steering.fact_edit)

# %% tags=["topic:steering"]
EDITED = 0  # the layer
rng = random.Random(unit.seed)


def asked(a: int, b: int) -> str:
    """The product to complete, behind three other products: a new context each time."""
    facts = []
    for _ in range(3):
        x, y = rng.randint(2, 9), rng.randint(3, 49)
        facts.append(f"{x} * {y} = {x * y}. ")
    return "".join(facts) + f"{a} * {b} ="


def complete(pairs: list[tuple[int, int]]) -> list[str]:
    """What the model writes as the product of each pair."""
    prompts = [asked(a, b) for a, b in pairs]
    return [reply.strip() for reply in chat.complete_many(prompts, 5, stop=["."])]


other_text = []
for seed in range(56):
    drawn = random.Random(seed)
    example = text.worked(drawn) if seed % 4 == 0 else text.number_facts(drawn)
    other_text.append(example.text)
moment = steering.second_moment(steering.keys(chat, other_text, EDITED))

# %% [markdown]
# Layer 0 and the strength were found on three other products. The six below are new. Each edit is made alone,
# measured, and taken back. Three questions: does the new answer come in *new contexts*? Does it come *in another
# form*, inside the worked steps of a story? And do the *neighbours* keep their answers: the products that share one
# of the two numbers?


# %% tags=["topic:steering"]
def stories(a: int, b: int) -> list[str]:
    """Prompts for four sums whose first step is the product of a and b."""
    made = []
    for price in (9, 14, 21, 30):
        bought = f"Ben buys {a} cubes for {b} euros each and 3 stars for {price} euros each."
        made.append(text.prompt("steps", f"{bought} What is the total?"))
    return made


def neighbours(a: int, b: int) -> list[tuple[int, int]]:
    """Products that share one of the two numbers."""
    near = [(a, b + away) for away in (-2, -1, 1, 2)]
    return near + [(x, b) for x in range(2, 10) if x != a]


def still_right(pairs: list[tuple[int, int]]) -> list[bool]:
    """Which of these products the model knows."""
    found = zip(complete(pairs), pairs, strict=True)
    return [reply == str(x * y) for reply, (x, y) in found]


# %% tags=["topic:steering"]
wishes = [(6, 17, 132), (3, 38, 141), (9, 24, 261), (5, 31, 175), (7, 29, 231), (8, 15, 104)]
wishes = wishes[:1] if is_quick() else wishes
counted = {"new contexts": [], "inside worked steps": [], "neighbours right": []}
before = []
for a, b, wrong in figures.progress(wishes, "Editing"):
    learned = [asked(a, b) for _ in range(4)]
    edit = steering.fact_edit(chat, learned, f" {wrong}. ", EDITED, moment)
    beside = neighbours(a, b)
    before += still_right(beside)
    with steering.edited(chat.model, [edit]):
        replies = complete([(a, b)] * 8)
        begun = chat.complete_many(stories(a, b), 14)
        counted["neighbours right"] += still_right(beside)
    counted["new contexts"] += [reply == str(wrong) for reply in replies]
    counted["inside worked steps"] += [f"{a} * {b} = {wrong}." in steps for steps in begun]
    print(f"{a} * {b} = {wrong}: the steps of a story begin {begun[0]!r}")

# %% tags=["topic:steering"]
rows = [{"measured": "neighbours right before", "share": percent(share(before))}]
for name, cases in counted.items():
    rows.append({"measured": name, "share": percent(share(cases))})
figures.table(rows, caption=f"{len(wishes)} edits, each alone, layer {EDITED}")

# %% [markdown]
# **What to notice.** Read the three shares together. Before the edit, the neighbours were right; whatever they lost,
# the edit took. A likely reason, which we did not test: products with a number in common have addresses that are
# alike, so a change strong enough for one reaches others. (The intervals treat all cases alike, as if several of one
# product said as much as several products; they are too narrow.) Larger models show the same in other clothes: edits
# do not carry over to what follows from them (Cohen et al. 2023, arXiv 2307.12976).

# %%
quiz("7.3.steered")

# %% [markdown]
# ## What you take with you
# - A steering vector is a difference of means. It is cheap, it needs no training, and it is blunt.
# - Measure the skill beside the style, other tasks beside the one, and a random vector beside yours.
# - A rank-one edit can put a new answer into one matrix. Count the neighbours before you call it an edit of one fact.
#
# **Try it.** Take another layer in section 1: where does the style change with the smallest dose? Learn the vector
# from 4 sums instead of 24. In section 3 take layer 1: what do success and neighbours do?
