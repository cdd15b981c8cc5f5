# %% [markdown] tags=["badge"]
# # 7.2 Lab: many agents
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.2_lab_many_agents.ipynb)

# %% [markdown]
# **After this notebook you can**
# - build a task queue that prompts itself, and say what happens when nothing stops it;
# - let a planner and an executor work on one blackboard;
# - build a group of roles that hand work over, and measure what is lost on the way;
# - tell reactive, deliberative and BDI agents apart, and say which one a changing world wants;
# - compare several agents fairly with one.
#
# **Time:** about 35 minutes to read and run; the cells take about two minutes on two free CPU cores.
#
# **Downloads:** nothing. All agents are prisma-lm, the course's own model. It was *trained* on the plans and steps of
# this shop (its card says how), so what you see here is how teams are built and how they fail, not how clever it is.

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
from collections import Counter
from itertools import product

import torch

from course_utils import figures
from course_utils.agents import function_calls, loop, react, success, toolboxes
from course_utils.agents.many_agents import bdi, task_queue, teams
from course_utils.exercises import check, hint, quiz, solution
from course_utils.measures import bootstrap, majority, share
from course_utils.models import bundled
from course_utils.models.llama_cpp import through_llama_cpp
from course_utils.prisma import shop, text, tools
from course_utils.settings import paced

torch.set_num_threads(1)  # the threads of so small a model wait longer than they work
chat = through_llama_cpp(unit.load("chat"), bundled.folder("prisma-lm"))
prisma = shop.make_shop(unit.seed)
toolbox = tools.Toolbox(shop.open_database(prisma))


def tokens(traces: list) -> float:
    """Tokens read and written for a task, on average."""
    return sum(sum(loop.tokens(chat, trace)) for trace in traces) / len(traces)


# %% [markdown]
# ## 1. A queue that prompts itself
#
# In spring 2023 two programs made agents famous: **AutoGPT** and **BabyAGI**. Their idea fits into a few lines. Ask a
# model for the tasks that an objective needs. Do the first. Show the result to the model and ask for *new* tasks.
# Sort the queue, and go on. No person is asked. BabyAGI let the model sort, too; our loop keeps the order:

# %% tags=["topic:autogpt-loop"]
figures.source(task_queue.run_queue)

# %% [markdown]
# Who does what? prisma-lm writes the tasks (it was trained to plan one question) and does each with one tool. The
# order of the queue, the check for repeats and the budget are ordinary code. A plan for a whole *message* with
# several questions is beyond it, as section 2 shows. First one objective, planned once:

# %% tags=["topic:autogpt-loop"]
drawn = text.episodes(48, seed=5, shop=prisma)
objectives = [task for task in drawn if len(task.steps) > 1][: paced(8, 3)]
project = task_queue.run_queue(chat, toolbox, objectives[0].question)
caption = f"{project.question} Answer: {project.answer}"
figures.table(project.rows(), caption=caption)

# %% [markdown]
# Now let it write new tasks after each result. Three ways: from the objective and the last result, with every
# task taken; the same, but tasks that are known already are refused; and from the last result alone, as when the
# objective has dropped out of the window. Each has a budget of eight tasks. Which of the four solves most?

# %% tags=["topic:autogpt-loop"]
ways = {
    "planned once": (task_queue.plan_once, True),
    "new tasks, all taken": (task_queue.from_both, False),
    "new tasks, repeats refused": (task_queue.from_both, True),
    "from the last result alone": (task_queue.from_result, True),
}
projects = {}
for name, (creator, unique) in figures.progress(ways.items(), "queues"):
    projects[name] = [
        task_queue.run_queue(chat, toolbox, task.question, creator, unique, max_tasks=8)
        for task in objectives
    ]

# %% tags=["topic:autogpt-loop"]
rows = []
for name, runs in projects.items():
    useful = 0
    for task, run in zip(objectives, runs, strict=True):
        wanted = {(step.tool, step.argument) for step in task.steps}
        useful += len(wanted & {(step.tool, step.argument) for step in run.steps})
    made = sum(run.tool_calls for run in runs)
    ended = Counter(run.stopped for run in runs)
    row = {"new tasks": name, "solved": str(success.success(objectives, runs))}
    row["calls for the objective"] = f"{useful} of {made}"
    row["said before"] = made - sum(run.fresh for run in runs)
    row["still waiting"] = sum(len(run.queue) for run in runs) / len(runs)
    row["tokens"] = tokens(runs)
    row["ended by"] = ", ".join(f"{why} ({count})" for why, count in ended.items())
    rows.append(row)
figures.table(rows, caption=f"{len(objectives)} objectives, at most 8 tasks each", digits=1)

# %% tags=["topic:autogpt-loop"]
fig, ax = figures.figure(height=3.2)
for name, runs in projects.items():
    longest = max(runs, key=lambda run: len(run.lengths))
    turns = range(1, len(longest.lengths) + 1)
    ax.plot(turns, longest.lengths, "-o", label=name)
ax.set(xlabel="tasks done", ylabel="tasks that wait")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
lengths = {}
for name, runs in projects.items():
    lengths[name] = max(max(run.lengths) for run in runs)
alt = f"Length of the queue after each task, longest run each. Most: {figures.told(lengths)}."
figures.show(fig, alt=alt)

# %% [markdown]
# **What to notice.** All four had found everything that the objective needs, and then three of them went on. That is
# the typical failure: the loop has no idea of *enough*. Where every task is taken, the queue grows faster than it is
# worked off, the same calls are made again, and only the budget ends it. Refusing repeats ends most runs (a call can
# still come twice, in other words), but the needless results stand in the executor's prompt, and the answer is read
# from the wrong one. From the last result alone, tasks appear that nobody asked for: the goal is lost. A larger model
# drifts later and in better words. The brakes are the same: a budget that a program keeps, tasks compared with what
# was done, and the objective in every prompt.

# %% [markdown]
# ## 2. Two agents, one blackboard
#
# A customer writes three questions in one message. A **planner** writes goals onto a *blackboard*, an **executor**
# takes one open goal at a time and writes what it found beside it. They never speak to each other: the board is all
# that they share (an idea of the speech system Hearsay-II, 1980).

# %% tags=["topic:two-agents"]
requests = teams.draw_requests(paced(8, 3), parts=3, seed=5, shop=prisma)
messages = [request.words for request in requests]
[board] = teams.two_agents(chat, toolbox, messages[:1])
figures.table(board.table(), caption=messages[0])

# %% [markdown]
# Who decomposed the message? Not the planner: a line of code cut it behind the question marks. Here is the same with
# the whole message for the planner, and one ReAct agent beside it, with the whole message and with one question at a
# time. Is it the second agent that helps, or the cut?

# %% tags=["topic:two-agents"]
whole = react.run_many(chat, toolbox, messages)
questions = [task.question for request in requests for task in request.tasks]
singly = react.run_many(chat, toolbox, questions)
said = {"one agent, whole message": [[trace.answer] for trace in whole]}
answers = [trace.answer for trace in singly]
threes = [answers[i : i + 3] for i in range(0, len(answers), 3)]
said["one agent, question by question"] = threes
spent = {"one agent, whole message": tokens(whole)}
spent["one agent, question by question"] = 3 * tokens(singly)
settings = {
    "two agents, whole message": {"split": False},
    "two agents, question by question": {},
}
for name, options in settings.items():
    boards = teams.two_agents(chat, toolbox, messages, **options)
    said[name] = [board.answers() for board in boards]
    spent[name] = tokens(boards)

# %% tags=["topic:two-agents"]
rows = []
for name, answers in said.items():
    marks = [teams.all_right(*pair) for pair in zip(requests, answers, strict=True)]
    row = {"who": name, "all three answers right": str(share(marks))}
    rows.append(row | {"tokens for a message": spent[name]})
figures.table(rows, caption=f"{len(requests)} messages of three questions", digits=0)

# %% [markdown]
# And when tools fail now and then? The planner wrote its goals before anything happened. But the board knows which
# goal got an error, so it can stay open:

# %% tags=["topic:two-agents"]
rows = []
for tries in (1, 3):
    flaky = toolboxes.Flaky(toolbox, failing=0.15, seed=1)
    boards = teams.two_agents(chat, flaky, messages, tries=tries)
    answers = [board.answers() for board in boards]
    marks = [teams.all_right(*pair) for pair in zip(requests, answers, strict=True)]
    rows.append({"a goal is tried": f"{tries} x", "all three right": str(share(marks))})
figures.table(rows, caption="15 % of all calls time out")

# %% [markdown]
# **What to notice.** Cutting the message decides, and it helps *one* agent as much as two. What a second agent brings
# is order: each reads a short prompt of its own, and the state of the work is on the board, where a program can see
# it, repeat it, or stop it.

# %% [markdown]
# ## 3. A group of roles
#
# Frameworks such as CrewAI, AutoGen (now AG2, and Microsoft's Agent Framework) build teams of *roles*. Ours has
# three, and each has only its own tools, so nobody can answer a longer question alone. We build it in LangGraph,
# which the course uses anyway: each role is a node, and a call of a colleague's tool is a **hand-off**, a `Command`
# that says where to go next. Then we build it once more, in AG2.

# %% tags=["topic:multi-agent-roles"]
rows = [{"role": role, "tools": ", ".join(own)} for role, own in teams.ROLES.items()]
figures.table(rows)

# %% tags=["topic:multi-agent-roles"]
drawn = text.episodes(48, seed=6, shop=prisma)
asked = [task for task in drawn if len(task.steps) > 1][: paced(8, 4)]
longest = max(asked, key=lambda task: len(task.steps))
group = teams.make_group(chat, toolbox)
trace = teams.run_group(group, longest.question)
rows = []
for step in trace.steps:
    rows.append({"speaks": step.thought, "does": f"{step.tool}: {step.argument}"})
figures.table(rows, caption=f"{longest.question} Expected: {longest.answer}")

# %% [markdown]
# Look at the turns before and after a hand-off: a role wants a tool that it does not have, and its colleague
# reads everything again and says the same. What if the colleague does not get everything?


# %% tags=["topic:multi-agent-roles"]
def prices(runs: dict[str, list]) -> list[dict]:
    """A row for each way to work: what it solved, and what a question took."""
    rows = []
    for name, traces in runs.items():
        row = {"who": name, "solved": str(success.success(asked, traces))}
        row["model calls"] = sum(len(trace.log) for trace in traces) / len(traces)
        row["tokens"] = tokens(traces)
        rows.append(row)
    return rows


words = [task.question for task in asked]
runs = {"one agent with all tools": react.run_many(chat, toolbox, words)}
for handed in figures.progress(teams.HANDED, "groups"):
    group = teams.make_group(chat, toolbox, handed, max_turns=14)
    runs[f"group, hands over {handed}"] = [teams.run_group(group, question) for question in words]
caption = f"{len(asked)} questions that need several calls, per question"
figures.table(prices(runs), caption=caption, digits=1)

# %% [markdown]
# **What to notice.** With the whole record handed over, compare the group's tokens with those of one agent that has
# all tools: each hand-off costs a turn that does nothing. Hand over the question alone and none is solved: what was
# found stays behind. With the last result the intervals overlap: so few questions show no difference. Roles are worth
# their price where rights differ (the accountant may pay, customer service may not), not because three names think
# better than one.

# %% [markdown]
# ### The same group in AG2
#
# AG2 came out of AutoGen; its version 1.0 replaced the old group chat. Agents meet at a **hub** and talk on a
# **channel**. A graph says who speaks first, and a tool that returns a `Handoff` says who speaks next. So each role
# gets all five tools: its own do their work, a colleague's hands over to the colleague. prisma-lm answers through a
# small class that AG2 calls as it would call a provider. Hub and channel live in memory: nothing is sent.

# %% tags=["topic:multi-agent-roles"]
from course_utils.agents.many_agents import ag2_group

figures.source(ag2_group.make_agent, ag2_group.handing_tool)

# %% [markdown]
# What does a colleague read? In AG2 it is what was *said* on the channel: the question, and who handed over for
# what. What a tool found stays in the turn of the role that called it. This is the prompt of the second speaker:

# %% tags=["topic:multi-agent-roles"]
question = longest.question
told = await ag2_group.ask_group(chat, toolbox, question, "what is said")  # noqa: F704
print(told.log[1][0])
figures.table(told.rows(), caption=f"{question} Expected: {longest.answer}")

# %% [markdown]
# AG2 has a place for what all should know, the channel's *variables*, but leaves it to you who fills and who reads
# them. Our group does both in a *middleware*, which AG2 runs around each call of a tool and of the model. The record
# then stands in the prompt as if the role had made all calls itself, the form that prisma-lm was trained on:

# %% tags=["topic:multi-agent-roles"]
figures.source(ag2_group.Record)

# %% [markdown]
# Guess before you run it: how many questions does the group solve either way? And does it take more or fewer model
# calls than the group in LangGraph? Both speak differently (function calls there, ReAct here), so one agent with
# function calls stands beside it.

# %% tags=["topic:multi-agent-roles"]
runs["one agent with all tools, function calls"] = function_calls.run_calls(chat, toolbox, words)
for handed in figures.progress(ag2_group.HANDED, "groups"):
    traces = []
    for question in words:
        trace = await ag2_group.ask_group(chat, toolbox, question, handed)  # noqa: F704
        traces.append(trace)
    runs[f"group in AG2, hands over {handed}"] = traces
figures.table(prices(runs), caption=caption, digits=1)

# %% [markdown]
# With the record it solves what the group in LangGraph solves. Without it, some questions still work. Which? Look at
# what each hand-off carries:

# %% tags=["topic:multi-agent-roles"]
rows = []
for task, trace in zip(asked, runs["group in AG2, hands over what is said"], strict=True):
    handed = [step for step in trace.steps if step.observation.startswith("hands over")]
    reasons = [f"{step.tool}({step.argument})" for step in handed]
    row = {"question": task.question, "hand-offs": ", ".join(reasons)}
    rows.append(row | {"expected": task.answer, "answer": trace.answer or trace.stopped})
figures.table(rows, caption="The group in AG2, with nothing but what is said")

# %% [markdown]
# **What to notice.** All questions that work end with a hand-off that is a sum: the call itself carries the numbers.
# Where an order is wanted, none works. The warehouse reads only its number, and takes the order for looked up or loses
# the thread. prisma-lm never saw such a prompt; a larger model might look first, and write what it found into the
# reason of its hand-off. (Few questions: see whether the intervals overlap.) With the record the group takes as many
# model calls as the one in LangGraph that hands over everything: a hand-off costs a turn in either.
#
# So a framework brings the hub, the hand-off, a log of all messages and a limit on turns. What a colleague must know
# is for you to say. Two more things were left to us: AG2 1.2 does not limit the tool calls *within* a turn, and after
# a failed turn or an empty reply its channel waits, up to ten minutes. Our class keeps a budget and always says a
# last word.

# %% [markdown]
# ## 4. Reactive, deliberative, BDI
#
# Agents are older than language models. A robot fetches orders in a hall with shelves. Orders appear and are
# cancelled; thinking takes time, and the hall does not wait. Five agents:
#
# | agent | what it does | when it thinks again |
# | --- | --- | --- |
# | reactive | rules from what is in sight to a step | never |
# | deliberative | plans a tour over all orders, then walks it | at the end of the tour |
# | BDI, bold | **b**eliefs, **d**esires, one **i**ntention | when it has arrived |
# | BDI, cautious | the same | before each step |
# | BDI, alert | the same | when the order is gone, or a nearer one has come |
#
# A *belief* is what it last saw, a *desire* an order that it would like to fetch, the *intention* the one that it has
# chosen and holds on to. Kinny and Georgeff (IJCAI 1991) asked how firmly. This is the agent, and its policies:

# %% tags=["topic:reactive-deliberative-bdi"]
figures.source(bdi.BDI)

# %% tags=["topic:reactive-deliberative-bdi"]
figures.source(bdi.bold, bdi.cautious, bdi.alert)

# %% [markdown]
# The hall runs at five speeds, from nearly still to hectic. A thought costs nothing, one step's time, or four. Guess:
# who wins when thinking is slow and the world is quick?


# %% tags=["topic:reactive-deliberative-bdi"]
def crew(hall: bdi.Hall) -> dict:
    """One agent of each kind for a hall."""
    return {
        "reactive": bdi.Reactive(hall),
        "deliberative": bdi.Deliberative(hall),
        "BDI, bold": bdi.BDI(hall, bdi.bold),
        "BDI, cautious": bdi.BDI(hall, bdi.cautious),
        "BDI, alert": bdi.BDI(hall, bdi.alert),
    }


SPEEDS, COSTS = (0.25, 1, 2, 4, 8), (0, 1, 4)
fetched = {}
cases = list(product(SPEEDS, range(paced(12, 3))))
for speed, seed in figures.progress(cases, "days"):
    hall = bdi.draw_hall(seed, speed)
    for cost in COSTS:
        for name, agent in crew(hall).items():
            day = bdi.run(hall, agent, cost)
            fetched.setdefault((cost, name, speed), []).append(day.effectiveness)
measures = {case: bootstrap(values, "") for case, values in fetched.items()}

# %% tags=["topic:reactive-deliberative-bdi"]
fig, axes = figures.figure(columns=3, width=11, height=3.4)
for ax, cost in zip(axes, COSTS, strict=True):
    for name in crew(hall):
        found = [measures[cost, name, speed] for speed in SPEEDS]
        values = [100 * measure.value for measure in found]
        [line] = ax.plot(SPEEDS, values, "-o", markersize=4, label=name)
        low = [100 * measure.low for measure in found]
        high = [100 * measure.high for measure in found]
        ax.fill_between(SPEEDS, low, high, color=line.get_color(), alpha=0.15)
    ax.set(xscale="log", xlabel="speed of the world", ylim=(0, 104))
    ax.set_xticks(SPEEDS, [str(speed) for speed in SPEEDS], minor=False)
    ax.minorticks_off()
    ax.set_title(f"a thought costs {cost} ticks")
axes[0].set_ylabel("points fetched (%)")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
alt = "Share of points fetched against the world's speed for five agents, three costs of thinking."
figures.show(fig, alt=alt)

# %% tags=["topic:reactive-deliberative-bdi"]
rows = []
for cost, speed in product(COSTS, (0.25, 2, 8)):
    row = {"a thought costs": cost, "speed": speed}
    for name in crew(hall):
        found = measures[cost, name, speed]
        row[name] = f"{100 * found.value:.0f} ({100 * found.low:.0f} to {100 * found.high:.0f})"
    rows.append(row)
figures.table(rows, caption="Points fetched (%), mean of all days with its 95 % interval")

# %% [markdown]
# **What to notice.** In a still world every agent with a plan fetches nearly all: there is nothing to reconsider. As
# the world speeds up, the long tour breaks first, then the bold agent walks to places where nothing is left. With
# free thoughts caution costs nothing. When a thought takes time, the cautious agent stands still while the orders go,
# and falls below the bold one, as Kinny and Georgeff found. The alert agent looks for cheap signs that thinking is
# worth it. And where thoughts cost most and everything is quick, compare the reactive agent with all others.
#
# The language agents of this unit have the same choice. ReAct thinks before each step: cautious, and it pays in
# tokens. ReWOO plans a tour: cheap, until a tool fails.

# %% [markdown]
# ## 5. A common claim: more agents solve more
#
# Two papers to know. Kapoor et al. ("AI Agents That Matter", 2024, arXiv 2407.01502) compare agents at equal *cost*,
# and find that simple baselines, such as asking again, keep up with complicated agents. Cemri et al. ("Why Do
# Multi-Agent LLM Systems Fail?", 2025, arXiv 2503.13657) read the traces of seven frameworks and name 14 ways to
# fail, in three groups: how the system is designed, agents that misunderstand each other, and results that nobody
# checks.
#
# At temperature 0 one agent solves these tasks: there is nothing left to win. So we sample at a high temperature,
# where it fails often, as a larger model does on harder tasks. One agent, and planner with executor; each once, and
# three times with a majority vote.

# %% tags=["topic:two-agents", "topic:multi-agent-roles"]
tasks = text.episodes(paced(24, 8), seed=8, shop=prisma)
asked = [task.question for task in tasks]
hot = teams.Sampled(chat, temperature=2.0, seed=unit.seed)
trials = {"one agent": [], "planner and executor": []}
for _ in figures.progress(range(3), "trials"):
    trials["one agent"].append(react.run_many(hot, toolbox, asked))
    trials["planner and executor"].append(teams.two_agents(hot, toolbox, asked))


# %% tags=["topic:two-agents", "topic:multi-agent-roles"]
def row_of(name: str, answers: list[str], cost: float) -> dict:
    """A row of the table: how many answers are right, and what they cost."""
    marks = [text.correct(task.answer, said) for task, said in zip(tasks, answers, strict=True)]
    return {"who": name, "solved": str(share(marks)), "tokens for a task": cost}


rows = []
for name, runs in trials.items():
    first = [trace.answer for trace in runs[0]]
    rows.append(row_of(name, first, tokens(runs[0])))
for name, runs in trials.items():
    ballots = zip(*([trace.answer for trace in run] for run in runs), strict=True)
    elected = [majority(ballot) for ballot in ballots]
    cost = sum(tokens(run) for run in runs)
    rows.append(row_of(f"{name}, vote of 3", elected, cost))
figures.table(rows, caption=f"{len(tasks)} tasks at temperature 2", digits=0)

# %% [markdown]
# **Verdict.** Compare rows with about the same tokens, and believe a difference only where the intervals do not
# overlap. What several agents are good for is what the sections before measured: a task cut into parts that fit,
# rights that stay apart, state that a program can see. The number of agents alone is a way to spend tokens.

# %%
quiz("7.2.more_agents")

# %% [markdown]
# ## What you take with you
# - A loop that writes its own tasks needs three brakes: a budget, a list of what was done, the objective in every
#   prompt.
# - Cut the task first. Then ask whether a second agent is still needed.
# - A hand-off costs a turn, and loses whatever is not handed over.
# - How often to think again depends on how quickly the world changes and on what a thought costs.
# - Compare a team with one agent at the same tokens.
#
# **Try it.** Raise the budget of section 1 to 16: who uses it? Give customer service the tool `orders` and
# count the hand-offs. Write a policy for section 4 that thinks before every third step, and find the speed at
# which it beats the alert one.
