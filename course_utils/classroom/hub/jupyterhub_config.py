"""A JupyterHub for a small room: one machine, on which every student has an account.

    jupyterhub -f jupyterhub_config.py

It listens on loopback; a web server with a certificate stands in front (README.md). students.py says which variables
it reads, and there is one more: COURSE_HUB_TEACHER, the name of an administrator. This hub cannot limit a student's
memory: it starts only as many servers as the machine has memory for. The Littlest JupyterHub limits each one, too.
"""

# ruff: noqa: F821, JupyterHub hands over `c` and `load_subconfig`
import os
import sys
from pathlib import Path

import psutil

GIB = 2**30
PER_STUDENT = 3 * GIB  # the largest core notebook peaks at 2.6 GiB
FOR_THE_SYSTEM = 2 * GIB  # the hub, its proxy, the system
IDLE = 60 * 60  # seconds until a server that nobody uses is stopped

here = Path(__file__).resolve().parent
load_subconfig(str(here / "students.py"))

c.JupyterHub.bind_url = "http://127.0.0.1:8000"
c.JupyterHub.hub_ip = "127.0.0.1"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:8001"
c.Spawner.ip = "127.0.0.1"
c.Spawner.default_url = "/lab"

# Who may sign in: accounts of this machine whose names are on the list of keys (students.py).
c.JupyterHub.authenticator_class = "pam"
c.JupyterHub.spawner_class = "jupyterhub.spawner.LocalProcessSpawner"
if teacher := os.environ.get("COURSE_HUB_TEACHER"):
    c.Authenticator.admin_users = {teacher}

room = psutil.virtual_memory().total - FOR_THE_SYSTEM
c.JupyterHub.active_server_limit = max(1, room // PER_STUDENT)
c.JupyterHub.concurrent_spawn_limit = 10  # a class signs in within a minute
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120

c.JupyterHub.load_roles = [
    {
        "name": "culler",
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
        "services": ["culler"],
    }
]
culler = [sys.executable, "-m", "jupyterhub_idle_culler", f"--timeout={IDLE}"]
c.JupyterHub.services = [{"name": "culler", "command": culler}]
