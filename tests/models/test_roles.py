"""The roles take what readers bring: sounds of every kind, silence, single strings, tokenizers without padding."""

import json

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from course_utils.models import roles
from course_utils.prisma import speech, whisper

# ---------------------------------------------------------------- speech


@pytest.fixture(scope="module")
def bundled():
    return roles.Speech(whisper.load(), "prisma-whisper", "bundled")


@pytest.fixture(scope="module")
def multilingual():
    """A tiny untrained Whisper with the vocabulary and the window of the real ones."""
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(0)
    model = Whisper(ModelDimensions(80, 1500, 16, 1, 1, 51865, 16, 16, 1, 1)).eval()
    # The library leaves these unset, for a checkpoint to fill: whatever memory held, also not-a-number.
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.02)
    return roles.Speech(model, "tiny", "small")


def test_a_clip_reads_the_same_in_every_form(bundled):
    clip = speech.load_clips()[0]
    pcm = (clip.audio * 32_767).astype(np.int16)
    forms = [clip.audio, clip.audio[:, None], pcm, torch.from_numpy(clip.audio)]
    assert bundled.transcribe_many(forms) == [clip.text] * len(forms)
    assert torch.equal(bundled.mel(clip.audio[:, None]), bundled.mel(clip.audio))


@pytest.mark.parametrize("tier", ["bundled", "multilingual"])
def test_silence_has_no_words_at_any_tier_and_that_is_said(request, tier, capsys):
    hearing, quiet = request.getfixturevalue(tier), np.zeros(16_000, np.float32)
    assert hearing.transcribe(quiet) == "" and capsys.readouterr().out == "The sound is silent: left out.\n"
    assert hearing.transcribe(np.full(hearing.window + 9, 127, np.uint8)[: hearing.window]) == ""
    capsys.readouterr()
    tone = np.sin(np.arange(16_000) / 20)
    texts = hearing.transcribe_many([quiet, tone, quiet])
    assert texts[0] == texts[2] == "" and texts[1] == hearing.transcribe_many([tone])[0]
    assert capsys.readouterr().out == "2 of 3 sounds are silent (0, 2, counted from 0): left out.\n"


def test_long_silence_is_not_transcribed_piece_by_piece(multilingual, monkeypatch):
    monkeypatch.setattr(type(multilingual.model), "transcribe", lambda *_, **__: pytest.fail("asked the model"))
    assert multilingual.transcribe(np.zeros(31 * 16_000)[None]) == ""


def test_languages_and_translations_take_the_same_sounds(multilingual, capsys):
    tone = np.sin(np.arange(16_000) / 20).astype(np.float32)
    expected = multilingual.languages([tone])
    assert multilingual.languages([tone[:, None]]) == expected and capsys.readouterr().out == ""
    assert multilingual.translate_many([tone[:, None]]) == multilingual.translate_many([tone])
    assert multilingual.translate_many([0 * tone]) == [""]
    assert len(multilingual.languages([0 * tone])) == 1
    assert "no language, so what is found there means nothing" in capsys.readouterr().out


@pytest.mark.parametrize("ask", ["transcribe_many", "languages", "translate_many"])
def test_a_sound_that_is_none_is_named_by_its_number(multilingual, ask):
    tone = np.sin(np.arange(16_000) / 20)
    with pytest.raises(ValueError, match="Sound 1 of the list: .*not finite"):
        getattr(multilingual, ask)([tone, np.full(99, np.nan)])
    with pytest.raises(TypeError, match="A list of sounds is wanted here, and this is one ndarray"):
        getattr(multilingual, ask)(tone)


def test_what_is_no_sound_never_reaches_the_model(bundled):
    for given, told in ((np.zeros((4, 5, 6)), r"\(4, 5, 6\)"), (np.full(9, np.inf), "finite"), ([], "empty")):
        for ask in (bundled.mel, bundled.transcribe):
            with pytest.raises(ValueError, match=told):
                ask(given)


# ---------------------------------------------------------------- pictures and texts


class Mean(torch.nn.Module):
    """In the place of CLIP: a vector of a picture's colours, or of a text's length."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def encode_image(self, pixels, normalize):
        return torch.nn.functional.normalize(pixels.flatten(1), dim=-1)

    def encode_text(self, tokens, normalize):
        return torch.nn.functional.normalize(tokens.float(), dim=-1)


@pytest.fixture
def eye():
    def preprocess(image):
        return torch.from_numpy(np.array(image.resize((4, 4)), np.float32)).permute(2, 0, 1)

    return roles.ImageText(Mean(), preprocess, lambda texts: torch.tensor([[len(t), 1] for t in texts]), "eye", "small")


def test_a_deep_picture_has_the_vector_of_the_flat_one(eye):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    flat, deep = Image.fromarray(ramp.astype(np.uint8)), Image.fromarray(ramp * 257)
    vectors = eye.encode_images([flat, deep, flat.convert("RGBA"), Image.fromarray(ramp.astype(np.float32))])
    assert torch.allclose(vectors, vectors[:1], atol=1e-3) and vectors.std() > 0.05
    clear = eye.encode_images([Image.new("RGBA", (8, 8), (255, 0, 0, 0)), Image.new("RGB", (8, 8), "white")])
    assert torch.equal(clear[0], clear[1])


def test_one_string_or_picture_is_no_list(eye):
    with pytest.raises(TypeError, match="A list of texts is wanted here, and this is one str"):
        eye.encode_texts("a red cube")
    with pytest.raises(TypeError, match="A list of pictures is wanted here, and this is one Image"):
        eye.encode_images(Image.new("RGB", (8, 8)))
    with pytest.raises(TypeError, match="of type str: open it with `media.picture"):
        eye.encode_images(["cat.png"])
    assert eye.encode_texts(iter(["a", "ball"])).shape == (2, 2)


# ---------------------------------------------------------------- chat and embedding


@pytest.fixture(scope="module")
def llama():
    """A tiny Llama whose tokenizer writes a beginning-of-text mark and names no padding token, as Llama 3 does."""
    from tokenizers import Tokenizer, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = Tokenizer.from_str(json.dumps(tiny.byte_tokenizer()))
    words.post_processor = processors.TemplateProcessing("<|im_start|> $A", special_tokens=[("<|im_start|>", 257)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<|im_start|>", eos_token="<|im_end|>")
    tokenizer.chat_template = tiny.PLAIN_TEMPLATE
    config = LlamaConfig(
        vocab_size=259, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=257, eos_token_id=258, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    assert tokenizer.pad_token_id is None and model.generation_config.pad_token_id is None
    return roles.Chat(model, tokenizer, "tiny-llama", "small")


def test_a_tokenizer_without_padding_answers_one_prompt_and_many_alike(llama):
    prompts = ["Hello", "A much longer prompt that needs no padding at all", "<|im_start|>marked", "x"]
    alone = [llama.complete(prompt, 6) for prompt in prompts]
    assert llama.complete_many(prompts, 6) == alone and len(set(alone)) == 4
    assert llama.tokenizer.pad_token_id is None  # left as it was


def test_a_row_that_ends_early_is_not_filled_with_words(llama, monkeypatch):
    """The first prompt's second token is made the end: its text stops there, the other's goes on."""
    texts = llama.complete_many(["Hello", "You there"], 10)
    end = llama.tokenizer(texts[0], add_special_tokens=False)["input_ids"][1]
    assert end not in llama.tokenizer(texts[1], add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(llama.model.generation_config, "eos_token_id", [258, end])
    short, long = llama.complete_many(["Hello", "You there"], 10)
    assert long == texts[1] and short in (texts[0][:1], texts[0][:2])


def test_a_prompt_begins_with_one_mark_however_it_is_written(llama):
    assert llama.complete("Hello", 8) == llama.complete("<|im_start|>Hello", 8)
    mixed = llama.complete_many(["<|im_start|>Hello", "Hello there"], 8)
    assert mixed == [llama.complete("Hello", 8), llama.complete("Hello there", 8)]


def test_an_empty_prompt_is_refused_where_nothing_would_be_read(llama):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    assert isinstance(llama.complete("", 4), str)  # its mark is there
    words = Tokenizer.from_str(json.dumps(tiny.byte_tokenizer()))
    bare = roles.Chat(llama.model, PreTrainedTokenizerFast(tokenizer_object=words), "bare", "small")
    with pytest.raises(ValueError, match="Prompt 0 is empty: bare needs a word at least"):
        bare.complete("", 4)
    with pytest.raises(ValueError, match="Prompt 1 is empty"):
        bare.complete_many(["Hello", ""], 4)
    assert bare.complete_many([], 4) == []


def test_one_text_is_no_list_of_prompts_or_messages(llama):
    with pytest.raises(TypeError, match="A list of prompts is wanted here, and this is one str"):
        llama.complete_many("Hello")
    with pytest.raises(TypeError, match="Number 0 in the list of prompts is of type int"):
        llama.complete(17)
    for alone in ("Hello", {"role": "user", "content": "Hello"}):
        with pytest.raises(TypeError, match='A list of messages such as {"role": "user"'):
            llama.chat(alone)


def test_embeddings_need_no_padding_token_and_ignore_it(llama):
    embedder = roles.Embedder(llama.model.model, llama.tokenizer, "tiny", "small")
    alone, beside = embedder.encode(["cube"]), embedder.encode(["cube", "a very much longer sentence about balls"])
    assert np.allclose(alone[0], beside[0], atol=1e-5) and np.allclose(np.linalg.norm(beside, axis=1), 1, atol=1e-5)
    with pytest.raises(TypeError, match="A list of texts is wanted here, and this is one str"):
        embedder.encode("cube")
