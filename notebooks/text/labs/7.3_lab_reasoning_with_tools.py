# %% [markdown] tags=["badge"]
# # 7.3 Lab: reasoning with tools
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.3_lab_reasoning_with_tools.ipynb)

# %% [markdown]
# **After this notebook you can**
# - split a problem that a model can't solve into parts that it can, and merge the parts: a graph of thoughts;
# - measure whether a model knows when it is wrong, draw a reliability diagram, and let it stay silent;
# - let a model translate and an exact solver calculate, and notice when the translation fails;
# - turn what a model writes into programs, check them by running them in a sandbox, and compute pass@k.
#
# **Time:** about 40 minutes to read and run; the cells take about a minute and a half on two free CPU cores.
#
# **Downloads:** nothing. The model is prisma-lm, the course's own; the solver is SymPy, which PyTorch brings along.

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
import sympy
import torch

from course_utils import figures
from course_utils.agents.hands import code_sandbox
from course_utils.exercises import check, hint, quiz, solution
from course_utils.measures import bootstrap, error_bars, matches, percent, share
from course_utils.prisma import text
from course_utils.research import calibration, decoding, programs, reasoning, solver
from course_utils.research import graph_of_thoughts as thoughts
from course_utils.settings import paced

torch.set_num_threads(1)  # the threads of so small a model wait longer than they work
chat = unit.load("chat")
tokenizer = chat.tokenizer

# %% [markdown]
# ## 1. A graph of thoughts
#
# prisma-lm was trained to add up *two* purchases. What if a customer buys four kinds of toys?

# %% tags=["topic:graph-of-thoughts"]
CHEAP = (3, 25)  # euros: so no subtotal leaves the numbers that it was trained on
bills = {items: thoughts.bills(paced(24, 4), items, unit.seed, CHEAP) for items in (2, 4, 6, 8)}
for items in (2, 4):
    [tried] = thoughts.chain(chat, bills[items][:1])
    print(tried.bill.question)
    print(" ", tried.thoughts[0].words.strip(), f"   (right: {tried.bill.answer})")

# %% [markdown]
# A **chain of thought** is a line: each step follows the one before. A **tree** of thoughts branches, and keeps the
# best branch (see the core notebook on reasoning). A **graph of thoughts** (Besta et al. 2023, arXiv 2308.09687) can
# also *merge*: a thought with two parents. Four operations:
#
# | operation | here | who does it |
# | --- | --- | --- |
# | split | a bill becomes bills of two items | a line of code |
# | solve | the subtotal of each part, by chain of thought | prisma-lm |
# | score, keep the best | the number on which most samples agree | a line of code |
# | merge | "187 + 127 =" | prisma-lm |
#
# The plan of operations is ours, not the model's; in the paper it is the user's, too.

# %% tags=["topic:graph-of-thoughts"]
figures.source(thoughts.split, thoughts.best_value)

# %% tags=["topic:graph-of-thoughts"]
[graph] = thoughts.solve(chat, bills[4][:1])
rows = []
for place, thought in enumerate(graph.thoughts):
    row = {"thought": place, "kind": thought.kind, "from": ", ".join(map(str, thought.parents))}
    row["words"] = thought.words
    row["value"] = "" if thought.value is None else str(thought.value)
    rows.append(row)
figures.table(rows, caption=f"One graph; the right answer is {graph.bill.answer}")


# %% tags=["topic:graph-of-thoughts"]
def levels(graph: thoughts.Graph) -> list[int]:
    """How many steps each thought stands below the first."""
    depths = []
    for thought in graph.thoughts:
        above = [depths[parent] for parent in thought.parents]
        depths.append(max(above) + 1 if above else 0)
    return depths


[wide] = thoughts.solve(chat, bills[8][:1])
depths = levels(wide)

# %% tags=["topic:graph-of-thoughts"]
box = {"boxstyle": "round", "facecolor": "white", "edgecolor": figures.PALETTE["blue"]}
places = {}
fig, ax = figures.figure(width=9, height=3.6)
for number, (thought, depth) in enumerate(zip(wide.thoughts, depths, strict=True)):
    row = [other for other, level in enumerate(depths) if level == depth]
    across = (row.index(number) + 0.5) / len(row)
    places[number] = across, -depth
    label = thought.kind if thought.value is None else f"{thought.kind}\n{thought.value}"
    ax.text(across, -depth, label, ha="center", va="center", bbox=box, fontsize=9)
    for parent in thought.parents:
        ax.plot(*zip(places[parent], places[number], strict=True), color=figures.GREY, zorder=0)
ax.set(
    xlim=(0, 1), ylim=(-max(depths) - 0.5, 0.5), title=f"Eight items (right: {wide.bill.answer})"
)
ax.axis("off")
figures.show(fig, alt="A bill splits into four parts; four subtotals are merged two by two.")

# %% [markdown]
# Is it the graph, or only that it spends more tokens? The control gets more tokens than the graph: three chains,
# drawn at temperature 1, and the majority counts. And which operation is the weak one? Add up the model's subtotals
# by code instead of asking it. Guess all four lines before you run.

# %% tags=["topic:graph-of-thoughts"]
solved, rows = {}, []
for items, asked in figures.progress(bills.items(), "Adding up"):
    ways = {"one chain": thoughts.chain(chat, asked)}
    ways["three chains, majority"] = thoughts.chain(chat, asked, 3, 1.0, unit.seed)
    ways["graph"] = thoughts.solve(chat, asked)
    truth = [bill.answer for bill in asked]
    answers = {name: thoughts.answers(graphs) for name, graphs in ways.items()}
    subtotals = [thoughts.values(graph, "subtotal") for graph in ways["graph"]]
    answers["graph, merged by code"] = [sum(parts) for parts in subtotals]
    for name, given in answers.items():
        right = share(matches(given, truth))
        solved.setdefault(name, []).append(right)
        row = {"items": items, "way": name, "right": percent(right)}
        row["tokens"] = thoughts.tokens(ways.get(name, ways["graph"]))
        rows.append(row)
figures.table(rows, caption=f"{len(asked)} bills of each length; tokens read and written", digits=0)

# %% tags=["topic:graph-of-thoughts"]
fig, ax = figures.figure(height=3.4)
# The lines stand a little beside each other, so that none hides another.
for place, (name, found) in enumerate(solved.items()):
    values, ends = error_bars(found)
    across = [items + 0.12 * (place - 1.5) for items in bills]
    ax.errorbar(across, values, ends, marker="osD^"[place], capsize=3, label=name)
ax.set(xlabel="items on the bill", ylabel="share right", ylim=(-0.03, 1.05))
ax.set_xticks(list(bills))
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
told = {name: f"{found[1].value:.0%} of four items" for name, found in solved.items()}
figures.show(fig, alt=f"Share right against the length of the bill. {figures.told(told)}.")

# %% [markdown]
# And the scores? Where the model is sure, there is nothing to choose. So we draw at temperature 2, where it often
# slips:

# %% tags=["topic:graph-of-thoughts"]
rows = []
for samples in (1, 5):
    graphs = thoughts.solve(chat, bills[4], samples, temperature=2.0, seed=unit.seed)
    right = share([graph.answer == graph.bill.answer for graph in graphs])
    agreed = {True: [], False: []}
    for graph in graphs:
        parts = [thought for thought in graph.thoughts if thought.kind == "subtotal"]
        for thought in parts:
            # The part's own bill stands in its words; its answer is what the items make.
            part = thoughts.split(graph.bill)[thought.parents[0] - 1]
            agreed[thought.value == part.answer].append(thought.score)
    row = {"samples of each thought": samples, "right": percent(right)}
    for name, part_right in (("right", True), ("wrong", False)):
        scores = agreed[part_right]
        row[f"agreement where {name}"] = str(bootstrap(scores, "")) if scores else "none"
    rows.append(row)
figures.table(rows, caption="Bills of four items at temperature 2")

# %% [markdown]
# **What to notice.** One chain fails at four items, and more chains fail as surely: a skill that is not there can't
# be voted into being. The graph turns one impossible question into questions that the model knows. Its price is
# tokens, and somebody who knows how to split. With more items there are more chances to slip, so compare it with the
# graph whose merges a line of code makes: where that line lies higher, and its bar does not meet the other's, the
# merge is the weak operation. And the scores: with one sample agreement is always 1 and says nothing; with five,
# compare it where the part is right and where it is wrong. Which leads to sections 2 and 3: notice what is wrong, and
# leave to a machine what a machine does better.

# %% [markdown]
# ## 2. Does it know when it is wrong?
#
# Half of the next tasks are bills as in its training (prices of 3 to 49 euros), half have prices of 40 to 60, of
# which it has met only some. How sure is it, and how often right? Two kinds of **confidence**:
#
# - *of the tokens*: the probability that the model gives to its whole reply, the product over all tokens;
# - *of agreement*: draw five replies at temperature 1, and count how many have the same answer.

# %% tags=["topic:metacognition"]
KNOWN, NEW = (3, 49), (40, 60)


def answered(n: int, seed: int) -> dict:
    """`n` bills of each kind: prompts, greedy replies, answers, whether right, and logits."""
    asked = [*thoughts.bills(n, 2, seed, KNOWN), *thoughts.bills(n, 2, seed, NEW)]
    prompts = [text.prompt("steps", bill.question) for bill in asked]
    replies = decoding.generate(chat, prompts, 56, do_sample=False)
    pairs = [
        (tokenizer(prompt)["input_ids"], reply)
        for prompt, reply in zip(prompts, replies, strict=True)
    ]
    answers = [reasoning.last_number(tokenizer.decode(reply)) for reply in replies]
    right = matches(answers, [str(bill.answer) for bill in asked])
    found = {"prompts": prompts, "replies": replies, "answers": answers, "right": right}
    return found | {"logits": [calibration.reply_logits(chat.model, *pair) for pair in pairs]}


# %% tags=["topic:metacognition"]
test = answered(paced(48, 8), seed=unit.seed + 1)
tokens_say = [
    calibration.confidence(logits, reply)
    for logits, reply in zip(test["logits"], test["replies"], strict=True)
]
half = len(test["right"]) // 2
for name, part in (("prices 3 to 49", slice(half)), ("prices 40 to 60", slice(half, None))):
    sure = bootstrap(tokens_say[part], "")
    print(f"{name}: right {share(test['right'][part])}, mean confidence {sure}")

# %% tags=["topic:metacognition"]
drawn = thoughts.ask(chat, test["prompts"], 5, temperature=1.0, steps=56, seed=unit.seed)
samples_say = []
for got, given in zip(drawn, test["answers"], strict=True):
    answers = [reasoning.last_number(reply) for reply in got.replies]
    samples_say.append(calibration.agreement(answers, given))
print(f"mean agreement with the greedy answer: {bootstrap(samples_say, '')}")

# %% [markdown]
# A **reliability diagram** sorts answers by confidence and asks how many of each group are right: of those with
# confidence 0.8, eight in ten should be. The **expected calibration error** (ECE) is the mean distance from that
# diagonal. It is never below 0, so chance alone makes it positive. The **surprise** at an outcome is the negative
# natural logarithm of the chance that was given to it, in nats: it punishes whoever is sure and wrong.
#
# The standard cure is **temperature scaling** (Guo et al. 2017, arXiv 1706.04599): divide all logits (the scores
# before the softmax) by one number that makes the confidences fit best, found on *other* tasks. It can't change which
# token is likeliest, so no answer changes.

# %% tags=["topic:metacognition"]
figures.source(calibration.confidence, calibration.calibration_error)

# %% tags=["topic:metacognition"]
other = answered(paced(32, 8), seed=unit.seed + 2)
fitted = calibration.fit_temperature(other["logits"], other["replies"], other["right"])
scaled_say = [
    calibration.confidence(logits, reply, fitted)
    for logits, reply in zip(test["logits"], test["replies"], strict=True)
]
print(f"temperature fitted on {len(other['right'])} other bills: {fitted:.2f}")
kinds = {"tokens": tokens_say, "tokens, scaled": scaled_say, "agreement of 5": samples_say}
rows = []
for name, sure in kinds.items():
    error = calibration.calibration_measure(sure, test["right"], bins=5)
    row = {"confidence": name, "mean": sum(sure) / len(sure)}
    row["ECE"] = f"{error.value:.2f} ({error.low:.2f} to {error.high:.2f})"
    surprise = bootstrap(calibration.surprises(sure, test["right"]), "")
    row["surprise (nats)"] = f"{surprise.value:.2f} ({surprise.low:.2f} to {surprise.high:.2f})"
    rows.append(row)
caption = f"{len(test['right'])} bills, of which {percent(share(test['right']))} are right"
figures.table(rows, caption=caption)

# %% tags=["topic:metacognition"]
fig, axes = figures.figure(columns=2, width=10, height=3.8)
axes[0].plot([0, 1], [0, 1], color=figures.GREY, linestyle="--")
steps = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
for (name, sure), marker in zip(kinds.items(), "os^", strict=True):
    bins = calibration.reliability(sure, test["right"], bins=5)
    across, up = [one.confidence for one in bins], [one.right for one in bins]
    axes[0].plot(across, up, marker=marker, label=name)
    kept = [share(calibration.most_confident(sure, test["right"], part)) for part in steps]
    values, ends = error_bars(kept)
    axes[1].errorbar(steps, values, ends, marker=marker, capsize=2, label=name)
axes[0].set(xlabel="confidence", ylabel="share right", title="Reliability (dashed: calibrated)")
axes[1].set(xlabel="share of questions answered", title="Answers only where it is sure")
axes[1].set(ylabel="share right", ylim=(0, 1.05))
axes[0].legend()
half_right = share(calibration.most_confident(tokens_say, test["right"], 0.5))
figures.show(
    fig, alt=f"Reliability and selective answers. Surest half, by tokens: {half_right.value:.0%}."
)

# %% tags=["topic:metacognition"]
everything = share(test["right"])
for name, sure in kinds.items():
    surest = share(calibration.most_confident(sure, test["right"], 0.4))
    print(f"{name}: all {percent(everything)}; the surest 40 %: {percent(surest)}")

# %%
quiz("7.3.calibration")

# %% [markdown]
# **What to notice.** On new prices the model is only a little less sure than on known ones, and mostly wrong:
# **overconfident**, just where it leaves its training. One fitted temperature brings confidence and success closer;
# compare the intervals of ECE. But it can't change the *order* of replies of like length by much, and the order is
# what selective answering needs. Look at the right panel: whoever may stay silent on the less sure part is right far
# more often. Calibration and order are two things.
#
# Do larger models know it? Pretrained ones are often well calibrated on multiple choice (Kadavath et al. 2022, arXiv
# 2207.05221); training on human feedback made GPT-4 worse at it (its report, arXiv 2303.08774, figure 8). And nobody
# should ask a model "how sure are you?" and take the number that it *writes* for either of ours.

# %% [markdown]
# ## 3. The model translates, a solver calculates
#
# Look at a reply for prices that are all new, 50 to 99. What is wrong with it, the idea or the arithmetic?

# %% tags=["topic:neuro-symbolic"]
new = thoughts.bills(paced(24, 8), 2, unit.seed + 3, (50, 99))
prompts = [text.prompt("steps", bill.question) for bill in new]
replies = [got.replies[0] for got in thoughts.ask(chat, prompts, 1, 0.0, 56, 0)]
print(new[0].question, f"(right: {new[0].answer})")
print("prisma-lm:", replies[0])
for step in solver.slips(solver.steps(replies[0])):
    print("a slip:", step.left, step.sign, step.right, "is not", step.written)

# %% [markdown]
# The *translation* from words into terms is right, the arithmetic is not. So take the left sides, believe no result,
# and let an exact solver do the rest. Each result becomes an unknown; where a later step uses it, it uses the
# unknown.

# %% tags=["topic:neuro-symbolic"]
figures.source(solver.equations, solver.solve)

# %% tags=["topic:neuro-symbolic"]
worked = solver.steps(replies[0])
for equation in solver.equations(worked):
    print(equation.lhs, "=", equation.rhs)
print("solved:", solver.solve(worked), " right:", new[0].answer)
truth = [bill.answer for bill in new]
by_chain = matches([thoughts.number(reply) for reply in replies], truth)
translated = [solver.steps(reply) for reply in replies]
by_solver = matches([solver.solve(steps) for steps in translated], truth)
print("prices 50 to 99, the model alone:", share(by_chain))
print("prices 50 to 99, with the solver:", share(by_solver))

# %% [markdown]
# ### And when the translation fails?
#
# A solver calculates whatever it is given. So ask in ways that prisma-lm was not trained on: other words, three
# items, and a question that runs *backwards* (the total is given, a price is wanted). Does anybody notice? One cheap
# check needs no answer: a translation should use every number of the question, and use it once.

# %% tags=["topic:neuro-symbolic"]
figures.source(solver.complete)


# %% tags=["topic:neuro-symbolic"]
def in_other_words(bill: thoughts.Bill) -> tuple[str, int]:
    """The same bill as a shop assistant may say it, and the answer."""
    (a, first, p), (b, second, q) = bill.items
    words = f"What do {a} {first}s at {p} euros and {b} {second}s at {q} euros cost together?"
    return words, bill.answer


def backwards(bill: thoughts.Bill) -> tuple[str, int]:
    """The total is told, the second price is wanted."""
    (a, first, p), (b, second, q) = bill.items
    bought = f"{a} {first}s for {p} euros each and {b} {second}s"
    words = f"{bill.buyer} pays {bill.answer} euros for {bought}. What does one {second} cost?"
    return words, q


two = thoughts.bills(paced(24, 8), 2, unit.seed + 4, KNOWN)
three = thoughts.bills(paced(24, 8), 3, unit.seed + 4, KNOWN)
forms = {
    "as trained": [(bill.question, bill.answer) for bill in two],
    "new prices": [(bill.question, bill.answer) for bill in new],
    "other words": [in_other_words(bill) for bill in two],
    "three items": [(bill.question, bill.answer) for bill in three],
    "backwards": [backwards(bill) for bill in two],
}

# %% tags=["topic:neuro-symbolic"]
rows, outcomes = [], {}
for name, asked in figures.progress(forms.items(), "Translating"):
    prompts = [text.prompt("steps", words) for words, _ in asked]
    replies = [got.replies[0] for got in thoughts.ask(chat, prompts, 1, 0.0, 64, 0)]
    truth = [answer for _, answer in asked]
    alone = matches([thoughts.number(reply) for reply in replies], truth)
    worked = [solver.steps(reply) for reply in replies]
    exact = matches([solver.solve(one) for one in worked], truth)
    checked = [solver.complete(words, one) for (words, _), one in zip(asked, worked, strict=True)]
    trusted = [ok for ok, passed in zip(exact, checked, strict=True) if passed]
    row = {"questions": name, "model alone": percent(share(alone))}
    row["with the solver"] = percent(share(exact))
    row["pass the check"] = percent(share(checked))
    row["of those right"] = f"{sum(trusted)} of {len(trusted)}"
    rows.append(row | {"a reply": replies[0][:44]})
figures.table(rows, caption=f"{len(two)} questions of each kind")

# %% [markdown]
# What *could* a solver do with a right translation? Exactly what no chain of this model can: run backwards. We write
# the equation by hand for one of these questions:

# %% tags=["topic:neuro-symbolic"]
words, price = forms["backwards"][0]
(a, _, p), (b, _, _) = two[0].items
unknown = sympy.Symbol("price")
equation = sympy.Eq(a * p + b * unknown, two[0].answer)
print(words)
print(
    f"{a} * {p} + {b} * price = {two[0].answer}  gives",
    sympy.solve(equation, unknown),
    "right:",
    price,
)

# %% [markdown]
# **What to notice.** With the right translation the solver is right at any size of number: compare the two shares for
# new prices, and look at what the check says about the rest. With a wrong translation it is *exactly wrong*, and its
# number looks as trustworthy as before. The check does not make the model better; it tells you what to leave to
# somebody else. Read the column *of those right* before you trust it. Systems of this kind: program-aided models (Gao
# et al. 2022, arXiv 2211.10435) write Python, Logic-LM (Pan et al. 2023, arXiv 2305.12295) writes logic for a prover,
# and AlphaGeometry (Trinh et al. 2024, *Nature* 625) lets a language model propose and a symbolic engine prove.

# %% [markdown]
# ## 4. Code, checked by running it
#
# One step further: not the answer to *this* bill, but a program for *any* bill. The worked steps say how these
# numbers are combined. Put the question's numbers in their places, and a function comes out. (prisma-lm was never
# shown Python; this translation is ours.)

# %% tags=["topic:code-generation"]
figures.source(programs.from_steps)

# %% tags=["topic:code-generation"]
task = reasoning.sums(1, seed=unit.seed + 5)[0]
print(task.question)
print(programs.from_steps(task.question, task.steps))

# %% [markdown]
# Is a program right? Reading it is one way. The way that scales is to **run** it on examples whose answer is known,
# *tests*, and code that a model wrote is run in a sandbox: here pydantic-monty, which has no files, no network and a
# time limit (Unit 7.2 tries to break out of it). What does it do with a program that is no use, or worse?

# %% tags=["topic:code-generation"]
suspects = {
    "right": programs.from_steps(task.question, task.steps),
    "does not compile": "def total(n1, n2, n3, n4):\n    return n1 *",
    "never ends": "def total(n1, n2, n3, n4):\n    while True:\n        n1 += 1",
    "reads a file": "def total(n1, n2, n3, n4):\n    return open('/etc/hostname').read()",
}
for name, code in suspects.items():
    outcome = code_sandbox.run(f"{code}\ntotal(2, 3, 4, 5)", seconds=0.5)
    print(f"{name}: {outcome.text[:80]}")

# %% [markdown]
# Now candidates: for each of twelve tasks ten programs, from steps drawn at temperature 2.7. Some are nonsense, and
# some are *nearly* right: where two numbers of the question are equal, the wrong one may be put in place, and the
# example itself does not show it. Three other bills are the visible tests, six more the hidden ones that count.

# %% tags=["topic:code-generation"]
CANDIDATES, VISIBLE, HIDDEN = 10, 3, 6
tasks = reasoning.sums(paced(12, 4), seed=unit.seed + 6)
pool = reasoning.sums(120, seed=unit.seed + 7)


def cases_like(task: text.Sum) -> list[programs.Case]:
    """Other bills in the same words as `task`: its visible tests first, then its hidden ones."""
    begins = task.question.startswith("One ")
    alike = [other for other in pool if other.question.startswith("One ") == begins]
    cases = [programs.Case(programs.numbers(one.question), int(one.answer)) for one in alike]
    return cases[: VISIBLE + HIDDEN]


prompts = [text.prompt("steps", task.question) for task in tasks]
drawn = thoughts.ask(chat, prompts, CANDIDATES, 2.7, 56, unit.seed)
written = []
for task, got in zip(tasks, drawn, strict=True):
    written.append([programs.from_steps(task.question, reply) for reply in got.replies])
different = sum(len(set(sources)) for sources in written)
print(f"{len(tasks) * CANDIDATES} programs, {different} different ones for their tasks")

# %% tags=["topic:code-generation"]
verdicts = []  # for each task and candidate: which tests it passes
for task, sources in figures.progress(list(zip(tasks, written, strict=True)), "Running"):
    cases = cases_like(task)
    wanted = [case.output for case in cases]
    known = {}
    for source in set(sources):
        results = programs.outputs(source, cases, code_sandbox.run)
        known[source] = matches(results, wanted) if results else [False] * len(cases)
    verdicts.append([known[source] for source in sources])
right = []
for candidates in verdicts:
    right.append(sum(all(passed) for passed in candidates))
print("right programs of ten, task by task:", right)

# %% [markdown]
# How good is a model that writes programs? **pass@k** (Chen et al. 2021, arXiv 2107.03374) is the chance that at
# least one of $k$ candidates is right. To draw $k$ and look is noisy; to raise 1 − (share right) to the power $k$ is
# biased. From $n$ candidates of which $c$ are right:
#
# $$P = 1 - \frac{\binom{n-c}{k}}{\binom{n}{k}}$$

# %% tags=["topic:code-generation"]
figures.source(programs.pass_at_k)

# %% tags=["topic:code-generation"]
ks = list(range(1, CANDIDATES + 1))
passed = {}
for k in ks:
    each = [programs.pass_at_k(CANDIDATES, count, k) for count in right]
    passed[k] = bootstrap(each, "")
at_all = share([count > 0 for count in right])
print("one program, unchecked (pass@1):", passed[1])
print(f"any of ten (pass@{CANDIDATES}):            ", at_all)


# %% tags=["topic:code-generation"]
def chosen(tests: int) -> list[bool]:
    """For each task: is the program right that passes the first `tests` tests, and comes first?"""
    marks = []
    for candidates in verdicts:
        through = [all(passed) for passed in candidates if all(passed[:tests])]
        marks.append(bool(through) and through[0])
    return marks


rows = []
for tests in (0, 1, VISIBLE):
    picked = share(chosen(tests))
    through = 0
    for candidates in verdicts:
        through += sum(all(passed[:tests]) for passed in candidates)
    row = {"visible tests": tests, "the chosen program is right": percent(picked)}
    row["programs that pass them"] = through
    row["and fail a hidden one"] = through - sum(right)
    rows.append(row)
figures.table(rows, caption=f"{len(tasks)} tasks, {CANDIDATES} programs each")

# %% tags=["topic:code-generation"]
fig, ax = figures.figure(height=3.4)
values, ends = error_bars(passed.values())
ax.errorbar(ks, values, ends, marker="o", capsize=3, label="pass@k")
picked = share(chosen(VISIBLE))
ax.axhline(picked.value, color=figures.PALETTE["vermilion"], label="one, chosen by three tests")
ax.axhspan(picked.low, picked.high, color=figures.PALETTE["vermilion"], alpha=0.12)
ax.set(xlabel="k: candidates", ylabel="share of tasks", ylim=(0, 1.05))
ax.legend(loc="lower right")
alt = f"pass@1 {values[0]:.0%}, pass@10 {values[-1]:.0%}; one chosen by tests {picked.value:.0%}."
figures.show(fig, alt=alt)

# %%
quiz("7.3.pass_at_k")

# %% [markdown]
# **What to notice.** pass@10 is what *could* be had by somebody who knows which of ten is right. Tests are that
# somebody: compare the chosen program's share with pass@1, interval against interval. AlphaCode (Li et al. 2022, arXiv
# 2203.07814) chose ten of up to a million programs in this way, and filtering by the examples of the task removed
# nearly all. The last column is the danger: a program can pass the tests that you have and still be wrong. Where it is
# 0 here after one test, that is because a wrong mixture of four numbers hardly ever hits the right total by chance.
# Tests of real programs are weaker: Liu et al. 2023 (arXiv 2305.01210) wrote more tests for a well-known benchmark,
# and many programs that had counted as right failed. And never run such code outside a sandbox, not even "only to test
# it".

# %% [markdown]
# ## What you take with you
# - A graph of thoughts makes a problem out of problems that the model knows. Splitting it is the skill.
# - More samples of a skill that is not there are more tokens.
# - Confidence has two virtues, calibration and order. Scaling mends the first; silence needs the second.
# - A solver removes slips, not misunderstandings. Check the translation.
# - Code is the best kind of answer, because it can be run: tests turn pass@10 into something a user gets.
#
# **Papers.** Besta et al. 2023 (arXiv 2308.09687), Guo et al. 2017 (arXiv 1706.04599), Gao et al. 2022 (arXiv
# 2211.10435), Chen et al. 2021 (arXiv 2107.03374).
#
# **Try it.** Split bills of eight into parts of *one* item (`thoughts.split(bill, 1)`): can prisma-lm answer those?
# Fit the temperature in section 2 on known prices only: does it still help on new ones? Ask a tester who is content
# with an even number: which programs pass the tests of section 4 then?
