"""Ollama, driven over its own REST interface: a model from a GGUF file, a chat with a window, what is in memory.

The OpenAI-style paths of Ollama take no window (`num_ctx`), and no word on how long a model stays loaded. These do:
https://docs.ollama.com/api. No Ollama came with the machine that this was written on: tests/serving/test_ollama.py has
a stand-in that follows the published interface.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.prisma.ollama_recipe import STOP, TEMPLATE
from course_utils.serving.engines import PORTS, knock
from course_utils.serving.settings import LOOPBACK


@dataclass(frozen=True)
class Reply:
    """An answer, the tokens of the prompt that were read, and the tokens written."""

    text: str
    read: int
    written: int


def find(port: int = PORTS["Ollama"]) -> "Ollama | None":
    """The Ollama that runs on this machine, None if there is none."""
    server = knock("Ollama", port)
    return Ollama(server.url) if server and server.name == "Ollama" else None


class OllamaError(RuntimeError):
    """What Ollama answered when it could not do what was asked."""


class Ollama:
    """A running Ollama. Every method raises OllamaError with its own words when it refuses."""

    def __init__(self, url: str = f"http://{LOOPBACK}:{PORTS['Ollama']}", timeout: float = 300) -> None:
        import httpx

        self.web = httpx.Client(base_url=url, timeout=timeout, trust_env=False)

    def create(self, name: str, gguf: Path, system: str, window: int) -> None:
        """Make a model of a GGUF file: send the file, named by its SHA-256, then the recipe."""
        with gguf.open("rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            if self.web.head(f"/api/blobs/{digest}").status_code != 200:
                self._checked(self.web.post(f"/api/blobs/{digest}", content=file))
        recipe = {"model": name, "files": {gguf.name: digest}, "template": TEMPLATE, "system": system}
        recipe["parameters"] = {"num_ctx": window, "stop": [STOP], "temperature": 0}
        self._post("/api/create", recipe)

    def chat(
        self, model: str, messages: Sequence[dict], window: int, max_tokens: int = 48, keep: str | int = "5m"
    ) -> Reply:
        """The likeliest answer. What does not fit into `window` tokens is not read; `keep` 0 unloads the model then.

        Compare `read` with the length of what you sent: nothing else tells that the beginning was left out.
        """
        options = {"num_ctx": window, "temperature": 0, "num_predict": max_tokens}
        asked = {"model": model, "messages": list(messages), "options": options, "keep_alive": keep}
        reply = self._post("/api/chat", asked)
        return Reply(reply["message"]["content"], reply.get("prompt_eval_count", 0), reply.get("eval_count", 0))

    def loaded(self) -> list[str]:
        """The models that are in memory now."""
        reply = self._checked(self.web.get("/api/ps")).json()
        return [model["name"] for model in reply["models"]]

    def unload(self, model: str) -> None:
        """Free the memory of a model: a request without a question that keeps it for no time."""
        self._post("/api/generate", {"model": model, "keep_alive": 0})

    def delete(self, model: str) -> None:
        """Remove a model from Ollama's store."""
        self._checked(self.web.request("DELETE", "/api/delete", json={"model": model}))

    def _post(self, path: str, content: dict) -> dict[str, Any]:
        return self._checked(self.web.post(path, json=content | {"stream": False})).json()

    def _checked(self, reply: Any) -> Any:
        if reply.is_error:
            raise OllamaError(f"Ollama answers {reply.status_code}: {reply.text[:300]}")
        return reply
