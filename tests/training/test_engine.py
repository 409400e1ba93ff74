"""From gradients to weights: what decays, what is clipped, what fp16 skips, and that a state goes on bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from components.core.errors import InputError, UsageError
from components.training.distributed import World
from components.training.engine import LossScale, Optimiser, TorchEngine, open_engine
from components.training.trainee import Backward, StaticTrainee, autograd

ALONE = World()


class Line:
    """A module as a trainee: its batch is a tensor of inputs."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
        self.agree = int
        self.dims, self.device = 3, torch.device("cpu")
        self.inputs = torch.zeros(0, 4)

    @property
    def parameters(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters())

    def embed(self, bags: Tensor, seed: int) -> Tensor:
        self.inputs = bags
        with torch.no_grad():
            return self.module(bags)

    def backward(self, grad_TD: Tensor, run: Backward = autograd) -> None:
        for parameter in self.module.parameters():
            parameter.grad = None
        run(self.module(self.inputs), grad_TD, True)

    def vectors(self, bags: object, dims: int) -> None:
        raise AssertionError("an engine makes no vectors")

    def frozen(self) -> None:
        raise AssertionError("an engine copies no model")


def learn(engine: object, line: Line, steps: range, factor: float = 1.0) -> list[float | None]:
    norms = []
    for step in steps:
        random = torch.Generator().manual_seed(step)
        line.embed(torch.randn(5, 4, generator=random), step)
        engine.backward(factor * torch.randn(5, 3, generator=random))
        norms.append(engine.step(0.01 * (step + 1)))
    return norms


def test_matrices_decay_and_vectors_do_not() -> None:
    line = Line()
    before = {name: value.detach().clone() for name, value in line.parameters.items()}
    temperature = torch.tensor(2.0, requires_grad=True)
    engine = TorchEngine(line, Optimiser(0.1, 0.0, weight_decay=0.5), ALONE, {"temperature": temperature})
    temperature.grad = torch.tensor(0.0)
    line.embed(torch.zeros(2, 4), 0)
    engine.backward(torch.zeros(2, 3))
    assert engine.step(0.1) is None
    for name, value in line.parameters.items():
        torch.testing.assert_close(value.detach(), before[name] * (0.95 if value.ndim > 1 else 1.0))
    assert float(temperature.detach()) == 2.0


@pytest.mark.parametrize("fp16", [False, True])
def test_clipping_is_that_of_torch_and_scaling_changes_nothing(fp16: bool) -> None:
    ours, theirs = Line(), Line()
    norms = learn(TorchEngine(ours, Optimiser(0.01, 0.0, clip=0.3), ALONE, fp16=fp16), ours, range(5))
    adamw = torch.optim.AdamW(theirs.module.parameters(), weight_decay=0.0)
    for step in range(5):
        random = torch.Generator().manual_seed(step)
        inputs, grad_TD = torch.randn(5, 4, generator=random), torch.randn(5, 3, generator=random)
        theirs.module.zero_grad()
        theirs.module(inputs).backward(grad_TD)
        norm = nn.utils.clip_grad_norm_(theirs.module.parameters(), 0.3)
        assert norms[step] == pytest.approx(float(norm), rel=1e-5)
        adamw.param_groups[0]["lr"] = 0.01 * (step + 1)
        adamw.step()
    for name, value in ours.parameters.items():
        torch.testing.assert_close(value, theirs.parameters[name], rtol=1e-5, atol=1e-6)


def test_a_gradient_that_fp16_cannot_hold_is_skipped_and_scaled_less() -> None:
    line = Line()
    engine = TorchEngine(line, Optimiser(0.01, 0.0), ALONE, fp16=True)
    before = [value.detach().clone() for value in line.parameters.values()]
    assert not math.isfinite(learn(engine, line, range(1), 1e36)[0] or 0.0)
    assert engine.state()["loss_scale"].tolist() == [2.0**15, 0]
    assert all(torch.equal(value, old) for value, old in zip(line.parameters.values(), before, strict=True))
    assert math.isfinite(learn(engine, line, range(1))[0] or math.inf)
    assert not any(torch.equal(value, old) for value, old in zip(line.parameters.values(), before, strict=True))


def test_a_gradient_that_is_no_number_stops_the_training_before_the_weights_are_lost() -> None:
    line = Line()
    engine = TorchEngine(line, Optimiser(0.01, 0.0, clip=1.0), ALONE)
    with pytest.raises(InputError, match="the gradient is not finite; lower the lr"):
        learn(engine, line, range(1), math.inf)
    assert all(torch.isfinite(value).all() for value in line.parameters.values())


def test_the_scale_grows_after_2000_good_steps_and_gives_up_where_none_helps() -> None:
    scale = LossScale()
    for _ in range(2000):
        scale.update(True)
    assert scale.value == 2.0**17
    other = LossScale()
    other.load(scale.state())
    assert other.state()["loss_scale"].tolist() == [2.0**17, 2000]
    with pytest.raises(InputError, match="not finite at any scale of the loss; use precision bf16"):
        for _ in range(60):
            scale.update(False)


@pytest.mark.parametrize("fp16", [False, True])
def test_a_state_goes_on_bit_for_bit(fp16: bool) -> None:
    def start() -> tuple[TorchEngine, Line, Tensor]:
        line, temperature = Line(), torch.tensor(1.0, requires_grad=True)
        optimiser = Optimiser(0.01, 0.0, weight_decay=0.1, clip=1.0)
        return TorchEngine(line, optimiser, ALONE, {"temperature": temperature}, fp16), line, temperature

    def steps(engine: TorchEngine, line: Line, temperature: Tensor, numbers: range) -> None:
        for number in numbers:
            temperature.grad = torch.tensor(number - 1.5) if number % 2 else None
            learn(engine, line, range(number, number + 1))

    whole, broken, resumed = start(), start(), start()
    steps(*whole, range(6))
    steps(*broken, range(3))
    resumed[0].load({name: value.clone() for name, value in broken[0].state().items()})
    steps(*resumed, range(3, 6))
    expected, found = whole[0].state(), resumed[0].state()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert float(found["temperature:step"]) == 3.0, "a step in which no loss used it is none of its"


def test_zero_is_not_for_static_models_and_not_needed_by_a_process_alone() -> None:
    optimiser = Optimiser(0.01, 0.0)
    with pytest.raises(UsageError, match="zero: 1 for a static model, which is one table"):
        open_engine(StaticTrainee(torch.zeros(3, 2)), optimiser, ALONE, zero=1)
    for stage in (None, 0, 1, 2, 3):
        assert isinstance(open_engine(Line(), optimiser, ALONE, zero=stage), TorchEngine)
