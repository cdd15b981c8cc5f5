"""A model that is larger than the memory: layers that stay on disk, or matrices cut over two processes.

Each measurement is a process of its own, so that nothing of one stays in the memory of the next. They start from
this file (`python -m course_utils.serving.larger`), work on one thread, and print a report as JSON.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import ranks
from course_utils.settings import SEED

if TYPE_CHECKING:
    import torch

PROMPT = tuple(range(5, 25))  # token ids; the model is random, so any will do
TIMEOUT = 300  # seconds for one measurement
SHARD = "24MB"  # of a file: real models come in such pieces, only larger


@dataclass(frozen=True)
class Report:
    """What one process saw."""

    tokens: tuple[int, ...]
    first_logits: tuple[float, ...]  # four of them, after the prompt
    grown: float  # MB by which its memory grew at most; 0 where the system does not tell (Linux does)
    weights: float  # MB of the weights that it holds between tokens
    seconds: float  # for one more token


def random_llama(folder: Path, layers: int = 8, width: int = 768) -> int:
    """Save a Llama with random weights in fp32, in many small files; its bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from course_utils.models.loaders import quiet_libraries

    quiet_libraries()
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        tie_word_embeddings=False,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size=SHARD)
    return sum(weight.nbytes for weight in model.parameters())


def placement(layers: int, on_disk: int) -> dict[str, str]:
    """Accelerate's device map: the last `on_disk` layers stay on disk, all else is in memory."""
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    for layer in range(layers):
        places[f"model.layers.{layer}"] = "disk" if layer >= layers - on_disk else "cpu"
    return places


# --- measuring ------------------------------------------------------------------------------------------


def from_disk(folder: Path, on_disk: int, tokens: int = 8) -> Report:
    """Run the model in `folder` with its last `on_disk` layers on disk, in a process of its own.

    ranks.RanksError if that fails.
    """
    arguments = [str(folder), "--on-disk", str(on_disk), "--tokens", str(tokens)]
    (report,) = _measure(arguments, processes=1)
    return report


def in_two(folder: Path, tokens: int = 8) -> list[Report]:
    """Run the model in `folder` on two processes, each with half of every large matrix; a report from each."""
    return _measure([str(folder), "--tokens", str(tokens), "--cut"], processes=2)


def _measure(arguments: list[str], processes: int) -> list[Report]:
    """What each process reports. ranks.RanksError if one fails; none is left."""
    reports = []
    for words in ranks.launch("course_utils.serving.larger", arguments, processes, TIMEOUT):
        lists = {name: tuple(words[name]) for name in ("tokens", "first_logits")}
        reports.append(Report(**words | lists))
    return reports


# --- in the process -------------------------------------------------------------------------------------


def _load(asked: argparse.Namespace, empty: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    from course_utils import compat

    if asked.cut:
        return compat.load_sharded(asked.folder)
    if asked.on_disk == 0:
        import torch

        return AutoModelForCausalLM.from_pretrained(asked.folder, dtype=torch.float32)
    layers = AutoConfig.from_pretrained(asked.folder).num_hidden_layers
    places = placement(layers, asked.on_disk)
    return AutoModelForCausalLM.from_pretrained(asked.folder, device_map=places, offload_folder=empty)


def _warm_up(asked: argparse.Namespace) -> None:
    """Load and run a tiny model in the same way: what libraries load late is there before memory is counted."""
    with tempfile.TemporaryDirectory(prefix="course-tiny-") as name:
        random_llama(Path(name), layers=1, width=256)
        tiny = argparse.Namespace(folder=name, on_disk=min(1, asked.on_disk), cut=False)
        model = _load(tiny, name)
        _write(model, 1)


def _write(model: Any, tokens: int) -> "torch.Tensor":
    """The prompt and so many likeliest tokens, (1, prompt + tokens)."""
    import torch

    with torch.no_grad():
        return model.generate(torch.tensor([PROMPT]), max_new_tokens=tokens, do_sample=False)


def _held(parameter: "torch.Tensor") -> int:
    """Bytes of a parameter in this process: of its part, if it is cut; none, if it is on disk ("meta")."""
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return 0 if local.device.type == "meta" else local.nbytes


def run(asked: argparse.Namespace) -> Report:
    """Load and write, and say what it took."""
    import torch

    from course_utils.memory.measurement import peak_watch
    from course_utils.memory.shapes import GIB

    torch.set_num_threads(1)
    if not asked.cut:
        _warm_up(asked)
    with tempfile.TemporaryDirectory(prefix="course-offload-") as empty, peak_watch("cpu") as peak:
        model = _load(asked, empty)
        with torch.no_grad():
            logits = model(torch.tensor([PROMPT])).logits[0, -1, :4]
        began = time.perf_counter()
        written = _write(model, asked.tokens)
        seconds = (time.perf_counter() - began) / asked.tokens
        held = sum(_held(weight) for weight in model.parameters())
    tokens = tuple(written[0, len(PROMPT) :].tolist())
    grown = (peak.highest - peak.before) * GIB
    return Report(tokens, tuple(logits.tolist()), grown / 1e6, held / 1e6, seconds)


def main() -> None:
    """The program that a measurement starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--on-disk", type=int, default=0)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--cut", action="store_true")
    asked = parser.parse_args()
    from course_utils.models.loaders import quiet_libraries

    quiet_libraries()
    with ranks.meeting():
        report = run(asked)
    print(json.dumps(asdict(report)))


# --- reading from disk ----------------------------------------------------------------------------------


def read_speed(folder: Path, from_disk: bool) -> float | None:
    """MB a second when the weight files are read once, from disk or as the system remembers them.

    None where the system cannot be told to forget a file (only Linux can).
    """
    files = sorted(folder.glob("*.safetensors"))
    if from_disk and not hasattr(os, "posix_fadvise"):
        return None
    if from_disk:
        for file in files:
            _forget(file)
    began, size = time.perf_counter(), 0
    for file in files:
        size += len(file.read_bytes())
    return size / 1e6 / (time.perf_counter() - began)


def _forget(file: Path) -> None:
    """Ask the system to write a file out and to keep nothing of it in memory."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


if __name__ == "__main__":
    main()
