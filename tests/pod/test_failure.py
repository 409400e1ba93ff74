"""What a tolerant pod takes for a failure, and when it tries again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.core.errors import InputError, Interrupted
from components.pod.failure import Failure, attempt, find_failure
from components.pod.places import Place

DIVERGED = InputError("the loss is nan;\nlower the lr")


class Step:
    """Raises one error after another, and then ends well."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    def __call__(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "finetune"), {})


def test_a_failure_is_written_where_the_outputs_would_be(place: Place) -> None:
    uri = attempt("finetune", place, "run-1", Step(DIVERGED))
    assert uri is not None
    assert Failure.read(uri) == Failure("finetune", 3, "the loss is nan; lower the lr", "run-1")
    assert find_failure([f"{place.uri}/finetune", uri]) == uri
    assert find_failure([f"{place.uri}/finetune", f"{place.uri}/metrics.json"]) is None


def test_an_error_that_nobody_foresaw_is_a_failure_with_its_traceback(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = attempt("finetune", place, "run-1", Step(MemoryError()))
    assert uri is not None
    assert Failure.read(uri) == Failure("finetune", 1, "MemoryError", "run-1")
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [Interrupted("stopped"), KeyboardInterrupt()])
def test_being_stopped_is_no_failure(place: Place, stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        attempt("finetune", place, "run-1", Step(stop))
    assert not Path(place.uri).exists()


def test_only_a_later_run_tries_again(place: Place) -> None:
    step = Step(DIVERGED, DIVERGED)
    assert attempt("finetune", place, "run-1", step) == attempt("finetune", place, "run-1", step)
    assert len(step.errors) == 1
    assert attempt("finetune", place, "run-2", step) is not None
    assert attempt("finetune", place, "run-3", step) is None


def test_a_file_that_says_something_else_is_refused(place: Place) -> None:
    Path(place.uri).mkdir()
    path = Path(place.uri) / "failure.json"
    path.write_text(json.dumps({"failed": True}))
    with pytest.raises(InputError, match=r"failure\.json: does not say what failed"):
        Failure.read(str(path))
