"""The processes of one training run, as torchrun starts them: who encodes which text, and how results meet again.

Every process knows all lengths of a step, so all of them work out the same placement without a word. Embeddings are
gathered without a graph: a loss gives its gradient on all embeddings, these are summed over the processes, and each
process carries the part of its own texts into its model. So a negative of another process gets its gradient, and the
parameters' gradients, summed, are those of one process with the whole batch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from components.core.errors import EmbedmillError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, device

Ranks = npt.NDArray[np.int64]

# One process tokenises or mines while the others wait. One that ends is noticed at once, so that this is for machines
# that vanish.
TIMEOUT = timedelta(hours=12)
_BUCKET = 1 << 23  # numbers in one all-reduce of small tensors: few calls, and a copy that stays small
# What torch says of a process that is gone: gloo, NCCL, and the store at which they meet.
_NETWORK = re.compile(
    r"Connection (closed|reset|refused|timed out)( by peer)?|Broken pipe|[Tt]imed out[^.,]*|NCCL[^.,\n]*"
)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ProcessLost(EmbedmillError):
    """Another process of the run ended, so that this one cannot go on. What went wrong is said over there."""


class World:
    """The processes that train together: this one's ``rank`` of ``size``, and the device that it computes on.

    ``local`` is its number on its machine.
    A world of one has no process group, and its operations cost nothing.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: device | None = None, local: int = 0) -> None:
        import torch

        self.rank = rank
        self.size = size
        self.local = local
        self.device = device or torch.device("cpu")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, timeout: timedelta = TIMEOUT) -> World:
        """The world that torchrun's variables describe, joined; alone without them.

        Each process takes the GPU of its number on the machine, or the processor where there is none: NCCL or gloo.
        Raises UsageError for variables that cannot be, and for more processes than GPUs on a machine.
        """
        import torch
        import torch.distributed as dist

        rank, size, local = (_number(environment, key) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        if rank >= max(1, size):
            raise UsageError(f"RANK={rank} does not fit WORLD_SIZE={size}; ranks count from 0")
        device = torch.device("cpu")
        if torch.cuda.is_available():
            if local >= torch.cuda.device_count():
                raise UsageError(
                    f"LOCAL_RANK={local}, but this machine has {torch.cuda.device_count()} GPUs; "
                    "start no more processes a machine than it has (torchrun --nproc-per-node)"
                )
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        if size <= 1:
            return cls(device=device)
        missing = [key for key in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(key)]
        if missing:
            raise UsageError(f"WORLD_SIZE={size} without {' and '.join(missing)}; start the processes by torchrun")
        if environment["MASTER_ADDR"] in _LOOPBACK:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # no address of this machine is looked up, none used
        if not dist.is_initialized():
            from torch.distributed.distributed_c10d import PrefixStore
            from torch.distributed.rendezvous import rendezvous

            with among_others(rank):
                store, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
                if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                    # torchrun keeps its store when it starts the processes again, and the addresses of the dead in it
                    store = PrefixStore(f"attempt-{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
                dist.init_process_group(
                    "nccl" if device.type == "cuda" else "gloo",
                    timeout=timeout,
                    store=store,
                    rank=rank,
                    world_size=size,
                    device_id=device if device.type == "cuda" else None,
                )
        return cls(rank, size, device, local)

    @property
    def main(self) -> bool:
        """Whether this process writes what the run leaves behind."""
        return self.rank == 0

    def place(self, lengths_T: npt.NDArray[np.int64]) -> Ranks:
        """The rank that encodes each text, int64 [T], given the texts' tokens: the longest first, to the least loaded.

        Ties go to the earlier text and the lower rank, so that every process finds the same.
        """
        return place(lengths_T, self.size)

    def gather(self, own_TD: Tensor, rank_T: Ranks) -> Tensor:
        """The embeddings of all texts [T, D] in their order, from those of each process's own; without a graph."""
        if self.size == 1:
            return own_TD
        import torch
        import torch.distributed as dist

        count_W = np.bincount(rank_T, minlength=self.size)
        rows = int(count_W.max())
        own_RD = own_TD.new_zeros(rows, own_TD.shape[1], device=self.device)  # a static table stays where it is
        own_RD[: len(own_TD)] = own_TD.detach()
        all_RD = own_RD.new_empty(self.size * rows, own_RD.shape[1])
        with among_others(self.rank):
            dist.all_gather_single(all_RD, own_RD)
        order_T = np.argsort(rank_T, kind="stable")
        row_T = np.empty(len(rank_T), np.int64)
        row_T[order_T] = np.arange(len(rank_T)) - np.repeat(np.cumsum(count_W) - count_W, count_W)
        return all_RD[torch.from_numpy(rank_T * rows + row_T).to(all_RD.device)].to(own_TD.device)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace the tensor by its sum over the processes, the same bits on each; returns it."""
        if self.size > 1:
            import torch.distributed as dist

            here = tensor.to(self.device)
            with among_others(self.rank):
                dist.all_reduce(here)
            if here is not tensor:
                tensor.copy_(here)
        return tensor

    def sum_all_(self, tensors: Sequence[Tensor]) -> None:
        """`sum_` of many tensors of one type in few calls: small ones travel together, in the order given."""
        if self.size == 1:
            return
        import torch

        for bucket in _buckets(tensors):
            if len(bucket) == 1:
                self.sum_(bucket[0])
                continue
            flat = self.sum_(torch.cat([tensor.reshape(-1) for tensor in bucket]))
            for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def most(self, count: int) -> int:
        """The largest count of all processes."""
        if self.size == 1:
            return count
        import torch
        import torch.distributed as dist

        largest = torch.tensor(count, device=self.device)
        with among_others(self.rank):
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def share(self, count: int) -> slice:
        """This process's contiguous part of ``count`` items; the parts cover all and differ by at most one in size."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            import torch.distributed as dist

            with among_others(self.rank):
                dist.barrier()

    def broadcast(self, value: Any) -> Any:
        """The main process's small value, for every process."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        with among_others(self.rank):
            dist.broadcast_object_list(values, device=self.device)
        return values[0]

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The main process's tensors, in this process's memory, for every process; bit for bit, of any type."""
        if self.size == 1:
            return tensors
        import torch
        import torch.distributed as dist

        found = {}
        for name, shape, dtype in self.broadcast([(name, one.shape, one.dtype) for name, one in tensors.items()]):
            tensor = tensors[name].detach().cpu().contiguous() if self.main else torch.empty(shape, dtype=dtype)
            found[name] = tensor
            if tensor.numel():
                bytes_N = tensor.reshape(-1).view(torch.uint8)
                here_N = bytes_N.to(self.device)
                with among_others(self.rank):
                    dist.broadcast(here_N, 0)
                bytes_N.copy_(here_N)
        return found

    def close(self) -> None:
        """Leave the group; the others need not be there."""
        import torch.distributed as dist

        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def place(lengths_T: npt.NDArray[np.int64], size: int) -> Ranks:
    """See `World.place`. Equal lengths are dealt in one go, so that 100,000 texts take milliseconds.

    Texts of length l, dealt one by one to the least loaded rank, fill the slots load_r, load_r + l, load_r + 2l, … in
    ascending order: the c lowest of them, ties by rank, are what c texts get. A text without tokens counts as one.
    """
    rank_T = np.zeros(len(lengths_T), np.int64)
    if size == 1 or not len(lengths_T):
        return rank_T
    cost_T = np.maximum(lengths_T, 1)
    order_T = np.argsort(-cost_T, kind="stable")
    costs, starts = np.unique(-cost_T[order_T], return_index=True)
    load_W = np.zeros(size, np.int64)
    for cost, texts in zip(-costs, np.split(order_T, starts[1:]), strict=True):
        mean = (load_W.sum() + cost * len(texts)) // size  # the least loaded rank is never above it
        most = int(min(len(texts), (mean - load_W.min()) // cost + 1))
        slots_WK = load_W[:, None] + cost * np.arange(most)
        chosen = np.argsort(slots_WK, axis=None, kind="stable")[: len(texts)] // most
        rank_T[texts] = chosen
        load_W += cost * np.bincount(chosen, minlength=size)
    return rank_T


def balance(lengths_T: npt.NDArray[np.int64], rank_T: Ranks, size: int) -> float:
    """Mean over largest number of tokens of a rank: the share of the time that no process waits for another."""
    load_W = np.bincount(rank_T, weights=np.maximum(lengths_T, 1), minlength=size)
    return float(load_W.mean() / load_W.max()) if load_W.any() else 1.0


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(each.numel() for each in bucket) + tensor.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextmanager
def among_others(rank: int) -> Iterator[None]:
    """Say in one line that another process is gone, which torch reports as an error of the network."""
    try:
        yield
    except RuntimeError as error:
        reason = _NETWORK.search(str(error))
        if reason is None:
            raise
        raise ProcessLost(
            f"process {rank} lost another one, which was killed or says why itself ({reason.group()}); "
            "the same command goes on from the last checkpoint"
        ) from error


def _number(environment: Mapping[str, str], key: str) -> int:
    value = environment.get(key) or "0"
    if not value.isdecimal():
        raise UsageError(f"{key}={value}: expected a whole number, as torchrun sets it")
    return int(value)
