"""Unit 7.5, after training: what a merge keeps, what a file says, what may be published, and publishing it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils import bundled, compat, offline
from course_utils.finetuning import dequantised, linear_layers
from course_utils.inputs import as_texts
from course_utils.prisma.training import Measure, share

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from course_utils.loaders import Chat

# ---------------------------------------------------------------- merging


class UnchangedError(RuntimeError):
    """A merged model that answers as its base does: the adapter is not in it."""


def merged(chat: Chat, adapter: Path, dtype: torch.dtype | None = None) -> Chat:
    """`chat` with the adapter added to its weights for good, then stored as `dtype` (None: as they are).

    Uses up `chat`: PEFT works in place. The adapter's file is read only.
    """
    model = compat.load_lora(chat.model, adapter).merge_and_unload()
    return dataclasses.replace(chat, model=(model.to(dtype) if dtype else model).eval())


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """The matrices of the linear layers by name, in float32; those in 4 bits as the numbers that they stand for."""
    return {name: _numbers(layer).float() for name, layer in linear_layers(model).items()}


def _numbers(layer: nn.Linear) -> Tensor:
    return dequantised(layer) if hasattr(layer.weight, "quant_state") else layer.weight.data.clone()


def lost(before: Mapping[str, Tensor], wanted: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> float:
    """How much of the change from `before` to `wanted` is not in `stored`: ||stored - wanted|| / ||wanted - before||.

    0: all of the change was kept. 1: the error is as large as the change.
    """
    error = sum((stored[name] - wanted[name]).square().sum() for name in wanted)
    change = sum((wanted[name] - before[name]).square().sum() for name in wanted)
    return float((error / change).sqrt())


def proof_of_change(before: Sequence[str], after: Sequence[str]) -> Measure:
    """The share of answers that differ. UnchangedError if none does."""
    before = as_texts(before, "replies")
    after = as_texts(after, "replies")
    differ = [a != b for a, b in zip(before, after, strict=True)]
    if not any(differ):
        raise UnchangedError(
            f"All {len(differ)} answers are those of the base model, so the adapter was not merged. Check that it "
            "was trained on this base, that its layers have the same names, and that you saved the merged model."
        )
    return share(differ)


# ---------------------------------------------------------------- Ollama

# prisma-lm's turns, in the template language of Go, which is Ollama's.
TURNS = "{{ if .System }}<|system|>{{ .System }}<|end|>{{ end }}<|user|>{{ .Prompt }}<|end|><|assistant|>"


def modelfile(gguf: str) -> str:
    """What `ollama create` reads: a merged prisma-lm in GGUF, its turns, greedy answers.

    There is no ADAPTER line, because Ollama refuses it since 0.34.1: merge first.
    """
    return f'FROM ./{gguf}\nTEMPLATE """{TURNS}"""\nPARAMETER stop "<|end|>"\nPARAMETER temperature 0\n'


def ollama_create(name: str, folder: Path) -> str:
    """Let Ollama make the model `name` from `folder`/Modelfile. "" if it did, else the reason why not."""
    program = shutil.which("ollama")
    if program is None:
        return "Ollama is not installed on this machine"
    command = [program, "create", name, "-f", "Modelfile"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]


# ---------------------------------------------------------------- what may be published


def make_portable(adapter: Path, base: str) -> None:
    """Name the base model in the adapter's settings as others know it, not by its folder on this machine."""
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_text("utf-8")) | {"base_model_name_or_path": base}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")


PICKLED = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
SECRETS = {
    "a folder of this machine": re.compile(r"(?<![\w.:/<])/(?:[\w.-]+/)+[\w.-]+|[A-Z]:\\\\?Users"),
    "an access token": re.compile(r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}"),
}


def unfit(folder: Path) -> list[str]:
    """What in `folder` should not be published, one line each; empty if all is well."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [f"{path.name}: a pickle, which can run code when it is opened" for path in files if path.suffix in PICKLED]
    for path in files:
        text = path.read_text("utf-8") if path.suffix in {".json", ".md", ".jinja", ".txt"} else ""
        found += [f"{path.name}: shows {what}" for what, pattern in SECRETS.items() if pattern.search(text)]
    names = {path.name for path in files}
    if not names & {"model.safetensors", "adapter_model.safetensors"}:
        found.append("there are no weights (model.safetensors or adapter_model.safetensors)")
    return found + _card_faults(folder / "README.md")


def _card_faults(path: Path) -> list[str]:
    from huggingface_hub import ModelCard

    if not path.exists():
        return ["README.md is missing: nobody can tell what the model is for"]
    data = ModelCard.load(path, ignore_metadata_errors=True).data
    missing = [name for name in ("license", "base_model", "eval_results") if not getattr(data, name, None)]
    return [f"README.md: its header has no {name}" for name in missing]


def card(
    name: str, base: str, licence: str, data: str, scores: Mapping[str, Measure], about: Mapping[str, str]
) -> ModelCard:
    """A model card: a header for machines, with the measured scores, and a section for each entry of `about`."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    results = [
        EvalResult("text-generation", data, data, metric_type=metric, metric_value=round(score.value, 4))
        for metric, score in scores.items()
    ]
    header = ModelCardData(
        model_name=name,
        base_model=base,
        license=licence,
        language="en",
        library_name="peft",
        tags=["lora"],
        eval_results=results,
    )
    sections = "".join(f"\n## {title}\n\n{text}\n" for title, text in about.items())
    rows = "".join(f"| {metric} | {score} |\n" for metric, score in scores.items())
    table = f"\n## Measured\n\n| part | right, with 95 % interval |\n| --- | --- |\n{rows}"
    return ModelCard(f"---\n{header.to_yaml()}\n---\n\n# {name}\n{sections}{table}")


# ---------------------------------------------------------------- publishing


class UnfitError(RuntimeError):
    """A folder that should not be published as it is."""


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, byte by byte."""

    def content(folder: Path) -> dict[str, str]:
        files = [p for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts]
        return {p.relative_to(folder).as_posix(): bundled.sha256(p) for p in files}

    return content(one) == content(other)


def push(folder: Path, repository: str, token: str, say: Callable[[str], None] = print) -> Any:
    """Upload `folder` to the hub as the private model repository "you/name". UnfitError if it should not be seen.

    Says what goes where before anything does. Returns the hub's record of the commit.
    """
    if problems := unfit(folder):
        raise UnfitError("Not uploaded. Repair first:\n" + "\n".join(problems))
    from huggingface_hub import HfApi

    files = [path for path in folder.rglob("*") if path.is_file()]
    size, place = sum(path.stat().st_size for path in files) / 1e6, offline.hub_address()
    say(f"Uploading {len(files)} files ({size:.1f} MB) to {place}/{repository}; only you will see them.")
    hub = HfApi(endpoint=place, token=token)
    hub.create_repo(repository, private=True, exist_ok=True)
    return hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Add {folder.name}")
