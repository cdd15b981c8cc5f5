"""A chat model in 4 bits, by hand and with bitsandbytes, and fresh copies to train."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from course_utils import compat
from course_utils.memory import formulas

if TYPE_CHECKING:
    from course_utils.models.hardware import Hardware
    from course_utils.models.roles import Chat
    from course_utils.unit import Unit


def dequantised(layer: nn.Module) -> torch.Tensor:
    """The weights of a 4-bit layer as numbers again, (outputs, inputs)."""
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def stored_bits(layer: nn.Module) -> float:
    """Bits per weight that a 4-bit layer keeps in memory: codes, scales, and the scales of the scales."""
    state = layer.weight.quant_state
    kept = [layer.weight.data, state.absmax, state.state2.absmax]
    return 8 * sum(t.numel() * t.element_size() for t in kept) / math.prod(state.shape)


def evenly_quantised(weights: torch.Tensor, block: int = 64) -> torch.Tensor:
    """The same weights through 15 even levels, scaled to the largest in each block of `block`."""
    blocks = weights.float().reshape(-1, block)  # (blocks, block)
    largest = blocks.abs().amax(1, keepdim=True)  # (blocks, 1)
    scale = largest.clamp(min=1e-12)  # a block of zeros stays zero
    steps = torch.round(blocks / scale * 7)  # whole numbers from -7 to 7
    rounded = steps / 7 * scale
    return rounded.reshape(weights.shape)


def load(unit: Unit) -> Chat:
    """The unit's chat model with its matrices in NF4, on the GPU if it is NVIDIA's, else on the CPU.

    Falls back to a smaller model, aloud, as `unit.load` does.
    """
    return quantised(unit.load("chat"), unit.hardware)


def quantised(chat: Chat, hardware: Hardware) -> Chat:
    """`chat` with its matrices in NF4, read again from its files; as it is if it is in 4 bits already."""
    device = training_device(hardware)
    if getattr(chat.model, "is_loaded_in_4bit", False):
        compat.keep_gradients(chat.model)
        return chat
    # On a CPU and at this size, the plain attention trains half as fast again as the fused one.
    attention = "sdpa" if device == "cuda" else "eager"
    model = compat.load_nf4(chat.model.name_or_path, training_dtype(hardware), device, attention)
    model.generation_config = chat.model.generation_config
    return dataclasses.replace(chat, model=model.eval())


def fresh(chat: Chat, method: str, hardware: Hardware) -> Chat:
    """A copy of `chat` to train by `method` ("qlora", "lora" or "full"); `chat` stays as it is.

    QLoRA takes the matrices in 4 bits, full fine-tuning everything in fp32, as optimisers need it. ValueError for
    another method.
    """
    check_method(method)
    if method == "qlora":
        return quantised(chat, hardware)
    model = copy.deepcopy(chat.model)
    if training_device(hardware) == "cpu":
        model.set_attn_implementation("eager")
    return dataclasses.replace(chat, model=model.float() if method == "full" else model)


def check_method(method: str) -> None:
    if method not in formulas.TRAINING:
        raise ValueError(f"No way of training is called {method!r}. There are {', '.join(formulas.TRAINING)}.")


def training_device(hardware: Hardware) -> str:
    """Where to train: bitsandbytes' 4-bit layers train on NVIDIA cards and on CPUs."""
    return "cuda" if hardware.device == "cuda" else "cpu"


def training_dtype(hardware: Hardware) -> torch.dtype:
    """The number format to multiply in: the machine's own, but fp32 where a CPU has no bf16 units."""
    if training_device(hardware) == "cpu" and hardware.dtype == "float16":
        return torch.float32
    return hardware.torch_dtype


def for_merging(unit: Unit, trained: Chat, folder: Path) -> Chat:
    """The trained adapter, kept in `folder`, on the model as it was before it was quantised.

    At 7B the 16-bit weights would not fit beside the 4-bit ones: there it is the trained model itself.
    """
    trained.model.save_pretrained(folder)
    chat = unit.load("chat")
    if getattr(chat.model, "is_loaded_in_4bit", False):
        return trained
    return dataclasses.replace(chat, model=compat.load_lora(chat.model, folder).eval())
