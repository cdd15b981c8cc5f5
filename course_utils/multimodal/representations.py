"""What CLIP's and Whisper's towers hold inside: tokens and attention."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.prisma import wishes


def picture_side(model: nn.Module) -> int:
    """The side in pixels of the pictures that an open_clip model looks at."""
    size = model.visual.image_size
    return size if isinstance(size, int) else size[0]


@torch.inference_mode()
def picture_tokens(clip, images: Sequence, grid: int = 4) -> Tensor:
    """What the last layer of the vision tower holds of each picture: (n, grid * grid, width).

    The patches are averaged down to `grid` by `grid`. `clip` is the unit's image-text model.
    """
    caught: list[Tensor] = []
    hook = clip.model.visual.transformer.register_forward_hook(lambda *parts: caught.append(parts[2]))
    try:
        clip.encode_images(images)
    finally:
        hook.remove()
    patches = torch.cat(caught).float().cpu()[:, 1:].transpose(1, 2)  # without the class token
    side = round(patches.shape[2] ** 0.5)
    square = patches.unflatten(2, (side, side))
    return nn.functional.adaptive_avg_pool2d(square, grid).flatten(2).transpose(1, 2).clone()


@torch.inference_mode()
def sound_tokens(hearing, sounds: Sequence[np.ndarray], seconds: float = wishes.SECONDS, count: int = 10) -> Tensor:
    """What Whisper's encoder holds of the first `seconds` of each sound: (n, count, width)."""
    parts = []
    for i in range(0, len(sounds), 16):
        mels = torch.stack([hearing.mel(sound) for sound in sounds[i : i + 16]]).to(hearing.model.device)
        heard = hearing.model.encoder(mels.to(next(hearing.model.parameters()).dtype))
        parts.append(heard[:, : round(seconds * 50)].float().cpu())  # 50 positions a second
    positions = torch.cat(parts).transpose(1, 2)
    return nn.functional.adaptive_avg_pool1d(positions, count).transpose(1, 2).clone()


@torch.inference_mode()
def attention_maps(model: nn.Module, pixels: Tensor) -> Tensor:
    """Attention of every layer and head of the vision tower on `pixels` (n, 3, h, w): (layers, n, heads, t, t).

    The fast kernels return no weights, so each block's attention is run again on what the block got.
    """
    maps: list[Tensor] = []

    def again(block: nn.Module) -> Callable:
        def hook(_: nn.Module, __: tuple, x: Tensor) -> None:
            maps.append(block.attn(x, x, x, need_weights=True, average_attn_weights=False)[1])

        return hook

    hooks = [block.ln_1.register_forward_hook(again(block)) for block in model.visual.transformer.resblocks]
    try:
        model.encode_image(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps).float().cpu()
