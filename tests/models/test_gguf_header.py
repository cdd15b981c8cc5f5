"""GGUF headers: read as the library reads them, without the weights, and damaged ones refused in time."""

import json
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from course_utils.models import gguf_file, gguf_header
from course_utils.settings import MODELS


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """prisma-lm as a GGUF file."""
    return gguf_file.write_gguf(MODELS / "prisma-lm", tmp_path_factory.mktemp("gguf") / "prisma.gguf")


def test_a_header_says_what_the_library_reads(file: Path) -> None:
    header, read = gguf_header.read(file), gguf.GGUFReader(file)
    assert header.architecture == "llama"
    assert [(t.name, t.bytes, t.numbers) for t in header.tensors] == [
        (t.name, t.n_bytes, t.n_elements) for t in read.tensors
    ]
    for name in ("llama.block_count", "llama.rope.freq_base", "tokenizer.ggml.add_bos_token"):
        assert header.metadata[name] == read.get_field(name).contents()
    assert header.metadata["tokenizer.ggml.tokens"] == len(read.get_field("tokenizer.ggml.tokens").data)
    assert header.about("block_count") == 6 and header.about("nothing", 7) == 7


def test_parameters_are_those_of_the_model(file: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(MODELS / "prisma-lm" / "model.safetensors")
    assert gguf_header.read(file).parameters == sum(tensor.numel() for tensor in weights.values())


def test_the_header_alone_is_enough(file: Path, tmp_path: Path) -> None:
    whole = gguf_header.read(file)
    start = tmp_path / "start.gguf"
    start.write_bytes(file.read_bytes()[: gguf.GGUFReader(file).data_offset])
    assert gguf_header.read(start) == whole
    assert start.stat().st_size < whole.weight_bytes / 10


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q6_K"])
def test_quantised_tensors_have_the_size_that_they_take(tmp_path: Path, kind: str) -> None:
    number_format = gguf.GGMLQuantizationType[kind]
    numbers = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    # The package packs Q6_K for no one; a block of 256 weights takes 210 bytes.
    packed = np.zeros((64, 2 * 210), np.uint8) if kind == "Q6_K" else gguf.quantize(numbers, number_format)
    path = write(tmp_path / "q.gguf", {"w": (packed, number_format)})
    (tensor,) = gguf_header.read(path).tensors
    assert tensor.bytes == packed.nbytes and tensor.numbers == numbers.size and tensor.format == kind
    assert gguf_header.read(path).formats == {kind: packed.nbytes}


def write(path: Path, tensors: dict, **metadata: int) -> Path:
    """A GGUF file of these (array, format) by name."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in metadata.items():
        writer.add_uint32(name.replace("__", "."), value)
    for name, (array, number_format) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=number_format)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


START = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
NAMED = START + text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends inside its header"),
        (b"GGUF", "ends inside its header"),
        (b"<html>", "no GGUF file"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 1, 1, 1), "version 1 "),
        (START + struct.pack("<Q", 2**62) + b"x", "more than"),
        (START + text(b"a") + struct.pack("<I", 99), "a value of kind 99"),
        (START + text(b"a") + struct.pack("<IIQ", 9, 7, 2**62), "more than"),
        (START + text(b"a") + struct.pack("<IIQ", 9, 8, 2**62), "ends inside"),
        (START + text(b"a") + struct.pack("<IIQ", 9, 9, 2), "a list of kind 9"),
        (START + text(b"a") + struct.pack("<II", 4, 7) + text(b"w"), "ends inside"),
        (NAMED + text(b"w") + struct.pack("<I", 2**31), "has 2147483648 dimensions"),
        (NAMED + text(b"w") + struct.pack("<IQIQ", 1, 32, 77, 0), "format number 77"),
        (NAMED + text(b"w") + struct.pack("<IQIQ", 1, 31, 2, 0), "of shape .31,. can't be in Q4_0"),
        (NAMED + text(b"w") + struct.pack("<IQIQ", 1, 0, 0, 0), "of shape .0,."),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "does not say which architecture"),
        (NAMED.replace(struct.pack("<QQ", 1, 1), struct.pack("<QQ", 0, 1)), "holds no tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0) + text(b"w"), "ends inside"),
    ],
)
def test_a_damaged_header_is_refused_in_time(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    began = time.process_time()
    with pytest.raises(ValueError, match=said):
        gguf_header.read(path)
    assert time.process_time() - began < 5


def test_a_part_of_a_model_is_refused(tmp_path: Path) -> None:
    tensors = {"w": (np.zeros((4, 4), np.float32), gguf.GGMLQuantizationType.F32)}
    path = write(tmp_path / "part.gguf", tensors, split__count=3)
    with pytest.raises(ValueError, match="one of 3 parts"):
        gguf_header.read(path)


def test_what_a_file_is_called_does_not_count(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "model.bin"
    other.write_bytes(file.read_bytes())
    config = tmp_path / "model.gguf"
    config.write_text(json.dumps({"model_type": "llama"}))
    assert gguf_header.is_gguf(other) and not gguf_header.is_gguf(config)
