"""Values as bytes that hold no code: so results come back from the process in which a student's function runs.

JSON tells the structure, safetensors holds the tensors. Nothing is unpickled: what comes back may be forged.
"""

import functools
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, BinaryIO

import torch
from safetensors import torch as safetensors
from torch import Tensor

LARGEST = 32 * 2**20  # bytes of one message; the exercises' own results have a few hundred
HEADER = struct.Struct(">Q")  # the length of what follows


@dataclass(frozen=True)
class Foreign:
    """Stands for a value that does not cross over, such as a NumPy array: the names of its type and module."""

    kind: str
    module: str


def pack(value: Any) -> bytes:
    """`value` as bytes: tensors, plain numbers, text, None; lists, tuples and dicts of them. The rest gets Foreign."""
    tensors: dict[str, Tensor] = {}
    tree = _to_tree(value, tensors)
    return json.dumps(tree).encode() + b"\n" + safetensors.save(tensors)


def unpack(data: bytes) -> Any:
    """The value that `pack` made bytes of. Bytes that it did not make raise some exception."""
    structure, _, numbers = data.partition(b"\n")
    return _from_tree(json.loads(structure), safetensors.load(numbers))


def _to_tree(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What JSON can hold; tensors are put into `tensors`."""
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, Integral):  # NumPy's, too
        return int(value)
    if isinstance(value, list | tuple):
        name = "list" if isinstance(value, list) else "tuple"
        return {name: [_to_tree(part, tensors) for part in value]}
    if isinstance(value, Tensor):
        return _tensor_to_tree(value, tensors)
    if type(value) is dict and all(type(key) is str for key in value):  # as JSON has them
        return {"dict": {key: _to_tree(part, tensors) for key, part in value.items()}}
    kind = type(value)
    return {"foreign": [kind.__name__, kind.__module__]}


def _tensor_to_tree(value: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A tensor of its own on the CPU; complex numbers as pairs, which every safetensors knows."""
    numbers = value.detach().cpu().resolve_conj().resolve_neg()
    pairs = torch.view_as_real(numbers) if numbers.is_complex() else numbers
    key = str(len(tensors))
    tensors[key] = pairs.clone(memory_format=torch.contiguous_format)
    return {"tensor": key, "gradient": value.requires_grad, "complex": numbers.is_complex()}


def _from_tree(tree: Any, tensors: dict[str, Tensor]) -> Any:
    match tree:
        case {"list": parts}:
            return [_from_tree(part, tensors) for part in parts]
        case {"tuple": parts}:
            return tuple(_from_tree(part, tensors) for part in parts)
        case {"dict": dict(parts)}:
            return {key: _from_tree(part, tensors) for key, part in parts.items()}
        case {"tensor": key, "gradient": gradient, "complex": is_complex}:
            numbers = torch.view_as_complex(tensors[key]) if is_complex else tensors[key]
            return numbers.requires_grad_(gradient)
        case {"foreign": [str(kind), str(module)]}:
            return Foreign(kind, module)
        case None | bool() | int() | float() | str():
            return tree
    raise ValueError("no value")


def send(stream: BinaryIO, data: bytes) -> None:
    """Write one message."""
    stream.write(HEADER.pack(len(data)) + data)
    stream.flush()


def receive(stream: BinaryIO, largest: int = LARGEST) -> bytes:
    """The next message. EOFError at the end of the stream, ValueError for one of more than `largest` bytes."""
    (length,) = HEADER.unpack(_exactly(stream, HEADER.size))
    if length > largest:
        raise ValueError(f"a message of {length:,} bytes")
    return _exactly(stream, length)


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def cached_again(function: Callable, maxsize: int | None, typed: bool) -> Callable:
    """A function with `functools.lru_cache`, made anew where it has arrived: the cache itself can't be pickled."""
    return functools.lru_cache(maxsize, typed)(function)
