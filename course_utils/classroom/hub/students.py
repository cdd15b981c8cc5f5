"""What the hub gives to each student's server: few threads, the shared models, an own key of the model server.

A file of JupyterHub's configuration, the same on every kind of hub: jupyterhub_config.py loads it, The Littlest
JupyterHub and Zero to JupyterHub take it as it is. It reads these variables of the hub, all of which may be missing:

    COURSE_HUB_CACHE    folder of downloaded models, which students can read and not write
    COURSE_HUB_MODELS   address of the model server, for example http://127.0.0.1:8010/v1
    COURSE_HUB_KEYS     keys.csv, as `course keys` wrote it; only the hub can read it
    COURSE_HUB_TIER     bundled (where it is missing), small or full
    COURSE_HUB_THREADS  threads of one student (where it is missing: 2)
"""

# ruff: noqa: F821, JupyterHub hands over `c`
import csv
import os
from pathlib import Path
from typing import Any

threads = os.environ.get("COURSE_HUB_THREADS", "2")
c.Spawner.environment = {
    # Libraries count the cores of the whole machine, and thirty students would each take all of them.
    "OMP_NUM_THREADS": threads,
    "OPENBLAS_NUM_THREADS": threads,
    "MKL_NUM_THREADS": threads,
    "COURSE_TIER": os.environ.get("COURSE_HUB_TIER", "bundled"),
}
if cache := os.environ.get("COURSE_HUB_CACHE"):
    c.Spawner.environment |= {"HF_HUB_CACHE": cache, "HF_HUB_DISABLE_TELEMETRY": "1"}


def read_keys() -> dict[str, str]:
    """The class's keys; read anew at each start of a server, so that a new list counts at once."""
    file = os.environ.get("COURSE_HUB_KEYS")
    if not file:
        return {}
    with Path(file).open(encoding="utf-8", newline="") as lines:
        return {row["student"]: row["key"] for row in csv.DictReader(lines)}


def give_key(spawner: Any) -> None:
    """What `openai.OpenAI()` reads: the address and the student's own key."""
    address = os.environ.get("COURSE_HUB_MODELS")
    if not address:
        return
    key = read_keys().get(spawner.user.name)
    if key is None:
        spawner.log.warning("%s has no key of the model server: `course keys` makes one.", spawner.user.name)
        return
    spawner.environment = spawner.environment | {"OPENAI_BASE_URL": address, "OPENAI_API_KEY": key}


c.Spawner.pre_spawn_hook = give_key

# Who may sign in. The list is read when the hub starts: start it anew after a change.
if listed := set(read_keys()):
    c.Authenticator.allowed_users.update(listed)
    # Or whoever was on it once would be admitted for ever: the hub remembers all whom it has seen.
    c.Authenticator.allow_existing_users = False
