# %% [markdown] tags=["badge"]
# # Start here: advanced generative AI, hands on
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/0_start_here.ipynb)

# %% [markdown]
# **What is this?** Five units in which you take generative AI apart: models that see and hear (7.1), agents that
# act (7.2), a look inside (7.3), running models yourself (7.4), teaching them something new (7.5).
#
# **What do you need?** Python, and to have read some PyTorch before. No account, no GPU, no network. Every unit
# runs on three small models that this course trained itself and ships. Where your machine has more, the same
# cells use bigger models.
#
# **Time:** this page takes a few seconds.
#
# **Downloads:** nothing.

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
# ## Is this machine ready?
#
# The next cell looks at what is here. It changes nothing. The one thing that it asks the network is whether the
# model hub answers (`COURSE_OFFLINE=1` forbids even that). Each line is one check; where something is missing, the
# cure stands beside it.

# %%
from course_utils import doctor, figures, settings, unit
from course_utils.models import bundled, hardware

machine = hardware.detect()
print(machine.describe())
findings = doctor.examine()
if doctor.healthy(findings):
    print("Every unit runs here.")
else:
    print('Something is missing: see "fail" below.')
rows = []
for finding in findings:
    row = {"check": finding.name, "status": finding.status}
    row |= {"found": finding.found, "cure": finding.cure}
    rows.append(row)
figures.table(rows)

# %% [markdown]
# **What to notice.** *ok* and *note* need nothing from you. *warn* says that something beyond the basics may not
# work. Only *fail* stops you.
#
# ## What will each unit use here, and how long does it take?

# %%
units = unit.overview()
figures.table(units, caption="The five units on this machine")

# %% [markdown]
# | unit | the question |
# | --- | --- |
# | [7.1 Multimodal AI](7.1_multimodal_ai.ipynb) | How does a sentence find a picture, and a voice find a toy? |
# | [7.2 Agentic AI](7.2_agentic_ai.ipynb) | What turns a model that writes into one that acts, and what stops it? |
# | [7.2, part 2: in production](7.2_agents_in_production.ipynb) | Which way is best, and what may it do alone? |
# | [7.3 Research directions](7.3_research_directions.ipynb) | What happens inside a model? |
# | [7.3, part 2: reasoning](7.3_reasoning.ipynb) | Does thinking longer help, and who judges the steps? |
# | [7.3, part 3: efficiency](7.3_efficiency.ipynb) | What can we take away from a model, and what does it cost? |
# | [7.4 Self-hosting](7.4_self_hosting.ipynb) | What does it take to serve a model yourself? |
# | [7.4, part 2: in production](7.4_in_production.ipynb) | What does it take to keep it answering? |
# | [7.5 Fine-tuning](7.5_finetuning.ipynb) | How do you teach a model something new, and prove that it learned? |
# | [7.5, part 2: choices](7.5_finetuning_choices.ipynb) | Should you fine-tune at all, how, and at what cost? |
#
# Each unit stands alone. If you have no favourite, go in order: one story runs through them. Prisma is a made-up
# shop for coloured toys. A customer speaks and shows a picture (7.1), an agent looks the order up (7.2), you look
# inside the model (7.3), serve it (7.4) and teach it the shop's tone (7.5). Meet the shop:

# %%
from course_utils.prisma import pictures, shop

prisma = shop.make_shop()
orders = list(prisma.orders.values())
order = orders[0]
print(f"{len(prisma.products)} products, {len(orders)} orders. Order {order.number}, for example:")
print(f"  {order.quantity} x {order.product.name} for {order.customer}, {order.status}")

toys = list(zip(shop.COLOURS, shop.SHAPES, strict=True))  # one of each colour and of each shape
scenes = [pictures.scene_of(toy) for toy in toys]
images = pictures.draw_many(scenes, settings.SEED)
names = [" ".join(toy) for toy in toys]
fig, axes = figures.figure(columns=len(toys), width=9, height=1.6)
for ax, image, name in zip(axes, images, names, strict=True):
    ax.imshow(image)
    ax.set_title(name, fontsize=8)
    ax.axis("off")
listed = ", ".join(names)
figures.show(fig, alt=f"Eight toys of Prisma: {listed}.")

# %% [markdown]
# ## And then?
#
# Labs go deeper into one topic each. They stand alone, too, and each takes up to three minutes to run.

# %%
from IPython.display import Markdown

folder = settings.TEXT / "labs"
links = []
for lab in sorted(folder.glob("*.py")):
    lines = lab.read_text("utf-8").splitlines()
    heading = next(line for line in lines if line.startswith("# # "))
    title = heading.removeprefix("# # ")
    links.append(f"- [{title}](labs/{lab.stem}.ipynb)")
listing = "\n".join(links)
Markdown(listing)

# %% [markdown]
# ## How do you work through a unit?
#
# 1. Open it and choose **Run all**. Everything runs, exercises included; nothing waits for you.
# 2. Read from the top. Where a cell asks you to guess, guess before you look.
# 3. Change something and run it again. Nothing can break: the models in `data/` are checked before each use.
# 4. Do the exercises. Each is a cell with a function to write, and a cell that checks it. `hint("7.1.late_fusion")`
#    gives the next hint each time you call it, `solution("7.1.late_fusion")` shows the course's own code. Until
#    your function passes, the notebook goes on with the course's own, and says so.
# 5. Answer the quizzes. One is here; remove the `#` to answer it:

# %%
from course_utils.exercises import check, hint, quiz, solution

quiz("7.1.fusion")
# quiz("7.1.fusion", "a")

# %% [markdown]
# ## How far are you?
#
# Your progress is kept in a file on this computer. It is never sent anywhere. In a terminal, `course progress`
# shows more.
#
# On Colab and Kaggle this computer is taken back after some hours. `colab.keep()`, in a new cell below the first, keeps
# your progress and your answers: on your Drive (Colab asks you for it), or in `/kaggle/working`.

# %%
from course_utils.exercises import progress, registry

tasks = registry.exercises()
rows = []
for name, task in tasks.items():
    row = {"exercise": task.title, "in": name}
    row |= {"difficulty": task.difficulty, "minutes": task.minutes}
    record = progress.get("exercises", name)
    row["status"] = record.status
    rows.append(row)
figures.table(rows)

# %% [markdown]
# ## If something goes wrong
#
# - `course doctor` in a terminal repeats the check above.
# - `course run 7.1` runs a unit in the background and names the cell that failed.
# - The models are damaged? `git checkout -- data/models` brings them back. The next cell verifies them now.

# %%
for name in bundled.NAMES:
    folder = bundled.verify(name)
    sizes = [file.stat().st_size for file in folder.iterdir()]  # bytes
    megabytes = sum(sizes) / 1e6
    print(f"{name}: intact, {megabytes:.1f} MB")
