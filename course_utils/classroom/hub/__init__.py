"""A JupyterHub for a class, with a model server that all share.

    README.md               from top to bottom: which hub, which machine, how to set it up
    keys.py                 a key of the model server for each student
    sharing.py              the shared model server of a small room: llama.cpp behind the course's gate
    students.py             what the hub gives to each student's server, on every kind of hub
    jupyterhub_config.py    a hub for a small room, on one machine
    tljh.yaml               The Littlest JupyterHub: one server
    values.yaml             Zero to JupyterHub: Kubernetes
    Dockerfile              the image that students' servers run in there
    model-server.yaml       Kubernetes: vLLM with a GPU, and the gateway (gateway.Dockerfile)
    litellm.yaml            LiteLLM in front of vLLM, for a larger room; litellm_keys.py lets it read the keys

The README leads an instructor through it.
"""

PER_MINUTE = 30  # requests of one student to the shared model server, where nobody says otherwise
