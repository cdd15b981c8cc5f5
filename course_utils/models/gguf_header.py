"""The header of a GGUF file: what it says of its model, and the name, shape and format of every tensor.

    header = read(Path("model.Q4_K_M.gguf"))
    header.parameters, header.weight_bytes

Nothing but the header is read, so a file of 40 GB takes no longer than a small one, and a download that has only
begun is enough. `gguf.GGUFReader` wants the whole file, and walks as far as a damaged one tells it to.
"""

import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # 1 counted in 32 bits; nobody writes it
MOST_BYTES = 2**25  # no header is longer; the largest vocabularies take about 15 MB
# The format's description, section "Structure": https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file. `shape` as in GGUF: the dimension that lies together in memory first."""

    name: str
    shape: tuple[int, ...]
    format: str  # as llama.cpp calls it: F16, Q4_K ...
    bytes: int

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a GGUF file says. Of a list of texts, such as the vocabulary, only the length is kept."""

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it: llama, qwen3, gemma3 ..."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def parameters(self) -> int:
        """Numbers in all weights. Factors of positions that some files bring along are no weights."""
        return sum(tensor.numbers for tensor in self.tensors if not tensor.name.startswith("rope_"))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def formats(self) -> dict[str, int]:
        """Bytes in each number format, the largest first."""
        sizes: Counter = Counter()
        for tensor in self.tensors:
            sizes[tensor.format] += tensor.bytes
        return dict(sizes.most_common())

    def about(self, name: str, default: Any = None) -> Any:
        """What the file says about its architecture: `about("block_count")` is the value of llama.block_count."""
        return self.metadata.get(f"{self.architecture}.{name}", default)


class _Reader:
    """Reads numbers and texts one after the other. ValueError where the file ends too early."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name = file, name
        self.left = MOST_BYTES

    def take(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise ValueError(f"{self.name} is damaged: it says that its header has more than {MOST_BYTES:,} bytes.")
        content = self.file.read(size)
        if len(content) < size:
            raise ValueError(f"{self.name} ends inside its header: download or copy it again.")
        return content

    def numbers(self, code: str, count: int = 1) -> tuple:
        layout = f"<{count}{code}"
        if count > MOST_BYTES:  # before anything of that length is made
            self.take(count)
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def number(self, code: str) -> Any:
        return self.numbers(code)[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """One value of the metadata."""
        if kind == TEXT:
            return self.text()
        if kind == LIST:
            return self._list()
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        raise ValueError(f"{self.name} is damaged: its header has a value of kind {kind}, and there is no such kind.")

    def _list(self) -> Any:
        kind, count = self.number("I"), self.number("Q")
        if kind in NUMBERS:
            return list(self.numbers(NUMBERS[kind], count))
        if kind != TEXT:
            raise ValueError(f"{self.name} holds a list of kind {kind} in its header, which is not read here.")
        for _ in range(count):
            self.take(self.number("Q"))
        return count


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read(path: Path) -> Header:
    """The header of a GGUF file. ValueError, which says what to do, for one that is damaged or of another kind."""
    name = Path(path).name
    with Path(path).open("rb") as file:
        reader = _Reader(file, name)
        if reader.take(len(MAGIC)) != MAGIC:
            raise ValueError(f"{name} is no GGUF file: it does not begin with the letters GGUF.")
        version = reader.number("I")
        if version not in VERSIONS:
            raise ValueError(f"{name} has version {version} of GGUF; {VERSIONS[0]} and {VERSIONS[-1]} are read here.")
        tensor_count, value_count = reader.numbers("Q", 2)
        metadata = _metadata(reader, value_count)
        tensors = tuple(_tensor(reader) for _ in range(tensor_count))
    _check(name, metadata, tensors)
    return Header(metadata, tensors)


def _metadata(reader: _Reader, count: int) -> dict[str, Any]:
    metadata = {}
    for _ in range(count):
        key = reader.text()
        metadata[key] = reader.value(reader.number("I"))
    return metadata


def _tensor(reader: _Reader) -> Tensor:
    """One row of the list of tensors. ValueError for a format or a shape that cannot be."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    name = reader.text()
    dimensions = reader.number("I")
    if not 1 <= dimensions <= 4:
        raise ValueError(f"{reader.name} is damaged: {name!r:.60} has {dimensions} dimensions; GGUF has 1 to 4.")
    shape = reader.numbers("Q", dimensions)
    kind, _ = reader.number("I"), reader.number("Q")
    try:
        number_format = GGMLQuantizationType(kind)
        weights, size = GGML_QUANT_SIZES[number_format]
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{reader.name}: {name!r:.60} is in the format number {kind}, which the package gguf does not know. "
            "Update it (pip install --upgrade gguf), or ask for another quantisation of the model."
        ) from error
    if 0 in shape or shape[0] % weights:
        raise ValueError(f"{reader.name} is damaged: {name!r:.60} of shape {shape} can't be in {number_format.name}.")
    return Tensor(name, shape, number_format.name, math.prod(shape) // weights * size)


def _check(name: str, metadata: dict, tensors: tuple[Tensor, ...]) -> None:
    """ValueError for a file that is not all of one model."""
    if not isinstance(metadata.get("general.architecture"), str):
        raise ValueError(f"{name} does not say which architecture it holds (general.architecture).")
    parts = metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise ValueError(
            f"{name} is one of {parts} parts of a model. Put them together (llama-gguf-split --merge), and ask again."
        )
    if not tensors:
        raise ValueError(f"{name} holds no tensors: it is a vocabulary, not a model.")
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ValueError(f"{name} is damaged: two of its tensors have the same name.")
