# %% [markdown] tags=["badge"]
# # 7.2 Agents in production, part 2
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.2_agents_in_production_part2.ipynb)

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
from pathlib import Path

import torch

from course_utils import figures
from course_utils.agents import approval, code_sandbox, escape_attempts, graph, loop, react, rewoo
from course_utils.agents.instructions import opening
from course_utils.measures import bootstrap, share
from course_utils.models import bundled
from course_utils.models.llama_cpp import through_llama_cpp
from course_utils.prisma import shop, text, tools

chat = unit.load("chat")
if chat.tier == "bundled":
    torch.set_num_threads(1)  # the threads of so small a model wait longer than they work
    chat = through_llama_cpp(chat, bundled.folder("prisma-lm"))
prisma = shop.make_shop(unit.seed)
toolbox = tools.Toolbox(shop.open_database(prisma))

# %% [markdown]
# ## 5. May a model run code?
#
# The calculator of part 1 never calls `eval`: it turns a sum into a syntax tree and allows what it knows. That is safe,
# and small. A model that may write *code* can do more with one call: loop, sort, compare. But who runs code from a
# stranger? Guess first: which of these lines can each of the two work out?
#
# The right-hand column is `pydantic-monty`: an **interpreter of its own** for a part of Python, written in Rust, in a
# process of its own. It does not take things away from Python. It has never had them: no files, no programs, no
# network.

# %% tags=["topic:tool-compute"]
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
# **plan** (ReWOO, part 1): lines that name tools, and use what earlier lines have found. `as_python` writes such a plan
# as Python, word for word, and the tools become functions that the sandbox may call. So this is code of the model's
# own:

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
# One program is an anecdote. Does the sandbox find what part 1's runner of plans found? We take the plans for questions
# of all kinds, and compare the last line of those that end in a sum.

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
# each customer, with a turn of the model for each call. As code it is one turn. (We wrote this program; a model of some
# billion parameters writes such things daily. Our first version said `max(worth, key=worth.get)`, which the
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
# attempts to get out. They are harmless: the secret was made for them, in a temporary folder; what they call is a port
# on this machine that counts its callers. `run_limited` starts a fresh Python with a limit of time and memory, an empty
# environment and an empty folder. An attempt is *out* if the secret, a file or a call proves it, whatever the code
# says.

# %%
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
# **Verdict.** A subprocess is a wall against *accidents*: it stopped the loop, the memory and the sleep, and it saw no
# environment. It is none against intent: the new Python has your rights, so it reads what you can read. Containers,
# virtual machines and the operating system's own filters take those rights away; they cost a start, and set-up.
#
# Are the limits of the interpreter real? We measure both. A limit of time counts *execution*, and a sleeping program
# does not execute: without `sleep: zero` in the source above, `time.sleep(5)` waits five seconds under a limit of one.

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

# %% [markdown]
# ## 6. What if the machine stops in the middle?
#
# An agent that asks a person waits, for minutes or until Monday. Until then somebody restarts the machine. A loop in
# Python loses everything; it also cannot say where it was. **LangGraph** has you write the agent as a graph: *nodes*
# are functions, *edges* say what may follow, and a *state* travels along them. Three things come with it: **cycles**,
# an **interrupt** that waits for a person, and **checkpoints**: after each step the state is saved, here in SQLite.
#
# Our agent finds out what an order cost, asks whether to pay it back, and pays. Here are two of its nodes, and how they
# are joined:

# %%
figures.source(graph.Steps.approve, graph.Steps.refund, graph.build)

# %% [markdown]
# And this is the graph, drawn from LangGraph's own account of it. Dashed edges are conditional: a function looks at the
# state and chooses.

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
# To kill it in earnest, the agent runs as a **process of its own**. The model stays here and answers its questions over
# a pipe, as a model server would. The two share files: the shop's database, and the checkpoints. Before each step the
# process tells what it did, and instead of answering we may kill it: SIGKILL, which no program can catch.
#
# Nobody is here while a notebook runs by itself, so *the person is a function*. It approves, and we count how often it
# was asked. First a quiet run, in which nobody is killed:


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
# better: the payment and the checkpoint lie in two databases, and between two writes there is always a moment. The cure
# belongs to whoever is paid for remembering: an **idempotency key**. It is made *before* the person is asked, saved in
# the state, and sent with each attempt. The shop pays a key once:

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
# Two things to know before you use it. A person may be asked twice, when the kill falls between answer and checkpoint.
# And whoever can write to the checkpoint file decides what your agent does next: guard it like the database.

# %% [markdown]
# ## 7. What should a person approve?
#
# Reading an order can be repeated; paying, sending and deleting cannot be undone. Such actions pass a **gate**: a
# program decides whether a person is needed, the person approves, edits or rejects, and the record keeps who decided
# what. The gate is short:

# %%
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
# # EXERCISE 7.2.approval_gate

# %% [markdown]
# **A common claim:** "A human in the loop makes it safe." Then ask about everything? People who are asked too often
# stop reading. In a study of 112 clinicians, the likelihood that a reminder was accepted fell by 30 % with each further
# reminder in the same visit (Ancker et al. 2017, doi 10.1186/s12911-017-0430-8). The makers of a coding agent report
# that its users approve 93 % of what they are asked (Anthropic, "Claude Code auto mode", March 2026; their own figure).
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
# **Verdict.** A person who never tires should see everything. One who tires should see less, and the faster, the less:
# the best limit moves to the right. For the two who tire, asking about all lets more harm through than asking about
# some, and so does asking about none. Even the best
# gate lets a good part through. So a person is the *last* of the defences: first come rules that a program checks (no
# refund above the price, none twice), then limits (so much a day without a person), then the person, with few questions
# and all that is needed to answer them.
#
# **What to notice.** Nobody knows your people's number. Measure it: put a few made-up bad requests among the real ones,
# and count how many are found, early and late in the day.

# %% [markdown]
# ## 8. Which framework?
#
# Frameworks come and go faster than courses are printed. Each row was looked up on the day in the caption; "released"
# is the latest release that we found in the package index then. Check again before you choose.

# %% tags=["topic:framework-table"]
from course_utils.agents import frameworks

figures.table(frameworks.rows(), caption=f"As of {frameworks.CHECKED}")

# %% [markdown]
# We ran LangGraph in this notebook. The lab on many agents builds the task queue of AutoGPT and BabyAGI, and groups
# with roles, by hand. The rest of the table is reading, not measuring: it says what the projects say of themselves.
#
# **What to notice.** Half of the names in a slide of 2024 are gone, renamed or rewritten. What stayed are the *ideas*:
# a loop, tools with schemas, a state that can be saved, a person who can say no, a record. You have built each of them,
# so a change of framework costs you a week and not a course. Before you choose one, ask four questions. Can I see the
# prompt that the model reads? Where is the state, and does it survive a kill? What asks a person, and what happens if
# nobody answers? When was its last release, and who fixes its holes?
