"""A Llama checkpoint as one GGUF file, the format that llama.cpp reads: weights, vocabulary, chat template."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.models import gguf_bits, k_quants
from course_utils.settings import SEED

if TYPE_CHECKING:
    import torch

# Names of a layer's tensors in a Hugging Face checkpoint and in GGUF.
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NEEDED = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
    "vocab_size",
)
# llama.cpp ends a text at any token of this name, whatever the file says, because gpt-oss ends so. To us it begins a
# call: it gets another name in the file, which no reader sees, as marks are not printed.
RENAMED = {"<|call|>": "<|function|>"}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(folder: Path, path: Path, bits: str = "f16") -> Path:
    """Write the Llama model in `folder` to `path`, matrices in the format `bits`: f16, q8_0, q4_k_m ...

    llama.cpp does not know the word splitting of prisma-lm's tokenizer. It cuts coarser. As no merge of ours crosses a
    space or joins digits, letters and signs, ordinary text gives the same tokens: tests/serving/test_llama_server.py.
    ValueError, saying what is missing, for another architecture, an incomplete folder, more than three end tokens, or
    an unknown format.
    """
    config = _config(folder)
    layers = config["num_hidden_layers"]
    gguf_bits.format_of("", layers, bits)
    ends = end_tokens(folder, config)
    from safetensors.torch import load_file

    writer = _begun(folder, path, config, ends)
    if (folder / "chat_template.jinja").exists():
        writer.add_chat_template(_renamed((folder / "chat_template.jinja").read_text("utf-8")))
    for name, tensor in load_file(folder / "model.safetensors").items():
        tensor = interleaved(tensor, config["num_attention_heads"]) if ".q_proj" in name else tensor
        tensor = interleaved(tensor, config["num_key_value_heads"]) if ".k_proj" in name else tensor
        name = gguf_name(name)
        _write_tensor(writer, name, tensor, gguf_bits.format_of(name, layers, bits))
    return _ended(writer, path)


def write_stand_in(folder: Path, path: Path, bits: str, width: int = 768, layers: int = 8) -> Path:
    """Write a larger Llama that writes nonsense at the speed of its size: to see what bits do to speed.

    It has the vocabulary of the model in `folder`; its matrices, in `bits` as for `write_gguf`, repeat 32 random rows.
    """
    import torch

    heads = width // 64
    config = _config(folder) | {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers}
    config |= {"num_attention_heads": heads, "num_key_value_heads": heads}
    writer = _begun(folder, path, config, end_tokens(folder, config))
    draw = torch.Generator().manual_seed(SEED)
    table = torch.randn(config["vocab_size"], width, generator=draw)
    _write_tensor(writer, "token_embd.weight", table, "F16")
    _write_tensor(writer, "output_norm.weight", torch.ones(width), "F16")
    for layer in range(layers):
        for part in LAYER.values():
            name = f"blk.{layer}.{part}.weight"
            kind = gguf_bits.format_of(name, layers, bits)
            _write_repeated(writer, name, part, width, kind, draw)
    return _ended(writer, path)


def _begun(folder: Path, path: Path, config: dict, ends: list[int]) -> Any:
    """A writer that has written all but the weights: shape, vocabulary of the model in `folder`, end tokens."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    _write_shape(writer, config)
    _write_tokens(writer, json.loads((folder / "tokenizer.json").read_text("utf-8")))
    _write_ends(writer, ends)
    return writer


def _ended(writer: Any, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_repeated(writer: Any, name: str, part: str, width: int, kind: str, draw: "torch.Generator") -> None:
    """A norm of ones, or a matrix of the `part`'s shape that repeats 32 random rows."""
    import torch

    if part.endswith("norm"):
        _write_tensor(writer, name, torch.ones(width), kind)
        return
    outputs = 3 * width if part in ("ffn_gate", "ffn_up") else width
    inputs = 3 * width if part == "ffn_down" else width
    rows = torch.randn(32, inputs, generator=draw) / inputs**0.5
    _write_tensor(writer, name, rows, kind, outputs // 32)


def _write_tensor(writer: Any, name: str, tensor: "torch.Tensor", kind: str, times: int = 1) -> None:
    """A norm in float32, a matrix in the format `kind`, `times` below itself."""
    import gguf
    import numpy as np

    if tensor.ndim == 1:
        writer.add_tensor(name, tensor.float().numpy())
    elif kind == "F16":
        numbers = tensor.half().numpy()
        writer.add_tensor(name, np.tile(numbers, (times, 1)))
    else:
        data = np.tile(k_quants.packed(tensor, kind), (times, 1))
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])


def _config(folder: Path) -> dict:
    """The model's settings. ValueError if there is something that no file can be written without."""
    _need(folder, "config.json")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if config.get("model_type") != "llama":
        raise ValueError(f"{folder.name} is a {config.get('model_type')} model; only Llama's are written here")
    _need(folder, "tokenizer.json", "model.safetensors")
    if missing := [name for name in NEEDED if config.get(name) is None]:
        raise ValueError(f"config.json in {folder.name} has no {', '.join(missing)}")
    return {"num_key_value_heads": config["num_attention_heads"], **config}


def _need(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder.name} has no {name}: a folder with the whole model is needed, weights in one file"
            )


def end_tokens(folder: Path, config: dict) -> list[int]:
    """The tokens that end a text: those in the configuration, then those that only generation_config.json names.

    ValueError if there are none or more than three: a GGUF file has room for an eos, an eot and an eom.
    """
    settings = folder / "generation_config.json"
    told = [config, json.loads(settings.read_text("utf-8"))] if settings.is_file() else [config]
    found: list[int] = []
    for one in told:
        value = one.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        for token in ids:
            if token is not None and token not in found:
                found.append(token)
    if any(type(token) is not int or not 0 <= token < config["vocab_size"] for token in found):
        raise ValueError(f"the end tokens (eos_token_id) of {folder.name} must be numbers of tokens, not {found}")
    if not 1 <= len(found) <= 3:
        raise ValueError(f"{folder.name} names {len(found)} end tokens (eos_token_id); a GGUF file has room for 1 to 3")
    return found


def gguf_name(name: str) -> str:
    """ "model.layers.3.mlp.up_proj.weight" is "blk.3.ffn_up.weight"."""
    part = name.removesuffix(".weight")
    if part in WHOLE:
        return f"{WHOLE[part]}.weight"
    _, _, layer, rest = part.split(".", 3)
    return f"blk.{layer}.{LAYER[rest]}.weight"


def interleaved(weight: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Rotary pairs side by side, as llama.cpp wants them; Hugging Face keeps them half a head apart."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _write_shape(writer: Any, config: dict) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(rope.get("rope_theta", 10_000.0))


def _write_tokens(writer: Any, tokenizer: dict) -> None:
    import gguf

    special = {one["content"] for one in tokenizer["added_tokens"]}
    vocabulary = tokenizer["model"]["vocab"] | {one["content"]: one["id"] for one in tokenizer["added_tokens"]}
    words = sorted(vocabulary, key=vocabulary.get)
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_renamed(word) for word in words])
    writer.add_token_types([kinds.CONTROL if word in special else kinds.NORMAL for word in words])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])


def _renamed(text: str) -> str:
    """`text` with the names that tokens have in the file."""
    for name, other in RENAMED.items():
        text = text.replace(name, other)
    return text


def _write_ends(writer: Any, ends: list[int]) -> None:
    """llama.cpp stops at all three: the end of a text, of a turn, and of a message."""
    for write, token in zip(
        (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id), ends, strict=False
    ):
        write(token)
    writer.add_bos_token_id(ends[0])  # the format wants one; nothing here puts it in front
    writer.add_add_bos_token(False)
