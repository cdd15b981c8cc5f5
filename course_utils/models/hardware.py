"""What this machine has: device, memory, number format, cores, network, cached models."""

import functools
import importlib.util
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import settings
from course_utils.models import offline

if TYPE_CHECKING:
    import torch

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Hardware:
    """The machine as detected. Memory is in GiB."""

    device: str  # "cuda", "mps" or "cpu"
    dtype: str  # the half or single precision format to run models in, as torch names it
    dtype_reason: str
    ram_total_gb: float
    ram_free_gb: float
    cores: int
    gpu: str | None = None
    gpu_total_gb: float = 0.0
    gpu_free_gb: float = 0.0
    capability: tuple[int, int] | None = None  # NVIDIA compute capability
    host: str = "local"  # "colab", "kaggle" or "local"
    network: bool | None = False  # whether the hub answers; None if it was not asked
    cached: tuple[str, ...] = ()  # ids of the models in the hub cache, complete or not

    @property
    def torch_dtype(self) -> "torch.dtype":
        """`dtype` as torch's object."""
        import torch

        return getattr(torch, self.dtype)

    @property
    def free_gb(self) -> float:
        """GiB that a model may take: on the GPU if it has its own memory, else in RAM."""
        return self.gpu_free_gb if self.device == "cuda" else self.ram_free_gb

    def describe(self) -> str:
        """One line for people."""
        where = {"colab": "Colab: ", "kaggle": "Kaggle: "}.get(self.host, "")
        ram = f"{self.cores} cores, {self.ram_free_gb:.0f} of {self.ram_total_gb:.0f} GiB RAM free"
        if self.device == "cuda":
            return f"{where}{self.gpu}, {self.gpu_free_gb:.1f} of {self.gpu_total_gb:.1f} GiB free; {ram}"
        return f"{where}{self.gpu or 'no GPU'}; {ram}"


def detect(tier: str | None = None) -> Hardware:
    """Look at this machine. Imports torch (seconds); waits at most 1.5 s for the network.

    Where `tier` or COURSE_TIER asks for the bundled tier, nothing leaves this machine: the hub is not asked.
    """
    wanted = tier or os.environ.get("COURSE_TIER", "")
    asks = wanted.strip().lower() != "bundled"
    device, gpu = _device()
    dtype, reason = usable_dtype(device, gpu.get("capability"))
    total, free = ram_gb()
    return Hardware(
        device=device,
        dtype=dtype,
        dtype_reason=reason,
        ram_total_gb=total,
        ram_free_gb=free,
        cores=usable_cores(),
        host=host_name(),
        network=offline.network_reachable() if asks else None,
        cached=cached_models(),
        **gpu,
    )


def _device() -> tuple[str, dict]:
    import torch

    if torch.cuda.is_available():
        name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
        oldest = _oldest_capability()
        if capability < oldest:  # Kaggle's P100, say: seen by PyTorch, but every kernel fails
            needs = "this PyTorch needs compute capability {}.{}".format(*oldest)
            return "cpu", {"gpu": f"{name} is too old ({needs})"}
        free, total = torch.cuda.mem_get_info()
        return "cuda", {
            "gpu": name,
            "gpu_total_gb": total / GIB,
            "gpu_free_gb": free / GIB,
            "capability": capability,
        }
    if torch.backends.mps.is_available():
        return "mps", {"gpu": "Apple GPU"}
    return "cpu", {}


def _oldest_capability() -> tuple[int, int]:
    """The lowest compute capability that the installed PyTorch has compiled code for."""
    import torch

    built = [re.match(r"sm_(\d+)(\d)", arch) for arch in torch.cuda.get_arch_list()]
    return min((int(m[1]), int(m[2])) for m in built if m) if any(built) else (0, 0)


def usable_dtype(device: str, capability: tuple[int, int] | None = None) -> tuple[str, str]:
    """The number format to run models in, and why.

    `torch.cuda.is_bf16_supported()` is not asked: it says yes on a T4, which only emulates bfloat16.
    """
    if device == "cuda":
        name = "compute capability {}.{}".format(*capability)
        if capability >= (8, 0):
            return "bfloat16", f"{name} has bfloat16 units"
        return "float16", f"{name} is below 8.0, so bfloat16 would be emulated"
    if device == "mps":
        return "float16", "Apple GPUs run float16 at full speed"
    fast = cpu_bf16_units()
    if fast:
        return "bfloat16", f"this CPU multiplies bfloat16 in hardware ({fast})"
    return "float32", "this CPU has no fast 16-bit units"


@functools.cache
def multiplies_bfloat16(kind: str) -> bool:
    """Whether devices of this `kind` ("cpu", "cuda", "mps") have units for bfloat16 here."""
    import torch

    capability = torch.cuda.get_device_capability() if kind == "cuda" else None
    dtype, _reason = usable_dtype(kind, capability)
    return dtype == "bfloat16"


def autocast(device: "torch.device | str") -> "torch.autocast":
    """Inside, products are taken in bfloat16 where `device` has units for it; elsewhere nothing changes.

    Emulated, bfloat16 is no bargain: on an older CPU a product took 70 times as long as in fp32.
    """
    import torch

    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=multiplies_bfloat16(kind))


def cpu_bf16_units() -> str | None:
    """The name of the CPU's bfloat16 instructions, if Linux lists them."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return None
    return next((unit for unit in ("amx_bf16", "avx512_bf16") if unit in flags), None)


def _cgroup_number(*names: str) -> int | None:
    """The first number found in one of the control group's files; None means no limit."""
    for name in names:
        try:
            text = (CGROUP / name).read_text().split()[0]
        except (OSError, IndexError):
            continue
        return int(text) if text.isdigit() else None
    return None


def ram_gb() -> tuple[float, float]:
    """Total and free RAM in GiB, within the container's limit where there is one."""
    import psutil

    memory = psutil.virtual_memory()
    limit = _cgroup_number("memory.max", "memory/memory.limit_in_bytes")
    if limit is None or limit >= memory.total:
        return memory.total / GIB, memory.available / GIB
    used = _cgroup_number("memory.current", "memory/memory.usage_in_bytes") or 0
    return limit / GIB, max(0, min(memory.available, limit - used + _reclaimable())) / GIB


def _reclaimable() -> int:
    """Bytes of file cache that count as used in a control group, but are given up when needed."""
    for name in ("memory.stat", "memory/memory.stat"):
        try:
            lines = (CGROUP / name).read_text().splitlines()
        except OSError:
            continue
        return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return 0


def usable_cores() -> int:
    """Cores this process may use, by affinity and by the container's quota."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return min(mine, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return mine


def loopback() -> str:
    """The name of the network interface that reaches only this machine, such as "lo"."""
    import psutil

    for name, places in psutil.net_if_addrs().items():
        if any(place.address == "127.0.0.1" for place in places):
            return name
    return "lo"


def host_name() -> str:
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    try:
        colab = importlib.util.find_spec("google.colab")
    except (ImportError, ValueError):
        colab = None
    return "colab" if "COLAB_RELEASE_TAG" in os.environ or colab else "local"


def hub_cache() -> Path:
    """The folder of downloaded models, by the same rules as huggingface_hub (which stays unimported)."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return settings.user_path(chosen)
    return hub_home() / "hub"


def hub_home() -> Path:
    """The folder of everything that huggingface_hub keeps: HF_HOME, or below the user's cache."""
    if chosen := os.environ.get("HF_HOME"):
        return settings.user_path(chosen)
    return settings.user_cache() / "huggingface"


def cached_models() -> tuple[str, ...]:
    """Ids of the models that the hub cache holds a snapshot of, sorted; complete or not."""
    try:
        names = {snapshot.parent.parent.name for snapshot in hub_cache().glob("models--*/snapshots/*")}
    except OSError:
        return ()
    return tuple(sorted(name.removeprefix("models--").replace("--", "/", 1) for name in names))
