"""From the gradients of embeddings to new weights: backward pass, sum over processes, clipping, AdamW.

Parameters are fp32 whatever the precision of the forward pass, and gradients are summed over the processes, never
averaged: the losses are of the whole batch already. Weights and moments are saved whole, by the parameters' names, so
that a run may go on in another number of processes, and with or without DeepSpeed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from components.core.errors import InputError, UsageError
from components.training.distributed import World
from components.training.trainee import ModuleTrainee, Trainee

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EXTRA_LR = 1e-3  # peak learning rate of numbers outside the model
_TINY = 1e-6  # keeps a gradient of zeros from dividing by zero, as in torch's own clipping


@dataclass(frozen=True)
class Optimiser:
    """AdamW with linear warm-up over the share ``warmup`` of the steps, then linear decay to zero.

    Vectors and numbers (biases, norms, a temperature) do not decay. ``clip`` bounds the norm of the model's gradient.
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
        """One update at this learning rate; the norm of the model's gradient where it was needed.

        It is not finite if fp16 could not hold the gradients: nothing is updated then, and the next step scaled less.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Weights and moments by name, as they are now (not copies); every process calls it at the same step."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from such a state, in every process."""
        ...

    def close(self) -> None:
        """Leave the whole weights in the model, and the model as it was found."""
        ...


def open_engine(
    trainee: Trainee,
    optimiser: Optimiser,
    world: World,
    extra: Mapping[str, Tensor] | None = None,
    zero: int | None = None,
    fp16: bool = False,
) -> Engine:
    """The engine for a stage of ZeRO; ``extra`` are parameters outside the model, such as a learned temperature.

    Stages 1 to 3 share out state over the processes, so neither stage 0 nor a process alone has a use for DeepSpeed.
    Raises UsageError for a static model with a stage.
    """
    check_zero(trainee, zero)
    if zero and world.size > 1:
        from components.training.zero import DeepSpeedEngine

        assert isinstance(trainee, ModuleTrainee)
        return DeepSpeedEngine(trainee, optimiser, world, zero, extra, fp16)
    return TorchEngine(trainee, optimiser, world, extra, fp16)


def check_zero(trainee: Trainee, zero: int | None, key: str = "zero") -> None:
    """Raise UsageError, naming ``key``, if ZeRO has nothing to share out of this model."""
    if zero is not None and not isinstance(trainee, ModuleTrainee):
        raise UsageError(f"{key}: {zero} for a static model, which is one table without parts; allowed: null")


class TorchEngine:
    """Plain PyTorch: every process holds all of the optimiser's state, and the same."""

    def __init__(
        self,
        trainee: Trainee,
        optimiser: Optimiser,
        world: World,
        extra: Mapping[str, Tensor] | None = None,
        fp16: bool = False,
    ) -> None:
        self._trainee, self._world, self._clip = trainee, world, optimiser.clip
        self._model, self._extra = dict(trainee.parameters), Extra(extra or {}, optimiser, world)
        self._adamw = adamw(list(self._model.values()), optimiser)
        self._scale = LossScale() if fp16 else None

    def backward(self, grad_TD: Tensor) -> None:
        """Backward pass, then the sum over the processes."""
        self._trainee.backward(grad_TD if self._scale is None else grad_TD * self._scale.value)
        self._world.sum_all_(self._gradients())
        self._extra.sum_()

    def step(self, lr: float) -> float | None:
        """Unscale and clip if asked to, then AdamW. Raises InputError for a gradient that is known to be no number."""
        norm = None
        if self._clip is not None or self._scale is not None:
            norm = self._unscale_and_clip()
        if norm is None or math.isfinite(norm):
            take_step(self._adamw, lr)
            self._extra.step(lr)
        self._extra.forget()
        return norm

    def state(self) -> dict[str, Tensor]:
        """``NAME`` for a weight, ``NAME:exp_avg`` and so on for what AdamW remembers of it."""
        scale = {} if self._scale is None else self._scale.state()
        return saved(self._model, self._adamw) | self._extra.state() | scale

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Weights in place; moments as they were."""
        restore(self._model, self._adamw, tensors)
        self._extra.load(tensors)
        if self._scale is not None:
            self._scale.load(tensors)

    def close(self) -> None:
        """Nothing to do: the weights are whole."""

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._model.values() if parameter.grad is not None]

    def _unscale_and_clip(self) -> float:
        from torch.nn.utils import get_total_norm

        scale = 1.0 if self._scale is None else self._scale.value
        norm = float(get_total_norm(self._gradients())) / scale
        if self._scale is not None:
            self._scale.update(math.isfinite(norm))
        elif not math.isfinite(norm):
            raise InputError("the gradient is not finite; lower the lr")
        factor = (1.0 if self._clip is None else min(1.0, self._clip / (norm + _TINY))) / scale
        if factor != 1.0:
            for gradient in self._gradients():
                gradient.mul_(factor)
        return norm


class Extra:
    """Parameters outside the model: a few numbers, whole in every process, neither scaled, clipped nor decayed.

    Their learning rate rises and falls as the model's, up to `EXTRA_LR`: how fast a temperature may move has nothing to
    do with what suits a table (0.1) or a transformer (1e-5).
    """

    def __init__(self, parameters: Mapping[str, Tensor], optimiser: Optimiser, world: World) -> None:
        self._parameters, self._world = dict(parameters), world
        self._adamw = adamw(list(parameters.values()), optimiser) if parameters else None
        self._pace = EXTRA_LR / optimiser.lr

    def sum_(self) -> None:
        """Sum their gradients over the processes, some of which may have none; what no process used, stays as it is."""
        import torch

        if not self._parameters:
            return
        used = torch.tensor([parameter.grad is not None for parameter in self._parameters.values()]).long()
        for parameter, anywhere in zip(self._parameters.values(), self._world.sum_(used).tolist(), strict=True):
            if anywhere:
                parameter.grad = self._world.sum_(
                    torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                )

    def step(self, lr: float) -> None:
        """One update, at the model's learning rate ``lr``."""
        if self._adamw is not None:
            take_step(self._adamw, lr * self._pace)

    def forget(self) -> None:
        """Forget the gradients: the losses of a step add to them."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Values and moments by name."""
        return {} if self._adamw is None else saved(self._parameters, self._adamw)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from such a state."""
        if self._adamw is not None:
            restore(self._parameters, self._adamw, tensors)


class LossScale:
    """What gradients are multiplied by so that fp16 does not lose the small ones (Micikevicius et al. 2018).

    It is halved when a gradient was not finite, and doubled after 2,000 steps without that.
    """

    _PATIENCE, _LOWEST, _NAME = 2000, 2.0**-10, "loss_scale"

    def __init__(self) -> None:
        self.value = 2.0**16
        self._good = 0

    def update(self, finite: bool) -> None:
        """Take note of a step. Raises InputError when no scale helps."""
        self._good = self._good + 1 if finite else 0
        if not finite:
            self.value /= 2
            if self.value < self._LOWEST:
                raise InputError(
                    "the gradient is not finite at any scale of the loss; use precision bf16, or lower the lr"
                )
        elif self._good % self._PATIENCE == 0:
            self.value *= 2

    def state(self) -> dict[str, Tensor]:
        """Scale, and good steps since it changed."""
        import torch

        return {self._NAME: torch.tensor([self.value, self._good], dtype=torch.float64)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from such a state; from one without it, begin."""
        if self._NAME in tensors:
            self.value, good = tensors[self._NAME].tolist()
            self._good = int(good)


def adamw(parameters: Sequence[Tensor], optimiser: Optimiser) -> torch.optim.AdamW:
    """AdamW in which matrices decay and the rest does not."""
    import torch

    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    rest = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [
        {"params": members, "weight_decay": decay}
        for members, decay in ((matrices, optimiser.weight_decay), (rest, 0.0))
        if members
    ]
    return torch.optim.AdamW(groups, lr=optimiser.lr, betas=optimiser.betas, fused=True)


def take_step(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """One step at this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()


def saved(parameters: Mapping[str, Tensor], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters by name, and by ``NAME:KEY`` what the optimiser remembers of them."""
    tensors = {name: parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        tensors |= {f"{name}:{key}": value for key, value in optimiser.state[parameter].items()}
    return tensors


def restore(parameters: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Make parameters and optimiser what they were when ``saved``."""
    put(parameters, tensors)
    for name, parameter in parameters.items():
        moments = {
            key.partition(":")[2]: value.to(parameter.device)
            for key, value in tensors.items()
            if key.startswith(f"{name}:")
        }
        if moments:
            optimiser.state[parameter] = moments


def put(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Give the parameters the values of their names."""
    import torch

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
