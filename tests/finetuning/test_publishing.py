"""After training: merges keep the change, exports say so, nothing unfit is published, and a hub gets every byte."""

import json
import sys
from pathlib import Path

import pytest
import torch
from hub import serving
from torch import nn

from course_utils import compat
from course_utils.finetuning import four_bit, publishing
from course_utils.measures import Measure
from course_utils.models import bundled, roles
from course_utils.models.hardware import Hardware
from course_utils.prisma import lm, ollama_recipe

LAPTOP = Hardware("cpu", "float32", "", ram_total_gb=8, ram_free_gb=4, cores=2)
SCORES = {"all": Measure(0.5, 0.4, 0.6, 80, "%"), "topic": Measure(1.0, 0.95, 1.0, 80, "%")}


def chat():
    model, tokenizer = lm.load(bundled.folder("prisma-lm"))
    return roles.Chat(model, tokenizer, "prisma-lm", "bundled")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A random adapter of prisma-lm that changes it by about as much as a trained one does."""
    folder, model = tmp_path_factory.mktemp("adapter"), compat.add_peft_lora(chat().model, 16, 32)
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


# --- merging ---


def test_a_merge_adds_the_adapter_and_nothing_else(adapter):
    beside = compat.load_lora(chat().model, adapter).eval()
    ids = torch.randint(10, 500, (1, 20))
    with torch.no_grad():
        expected, plain = beside(ids).logits, chat().model(ids).logits
        got = publishing.merged(chat(), adapter).model(ids).logits
    assert (got - expected).abs().max() < 1e-2 < 1 < (plain - expected).abs().max()


def test_sixteen_bits_keep_the_change_and_four_bits_do_not(adapter):
    before = publishing.matrices(chat().model)
    wanted = publishing.matrices(publishing.merged(chat(), adapter).model)
    loss = {
        dtype: publishing.lost(before, wanted, publishing.matrices(publishing.merged(chat(), adapter, dtype).model))
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    }
    assert loss[torch.float32] == 0 < loss[torch.float16] < loss[torch.bfloat16] < 0.05
    small = four_bit.quantised(chat(), LAPTOP)
    coarse = publishing.matrices(small.model)
    goal = {name: coarse[name] + wanted[name] - before[name] for name in wanted}
    in_four = publishing.matrices(publishing.merged(small, adapter).model)
    assert 0.2 < publishing.lost(coarse, goal, in_four) < 1
    assert publishing.lost(before, wanted, before) == pytest.approx(1)


def test_a_merge_that_changed_nothing_is_noticed():
    with pytest.raises(publishing.UnchangedError, match="All 2 answers"):
        publishing.proof_of_change(["a", "b"], ["a", "b"])
    assert publishing.proof_of_change(["a", "b"], ["a", "c"]).value == 0.5


def test_without_a_change_there_is_nothing_to_lose():
    weights = {"a": torch.ones(2, 2)}
    with pytest.raises(ValueError, match="no change to lose"):
        publishing.lost(weights, weights, weights)


def test_matrices_are_as_long_as_one_vector_of_all_their_numbers():
    assert publishing.length({"a": torch.tensor([[3.0]]), "b": torch.tensor([[0.0, 4.0]])}) == pytest.approx(5)


def test_replies_are_compared_place_by_place():
    assert publishing.same_replies(["a", "b"], ["a", "c"]) == [True, False]
    with pytest.raises(ValueError, match="2 and 1 replies"):
        publishing.same_replies(["a", "b"], ["a"])


# --- Ollama ---


def test_the_modelfile_merges_nothing_and_writes_the_turns_as_the_tokenizer_does():
    text = ollama_recipe.modelfile("model.gguf")
    assert text.startswith("FROM ./model.gguf") and "ADAPTER" not in text
    turns = [{"role": "system", "content": "SYSTEM"}, {"role": "user", "content": "USER"}]
    filled = ollama_recipe.TEMPLATE.replace("{{ if .System }}", "").replace("{{ end }}", "")
    filled = filled.replace("{{ .System }}", "SYSTEM").replace("{{ .Prompt }}", "USER")
    assert filled == chat().tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in program is a shell script")
def test_what_ollama_says_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not installed" in publishing.ollama_create("toy", tmp_path)
    program = tmp_path / "ollama"
    program.write_text('#!/bin/sh\necho "$@" > asked\n')
    program.chmod(0o755)
    assert publishing.ollama_create("toy", tmp_path) == ""
    assert (tmp_path / "asked").read_text() == "create toy -f Modelfile\n"
    program.write_text("#!/bin/sh\necho working >&2\necho Error: no such file >&2\nexit 1\n")
    assert publishing.ollama_create("toy", tmp_path) == "Error: no such file"


# --- what may be published ---


@pytest.fixture
def folder(tmp_path, adapter):
    """An adapter ready to be published."""
    made = tmp_path / "public"
    made.mkdir()
    for file in adapter.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    publishing.make_portable(made, "prisma/prisma-lm")
    card = publishing.card("toy", "prisma/prisma-lm", "cc-by-4.0", "test data", SCORES, {"Limits": "Knows toys only."})
    card.save(made / "README.md")
    return made


def test_a_prepared_folder_is_fit(folder):
    assert publishing.unfit(folder) == []


def test_what_peft_saves_is_not(adapter):
    found = publishing.unfit(adapter)
    assert any("adapter_config.json: shows a folder" in line for line in found)
    assert any("README.md: its header has no license" in line for line in found)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("training_args.bin", "x", "a pickle"),
        ("notes.md", "hf_" + "a" * 30, "an access token"),
        ("notes.txt", "C:\\" + "Users\\me", "a folder of this machine"),
        ("notes.txt", "see /" + "home/me/run", "a folder of this machine"),
    ],
)
def test_planted_faults_are_found(folder, name, content, said):
    (folder / name).write_text(content)
    assert [line for line in publishing.unfit(folder) if line.startswith(name) and said in line]
    with pytest.raises(publishing.UnfitError, match=said):
        publishing.push(folder, "me/toy", "token")


@pytest.fixture
def light(tmp_path):
    """A fit folder without a real model: weights, settings, a list of words, a card."""
    from safetensors.torch import save_file

    made = tmp_path / "light"
    made.mkdir()
    save_file({"layer.weight": torch.zeros(2, 2)}, made / "model.safetensors", {"format": "pt"})
    for name, content in {
        "config.json": {"model_type": "llama"},
        "tokenizer.json": {"vocab": {"/usr/bin/env": 1}},
    }.items():
        (made / name).write_text(json.dumps(content))
    publishing.card("toy", "prisma/prisma-lm", "cc-by-4.0", "test data", SCORES, {}).save(made / "README.md")
    return made


HF = "hf_" + "Ab1" * 10
WHERE = "/" + "home/ann/models/run"
BAD = {
    ".env": b"DEBUG=1",
    ".netrc": b"",
    ".git/config": b"[core]",
    ".ipynb_checkpoints/a.json": b"{}",
    ".cache/huggingface/token.json": b"{}",
    "train.py": b"print(1)",
    "notes.ipynb": b"{}",
    "customers.csv": b"name,mail",
    "train.jsonl": b"{}",
    "settings.yaml": b"a: 1",
    "train.log": b"step 1",
    "optimizer.pt": b"x",
    "training_args.bin": b"x",
    "state.PKL": b"x",
    "model.CKPT": b"x",
    "id_rsa": b"x",
    "server.pem": b"x",
    "trainer_state.json": b"{}",
    "credentials.json": b"{}",
    "all.zip": b"PK",
    "old/optimizer.pt": b"x",
    "LICENSE.pem": b"x",
    "vocab.txt": HF.encode(),
    "merges.txt": HF.encode("utf-16"),
    "LICENSE": b"caf\xe9 " + HF.encode(),
    "NOTICE": ("sk-" + "proj-" + "a" * 30).encode(),
    "LICENSE.md": ("gh" + "p_" + "a" * 36).encode(),
    "LICENSE.txt": ("-----BEGIN RSA " + "PRIVATE KEY-----").encode(),
    "Modelfile": f"FROM {WHERE}".encode(),
    "chat_template.jinja": f"{{# {WHERE} #}}".encode(),
    "generation_config.json": b'{"made_by": "\\u0068\\u0066_' + b"a" * 30 + b'"}',
    "adapter_config.json": b'{"base": "C:\\\\Users\\\\ann\\\\model"}',
    "tokenizer_config.json": b'{"name_or_path": "D:/models/support/run-3"}',
    "special_tokens_map.json": b"<html>not found</html>",
    "added_tokens.json": ('{"mirror": "http://ann:' + 'secret@example.org"}').encode(),
    "chat_template.json": b"[" * 100_000,
    "adapter_model.safetensors": b"\x80\x04pickle",
    "model-00001-of-00002.safetensors": b"",
    "model.gguf": b"<html>",
}


@pytest.mark.parametrize("name", BAD)
def test_what_may_not_go_is_refused_by_name(light, name):
    assert publishing.unfit(light) == []
    path = light / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(BAD[name])
    found = publishing.unfit(light)
    assert len(found) >= 1 and all(line.startswith(name.split("/")[0]) for line in found)
    for secret, said in ((HF, "an access token"), (WHERE, "a folder of this machine")):
        if secret.encode() in BAD[name].replace(b"\0", b""):
            assert any(said in line for line in found)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("target", ["/etc/hostname", "/etc", "config.json", "nowhere"])
def test_a_link_is_refused_wherever_it_leads(light, target):
    (light / "vocab.txt").symlink_to(target)
    assert [line.partition(":")[0] for line in publishing.unfit(light)] == ["vocab.txt"]


def test_a_secret_in_the_remarks_of_weights_is_found(light):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, light / "adapter_model.safetensors", {"made in": WHERE})
    assert publishing.unfit(light) == ["adapter_model.safetensors: shows a folder of this machine"]


@pytest.mark.parametrize("card", ["caf\xe9".encode("latin-1"), b"---\nlicense: [\n---\n", b"---\n- a\n---\n"])
def test_a_card_that_cannot_be_read_is_named(light, card):
    (light / "README.md").write_bytes(card)
    assert all(line.startswith("README.md") for line in publishing.unfit(light)) and publishing.unfit(light)


def test_no_folder_is_unfit(tmp_path):
    assert publishing.unfit(tmp_path / "nowhere") == ["nowhere is no folder"]


def test_what_a_model_in_several_files_needs_may_go(light):
    from safetensors.torch import save_file

    for number in (1, 2):
        save_file({"w": torch.zeros(2)}, light / f"model-0000{number}-of-00002.safetensors")
    (light / "model.safetensors").unlink()
    (light / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model-00001-of-00002.safetensors"}}')
    (light / "model.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 8 + b" /usr/share/words")
    (light / "generation_config.json").write_text('{"stop": "Q:\\nA:\\n", "see": "https://example.org/home/page"}')
    (light / "vocab.json").write_text('{"/usr/share/words": 1}')
    (light / "merges.txt").write_text("/usr/share /words\n", "utf-8")
    (light / "LICENSE").write_bytes("é".encode("latin-1"))
    assert publishing.unfit(light) == []


def test_missing_parts_are_named(folder):
    (folder / "adapter_model.safetensors").unlink()
    (folder / "README.md").unlink()
    found = " ".join(publishing.unfit(folder))
    assert "no weights" in found and "README.md is missing" in found


def test_an_address_in_a_card_is_no_path(folder):
    with (folder / "README.md").open("a") as card:
        card.write("See https://example.org/home/page and the folder data/tmp/x.\n")
    assert publishing.unfit(folder) == []


def test_the_card_carries_the_numbers_for_machines_and_people(folder):
    from huggingface_hub import ModelCard

    card = ModelCard.load(folder / "README.md")
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {"all": 0.5, "topic": 1.0}
    assert card.data.license == "cc-by-4.0" and card.data.base_model == "prisma/prisma-lm"
    assert "| all | 50.0% (40.0% to 60.0%, n = 80) |" in card.text and "Knows toys only." in card.text


# --- publishing ---


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the hub's own storage protocol: not here
        server.token = "hf_secret"
        yield server


def test_pushed_and_downloaded_it_is_the_same(hub, folder, tmp_path):
    from huggingface_hub import HfApi

    said = []
    made = publishing.push(folder, "me/toy", "hf_secret", said.append)
    assert made.commit_url.startswith(f"{hub.address}/me/toy") and hub.visibility == {"me/toy": "private"}
    assert "is private: only you will see them" in said[0] and hub.address in said[0]
    library = HfApi(endpoint=hub.address, token="hf_secret")
    arrived = Path(library.snapshot_download("me/toy", local_dir=tmp_path / "arrived"))
    assert publishing.same_files(folder, arrived)
    settings = json.loads((arrived / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "prisma/prisma-lm"
    ids = torch.randint(10, 500, (1, 20))
    with torch.no_grad():
        ours, theirs = (compat.load_lora(chat().model, place).eval()(ids).logits for place in (folder, arrived))
    assert torch.equal(ours, theirs)


def test_nothing_goes_to_a_repository_that_everybody_can_see(hub, light):
    hub.files["me/toy"], hub.visibility["me/toy"] = {}, "public"
    said = []
    with pytest.raises(publishing.UnfitError, match="everybody can see .*me/toy"):
        publishing.push(light, "me/toy", "hf_secret", said.append)
    assert hub.files["me/toy"] == {} and not said


def test_a_changed_byte_is_noticed(folder, tmp_path):
    import shutil

    other = shutil.copytree(folder, tmp_path / "other")
    assert publishing.same_files(folder, other)
    weights = bytearray((other / "adapter_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "adapter_model.safetensors").write_bytes(weights)
    assert not publishing.same_files(folder, other)


def test_a_wrong_token_uploads_nothing(hub, folder):
    from huggingface_hub.errors import HfHubHTTPError

    with pytest.raises(HfHubHTTPError):
        publishing.push(folder, "me/toy", "hf_wrong", lambda text: None)
    assert hub.files == {} and hub.blobs == {}


def test_an_unfit_folder_reaches_no_hub(hub, folder):
    (folder / "state.pkl").write_bytes(b"x")
    with pytest.raises(publishing.UnfitError):
        publishing.push(folder, "me/toy", "hf_secret")
    assert hub.requests == []
