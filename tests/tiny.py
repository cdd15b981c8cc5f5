"""Tiny random checkpoints in the file layout of the real ones, made with the real libraries."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

PLAIN_TEMPLATE = (
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)
# As Qwen3's: it thinks unless told not to, and the reply that is learned has an empty block of thoughts, too.
THINKING_TEMPLATE = (
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{{ message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
TEMPLATES = {"Qwen2": PLAIN_TEMPLATE, "Qwen3": THINKING_TEMPLATE}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@cache
def byte_tokenizer() -> dict:
    """A byte-level BPE tokenizer without merges, with Qwen's special tokens, as tokenizer.json."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return json.loads(tokenizer.to_str())


def qwen(folder: Path, shards: int = 1, family: str = "Qwen3") -> dict[str, bytes]:
    """Qwen3 or Qwen2.5: one file or shards with an index, chat template inside tokenizer_config.json.

    The small Qwen3 shares its embeddings with its head, and its file holds them twice, as that of Qwen3-0.6B does.
    """
    import transformers
    from safetensors.torch import load_file
    from transformers import GenerationConfig

    config = getattr(transformers, f"{family}Config")(
        vocab_size=259, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=shards == 1,
        bos_token_id=256, eos_token_id=258,
    )  # fmt: skip
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    if shards == 1 and family == "Qwen3":
        weights = load_file(folder / "model.safetensors")
        twice = weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
        save_file(twice, folder / "model.safetensors", metadata={"format": "pt"})
    # The real one suggests sampling, which must not make the course's answers random.
    GenerationConfig(
        bos_token_id=256, eos_token_id=[258, 256], pad_token_id=256, do_sample=True, temperature=0.7,
        top_p=0.8, top_k=20, repetition_penalty=1.1,
    ).save_pretrained(folder)  # fmt: skip
    if shards > 1:
        _split(folder, shards)
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "add_bos_token": False,
        "model_max_length": 131072,
        "chat_template": TEMPLATES[family],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return contents(folder)


def _split(folder: Path, shards: int) -> None:
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    placed = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(weights)}
    for file in set(placed.values()):
        part = {name: weights[name] for name in weights if placed[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def minilm(folder: Path) -> dict[str, bytes]:
    """all-MiniLM-L6-v2: a BERT encoder and its word-piece tokenizer."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"))
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    )
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(folder)
    return contents(folder)


def whisper(folder: Path, mels: int = 80, vocabulary: int = 51865) -> dict[str, bytes]:
    """Whisper in Hugging Face's layout; the larger ones have 128 mels and one token more."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=vocabulary, num_mel_bins=mels, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=128, decoder_ffn_dim=128,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    return contents(folder)


def clip(folder: Path, weights: str = "open_clip_model.safetensors") -> dict[str, bytes]:
    """Weights under open_clip's names; network and preprocessing are not in the folder, as on the hub's list."""
    from open_clip import CLIP

    size = small_clip()
    state = CLIP(size["embed_dim"], size["vision_cfg"] | {"head_width": 32}, size["text_cfg"]).state_dict()
    save_file(state, folder / weights)
    return contents(folder)


def small_clip() -> dict:
    """A network in the form of open_clip's own configuration files."""
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}


def shrink_open_clip(folder: Path) -> None:
    """Let open_clip's names of the large networks mean the small one, in this process."""
    import open_clip

    for name in ("ViT-B-32", "ViT-L-14"):
        (folder / f"{name}.json").write_text(json.dumps(small_clip()))
    open_clip.add_model_config(folder)


def restore_open_clip() -> None:
    """Let the names mean again what the library says."""
    import open_clip

    open_clip.add_model_config(Path(open_clip.__file__).with_name("model_configs"))


def prisma(root: Path) -> Path:
    """Untrained stand-ins for the bundled models, made by the builders that make the real ones."""
    from course_utils.models import bundled
    from course_utils.prisma import clip, lm, whisper

    tokenizer = lm.build_tokenizer()
    lm.save(lm.build(tokenizer), tokenizer, root / "prisma-lm")
    whisper.save(whisper.build(), root / "prisma-whisper")
    clip.save(clip.build(), root / "prisma-clip")
    bundled.write_sums(root)
    return root
