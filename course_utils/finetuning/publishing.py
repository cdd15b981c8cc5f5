"""Unit 7.5, after training: what a merge keeps, what a file says, what may be published, and publishing it."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils import compat
from course_utils.finetuning.four_bit import dequantised
from course_utils.measures import Measure, share
from course_utils.models import bundled, offline
from course_utils.models.inputs import as_texts
from course_utils.models.layers import linear_layers

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from course_utils.models.roles import Chat

# ---------------------------------------------------------------- merging


class UnchangedError(RuntimeError):
    """A merged model that answers as its base does: the adapter is not in it."""


def merged(chat: Chat, adapter: Path, dtype: torch.dtype | None = None) -> Chat:
    """`chat` with the adapter added to its weights for good, then stored as `dtype` (None: as they are).

    Uses up `chat`: PEFT works in place. The adapter's file is read only.
    """
    model = compat.load_lora(chat.model, adapter).merge_and_unload()
    if dtype is not None:
        model = model.to(dtype)
    return dataclasses.replace(chat, model=model.eval())


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """The matrices of the linear layers by name, in float32; those in 4 bits as the numbers that they stand for."""
    layers = linear_layers(model)
    return {name: _numbers(layer) for name, layer in layers.items()}


def _numbers(layer: nn.Linear) -> Tensor:
    if hasattr(layer.weight, "quant_state"):
        return dequantised(layer).float()
    return layer.weight.data.clone().float()


def lost(before: Mapping[str, Tensor], wanted: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> float:
    """How much of the change from `before` to `wanted` is not in `stored`: ||stored - wanted|| / ||wanted - before||.

    0: all of the change was kept. 1: the error is as large as the change. ValueError without a change.
    """
    error = {name: stored[name] - wanted[name] for name in wanted}
    change = {name: wanted[name] - before[name] for name in wanted}
    whole = length(change)
    if whole == 0:
        raise ValueError("`wanted` is the same as `before`, so there is no change to lose: is the adapter trained?")
    return length(error) / whole


def length(matrices: Mapping[str, Tensor]) -> float:
    """The square root of the sum of all squares, as if all numbers of `matrices` were one vector."""
    squares = [matrix.square().sum() for matrix in matrices.values()]
    return float(sum(squares)) ** 0.5


def same_replies(before: Sequence[str], after: Sequence[str]) -> list[bool]:
    """Of each question, whether both replies to it are the same. ValueError if one list is longer."""
    before = as_texts(before, "replies")
    after = as_texts(after, "replies")
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} replies: compare the replies to the same questions.")
    return [one == other for one, other in zip(before, after, strict=True)]


def proof_of_change(before: Sequence[str], after: Sequence[str]) -> Measure:
    """The share of answers that differ. UnchangedError if none does."""
    same = same_replies(before, after)
    differ = [not unchanged for unchanged in same]
    if not any(differ):
        raise UnchangedError(
            f"All {len(differ)} answers are those of the base model, so the adapter was not merged. Check that it "
            "was trained on this base, that its layers have the same names, and that you saved the merged model."
        )
    return share(differ)


# ---------------------------------------------------------------- Ollama


def ollama_create(name: str, folder: Path) -> str:
    """Let Ollama make the model `name` from `folder`/Modelfile. "" if it did, else the reason why not."""
    program = shutil.which("ollama")
    if program is None:
        return "Ollama is not installed on this machine"
    command = [program, "create", name, "-f", "Modelfile"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode == 0:
        return ""
    reasons = done.stderr.strip().splitlines()
    return reasons[-1] if reasons else "it gave no reason"


# ---------------------------------------------------------------- what may be published


def make_portable(adapter: Path, base: str) -> None:
    """Name the base model in the adapter's settings as others know it, not by its folder on this machine."""
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_text("utf-8"))
    settings["base_model_name_or_path"] = base
    text = json.dumps(settings, indent=2, sort_keys=True)
    path.write_text(f"{text}\n", "utf-8")


# All that may go: the files of a model that others can load, and its card.
MAY_GO = (
    "README.md",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
    "Modelfile",
    "*.safetensors",
    "*.safetensors.index.json",
    "*.gguf",
    "*config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
# In lists of words and pieces of words, and in the middle of weights, a path is nobody's folder.
WORD_LISTS = {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"}
SCANNED = 64 * 2**20  # bytes; lists of words are smaller, and weights are looked at by their headers

TOKEN = "an access token or a key"
SECRETS = {
    TOKEN: re.compile(
        r"(?<![A-Za-z0-9])(?:hf_|api_org_|sk-|gh[opsur]_|github_pat_|glpat-|xox[abprs]-|r8_|AKIA|AIza)[A-Za-z0-9_-]{16,}"
        r"|-----BEGIN [A-Z ]*PRIVATE KEY|eyJ[\w-]{10,}\.eyJ[\w-]{10,}|https?://[^\s/:@]+:[^\s/@]+@"
    ),
    "a folder of this machine": re.compile(
        r"(?<![\w.:/<])/(?:[\w.-]+/)+[\w.-]+|file:/+[\w.-]+/|(?<![A-Za-z])[A-Za-z]:[\\/]+(?:Users|[\w.-]{2,}[\\/]+[\w.-])"
    ),
}


def unfit(folder: Path) -> list[str]:
    """What in `folder` should not be published, one line each; empty if all is well.

    Refused is everything that is not on the list of what may go (`MAY_GO`), and what shows a secret.
    """
    if not folder.is_dir():
        return [f"{folder.name} is no folder"]
    paths, found = _entries(folder), []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        found += [f"{name}: {reason}" for reason in _faults(path)]
    endings = {path.suffix for path in paths}
    if endings.isdisjoint({".safetensors", ".gguf"}):
        found.append("there are no weights (model.safetensors or adapter_model.safetensors)")
    found += _card_faults(folder / "README.md")
    return found


def _entries(folder: Path) -> list[Path]:
    """All files in `folder`, and the folders that nobody should look into: hidden ones and links."""
    found = []
    for where, folders, files in os.walk(folder):
        place = Path(where)
        inside = [place / name for name in folders]
        closed = [path for path in inside if path.name.startswith(".") or path.is_symlink()]
        folders[:] = [path.name for path in inside if path not in closed]
        found += [place / name for name in files]
        found += closed
    return sorted(found)


def _faults(path: Path) -> list[str]:
    """What is wrong with one file, in words."""
    if path.is_symlink():
        return ["a link: others get what it leads to"]
    if path.name.startswith("."):
        return ["hidden, and what is hidden holds keys, settings or a history"]
    if not path.is_file():
        return ["neither a file nor a folder"]
    found = []
    if path.suffix.lower() in PICKLED:
        found.append("a pickle, which can run code when it is opened")
    elif not any(fnmatch.fnmatchcase(path.name, pattern) for pattern in MAY_GO):
        found.append("nothing that a model needs: leave it out")
    try:
        text = _text(path)
    except (OSError, ValueError) as error:
        return [*found, str(error)]
    pieces = path.name in WORD_LISTS or path.suffix == ".gguf"
    for what, pattern in SECRETS.items():
        if pieces and what != TOKEN:
            continue
        if pattern.search(text):
            found.append(f"shows {what}")
    return found


def _text(path: Path) -> str:
    """All that can be read in a file, whatever its encoding; of weights, the header. ValueError if it is damaged."""
    if path.suffix == ".safetensors":
        return _header(path)
    with path.open("rb") as file:
        content = file.read(SCANNED + 1)
    if path.suffix == ".gguf":
        if not content.startswith(b"GGUF"):
            raise ValueError("not in the format that its name says")
    elif len(content) > SCANNED:
        raise ValueError("too large to be looked through")
    if path.suffix == ".json":
        return _strings_of_json(content)
    # Without its zeros, text in UTF-16 and UTF-32 reads like any other; Latin-1 takes every byte.
    return content.replace(b"\0", b"").decode("latin-1")


def _header(path: Path) -> str:
    """Names and remarks in a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            remarks = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"not in the format that its name says, or damaged ({error})") from error
    return "\n".join([*names, *remarks.values()])


def _strings_of_json(content: bytes) -> str:
    """All names and texts in JSON, without its escapes. ValueError if it is none."""
    try:
        left = [json.loads(content)]
    except (ValueError, RecursionError) as error:
        raise ValueError("not in the format that its name says: no JSON") from error
    found = []
    while left:
        one = left.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            left += one
    return "\n".join(found)


def _card_faults(path: Path) -> list[str]:
    from huggingface_hub import ModelCard

    if not path.is_file():
        return ["README.md is missing: nobody can tell what the model is for"]
    try:
        data = ModelCard.load(path, ignore_metadata_errors=True).data
    except UnicodeDecodeError:
        return ["README.md: not in UTF-8. Save it again as UTF-8"]
    except Exception as error:  # whatever a YAML parser finds
        return [f"README.md: its header can't be read ({str(error).splitlines()[0]})"]
    missing = [name for name in ("license", "base_model", "eval_results") if not getattr(data, name, None)]
    return [f"README.md: its header has no {name}" for name in missing]


def card(
    name: str, base: str, licence: str, data: str, scores: Mapping[str, Measure], about: Mapping[str, str]
) -> ModelCard:
    """A model card: a header for machines, with the measured scores, and a section for each entry of `about`."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    results, rows = [], []
    for metric, score in scores.items():
        value = round(score.value, 4)
        results.append(EvalResult("text-generation", data, data, metric_type=metric, metric_value=value))
        rows.append(f"| {metric} | {score} |\n")
    header = ModelCardData(
        model_name=name,
        base_model=base,
        license=licence,
        language="en",
        library_name="peft",
        tags=["lora"],
        eval_results=results,
    )
    sections = [f"\n## {title}\n\n{text}\n" for title, text in about.items()]
    table = ["\n## Measured\n\n| part | right, with 95 % interval |\n| --- | --- |\n", *rows]
    body = "".join(sections + table)
    return ModelCard(f"---\n{header.to_yaml()}\n---\n\n# {name}\n{body}")


# ---------------------------------------------------------------- publishing


class UnfitError(RuntimeError):
    """A folder that should not be published as it is."""


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, byte by byte."""
    return _checksums(one) == _checksums(other)


def _checksums(folder: Path) -> dict[str, str]:
    """The files in `folder`, caches left out, with their SHA-256."""
    sums = {}
    for path in folder.rglob("*"):
        if path.is_file() and ".cache" not in path.parts:
            name = path.relative_to(folder).as_posix()
            sums[name] = bundled.sha256(path)
    return sums


def push(folder: Path, repository: str, token: str, say: Callable[[str], None] = print) -> Any:
    """Upload `folder` to the hub as the private model repository "you/name". UnfitError if it should not be seen.

    A repository that is there already keeps who may see it: the hub is asked, and UnfitError if it is not private.
    Says what goes where before it goes. Returns the hub's record of the commit.
    """
    if problems := unfit(folder):
        lines = ["Not uploaded. Repair first:", *problems]
        raise UnfitError("\n".join(lines))
    from huggingface_hub import HfApi

    place = offline.hub_name()
    hub = HfApi(endpoint=offline.hub_address(), token=token)
    hub.create_repo(repository, private=True, exist_ok=True)
    if hub.repo_info(repository).private is not True:
        raise UnfitError(
            f"Not uploaded: everybody can see {place}/{repository}. Make it private in its settings on the hub, or "
            "choose a name that is not taken yet."
        )
    files = _entries(folder)
    size = sum(path.stat().st_size for path in files) / 1e6
    say(
        f"Uploading {len(files)} files ({size:.1f} MB) to {place}/{repository}. The hub says that it is private: only "
        "you will see them, or the members of the organisation that it belongs to."
    )
    return hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Add {folder.name}")
