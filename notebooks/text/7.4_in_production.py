# %% [markdown] tags=["badge"]
# # 7.4 Self-hosting LLMs, part 2: in production
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/genai-course/advanced-generative-ai/blob/main/notebooks/7.4_in_production.ipynb)

# %% [markdown]
# **After this notebook you can**
# - store the same weights in fewer bits in four ways, and say what each costs in size, quality and speed;
# - see what your server does: metrics that Prometheus reads, and a log that keeps no content;
# - keep answering when a model is slow, dead, or talks nonsense;
# - attack your own server with an instruction hidden in its input, and measure two defences.
#
# **Time:** about 25 minutes to read and run; the cells take about a minute on two CPU cores.
#
# **Downloads:** nothing at the bundled tier.

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

# %% [markdown]
# ## 1. Fewer bits

# %% [markdown]
# SECTION-1 (quantisation-methods, precision-tradeoffs)

# %% [markdown]
# ## 2. What does your server do?

# %% [markdown]
# SECTION-2 (monitoring), SECTION-3 (logging), SECTION-4 (timeouts-fallbacks), SECTION-5 (prompt-injection), SECTION-6 (deployment-lifecycle)

# %% [markdown]
# ## 7. The same with a real model

# %% [markdown]
# SECTION-7

# %% [markdown]
# ## What you take with you
