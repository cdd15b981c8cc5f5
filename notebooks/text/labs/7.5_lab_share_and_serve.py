# %% [markdown] tags=["badge"]
# # 7.5 Lab: merge, swap, serve, share
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/labs/7.5_lab_share_and_serve.ipynb)

# %% [markdown]
# **After this notebook you can**
# - keep two skills beside one model, and swap them while it runs;
# - merge an adapter into 16-bit weights, and prove that the merged model is not the old one;
# - say, with a number, why you do not merge into 4-bit weights;
# - export to GGUF, serve the result, and check that each form still gives the same answers;
# - write a model card from measurements, and find what must not be published before you publish.
#
# **Time:** about 25 minutes to read and run; the cells take about two minutes on two free CPU cores.
#
# **Downloads:** nothing. **Uploads:** nothing, unless you ask for it in the last section. This lab trains, so it
# takes prisma-lm at every tier. The unit's core notebook, `7.5_finetuning`, explains LoRA and NF4.

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
import json
import os
import shutil
import time
import warnings
from dataclasses import replace

import openai
import torch

from course_utils import compat, figures, serving, settings
from course_utils.finetuning import four_bit, publishing, qlora, scoring, sft
from course_utils.measures import share
from course_utils.models import loaders, roles
from course_utils.prisma import conversations, lm, ollama_recipe

talks = conversations.by_split(conversations.make_conversations())
talks["validation"] = talks["validation"][:8]  # a glance at it is enough here
test = talks["test"][: settings.paced(60)]
adapters = unit.folder / "adapters"


def base() -> roles.Chat:
    """prisma-lm as it came, read anew: merging changes a model in place."""
    return loaders.load("chat", unit.hardware, "bundled")


# %% [markdown]
# ## 1. Two jobs, two adapters
#
# Prisma's support desk has two jobs for one message. Somebody must *answer* it in the house style. And
# somebody must *file* it: write the topic and the order number, no more. Do we need two models?
#
# We train two adapters on the same frozen base: QLoRA, as in the core notebook, with fewer steps. Filing is the
# easier job, so it gets fewer conversations.


# %% tags=["topic:merge-swap-serve"]
def filed(talk: conversations.Conversation) -> conversations.Conversation:
    """The same message, with the ticket line as what should be written."""
    ticket = {"topic": talk.intent, "number": str(talk.number)}
    return replace(talk, required=ticket)


def learn(name: str, data: dict, size: int) -> qlora.Recipe:
    """Train one adapter on `size` conversations and keep it in a folder of its own."""
    recipe = replace(qlora.RECIPES["bundled"], conversations=size, epochs=1.0)
    chat = four_bit.quantised(base(), unit.hardware)
    trainer = sft.make_trainer(chat, data, recipe, unit.hardware, unit.folder / f"run-{name}")
    sft.train(trainer)
    trainer.model.save_pretrained(adapters / name)
    trained[name] = replace(chat, model=trainer.model)
    return recipe


# %% tags=["topic:merge-swap-serve"]
trained, tickets = {}, {}
for part, group in talks.items():
    tickets[part] = [filed(talk) for talk in group]
recipes = {"support": learn("support", talks, 1120), "tickets": learn("tickets", tickets, 320)}
for name, recipe in recipes.items():
    file = adapters / name / "adapter_model.safetensors"
    size = file.stat().st_size
    print(f"{name}: {recipe.steps} steps of {recipe.batch} conversations")
    print(f"    a file of {size / 1e6:.1f} MB")

# %% [markdown]
# ## 2. Swap them while the model runs
#
# One base in memory, two adapters beside it. `set_adapter` says which of them counts. How long does a swap
# take, compared with loading another model?

# %% tags=["topic:merge-swap-serve"]
started = time.perf_counter()
plain = base()
loading = time.perf_counter() - started

model = compat.load_lora(plain.model, adapters / "support", name="support")
model.load_adapter(adapters / "tickets", adapter_name="tickets")
both = replace(plain, model=model.eval())

answers, swaps = {}, []
with model.disable_adapter():
    answers["no adapter"] = scoring.replies(both, test)
for name, wanted in (("support", test), ("tickets", [filed(talk) for talk in test])):
    started = time.perf_counter()
    model.set_adapter(name)
    swaps.append(time.perf_counter() - started)
    answers[name] = scoring.replies(both, test)
    right = scoring.score(wanted, answers[name])["all"]
    print(f"{name:>8} right: {right}")
slowest = 1000 * max(swaps)
print(f"a swap takes {slowest:.0f} ms, loading the model {1000 * loading:.0f} ms")

# %%
print(test[0].message)
rows = [{"adapter": name, "answer": written[0]} for name, written in answers.items()]
figures.table(rows)

# %% [markdown]
# A busy server gets both kinds of request at once. Must it sort them? No: in one batch, each row can name the
# adapter that counts for it.

# %% tags=["topic:merge-swap-serve"]
names, prompts, alone = [], [], []
for number, talk in enumerate(test[:3]):
    for name in ("support", "tickets"):
        names.append(name)
        prompts.append(both.prompt(talk.prompt))
        alone.append(answers[name][number])
inputs = both.tokenizer(
    prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
)
ids, mask = inputs["input_ids"], inputs["attention_mask"]  # (6, longest)
written = model.generate(
    input_ids=ids, attention_mask=mask, adapter_names=names, max_new_tokens=120
)
replies = written[:, ids.shape[1] :]  # without the prompts
texts = both.tokenizer.batch_decode(replies, skip_special_tokens=True)
same = publishing.same_replies(texts, alone)
print(f"in one batch as alone: {sum(same)} of {len(same)}")
rows = [{"adapter": name, "answer": text} for name, text in zip(names, texts, strict=True)]
figures.table(rows[:4])

# %% [markdown]
# **What to notice.** The base is in memory once; a second skill costs one small file. A swap changes which
# matrices are added and moves no weights, so it takes milliseconds. The price is the overhead that the core notebook
# measured: an adapter beside the weights takes part in every multiplication.

# %% [markdown]
# ## 3. Merge, and prove it
#
# Now the support adapter shall become part of the model: $W' = W + \frac{\alpha}{r} BA$, one folder that any
# program loads without knowing about LoRA. The mistake that people report again and again is silent. The
# merge or the export goes wrong, and what comes out is the *base* model. It loads, it answers, nobody sees an
# error. So a merge ends with a proof: read the saved folder again, and compare its answers with the base's.

# %% tags=["topic:merge-swap-serve"]
final, adapter = unit.folder / "prisma-support", adapters / "support"
merged = publishing.merged(base(), adapter, torch.bfloat16)
merged.model.save_pretrained(final)
merged.tokenizer.save_pretrained(final)

model_again, _ = lm.load(final)
again = replace(plain, model=model_again)
reread = scoring.replies(again, test)
changed = publishing.proof_of_change(answers["no adapter"], reread)
same = publishing.same_replies(answers["support"], reread)
right = scoring.score(test, reread)["all"]
print("answers that differ from the base's:   ", changed)
print("answers as with the adapter beside it: ", share(same))
print("right:", right)

# %% [markdown]
# Would the proof notice the mistake? Let us make it: a "merged" folder that was written from the base.

# %%
not_merged = scoring.replies(base(), test[:16])
try:
    publishing.proof_of_change(answers["no adapter"][:16], not_merged)
except publishing.UnchangedError as error:
    print("UnchangedError:", error)

# %% [markdown]
# ### Why in 16 bits?
#
# The adapter was trained on 4-bit weights. Would it not be natural to merge it into these? A merge has to store
# $W'$ in some format, and each format has its steps. The change must not be small against a step. We measure
# the error of storing $W'$, as a share of the change itself, and the answers that come out.

# %% tags=["topic:merge-swap-serve"]
before = publishing.matrices(base().model)
in_32_bits = publishing.merged(base(), adapter)
exact = publishing.matrices(in_32_bits.model)
half = publishing.merged(base(), adapter, torch.float16)
half.model.float()  # rounded to fp16; computed in 32 bits, which is faster on a CPU
small = four_bit.quantised(base(), unit.hardware)
coarse = publishing.matrices(small.model)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    small = publishing.merged(small, adapter)
messages = [str(warning.message) for warning in caught]
warned, *_ = [message for message in messages if "4-bit" in message]

change = {name: exact[name] - before[name] for name in exact}
part = publishing.length(change) / publishing.length(before)
print(f"the change is {part:.0%} of the weights it is added to")
print("PEFT says:", warned)
# The same change, on the 4-bit base that the merge into NF4 starts from.
wanted = {name: coarse[name] + change[name] for name in change}

# %% tags=["topic:merge-swap-serve"]
forms = {
    "16 bits, fp16": half,
    "16 bits, bf16": again,
    "16 bits, then NF4": four_bit.quantised(again, unit.hardware),
    "merged into NF4": small,
}
lost = {}
for form, chat in forms.items():
    start, goal = (coarse, wanted) if form == "merged into NF4" else (before, exact)
    stored = publishing.matrices(chat.model)
    lost[form] = publishing.lost(start, goal, stored)

# %% tags=["topic:merge-swap-serve"]
rows, rights = [], {}
for form, chat in {"NF4, adapter beside (as trained)": trained["support"], **forms}.items():
    texts = reread if chat is again else scoring.replies(chat, test)
    kept = share(publishing.same_replies(answers["support"], texts))
    rights[form] = scoring.score(test, texts)["all"]
    error = lost.get(form, 0.0)  # beside the weights, the adapter is not rounded to their format
    row = {"weights": form, "error / change": error}
    row["answers as in 16 bits with the adapter"] = str(kept)
    row["right"] = str(rights[form])
    rows.append(row)
worst, *_, best = sorted(rights, key=lambda form: rights[form].value)
overlap = rights[worst].high >= rights[best].low
print(f"best: {best}; worst: {worst}; their intervals {'overlap' if overlap else 'lie apart'}")
figures.table(rows, digits=4)

# %%
fig, ax = figures.figure(height=2.8)
errors = list(lost.values())
ax.plot(errors, list(lost), "o", markersize=10)
ax.set(xscale="log", xlim=(1e-4, 2), ylim=(-0.5, 3.5))
ax.set_xlabel("error of storing the merged weights / the change")
ax.invert_yaxis()
told = ", ".join(f"{form} {error:.1%}" for form, error in lost.items())
figures.show(fig, alt=f"The error of storing merged weights as a share of the change: {told}")

# %% [markdown]
# **What to notice.** In 16 bits nearly nothing of the change is lost, and nearly all answers stay. In NF4 a large part
# of it is rounded away: the steps of NF4 are nearly as coarse as the change is large. (The change is large here. A
# smaller one is lost more easily, in every format: compare in your own case.) That holds for both roads into 4 bits,
# so neither is free; measure before you ship one. The first row is the third road, and the one that QLoRA trained for:
# keep the adapter beside the 4-bit weights. Its answers are not those of the 16-bit base either, because the base
# under it is another one.
#
# Which row is best? Three of the five are in 4 bits, and *right* cannot rank them: the line above the table
# compares the intervals of the best and the worst. The column before is the sharper test, because it compares answer
# by answer. There the 16-bit rows stand apart from the 4-bit ones. Among the three in 4 bits, the adapter beside stands
# apart from the detour over 16 bits; the merge into NF4 lies between, and its interval overlaps both.

# %% [markdown]
# ## 4. One file for llama.cpp: GGUF
#
# llama.cpp and Ollama read GGUF: weights, vocabulary and chat template in one file. `write_gguf` (about 60 lines)
# renames the matrices and puts the rows of queries and keys into the order that llama.cpp wants. A mistake in
# either gives a model that answers, and answers nonsense. So the proof is the same: equal tokens.

# %% tags=["topic:merge-swap-serve"]
from course_utils.models import gguf_file, llama_cpp

gguf = gguf_file.write_gguf(final, unit.folder / "prisma-support.gguf")
size = gguf.stat().st_size
print(f"{gguf.name}: {size / 1e6:.1f} MB")

# %% tags=["topic:merge-swap-serve"]
if llama_cpp.is_installed():
    engine = llama_cpp.Engine(gguf, window=1024)
    texts = []
    for talk in test[:8]:
        prompt = again.prompt(talk.prompt)
        ids = again.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        texts.append(engine.write(ids, new=120))
    del engine  # ends its threads and closes its port
    equal = publishing.same_replies(texts, reread[:8])
    print("answers of llama.cpp equal to those of transformers:", share(equal))
else:
    print("The file is written and not run:", llama_cpp.missing())

# %% [markdown]
# Few answers may differ: llama.cpp keeps these weights in 16 bits and adds in another order, and where two tokens are
# nearly as likely, that decides. Rows in a wrong order would leave none alike.
#
# Ollama wants a `Modelfile` beside it. Many tutorials add a line `ADAPTER ./adapter`. Since version 0.34.1 Ollama
# refuses it, so ours has none: the adapter is merged already. The next cell lets Ollama make and ask the model,
# if this machine has it; `ollama rm prisma-support` takes it away again.

# %% tags=["topic:merge-swap-serve"]
modelfile = unit.folder / "Modelfile"
modelfile.write_text(ollama_recipe.modelfile(gguf.name))
print(modelfile.read_text())
problem = publishing.ollama_create("prisma-support", unit.folder)
if problem:
    print(
        f"Not tried: {problem}. With Ollama: `ollama create prisma-support -f Modelfile`, then run "
        "this cell again."
    )
else:
    ollama = serving.client(f"http://127.0.0.1:{serving.PORTS['Ollama']}", "none")
    completion = ollama.chat.completions.create(
        model="prisma-support", messages=test[0].prompt, max_tokens=120, temperature=0
    )
    reply = completion.choices[0].message.content
    print("Ollama answers as transformers:", reply == reread[0])

# %% [markdown]
# **What to notice.** Three programs, one set of weights, and each export is a chance to get another model. You
# do not check that a file exists; you check what it says.

# %% [markdown]
# ## 5. Serve it
#
# Unit 7.4 built a server with a gate: loopback only, a key, limits. It serves any folder, so it serves ours. The
# request is an ordinary one, through the `openai` client.

# %% tags=["topic:merge-swap-serve", "topic:customer-support"]
served = []
with serving.serve(final) as server:
    client = server.client()
    for talk in test[:8]:
        completion = client.chat.completions.create(
            model=server.model, messages=talk.prompt, max_tokens=120
        )
        served.append(completion.choices[0].message.content)
    stranger = serving.client(server.url, "a wrong key")
    try:
        stranger.models.list()
    except openai.AuthenticationError as error:
        print("with a wrong key:", error.status_code)
print("customer:", test[0].message)
print("served:  ", served[0])
same = publishing.same_replies(served, reread[:8])
free = serving.port_is_free(server.port)
print(f"as in this notebook: {sum(same)} of {len(same)}; the port is free again: {free}")

# %% [markdown]
# **What to notice.** The server computes in 16 bits and this notebook in 32. Where two words are almost equally
# likely, that can change one, and the rest of the answer with it. Compare a sample after every move.

# %% [markdown]
# ## 6. Share it
#
# What would you publish? Often the adapter: it is small, and everybody can get the base. Look first at what
# `save_pretrained` wrote. Would you want all of it on the web?

# %% tags=["topic:share-hub"]
public = unit.folder / "prisma-support-lora"
shutil.copytree(adapter, public, dirs_exist_ok=True)
# Trainers leave such a file behind.
torch.save({"learning_rate": recipes["support"].learning_rate}, public / "training_args.bin")
config = (public / "adapter_config.json").read_text()
base_model = json.loads(config)["base_model_name_or_path"]
print("base_model_name_or_path is a folder of this machine:", os.path.isabs(base_model))
for line in publishing.unfit(public):
    print("-", line)

# %% [markdown]
# A path tells others who you are and finds nothing on their machine. A pickle can run code when it is opened, so
# a careful reader will not open it. And without a card nobody knows what the model is for, or how good it is. The
# card's header is for machines, the rest for people; all its numbers come from this notebook.

# %% tags=["topic:share-hub"]
BASE = "genai-course/prisma-lm"  # a name for the base that others can use; a made-up one here
pickled = public / "training_args.bin"
pickled.unlink()
publishing.make_portable(public, BASE)
recipe = recipes["support"]
about = {
    "What it does": "Answers customers of the made-up toy shop Prisma in its house style, from "
    "facts in the prompt.",
    "How it was made": f"QLoRA on {recipe.conversations} generated conversations: rank "
    f"{recipe.rank}, alpha {recipe.alpha}, rate {recipe.learning_rate}, {recipe.steps} steps of "
    f"{recipe.batch}, seed {recipe.seed}.",
    "Limits": "It knows Prisma's ten topics and nothing else, and it invents when the facts are "
    "missing. Test conversations share sentences with training, so expect less on real mail.",
}
scores = scoring.score(test, answers["support"])
card = publishing.card(
    "prisma-support-lora", BASE, "cc-by-4.0", "Prisma support conversations, test", scores, about
)
card.save(public / "README.md")
print(card)
print("left to repair:", publishing.unfit(public) or "nothing")

# %% [markdown]
# Does it survive the journey? A folder is a repository, as far as a model is concerned. So we move it to another
# place, load it from there onto a fresh base, and ask again. The very same upload runs in the course's tests,
# against a model hub on loopback: create, upload, download, compare byte by byte.

# %% tags=["topic:share-hub"]
arrived = unit.folder / "somebody-else" / "prisma-support-lora"
shutil.copytree(public, arrived, dirs_exist_ok=True)
fresh = base()
with_adapter = compat.load_lora(fresh.model, arrived).eval()
theirs = replace(fresh, model=with_adapter)
texts = scoring.replies(theirs, test[:16])
same = publishing.same_replies(texts, answers["support"][:16])
print("the same bytes:", publishing.same_files(public, arrived))
print(f"the same answers: {sum(same)} of {len(same)}")

# %% [markdown]
# To publish for real, put your own name below and run the cell with a token in HF_TOKEN. It is off as it stands, and
# the repository would be private, so that you can look at it first.

# %% tags=["topic:share-hub"]
REPOSITORY = ""  # such as "your-name/prisma-support-lora"
token = os.environ.get("HF_TOKEN")
if not REPOSITORY:
    files = sorted(path.name for path in public.iterdir())
    print(f"Nothing was sent anywhere. Ready to go: {', '.join(files)}")
elif not token:
    print("HF_TOKEN is not set: make a token with write access on the hub's settings page.")
else:
    commit = publishing.push(public, REPOSITORY, token)
    print(commit.commit_url)

# %% [markdown]
# **What to notice.** The check found what nobody looks for: a pickle, and a folder of this machine in files that a
# library wrote. The card names the part that is worst as plainly as the part that is best; somebody who wants to
# use the model needs the first more. And the journey was tested by what arrives, not by the message that the upload
# had worked.

# %% [markdown]
# ## What you take with you
# - One base, many adapters: swap per request, or even per row of a batch.
# - Merge in 16 bits. In 4 bits the steps are nearly as large as what was learned.
# - Every export can silently give the old model back. Prove that the answers changed, and that they did not
#   change again afterwards.
# - A model without a card is a file. A card without numbers is an advertisement.
# - Before you publish, read what you publish: paths, pickles, tokens.
#
# **Try it.** Train the support adapter with rank 2: is the change smaller against the steps of NF4? Merge *both*
# adapters into one model: which of the two jobs does it do?
