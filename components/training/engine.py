"""From the gradients of embeddings to new weights: backward pass, sum over processes, clipping, AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from components.training.distributed import World
from components.training.trainee import Trainee

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Optimiser:
    """AdamW with linear warm-up over the share ``warmup`` of the steps, then linear decay to zero.

    ``clip`` bounds the norm of the whole gradient.
    """

    lr: float
    warmup: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of ``step`` (from 0) of ``steps``."""
        rising = max(1, math.ceil(self.warmup * steps))
        return self.lr * min((step + 1) / rising, (steps - step) / max(1, steps - rising + 1))


class Engine(Protocol):
    """What turns gradients into a step."""

    def backward(self, grad_TD: Tensor) -> None:
        """Gradients of all parameters, summed over the processes, from those of this process's embeddings."""
        ...

    def step(self, lr: float) -> float | None:
        """One update at this learning rate; the norm of the whole gradient where it was needed."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Weights and moments by name, as they are now (not copies)."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from such a state."""
        ...


class TorchEngine:
    """Plain PyTorch: the optimiser's state is the same in every process."""

    def __init__(
        self, trainee: Trainee, optimiser: Optimiser, world: World, extra: Mapping[str, Tensor] | None = None
    ) -> None:
        """``extra`` are parameters outside the model, such as a learned temperature."""
        import torch

        self._trainee, self._world, self._clip = trainee, world, optimiser.clip
        self._parameters = {**trainee.parameters, **(extra or {})}
        self._adamw = torch.optim.AdamW(
            list(self._parameters.values()),
            lr=optimiser.lr,
            betas=optimiser.betas,
            weight_decay=optimiser.weight_decay,
            fused=True,
        )

    def backward(self, grad_TD: Tensor) -> None:
        """Backward pass, then the sum over the processes."""
        self._trainee.backward(grad_TD)
        for parameter in self._parameters.values():
            if parameter.grad is not None:
                self._world.sum_(parameter.grad)

    def step(self, lr: float) -> float | None:
        """Clip if asked to, then AdamW."""
        from torch.nn.utils import clip_grad_norm_

        norm = None
        if self._clip is not None:
            norm = float(clip_grad_norm_(list(self._parameters.values()), self._clip))
        for group in self._adamw.param_groups:
            group["lr"] = lr
        self._adamw.step()
        return norm

    def state(self) -> dict[str, Tensor]:
        """``NAME`` for a weight, ``NAME:exp_avg`` and so on for what AdamW remembers of it."""
        tensors = {name: parameter.detach() for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            tensors |= {f"{name}:{key}": value for key, value in self._adamw.state[parameter].items()}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Weights in place; moments as they were."""
        import torch

        for name, parameter in self._parameters.items():
            with torch.no_grad():
                parameter.copy_(tensors[name])
            moments = {key.partition(":")[2]: value for key, value in tensors.items() if key.startswith(f"{name}:")}
            if moments:
                self._adamw.state[parameter] = moments
