"""Whisper from the hub's files (transformers' names) as openai-whisper's own model."""

from pathlib import Path
from typing import Any

# Names of Hugging Face's Whisper layers and of openai-whisper's, in the order of replacement.
_WHISPER_NAMES = (
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens", "token_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"),
    ("decoder.layer_norm", "decoder.ln"),
    ("layers.", "blocks."),
    ("self_attn_layer_norm", "attn_ln"),
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("final_layer_norm", "mlp_ln"),
    ("self_attn", "attn"),
    ("encoder_attn", "cross_attn"),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
)


def whisper_from_hub(folder: Path) -> Any:
    """openai-whisper's `Whisper` (float32) from a checkpoint in Hugging Face's layout.

    The hub has the weights as safetensors; openai-whisper itself would download pickled files. ValueError if the
    weights are not those of the configuration.
    """
    import json

    from safetensors.torch import load_file
    from whisper.model import ModelDimensions, Whisper

    config = json.loads((folder / "config.json").read_text("utf-8"))
    weights = load_file(folder / "model.safetensors")
    weights.pop("proj_out.weight", None)  # the same matrix as the token embedding
    state = {_whisper_name(key): value for key, value in weights.items()}
    sizes = _whisper_sizes(config)
    found = _measured(state)
    if sizes != sizes | found:  # before anything of the size that a configuration asks for is made
        raise ValueError(f"config.json says {sizes}, the weights are {found}")
    for part in ("audio", "text"):
        width, heads = sizes[f"n_{part}_state"], sizes[f"n_{part}_head"]
        if heads < 1 or width % heads:
            raise ValueError(f"config.json divides {width} numbers among {heads} heads")
    net = Whisper(ModelDimensions(**sizes))
    net.load_state_dict({key: value.float() for key, value in state.items()})
    return net


def _whisper_sizes(config: dict) -> dict[str, int]:
    """The fields of openai-whisper's `ModelDimensions` in the configuration's words."""
    sizes = {"n_mels": config["num_mel_bins"], "n_vocab": config["vocab_size"]}
    for ours, theirs, room in (("audio", "encoder", "source"), ("text", "decoder", "target")):
        sizes[f"n_{ours}_ctx"] = config[f"max_{room}_positions"]
        sizes[f"n_{ours}_state"] = config["d_model"]
        sizes[f"n_{ours}_head"] = config[f"{theirs}_attention_heads"]
        sizes[f"n_{ours}_layer"] = config[f"{theirs}_layers"]
    return sizes


def _measured(state: dict[str, Any]) -> dict[str, int]:
    """The same sizes as the weights have them; the number of heads leaves no trace in the weights."""
    sizes = {"n_mels": state["encoder.conv1.weight"].shape[1]}
    sizes["n_vocab"] = state["decoder.token_embedding.weight"].shape[0]
    for ours, part in (("audio", "encoder"), ("text", "decoder")):
        sizes[f"n_{ours}_ctx"], sizes[f"n_{ours}_state"] = state[f"{part}.positional_embedding"].shape
        blocks = {key.split(".")[2] for key in state if key.startswith(f"{part}.blocks.")}
        sizes[f"n_{ours}_layer"] = len(blocks)
    return sizes


def _whisper_name(key: str) -> str:
    key = key.removeprefix("model.")
    for theirs, ours in _WHISPER_NAMES:
        key = key.replace(theirs, ours)
    return key
