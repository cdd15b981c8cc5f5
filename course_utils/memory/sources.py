"""What a reader names, as something whose memory can be told: a config.json, a GGUF file, a model on the hub.

    find("models/qwen3/config.json"), find("Qwen/Qwen3-8B"), find("model.Q4_K_M.gguf")

From the hub comes the config.json alone, a few kB, and not before that is said. No weights are ever needed.
"""

import re
from collections.abc import Callable
from pathlib import Path

from course_utils.memory import configs, shapes
from course_utils.models import gguf_header, offline, transfer
from course_utils.models.gguf_header import Header

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def find(name: str | Path, say: Callable[[str], None] = print) -> dict | Header:
    """The configuration, or the header of the GGUF file, that `name` leads to: a file, a folder, or a hub id.

    ValueError, which says what to do, where there is none; DownloadError if the hub does not give it.
    """
    path = Path(name)
    try:
        if path.is_dir():
            path = _in_folder(path)
        if path.is_file():
            return gguf_header.read(path) if gguf_header.is_gguf(path) else configs.read_config(path)
    except OSError as error:
        raise ValueError(f"{str(name)!r:.200} can't be read ({error.strerror}).") from error
    if HUB_ID.fullmatch(str(name)) and path.suffix not in (".json", ".gguf"):
        return _from_hub(str(name), say)
    raise ValueError(
        f"No model {str(name)!r:.200}. Known: {', '.join(shapes.architectures())}; or a config.json, a .gguf file, a "
        "folder with one of them, or a model on the hub as owner/name."
    )


def _in_folder(folder: Path) -> Path:
    """The file in a folder that tells the model's shape."""
    config = folder / "config.json"
    files = sorted(folder.glob("*.gguf"))
    if config.is_file():
        return config
    if len(files) == 1:
        return files[0]
    have = f"{len(files)} GGUF files: name one of them" if files else "no config.json and no GGUF file"
    raise ValueError(f"The folder {folder} has {have}.")


# ---------------------------------------------------------------------------------------------- the hub


def _from_hub(model: str, say: Callable[[str], None]) -> dict:
    """The config.json of a model on the hub, from the cache if it is there."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "config.json")
    if isinstance(cached, str):
        return configs.read_config(Path(cached)) | {"_name_or_path": model}
    if offline.is_offline():
        problem = f"the course runs offline, and the config.json of {model} is not in the cache"
        cure = "Unset COURSE_OFFLINE and HF_HUB_OFFLINE, or download that file on another machine and name it here."
        raise transfer.DownloadError(problem, cure, network=False)
    say(f"Downloading config.json of {model} (a few kB, no weights) from {offline.hub_name()} ...")
    content = _downloaded(model)
    return configs.parsed(content, f"config.json of {model}") | {"_name_or_path": model}


def _downloaded(model: str) -> bytes:
    """The first bytes of a model's config.json on the hub, more than MOST_BYTES of them if it has more."""
    content = b""
    try:
        with transfer.connected() as client:
            for chunk in transfer.stream(client, transfer.address(model, "main", "config.json")):
                content += chunk
                if len(content) > configs.MOST_BYTES:
                    break
    except transfer.NotThere as error:  # its cure is for the models of the catalogue: update the course
        cure = "Compare the name with the hub's page. Where there are GGUF files alone, download one and name it here."
        raise transfer.DownloadError(error.problem, cure) from error
    return content
