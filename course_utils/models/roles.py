"""Models by role. What you get has the same type and methods at every tier."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course_utils.models import catalogue, inputs, tools_in_words

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image


BATCH = 32  # inputs that go through a model at once


def _chunks(items: Sequence, size: int = BATCH) -> list[Sequence]:
    return [items[i : i + size] for i in range(0, len(items), size)]


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
        chances: list[dict[str, float]] = []
        for spectra in self._spectra(sounds):
            _, rows = self.model.detect_language(spectra)
            chances += rows
        return [dict(sorted(row.items(), key=lambda pair: -pair[1])) for row in chances]

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

        A template that knows no tools would leave them out: then they are told in the system message. TypeError for
        one text where messages are wanted.
        """
        messages = inputs.as_list(messages, 'messages such as {"role": "user", "content": "Hello"}')
        if tools and not tools_in_words.knows_tools(self.tokenizer.get_chat_template(tools=tools)):
            messages, tools = tools_in_words.told(messages, tools), None
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
        return [before(text, stop) for text in texts]

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

        start = max(self.start, ids.shape[1] - self.tail)
        tails = self.tokenizer.batch_decode(ids[:, start:])
        stopped = [self._stops(tail) for tail in tails]
        return torch.tensor(stopped, device=ids.device)

    def _stops(self, tail: str) -> bool:
        """Whether a stop string stands in the end of a text."""
        return any(stop in tail for stop in self.stop)


def before(text: str, stop: Sequence[str]) -> str:
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


def _device(model: Any) -> "torch.device":
    return next(model.parameters()).device
