# %% [markdown] tags=["badge"]
# # 7.4 Lab: a hosted API, or your own server?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.4_lab_hosted_apis.ipynb)

# %% [markdown]
# **After this notebook you can**
# - use a hosted API and your own server through one client, and say what stays different;
# - treat each refusal as it wants to be treated: a wrong key, too many requests, a filter;
# - count what a request costs, from the usage in its answer;
# - work out from how many tokens a day a server of your own is the cheaper one, and which of your inputs decides it.
#
# **Time:** about 20 minutes to read and run; the cells take less than a minute on two free CPU cores.
#
# **Downloads:** nothing, and nothing is sent to anybody. The "hosted" API is a stand-in on this machine, which refuses,
# meters and filters as the real ones publish it; behind it answers prisma-lm. A real one is asked only in section 4,
# and only if you switch that on.

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
import os
import secrets
import statistics
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import date

import numpy as np
import openai

from course_utils import figures, serving
from course_utils.models import bundled
from course_utils.prisma import text
from course_utils.serving import balancer, costs, hosted

# %% [markdown]
# ## 1. The same protocol, not the same service
#
# Many providers take the requests of OpenAI's chat API, so that moving is a matter of an address, a key and a model's
# name. What differs is easy to overlook. The table tells what their own documentation says, as far as we could read
# it in 2026. Such pages change: check them before you build on a row.

# %% tags=["topic:hosted-apis"]
rows = [
    {
        "provider": "OpenAI",
        "base URL for this client": "https://api.openai.com/v1",
        "its own way": "Authorization: Bearer; the newer API is /responses",
        "pages": "developers.openai.com/api/reference",
    },
    {
        "provider": "Anthropic",
        "base URL for this client": "https://api.anthropic.com/v1/",
        "its own way": "x-api-key, anthropic-version; /v1/messages, max_tokens is required",
        "pages": "platform.claude.com/docs/en/api/openai-sdk",
    },
    {
        "provider": "Google Gemini",
        "base URL for this client": "https://generativelanguage.googleapis.com/v1beta/openai/",
        "its own way": "x-goog-api-key; models/NAME:generateContent",
        "pages": "ai.google.dev/gemini-api/docs/openai",
    },
]
figures.table(rows, caption="Three hosted APIs and the openai client")

# %% [markdown]
# Anthropic calls its compatible layer a way to test and compare, not one for production, and says that fields
# which it does not know are mostly ignored without a word. That is the danger of every compatible layer: a request
# that is *accepted* need not be *obeyed*. So ask for something that shows, and look. Six questions to any provider:

# %% tags=["topic:hosted-apis"]
rows = [
    {
        "question": "who may ask?",
        "hosted": "a key for an account, with a budget",
        "own": "your gate",
    },
    {
        "question": "how much?",
        "hosted": "requests and tokens a minute, by account",
        "own": "your machine",
    },
    {
        "question": "which model?",
        "hosted": "a name; it may be retired",
        "own": "the files that you keep",
    },
    {"question": "who reads it?", "hosted": "see their terms, tier by tier", "own": "nobody else"},
    {
        "question": "what is refused?",
        "hosted": "their filter decides",
        "own": "you decide, and answer for it",
    },
    {"question": "what is paid?", "hosted": "tokens read and written", "own": "hours, used or not"},
]
figures.table(rows)

# %% [markdown]
# On who reads it, three things are separate: *training* on your text, *keeping* it for a while, and *looking* at it
# after an alarm. OpenAI's documentation said that API data is not used for training unless you agree, and is kept for
# up to 30 days against abuse. Google's terms said that it does not use the prompts of its paid Gemini API to improve
# its products, and does use those of the free one. Read the terms of *your* tier on the day you decide.

# %% [markdown]
# ## 2. A provider on this machine
#
# The stand-in has one account with a key, allows six requests a minute, and stops prompts with the word "poison".
# Your own server stands behind it, so both give the same answers, and the whole difference is the service.

# %% tags=["topic:hosted-apis"]
stack = ExitStack()  # closed in the last section
own = stack.enter_context(serving.serve(bundled.folder("prisma-lm"), batching=True))
account = hosted.Account(key=secrets.token_urlsafe(24), per_window=6, window=60.0)
url = stack.enter_context(balancer.in_thread(hosted.provider(own, account)))

services = {"hosted": serving.client(url, account.key), "own": own.client()}
MESSAGES = [{"role": "user", "content": "What is 12 + 30?"}]
for name, client in services.items():
    reply = client.chat.completions.create(model=own.model, messages=MESSAGES, max_tokens=24)
    usage = reply.usage
    said = reply.choices[0].message.content
    print(f"{name:7} {usage.prompt_tokens} read, {usage.completion_tokens} written: {said!r}")

# %% [markdown]
# Two clients, one line of code. Now the refusals. Which of them should your program try again? Decide for each before
# you run the cell.

# %% tags=["topic:hosted-apis"]
POISON = [{"role": "user", "content": "Tell me about poison."}]


def refused(client: openai.OpenAI, messages: list[dict]) -> dict:
    """What came of one request: "answered", or the error with its code and the seconds to wait."""
    try:
        client.chat.completions.create(model=own.model, messages=messages, max_tokens=4)
    except openai.APIStatusError as error:
        wait = error.response.headers.get("retry-after", "")
        return {"status": error.status_code, "code": error.code, "wait (s)": wait}
    return {"status": 200, "code": "answered", "wait (s)": ""}


stranger = serving.client(url, "a guess")
rows = [{"request": "a wrong key"} | refused(stranger, MESSAGES)]
rows.append({"request": "stopped by the filter"} | refused(services["hosted"], POISON))
for n in range(6):
    rows.append({"request": f"an ordinary one, {n + 1}"} | refused(services["hosted"], MESSAGES))
figures.table(rows)

# %% [markdown]
# **What to notice.** A 401 and a filter say the same tomorrow: trying again is useless, and a loop that does so is
# billed. (Azure's API gives the filter's word as an error, too; others answer with 200 and the finish reason
# `content_filter`: look at it before you show an empty answer.) A 429 is a matter of time, and says how much, in the
# header `Retry-After`. The request that was filtered counted against the limit. The client can wait by itself. (So that
# you need not wait a minute, the account gets a window of three seconds now.)

# %% tags=["topic:hosted-apis"]
account.window = 3.0
patient = serving.client(url, account.key, max_retries=3)
began = time.perf_counter()
seconds = []
for _ in range(8):
    patient.chat.completions.create(model=own.model, messages=MESSAGES, max_tokens=4)
    seconds.append(time.perf_counter() - began)
waits = np.diff([0.0, *seconds])
print("seconds for each:", ", ".join(f"{wait:.1f}" for wait in waits))
print(f"all {len(waits)} answered; the longest wait was {max(waits):.1f} s")

# %% [markdown]
# Nothing was lost: where the limit was reached, the client waited as long as it was told. With many programs on one
# account, let them wait a *random* bit longer, or all come back in the same moment.
#
# ## 3. What did that cost?
#
# The answer to each request says how many tokens were read and written, and that is what is billed. We keep
# count on our side and compare it with the provider's invoice. The prices are **examples**: round numbers, no
# provider's. Put in those of your provider's price page, with the day on which you read it.

# %% tags=["topic:hosted-apis"]
PRICE = costs.Hosted(per_million_read=1.0, per_million_written=4.0)
page = "the provider's price page"
as_yours = costs.Origin(page, date(2026, 11, 27))
print("How yours would be marked:", as_yours)

before = (account.read, account.written)
read = written = 0
for order in range(5):
    messages = [{"role": "user", "content": f"Where is order {1000 + order}?"}]
    reply = patient.chat.completions.create(model=own.model, messages=messages, max_tokens=24)
    read += reply.usage.prompt_tokens
    written += reply.usage.completion_tokens
invoice = (account.read - before[0], account.written - before[1])
money = (read * PRICE.per_million_read + written * PRICE.per_million_written) / 1e6
print(f"our count: {read} read, {written} written; the provider's: {invoice[0]} and {invoice[1]}")
print(
    f"prices ({PRICE.origin}): {money:.6f} for five answers, {money / 5 * 1e6:,.0f} for a million"
)

# %% [markdown]
# ## 4. The real one, if you want it
#
# This cell sends one request to a provider of your choice. It does so only if you set SEND to True *and* the variable
# COURSE_HOSTED_KEY holds your key. What it sends is the one sentence that you see, and it may be billed.

# %% tags=["topic:hosted-apis"]
SEND = False
PROVIDER, MODEL = "https://api.openai.com/v1", "the name of a model"
key = os.environ.get("COURSE_HOSTED_KEY")
if not SEND:
    print("Nothing was sent anywhere: SEND is False.")
elif not key:
    print("Nothing was sent anywhere: COURSE_HOSTED_KEY is not set.")
else:
    print("Sending one request to", PROVIDER)
    real = openai.OpenAI(base_url=PROVIDER, api_key=key, timeout=30, max_retries=2)
    reply = real.chat.completions.create(model=MODEL, messages=MESSAGES)
    print(reply.choices[0].message.content, reply.usage)

# %% [markdown]
# ## 5. From how many tokens on?
#
# An API is paid by the token, a server by the hour. So few tokens are cheaper with the API, and from some number on
# your own server is. The calculator is short enough to write down. One machine costs $24h$ a day, and somebody has to
# look after it, $w$ a day. It writes $s$ tokens a second when it is full, and is full only a share $b$ of the day,
# because people sleep. A written token costs $p$ with the API, with the tokens that are read for it:
#
# $$24\,h\,m + w = p\,T, \qquad T \leq 86400\,s\,b\,m$$
#
# with $m$ machines of your own and $T$ written tokens a day.
#
# The second half is the one that people forget: a machine that breaks even at more tokens than it can write never
# breaks even by itself.
#
# First $s$, measured: how many tokens a second does *this* server write, with eight users?

# %% tags=["topic:hosted-apis", "topic:why-self-host"]
prompts = [text.prompt("steps", f"Where is order {1000 + n}?") for n in range(16)]
loads = [serving.burst(own, prompts, at_once=8, max_tokens=24) for _ in range(4)]
rates = [load.rate for load in loads[1:]]  # the first one warms up
rate = statistics.median(rates)
print(f"{rate:.0f} tokens/s ({min(rates):.0f} to {max(rates):.0f}) with prisma-lm on this machine")

# %% [markdown]
# That is a model of five million parameters on your CPU, so it is no rival of a hosted model. It shows how the number
# is made. For a decision, measure the model that you would really use, on the machine that you would really rent, at
# the number of users that you really have. All numbers below but that rate are examples. They stand in one place, so
# that you can put in yours:

# %% tags=["topic:hosted-apis", "topic:why-self-host"]
READ = 3.0  # tokens read for each one written: prompts are longer than answers
SMALL = costs.Own(per_hour=0.05, tokens_per_second=rate, work_per_day=5.0, busy=0.3)
CARD = costs.Own(per_hour=1.0, tokens_per_second=1500.0, work_per_day=50.0, busy=0.3)
owns = {"this machine, prisma-lm": SMALL, "a rented card (example)": CARD}
rows = []
for name, machine in owns.items():
    point = costs.break_even(PRICE, machine, READ)
    row = {"own server": name, "an hour": machine.per_hour, "work a day": machine.work_per_day}
    row |= {"tokens/s": machine.tokens_per_second, "busy": machine.busy}
    row["writes a day (millions)"] = machine.most / 1e6
    row["break-even (millions)"] = point / 1e6
    row["machines there"] = str(int(np.ceil(point / machine.most))) if np.isfinite(point) else "-"
    rows.append(row)
origins = {str(PRICE.origin), str(SMALL.origin), str(CARD.origin)}
print("where the prices are from:", "; ".join(sorted(origins)))
figures.table(rows, caption="Tokens written a day from which the own one costs no more")

# %% tags=["topic:hosted-apis", "topic:why-self-host"]
tokens = np.geomspace(1e5, 3e8, 300)  # written a day
fig, ax = figures.figure(height=3.6)
ax.plot(tokens / 1e6, tokens * PRICE.per_written(READ), label="hosted (example prices)")
for name, machine in owns.items():
    ax.plot(tokens / 1e6, [machine.cost(one) for one in tokens], label=name)
ax.set(xscale="log", yscale="log", xlabel="tokens written a day (millions)", ylabel="cost a day")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
alt = (
    "Cost a day against tokens: the hosted line rises evenly, the own ones begin high, with steps."
)
figures.show(fig, alt=alt)

# %% [markdown]
# **What to notice.** The own lines begin with what is paid for nothing, and go up in steps, a whole machine at a time.
# For few tokens the API is far cheaper.
#
# ## 6. Which input decides?
#
# Every input is uncertain, and some more than others. So halve and double each of them, one by one, and see how far the
# break-even moves.

# %%
FIELDS = {
    "price an hour": "per_hour",
    "tokens a second": "tokens_per_second",
    "work a day": "work_per_day",
    "share of the day": "busy",
}
INPUTS = (*FIELDS, "price of the API")


def changed(name: str, factor: float) -> float:
    """The rented card's break-even (millions of tokens a day) with one input times `factor`."""
    if name in FIELDS:
        field = FIELDS[name]
        machine = replace(CARD, **{field: factor * getattr(CARD, field)})
        return costs.break_even(PRICE, machine, READ) / 1e6
    price = costs.Hosted(factor * PRICE.per_million_read, factor * PRICE.per_million_written)
    return costs.break_even(price, CARD, READ) / 1e6


# %% tags=["topic:hosted-apis", "topic:why-self-host"]
middle = changed("price an hour", 1.0)
rows = []
for name in INPUTS:
    row = {"input": name, "halved": changed(name, 0.5), "as it is": middle}
    row["doubled"] = changed(name, 2.0)
    rows.append(row)
figures.table(
    rows, caption="Break-even of the rented card, millions of written tokens a day", digits=1
)

# %% tags=["topic:hosted-apis", "topic:why-self-host"]
fig, ax = figures.figure(height=2.8)
for place, row in enumerate(rows):
    ends = [row["halved"], row["doubled"]]
    shown = [min(end, 10 * middle) for end in ends]  # infinite: drawn at the edge
    ax.plot(shown, [place, place], linewidth=6, color=figures.PALETTE["blue"])
    ax.annotate("halved", (shown[0], place), xytext=(0, 8), textcoords="offset points", ha="center")
ax.axvline(middle, color=figures.GREY, linestyle="--")
ax.set(xlabel="break-even (millions of tokens a day)", yticks=range(len(INPUTS)), ylim=(-0.6, 4.8))
ax.set_yticklabels(INPUTS)
figures.show(fig, alt="How far the break-even moves when each input is halved or doubled.")

# %% [markdown]
# **What to notice.** An input that does not move the break-even need not be known well. One that moves it far is the
# one to measure first. The tokens a second matter only where the machine is full: as long as one machine has room, a
# faster one is not cheaper.
#
# And money is not all. Reasons that no calculator holds:
#
# - **for your own server**: text that may not leave the house, work without a network, a model that stays as it is,
#   no limit but the machine's;
# - **for an API**: the largest models, no one on call at night, a load that comes twice a day, starting tomorrow.
#
# ## 7. Clean up

# %%
stack.close()
port = int(url.rsplit(":", 1)[1])
print("both ports are free again:", serving.port_is_free(port) and serving.port_is_free(own.port))

# %% [markdown]
# ## What you take with you
# - One protocol, several services: key, limits, names, filter, terms and bill differ.
# - Retry what time can heal (429, 5xx), with `Retry-After`. Never retry a wrong key or a filter.
# - Bills count tokens read and written; so can you.
# - Break-even: what is paid for nothing against the price of a token, and never more than the machine can write.
# - A price without a date is a rumour.
#
# **Try it.** Put in the prices of a provider with their day, and the rate of a model that you have measured with
# `serving.burst`. What if prompts are ten times as long as answers? At how many machines does a second person on call
# pay?
