"""DeepSpeed's ZeRO: an optimiser whose state is shared out over the processes.

DeepSpeed is asked for that alone. Precision, scaling of the loss and learning rates are ours, so that a run means the
same with it and without; its config says fp32, its optimiser is PyTorch's. Nothing is compiled: the one op it would
build for processors serves inference.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from components.core.errors import InputError
from components.training.distributed import World, among_others
from components.training.engine import Extra, LossScale, Optimiser, adamw, put
from components.training.trainee import ModuleTrainee

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_MOMENTS = ("exp_avg", "exp_avg_sq")
_WEIGHTS_SHARED_OUT = 3  # the stage from which on no process has the whole model


class DeepSpeedEngine:
    """Each process keeps its part of the moments (stage 1), of the gradients too (2), of the weights too (3).

    The backward pass is DeepSpeed's own, because it sums in there. It takes the mean over the processes, so the losses
    are multiplied by their number beforehand: exact where that is a power of two.
    """

    def __init__(
        self,
        trainee: ModuleTrainee,
        optimiser: Optimiser,
        world: World,
        stage: int,
        extra: Mapping[str, Tensor] | None = None,
        fp16: bool = False,
    ) -> None:
        self._trainee, self._world = trainee, world
        self._weights_shared_out = stage >= _WEIGHTS_SHARED_OUT
        self._model, self._extra = dict(trainee.parameters), Extra(extra or {}, optimiser, world)
        self._scale = LossScale() if fp16 else None
        # from stage 2 on every backward pass sums, from 3 on every forward pass gathers: as many everywhere; in stage 1
        # the last one does, so a process without texts makes one too
        trainee.agree = world.most if stage > 1 else partial(max, 1)
        self._engine = _initialise(trainee, optimiser, world, stage)
        self._partitions = _partitions(self._engine.optimizer, stage)

    def backward(self, grad_TD: Tensor) -> None:
        """DeepSpeed's backward pass, part by part."""
        if self._scale is not None:  # with the factor of `_run`, what fp16 has to hold is as large as without DeepSpeed
            self._engine.optimizer.override_loss_scale(self._scale.value / self._world.size)
        with among_others(self._world.rank):
            self._trainee.backward(grad_TD, self._run)
        self._extra.sum_()

    def step(self, lr: float) -> float | None:
        """Unscale and clip if asked to, then AdamW on this process's part, then everyone's weights."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        with among_others(self._world.rank):
            self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if self._scale is not None:
            self._scale.update(math.isfinite(norm))
        elif not math.isfinite(norm):
            raise InputError("the gradient is not finite; lower the lr")
        if math.isfinite(norm):
            self._extra.step(lr)
        self._extra.forget()
        return norm

    def state(self) -> dict[str, Tensor]:
        """The names and tensors of `TorchEngine`, in the main process; nothing elsewhere."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        tensors: dict[str, Tensor] = {}
        steps = self._partitions[0]["step"].cpu()
        for name, parameter in self._model.items():
            whole = {name: safe_get_full_fp32_param(parameter)}
            if steps:
                whole |= {f"{name}:{key}": safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS}
            if self._world.main:  # at once, so that no other tensor of the model is whole at the same time
                tensors |= {key: value.detach().cpu() for key, value in whole.items()}
                tensors |= {f"{name}:step": steps} if steps else {}
        if not self._world.main:
            return {}
        return tensors | self._extra.state() | ({} if self._scale is None else self._scale.state())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Each process takes its part."""
        from deepspeed.utils import safe_set_full_optimizer_state

        with self._whole():
            put(self._model, tensors)
        self._engine.optimizer.refresh_fp32_params()
        for name, parameter in self._model.items():
            for key in _MOMENTS:
                if f"{name}:{key}" in tensors:
                    safe_set_full_optimizer_state(parameter, tensors[f"{name}:{key}"].to(self._world.device), key)
        for state in self._partitions:
            state["step"].fill_(
                max((float(value) for key, value in tensors.items() if key.endswith(":step")), default=0)
            )
        self._extra.load(tensors)
        if self._scale is not None:
            self._scale.load(tensors)

    def close(self) -> None:
        """Take DeepSpeed's hooks off the model, with the whole weights in it."""
        parameters = list(self._trainee.module.parameters())
        with self._whole():
            whole = [parameter.detach().clone() for parameter in parameters] if self._weights_shared_out else []
        self._trainee.agree = int
        self._engine.destroy()
        for parameter, value in zip(parameters, whole, strict=False):
            parameter.data = value

    def _run(self, outputs: Tensor, gradients: Tensor, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        seen = self._engine(outputs)
        self._engine.backward((seen * gradients).sum() * self._world.size)

    def _whole(self) -> AbstractContextManager[Any]:
        """In its body the model's parameters are whole; what the main process writes into them is everyone's."""
        if not self._weights_shared_out:
            return nullcontext()
        from deepspeed.runtime.zero import GatheredParameters

        context: AbstractContextManager[Any] = GatheredParameters(
            list(self._trainee.module.parameters()), modifier_rank=0
        )
        return context


def _initialise(trainee: ModuleTrainee, optimiser: Optimiser, world: World, stage: int) -> Any:
    """DeepSpeed's engine around the model. It is called with embeddings, since the trainee makes those by itself."""
    # a processor where there are GPUs too, if that is what the run computes on; and no warning for it
    os.environ["DS_ACCELERATOR"] = world.device.type
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*is deprecated.*", category=FutureWarning, module=r"torch\.distributed")
    import deepspeed
    from torch import nn

    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__ = {}  # known beforehand, none is looked for by running compilers, and none built

    class Passage(nn.Module):
        def __init__(self, encoder: nn.Module) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, embedding_TD: Tensor) -> Tensor:
            return embedding_TD.view_as(embedding_TD)

    parameters = list(trainee.parameters.values())
    engine, *_ = deepspeed.initialize(
        model=Passage(trainee.module),
        optimizer=adamw(parameters, optimiser),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": optimiser.clip or 0.0,
            "zero_optimization": {"stage": stage},
        },
    )
    return engine


def _partitions(optimizer: Any, stage: int) -> list[dict[str, Tensor]]:
    """What AdamW remembers of this process's parts: moments of zeros and no steps, until it is told otherwise.

    DeepSpeed ties the moments of the parameters to those of the parts when the first group has taken its first step.
    By then AdamW has none for the groups after it, and before it there are none to load into.
    """
    import torch
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    late = stage >= _WEIGHTS_SHARED_OUT
    parts: list[torch.Tensor] = (
        optimizer.fp32_partitioned_groups_flat if late else optimizer.single_partition_of_fp32_groups
    )
    states = optimizer.optimizer.state
    for part in parts:
        states[part] = {"step": torch.zeros((), device=part.device)}
        states[part] |= {key: torch.zeros_like(part, requires_grad=False) for key in _MOMENTS}
    if not late:
        for group, part in zip(optimizer.bit16_groups, parts, strict=True):
            lazy_init_hp_params_optimizer_state(group, part, states)
    return [states[part] for part in parts]
