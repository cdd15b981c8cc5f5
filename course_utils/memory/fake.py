"""What lets a step run on tensors without memory: 4-bit layers, an optimiser, equal lengths."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from course_utils.compat import keep_gradients

if TYPE_CHECKING:
    import torch


def with_nf4_layers(model: Any, compute_dtype: "torch.dtype") -> Any:
    """`model` with 4-bit layers of bitsandbytes, still empty, where the linear ones are; the head stays as it is.

    What transformers does to a model before it reads weights into it. For models without memory (device "meta").
    """
    from bitsandbytes.nn import Linear4bit

    for name, old in linear_layers(model).items():
        new = Linear4bit(
            *linear_size(old),
            bias=old.bias is not None,
            compute_dtype=compute_dtype,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        if old.bias is not None:
            new.bias = old.bias
        model.set_submodule(name, new.requires_grad_(False))
    model.is_loaded_in_4bit = True
    return keep_gradients(model)


def linear_layers(model: Any) -> dict[str, Any]:
    """The layers that bitsandbytes quantises and PEFT adapts, by name: all linear ones but the head."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    kinds = (nn.Linear, Conv1D)
    found = {name: module for name, module in model.named_modules() if type(module) in kinds}
    return {name: module for name, module in found.items() if module is not head and "lm_head" not in name}


def linear_size(module: Any) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer. GPT-2's kind of it holds its matrix the other way round."""
    if hasattr(module, "in_features"):
        return module.in_features, module.out_features
    return module.nx, module.nf


def nf4_parameter(layer: Any, shape: tuple[int, int], codes: Any, scales: tuple, tables: tuple) -> Any:
    """The weight of a 4-bit `layer` made of its parts, double-quantised. It replaces nothing by itself.

    `codes`: two weights a byte, (weights / 2, 1). `scales`: a byte for each 64 weights, an fp32 number for each 256
    of these. `tables`: what the 16 codes mean, what the 256 values of a scale mean, and what is added to a scale.
    """
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Params4bit
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.nn import Parameter

    levels, scale_levels, offset = tables
    state = QuantState(
        absmax=scales[0],
        shape=shape,
        code=levels,
        blocksize=64,
        quant_type="nf4",
        dtype=layer.compute_dtype,
        offset=offset,
        state2=QuantState(absmax=scales[1], code=scale_levels, blocksize=256, dtype=scales[1].dtype),
    )
    layer.quant_state = state
    if isinstance(codes, FakeTensor):  # it can't be a Params4bit: both are subclasses of Tensor
        weight = Parameter(codes, requires_grad=False)
        weight.quant_state = state
        return weight
    return Params4bit(
        codes, requires_grad=False, quant_state=state, blocksize=64, quant_type="nf4", module=layer, bnb_quantized=True
    )


def four_bit_products() -> dict[Any, Any]:
    """bitsandbytes' operators that multiply with a 4-bit matrix, and functions that do the same in smaller steps.

    Empty before bitsandbytes 0.50, which took these steps where everybody sees them.
    """
    import torch
    from bitsandbytes.backends.default import ops

    if not hasattr(ops, "_gemm_4bit_default_impl"):
        return {}
    return {torch.ops.bitsandbytes.gemm_4bit.default: ops._gemm_4bit_default_impl}


@contextmanager
def equal_lengths() -> Iterator[None]:
    """Inside, transformers takes it that no sequences are packed into one.

    It looks at the position of every token to find out. Fake tensors have none to look at, and then it makes an
    attention mask (tokens x tokens) that a real run does not make.
    """
    from unittest.mock import patch  # here, because it imports asyncio

    from transformers import masking_utils

    if not hasattr(masking_utils, "find_packed_sequence_indices"):
        yield
        return
    with patch.object(masking_utils, "find_packed_sequence_indices", lambda position_ids: None):
        yield


@contextmanager
def answers_without_numbers() -> Iterator[None]:
    """Inside, tensors of the device "meta" answer questions about their numbers, though they have none.

    Some models look whether padding or pictures are among the tokens: no. Some ask at which places a number is not 0:
    at all of them, which is the largest answer.
    """
    import torch
    from torch.fx.experimental import _config
    from torch.utils._python_dispatch import TorchDispatchMode

    class No(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            asked = operator is torch.ops.aten._local_scalar_dense.default
            if asked and args[0].is_meta and args[0].dtype == torch.bool:
                return False
            return operator(*args, **(kwargs or {}))

    with _config.patch(meta_nonzero_assume_all_nonzero=True), No():
        yield


def adamw(parameters: list, eight_bit: bool) -> Any:
    """AdamW with fp32 state in one kernel, or bitsandbytes' with 8-bit state; both work on fake tensors."""
    import torch
    from bitsandbytes.optim import AdamW8bit

    class Coarse(AdamW8bit):
        def fill_qmap(self) -> None:  # the library's own reads numbers, which fake tensors do not have
            self.name2qmap = {name: torch.linspace(-1, 1, 256) for name in ("dynamic", "udynamic")}

    return Coarse(parameters) if eight_bit else torch.optim.AdamW(parameters, fused=True)
