"""llama.cpp in this process, behind the same `Chat`: a single greedy answer in about a quarter of the time.

A token of prisma-lm takes transformers some three hundred small calls from Python, and they last longer than the
arithmetic does. llama.cpp's step is compiled. Nothing else changes: the weights are the same 16-bit numbers, summed in
another order, and the tokens come out equal (tests/models/test_llama_cpp.py). Many prompts at once and sampling stay
with transformers, whose batches are faster still and whose seeds the notebooks use.
"""

from __future__ import annotations

import importlib.util
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from course_utils import colab
from course_utils.models import gguf_file
from course_utils.models.roles import Chat, before

QUIET = -1  # llama.cpp's verbosity: its log would stand in the notebook


def is_installed() -> bool:
    """Whether llama.cpp can be used here; nothing is imported."""
    return importlib.util.find_spec("xllamacpp") is not None


def missing() -> str:
    """That the package is missing, and what brings it to this machine."""
    return f"the package xllamacpp (llama.cpp) is missing. To add it: {colab.how_to_add('xllamacpp')}"


class Engine:
    """llama.cpp with the model in a GGUF file, reading at most `window` tokens.

    It opens a port on loopback, too: `url`, for those who have its `key`. RuntimeError if it can't read the file.
    """

    def __init__(self, file: Path, window: int) -> None:
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx = window
        settings.n_parallel = 1
        settings.verbosity = QUIET
        self.key = secrets.token_urlsafe(24)
        settings.api_keys = [self.key]
        # Two threads for so small a model wait for each other longer than they work.
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        self.server = xllamacpp.Server(settings)
        self.url: str = self.server.listening_address

    def write(self, ids: list[int], new: int, stops: Sequence[str] = ()) -> str:
        """What comes after the tokens `ids`: `new` tokens at most, and nothing from the first of `stops` on.

        ValueError if they are more than the window.
        """
        wanted = {"prompt": ids, "max_tokens": new, "temperature": 0.0, "stop": list(stops)}
        reply = self._complete(wanted)
        return before(reply["choices"][0]["text"], stops)

    def speed(self, ids: list[int], new: int) -> tuple[float, float]:
        """Tokens a second that it reads (the tokens `ids`) and writes (`new` of them, whatever ends), by its own clock.

        ValueError if they are more than the window.
        """
        wanted = {"prompt": ids, "max_tokens": new, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
        taken = self._complete(wanted)["timings"]
        return taken["prompt_per_second"], taken["predicted_per_second"]

    def _complete(self, wanted: dict) -> dict:
        """llama.cpp's reply; ValueError where it refuses."""
        reply = self.server.handle_completions(wanted)
        if "error" in reply:
            raise ValueError(f"llama.cpp refuses the prompt: {reply['error'].get('message', reply['error'])}")
        return reply


@dataclass
class LlamaCppChat(Chat):
    """A `Chat` whose single greedy answers come from llama.cpp, made from the same weights by `through_llama_cpp`."""

    engine: Engine
    place: tempfile.TemporaryDirectory  # where the engine's file is: it goes when the chat does

    def _generate(self, prompts: list[str], new: int, stop: Sequence[str], temperature: float) -> list[str]:
        if len(prompts) > 1 or temperature > 0:
            return super()._generate(prompts, new, stop, temperature)
        stops = [stop] if isinstance(stop, str) else list(stop or [])
        ids, _ = self._read(prompts, new)  # (1, tokens)
        return [self.engine.write(ids[0].tolist(), new, stops)]


def through_llama_cpp(chat: Chat, folder: Path, say: Callable[[str], None] = print) -> Chat:
    """`chat` with llama.cpp for single greedy answers; `folder` holds its weights, as Llama's safetensors.

    Where xllamacpp is missing, says so and returns `chat` itself. Do not train or change `chat.model` afterwards:
    llama.cpp keeps the weights that it was given. ValueError for a folder that can't be written as GGUF.
    """
    if not is_installed():
        say(f"{chat.name} answers through transformers, which takes four times as long, because {missing()}")
        return chat
    # Windows deletes no open file: then it goes when Python ends.
    place = tempfile.TemporaryDirectory(prefix="course-gguf-", ignore_cleanup_errors=True)
    file = gguf_file.write_gguf(folder, Path(place.name) / "model.gguf")
    engine = Engine(file, chat.model.config.max_position_embeddings)
    return LlamaCppChat(chat.model, chat.tokenizer, chat.name, chat.tier, engine, place)
