import re
import sys
import types

import psutil
import pytest
import torch

from course_utils.models import hardware
from course_utils.models.hardware import GIB
from course_utils.settings import ROOT, TEXT


@pytest.fixture
def gpu(monkeypatch):
    """A function that puts an NVIDIA card into this machine."""

    def install(name="Tesla T4", capability=(7, 5), free=14.6, total=14.75):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *a: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *a: capability)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *a: (int(free * GIB), int(total * GIB)))
        # What PyTorch says on a T4: emulated bfloat16 counts as supported.
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: True)

    return install


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """A control group whose files the test writes."""
    monkeypatch.setattr(hardware, "CGROUP", tmp_path)

    def write(**files):
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text)

    return write


def test_a_t4_gets_float16_with_the_reason(gpu):
    gpu()
    found = hardware.detect()
    assert (found.device, found.gpu, found.capability) == ("cuda", "Tesla T4", (7, 5))
    assert found.dtype == "float16" and found.torch_dtype is torch.float16
    assert "7.5" in found.dtype_reason and "emulated" in found.dtype_reason
    assert found.gpu_free_gb == pytest.approx(14.6) and found.free_gb == found.gpu_free_gb
    assert "Tesla T4, 14.6 of 14.8 GiB free" in found.describe()


def test_a_card_that_this_pytorch_cannot_use_counts_as_none(gpu, monkeypatch):
    gpu("Tesla P100-PCIE-16GB", (6, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a", "sm_120", "compute_120"])
    found = hardware.detect()
    assert found.device == "cpu" and found.capability is None and found.gpu_free_gb == 0
    assert "Tesla P100-PCIE-16GB is too old (this PyTorch needs compute capability 7.5)" in found.describe()


def test_a_pytorch_that_lists_no_cards_refuses_none(gpu, monkeypatch):
    gpu("Tesla P100-PCIE-16GB", (6, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: [])
    assert hardware.detect().device == "cuda"


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (12, 0)])
def test_newer_cards_get_bfloat16(gpu, capability):
    gpu("A card", capability)
    assert hardware.detect().dtype == "bfloat16"


def test_apple_gpu(monkeypatch, no_gpu):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    found = hardware.detect()
    assert (found.device, found.dtype) == ("mps", "float16")
    assert found.free_gb == found.ram_free_gb  # its memory is the machine's


@pytest.mark.parametrize(
    "flags, dtype", [("avx2 amx_bf16", "bfloat16"), ("avx512_bf16", "bfloat16"), ("avx2", "float32")]
)
def test_a_cpu_gets_bfloat16_only_where_it_is_fast(monkeypatch, no_gpu, tmp_path, flags, dtype):
    (tmp_path / "cpuinfo").write_text(f"flags : fpu {flags} sse\n")
    monkeypatch.setattr(hardware, "Path", lambda path: tmp_path / "cpuinfo")
    found = hardware.usable_dtype("cpu")
    assert found[0] == dtype


def test_a_cpu_that_lists_nothing_gets_float32(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "Path", lambda path: tmp_path / "missing")
    assert hardware.usable_dtype("cpu")[0] == "float32"


def test_ram_is_the_machines_without_a_limit(groups):
    groups(memory_max="max\n")
    total, free = hardware.ram_gb()
    assert total == pytest.approx(psutil.virtual_memory().total / GIB)
    assert 0 < free <= total


def test_ram_is_the_containers_with_a_limit(groups):
    limit, used, cache = GIB // 2, GIB // 4, GIB // 8
    groups(memory_max=f"{limit}\n", memory_current=f"{used}\n", memory_stat=f"anon 5\ninactive_file {cache}\n")
    total, free = hardware.ram_gb()
    assert total == 0.5
    assert free == pytest.approx(0.25 + 0.125)


def test_old_style_control_groups_count_too(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "CGROUP", tmp_path)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text(str(GIB // 2))
    (tmp_path / "memory/memory.usage_in_bytes").write_text(str(GIB // 8))
    assert hardware.ram_gb() == (0.5, 0.375)


def test_cores_respect_the_quota(groups):
    groups(cpu_max="100000 100000\n")
    assert hardware.usable_cores() == 1
    groups(cpu_max="max 100000\n")
    assert hardware.usable_cores() >= 1


@pytest.mark.parametrize("variable, host", [("COLAB_RELEASE_TAG", "colab"), ("KAGGLE_KERNEL_RUN_TYPE", "kaggle")])
def test_hosted_notebooks_are_recognised(monkeypatch, variable, host):
    monkeypatch.setenv(variable, "x")
    assert hardware.host_name() == host
    assert hardware.detect().describe().lower().startswith(f"{host}: ")


def test_colab_is_recognised_by_its_package(monkeypatch):
    module = types.ModuleType("google.colab")
    module.__spec__ = types.SimpleNamespace(name="google.colab")
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", module)
    assert hardware.host_name() == "colab"


def test_local_otherwise(monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    assert hardware.host_name() == "local"


def test_the_cache_folder_follows_the_hubs_own_rules(monkeypatch, tmp_path):
    for variable in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hardware.hub_cache() == tmp_path / ".cache/huggingface/hub"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert hardware.hub_cache() == tmp_path / "home/hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert hardware.hub_cache() == tmp_path / "cache"


def test_cached_models_are_listed_by_id(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert hardware.cached_models() == ()
    for folder in (
        "models--org--two-words/snapshots/abc",
        "models--org--empty",
        "datasets--a--b/snapshots/c",
    ):
        (tmp_path / folder).mkdir(parents=True)
    assert hardware.cached_models() == ("org/two-words",)


def test_detect_on_this_machine():
    found = hardware.detect()
    assert found.network is False  # the tests run offline
    assert found.cores >= 1 and 0 < found.ram_free_gb <= found.ram_total_gb
    assert found.dtype in {"float32", "float16", "bfloat16"} and found.dtype_reason


@pytest.mark.parametrize("units", [None, "amx_bf16"])
def test_products_are_in_bfloat16_only_where_there_are_units_for_it(monkeypatch, units):
    """Emulated, a product in bfloat16 took 70 times as long as in fp32."""
    monkeypatch.setattr(hardware, "cpu_bf16_units", lambda: units)
    hardware.multiplies_bfloat16.cache_clear()
    try:
        with hardware.autocast("cpu"):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
    finally:
        hardware.multiplies_bfloat16.cache_clear()
    assert product.dtype == (torch.bfloat16 if units else torch.float32)


def test_nobody_asks_for_bfloat16_but_through_autocast():
    files = [*(ROOT / "course_utils").rglob("*.py"), *TEXT.rglob("*.py")]
    asks = re.compile(r"torch\.autocast\([^)]*bfloat16")
    asking = {path.stem for path in files if asks.search(path.read_text("utf-8"))}
    assert asking == {"hardware"}
