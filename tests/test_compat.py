"""Every keyword in course_utils/compat.py exists in the installed library. Nothing is run but the imports."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.optim import _muon

from course_utils import compat, faster
from course_utils.memory import fake
from course_utils.models import hardware
from course_utils.settings import ROOT


def _imports(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted name of everything that compat.py imports from other libraries."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def calls(source: str) -> list[tuple[str, str]]:
    """(dotted name, keyword) of every call of an imported name in `source`, `Name.method(...)` included."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        names = _imports(function)
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            parts = ast.unparse(node.func).split(".")
            if parts[0] in names:
                called = ".".join([names[parts[0]], *parts[1:]])
                found += [(called, k.arg) for k in node.keywords if k.arg]
    return found


def resolve(dotted: str):
    """The object with this dotted name."""
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(dotted)


def version(dotted: str) -> str:
    name = dotted.split(".")[0]
    return f"{name} {getattr(importlib.import_module(name), '__version__', '')}"


def takes(dotted: str, keyword: str) -> bool:
    """Whether a call of `dotted` takes `keyword` by name. A catch-all `**kwargs` does not count."""
    if dotted.endswith(".from_pretrained"):
        return _pretrained_takes(keyword)
    if dotted.endswith("_config.patch"):  # of PyTorch's settings: each is an attribute
        return hasattr(resolve(dotted.removesuffix(".patch")), keyword)
    return keyword in inspect.signature(resolve(dotted)).parameters


def _pretrained_takes(keyword: str) -> bool:
    """`from_pretrained` pops most of its keywords from **kwargs, so its source is asked."""
    from transformers import AutoModelForCausalLM, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    assert issubclass(AutoModelForCausalLM, _BaseAutoModelClass)
    method = PreTrainedModel.from_pretrained
    known = inspect.signature(method).parameters
    config = inspect.getsource(importlib.import_module("transformers.configuration_utils"))
    return keyword in known or any(f'"{keyword}"' in text for text in (inspect.getsource(method), config))


CALLING = (compat, fake, faster)
KEYWORDS = [found for module in CALLING for found in calls(Path(module.__file__).read_text("utf-8"))]


# Called only where the installed version has it: `compat.has_fused_head` asks first. Colab's TRL 0.29 has none.
NEWER = {"trl.trainer.utils.add_fused_lm_head": compat.has_fused_head}


@pytest.mark.parametrize("called, keyword", KEYWORDS)
def test_keyword_exists(called, keyword):
    if called in NEWER and not NEWER[called]():
        pytest.skip(f"{version(called)} has no {called}")
    assert takes(called, keyword), (
        f"{version(called)}: {called} no longer takes {keyword!r}. Change its call in course_utils."
    )


def test_all_calls_are_seen():
    called = {name.split(".")[-1] for name, _ in KEYWORDS}
    wanted = {"BitsAndBytesConfig", "LoraConfig", "SFTConfig", "SFTTrainer", "create_agent", "from_pretrained"}
    assert wanted <= called
    assert len(KEYWORDS) > 40


@pytest.mark.parametrize("kind", ["SFTConfig", "DPOConfig", "GRPOConfig"])
def test_every_trainer_takes_the_shared_settings_and_checkpointing_by_one_of_its_names(kind):
    known = set(inspect.signature(resolve(f"trl.{kind}")).parameters)
    assert not set(compat.TRL) - known, f"{version('trl')}: trl.{kind} takes other names; see TRL in compat.py."
    assert set(compat.CHECKPOINTING) & known


def test_a_renamed_keyword_is_noticed():
    """The test itself can fail: keywords that libraries have dropped are reported."""
    old = "def f():\n    from trl import SFTConfig\n    SFTConfig(max_seq_length=1)\n"
    assert [takes(*call) for call in calls(old)] == [False]
    assert not takes("transformers.AutoModelForCausalLM.from_pretrained", "load_in_four_bits")
    assert takes("transformers.AutoModelForCausalLM.from_pretrained", "dtype")


def peft_in_a_new_process(version: str) -> subprocess.CompletedProcess:
    """Add an adapter as a student would, in a process where torchao has this version."""
    script = f"""
import importlib.metadata as metadata, sys, types
from importlib.machinery import ModuleSpec
known = metadata.version
metadata.version = lambda name: {version!r} if name == "torchao" else known(name)
module = types.ModuleType("torchao")
module.__spec__ = ModuleSpec("torchao", None)
sys.modules["torchao"] = module
from course_utils import compat
compat.hide_unfit_torchao()
compat.hide_unfit_torchao()
print("here" if sys.modules["torchao"] else "left out")
if sys.modules["torchao"] is None:
    from peft import LoraConfig, get_peft_model
    from torch import nn
    config = LoraConfig(target_modules=["0"])
    print(type(get_peft_model(nn.Sequential(nn.Linear(4, 4)), config)).__name__)
"""
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)


def test_a_torchao_that_peft_refuses_is_left_out_and_said():
    done = peft_in_a_new_process("0.10.0")
    note, place, made = done.stdout.splitlines()
    assert "torchao 0.16 or later" in note and "0.10.0 is here" in note
    assert (place, made) == ("left out", "PeftModel"), done.stderr


def test_a_torchao_that_peft_takes_stays():
    assert peft_in_a_new_process("0.18.0").stdout.split() == ["here"]


def test_the_minimum_of_torchao_is_pefts_own():
    from peft import import_utils

    text = inspect.getsource(import_utils.is_torchao_available)
    assert f'parse("{compat.TORCHAO}.0")' in text


@pytest.mark.parametrize("shape", [(24, 64), (64, 24)])
def test_muon_in_fp32_gives_what_torchs_own_gives(shape):
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    settings = ((3.4445, -4.7750, 2.0315), 5, 1e-7)
    ours = faster.newton_schulz(grad, *settings)
    theirs = _muon._zeropower_via_newtonschulz(grad, *settings).float()
    assert ours.shape == grad.shape and ours.dtype == torch.float32
    assert (ours - theirs).norm() < 0.02 * theirs.norm()  # theirs is rounded to bfloat16


@pytest.mark.parametrize("units", [None, "amx_bf16"])
def test_muon_takes_bfloat16_only_where_it_is_fast(monkeypatch, units):
    monkeypatch.setattr(hardware, "cpu_bf16_units", lambda: units)
    hardware.multiplies_bfloat16.cache_clear()
    with faster.muon_without_bfloat16("cpu"):
        made = _muon._zeropower_via_newtonschulz(torch.eye(3), (3.4445, -4.7750, 2.0315), 5, 1e-7)
    hardware.multiplies_bfloat16.cache_clear()
    assert made.dtype == (torch.bfloat16 if units else torch.float32)
