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
    edges = np.where(steps < 15, steps * 200 / 3, 1000 * 6.4 ** ((steps - 15) / 27))  # in Hz
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    pitch = np.linspace(0, 8000, 201)
    rows = np.minimum((pitch - low) / (middle - low), (high - pitch) / (high - middle)).clip(0)
    return torch.from_numpy(rows * 2 / (high - low)).float()


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
    model, texts, sure, first, means = hearing.model, [], [], [], []
    options = DecodingOptions(language="en", without_timestamps=True, fp16=model.device.type == "cuda")
    start = get_tokenizer(model.is_multilingual, num_languages=model.num_languages).sot
    hook = model.decoder.ln.register_forward_hook(lambda *parts: first.append(parts[2][:, 0].float().cpu()))
    try:
        for i in range(0, len(sounds), 16):
            part = sounds[i : i + 16]
            states = model.encoder(torch.stack([hearing.mel(sound) for sound in part]).to(model.device))
            heard = zip(states, part, strict=True)
            means += [row[: len(sound) // 320 + 1].mean(0).float().cpu() for row, sound in heard]
            keep = len(first)
            model.decoder(torch.full((len(part), 1), start, device=model.device), states)
            made = model.decode(states, options)
            del first[keep + 1 :]  # the hook hears the decoding, too
            texts += [one.text.strip() for one in made]
            sure += [one.avg_logprob for one in made]
    finally:
        hook.remove()
    return Heard(texts, torch.tensor(sure), torch.cat(first), torch.stack(means))
