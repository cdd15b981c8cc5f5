"""From a sound to Whisper's words: the spectrogram by hand, and what was heard."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from whisper import DecodingOptions
from whisper.tokenizer import get_tokenizer


def log_mel(audio: Tensor, filters: Tensor) -> Tensor:
    """Whisper's front end (arXiv 2212.04356, section 2.2): (mels, frames) of 16 kHz (samples,).

    Windows of 25 ms start every 10 ms. `filters` (mels, 201) sums their power into bands; the
    logarithm keeps 80 dB below the loudest moment, scaled to about -1..1.
    """
    padded = nn.functional.pad(audio[None], (200, 200), mode="reflect")[0]
    windows = padded.unfold(0, 400, 160)[:-1] * torch.hann_window(400)  # (frames, 400)
    power = torch.fft.rfft(windows).abs() ** 2  # (frames, 201): every 40 Hz up to 8 kHz
    loudness = (filters @ power.T).clamp(min=1e-10).log10()
    return (loudness.clamp(min=loudness.max() - 8) + 4) / 4


def mel_filters(mels: int = 80) -> Tensor:
    """Triangles that sum up frequencies into bands as an ear does: (mels, 201), each of area 1.

    Slaney's scale (Auditory Toolbox, 1998): even steps up to 1 kHz, even ratios beyond, 27 for a factor of 6.4.
    """
    top = 15 + 27 * np.log(8000 / 1000) / np.log(6.4)  # 8 kHz on this scale; 1 kHz is 15
    steps = np.linspace(0, top, mels + 2)
    even_steps = steps * 200 / 3
    even_ratios = 1000 * 6.4 ** ((steps - 15) / 27)
    edges = np.where(steps < 15, even_steps, even_ratios)  # in Hz
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]  # (mels, 1) each
    pitch = np.linspace(0, 8000, 201)
    rising = (pitch - low) / (middle - low)
    falling = (high - pitch) / (high - middle)
    triangles = np.minimum(rising, falling).clip(0)  # (mels, 201)
    areas = triangles * 2 / (high - low)
    return torch.from_numpy(areas).float()


@dataclass(frozen=True)
class Heard:
    """What an English Whisper makes of n sounds: the words, how sure it is of them, and what it holds inside."""

    texts: list[str]
    sureness: Tensor  # (n,): the mean log-probability of a token
    first: Tensor  # (n, width): the decoder's state when it is about to write its first token
    mean: Tensor  # (n, width): the encoder's mean over the sounding positions


@torch.inference_mode()
def listen(hearing, sounds: Sequence[np.ndarray]) -> Heard:
    """Encode each sound once, at most one window long; keep the states, and what is decoded as English."""
    model = hearing.model
    texts, sure, first, means = [], [], [], []
    options = DecodingOptions(language="en", without_timestamps=True, fp16=model.device.type == "cuda")
    start = get_tokenizer(model.is_multilingual, num_languages=model.num_languages).sot

    def keep_first_state(module: nn.Module, inputs: tuple, states: Tensor) -> None:
        first.append(states[:, 0].float().cpu())

    hook = model.decoder.ln.register_forward_hook(keep_first_state)
    try:
        for i in range(0, len(sounds), 16):
            part = sounds[i : i + 16]
            mels = torch.stack([hearing.mel(sound) for sound in part])
            states = model.encoder(mels.to(model.device))  # (sounds, positions, width)
            for row, sound in zip(states, part, strict=True):
                sounding = row[: len(sound) // 320 + 1]
                means.append(sounding.mean(0).float().cpu())
            kept = len(first)
            begun = torch.full((len(part), 1), start, device=model.device)
            model.decoder(begun, states)
            results = model.decode(states, options)
            del first[kept + 1 :]  # the hook hears the decoding, too
            texts += [result.text.strip() for result in results]
            sure += [result.avg_logprob for result in results]
    finally:
        hook.remove()
    return Heard(texts, torch.tensor(sure), torch.cat(first), torch.stack(means))
