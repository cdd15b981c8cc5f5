"""Changing what a model does without training it: a vector added to its states, and one fact edited in its weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.research import patching

if TYPE_CHECKING:
    from course_utils.models.roles import Chat


def prompt_ids(tokenizer: Any, prompt: str) -> Tensor:
    """The token ids (1, n) of a prompt that has its own marks."""
    return tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]


# ---------------------------------------------------------------- a vector


def question_states(chat: "Chat", prompts: Sequence[str], layer: int, mark: str) -> Tensor:
    """What layer `layer` of a Llama-like model gives out, averaged over the tokens from `mark` on: (prompts, width).

    ValueError for a prompt without the token `mark`.
    """
    _layer(chat.model, layer)  # ValueError if there is none
    start = chat.tokenizer.convert_tokens_to_ids(mark)
    means = []
    for prompt in prompts:
        ids = prompt_ids(chat.tokenizer, prompt)
        if start not in ids:
            raise ValueError(f"The prompt {prompt[:40]!r} has no token {mark!r} from which to count.")
        with torch.inference_mode():
            entering = patching.states(chat.model, ids.to(chat.model.device))  # (layers + 1, 1, n, width)
        given_out = entering[layer + 1, 0].float().cpu()  # (n, width)
        first = ids[0].tolist().index(start)
        means.append(given_out[first:].mean(0))
    return torch.stack(means)


def direction(
    chat: "Chat",
    wanted: Sequence[str],
    other: Sequence[str],
    layer: int,
    mark: str = "<|user|>",
) -> Tensor:
    """From the mean state of the prompts `other` to that of the prompts `wanted`: (width,) (arXiv
    2312.06681).

    Only the tokens from `mark` on count, where the two kinds of prompts say the same.
    """
    there = question_states(chat, wanted, layer, mark).mean(0)
    here = question_states(chat, other, layer, mark).mean(0)
    return there - here


def random_like(vector: Tensor, seed: int) -> Tensor:
    """A random direction of the same length: what any push of this size does."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(vector.shape, generator=generator)
    return noise * vector.norm() / noise.norm()


@contextmanager
def steered(model: nn.Module, layer: int, vector: Tensor) -> Iterator[None]:
    """Add `vector` to what layer `layer` gives out, at every token that is read or written (arXiv
    2308.10248).

    ValueError for a layer that the model does not have, or a vector of another width.
    """
    if vector.shape != (model.config.hidden_size,):
        width = model.config.hidden_size
        raise ValueError(f"The vector must have {width} numbers, not {tuple(vector.shape)}.")

    def push(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return output + vector.to(output)  # (batch, n, width)

    hook = _layer(model, layer).register_forward_hook(push)
    try:
        yield
    finally:
        hook.remove()


def _layer(model: nn.Module, layer: int) -> nn.Module:
    layers = model.model.layers
    if not 0 <= layer < len(layers):
        raise ValueError(f"The model has the layers 0 to {len(layers) - 1}, not {layer}.")
    return layers[layer]


# ---------------------------------------------------------------- one fact


@dataclass(frozen=True)
class Edit:
    """A change of one matrix: what is added to it is `change` (out, 1) times `address` (1, in)."""

    layer: int
    change: Tensor
    address: Tensor

    @property
    def added(self) -> Tensor:
        """The matrix of rank one that is added."""
        return self.change @ self.address


@contextmanager
def edited(model: nn.Module, edits: Sequence[Edit]) -> Iterator[None]:
    """Add the edits to the model's MLPs (`down_proj`) for a while."""
    kept = [(matrix(model, edit.layer), matrix(model, edit.layer).detach().clone()) for edit in edits]
    try:
        with torch.no_grad():
            for edit in edits:
                weight = matrix(model, edit.layer)
                weight += edit.added.to(weight)
        yield
    finally:
        with torch.no_grad():
            for weight, before in reversed(kept):
                weight.copy_(before)


def matrix(model: nn.Module, layer: int) -> Tensor:
    """The weights with which the MLP of `layer` writes its result: (width, inner)."""
    return _layer(model, layer).mlp.down_proj.weight


def keys(chat: "Chat", texts: Sequence[str], layer: int) -> Tensor:
    """What comes into that matrix at every token of the texts: (tokens, inner)."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple) -> None:
        found.append(inputs[0][0].float().cpu())  # (n, inner)

    hook = _layer(chat.model, layer).mlp.down_proj.register_forward_pre_hook(keep)
    try:
        for text in texts:
            with torch.inference_mode():
                chat.model(input_ids=prompt_ids(chat.tokenizer, text).to(chat.model.device), use_cache=False)
    finally:
        hook.remove()
    return torch.cat(found)


def second_moment(found: Tensor) -> Tensor:
    """The mean of k k^T over keys (tokens, inner): which directions other texts use. (inner, inner)"""
    mean = found.T @ found / len(found)
    return mean + 1e-4 * mean.diagonal().mean() * torch.eye(len(mean))  # directions that no text uses


def wanted_change(
    chat: "Chat",
    prompts: Sequence[str],
    target: str,
    layer: int,
    steps: int = 30,
    rate: float = 5.0,
) -> Tensor:
    """What the MLP of `layer` has to add at the last token of the prompts, so that `target` follows: (width,).

    Found by gradient descent. The `rate` is in the units of the states, which are hundreds long.
    """
    model = chat.model
    written = prompt_ids(chat.tokenizer, target)
    change = torch.zeros(model.config.hidden_size, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=rate)
    rows = [torch.cat([prompt_ids(chat.tokenizer, prompt), written], dim=1) for prompt in prompts]
    length = written.shape[1]
    down = _layer(model, layer).mlp.down_proj

    def add(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        moved = output.clone()  # (1, n, width)
        moved[:, -length - 1] += change.to(output)
        return moved

    hook = down.register_forward_hook(add)
    try:
        for _ in range(steps):
            losses = [_loss(model, row, length) for row in rows]
            loss = torch.stack(losses).mean()
            (change.grad,) = torch.autograd.grad(loss, [change])
            optimiser.step()
    finally:
        hook.remove()
    return change.detach()


def _loss(model: nn.Module, row: Tensor, length: int) -> Tensor:
    """How unlikely the last `length` tokens of a row (1, n) are, in nats a token."""
    logits = model(input_ids=row.to(model.device), use_cache=False).logits[0, -length - 1 : -1].float()
    return nn.functional.cross_entropy(logits, row[0, -length:].to(logits.device))


def fact_edit(
    chat: "Chat",
    prompts: Sequence[str],
    target: str,
    layer: int,
    moment: Tensor,
    **options: Any,
) -> Edit:
    """The rank-one edit after which `target` follows the prompts (ROME, arXiv 2202.05262, equation
    2).

    The address is the mean key k at the prompts' last token, turned by the inverse of the second
    `moment` C of other texts' keys: what they use is then hardly touched. The matrix W gets (v - W
    k) (C^-1 k)^T / (k^T C^-1 k).
    """
    change = wanted_change(chat, prompts, target, layer, **options)
    last = [keys(chat, [prompt], layer)[-1] for prompt in prompts]
    key = torch.stack(last).mean(0)  # (inner,)
    turned = torch.linalg.solve(moment, key)  # (inner,)
    address = turned / (key @ turned)
    return Edit(layer, change[:, None], address[None])
