"""Loading a model by its role: from the repository, the cache or the hub."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from course_utils import colab, compat
from course_utils.models import bundled, catalogue, model_files, tiers
from course_utils.models.catalogue import Model
from course_utils.models.downloads import DownloadError, fetch
from course_utils.models.hardware import Hardware, detect
from course_utils.models.roles import Chat, Embedder, ImageText, Speech
from course_utils.models.tiers import Choice
from course_utils.models.whisper_hub import whisper_from_hub

Role = ImageText | Speech | Chat | Embedder


def load(
    role: str | Choice,
    hardware: Hardware | None = None,
    tier: str | None = None,
    say: Callable[[str], None] = print,
) -> Role:
    """The model for a role: the chosen one, or the next smaller one if it cannot be had.

    `role` is a role's name or what `tiers.choose` returned. Every step down is said through `say`.
    BundledModelError if not even the model that comes with the course is there.
    """
    hardware = hardware or detect(tiers.wanted_tier(tier))
    choice = role if isinstance(role, Choice) else tiers.choose(role, hardware, tier)
    quiet_libraries()
    while True:
        try:
            return load_model(choice.model, hardware, say)
        except DownloadError as error:
            if not error.network:
                hardware = replace(hardware, network=False)
            choice = _step_down(choice, hardware, error, say)


def _step_down(choice: Choice, hardware: Hardware, error: DownloadError, say: Callable) -> Choice:
    """The next smaller model that can work here, after telling the reader what is lost and how to get it."""
    smaller = catalogue.TIERS[: catalogue.TIERS.index(choice.tier)]
    below = [name for name in catalogue.tiers_of(choice.role) if name in smaller]
    models = [catalogue.find(choice.role, name) for name in reversed(below)]
    model = next(m for m in models if m.tier == "bundled" or not tiers.obstacle(m, hardware))
    say(
        f"{choice.role}: {choice.model.id} is not available, because {error.problem}.\n"
        f"  Used instead: {model.id} (tier {model.tier}). What it costs: {model.limits}.\n"
        f"  To get the better one: {error.cure}"
    )
    return Choice(choice.role, model.tier, model, f"fallback: {error.problem}")


def load_model(model: Model, hardware: Hardware, say: Callable[[str], None] = print) -> Role:
    """Load exactly this model. DownloadError if it cannot be had or does not fit."""
    return from_folder(model, bundled.verify(model.id) if model.tier == "bundled" else fetch(model, say), hardware)


def from_folder(model: Model, folder: Path, hardware: Hardware) -> Role:
    """Load `model` from its files in `folder`. DownloadError if it does not fit or its files cannot be read.

    BundledModelError instead for the files of a model that comes with the course.
    """
    import torch

    loaders = {
        "image-text": _image_text,
        "speech": _speech,
        "translation": _speech,
        "chat": load_chat,
        "embedding": _embedder,
    }
    try:
        model_files.examine(folder)
        return loaders[model.role](model, folder, hardware)
    except ImportError as error:
        cure = f"Install it (`{colab.how_to_add(error.name or '')}`) and restart the kernel."
        raise DownloadError(f"a package that it needs cannot be imported ({error})", cure) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        torch.cuda.empty_cache()
        cure = "Restart the kernel, close other notebooks that hold the GPU, and run again."
        raise DownloadError("there is not enough free memory for it", cure) from error
    except Exception as error:  # four libraries read these files, and each raises kinds of its own
        raise _unreadable(model, folder, error) from error


def _unreadable(model: Model, folder: Path, error: Exception) -> Exception:
    """What to tell about files that are there and cannot be loaded."""
    if model.tier == "bundled":
        shipped = folder.parent.resolve() == bundled.MODELS.resolve()
        again = f"Restore it with `git checkout -- data/models/{folder.name}`, or clone the course again."
        cure = again if shipped else f"Save the model to {folder} again."
        return bundled.BundledModelError(f"{model.id}: {model_files.first_line(error)}. {cure}")
    if isinstance(error, model_files.UnreadableError):
        return DownloadError(str(error), f"Delete {error.path}, to download it anew, and run the cell again.")
    cure = (
        "Restart the kernel, and let `course doctor` look at the packages. "
        f"If that does not help, delete {folder}, to download it anew, and run the cell again."
    )
    return DownloadError(f"it cannot be loaded from {folder} ({model_files.first_line(error)})", cure)


def _image_text(model: Model, folder: Path, hardware: Hardware) -> ImageText:
    if model.tier == "bundled":
        from course_utils.prisma import clip

        net, preprocess, tokenizer = clip.load(folder)
    else:
        net, preprocess, tokenizer = _open_clip(model, folder)
    return ImageText(net.eval().to(hardware.device), preprocess, tokenizer, model.id, model.tier)


def _open_clip(model: Model, folder: Path) -> tuple[Any, Callable, Callable]:
    """Network, preprocessing and tokenizer as open_clip defines them; only the weights come from the hub."""
    import open_clip
    from safetensors.torch import load_file

    net = open_clip.CLIP(**open_clip.get_model_config(model.architecture))
    net.load_state_dict(load_file(folder / model.files[0].name), strict=True)
    # Without the mean and deviation of its training the pictures would silently be scaled as OpenAI's CLIP wants.
    trained = open_clip.get_pretrained_cfg(model.architecture, model.training)
    pictures = {key: trained.get(key) for key in ("mean", "std", "interpolation", "resize_mode")}
    preprocess = open_clip.image_transform(net.visual.image_size, is_train=False, **pictures)
    return net, preprocess, open_clip.get_tokenizer(model.architecture)


def _speech(model: Model, folder: Path, hardware: Hardware) -> Speech:
    if model.tier == "bundled":
        from course_utils.prisma import whisper

        net = whisper.load(folder)
    else:
        net = whisper_from_hub(folder)
    # openai-whisper keeps a sparse buffer, which Apple GPUs do not know.
    device = "cpu" if hardware.device == "mps" else hardware.device
    return Speech(net.eval().to(device), model.id, model.tier)


# Nothing but the folder's files, and none of its code: without this a model type of its own would ask
# "run the custom code? [y/N]" in the notebook.
CLOSED = {"local_files_only": True, "trust_remote_code": False}


def load_chat(model: Model, folder: Path, hardware: Hardware) -> Chat:
    if model.tier == "bundled":
        from course_utils.prisma import lm

        net, tokenizer = lm.load(folder)
        return Chat(greedy_by_default(net.to(hardware.device)), tokenizer, model.id, model.tier)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"dtype": hardware.torch_dtype, "device_map": {"": hardware.device}}
    if model.quantise == "nf4":
        options["quantization_config"] = compat.nf4_config(hardware.torch_dtype)
    net = _whole(AutoModelForCausalLM, folder, **options)
    tokenizer = AutoTokenizer.from_pretrained(folder, **CLOSED)
    tokenizer.chat_template = thinking_when_asked(tokenizer.chat_template)
    made = Chat(greedy_by_default(net.eval()), tokenizer, model.id, model.tier)
    made.prompt([{"role": "user", "content": "Hello"}])  # a chat template that does not work is told now, not later
    _fits(net, tokenizer)
    return made


def thinking_when_asked(template: Any) -> Any:
    """A chat template that lets the model think only for `enable_thinking=True`; one without that switch as it is.

    Qwen3's template has it on. A small model then fills its whole budget with thoughts, so the course leaves it off:
    here, once, for prompts, training and benchmarks alike.
    """
    if not isinstance(template, str) or "enable_thinking" not in template:
        return template
    return "{%- set enable_thinking = enable_thinking | default(false) %}" + template


def _whole(kind: Any, folder: Path, **options: Any) -> Any:
    """`kind.from_pretrained`, but weights that are missing, left over or of another shape are an error.

    The library fills what is missing with random numbers and says so in its log only.
    """
    net, report = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **CLOSED, **options)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        keys = sorted(map(str, report.get(what) or ()))
        if keys:
            raise ValueError(f"{what.replace('_', ' ')}: {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}")
    return net


def _fits(net: Any, tokenizer: Any) -> None:
    """ValueError if the tokenizer makes numbers for which the model has no vector."""
    rows = net.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the model {rows}")


def greedy_by_default(net: Any) -> Any:
    """Drop the sampling settings that a model suggests: the course decodes greedily unless told otherwise."""
    from transformers import GenerationConfig

    given = net.generation_config
    net.generation_config = GenerationConfig(
        bos_token_id=given.bos_token_id, eos_token_id=given.eos_token_id, pad_token_id=given.pad_token_id
    )
    return net


def _embedder(model: Model, folder: Path, hardware: Hardware) -> Embedder:
    if model.tier == "bundled":
        from course_utils.prisma import lm

        net, tokenizer = lm.load(folder)
        net = net.base_model  # without the layer that names the next token
    else:
        import torch
        from transformers import AutoModel, AutoTokenizer

        net = _whole(AutoModel, folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, **CLOSED)
        _fits(net, tokenizer)
    return Embedder(net.eval().to(hardware.device), tokenizer, model.id, model.tier)


def quiet_libraries() -> None:
    """Keep progress bars and notes of the libraries out of the notebooks; real errors still show."""
    import logging
    import os
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # silences a note on forked processes
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("huggingface_hub", "httpx", "httpx2", "bitsandbytes", "open_clip", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*FP16 is not supported on CPU.*")
    warnings.filterwarnings("ignore", module="bitsandbytes")
    # PEFT, when it saves an adapter of a model that came from no hub: its vocabulary is indeed not changed.
    warnings.filterwarnings("ignore", message="Could not find a config file in")
