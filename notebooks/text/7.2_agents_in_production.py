# %% [markdown] tags=["badge"]
# # 7.2 Agentic AI systems, part 2: agents in production
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.2_agents_in_production.ipynb)

# %% [markdown]
# **After this notebook you can**
# - let an agent learn from a failure within one task (Reflexion), and find out whether it really does;
# - compare five patterns on the same hard tasks by success, calls and tokens, and test *why* they differ;
# - choose a memory for long conversations, and measure what it still knows after 40 turns;
# - give an agent retrieval as a tool, and tell a failure of the search from a failure of the model;
# - run code that a model wrote in a sandbox that lets nothing out;
# - build the agent in LangGraph, kill its process, and go on without doing anything twice;
# - ask a person before what cannot be undone;
# - read a table of frameworks, and say what each is worth today.
#
# **Before it:** [7.2 Agentic AI systems](7.2_agentic_ai.ipynb), where ReAct, ReWOO and function calls are built.
#
# **Time:** about 40 minutes to read and run, and an hour more with the exercises; the cells take one to two minutes
# on two CPU cores.
#
# **Downloads:** nothing at the bundled tier; about 1.5 GB at the small tier, 16 GB at the full tier. Nothing is
# fetched before the card below has named it.

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
# The next cell looks at your machine, chooses a model and says why.

# %%
from course_utils import open_unit

unit = open_unit("7.2")

# %%
import random
import textwrap
from collections.abc import Callable, Sequence

import torch

from course_utils import figures, settings
from course_utils.agents import (
    conversation_memory,
    function_calls,
    loop,
    react,
    reflexion,
    rewoo,
    success,
    toolboxes,
)
from course_utils.agents.instructions import opening
from course_utils.exercises import check, hint, quiz, solution
from course_utils.measures import bootstrap, error_bars, percent, pooled, share
from course_utils.models import bundled
from course_utils.models.llama_cpp import through_llama_cpp
from course_utils.prisma import shop, text, tools

# %%
chat = unit.load("chat")
if chat.tier == "bundled":
    torch.set_num_threads(1)  # the threads of so small a model wait longer than they work
    chat = through_llama_cpp(chat, bundled.folder("prisma-lm"))
fast = chat.tier == "bundled" or unit.device == "cuda"
full = fast and not settings.is_quick()  # otherwise a few tasks each, with wide intervals
prisma = shop.make_shop(unit.seed)
toolbox = tools.Toolbox(shop.open_database(prisma))  # SQLite, in memory
numbers = list(prisma.orders)

# %% [markdown]
# Every number below comes with its 95 % interval in brackets: a method that makes such intervals is right in 95 of
# 100 experiments. Two results whose intervals do not meet differ; where they do meet, this notebook can't tell.
#
# ## 1. Can an agent learn from its failure?
#
# An agent that failed is usually started again: same prompt, same model, same mistake. **Reflexion** (Shinn et al.
# 2023, arXiv 2303.11366) adds two parts and a memory:
#
# 1. the **actor** tries the task (here: the ReAct agent of part 1);
# 2. the **evaluator** says whether it succeeded;
# 3. the **reflector** reads the failed trace and writes down, in words, what to do next time;
# 4. the actor tries again, with all reflections in its prompt.
#
# No weight changes. What is learned is text, and it lasts for one task. We need tasks whose first trial fails for a
# reason that one can learn from, and others that only need patience:
# - **mistyped**: the customer got one digit of the order's number wrong, and there is no such order;
# - **outage**: the database times out for the first two look-ups of this order, and then works again.

# %% tags=["topic:reflexion"]
many = 24 if full else 6
about_orders = []
for episode in text.episodes(300, seed=unit.seed + 31, shop=prisma):
    if episode.kind in ("contents", "owner"):
        about_orders.append(episode)
unlucky = about_orders[: many // 2]  # meet an outage
misspelt = []
for episode in about_orders[many // 2 : many]:
    misspelt.append(reflexion.mistyped(episode, numbers, unit.seed))
tasks = unlucky + misspelt
questions = [task.question for task in tasks]
down = [task.steps[0].argument for task in unlucky]

asked, meant = misspelt[0].question, about_orders[many // 2].question
print(f"the customer asks:  {asked}\nand should ask:     {meant}\nthe answer:         ", end="")
print(misspelt[0].answer)

# %% [markdown]
# **Who evaluates?** Here the simulation does: it knows the right answer and says right or wrong, no more. (The paper
# does the same on its questions: exact match. In a shop it would be the customer, who says "that is not mine".)
#
# **Who reflects?** In the paper a large model. prisma-lm was trained to write reflections, too: it has seen failed
# traces with a wrong tool or a wrong number in them. Is that enough? Let four agents fail, and read what it says. The
# right column is a reflector of *rules*: it looks for an existing order whose number differs in one digit, and
# remembers which it has named before.

# %% tags=["topic:reflexion"]
first_try = toolboxes.Outage(toolbox, down, calls=2)
traces = react.run_many(chat, first_try, questions, max_repeats=2)
wrong = []
for task, trace in zip(tasks, traces, strict=True):
    if not text.correct(task.answer, trace.answer):
        wrong.append(trace)
by_rules = reflexion.NearMisses(numbers)
rows, useful = [], []
for trace, own in zip(wrong, reflexion.own_words(chat, wrong), strict=True):
    by_rule = by_rules(trace, [])
    if by_rule and by_rule.instead:  # an order to try: the customer mistyped one
        useful.append(by_rule.instead in own)
    row = {"question": trace.question, "it saw": trace.steps[-1].observation}
    row |= {"prisma-lm says": own, "the rules say": by_rule.words if by_rule else "-"}
    rows.append(row)
figures.table([*rows[:2], *rows[-2:]], caption="Four of the failed first trials")

# %%
print("prisma-lm's reflection names the order that the rules would try:", share(useful))

# %% [markdown]
# The form is mostly right and the content is empty: "I asked for 6106, not for 6106." It was trained on failures
# whose cure stood in the question. Here the cure is nowhere in its text, and a small model can't know that. So the
# rules reflect.
#
# **Where is the reflection put?** In the paper: into the prompt. prisma-lm knows that place as well: it was trained
# on traces with a line "Reflection: ..." under the question. We measure three ways to try again, on the same tasks:
# - **nothing**: a plain retry. This is the control, and it must not be left out;
# - **below**: the reflection stands under the question;
# - **rewritten**: the program applies the reflection to the question ("Where is order 4821?" instead of 4812).
#
# Guess first: which of the 24 tasks will the plain retry solve? Will "below" be better?

# %% tags=["topic:reflexion"]
ways = {
    "nothing (control)": reflexion.as_before,
    "below": reflexion.below,
    "rewritten": reflexion.rewritten,
}


def right(place: int, trace: loop.Trace) -> bool:
    """The evaluator: whether task `place` was answered as the simulation knows it."""
    return text.correct(tasks[place].answer, trace.answer)


tried = {}
for name, retell in figures.progress(ways.items(), "ways to retry"):
    # The first trial has run above; the outage was over after it.
    tried[name] = reflexion.run_reflexion(
        chat, toolbox, questions, right, by_rules, retell, first=traces, max_repeats=2
    )

# %% tags=["topic:reflexion"]
rows = []
for name, attempts in tried.items():
    row = {"the next trial reads": name}
    for n in (1, 2, 3):
        row[f"solved within {n}"] = percent(share(reflexion.solved_within(attempts, n)))
    patient = reflexion.solved_within(attempts[: len(unlucky)], 3)
    learned = reflexion.solved_within(attempts[len(unlucky) :], 3)
    row["outage"] = f"{sum(patient)} of {len(patient)}"
    row["mistyped"] = f"{sum(learned)} of {len(learned)}"
    rows.append(row)
figures.table(rows, caption=f"Trials at {len(tasks)} tasks, 95 % intervals")

# %%
fig, ax = figures.figure(height=3.4)
for shift, (name, attempts) in enumerate(tried.items()):
    measures = [share(reflexion.solved_within(attempts, n)) for n in (1, 2, 3)]
    values, ends = error_bars(measures)
    places = [n + 0.06 * (shift - 1) for n in (1, 2, 3)]
    ax.errorbar(places, values, yerr=ends, marker="o", capsize=3, label=name)
ax.set(xlabel="trials", ylabel="share of tasks solved", ylim=(0, 1.04), xticks=(1, 2, 3))
ax.set_title("A reflection helps if the actor acts on it")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
last = {name: share(reflexion.solved_within(tried[name], 3)).value for name in tried}
told = ", ".join(f"{name} {100 * value:.0f} per cent" for name, value in last.items())
figures.show(fig, alt=f"Tasks solved within one, two, three trials. After three: {told}.")

# %% [markdown]
# Is "below" ignored, or misread? We can look: after the first reflection, which order does the agent ask for first?

# %% tags=["topic:reflexion"]
for name in ("below", "rewritten"):
    followed = []
    for attempt in tried[name][len(unlucky) :]:
        if len(attempt.traces) > 1 and attempt.reflections:
            second = attempt.traces[1].steps
            wanted = attempt.reflections[0].instead
            followed.append(bool(second) and second[0].argument == wanted)
    print(f"{name:10} asks for the order that the reflection names: {share(followed)}")
invented = [bool(trace.answer) for trace in wrong]
print(f"{sum(invented)} of {len(wrong)} failed first trials gave an answer all the same")

# %% [markdown]
# **What to notice.** Half of the first failures mend themselves: the plain retry solves the outages, and only those.
# Whoever measures Reflexion without this control takes the credit for a database that came back. The mistyped numbers
# stay wrong however often the agent retries. Rewriting the question solves most of them, some at the second trial and
# some at the third: more than one order is near, and the memory keeps the reflector from naming one of them twice.
#
# And the reflection *below* the question? prisma-lm goes on asking for the number in the question. In training its
# reflections told only what the question said anyway, so it learned that they can be skipped. The paper's large
# models do read such lines, and its agents improve. But the lesson holds for every model: **a reflection is a text
# like any other. Check whether the actor's next action changes.** Look also at the failures: an agent that found
# nothing may answer all the same (the last line counts). An evaluator that cannot look the answer up would believe
# it.

# %% [markdown]
# ### Exercise: What earlier trials taught (medium, about 20 minutes)
#
# Write the memory that goes into the next trial's prompt. `hint("7.2.reflection_memory")` helps. The check tests it;
# no later cell needs it.


# %%
def reflection_memory(
    reflections: Sequence[str],
    last: int,
    budget: int,
    count: Callable[[str], int],
) -> str:
    """Reflexion's memory as a text for the next trial's prompt (arXiv 2303.11366).

    `reflections` are the agent's notes after its failed trials, oldest first. Two are the same if
    they differ in capital letters and in blanks at most: of the same ones only the newest counts.
    One without a word does not count. Keep the newest `last` of what counts. The text is the line
    "What earlier trials taught:" and a line "- " with the note, without blanks around it, for each
    that is kept, oldest first, joined by line breaks. `count(text)` gives the tokens of a text. As
    long as the whole text has more than `budget`, leave out the oldest note. "" if no note is left.
    """
    # Your code here
    raise NotImplementedError


# %%
reflection_memory = check("7.2.reflection_memory", reflection_memory)

# %%
quiz("7.2.reflexion_needs")

# %% [markdown]
# ## 2. Which pattern, for which trouble?
#
# In part 1 all patterns solved nearly everything, so there was nothing to choose. Now the tasks are long (three to
# five calls each), and each row of tasks meets one trouble:
# - **none**: everything works;
# - **time-outs**: three calls in ten fail;
# - **remarks**: since the last update, the tools say more than they did. Behind each record stands
#   "(last checked today)". It is true and it is harmless; nobody told the model;
# - **mistyped**: the order's number has a wrong digit, as in section 1.
#
# Five patterns get the very same tasks. Reflexion is ReAct with two more trials, rules that reflect, and a question
# that is rewritten. Before you run it, write down one guess for each trouble: who survives?

# %% tags=["topic:pattern-comparison"]
drawn = text.episodes(400, seed=unit.seed + 7, shop=prisma)
chains = [task for task in drawn if task.kind in ("total", "total with fee")]
chains = chains[: 16 if full else 4]
mistaken = [reflexion.mistyped(task, numbers, unit.seed) for task in chains]
REMARK = " (last checked today)"
Box = Callable[[], loop.Tools]
troubles: dict[str, tuple[list[text.Episode], Box]] = {
    "none": (chains, lambda: toolbox),
    "time-outs": (chains, lambda: toolboxes.Flaky(toolbox, 0.3, seed=unit.seed)),
    "remarks": (chains, lambda: toolboxes.Remarking(toolbox, REMARK)),
    "mistyped": (mistaken, lambda: toolbox),
}
lengths = sorted({len(task.steps) for task in chains})
print(f"{len(chains)} tasks of {lengths} calls, for example: {chains[0].question}")


# %% tags=["topic:pattern-comparison"]
def again(given: list[text.Episode], box: loop.Tools, first: list) -> list[reflexion.Attempts]:
    """Reflexion: two more trials for what ReAct's traces in `first` did not solve."""

    def solved(place: int, trace: loop.Trace) -> bool:
        return text.correct(given[place].answer, trace.answer)

    asked = [task.question for task in given]
    return reflexion.run_reflexion(
        chat, box, asked, solved, by_rules, reflexion.rewritten, first=first
    )


runs = {}  # of each pattern and trouble: the traces of each task
for trouble, (given, box) in figures.progress(troubles.items(), "troubles"):
    asked = [task.question for task in given]
    at_once = react.run_many(chat, box(), asked)
    runs["no tools", trouble] = [[trace] for trace in react.run_direct(chat, asked)]
    runs["ReAct", trouble] = [[trace] for trace in at_once]
    runs["ReWOO", trouble] = [[trace] for trace in rewoo.run_rewoo(chat, box(), asked)]
    called = function_calls.run_calls(chat, box(), asked)
    runs["function calls", trouble] = [[trace] for trace in called]
    attempts = again(given, box(), at_once)
    runs["Reflexion", trouble] = [attempt.traces for attempt in attempts]

# %% tags=["topic:pattern-comparison"]
patterns = ("no tools", "ReAct", "ReWOO", "function calls", "Reflexion")
marks = {}
for (pattern, trouble), trials in runs.items():
    last = [traces[-1] for traces in trials]
    marks[pattern, trouble] = success.outcomes(troubles[trouble][0], last)
rows = []
for pattern in patterns:
    row = {"pattern": pattern}
    for trouble in troubles:
        row[trouble] = percent(share(marks[pattern, trouble]))
    rows.append(row)
figures.table(rows, caption=f"Tasks solved, n = {len(chains)} for each cell")

# %% tags=["topic:pattern-comparison"]
rows = []
for pattern in patterns:
    row = {"pattern": pattern}
    for trouble in troubles:
        calls, spent = 0, 0
        for traces in runs[pattern, trouble]:
            calls += sum(trace.tool_calls for trace in traces)
            spent += sum(sum(loop.tokens(chat, trace)) for trace in traces)
        n = len(runs[pattern, trouble])
        row[trouble] = f"{calls / n:.1f} calls, {spent / n:,.0f} tokens"
    rows.append(row)
figures.table(rows, caption="Tool calls, and tokens read and written, per task")

# %%
fig, ax = figures.figure(width=8, height=3.4)
for shift, pattern in enumerate(patterns):
    values, ends = error_bars([share(marks[pattern, trouble]) for trouble in troubles])
    places = [n + 0.16 * (shift - 2) for n in range(len(troubles))]
    ax.bar(places, values, width=0.15, yerr=ends, capsize=2, label=pattern)
ax.set_xticks(range(len(troubles)), list(troubles))
ax.set(ylabel="share of tasks solved", ylim=(0, 1.04), title="Each trouble has its own survivor")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
ax.grid(axis="x", visible=False)
told = []
for trouble in troubles:
    best = max(patterns, key=lambda pattern: sum(marks[pattern, trouble]))
    told.append(f"{trouble}: {best} {share(marks[best, trouble]).value:.0%}")
figures.show(fig, alt=f"Bars of tasks solved by five patterns. The best: {'; '.join(told)}.")

# %% [markdown]
# Why? We have three suspicions. A suspicion is worth a measurement: **take the suspected cause away, leave everything
# else, and see whether the difference goes.**
# - *ReWOO falls to time-outs because nobody asks again.* Then a toolbox that retries must cure it.
# - *ReAct falls to remarks because the model reads every result, and was never trained on such lines. ReWOO passes
#   fields from program to program.* Then a toolbox that writes each result anew from its fields must cure ReAct.
# - *Reflexion is ahead on mistyped numbers through what it learns, and not through more trials.* Then the same number
#   of trials without reflections must bring nothing.

# %% [markdown]
# ### Exercise: Once more, where it does no harm (medium, about 15 minutes)
#
# Tools fail now and then. What may simply be asked again, and what must not? `hint("7.2.retrying_toolbox")` helps.
# The measurement below uses the course's `toolboxes.Retrying`: its tools only look things up, so it may always ask
# again.


# %%
def retrying_toolbox(
    toolbox: Callable[[str, str], str],
    tool: str,
    argument: str,
    read_only: Sequence[str],
    tries: int,
) -> str:
    """What a tool says, with more tries where more tries do no harm.

    `toolbox(tool, argument)` gives the tool's answer. It raises TimeoutError when no answer comes
    in time: then nobody knows whether the tool has done its work. A tool in `read_only` changes
    nothing: try it again, up to `tries` times in all. Every other tool is called once.
    If the last try times out, the answer is "error: timeout" for a tool in `read_only`, and
    "error: timeout, it may have been done" for another. Any other exception would come again: the
    answer is "error: " and the exception's text, at once. (Pauses between tries are left out.)
    """
    # Your code here
    raise NotImplementedError


# %%
retrying_toolbox = check("7.2.retrying_toolbox", retrying_toolbox)

# %%
figures.source(toolboxes.Tidied)

# %% tags=["topic:pattern-comparison"]
asked = [task.question for task in chains]
flaky, remarking = troubles["time-outs"][1](), troubles["remarks"][1]()
cured = {
    "ReWOO, time-outs": rewoo.run_rewoo(chat, toolboxes.Retrying(flaky), asked),
    "ReAct, remarks": react.run_many(chat, toolboxes.Tidied(remarking), asked),
}


def solved(place: int, trace: loop.Trace) -> bool:
    """Whether the task with a mistyped number was solved."""
    return text.correct(mistaken[place].answer, trace.answer)


begun = [traces[0] for traces in runs["ReAct", "mistyped"]]
asked = [task.question for task in mistaken]
plain = reflexion.run_reflexion(
    chat, toolbox, asked, solved, by_rules, reflexion.as_before, first=begun
)

# %% tags=["topic:pattern-comparison"]
rows = []
for name, change in (
    ("ReWOO, time-outs", "a toolbox that retries"),
    ("ReAct, remarks", "results written anew from fields"),
):
    pattern, trouble = name.split(", ")
    row = {"pattern, trouble": name, "before": percent(share(marks[pattern, trouble]))}
    row |= {"what changes": change, "after": percent(success.success(chains, cured[name]))}
    rows.append(row)
row = {"pattern, trouble": "Reflexion, mistyped"}
row["before"] = percent(share(marks["Reflexion", "mistyped"]))
row["what changes"] = "the same trials, no reflection"
row["after"] = percent(share(reflexion.solved_within(plain, 3)))
figures.table([*rows, row], caption="Take the suspected cause away")

# %% [markdown]
# **What to notice.** No pattern is best. ReAct reads what happens, so it outlives many time-outs, and for the same
# reason it is confused by a remark. ReWOO hands fields on without reading them: blind to both. Function calls read
# results, too, and lose less to the remark than ReAct; why, we have not measured. Reflexion pays with tokens for
# every failure, and earns something only where there is something to learn: look at its tokens under "remarks".
# prisma-lm has seen results in one form only; a large model may well read over such a remark. What carries over is
# the method: a difference, a suspicion, an intervention. (We chose the troubles so that patterns part, and tried six
# remarks; this one was the mildest to ReAct. How often a pattern fails with *your* tools only your tools can say.)
#
# And two of the three cures are not in the model at all. Retries and one form for all results belong to the program
# around it.

# %% [markdown]
# ## 3. What is still known after forty turns?
#
# A model knows of a conversation what stands in its prompt. Prompts have a limit and a price, so every assistant that
# talks for long has a **memory**: a rule for what goes into the prompt. Four of them:
# - **everything**: all turns so far;
# - **window**: the last eight turns;
# - **summary**: the last eight turns, and what is older in a few short lines;
# - **store**: nothing by itself. All notes lie outside, and a search fetches at most three for the question.
#
# The conversation has 40 turns. In each, a customer says which toy she wants; some change their mind later, and then
# the last word counts. Afterwards we ask for every customer. prisma-lm was trained to look a name up in a list of
# such lines, so here it really reads. It was *not* trained to summarize: our summary is a rule (one word a customer,
# the eight heard of last), and says so.

# %% tags=["topic:memory"]
notes = conversation_memory.conversation(40, seed=unit.seed)
print("; ".join(str(note) for note in notes[:6]), "; ...")
final = conversation_memory.truth(notes)
changed = [note.who for note in notes if note.what != final[note.who]]
print(f"{len(final)} customers, {len(set(changed))} of whom changed their mind")
shown = conversation_memory.Summary(size=8, lines=8)
for note in notes:
    shown.add(note)
print("\nThe prompt of the summary, asked for the first customer:")
print(conversation_memory.prompts(shown, [notes[0].who])[0])

# %% [markdown]
# Two questions, kept apart: is the fact **in the prompt** (an exact check, without any model)? And does the model
# **answer** it? Guess both for "everything".


# %% tags=["topic:memory"]
def memories() -> dict[str, conversation_memory.Memory]:
    """The four memories, empty."""
    return {
        "everything": conversation_memory.Window(),
        "window": conversation_memory.Window(8),
        "summary": conversation_memory.Summary(size=8, lines=8),
        "store": conversation_memory.Store(found=3),
    }


talks = [conversation_memory.conversation(40, seed) for seed in range(2 if full else 1)]
held = {name: [] for name in memories()}
known = {name: [] for name in memories()}
length = {name: [] for name in memories()}
for talk in figures.progress(talks, "conversations"):
    wanted = conversation_memory.truth(talk)
    for name, memory in memories().items():
        for note in talk:
            memory.add(note)
        held[name].append(conversation_memory.holds(memory, wanted))
        known[name].append(conversation_memory.reads(chat, memory, wanted))
        for prompt in conversation_memory.prompts(memory, list(wanted)):
            length[name].append(loop.count(chat, prompt))

# %% tags=["topic:memory"]
rows = []
for name in held:
    row = {"memory": name, "in the prompt": percent(pooled(held[name]))}
    row["answered by the model"] = percent(pooled(known[name]))
    row["tokens in the prompt"] = sum(length[name]) / len(length[name])
    rows.append(row)
figures.table(rows, caption="What is still known after 40 turns", digits=0)

# %% [markdown]
# "Everything" has all facts in the prompt, and the model answers far fewer. Is it the *length* that hurts, or the
# *outdated* lines, which contradict the new ones? Take one away: the same 24 true lines, without the outdated ones;
# and then only the ones that the question needs, with a few others.

# %% tags=["topic:memory"]
rows = []
for size in (24, 12, 6, 3):
    answered = []
    for talk in talks:
        wanted = conversation_memory.truth(talk)
        people = list(wanted)[:size]
        tidy = conversation_memory.Window()
        for who in people:
            tidy.add(conversation_memory.Note(who, wanted[who]))
        asked = {who: wanted[who] for who in people}
        answered.append(conversation_memory.reads(chat, tidy, asked))
    rows.append({"lines, all true": size, "answered": percent(pooled(answered))})
figures.table(rows)

# %% [markdown]
# **What to notice.** *In the prompt* is not yet *known*. The window forgets; the summary keeps names and loses what
# was said; "everything" keeps all and costs most, and the model answers about half of it at best. Without the
# outdated lines more is answered; but the list is then shorter as well, so this can't tell which of the two helped.
# Still shorter lists look better again, and their intervals meet: not decided. (prisma-lm learned on lists of three
# to nine lines.) Long contexts of large models reach further, and the same curve has been measured on them ("Lost in
# the Middle", arXiv 2307.03172).
#
# The store holds as much as "everything", and the model answers all of it, with the shortest prompt, for two reasons
# to keep in mind. It *overwrites*: one note a customer, the newest. And our questions name the customer, so the
# search can't miss. Ask "who wanted the blue star?" in other words, and retrieval becomes the weak link. That is the
# next section.

# %% [markdown]
# ## 4. Retrieval as a tool
#
# A store can be a tool as well: the agent asks, a search answers. Until now `policy[returns]` was a look-up by an
# exact key. Now the shop has rewritten its page: no headings any more, and true sentences on other things among the
# six that we need. An exact key finds nothing. A **search** ranks all sentences by the words they share with the
# query, rare words first, and returns the best one. It needs no training and no model; the lab on retrieval compares
# it with vectors.

# %% tags=["slide", "topic:tool-retrieval"]
page = [shop.policy_text(prisma, topic) for topic in shop.TOPICS]
page += [
    "gift cards are valid for 36 months",
    "shipping to islands takes 9 days longer",
    "returned toys are checked within 3 days",
    "our shop opened 12 years ago",
    "a damaged parcel should be reported within 7 days",
    "teachers get 15 percent on large orders",
]


def by_search(query: str) -> tools.Result:
    """The sentence of the page that fits best, or an error in words."""
    best = conversation_memory.closest(query, page, 1)
    if not best:
        return tools.failed(f"nothing on {query}")
    found = page[best[0]]
    number = "".join(sign for sign in found if sign.isdigit())
    return tools.Result(found, {"number": number})


# %% [markdown]
# The agent decides *when* to search and with *which words*. prisma-lm writes one word, because that is how it learned
# `policy`. A search has more to go on with more words, so the third toolbox adds the customer's question to the
# agent's word.


# %% tags=["topic:tool-retrieval"]
def searching(question: str = "", exact: bool = False) -> loop.Tools:
    """The shop's tools, whose policy tool is a look-up by key, or a search."""

    def box(name: str, argument: str) -> tools.Result:
        if name != "policy":
            return toolbox(name, argument)
        if exact:
            found = [line for line in page if line.startswith(f"{argument}:")]
            return tools.Result(found[0]) if found else tools.failed(f"no policy on {argument}")
        return by_search(f"{argument} {question}")

    return box


asked, wanted, sources = [], [], []
for topic, (forms, answer) in text.POLICY_QUESTIONS.items():
    for form in forms:
        asked.append(form)
        wanted.append(answer.format(prisma.policies[topic]))
        sources.append(shop.policy_text(prisma, topic))

# %% tags=["topic:tool-retrieval"]
boxes = {
    "look-up by key": [searching(exact=True) for _ in asked],
    "search, the agent's word": [searching() for _ in asked],
    "search, word and question": [searching(question) for question in asked],
}
rows, told = [], []
for name, own in figures.progress(boxes.items(), "tools"):
    found, answered = [], []
    for question, box, answer, source in zip(asked, own, wanted, sources, strict=True):
        [trace] = react.run_many(chat, box, [question], max_repeats=2)
        seen = trace.steps[-1].observation if trace.steps else ""
        found.append(seen == source)
        answered.append(text.correct(answer, trace.answer))
        if seen != source and trace.answer:
            told.append({"tool": name, "question": question, "it read": seen})
            told[-1]["it answers"] = trace.answer
    row = {"policy tool": name, "right sentence found": percent(share(found))}
    row["right answer"] = percent(share(answered))
    rows.append(row)
figures.table(rows, caption=f"{len(asked)} questions on the shop's rules")

# %% tags=["topic:tool-retrieval"]
figures.table(told[-6:] or [{"answers from the wrong sentence": 0}])

# %% [markdown]
# **What to notice.** Two columns, because two things can fail. Where the right sentence is found, the model reads it.
# Where the wrong one is found, it reads *that*, and answers without a doubt. Where nothing is found, it may answer
# all the same. The words of the query seem to decide (on so few questions the intervals of the two searches still
# touch): "warranty" does not occur in "toys are covered for ... months", and no rule of words will find it. For that,
# sentences are turned into vectors that are close when the *meaning* is. The lab
# [retrieval](labs/7.2_lab_retrieval.ipynb) does.

# %% [markdown]
# ## 5. May a model run code?
#
# The calculator of part 1 never calls `eval`: it turns a sum into a syntax tree and allows what it knows. That is
# safe, and small. A model that may write *code* can do more with one call: loop, sort, compare. But who runs code
# from a stranger? Guess first: which of these lines can each of the two work out?
#
# The right-hand column is `pydantic-monty`: an **interpreter of its own** for a part of Python, written in Rust, in a
# process of its own. It does not take things away from Python. It has never had them: no files, no programs, no
# network.

# %% tags=["topic:tool-compute"]
from course_utils.agents import approval, graph
from course_utils.agents.hands import code_sandbox, escape_attempts

written = [
    "3 * 12",
    "17 / 4",
    "sum([12, 7, 30])",
    "max(12, 7) * 3",
    "9 ** 9 ** 9",
    "open('/etc/passwd')",
]
rows = []
for expression in written:
    calculated = toolbox("calculator", expression).text
    outcome = code_sandbox.run(expression)
    row = {"the model writes": expression, "calculator": calculated}
    row["sandbox"] = outcome.text
    rows.append(row)
figures.table(rows)

# %% [markdown]
# Can our model write code? Ask it. (At the small and the full tier this is a general model, and it may.)

# %% tags=["topic:tool-compute"]
wish = "Write Python code that adds the prices 12, 7 and 30. Write the code alone."
reply = chat.chat([{"role": "user", "content": wish}], max_new_tokens=60)
code = reply.replace("```python", "").replace("```", "")
print(reply)
print("-> in the sandbox:", code_sandbox.run(code).text)

# %% [markdown]
# prisma-lm cannot: it was trained on sums, tool calls and plans. The nearest thing to a program that it writes is its
# **plan** (ReWOO, part 1): lines that name tools, and use what earlier lines have found. `as_python` writes such a
# plan as Python, word for word, and the tools become functions that the sandbox may call. So this is code of the
# model's own:

# %% tags=["topic:tool-compute"]
order = next(iter(prisma.orders.values()))
question = f"What does order {order.number} cost with shipping?"
[trace] = rewoo.run_rewoo(chat, toolbox, [question])
plan = trace.log[0][1].strip()
program = code_sandbox.as_python(plan)
functions = code_sandbox.tool_functions(toolbox, "orders", "catalogue", "customer", "policy")
outcome = code_sandbox.run(program, functions=functions)
print(plan, "\nas Python:", program, sep="\n")
print("\n->", outcome.text, "| the agent answered:", trace.answer)

# %% [markdown]
# One program is an anecdote. Does the sandbox find what part 1's runner of plans found? We take the plans for
# questions of all kinds, and compare the last line of those that end in a sum.

# %% tags=["topic:tool-compute"]
fast = chat.tier == "bundled" or unit.device == "cuda"
tasks = text.episodes(60 if fast else 6, seed=11, shop=prisma)
traces = rewoo.run_rewoo(chat, toolbox, [task.question for task in tasks])
ran, same = [], []
for trace in traces:
    program = code_sandbox.as_python(trace.log[0][1])
    outcome = code_sandbox.run(program, functions=functions)
    ran.append(outcome.ok)
    if outcome.ok and trace.steps and trace.steps[-1].tool == "calculator":
        found = str(outcome.value["value"])
        same.append(found == trace.steps[-1].observation)
print("programs that ran:", share(ran))
if same:
    print("the same sum as the runner of plans:", share(same))

# %% [markdown]
# What does code add? A loop. *Which customer's last order is worth most?* takes an agent without code three calls for
# each customer, with a turn of the model for each call. As code it is one turn. (We wrote this program; a model of
# some billion parameters writes such things daily. Our first version said `max(worth, key=worth.get)`, which the
# sandbox did not know: it is a *part* of Python.)

# %% tags=["topic:tool-compute"]
program = """
worth = {}
for name in names:
    order = orders(customer(name)["number"])
    product = catalogue(order["product"])
    worth[name] = order["quantity"] * product["price"]
ranked = sorted(worth.items(), key=lambda pair: pair[1])
name, euros = ranked[-1]
f"{name}: {euros} euros"
"""
names = sorted({order.customer for order in prisma.orders.values()})
outcome = code_sandbox.run(program, inputs={"names": names}, functions=functions)
print(outcome.text, f"| {3 * len(names)} calls of tools in one turn, for {len(names)} customers")

# %% [markdown]
# **A common claim:** "Run the model's code in a subprocess with limits, and it is sandboxed." We test it with thirty
# attempts to get out. They are harmless: the secret was made for them, in a temporary folder; what they call is a
# port on this machine that counts its callers. `run_limited` starts a fresh Python with a limit of time and memory,
# an empty environment and an empty folder. An attempt is *out* if the secret, a file or a call proves it, whatever
# the code says.

# %% tags=["slide"]
figures.source(code_sandbox.run)

# %% tags=["topic:tool-compute"]
ways = {"limited subprocess": code_sandbox.run_limited, "pydantic-monty": code_sandbox.run}
rows, escaped = [], {name: [] for name in ways}
with escape_attempts.Ground() as ground:
    for attempt in figures.progress(escape_attempts.ATTEMPTS, "attempts"):
        row = {"aim": attempt.aim, "way": attempt.way}
        for name, way in ways.items():
            out, outcome = ground.try_out(attempt, way)
            escaped[name].append(out)
            row[name] = "OUT" if out else "stopped"
        row["what monty said"] = outcome.error.partition(":")[0] or "ran, in no time"
        rows.append(row)
figures.table(rows, caption="Thirty attempts to get out")

# %%
for name, outs in escaped.items():
    print(f"{name:18} {sum(outs)} of {len(outs)} got out")

# %% [markdown]
# **Verdict.** A subprocess is a wall against *accidents*: it stopped the loop, the memory and the sleep, and it saw
# no environment. It is none against intent: the new Python has your rights, so it reads what you can read.
# Containers, virtual machines and the operating system's own filters take those rights away; they cost a start, and
# set-up.
#
# Are the limits of the interpreter real? We measure both. A limit of time counts *execution*, and a sleeping program
# does not execute: without `sleep: zero` in the source above, `time.sleep(5)` waits five seconds under a limit of
# one.

# %% tags=["topic:tool-compute"]
rows = []
for seconds in (0.2, 0.5, 1.0):
    outcome = code_sandbox.run("while True:\n    pass", seconds=seconds)
    row = {"limit": f"{seconds} s", "reached": f"{outcome.seconds:.1f} s, with the start"}
    rows.append(row | {"told": outcome.error})
greedy = "kept = []\nwhile True:\n    kept.append('x' * 2**20)\n    print(len(kept))"
for megabytes in (8, 32, 128):
    outcome = code_sandbox.run(greedy, megabytes=megabytes)
    reached = outcome.printed.split()[-1]
    row = {"limit": f"{megabytes} MB", "reached": f"{reached} MB kept"}
    rows.append(row | {"told": outcome.error})
figures.table(rows)

# %% [markdown]
# So no hole is left? One is: the hole that *you* make. Whatever function you hand in is the sandbox's wall from then
# on.

# %% tags=["topic:tool-compute"]
handed_in = {"read_page": lambda name: Path(name).read_text()}
innocent = escape_attempts.Attempt("read a file", "your own function", "print(read_page(SECRET))")
with escape_attempts.Ground() as ground:
    out, outcome = ground.try_out(
        innocent, lambda code: code_sandbox.run(code, functions=handed_in)
    )
print("out:", out)

# %% [markdown]
# **What to notice.** A list of what is forbidden is never complete; thirty attempts found what such a list would have
# to hold. An interpreter that *has* nothing needs no list. But none of thirty proves little: these are the attempts
# that we thought of, and an interpreter has bugs, too. In production, put a second wall round the first: a container
# without network, a user without rights. And give a tool the narrowest function that does the work: not `read_page`,
# but `policy(topic)`.
#
# Version 1.4 of the package has wheels for Linux (glibc and musl, six kinds of processor), macOS (Intel from 10.12,
# Apple from 11) and Windows (32 and 64 bit, not ARM), for CPython 3.10 to 3.15: so its index lists them. We ran it on
# Linux only. The limits of `run_limited` are Linux's and macOS's; on Windows it has the limit of time alone, and more
# attempts get out.

# %%
quiz("7.2.sandbox")

# %% [markdown]
# ## 6. What if the machine stops in the middle?
#
# An agent that asks a person waits, for minutes or until Monday. Until then somebody restarts the machine. A loop in
# Python loses everything; it also cannot say where it was. **LangGraph** has you write the agent as a graph: *nodes*
# are functions, *edges* say what may follow, and a *state* travels along them. Three things come with it: **cycles**,
# an **interrupt** that waits for a person, and **checkpoints**: after each step the state is saved, here in SQLite.
#
# Our agent finds out what an order cost, asks whether to pay it back, and pays. Here are two of its nodes, and how
# they are joined:

# %% tags=["slide"]
figures.source(graph.Steps.approve, graph.Steps.refund, graph.build)

# %% [markdown]
# And this is the graph, drawn from LangGraph's own account of it. Dashed edges are conditional: a function looks at
# the state and chooses.

# %% tags=["topic:langgraph"]
steps = graph.Steps(toolbox, toolbox.database, talk=print)
built = graph.build(steps)
fig, ax = figures.figure(height=2.6, width=8)
graph.draw(ax, built)
alt = (
    "The graph: from start to think; think and act form a cycle; think leads to propose or to the "
    "end; propose to approve; approve to refund or to the end; refund to the end."
)
figures.show(fig, alt=alt)

# %% [markdown]
# To kill it in earnest, the agent runs as a **process of its own**. The model stays here and answers its questions
# over a pipe, as a model server would. The two share files: the shop's database, and the checkpoints. Before each
# step the process tells what it did, and instead of answering we may kill it: SIGKILL, which no program can catch.
#
# Nobody is here while a notebook runs by itself, so *the person is a function*. It approves, and we count how often
# it was asked. First a quiet run, in which nobody is killed:


# %% tags=["topic:langgraph"]
def ask(prompt: str) -> str:
    """The model's next turn."""
    [reply] = react.turns(chat, [loop.Trace("", prompt)])
    return reply


def approve(request: dict) -> dict:
    """Stands for a person: says yes to everything."""
    return {"verdict": "approve", "by": "a function"}


def pay_back(name: str, kill: graph.Killer, keys: str) -> list[graph.Moment]:
    """One refund, in a folder of its own, however often its process is killed."""
    folder = unit.folder / name
    folder.mkdir(exist_ok=True)
    graph.open_shop(prisma, folder)
    asked = f"What does order {order.number} cost?"
    first = opening(chat, "react", asked)
    return graph.outlive(folder, order.number, first, ask, approve, kill, keys)


# %% tags=["topic:langgraph"]
quiet = pay_back("quiet", graph.Killer(), keys="kept")
said = [moment.said for moment in quiet]
print(textwrap.fill(" > ".join(said), 88))
print("in the shop's database:", graph.payments(unit.folder / "quiet"))

# %% [markdown]
# Now kill it at the worst moment: the payment is in the shop's database, and the checkpoint that would say so is not
# yet written. **A common claim:** "With checkpoints, an agent never does a thing twice." Guess: how often is paid?

# %% tags=["topic:langgraph"]
twice = pay_back("twice", graph.Killer(words=[graph.WORST]), keys="fresh")
after_kill = [moment.said for moment in twice if moment.process == 2]
print("the second process:", " > ".join(after_kill))
print("in the shop's database:", graph.payments(unit.folder / "twice"))

# %% [markdown]
# Twice. The second process found a checkpoint that says "next: refund", and did what it says. No framework can know
# better: the payment and the checkpoint lie in two databases, and between two writes there is always a moment. The
# cure belongs to whoever is paid for remembering: an **idempotency key**. It is made *before* the person is asked,
# saved in the state, and sent with each attempt. The shop pays a key once:

# %%
figures.source(graph.pay)

# %% tags=["topic:langgraph"]
rng = random.Random(unit.seed)
moments = rng.sample(range(1, 15), 5)
killer = graph.Killer(at=moments, words=[graph.WORST])
survived = pay_back("survived", killer, keys="kept")
rows = []
for moment in survived:
    if moment.killed:
        rows.append({"process": moment.process, "killed when it said": moment.said})
figures.table(rows, caption="Killed at five random moments before the payment, and at the worst")

# %% tags=["topic:langgraph"]
paid = graph.payments(unit.folder / "survived")
asked = sum(moment.said == "a person is asked" for moment in survived)
thought = {}
for name, run in (("quiet", quiet), ("killed", survived)):
    thought[name] = sum(moment.said == "the model is asked" for moment in run)
print(f"{survived[-1].process} processes, {survived[-1].said}")
print("in the shop's database:", paid, "| a person was asked:", asked)
print("turns of the model:", thought)

# %% [markdown]
# **What to notice.** What was saved was not done again: a killed run asks the model once more only for a turn whose
# result no checkpoint had. And the money went once, although the node `refund` ran in more than one process.
# `durability="sync"` writes each checkpoint before the next step; LangGraph's default writes it beside the next step,
# which is faster and can lose the last one. A node that was cut off runs again *from its beginning*. So give each
# node one effect, make that effect repeatable, and keep what must not change (the key) in the state.
#
# Three things to know before you use it. A person may be asked twice, when the kill falls between answer and
# checkpoint. Whoever can write to the checkpoint file decides what your agent does next: guard it like the database.
# And one that surprised us: our first version asked `get_state(...).next` whether there was more to do. Killed
# between a step's result and the checkpoint behind it, `next` is empty, and the run ended with nothing paid. `tasks`
# still names the step. Only a test that loses each checkpoint in turn told us.

# %%
quiz("7.2.worst_moment")

# %% [markdown]
# ## 7. What should a person approve?
#
# Reading an order can be repeated; paying, sending and deleting cannot be undone. Such actions pass a **gate**: a
# program decides whether a person is needed, the person approves, edits or rejects, and the record keeps who decided
# what. The gate is short:

# %% tags=["slide"]
figures.source(approval.Gate.__call__)

# %% [markdown]
# Five refunds come from an agent. *Under "Run all" the decisions come from a function*, and no cell of this notebook
# waits for a keyboard. To be asked yourself, write `decide = approval.by_person("your name")`.

# %% tags=["topic:approval"]
folder = unit.folder / "gate"
folder.mkdir(exist_ok=True)
graph.open_shop(prisma, folder)
database = graph.connect(folder / graph.SHOP)


def pay(number: int, amount: int) -> str:
    """The action behind the gate. One order is paid back once: its number is the key."""
    graph.pay(database, f"order-{number}", number, amount)
    return f"{amount} euros paid"


def decide(request: approval.Request) -> approval.Decision:
    """Stands for a person who knows what each order cost, and has no answer about others."""
    known = prisma.orders[request.arguments["number"]]
    cost = known.quantity * known.product.price
    if known.status not in ("delivered", "returned"):
        return approval.Decision("reject", "Ada", f"the order is {known.status}")
    if request.worth > cost:
        return approval.Decision("edit", "Ada", f"it cost {cost}", {"amount": cost})
    return approval.Decision("approve", "Ada", "as ordered")


# %% tags=["topic:approval"]
def first_order(status: str, least: int, most: int) -> shop.Order:
    """An order of a status that cost between `least` and `most` euros."""
    for order in prisma.orders.values():
        cost = order.quantity * order.product.price
        if order.status == status and least <= cost <= most:
            return order
    raise ValueError(f"no order {status} between {least} and {most} euros")


wanted = [(first_order("returned", 5, 40), 0), (first_order("delivered", 60, 90), 0)]
wanted += [(first_order("delivered", 100, 200), 300), (first_order("shipped", 90, 200), 0)]
gate = approval.Gate(pay, needs_person=lambda request: request.worth >= 50, decide=decide)
for chosen, extra in wanted:
    amount = chosen.quantity * chosen.product.price + extra
    arguments = {"number": chosen.number, "amount": amount}
    gate(approval.Request("refund", arguments, worth=amount))
gate(approval.Request("refund", {"number": 1, "amount": 500}, worth=500))  # Ada knows no such order
gate.write(unit.folder / "decisions.jsonl")
figures.table(gate.rows(), caption="The record: asked from 50 euros on")

# %%
print("in the shop's database:", graph.payments(folder))
database.close()

# %% [markdown]
# The last request made `decide` itself fail, and nothing was paid. That is a rule worth having: **silence is no
# consent**. A gate whose page is broken must be shut.

# %% [markdown]
# ### Exercise: Nothing runs before the person has spoken (medium, about 20 minutes)
#
# Write the gate yourself: who is asked, what runs, and above all when. `hint("7.2.approval_gate")` helps. The check
# tests it; no later cell needs it.


# %%
def approval_gate(
    calls: Sequence[tuple[str, str]],
    harmless: Sequence[str],
    ask: Callable[[str, str], tuple[str, str]],
    run: Callable[[str, str], str],
) -> list[str]:
    """What the tools say to the calls of one reply, after a person has looked at those that matter.

    A call is (tool, argument). Calls of tools in `harmless` run without a question. About each
    other call the person is asked, in order: ask(tool, argument) gives (decision, new argument).
    "approve" lets the call run as it is, "edit" lets it run with the new argument. Anything else
    is a no: the call does not run, and its answer is "error: a person said no".
    Nothing runs before every question is answered. Then run(tool, argument) runs what may run, in
    order. Return the answers in the order of `calls`.
    """
    # Your code here
    raise NotImplementedError


# %%
approval_gate = check("7.2.approval_gate", approval_gate)

# %% [markdown]
# **A common claim:** "A human in the loop makes it safe." Then ask about everything? People who are asked too often
# stop reading. In a study of 112 clinicians, the likelihood that a reminder was accepted fell by 30 % with each
# further reminder in the same visit (Ancker et al. 2017, doi 10.1186/s12911-017-0430-8). The makers of a coding agent
# report that its users approve 93 % of what they are asked (Anthropic, "Claude Code auto mode", March 2026; their own
# figure).
#
# So we simulate. Each day the agent would pay a hundred refunds, of which 5 % should not be paid: a customer lies, or
# an injected text chose the order. Whoever cheats picks a dear order. The person notices a bad one with a probability
# of 95 % when fresh, and each question of the day takes a share of it away. **This share is our assumption**; that is
# why we draw three. Guess: from which amount on should the person be asked?

# %% tags=["topic:approval"]
rng = random.Random(unit.seed)
days = [approval.day_of_cases(prisma, 100, harmful=0.05, rng=rng) for _ in range(200)]
limits = [0, 50, 100, 150, 200, 250, 300, 500]
people = {"never tires": 0.0, "tires slowly (1 % a question)": 0.01, "tires fast (3 %)": 0.03}
questions, harms = {}, {}
for name, tiring in people.items():
    for limit in limits:
        asked, harm = [], []
        for number, cases in enumerate(days):
            luck = random.Random(number)
            asked_today, harm_today = approval.day(cases, limit, tiring, luck)
            asked.append(asked_today)
            harm.append(harm_today)
        questions[limit] = sum(asked) / len(days)
        harms[name, limit] = harm

# %%
fig, ax = figures.figure(height=3.6)
for name, marker in zip(people, "osD", strict=True):
    measures = [bootstrap(harms[name, limit], "euros") for limit in limits]
    values = [measure.value for measure in measures]
    low = [measure.low for measure in measures]
    high = [measure.high for measure in measures]
    ax.plot(limits, values, marker=marker, label=name)
    ax.fill_between(limits, low, high, alpha=0.15)
ax.set(xlabel="a person is asked from this amount on (euros)", ylabel="harm paid a day (euros)")
ax.set(title="Who asks about everything tires the one who looks", ylim=0)
ax.legend()
best = {name: min(limits, key=lambda limit: sum(harms[name, limit])) for name in people}
alt = f"Harm a day against the limit, with 95 % bands; lowest at {figures.told(best)} euros."
figures.show(fig, alt=alt)


# %% tags=["topic:approval"]
def in_euros(values: list[float]) -> str:
    """ "327 (289 to 369)": the mean of some days with its 95 % interval."""
    measure = bootstrap(values, "euros")
    return f"{measure.value:.0f} ({measure.low:.0f} to {measure.high:.0f})"


rows = []
for name in people:
    least = harms[name, best[name]]
    row = {"the person": name, "best limit (euros)": best[name]}
    row["questions a day"] = questions[best[name]]
    row["harm a day (euros)"] = in_euros(least)
    for limit, other in ((0, "all"), (500, "none")):
        more = [a - b for a, b in zip(harms[name, limit], least, strict=True)]
        row[f"more by asking about {other}"] = in_euros(more)
    rows.append(row)
figures.table(rows, caption=f"200 days; who asks about all asks {questions[0]:.0f} times", digits=0)

# %% [markdown]
# **Verdict.** A person who never tires should see everything. One who tires should see less. The best of our limits
# is 100 for who tires slowly and 150 for who tires fast; but neighbouring limits are too close for 200 days to tell.
# For the two who tire, asking about all lets more harm through than asking about some, and so does asking about none.
# Even the best gate lets a good part through. So a person is the *last* of the defences: first come rules that a
# program checks (no refund above the price, none twice), then limits (so much a day without a person), then the
# person, with few questions and all that is needed to answer them.
#
# **What to notice.** Nobody knows your people's number. Measure it: put a few made-up bad requests among the real
# ones, and count how many are found, early and late in the day.

# %%
quiz("7.2.tired")

# %% [markdown]
# ## 8. Which framework?
#
# Frameworks come and go faster than courses are printed. Each row was looked up on the day in the caption; "released"
# is the latest release that we found in the package index then. Check again before you choose.

# %% tags=["topic:framework-table"]
from course_utils.agents import frameworks

figures.table(frameworks.rows(), caption=f"As of {frameworks.CHECKED}")

# %% [markdown]
# We ran LangGraph in this notebook. The lab on many agents builds the task queue of AutoGPT and BabyAGI by hand, and a
# group with roles in LangGraph and in AG2. The rest of the table is reading, not measuring: it says what the projects
# say of themselves.
#
# **What to notice.** Several of these are gone, renamed or rewritten. What stayed are the
# *ideas*: a loop, tools with schemas, a state that can be saved, a person who can say no, a record. You have built
# each of them, so a change of framework costs you a week and not a course. Before you choose one, ask four questions.
# Can I see the prompt that the model reads? Where is the state, and does it survive a kill? What asks a person, and
# what happens if nobody answers? When was its last release, and who fixes its holes?

# %% [markdown]
# ### A common claim: "ReWOO is more efficient, but less flexible"
#
# The paper reports a fifth of ReAct's tokens on HotpotQA at 4 % better accuracy (arXiv 2305.18323). We have measured
# both on the same tasks. How much more efficient, and how much less flexible?

# %%
spent = {}
for pattern in ("ReAct", "ReWOO"):
    totals = []
    for [trace] in runs[pattern, "none"]:
        totals.append(sum(loop.tokens(chat, trace)))
    spent[pattern] = totals
ratio = sum(spent["ReAct"]) / sum(spent["ReWOO"])
print(f"tokens per task, tools that work: ReAct needs {ratio:.1f} times those of ReWOO")
for trouble in troubles:
    rates = [percent(share(marks[pattern, trouble])) for pattern in ("ReAct", "ReWOO")]
    print(f"{trouble:10} ReAct {rates[0]:22} ReWOO {rates[1]}")
print(
    f"time-outs, with retries: ReWOO {percent(success.success(chains, cured['ReWOO, time-outs']))}"
)

# %% [markdown]
# **Verdict.** Part 1, with time-outs alone, said: right. With more troubles it is half right. It is more efficient;
# our saving is smaller than the paper's, probably because our prompts carry no long examples that ReAct would read
# again at every step. "Less flexible" holds where the plan has to change while it runs, and most of that goes away
# when the program retries. Where results change their *wording*, the plan was the more robust of the two. So ask:
# flexible against what?
#
# ## What you take with you
# - Reflexion is a loop with a text in it. Measure it beside a plain retry, and check that the actor's next action
#   changes.
# - Compare patterns on tasks that hurt. Then take the suspected cause away and measure again.
# - In the prompt is not yet known. Short, current, and found for the question beats long.
# - A search that returns the wrong sentence makes a confident, wrong answer: measure retrieval on its own.
# - Retries, one form for results, a memory, approval: most of what makes an agent dependable is ordinary program.
#
# **Papers.** Reflexion (Shinn et al. 2023, arXiv 2303.11366); ReAct (Yao et al. 2022, arXiv 2210.03629); ReWOO (Xu et
# al. 2023, arXiv 2305.18323); Lost in the Middle (Liu et al. 2023, arXiv 2307.03172).
#
# **Try it.** Lower the share of failing calls in section 2 until ReWOO and ReAct can't be told apart. Let `Summary`
# keep both words of a wish and half as many people: what is known then? Add a sentence to the page in section 4 that
# draws a right answer away.
#
# **Next.** The labs of Unit 7.2: [retrieval](labs/7.2_lab_retrieval.ipynb) finds by meaning,
# [a chatbot](labs/7.2_lab_document_chatbot.ipynb) answers from your own documents,
# [tools with hands](labs/7.2_lab_tools_with_hands.ipynb) touch files, the web and mail,
# [protocols](labs/7.2_lab_protocols.ipynb) connect agents to others, [many agents](labs/7.2_lab_many_agents.ipynb)
# asks whether more solve more, and [the capstone](labs/7.2_lab_capstone.ipynb) puts all of it together.
