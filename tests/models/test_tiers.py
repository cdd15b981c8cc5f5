import os
import re
from pathlib import Path

import pytest

from course_utils.models import catalogue, tiers
from course_utils.models.hardware import Hardware

LAPTOP = Hardware("cpu", "float32", "", ram_total_gb=16, ram_free_gb=10, cores=8, network=True)
SMALL_LAPTOP = Hardware("cpu", "float32", "", ram_total_gb=4, ram_free_gb=2, cores=2, network=True)
OFFLINE = Hardware("cpu", "float32", "", ram_total_gb=16, ram_free_gb=10, cores=8, network=False)
STRONG_CPU = Hardware("cpu", "bfloat16", "", ram_total_gb=32, ram_free_gb=28, cores=16, network=True)
CUDA = {
    "device": "cuda",
    "dtype_reason": "",
    "ram_total_gb": 12.7,
    "ram_free_gb": 11,
    "cores": 2,
    "network": True,
}
T4 = Hardware(dtype="float16", gpu="Tesla T4", gpu_total_gb=14.75, gpu_free_gb=14.6, capability=(7, 5), **CUDA)
FULL_T4 = Hardware(dtype="float16", gpu="Tesla T4", gpu_total_gb=14.75, gpu_free_gb=3.0, capability=(7, 5), **CUDA)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_in_cache(folder: Path, model: catalogue.Model, leave_out: str = "") -> Path:
    """Files of the right length, full of holes."""
    snapshot = folder / f"models--{model.id.replace('/', '--')}" / "snapshots" / model.revision
    snapshot.mkdir(parents=True)
    for file in model.files:
        if file.name != leave_out:
            (snapshot / file.name).touch()
            os.truncate(snapshot / file.name, file.size)
    return snapshot


@pytest.mark.parametrize(
    "machine, role, tier, reason",
    [
        (LAPTOP, "chat", "small", "not full: no NVIDIA GPU"),
        (LAPTOP, "embedding", "small", "10 GiB free"),
        (SMALL_LAPTOP, "chat", "bundled", "not small: it needs 3 GiB, 2.0 are free"),
        (SMALL_LAPTOP, "speech", "small", "not full: no NVIDIA GPU"),
        (OFFLINE, "chat", "bundled", "not small: no network, and it is not in the cache"),
        (STRONG_CPU, "chat", "small", "not full: no NVIDIA GPU"),
        (T4, "chat", "full", "15 GiB free"),
        (T4, "image-text", "full", "15 GiB free"),
        (T4, "speech", "full", "15 GiB free"),
        (T4, "translation", "full", "15 GiB free"),
        (LAPTOP, "translation", "small", "not full: no NVIDIA GPU"),
        (FULL_T4, "chat", "small", "not full: it needs 12 GiB, 3.0 are free"),
    ],
)
def test_the_best_that_works_is_chosen_and_explained(machine, role, tier, reason):
    choice = tiers.choose(role, machine)
    assert (choice.tier, choice.reason) == (tier, reason)
    assert choice.model == catalogue.find(role, tier)


def test_what_is_cached_needs_no_network(empty_cache):
    put_in_cache(empty_cache, catalogue.find("chat", "small"))
    assert tiers.choose("chat", OFFLINE).tier == "small"


def test_an_incomplete_cache_does_not_count(empty_cache):
    put_in_cache(empty_cache, catalogue.find("chat", "small"), leave_out="model.safetensors")
    assert tiers.choose("chat", OFFLINE).tier == "bundled"


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"<html>"])
def test_a_damaged_file_in_the_cache_does_not_count_and_is_named(empty_cache, content):
    damaged = put_in_cache(empty_cache, catalogue.find("chat", "small")) / "model.safetensors"
    damaged.write_bytes(content)
    assert tiers.choose("chat", LAPTOP).tier == "small" and catalogue.find("chat", "small").to_download_gb > 0
    choice = tiers.choose("chat", OFFLINE)
    assert choice.tier == "bundled" and "damaged files, to be deleted: " + str(damaged) in choice.reason


def test_an_address_that_is_none_is_the_reason(empty_cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    assert (
        "HF_ENDPOINT is 'nonsense', which is no address of the form https://host"
        in tiers.choose("chat", OFFLINE).reason
    )


def test_cached_models_download_nothing(empty_cache):
    model = catalogue.find("speech", "small")
    assert model.to_download_gb == model.download_gb > 0
    put_in_cache(empty_cache, model)
    assert model.to_download_gb == 0


def test_the_reason_mentions_the_cache(empty_cache):
    put_in_cache(empty_cache, catalogue.find("embedding", "small"))
    assert tiers.choose("embedding", LAPTOP).reason == "10 GiB free, already downloaded"


def test_the_argument_asks_for_a_tier():
    choice = tiers.choose("chat", T4, "bundled")
    assert (choice.tier, choice.reason) == ("bundled", "asked for")


def test_the_environment_asks_for_a_tier(monkeypatch):
    monkeypatch.setenv("COURSE_TIER", "Small")
    assert tiers.choose("chat", T4).tier == "small"
    assert tiers.choose("chat", T4, "bundled").tier == "bundled"  # the argument wins


def test_auto_asks_for_nothing(monkeypatch):
    monkeypatch.setenv("COURSE_TIER", "auto")
    assert tiers.choose("chat", LAPTOP) == tiers.choose("chat", LAPTOP, "auto")


def test_a_patient_cpu_gets_the_full_tier_when_it_asks():
    assert tiers.choose("chat", STRONG_CPU, "full").tier == "full"


def test_a_cpu_that_is_too_small_is_told_so():
    choice = tiers.choose("chat", LAPTOP, "full")
    assert choice.tier == "small"
    assert choice.reason == "not full: it needs 20 GiB RAM, this machine has 16"


def test_apple_gpus_get_no_four_bit_weights():
    mac = Hardware("mps", "float16", "", ram_total_gb=64, ram_free_gb=50, cores=10, gpu="Apple GPU", network=True)
    choice = tiers.choose("chat", mac, "full")
    assert (choice.tier, choice.reason) == (
        "small",
        "not full: its 4-bit weights need an NVIDIA GPU or a CPU",
    )
    assert tiers.choose("speech", mac, "full").tier == "full"


def test_asking_does_not_conjure_up_a_network():
    choice = tiers.choose("chat", OFFLINE, "small")
    assert choice.tier == "bundled" and "no network" in choice.reason


def test_a_tier_that_the_role_lacks_gives_the_next_lower_one():
    choice = tiers.choose("embedding", T4, "full")
    assert (choice.tier, choice.reason) == ("small", "there is no full model for this role")


@pytest.mark.parametrize("wrong", ["huge", "smal"])
def test_misspelt_tiers_are_named(monkeypatch, wrong):
    with pytest.raises(ValueError, match="bundled, small, full"):
        tiers.choose("chat", LAPTOP, wrong)
    monkeypatch.setenv("COURSE_TIER", wrong)
    with pytest.raises(ValueError, match=wrong):
        tiers.choose("chat", LAPTOP)


def test_unknown_roles_are_named():
    with pytest.raises(ValueError, match="image-text, speech, translation, chat, embedding"):
        tiers.choose("vision", LAPTOP)


# ---------------------------------------------------------------- the catalogue itself


def test_every_role_has_a_bundled_and_a_small_model():
    for role in catalogue.ROLES:
        assert set(catalogue.tiers_of(role)) >= {"bundled", "small"}


@pytest.mark.parametrize("model", [m for m in catalogue.models() if m.tier != "bundled"], ids=lambda m: m.id)
def test_defaults_are_ungated_pinned_and_safetensors_only(model):
    assert not model.gated
    assert not model.id.startswith(("meta-llama/", "mistralai/", "google/"))
    assert re.fullmatch("[0-9a-f]{40}", model.revision)
    names = [file.name for file in model.files]
    assert all(name.endswith((".json", ".safetensors")) for name in names)
    shards = sum(name.endswith(".safetensors") for name in names)
    assert shards and 0 < model.download_gb / shards < 5
    assert model.licence in {"Apache-2.0", "MIT"} and model.limits


@pytest.mark.parametrize("model", [m for m in catalogue.models() if m.tier != "bundled"], ids=lambda m: m.id)
def test_every_file_is_named_by_its_size_and_checksum(model):
    assert re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9][A-Za-z0-9.-]+", model.id)  # becomes a folder's name
    for file in model.files:
        assert re.fullmatch(r"[A-Za-z0-9_-]+(\.[a-z]+)*\.(json|safetensors)", file.name)  # a name, never a path
        assert re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size > 0
    digests = [file.sha256 for file in model.files]
    assert len(digests) == len(set(digests))
    assert sum(file.size for file in model.files) / 1e9 == pytest.approx(model.download_gb, abs=0.01)


def test_the_same_file_is_named_alike_wherever_it_is_named():
    base = {catalogue.find(role, "small").files for role in ("speech", "translation")}
    assert len(base) == 1
    chats = [m for m in catalogue.models() if m.role == "chat" and m.tier != "bundled"]
    tokenizers = {f for m in chats for f in m.files if f.name == "tokenizer.json"}
    assert len(chats) == 4 and len(tokenizers) == 2  # one a family


def test_the_small_tier_is_at_most_three_gigabytes():
    assert sum(m.download_gb for m in catalogue.models() if m.tier == "small" and not m.alternative) <= 3


def test_each_role_and_tier_has_one_default():
    defaults = [(m.role, m.tier) for m in catalogue.models() if not m.alternative]
    assert len(defaults) == len(set(defaults))
    assert all((m.role, m.tier) in defaults for m in catalogue.models())


def test_gated_alternatives_are_named_as_such():
    named = [text for m in catalogue.models() for text in m.named]
    gated = [text for text in named if text.startswith(("meta-llama/", "mistralai/"))]
    assert gated and all("gated" in text for text in gated)


def test_missing_tiers_are_named():
    with pytest.raises(ValueError, match="It has bundled, small"):
        catalogue.find("embedding", "full")


OLD = "Qwen/Qwen2.5-0.5B-Instruct"


def test_an_alternative_is_used_where_it_is_named(monkeypatch):
    monkeypatch.setenv("COURSE_CHAT", f" {OLD} ")
    choice = tiers.choose("chat", LAPTOP)
    assert (choice.model.id, choice.tier, choice.reason) == (OLD, "small", "asked for")
    assert tiers.choose("speech", LAPTOP).model == catalogue.find("speech", "small")


def test_an_alternative_that_cannot_be_had_steps_down_to_the_defaults(monkeypatch):
    monkeypatch.setenv("COURSE_CHAT", "Qwen/Qwen2.5-7B-Instruct")
    choice = tiers.choose("chat", LAPTOP)
    assert choice.model == catalogue.find("chat", "small") and "needs 20 GiB" in choice.reason
    assert tiers.choose("chat", OFFLINE).model.id == "prisma-lm"


@pytest.mark.parametrize("tier, expected", [("bundled", "prisma-lm"), ("small", "Qwen/Qwen3-0.6B")])
def test_the_tier_that_is_asked_for_comes_before_the_name(monkeypatch, tier, expected):
    monkeypatch.setenv("COURSE_CHAT", "Qwen/Qwen2.5-7B-Instruct")
    assert tiers.choose("chat", LAPTOP, tier).model.id == expected


def test_a_name_without_a_table_is_refused_with_those_that_have_one(monkeypatch):
    monkeypatch.setenv("COURSE_CHAT", "gpt-5")
    with pytest.raises(ValueError, match=r"COURSE_CHAT names 'gpt-5'.*Qwen/Qwen3-0.6B, Qwen/Qwen2.5-0.5B-Instruct"):
        tiers.choose("chat", LAPTOP)
    monkeypatch.setenv("COURSE_IMAGE_TEXT", "openai/whisper-base")
    with pytest.raises(ValueError, match="COURSE_IMAGE_TEXT names"):
        tiers.choose("image-text", LAPTOP)
