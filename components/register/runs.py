"""The run of a pipeline in MLflow: a parent with what was measured, and a child for each step of the chain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.core import storage, tracking
from components.core.fingerprint import canonical_json, digest_bytes
from components.core.ledger import Ledger
from components.core.manifest import Dataset
from components.core.tracking import FINISHED, LOSSES, PARENT, STEP, find_runs, flatten, key_name
from components.register.candidate import MODEL, Candidate, read_object, read_table
from components.register.gate import metric_key

IDENTITY, PIPELINE = "identity", "pipeline"
METRICS_A_BATCH, PARAMS_A_BATCH = 1000, 100
DATASET_DIGEST_CHARACTERS = 36
# Data steps by the dataset whose manifest holds their ledger, then the steps with files of metrics.
DATA_STEPS = ("ingest", "filter", "score")
MODEL_STEPS = ("pretrain", "finetune", "export", "evaluate")

# A metric: key, value, step.
Point = tuple[str, float, int]


def open_run(client: Any, experiment: str, candidate: Candidate, git: tracking.GitState) -> Any:
    """The parent run of this candidate: the one that an earlier, perhaps killed, attempt made, or a new one."""
    found = find_runs(client, experiment, {IDENTITY: candidate.identity, STEP: PIPELINE})
    if found:
        return found[0]
    tags = {
        IDENTITY: candidate.identity,
        STEP: PIPELINE,
        "data.version": candidate.data_version,
        "suite": candidate.suite,
        **{f"data.{name}": dataset.digest for name, dataset in sorted(candidate.datasets.items())},
        **git.tags(),
    }
    return client.create_run(experiment, run_name=f"run-{candidate.identity[:8]}", tags=tags)


def log_steps(
    client: Any, parent: Any, candidate: Candidate, inputs: Mapping[str, str], params: Mapping[str, Any]
) -> None:
    """Make the child runs with each step's parameters and metrics. One that was left unfinished is made anew.

    A training that was logged while it ran has a run already, which becomes the child once it has the rest.
    """
    for step in (*DATA_STEPS, *MODEL_STEPS):
        tags = {PARENT: parent.info.run_id, STEP: step}
        earlier = find_runs(client, parent.info.experiment_id, tags)
        if any(run.info.status == FINISHED for run in earlier):
            continue
        for run in earlier:
            client.delete_run(run.info.run_id)
        points, entries = list(_points(step, candidate, inputs)), dict(flatten(params.get(step, {})))
        live = _live_run(client, parent, step, inputs)
        if live is not None:
            log_values(client, live, points, entries)
            client.set_tag(live.info.run_id, PARENT, parent.info.run_id)
            continue
        run = client.create_run(parent.info.experiment_id, run_name=step, tags=tags)
        log_values(client, run, [*points, *_losses(step, inputs)], entries)
        client.set_terminated(run.info.run_id)


def _live_run(client: Any, parent: Any, step: str, inputs: Mapping[str, str]) -> Any | None:
    """The finished run that this very training left, if no pipeline's run has it as a child."""
    if f"{step}_loss" not in inputs:
        return None
    digest = digest_bytes(storage.read_bytes(inputs[f"{step}_loss"]))
    found = find_runs(client, parent.info.experiment_id, {STEP: step, LOSSES: digest})
    return next((run for run in found if run.info.status == FINISHED and PARENT not in run.data.tags), None)


def _points(step: str, candidate: Candidate, inputs: Mapping[str, str]) -> Iterator[Point]:
    if step in DATA_STEPS:
        yield from _ledger_points(candidate.datasets[step].ledger)
    if step == "evaluate":
        for one in candidate.measured:
            yield f"{one.system}/{metric_key(one.task, one.dim, one.metric)}", one.value, 0
    if f"{step}_metrics" in inputs:
        yield from ((key, value, 0) for key, value in _numbers(read_object(inputs[f"{step}_metrics"])))


def _losses(step: str, inputs: Mapping[str, str]) -> Iterator[Point]:
    if f"{step}_loss" in inputs:
        for row in read_table(inputs[f"{step}_loss"], ("step", "task", "loss", "lr")):
            yield f"loss/{row['task']}", float(row["loss"]), int(row["step"])
            yield "lr", float(row["lr"]), int(row["step"])


def _ledger_points(ledger: Ledger) -> Iterator[Point]:
    counts = ledger.as_dict()
    for key in ("rows_in", "rows_out"):
        yield key, sum(counts[key].values()), 0
    for kind in ("dropped", "quarantined"):
        by_reason: dict[str, int] = {}
        for reasons in counts[kind].values():
            for reason, rows in reasons.items():
                by_reason[reason] = by_reason.get(reason, 0) + rows
        for reason in sorted(by_reason):
            yield f"{kind}/{reason}", by_reason[reason], 0


def log_measured(client: Any, parent: Any, candidate: Candidate, model_id: str, params: Mapping[str, Any]) -> None:
    """Log what was measured at each dimension, linked to the logged model and to the held-out data."""
    from mlflow.entities import DatasetInput, InputTag, LoggedModelOutput

    heldout = candidate.datasets["heldout"]
    data = [
        DatasetInput(_dataset_entity(name, candidate.datasets[name]), [InputTag("mlflow.data.context", context)])
        for name, context in (("score", "training"), ("heldout", "evaluation"))
    ]
    run = client.get_run(parent.info.run_id)
    client.log_inputs(parent.info.run_id, datasets=data)
    if model_id not in [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]:
        client.log_outputs(parent.info.run_id, [LoggedModelOutput(model_id, 0)])
    points: list[Point] = [("score", candidate.score, 0)]
    for one in candidate.measured:
        if one.system == MODEL:
            points.append((metric_key(one.task, one.dim, one.metric), one.value, 0))
    link = {
        "model_id": model_id,
        "dataset_name": "heldout",
        "dataset_digest": heldout.digest[:DATASET_DIGEST_CHARACTERS],
    }
    log_values(client, parent, points, dict(flatten(params.get("run", {}))), link)


def _dataset_entity(name: str, dataset: Dataset) -> Any:
    from mlflow.entities import Dataset as Entity

    source = canonical_json({"uri": dataset.uri})
    profile = canonical_json({"num_rows": dataset.rows})
    kind = "s3" if storage.is_s3(dataset.uri) else "local"
    return Entity(name, dataset.digest[:DATASET_DIGEST_CHARACTERS], kind, source, profile=profile)


def log_values(
    client: Any, run: Any, points: Sequence[Point], params: Mapping[str, str], link: Mapping[str, str] | None = None
) -> None:
    """Log metrics and parameters in as few calls as MLflow takes. The run's own start is the time of each value, so
    that logging the same again adds nothing."""
    from mlflow.entities import Metric, Param

    time = run.info.start_time
    metrics = [
        Metric(key_name(key), value, time, step, **(link or {})) for key, value, step in points if math.isfinite(value)
    ]
    entries = [Param(key_name(key), value) for key, value in params.items()]
    while metrics or entries:
        room = METRICS_A_BATCH - len(entries[:PARAMS_A_BATCH])
        client.log_batch(run.info.run_id, metrics=metrics[:room], params=entries[:PARAMS_A_BATCH])
        metrics, entries = metrics[room:], entries[PARAMS_A_BATCH:]


def _numbers(value: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key in value:
            yield from _numbers(value[key], f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool) and prefix:
        yield prefix, float(value)
