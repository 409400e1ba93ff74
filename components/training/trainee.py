"""A model under training as the loop sees it: tokens in, embeddings out, gradients back.

The losses give value and gradient on embeddings, so a model needs to know nothing of tasks, negatives or dimensions,
and the loop nothing of layers. Whatever a forward pass keeps for its backward pass stays inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from components.training.distributed import World
from components.training.static import bag_gradient, bag_mean
from components.training.tokens import Bags, SidedTokens, Texts

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Vectors = npt.NDArray[np.float32]
Backward = Callable[["Tensor", "Tensor", bool], None]
"""Runs one backward pass: outputs, their gradients, and whether it is the step's last one."""
Frozen = Callable[[Bags, int], Vectors]
"""A model that stays as it was: unit vectors [T, dims] of texts."""

_CHUNK = 8192  # texts whose vectors are made at once


def autograd(outputs: Tensor, gradients: Tensor, last: bool) -> None:
    """PyTorch's own backward pass."""
    import torch

    torch.autograd.backward([outputs], [gradients])


class Trainee(Protocol):
    """A model under training."""

    @property
    def dims(self) -> int:
        """Dimensions D of an embedding."""
        ...

    @property
    def device(self) -> torch.device:
        """Where embeddings and parameters are."""
        ...

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """What is trained, by name; `backward` leaves gradients in ``.grad``."""
        ...

    def embed(self, bags: Bags, seed: int) -> Tensor:
        """Embeddings fp32 [T, D] in training mode, without graph; dropout is a function of ``seed`` alone."""
        ...

    def backward(self, grad_TD: Tensor, run: Backward = autograd) -> None:
        """Gradients of the parameters, given those of the embeddings that `embed` returned last."""
        ...

    def vectors(self, bags: Bags, dims: int) -> Vectors:
        """Unit vectors float32 [T, dims] of the leading dimensions, in evaluation mode."""
        ...

    def frozen(self) -> Frozen:
        """`vectors` of a copy of the model as it is, for another thread; it gives the same bytes on one core."""
        ...


@runtime_checkable
class ModuleTrainee(Trainee, Protocol):
    """One whose parameters belong to a PyTorch module."""

    agree: Callable[[int], int]
    """How many passes through the module to make, for the number that this process needs: ``int`` leaves it at that."""

    @property
    def module(self) -> nn.Module:
        """The module that makes the embeddings."""
        ...


def placed(frozen: Frozen, tokens: SidedTokens, dims: int, world: World, texts: Texts) -> Vectors:
    """Unit vectors float32 [T, dims] of texts, each made by one of the processes, known to all; all must ask for it."""
    import torch

    if world.size == 1:
        return frozen(tokens.bags(texts), dims)
    rank_T = world.place(tokens.lengths(texts))
    own_TD = frozen(tokens.bags(texts[np.flatnonzero(rank_T == world.rank)]), dims)
    vectors_TD: Vectors = world.gather(torch.from_numpy(own_TD).to(world.device), rank_T).cpu().numpy()
    return vectors_TD


class StaticTrainee:
    """A table of token vectors [V, D]; an embedding is the mean of a text's rows, its gradient in closed form."""

    def __init__(self, weight_VD: Tensor) -> None:
        import torch

        self._weight_VD = weight_VD
        weight_VD.grad = torch.zeros_like(weight_VD)
        self._bags: Bags | None = None

    @property
    def dims(self) -> int:
        """Dimensions of the table's rows."""
        return int(self._weight_VD.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the table is."""
        return self._weight_VD.device

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """The table alone."""
        return {"weight": self._weight_VD}

    def embed(self, bags: Bags, seed: int) -> Tensor:
        """Means of the texts' rows [T, D]; there is no dropout."""
        self._bags = bags
        return bag_mean(self._weight_VD, bags)

    def backward(self, grad_TD: Tensor, run: Backward = autograd) -> None:
        """Writes the table's gradient, over whatever was there."""
        assert self._bags is not None and self._weight_VD.grad is not None
        bag_gradient(grad_TD, self._bags, self._weight_VD.grad)

    def vectors(self, bags: Bags, dims: int) -> Vectors:
        """Unit vectors; one of zeros for a text without tokens."""
        return _unit_means(self._weight_VD, bags, dims)

    def frozen(self) -> Frozen:
        """The same of a copy of the table."""
        return partial(_unit_means, self._weight_VD.detach().clone())


def _unit_means(weight_VD: Tensor, bags: Bags, dims: int) -> Vectors:
    from torch.nn.functional import normalize

    vectors_TD = np.empty((len(bags), dims), dtype=np.float32)
    head_VD = weight_VD[:, :dims].contiguous()
    for start in range(0, len(bags), _CHUNK):
        mean_BD = bag_mean(head_VD, bags[start : start + _CHUNK])
        vectors_TD[start : start + _CHUNK] = normalize(mean_BD, dim=1).cpu().numpy()
    return vectors_TD
