"""Data-parallel training: how processes split each batch, and what they communicate.

Every process holds the whole network and encodes its share of the batch. The codes of all are
then gathered, and everything that involves more than one molecule (contrastive loss, hypergraph,
memory) is computed identically by every process: the loss equals that of one process with the
whole batch, and the memory banks stay equal without being communicated.

Gradients are averaged over the processes. For parameters used after the gathering, each process
holds the full gradient, which averaging leaves unchanged; for those before it, each holds the part
of its own molecules, which :func:`gather` therefore multiplies by the number of processes.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

PATIENCE = timedelta(minutes=10)
"""Timeout of a process waiting for the others; one that has died is detected at once."""


if hasattr(os, "register_at_fork"):
    # A child inherits OpenMP's state without its threads, and would wait for them for ever. With
    # one thread, as in torch's own workers, it can predict: gunicorn --preload, multiprocessing.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


class ProcessLost(RuntimeError):
    """Another process of the run has died, or does not respond."""


# ---- the group ------------------------------------------------------------------------------


def start(device: torch.device) -> None:
    """Join the process group started by ``torchrun``, unless there is a group already.

    Parameters
    ----------
    device : torch.device
        Of the model: the backend is NCCL for CUDA, gloo otherwise.
    """
    if dist.is_available() and not dist.is_initialized() and is_launched():
        with _together():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        atexit.register(_leave)


def is_launched() -> bool:
    """Return whether ``torchrun``, or another launcher, started this process and others."""
    given = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return given and int(os.environ["WORLD_SIZE"]) > 1


def _leave() -> None:
    if dist.is_initialized():
        # Older torch (2.1, 2.6) joins a thread that may need the GIL to free its last tensor.
        time.sleep(0.1)
        dist.destroy_process_group()


def is_shared() -> bool:
    """Return whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return this process's number, 0 for the first or only one."""
    return dist.get_rank() if is_shared() else 0


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_shared() else 1


def chosen_device(device: torch.device | str | None = None) -> torch.device:
    """Resolve a device argument; a GPU is returned with its index.

    Parameters
    ----------
    device : torch.device, str or None
        None and ``"auto"`` mean the GPU if there is one (under ``torchrun`` that of this process,
        which becomes torch's current device), otherwise the CPU.

    Examples
    --------
    >>> chosen_device("cpu")
    device(type='cpu')
    """
    if device is None or device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = int(os.environ.get("LOCAL_RANK", -1))
        if 0 <= local < torch.cuda.device_count():  # some launchers expose one GPU per process
            torch.cuda.set_device(local)
        device = "cuda"
    found = torch.device(device)
    if found.type == "cuda" and found.index is None and torch.cuda.is_available():
        # "cuda" without an index may mean another device in a new thread.
        return torch.device("cuda", torch.cuda.current_device())
    return found


@contextmanager
def _together() -> Iterator[None]:
    """Raise the failure of a collective call as :class:`ProcessLost`."""
    try:
        yield
    except RuntimeError as error:
        told = str(error).strip().partition("\n")[0][:200]
        raise ProcessLost(
            f"another process of this run has died or does not answer ({told}); "
            "see its output for the reason. Start the run again with restore=True: it resumes "
            "from the newest checkpoint"
        ) from error


def _carrier() -> torch.device:
    """Return the device on which tensors must be to be communicated."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


# ---- shares ---------------------------------------------------------------------------------


def bounds(n: int, n_processes: int, process: int) -> tuple[int, int]:
    """Return (start, end) of a process's rows of a batch.

    No process gets a single molecule, which has no batch statistics; the last ones may get none.

    Examples
    --------
    >>> [bounds(7, 3, r) for r in range(3)]
    [(0, 3), (3, 5), (5, 7)]
    >>> [bounds(3, 2, r) for r in range(2)]
    [(0, 3), (3, 3)]
    """
    active = max(1, min(n_processes, n // 2))
    ends = [0, *np.cumsum([len(p) for p in np.array_split(np.arange(n), active)]).tolist()]
    if process >= active:
        return n, n
    return ends[process], ends[process + 1]


def share(
    batch: Sequence[Any], place: tuple[int, int] | None = None
) -> tuple[list | None, list | None, list | None]:
    """Return a process's part of DeepChem's ``([X], [y], [w])``.

    Parameters
    ----------
    batch : sequence
    place : (int, int), optional
        Rank, and the number of processes; of this process by default.
    """
    process, n_processes = (rank(), size()) if place is None else place
    n = len(batch[0][0])
    start, end = bounds(n, n_processes, process)

    def part(arrays: Any) -> Any:
        if arrays is None:
            return None
        # One row of weights is that of all molecules.
        return [a if a is None or len(a) < n else a[start:end] for a in arrays]

    inputs, labels, weights = batch
    return part(inputs), part(labels), part(weights)


# ---- gathering ------------------------------------------------------------------------------


def _all_gather(x: Tensor) -> list[Tensor]:
    """Return every process's rows; their numbers may differ."""
    home, carrier = x.device, _carrier()
    x = x.detach().to(carrier).contiguous()
    with _together():
        counts = [torch.zeros(1, dtype=torch.int64, device=carrier) for _ in range(size())]
        dist.all_gather(counts, torch.tensor([len(x)], device=carrier))
        lengths = [int(n) for n in counts]
        padded = x.new_zeros(max(lengths), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
    return [part[:n].to(home) for part, n in zip(parts, lengths)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = _all_gather(x)
        ctx.start = sum(len(p) for p in parts[: rank()])
        ctx.n = len(x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # All processes hold the same gradient of the same loss here: nothing has to be sent.
        return size() * gradient[ctx.start : ctx.start + ctx.n]


def gather(*tensors: Tensor) -> list[Tensor]:
    """Return the rows of all processes, in rank order; differentiable.

    All processes must compute the same from them, and the gradients of parameters must be averaged
    afterwards: see :func:`average_gradients`.

    Parameters
    ----------
    *tensors : torch.Tensor
        ``[B_r, ...]`` each, with the same number of rows B_r; float or bool.

    Returns
    -------
    list of torch.Tensor
        ``[Σ_r B_r, ...]`` each.
    """
    if not is_shared():
        return list(tensors)
    n = len(tensors[0])
    flat = torch.cat([t.reshape(n, _width(t)).float() for t in tensors], 1)
    pieces = _Gather.apply(flat).split([_width(t) for t in tensors], 1)
    return [p.reshape(len(p), *t.shape[1:]).to(t.dtype) for p, t in zip(pieces, tensors)]


def _width(x: Tensor) -> int:
    return int(np.prod(x.shape[1:], dtype=np.int64))


def gather_values(values: Any) -> list[Any]:
    """Return the JSON-serialisable values of all processes, as a list with one entry for each."""
    if not is_shared():
        return [values]
    data = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
    return [json.loads(bytes(part.tolist())) for part in _all_gather(data)]


def gather_lists(values: list[T]) -> list[T]:
    """Return one list of all processes' entries, in rank order."""
    return [value for part in gather_values(values) for value in part]


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: float) -> Tensor:
        own = float(value) * weight if weight else 0.0
        sums = torch.tensor([own, weight], dtype=torch.float64, device=_carrier())
        with _together():
            dist.all_reduce(sums)
        total, weights = sums.tolist()
        ctx.share = size() * weight / weights if weights else 0.0
        return value.new_tensor(total / weights if weights else 0.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.share, None


def mean(value: Tensor, weight: float) -> Tensor:
    """Return the weighted mean of the processes' means.

    Parameters
    ----------
    value : torch.Tensor
        This process's mean, a scalar; ignored where `weight` is 0.
    weight : float
        Number of items that it is the mean of.
    """
    return _Mean.apply(value, float(weight)) if is_shared() else value


# ---- agreement ------------------------------------------------------------------------------


def average_gradients(
    parameters: Iterable[nn.Parameter], others: Iterable[Tensor] = (), flag: bool = False
) -> bool:
    """Average gradients, and other tensors, over the processes, in one message.

    Parameters
    ----------
    parameters : iterable of torch.nn.Parameter
        A gradient that is None in this process counts as 0; one that is None in all processes
        stays None, so that the optimizer skips the parameter.
    others : iterable of torch.Tensor
        Averaged in place: running statistics.
    flag : bool

    Returns
    -------
    bool
        Whether any process raised the flag.
    """
    if not is_shared():
        return flag
    learning, others = [p for p in parameters if p.requires_grad], list(others)
    home = learning[0].device if learning else torch.device("cpu")
    has = torch.tensor([float(p.grad is not None) for p in learning] + [float(flag)], device=home)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
    parts = [*gradients, *others, has]
    flat = torch.cat([t.detach().reshape(-1).float() for t in parts]).to(_carrier())
    with _together():
        dist.all_reduce(flat)
    flat = flat.to(home)
    flat[: -len(has)] /= size()
    pieces = flat.split([t.numel() for t in parts])
    somewhere = pieces[-1].tolist()
    for parameter, piece, n in zip(learning, pieces, somewhere):
        # In the weight's memory layout, as autograd makes it and fused optimizers read it.
        averaged = torch.empty_like(parameter, requires_grad=False)
        parameter.grad = averaged.copy_(piece.view_as(parameter)) if n else None
    with torch.no_grad():
        for tensor, piece in zip(others, pieces[len(learning) :]):
            tensor.copy_(piece.view_as(tensor))
    return bool(somewhere[-1])


def running_buffers(network: nn.Module) -> list[Tensor]:
    """Return the running statistics of the batch-norm layers that are in training mode."""
    return [
        buffer
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]


def equalize(network: nn.Module) -> None:
    """Broadcast the first process's parameters and buffers to all processes."""
    if not is_shared():
        return
    tensors = [*network.parameters(), *network.buffers()]
    agree("the shapes of their parameters", [list(t.shape) for t in tensors])
    for tensor in tensors:
        message = tensor.detach().to(_carrier()).contiguous()
        with _together():
            dist.broadcast(message, 0)
        with torch.no_grad():
            tensor.copy_(message)


def on_first(action: Callable[[], Any]) -> None:
    """Run `action` in the first process while the others wait; its failure raises in all.

    Raises
    ------
    Exception
        In the first process what `action` raised, in the others a RuntimeError that quotes it.
    """
    failure: Exception | None = None
    if rank() == 0:
        try:
            action()
        except Exception as error:  # sent to the others, then raised
            failure = error
    told = gather_values(None if failure is None else f"{type(failure).__name__}: {failure}")[0]
    if failure is not None:
        raise failure
    if told is not None:
        raise RuntimeError(f"process 0 of the run failed: {told}")


def agree(what: str, value: Any) -> None:
    """Check that all processes hold the same value.

    Raises
    ------
    RuntimeError
        If not; all values are shown.
    """
    values = gather_values(value)
    if any(v != values[0] for v in values):
        raise RuntimeError(
            f"the processes differ in {what}: {values}; give all of them the same arguments and "
            "data, and a model_dir that all of them see"
        )
