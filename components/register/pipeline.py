"""The order of work of `register`; each part finds what an earlier, perhaps killed, attempt has done already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from components.core import storage, tracking
from components.core.errors import GateRefused
from components.core.fingerprint import json_document
from components.core.step import Context
from components.core.tracking import FINISHED, MODEL, PARENT, find_runs
from components.register.candidate import Candidate, read_candidate
from components.register.gate import Verdict
from components.register.package import ensure_logged_model
from components.register.params import RegisterParams
from components.register.promotion import GATE, PASSED, REVOKED, declare_suite, reconcile
from components.register.runs import log_measured, log_steps, open_run
from components.register.version import RULES, find_version, gate_tags, register_version, rules_digest, verdicts_on


def run(ctx: Context) -> None:
    """Register the model. Raises GateRefused if the gate refuses it and `register.strict` is set."""
    with storage.local_folder(ctx.inputs["model"]) as folder:
        _run(ctx, ctx.section(RegisterParams), read_candidate(folder, ctx.inputs))


def _run(ctx: Context, gate: RegisterParams, candidate: Candidate) -> None:
    client = tracking.connect()
    with tracking.tracking_errors():
        version = find_version(client, candidate)
        verdicts = verdicts_on(client, candidate, gate.rules, version)
        if version is None:
            version = _register(ctx, client, candidate, gate, verdicts)
        elif version.tags.get(RULES) != rules_digest(gate.rules) and version.tags.get(GATE) != REVOKED:
            for key, value in sorted(gate_tags(gate.rules, verdicts).items()):
                client.set_model_version_tag(MODEL, version.version, key, value)
            version = client.get_model_version(MODEL, version.version)
        for key, value in tracking.orchestrated().items():
            client.set_tag(version.run_id, key, value)
        _finish_run(client, version.run_id)
        outcome = version.tags[GATE]
        if outcome == PASSED:
            declare_suite(client, candidate.suite)
        champion = reconcile(client)
    _report(ctx, candidate, version, verdicts, champion)
    broken = [verdict.text for verdict in verdicts if not verdict.held]
    if outcome != PASSED and gate.strict:
        raise GateRefused(f"{MODEL} version {version.version}: gate {outcome}: {'; '.join(broken) or 'by hand'}")


def _register(
    ctx: Context, client: Any, candidate: Candidate, gate: RegisterParams, verdicts: Sequence[Verdict]
) -> Any:
    git = tracking.git_state()
    if git.note:
        ctx.log(git.note)
    experiment = tracking.experiment_id(client)
    parent = open_run(client, experiment, candidate, git)
    log_steps(client, parent, candidate, ctx.inputs, ctx.parameters)
    model_id = ensure_logged_model(client, parent, candidate)
    log_measured(client, parent, candidate, model_id, ctx.parameters)
    version = register_version(client, candidate, parent.info.run_id, model_id, gate.rules, verdicts)
    if version.run_id != parent.info.run_id:
        _withdraw(client, parent, model_id)
    return version


def _withdraw(client: Any, parent: Any, model_id: str) -> None:
    """Take back a run whose candidate another writer has registered in the meantime."""
    children = find_runs(client, parent.info.experiment_id, {PARENT: parent.info.run_id})
    for run in (*children, parent):
        client.delete_run(run.info.run_id)
    client.delete_logged_model(model_id)


def _finish_run(client: Any, run_id: str) -> None:
    if client.get_run(run_id).info.status != FINISHED:
        client.set_terminated(run_id)


def _report(
    ctx: Context, candidate: Candidate, version: Any, verdicts: Sequence[Verdict], champion: Any | None
) -> None:
    outcome = version.tags[GATE]
    is_champion = champion is not None and champion.version == version.version
    place = f"champion is version {champion.version}" if champion is not None else "no champion"
    for verdict in verdicts:
        ctx.log(f"{'holds' if verdict.held else 'refused'}: {verdict.text}")
    ctx.log(f"{MODEL} version {version.version}, gate {outcome}, score {candidate.score:.2f}; {place}")
    value = {
        "name": MODEL,
        "version": int(version.version),
        "gate": outcome,
        "champion": is_champion,
        "champion_version": int(champion.version) if champion is not None else None,
        "score": candidate.score,
        "suite_digest": candidate.suite,
        "weights_sha256": candidate.weights,
        "data_version": candidate.data_version,
        "identity": candidate.identity,
        "run_id": version.run_id,
        "rules": [asdict(verdict) for verdict in verdicts],
    }
    storage.write_bytes(ctx.outputs["version"], json_document(value))
