# %% [markdown] tags=["badge"]
# # 7.4 Self-hosting LLMs
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.4_self_hosting.ipynb)

# %% [markdown]
# **After this notebook you can**
# - say how much memory a model from 7B to 405B parameters needs, and where the popular rule of thumb stops;
# - start a real model server on your machine, ask it through the `openai` client, and stop it cleanly;
# - measure what a user feels: time to first token, time per token;
# - measure what the operator pays for: throughput against the number of users, with and without continuous
#   batching;
# - put a gate in front of a model: key, limits, and a log that keeps no content.
#
# **Time:** about 20 minutes to read and run; the cells take about a minute on two CPU cores.
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
# The next cell looks at your machine, chooses a model for each role and says why.

# %%
from course_utils import open_unit

unit = open_unit("7.4")

# %%
import random
import statistics
import time

import httpx
import openai
import torch

from course_utils import figures, serving
from course_utils.measures import medians
from course_utils.memory import fit, formulas, shapes
from course_utils.prisma import text

# %% [markdown]
# ## 1. Does it fit?
#
# Someone offers you an open model with 13 billion parameters and a graphics card with 24 GB. Before you
# download 26 GB, can you know whether it will run?
#
# A popular rule says: **billions of parameters x 2 = GB of memory**. The 2 is the bytes of one number in 16
# bits. So let us first settle what a number weighs. (One slide deck says that FP16 has *twice* the memory of
# FP32. Count.)

# %%
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int8):
    numbers = torch.zeros(1000, dtype=dtype)
    print(f"1,000 numbers in {dtype!s:15} {numbers.nbytes:6,} bytes")

# %% [markdown]
# FP16 is *half* of FP32. The rule counts the weights, and nothing else. A running model also keeps the keys and
# values of every token it has read (the **KV cache**), the numbers of the layer it is computing
# (**activations**), and what CUDA and its allocator take for themselves (**margin**). One line per part:

# %% tags=["topic:vram-estimate"]
seven = formulas.estimate("mistral-7b", "inference-fp16", seq=4096)
figures.table(
    seven.rows(), caption="Mistral 7B in 16 bits, one conversation of 4,096 tokens, in GiB"
)

# %% [markdown]
# Is that formula any good? We check it against memory that we can count to the byte: the weights of
# prisma-lm and the cache that `transformers` builds when the model reads 200 tokens.

# %% tags=["topic:vram-estimate"]
from course_utils.models.loaders import load

small = load("chat", tier="bundled").model  # prisma-lm, here in 32 bits
weights = sum(parameter.nbytes for parameter in small.parameters())
words = torch.ones(1, 200, dtype=torch.long)  # (batch, tokens)
with torch.no_grad():
    cache = small(words, use_cache=True).past_key_values
held = 0
for layer in cache.layers:
    held += layer.keys.nbytes + layer.values.nbytes

shape = shapes.from_config(small.config.to_dict())
weight_formula = formulas.weight_bytes(shape, "fp32")
cache_formula = formulas.kv_cache_bytes(shape, seq=200, bytes_per_number=4)
rows = [
    {"what": "weights", "formula": int(weight_formula), "measured": weights},
    {"what": "KV cache, 200 tokens", "formula": int(cache_formula), "measured": held},
]
figures.table(rows, caption="prisma-lm in 32 bits, bytes")

# %% [markdown]
# The two large parts are exact. Activations and margin are estimates: expect up to a tenth of error there.
# Now the whole table, from 7B to 405B. All columns are GiB with 4,096 tokens of context; the last names the
# smallest card (or set of up to eight equal cards) that holds the model in 4 bits.


# %% tags=["topic:vram-table"]
def cards(needed: float, names=("rtx3060", "rtx4090", "a100-40", "a100-80")) -> str:
    """The first set of 1, 2, 4 or 8 equal cards, small cards first, with `needed` GiB."""
    for count in (1, 2, 4, 8):
        for card in map(fit.gpu, names):
            if card.usable * count >= needed:
                return f"{count} x {card.name}"
    return "more than eight"


smaller = ["mistral-7b", "llama-2-13b", "yi-34b"]
larger = ["mixtral-8x7b", "llama-2-70b", "llama-3.1-405b"]
methods = {"16 bit": "inference-fp16", "8 bit": "inference-int8", "4 bit": "inference-nf4"}
rows = []
for name in smaller + larger:
    count = shapes.parameter_count(name)
    row = {"model": name, "billions": count / 1e9, "rule (x 2)": 2 * count / shapes.GIB}
    for label, method in methods.items():
        row[label] = formulas.estimate(name, method, seq=4096).total
    row["16 bit on"] = cards(row["16 bit"])
    row["4 bit on"] = cards(row["4 bit"])
    rows.append(row)
figures.table(rows, digits=1)

# %% [markdown]
# **Check the slide.** "Mixtral 8x7B has 56 billion parameters": 8 x 7 is 56, after all. "13B in FP16 runs on
# 24 GB, 7B on 12 GB, 34B on 40 GB": are they right?

# %%
total = shapes.parameter_count("mixtral-8x7b") / 1e9
active = shapes.parameter_count("mixtral-8x7b", active=True) / 1e9
print("Mixtral 8x7B, counted from its shape:")
print(f"{total:.1f}B in all, {active:.1f}B used for a token")
claims = {"llama-2-13b": "rtx4090", "mistral-7b": "rtx3060", "codellama-34b": "a100-40"}
for model, card in claims.items():
    for method in ("fp16", "nf4"):
        needed = formulas.estimate(model, f"inference-{method}", seq=4096)
        verdict = fit.fits(needed, card)
        headline = str(verdict).splitlines()[0]
        print(f"{model:14} {method}: {headline}")

# %% [markdown]
# The eight experts share the attention layers, so Mixtral is smaller than eight times seven (its makers
# announced 46.7B with 12.9B active; the paper, arXiv 2401.04088, rounds to 47B and 13B). And you pay memory
# for the 46.7B, but time for the 12.9B.
#
# How far can a conversation grow? Both models have 32 attention heads. Llama 2 7B keeps keys and values for each of
# them. Mistral 7B keeps only eight sets, and four heads share each (grouped-query attention, arXiv 2305.13245): its
# cache is a quarter as large.

# %% tags=["topic:vram-estimate"]
lengths = [512, 1024, 2048, 4096, 8192, 16384, 32768]
fig, ax = figures.figure(height=3.4)
for model, style in (("llama-2-7b", "-"), ("mistral-7b", "--")):
    for users in (1, 8):
        totals = []
        for n in lengths:
            needed = formulas.estimate(model, "inference-fp16", seq=n, batch=users)
            totals.append(needed.total)
        ax.plot(lengths, totals, style, label=f"{model}, {users} at once")
for card in (fit.gpu("rtx4090"), fit.gpu("a100-80")):
    ax.axhline(card.usable, color=figures.GREY, linewidth=1)
    ax.text(lengths[0], card.usable * 1.05, card.name, color=figures.GREY)
ax.set(xscale="log", yscale="log", xlabel="tokens of context", ylabel="memory, 16 bit (GiB)")
ax.set_xticks(lengths, [f"{n:,}" for n in lengths])
sizes = (16, 32, 64, 128)
ax.set_yticks(sizes, sizes)
ax.minorticks_off()
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
alt = "Memory against context length for two 7B models: flat at first, then rising."
figures.show(fig, alt=alt)

# %% [markdown]
# **What to notice.** The rule of thumb is right about the weights and silent about the rest. For one short
# conversation the rest is small. With eight users and long conversations, the cache is larger than the
# model, and the *shape* of the attention decides whether you need a second card.

# %% [markdown]
# ## 2. Start a server
#
# A model in a notebook serves one person. A **server** holds the model once and answers over HTTP, so that
# any program can use it. Nearly all of them speak the protocol that OpenAI's API made common: learn one client,
# and you can talk to Ollama, vLLM, llama.cpp and the one that we start now, `transformers serve`.
#
# It runs as a process of its own. It listens on **loopback** (127.0.0.1), so that nobody outside this machine
# can reach it, and it wants a **key**. `start` returns after the server has answered a real question.

# %%
folder, nf4 = serving.choose_folder(unit.choices["chat"])
server = serving.start(folder, nf4=nf4)
print("model:", server.model, "| listens on loopback:", "127.0.0.1" in server.url)

# %% tags=["topic:openai-compatible"]
# The same as openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key), without a proxy.
client = server.client()
rng = random.Random(unit.seed)
problem = text.shopping_sum(rng)
messages = [
    {"role": "system", "content": text.SYSTEM["steps"]},
    {"role": "user", "content": problem.question},
]

reply = client.chat.completions.create(model=server.model, messages=messages, max_tokens=64)
print("asked:   ", problem.question)
print("answered:", reply.choices[0].message.content)
print("right:   ", problem.answer)
print("tokens:  ", reply.usage.prompt_tokens, "read,", reply.usage.completion_tokens, "written")

# %% [markdown]
# **What to notice.** Nothing left this machine. Compare the answer with the right one: a server hands out what
# the model knows, no more. For the same code against another server, only the address, the key and the model's
# name change; section 6 does that.
#
# ## 3. What does a user feel?
#
# A model writes one token after another. If you wait for the last one, you wait for all. With `stream=True`
# each arrives when it is ready. Two numbers describe the wait: **time to first token** (reading the prompt)
# and **time per token** (writing).


# %% tags=["topic:streaming"]
def stream(
    client: openai.OpenAI, model: str, messages: list[dict], max_tokens: int = 48
) -> list[tuple[float, str]]:
    """Each piece of the answer with the seconds that had passed when it came."""
    pieces = []
    start = time.perf_counter()
    events = client.chat.completions.create(
        model=model, messages=messages, max_tokens=max_tokens, stream=True
    )
    for event in events:
        if event.choices and event.choices[0].delta.content:  # the first and the last may be empty
            passed = time.perf_counter() - start
            pieces.append((passed, event.choices[0].delta.content))
    return pieces


runs = [stream(client, server.model, messages) for _ in range(7)]
answer = "".join(piece for _, piece in runs[-1])
print(answer)

# %% [markdown]
# Now the two numbers of each run, in milliseconds:

# %% tags=["topic:streaming"]
first, each = [], []  # milliseconds
for run in runs:
    times = [1000 * passed for passed, _ in run]
    writing = times[-1] - times[0]
    first.append(times[0])
    each.append(writing / (len(times) - 1))

rows = []
for name, values in (("time to first token", first), ("time per token", each)):
    row = {"what (ms)": name, "median": statistics.median(values)}
    row |= {"fastest": min(values), "slowest": max(values)}
    rows.append(row)
pieces = len(runs[0])
figures.table(rows, caption=f"{len(runs)} streamed answers of {pieces} pieces", digits=1)

# %% tags=["topic:streaming"]
blue, orange = figures.PALETTE["blue"], figures.PALETTE["orange"]
fig, ax = figures.figure(height=2.6)
for run in runs:
    times = [1000 * passed for passed, _ in run]
    arrived = range(1, len(times) + 1)
    ax.step(times, arrived, where="post", color=blue, alpha=0.5)
middle = statistics.median(first)
ax.axvline(middle, color=orange, label="first token (median)")
ax.set(xlabel="time since the question (ms)", ylabel="tokens arrived", xlim=0)
ax.legend()
alt = "Tokens arrived against time for seven answers: a pause, then a steady climb."
figures.show(fig, alt=alt)

# %% [markdown]
# **What to notice.** Seven runs of the same greedy answer take different times: report a median and a spread,
# never one number. The climb is steady, because each token costs one pass through the model.
#
# ## 4. Who may ask?
#
# `transformers serve` itself knows no keys, and it offers a path `/load_model` that would download any model for
# whoever asks. So our server has a **gate** in front (`serving.Gate`). It lets known paths through and checks the key,
# the size of the request, each of its fields, the length of prompt and answer, and the rate. What it hands on is
# never the client's text: it writes the request anew from the fields that it knows, always with a length. For
# a request may carry more than a question. One that brings its own chat template brings a small program, which
# `transformers serve` would run. What happens to those who break a rule?

# %% tags=["topic:auth-rate-validation"]
guarded = f"{server.url}/v1/chat/completions"
right = {"Authorization": f"Bearer {server.key}"}
ask = {"model": server.model, "messages": messages, "max_tokens": 1}
wrong = {"Authorization": "Bearer guess"}
load_path = f"{server.url}/load_model"
padding = "x" * 100_000
attempts = {  # where to, with which key, and what the good request holds besides
    "no key": (guarded, {}, {}),
    "a wrong key": (guarded, wrong, {}),
    "load any model": (load_path, right, {"model": "some/model"}),
    "a request of 100 kB": (guarded, right, {"padding": padding}),
    "100,000 tokens, please": (guarded, right, {"max_tokens": 100_000}),
    "its own chat template": (guarded, right, {"chat_template": "{{ 7 * 7 }}"}),
    "a good request": (guarded, right, {}),
}
rows = []
for name, (url, headers, extra) in attempts.items():
    body = ask | extra
    got = httpx.post(url, headers=headers, json=body, timeout=60, trust_env=False)
    said = got.json()["error"]["message"] if got.is_error else "answered"
    rows.append({"attempt": name, "status": got.status_code, "what the server says": said})
figures.table(rows)

# %% [markdown]
# The rate limit is one rule more. This gate allows three requests a minute from one address. A list of its models it
# gives by itself, so that we see the gate alone:


# %% tags=["topic:auth-rate-validation"]
async def knock(gate: serving.Gate) -> int:
    """One request straight into the gate; the status that comes back."""
    statuses = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "headers": [(b"authorization", b"Bearer k")],
    }

    async def send(message: dict) -> None:
        statuses.append(message.get("status"))

    await gate(scope, None, send)
    return statuses[0]


strict = serving.Gate(app=None, key="k", model="m", per_minute=3)
statuses = [await knock(strict) for _ in range(5)]  # noqa: F704
print(statuses)

# %% [markdown]
# An operator must know how much the service is used. Must the operator know *what* people ask? No: the gate
# counts bytes and milliseconds and keeps no content. Refused requests of a kind share a row a second, so that a flood
# of them does not fill the disk. These are the last rows, and a search for a word of our question in all that the
# server has written:

# %% tags=["topic:logging"]
usage = server.usage()
requests = sum(row["count"] for row in usage)
print(f"{requests} requests counted")

word = problem.question.split()[0]
log = server.log.read_text()
written = log + str(usage)
print(f"{word!r} is in the logs: {word in written}")

columns = ("path", "status", "count", "bytes_in", "bytes_out")
rows = []
for row in usage[-6:]:
    rows.append({name: row.get(name, "") for name in columns})
figures.table(rows)

# %% [markdown]
# **What to notice.** A refused request costs the model nothing: the gate answers before it. The key travels in a
# header and lives in the environment of the server process; on a command line, every user of the machine could
# read it.
#
# ## 5. Many users at once
#
# Eight people ask at the same moment. Should the server answer them one after the other, or all together? We
# send eight requests, 1, 2, 4 or 8 at a time, and count the tokens per second of all together. Three
# repeats each, because a laptop has other things to do, too; one repeat where a larger model runs without a GPU.

# %% tags=["topic:batching"]
LEVELS = (1, 2, 4, 8)
fast = unit.choices["chat"].tier == "bundled" or unit.device == "cuda"
REPEATS = 3 if fast else 1
prompts = []
for seed in range(8):
    rng = random.Random(seed)
    question = text.shopping_sum(rng).question
    prompts.append(text.prompt("steps", question))


def against_concurrency(server: serving.Server) -> dict[int, list[serving.Load]]:
    """Bursts of eight requests at each level of concurrency, after one burst to warm up."""
    serving.burst(server, prompts, at_once=8, max_tokens=8)
    loads = {}
    for n in figures.progress(LEVELS, "Bursts"):
        loads[n] = [serving.burst(server, prompts, n, max_tokens=16) for _ in range(REPEATS)]
    return loads


one_by_one = against_concurrency(server)
server.stop()

# %% [markdown]
# Now the same server with **continuous batching** (the idea of Orca, OSDI 2022, which vLLM made common, arXiv
# 2309.06180): at every step the model reads the weights once and makes the next token for *all* open
# conversations; a new one may join at any step.

# %% tags=["topic:batching"]
server = serving.start(folder, nf4=nf4, batching=True)
together = against_concurrency(server)

servers = {"one by one": one_by_one, "continuous batching": together}

fig, axes = figures.figure(columns=2, width=9, height=3.2)
for name, loads in servers.items():
    rates, waits = [], []  # for each level, the three bursts
    for n in LEVELS:
        rates.append([load.rate for load in loads[n]])
        waits.append([1000 * statistics.median(load.seconds) for load in loads[n]])
    for ax, groups in zip(axes, (rates, waits), strict=True):
        middle, reach = medians(groups)
        ax.errorbar(LEVELS, middle, yerr=reach, marker="o", capsize=3, label=name)
axes[0].set(xlabel="requests at once", ylabel="tokens per second in all", ylim=0, xticks=LEVELS)
axes[1].set(xlabel="requests at once", ylabel="ms per answer", ylim=0, xticks=LEVELS)
axes[0].legend(loc="lower right")
left = "Left: tokens per second against concurrency, flat one by one, rising with batching. "
right = "Right: the wait of one user, rising steeply one by one and slowly with batching."
figures.show(fig, alt=left + right)

# %% tags=["topic:batching"]
rows = []
for name, loads in servers.items():
    for n in LEVELS:
        rates = [burst.rate for burst in loads[n]]
        seconds = []  # of every request, in all bursts
        for burst in loads[n]:
            seconds += burst.seconds
        row = {"server": name, "at once": n, "tokens/s": statistics.median(rates)}
        row |= {"lowest": min(rates), "highest": max(rates)}
        row["ms per answer"] = 1000 * statistics.median(seconds)
        rows.append(row)
figures.table(rows, digits=1)


# %%
def median_rate(loads: list[serving.Load]) -> float:
    """Tokens per second in the middle one of the bursts."""
    return statistics.median(load.rate for load in loads)


alone = median_rate(together[1])
crowd = median_rate(together[8])
queue = median_rate(one_by_one[8])
gain = crowd / alone
print(f"continuous batching: {gain:.1f} times the tokens per second with 8 users than with 1")
gain = crowd / queue
print(f"8 users: {gain:.1f} times the tokens per second of answering one by one")

# %% [markdown]
# **What to notice.** One by one, more users mean more waiting and not a token more per second. Together, the
# throughput climbs, and a user waits longer than alone but clearly less than in a queue. This is why the "speed" of
# a server is not a number but a curve: always ask *at how many users*.
#
# ## 6. Other servers, the same client
#
# Ollama, vLLM and llama.cpp serve the same protocol. The next cell looks for them on their usual ports of *this*
# machine, and for their programs, and asks each that has a model the same question. Most machines have none:
# then the table says so, and nothing is pretended.
#
# It asks with `temperature=0`, the likeliest token each time: without it vLLM and Ollama draw lots, and four
# questions get four answers. Two kinds of models it leaves alone: those that turn text into numbers instead of
# chatting, and Ollama's cloud models, which look local and would send your question out.

# %% tags=["topic:openai-compatible"]
rows = serving.ask_all(messages, max_tokens=48)
figures.table(rows)

# %% [markdown]
# The client is the one of section 2, whichever server answers: `serving.find_backends()` lists them, and each has a
# `client()`.
#
# To try one: install Ollama from its site, run `ollama pull qwen2.5:0.5b`, and run the cell again. If you have
# vLLM, `serving.start(folder, backend="vllm")` starts it, which takes minutes; an environment of its own is found as
# `.venv-vllm` in the course's folder, or where the variable COURSE_VLLM says. With llama.cpp and a GGUF file it is
# `backend="llama.cpp"`.
#
# ## 7. Clean up
#
# A forgotten server holds memory and a port. `stop` ends the process and all its children. It also happens by
# itself when a cell fails, when the kernel stops, and when the kernel is killed: a small process, the keeper, stands
# between this notebook and its server. It looks twice a second whether the notebook still runs.

# %%
server.stop()
print("the port is free again:", serving.port_is_free(server.port))
exit_status = server.process.poll()  # None while the process runs
print("the process has ended:", exit_status is not None)

# %% [markdown]
# ## What you take with you
# - Weights are easy: parameters x bits / 8. What surprises people is the cache, which grows with every user
#   and every token.
# - Serve behind a gate: loopback, key, limits, a log without content.
# - Users feel time to first token and time per token; operators pay for throughput at a given number of users.
# - Every number here came with a spread, because the same machine never takes the same time twice.
#
# **Try it.** Send prompts of very different length in section 5: does batching still help? The gate in section 4 counts
# requests by address. Everybody on this machine has the same one: let `serving.Gate` count by key instead, and give
# two users a key each.
