"""A small configuration of any kind of causal language model in transformers, with sizes drawn from a seed."""

import random
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TOWERS = ("vision_config", "audio_config")


def sizes(rng: random.Random) -> dict[str, int | None]:
    """The value of each setting that has one of these names, whatever the kind; heads of 16 go with all of it."""
    hidden, heads, inner = rng.choice([64, 96, 128]), 4, rng.choice([48, 80])
    kv_heads, layers, vocab = rng.choice([1, 2, 4]), rng.choice([3, 4]), rng.choice([320, 500])
    found: dict[str, int | None] = {}
    for names, value in [
        ("hidden_size d_model n_embd emb_dim dim_model embedding_size decoder_hidden_size hidden_dim width", hidden),
        ("adapter_in_dim adapter_input_size adapter_out_dim", hidden),
        ("num_hidden_layers num_layers n_layer n_layers decoder_layers encoder_layers num_blocks depth", layers),
        ("num_decoder_layers num_encoder_layers", layers),
        ("num_attention_heads n_head n_heads decoder_attention_heads encoder_attention_heads num_heads", heads),
        ("num_decoder_attention_heads num_encoder_attention_heads decoder_num_attention_heads", heads),
        ("num_key_value_heads n_head_kv num_kv_heads kv_n_heads decoder_num_key_value_heads", kv_heads),
        ("intermediate_size ffn_dim n_inner d_ff dim_ff dff decoder_ffn_dim encoder_ffn_dim d_inner", inner),
        ("ffn_hidden_size shared_intermediate_size moe_intermediate_size expert_ffn_hidden_size", inner),
        ("shared_expert_intermediate_size moe_shared_expert_intermediate_size", inner),
        ("vocab_size vocab_size_per_layer_input", vocab),
        ("head_dim attention_head_dim kv_channels", 16),
        ("sliding_window attention_window_size local_window_size", 5),
        ("attention_chunk_size", 8),
        ("sliding_window_pattern global_attn_every_n_layers full_attention_interval layer_switch", 2),
        ("q_lora_rank", 24),
        ("kv_lora_rank", 16),
        ("qk_nope_head_dim v_head_dim", 16),
        ("qk_rope_head_dim", 8),
        ("num_experts n_routed_experts num_local_experts moe_num_experts", 8),
        ("num_experts_per_tok top_k_experts moe_top_k moe_k moe_topk num_experts_per_token", 2),
        ("n_group topk_group", 1),
        ("first_k_dense_replace num_dense_layers", 1),
        ("rotary_dim", 8),
        ("num_kv_shared_layers", 1),
        ("pad_token_id", 0),
        ("bos_token_id decoder_start_token_id", 1),
        ("eos_token_id", 2),
    ]:
        found |= dict.fromkeys(names.split(), value)
    found |= {"mamba_expand": 2, "expand": 2, "mamba_d_head": 16, "mamba_head_dim": 16, "mamba_headdim": 16}
    found |= dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 2 * hidden // 16)
    found |= dict.fromkeys(("mamba_d_ssm", "mamba_intermediate"), 2 * hidden)
    found |= dict.fromkeys(("mamba_d_state", "state_size", "mamba_n_groups", "n_groups", "mamba_ngroups"), 4)
    return found


# What goes together in other ways, by kind. None: worked out from the other sizes.
ESPECIALLY: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"num_expert_group": 1},
    "bamba": {"attn_layer_indices": [1]},
    "big_bird": {"attention_type": "original_full"},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "attention_layers": None},
    "granitemoehybrid": {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]},
    "hrm_text": {"num_layers_per_stack": None, "num_hidden_layers": 1},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]},
    "mamba2": {"hidden_size": 64, "num_heads": 8, "head_dim": 16},
    "mimo_v2_flash": {"num_attention_heads": 8, "num_key_value_heads": 4},
    "ministral": {"head_dim": 16},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"], "num_hidden_layers": None},
    "rwkv": {"attention_hidden_size": None, "intermediate_size": None},
    "xlnet": {"d_model": 64, "d_head": 16},
    "xlstm": {"hidden_size": 128, "num_heads": 4, "embedding_dim": None, "num_blocks": None},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": None, "attention_head_dim": None, "n_mamba_heads": 2},
    "zamba2": {"hidden_size": 64, "attention_hidden_size": 128, "attention_head_dim": 32, "hybrid_layer_ids": None}
    | {"n_mamba_heads": 8},
    "zaya": {"num_experts_per_tok": 1},
}
# transformers has no default configuration for these, or cannot build them from it, whatever the sizes.
NOT_BUILT = {"cohere_compass_text", "dbrx", "gemma4_assistant", "gemma4_unified_assistant", "musicgen"}
NOT_BUILT |= {"musicgen_melody", "qwen4_exp", "qwen4_exp_text"}
# Parts of these do not get smaller: they are compared without numbers, on the device "meta", and their cache is not.
TOO_LARGE = {"blt", "gemma3n"}
# Built and counted; their caches grow by rules of their own or depend on numbers, and are refused.
NOT_UNDERSTOOD = {"deepseek_v4", "jetmoe", "longcat_flash", "reformer", "xlm", "xlnet"}
# Refused as well by the transformers that Colab brings (5.15), understood by newer ones.
NOT_YET_UNDERSTOOD = {"aria_text"}
LEFT_OUT = ("per_layer_config", "qk_head_dim", "transformers_version", "architectures", "dtype")


def small(kind: str, seed: int = 0) -> dict:
    """The contents of a config.json: the kind's default, with the sizes above where it has such settings."""
    rng = random.Random(f"{kind}{seed}")
    default = CONFIG_MAPPING[kind]().to_dict()
    shrunk = _shrunk(default, sizes(rng))
    if "is_decoder" in shrunk:
        shrunk["is_decoder"] = True
    own = ESPECIALLY.get(kind, {})
    left = [name for name, value in own.items() if value is None]
    return {name: value for name, value in {**shrunk, **own, "model_type": kind}.items() if name not in left}


def _in_turn(entries: list, layers: int) -> list:
    """Each kind of layer that there is, in turn."""
    kinds = list(dict.fromkeys(entries))
    return [kinds[number % len(kinds)] for number in range(layers)]


def _shrunk(settings: dict, values: dict) -> dict:
    if "kv_lora_rank" in settings:
        latent = {"head_dim": values["qk_rope_head_dim"], "num_key_value_heads": values["num_attention_heads"]}
        values = values | latent
    return {name: _value(name, value, settings, values) for name, value in settings.items() if name not in LEFT_OUT}


def _value(name: str, value: Any, settings: dict, values: dict) -> Any:
    """What a setting is in a small model."""
    if isinstance(value, dict) and name.endswith("config"):
        return _shrunk(value, values)
    one_each = isinstance(value, list) and len(value) == settings.get("num_hidden_layers")
    if name in values and (one_each or value is None or type(value) is int):
        return None if value is None and name.endswith("_dim") else values[name]
    return _in_turn(value, values["num_hidden_layers"]) if one_each else value
