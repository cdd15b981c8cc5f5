"""Time and memory of one function."""

import time
import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Tracer(TorchDispatchMode):
    """Adds up the storages that operators make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.live:
                storage = tensor.untyped_storage()
                self.live[storage._cdata] = storage.nbytes()
                self.peak = max(self.peak, sum(self.live.values()))
                weakref.finalize(storage, self.live.pop, storage._cdata, None)
        return result


def peak_mib(function: Callable, *inputs: Tensor) -> float:
    """MiB that `function` holds at most beyond its inputs, its result included.

    On CUDA the allocator counts. Elsewhere every tensor that an operator makes is counted; scratch space
    inside an operator is not seen.
    """
    with torch.no_grad():
        if inputs[0].is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            function(*inputs)
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        known = {tensor.untyped_storage()._cdata: 0 for tensor in inputs}
        with _Tracer() as tracer:
            tracer.live.update(known)
            function(*inputs)
    return tracer.peak / 2**20


def milliseconds(function: Callable, *inputs: Tensor, rounds: int = 3) -> float:
    """The fastest of `rounds` runs after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with torch.inference_mode():
            function(*inputs)
        if inputs[0].is_cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return min(times[1:])
