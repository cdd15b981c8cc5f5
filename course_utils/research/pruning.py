"""Weights, heads and channels taken out of a model of the Llama kind, and what that saves."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_utils.models.layers import changed_copy, linear_layers

__all__ = [
    "Importance",
    "changed_copy",
    "importance",
    "least",
    "magnitude",
    "two_of_four",
    "without",
]


def check_share(share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"A share of {share} cannot be taken away: choose one from 0 to below 1, such as 0.5.")


def magnitude(weights: Tensor, share: float) -> Tensor:
    """`weights` with the `share` of them that lies nearest to 0 set to 0. ValueError for a share
    outside 0..1.
    """
    check_share(share)
    sizes = weights.abs().flatten()
    gone = int(share * sizes.numel())
    order = sizes.argsort(stable=True)
    keep = torch.ones_like(sizes)
    keep[order[:gone]] = 0
    return weights * keep.view_as(weights)


def two_of_four(weights: Tensor) -> Tensor:
    """`weights` (outputs, inputs) with the smaller two of every four neighbours set to 0 (arXiv
    2104.08378).
    """
    fours = weights.reshape(-1, 4)
    largest = fours.abs().topk(2, dim=1).indices  # (n, 2)
    keep = torch.zeros_like(fours).scatter(1, largest, 1.0)
    return (fours * keep).view_as(weights)


# ---------------------------------------------------------------- heads and channels


@dataclass(frozen=True)
class Importance:
    """What each head (layers, heads) and each MLP channel (layers, channels) adds to its layer's output, squared."""

    heads: Tensor
    channels: Tensor


def importance(model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> Importance:
    """How much would go missing without each part: weights times what they read on text (as Wanda, arXiv 2306.11695).

    `batches` from `lm.collate`. ValueError without any.
    """
    if not batches:
        raise ValueError("Give at least one batch: importance is measured on text.")
    layers = model.model.layers
    joins = [layer.self_attn.o_proj for layer in layers]
    downs = [layer.mlp.down_proj for layer in layers]
    read = squares_read(model, [*joins, *downs], batches)
    heads, channels = [], []
    for layer, join, down in zip(layers, joins, downs, strict=True):
        of_numbers = column_effects(join, read[join])  # (heads x width,)
        of_heads = of_numbers.view(-1, layer.self_attn.head_dim)
        heads.append(of_heads.sum(1))
        channels.append(column_effects(down, read[down]))
    return Importance(torch.stack(heads), torch.stack(channels))


def squares_read(
    model: nn.Module, matrices: Sequence[nn.Linear], batches: Sequence[dict[str, Tensor]]
) -> dict[nn.Linear, Tensor]:
    """For each matrix the sum over all tokens of the squares of its inputs (inputs,); padding does not count."""
    found = {matrix: torch.zeros(matrix.in_features) for matrix in matrices}
    real = torch.empty(0)

    def note(matrix: nn.Linear, inputs: tuple[Tensor]) -> None:
        found[matrix] += inputs[0][real].square().sum(0)

    hooks = [matrix.register_forward_pre_hook(note) for matrix in matrices]
    try:
        for batch in batches:
            real = batch["attention_mask"].bool()
            with torch.no_grad():
                model(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    use_cache=False,
                )
    finally:
        for hook in hooks:
            hook.remove()
    return found


def column_effects(matrix: nn.Linear, squares: Tensor) -> Tensor:
    """The square of what each input (inputs,) adds to the output, if inputs did not depend on each
    other.
    """
    strengths = matrix.weight.detach().square().sum(0)  # (inputs,)
    return strengths * squares


def least(scores: Tensor, share: float) -> list[list[int]]:
    """For each layer the places of the `share` of its parts with the lowest scores (layers, parts)."""
    check_share(share)
    gone = int(share * scores.shape[1])
    order = scores.argsort(dim=1, stable=True)
    return order[:, :gone].tolist()


def without(model: nn.Module, heads: Sequence[Sequence[int]], channels: Sequence[Sequence[int]]) -> nn.Module:
    """A copy whose matrices are smaller: the named heads and MLP channels of each layer are cut out.

    ValueError if a layer would have no head or no channel left, or if heads share keys (grouped queries).
    """
    attention = model.model.layers[0].self_attn
    if attention.num_key_value_groups != 1:
        raise ValueError("Several heads share one key here: cut out whole groups, which this function does not do.")
    cut = copy.deepcopy(model)
    for layer, lost_heads, lost_channels in zip(cut.model.layers, heads, channels, strict=True):
        cut_heads(layer.self_attn, lost_heads)
        cut_channels(layer.mlp, lost_channels)
    return cut


def cut_heads(attention: nn.Module, lost: Sequence[int]) -> None:
    width = attention.head_dim
    count = attention.q_proj.out_features // width
    kept = left_over(count, lost)
    places = torch.arange(count * width).view(count, width)[kept].flatten()
    for matrix in (attention.q_proj, attention.k_proj, attention.v_proj):
        keep_rows(matrix, places)
    keep_columns(attention.o_proj, places)


def cut_channels(mlp: nn.Module, lost: Sequence[int]) -> None:
    kept = left_over(mlp.down_proj.in_features, lost)
    keep_rows(mlp.gate_proj, kept)
    keep_rows(mlp.up_proj, kept)
    keep_columns(mlp.down_proj, kept)


def left_over(count: int, lost: Sequence[int]) -> Tensor:
    """The places of 0 to `count` - 1 that are not `lost`. ValueError if none is left or one never was."""
    if not set(lost) <= set(range(count)):
        raise ValueError(f"There are parts 0 to {count - 1}, not {sorted(lost)}.")
    kept = [place for place in range(count) if place not in set(lost)]
    if not kept:
        raise ValueError("A layer needs at least one head and one channel: take fewer away.")
    return torch.tensor(kept)


def keep_rows(matrix: nn.Linear, places: Tensor) -> None:
    matrix.weight = nn.Parameter(matrix.weight.detach()[places].contiguous())
    matrix.out_features = len(places)


def keep_columns(matrix: nn.Linear, places: Tensor) -> None:
    matrix.weight = nn.Parameter(matrix.weight.detach()[:, places].contiguous())
    matrix.in_features = len(places)


def weights_left(model: nn.Module) -> int:
    """How many weights the matrices inside hold, zeros included."""
    return sum(layer.weight.numel() for layer in linear_layers(model).values())
