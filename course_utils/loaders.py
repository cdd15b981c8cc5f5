"""Models by role. What you get has the same type and methods at every tier."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import bundled, catalogue, colab, compat, inputs, model_files, tiers
from course_utils.catalogue import Model
from course_utils.downloads import DownloadError, fetch
from course_utils.hardware import Hardware, detect
from course_utils.tiers import Choice

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

BATCH = 32  # inputs that go through a model at once


def _chunks(items: Sequence, size: int = BATCH) -> list[Sequence]:
    return [items[i : i + size] for i in range(0, len(items), size)]


# ---------------------------------------------------------------- the roles


@dataclass
class ImageText:
    """Pictures and sentences in one space: an open_clip `CLIP` with its preprocessing and tokenizer."""

    model: Any
    preprocess: Callable
    tokenizer: Callable
    name: str
    tier: str

    def encode_images(self, images: "Sequence[Image]") -> "torch.Tensor":
        """Unit vectors (n, d) on the CPU, one per picture, read as `inputs.as_rgb` says."""
        images = inputs.as_list(images, "pictures")
        return self._encode(images, lambda part: self.model.encode_image(self._pixels(part), normalize=True))

    def encode_texts(self, texts: Sequence[str]) -> "torch.Tensor":
        """Unit vectors (n, d) on the CPU, one per text."""
        texts = inputs.as_texts(texts)
        return self._encode(texts, lambda part: self.model.encode_text(self._tokens(part), normalize=True))

    def _pixels(self, images: "Sequence[Image]") -> "torch.Tensor":
        import torch

        pixels = torch.stack([self.preprocess(inputs.as_rgb(image)) for image in images])
        return pixels.to(_device(self.model))

    def _tokens(self, texts: Sequence[str]) -> "torch.Tensor":
        return self.tokenizer(texts).to(_device(self.model))

    def _encode(self, items: Sequence, encode: Callable) -> "torch.Tensor":
        import torch

        if not len(items):
            raise ValueError("Nothing to encode: the list is empty.")
        with torch.inference_mode():
            return torch.cat([encode(chunk).float().cpu() for chunk in _chunks(items)])


@dataclass
class Speech:
    """Speech to text: an openai-whisper `Whisper`, greedy, English unless another language is asked for.

    A sound is what `inputs.as_sound` takes: floats or the whole numbers of sound files, in one channel or several.
    Its rate has to be 16 kHz, which nobody can see in it; `media.sound(path)` and `prisma.speech.resample` see to that.
    In silence a model hears words, so a silent sound is not given to it: its text is "", and that is said.
    """

    model: Any
    name: str
    tier: str

    @property
    def window(self) -> int:
        """Samples that the model hears at once; one audio position is 320 samples (20 ms)."""
        return self.model.dims.n_audio_ctx * 320

    def mel(self, audio: "np.ndarray") -> "torch.Tensor":
        """Log-mel spectrogram (mels, frames) of one window of sound.

        Shorter sounds are padded with silence. ValueError if the sound is longer than the window.
        """
        from whisper import log_mel_spectrogram, pad_or_trim

        sound = inputs.as_sound(audio)
        if len(sound) > self.window:
            raise ValueError(
                f"{self.name} hears {self.window / 16_000:.0f} s at a time and this sound is "
                f"{len(sound) / 16_000:.1f} s long: cut it into shorter pieces."
            )
        return log_mel_spectrogram(pad_or_trim(sound, self.window), self.model.dims.n_mels)

    def transcribe(self, audio: "np.ndarray", language: str | None = "en") -> str:
        """What is said in `audio`, "" if it is silent. Beyond 30 s it is transcribed piece by piece.

        `language` is a code such as "de"; None lets a multilingual model find out.
        """
        sound = inputs.as_sound(audio)
        if len(sound) <= self.window or self.tier == "bundled" or inputs.is_silent(sound):
            return self.transcribe_many([sound], language)[0]
        made = self.model.transcribe(sound, language=language, fp16=self._fp16, temperature=0.0)
        return made["text"].strip()

    def transcribe_many(
        self, sounds: "Sequence[np.ndarray]", language: str | None = "en", task: str = "transcribe"
    ) -> list[str]:
        """What is said in each sound, "" in a silent one, at most one window long each; the `task` is Whisper's."""
        from whisper import DecodingOptions

        options = DecodingOptions(task=task, language=language, without_timestamps=True, fp16=self._fp16)
        sounds = _heard(sounds)
        silent = _silent(sounds, "left out")
        written = []
        for spectra in self._spectra([sound for n, sound in enumerate(sounds) if n not in silent]):
            written += [result.text.strip() for result in self.model.decode(spectra, options)]
        texts = iter(written)
        return ["" if n in silent else next(texts) for n in range(len(sounds))]

    def _spectra(self, sounds: "Sequence[np.ndarray]") -> Iterator["torch.Tensor"]:
        """The sounds as the encoder takes them, batch by batch."""
        import torch

        for chunk in _chunks(sounds):
            yield torch.stack([self.mel(sound) for sound in chunk]).to(self.model.device)

    @property
    def multilingual(self) -> bool:
        """Whether its vocabulary has tokens for languages; without them it can neither name nor choose one."""
        return self.model.is_multilingual

    @property
    def translates(self) -> bool:
        """Whether it was trained to translate into English: multilingual, and not turbo (says its README)."""
        return self.multilingual and "turbo" not in self.name

    def languages(self, sounds: "Sequence[np.ndarray]") -> list[dict[str, float]]:
        """For each sound the probability of each language code, most probable first.

        It is the decoder's first step, over the language tokens alone (arXiv 2212.04356, section 2.3).
        ValueError if the model has no such tokens.
        """
        if not self.multilingual:
            raise ValueError(f"{self.name} {self._english_only('name a language')}")
        sounds = _heard(sounds)
        _silent(sounds, "no language, so what is found there means nothing")
        found = [row for spectra in self._spectra(sounds) for row in self.model.detect_language(spectra)[1]]
        return [dict(sorted(row.items(), key=lambda pair: -pair[1])) for row in found]

    def translate_many(self, sounds: "Sequence[np.ndarray]") -> list[str]:
        """Each sound in English, whatever language is spoken. ValueError if the model never learned that."""
        if not self.translates:
            raise ValueError(f"{self.name} {self._english_only('translate')}")
        return self.transcribe_many(sounds, language=None, task="translate")

    def _english_only(self, what: str) -> str:
        why = "was never trained to" if self.multilingual else "has no language tokens, so it cannot"
        model = catalogue.find("translation", "small")
        return (
            f'{why} {what}. `unit.load("translation")` gives one that can at the tiers small and full, '
            f"from {model.download_gb:.2f} GB of download ({model.id})."
        )

    @property
    def _fp16(self) -> bool:
        return self.model.device.type == "cuda"


def _heard(sounds: "Sequence[np.ndarray]") -> "list[np.ndarray]":
    """Every sound as the models hear it; the error about one that is none says which."""
    heard = []
    for number, sound in enumerate(inputs.as_list(sounds, "sounds")):
        try:
            heard.append(inputs.as_sound(sound))
        except ValueError as error:
            raise ValueError(f"Sound {number} of the list: {error}") from error
    return heard


def _silent(sounds: "list[np.ndarray]", so: str) -> set[int]:
    """The numbers of the silent sounds, after telling the reader what follows from it."""
    silent = [number for number, sound in enumerate(sounds) if inputs.is_silent(sound)]
    which = ", ".join(map(str, silent[:10]))
    more = ", ..." if len(silent) > 10 else ""
    if silent and len(sounds) == 1:
        print(f"The sound is silent: {so}.")
    elif silent:
        print(f"{len(silent)} of {len(sounds)} sounds are silent ({which}{more}, counted from 0): {so}.")
    return set(silent)


@dataclass
class Chat:
    """A causal language model with its tokenizer; greedy unless a temperature is given."""

    model: Any
    tokenizer: Any
    name: str
    tier: str

    def complete(
        self,
        prompt: str,
        max_new_tokens: int = 128,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> str:
        """What the model writes after `prompt`, up to the first of the `stop` strings (not included)."""
        return self.complete_many([prompt], max_new_tokens, stop, temperature, seed)[0]

    def complete_many(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 128,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[str]:
        """`complete` for many prompts, in batches padded on the left. The same seed gives the same texts.

        TypeError for one string; ValueError for a prompt that is empty, or leaves no room to answer.
        """
        import torch

        prompts = inputs.as_texts(prompts, "prompts")
        self._check_words(prompts)
        # Alike in length, alike in a batch: less padding, less work.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        written: dict[int, str] = {}
        with torch.random.fork_rng():
            if seed is not None:
                torch.manual_seed(seed)
            for chunk in _chunks(order):
                texts = self._generate([prompts[i] for i in chunk], max_new_tokens, stop, temperature)
                written.update(zip(chunk, texts, strict=True))
        return [written[i] for i in range(len(prompts))]

    def chat(
        self,
        messages: Sequence[dict],
        tools: Sequence[dict] | None = None,
        max_new_tokens: int = 256,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> str:
        """The next message, through the model's own chat template. `tools` are JSON schemas."""
        return self.complete(self.prompt(messages, tools), max_new_tokens, stop, temperature, seed)

    def prompt(self, messages: Sequence[dict], tools: Sequence[dict] | None = None) -> str:
        """The text that the chat template makes of a conversation, ready for the answer.

        TypeError for one text where messages are wanted.
        """
        messages = inputs.as_list(messages, 'messages such as {"role": "user", "content": "Hello"}')
        return self.tokenizer.apply_chat_template(
            messages, tools=tools or None, tokenize=False, add_generation_prompt=True
        )

    def _generate(self, prompts: list[str], new: int, stop: Sequence[str], temperature: float) -> list[str]:
        import torch
        from transformers import GenerationConfig, StoppingCriteriaList

        stop = [stop] if isinstance(stop, str) else list(stop or [])
        ids, mask = self._read(prompts, new)
        length = ids.shape[1]
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {}
        config = GenerationConfig(
            max_new_tokens=new,
            pad_token_id=self._padding,
            eos_token_id=self.model.generation_config.eos_token_id,
            **sampling,
        )
        criteria = [_Stop(self.tokenizer, stop, length)] if stop else []
        with torch.inference_mode():
            rows = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList(criteria),
            )
        texts = self.tokenizer.batch_decode(rows[:, length:], skip_special_tokens=True)
        return [_before(text, stop) for text in texts]

    @property
    def _padding(self) -> int:
        """The token that fills short rows. Llama's tokenizers name none; the end mark does, as it is masked."""
        named = self.tokenizer.pad_token_id
        if named is not None:
            return named
        end = self.model.generation_config.eos_token_id
        return end[0] if isinstance(end, list) else end or 0

    def _read(self, prompts: list[str], new: int) -> "tuple[torch.Tensor, torch.Tensor]":
        """Token ids and attention mask on the model's device. ValueError if they leave no room to answer."""
        rows = [self._tokens(prompt) for prompt in prompts]
        room, longest = self.model.config.max_position_embeddings, max(map(len, rows))
        if longest + new > room:
            raise ValueError(
                f"The prompt has {longest} tokens and {new} more are asked for, but "
                f"{self.name} reads {room} in all: shorten the prompt or ask for fewer."
            )
        ids, mask = _padded(rows, self._padding, "left")
        return ids.to(_device(self.model)), mask.to(_device(self.model))

    def _check_words(self, prompts: list[str]) -> None:
        for number, prompt in enumerate(prompts):
            # Some tokenizers begin every text with a mark of their own, and have that to go on from.
            if not prompt.strip() and not self._tokens(prompt):
                raise ValueError(f"Prompt {number} is empty: {self.name} needs a word at least to go on from.")

    def _tokens(self, prompt: str) -> list[int]:
        # A chat template writes the beginning-of-text marker itself: it must not stand there twice.
        marker = self.tokenizer.bos_token
        written = bool(marker) and prompt.startswith(marker)
        return self.tokenizer(prompt, add_special_tokens=not written)["input_ids"]


def _padded(rows: list[list[int]], padding: int, side: str) -> "tuple[torch.Tensor, torch.Tensor]":
    """Rows of token ids as one tensor (n, longest), and the mask that is 1 where a token is."""
    import torch

    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), padding)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), None) if side == "left" else slice(len(row))
        ids[i, place] = torch.tensor(row)
        mask[i, place] = 1
    return ids, mask


class _Stop:
    """Tells `generate` which rows have written one of the stop strings."""

    def __init__(self, tokenizer: Any, stop: list[str], start: int):
        self.tokenizer, self.stop, self.start = tokenizer, stop, start
        self.tail = max(len(s.encode()) for s in stop) + 1  # a token writes a byte at least

    def __call__(self, ids: "torch.Tensor", scores: Any, **_: Any) -> "torch.Tensor":
        import torch

        tails = self.tokenizer.batch_decode(ids[:, max(self.start, ids.shape[1] - self.tail) :])
        return torch.tensor([any(s in tail for s in self.stop) for tail in tails], device=ids.device)


def _before(text: str, stop: Sequence[str]) -> str:
    """The part of `text` before the first stop string."""
    return re.split("|".join(map(re.escape, stop)), text, maxsplit=1)[0] if stop else text


@dataclass
class Embedder:
    """Sentences as vectors: the mean of a transformer's last hidden states."""

    model: Any
    tokenizer: Any
    name: str
    tier: str

    def encode(self, texts: Sequence[str]) -> "np.ndarray":
        """Unit vectors (n, d), float32. Only the first 256 tokens of a text count."""
        import numpy as np
        import torch

        texts = inputs.as_texts(texts)
        if not texts:
            raise ValueError("Nothing to encode: the list is empty.")
        with torch.inference_mode():
            return np.concatenate([self._encode(chunk) for chunk in _chunks(texts)])

    def _encode(self, texts: list[str]) -> "np.ndarray":
        import torch

        rows = self.tokenizer(texts, truncation=True, max_length=256)["input_ids"]
        if not all(rows):
            raise ValueError(f"Text {rows.index([])} is empty: there is nothing to turn into a vector.")
        ids, mask = (part.to(_device(self.model)) for part in _padded(rows, self.tokenizer.pad_token_id or 0, "right"))
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        weights = mask.unsqueeze(-1)
        means = (states * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(means, dim=-1).cpu().numpy()


Role = ImageText | Speech | Chat | Embedder


def _device(model: Any) -> "torch.device":
    return next(model.parameters()).device


# ---------------------------------------------------------------- loading


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
        "chat": _chat,
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


def _chat(model: Model, folder: Path, hardware: Hardware) -> Chat:
    if model.tier == "bundled":
        from course_utils.prisma import lm

        net, tokenizer = lm.load(folder)
        return Chat(_plain(net.to(hardware.device)), tokenizer, model.id, model.tier)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"dtype": hardware.torch_dtype, "device_map": {"": hardware.device}}
    if model.quantise == "nf4":
        options["quantization_config"] = compat.nf4_config(hardware.torch_dtype)
    net = _whole(AutoModelForCausalLM, folder, **options)
    tokenizer = AutoTokenizer.from_pretrained(folder, **CLOSED)
    made = Chat(_plain(net.eval()), tokenizer, model.id, model.tier)
    made.prompt([{"role": "user", "content": "Hello"}])  # a chat template that does not work is told now, not later
    _fits(net, tokenizer)
    return made


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


def _plain(net: Any) -> Any:
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


# Names of Hugging Face's Whisper layers and of openai-whisper's, in the order of replacement.
_WHISPER_NAMES = (
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens", "token_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"),
    ("decoder.layer_norm", "decoder.ln"),
    ("layers.", "blocks."),
    ("self_attn_layer_norm", "attn_ln"),
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("final_layer_norm", "mlp_ln"),
    ("self_attn", "attn"),
    ("encoder_attn", "cross_attn"),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
)


def whisper_from_hub(folder: Path) -> Any:
    """openai-whisper's `Whisper` (float32) from a checkpoint in Hugging Face's layout.

    The hub has the weights as safetensors; openai-whisper itself would download pickled files. ValueError if the
    weights are not those of the configuration.
    """
    import json

    from safetensors.torch import load_file
    from whisper.model import ModelDimensions, Whisper

    config = json.loads((folder / "config.json").read_text("utf-8"))
    weights = load_file(folder / "model.safetensors")
    weights.pop("proj_out.weight", None)  # the same matrix as the token embedding
    state = {_whisper_name(key): value for key, value in weights.items()}
    sizes = _whisper_sizes(config)
    found = _measured(state)
    if sizes != sizes | found:  # before anything of the size that a configuration asks for is made
        raise ValueError(f"config.json says {sizes}, the weights are {found}")
    for part in ("audio", "text"):
        width, heads = sizes[f"n_{part}_state"], sizes[f"n_{part}_head"]
        if heads < 1 or width % heads:
            raise ValueError(f"config.json divides {width} numbers among {heads} heads")
    net = Whisper(ModelDimensions(**sizes))
    net.load_state_dict({key: value.float() for key, value in state.items()})
    return net


def _whisper_sizes(config: dict) -> dict[str, int]:
    """The fields of openai-whisper's `ModelDimensions` in the configuration's words."""
    sizes = {"n_mels": config["num_mel_bins"], "n_vocab": config["vocab_size"]}
    for ours, theirs, room in (("audio", "encoder", "source"), ("text", "decoder", "target")):
        sizes[f"n_{ours}_ctx"] = config[f"max_{room}_positions"]
        sizes[f"n_{ours}_state"] = config["d_model"]
        sizes[f"n_{ours}_head"] = config[f"{theirs}_attention_heads"]
        sizes[f"n_{ours}_layer"] = config[f"{theirs}_layers"]
    return sizes


def _measured(state: dict[str, Any]) -> dict[str, int]:
    """The same sizes as the weights have them; the number of heads leaves no trace in the weights."""
    sizes = {"n_mels": state["encoder.conv1.weight"].shape[1]}
    sizes["n_vocab"] = state["decoder.token_embedding.weight"].shape[0]
    for ours, part in (("audio", "encoder"), ("text", "decoder")):
        sizes[f"n_{ours}_ctx"], sizes[f"n_{ours}_state"] = state[f"{part}.positional_embedding"].shape
        blocks = {key.split(".")[2] for key in state if key.startswith(f"{part}.blocks.")}
        sizes[f"n_{ours}_layer"] = len(blocks)
    return sizes


def _whisper_name(key: str) -> str:
    key = key.removeprefix("model.")
    for theirs, ours in _WHISPER_NAMES:
        key = key.replace(theirs, ours)
    return key


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
