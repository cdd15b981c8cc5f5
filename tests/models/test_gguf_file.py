"""prisma-lm as GGUF: names, rotary order, end marks. That llama.cpp writes the same: test_llama_cpp.py."""

import json

import gguf
import pytest
import tiny
import torch
from safetensors.torch import save_file

from course_utils.models import bundled, gguf_file
from course_utils.models.roles import Chat
from course_utils.prisma import lm
from course_utils.workshop import evaluate

FOLDER = bundled.folder("prisma-lm")


def test_tensors_get_their_gguf_names():
    assert gguf_file.gguf_name("model.layers.3.mlp.up_proj.weight") == "blk.3.ffn_up.weight"
    assert gguf_file.gguf_name("model.embed_tokens.weight") == "token_embd.weight"
    names = {gguf_file.gguf_name(name) for name in lm.load(FOLDER)[0].state_dict()}
    assert len(names) == len(lm.load(FOLDER)[0].state_dict())
    with pytest.raises(KeyError):
        gguf_file.gguf_name("model.layers.0.mlp.experts.weight")


def test_rotary_pairs_come_to_stand_side_by_side():
    heads, size = 2, 6  # each head holds rows 0 1 2 and, half a head apart, their partners 3 4 5
    weight = torch.arange(heads * size, dtype=torch.float)[:, None].repeat(1, 4)
    rows = gguf_file.interleaved(weight, heads)[:, 0].tolist()
    assert rows == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_the_file_reads_back_as_the_model(tmp_path):
    """Every tensor, in float16 or as a norm in float32, and every word, by the reader of the package gguf."""
    from gguf import GGUFReader
    from safetensors.torch import load_file

    model, tokenizer = lm.load(FOLDER)
    reader = GGUFReader(gguf_file.write_gguf(FOLDER, tmp_path / "model.gguf"))
    written = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    state = load_file(FOLDER / "model.safetensors")
    assert set(written) == {gguf_file.gguf_name(name) for name in state}
    for name, weight in state.items():
        found = written[gguf_file.gguf_name(name)]
        part = gguf_file.gguf_name(name).split(".")[-2]
        if part in heads:  # back to pairs half a head apart
            found = found.reshape(heads[part], -1, 2, found.shape[1]).swapaxes(1, 2).reshape(found.shape)
        assert torch.equal(found, weight.float() if weight.ndim == 1 else weight.half()), name
    words = reader.fields["tokenizer.ggml.tokens"].contents()
    ours = tokenizer.convert_ids_to_tokens(list(range(len(words))))
    assert words == [gguf_file.RENAMED.get(word, word) for word in ours] and "<|call|>" in ours


def test_another_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(ValueError, match="only Llama's"):
        gguf_file.write_gguf(tmp_path, tmp_path / "model.gguf")


@pytest.fixture
def small(tmp_path):
    """The files of a Llama, as small as the writer takes them."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    rest = {"max_position_embeddings": 32, "rms_norm_eps": 1e-5, "vocab_size": 259, "eos_token_id": 258}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **sizes, **rest}))
    (tmp_path / "tokenizer.json").write_text(json.dumps(tiny.byte_tokenizer()))
    save_file({"model.embed_tokens.weight": torch.zeros(259, 8)}, tmp_path / "model.safetensors")
    return tmp_path


def settled(folder, **changes):
    """The folder with other settings; None takes one out."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


def ends_of(path):
    fields = gguf.GGUFReader(path).fields
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    return [fields[key].contents() for key in keys if key in fields]


@pytest.mark.parametrize(
    "told, more, written",
    [
        (258, None, [258]),
        ([258], None, [258]),
        ([256, 258, 257], None, [256, 258, 257]),
        ([258, 258, 256], None, [258, 256]),
        (256, [258, 256], [256, 258]),
        (None, 257, [257]),
    ],
)
def test_all_end_tokens_are_written(small, told, more, written):
    if more is not None:
        (small / "generation_config.json").write_text(json.dumps({"eos_token_id": more}))
    assert ends_of(gguf_file.write_gguf(settled(small, eos_token_id=told), small / "model.gguf")) == written


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"eos_token_id": None}, "names 0 end tokens"),
        ({"eos_token_id": []}, "names 0 end tokens"),
        ({"eos_token_id": [1, 2, 3, 4]}, "names 4 end tokens"),
        ({"eos_token_id": "<end>"}, "must be numbers of tokens, not .'<end>'"),
        ({"eos_token_id": [258, 259]}, "must be numbers of tokens"),
        ({"eos_token_id": -1}, "must be numbers of tokens"),
        ({"eos_token_id": True}, "must be numbers of tokens"),
        ({"intermediate_size": None, "rms_norm_eps": None}, "has no intermediate_size, rms_norm_eps"),
        ({"model_type": None}, "is a None model"),
    ],
)
def test_what_is_missing_or_impossible_is_said(small, changes, said):
    with pytest.raises(ValueError, match=said):
        gguf_file.write_gguf(settled(small, **changes), small / "model.gguf")
    assert not (small / "model.gguf").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(small, name):
    (small / name).unlink()
    with pytest.raises(ValueError, match=f"has no {name}"):
        gguf_file.write_gguf(small, small / "model.gguf")


def test_without_llama_cpp_its_speed_is_left_out(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert evaluate.speed_llama_cpp(None, FOLDER) == {}


def test_with_it_the_speed_is_measured_in_tokens_a_second():
    pytest.importorskip("xllamacpp")
    model, tokenizer = lm.load(FOLDER)
    chat = Chat(model, tokenizer, "prisma-lm", "bundled")
    (speed,) = evaluate.speed_llama_cpp(chat, FOLDER).values()
    assert speed.unit == "tokens/s" and 20 < speed.low <= speed.value
