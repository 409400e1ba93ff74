"""The registered version of a candidate: one for each identity, with the tags that promotion goes by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from components.core import tracking
from components.core.fingerprint import digest_json
from components.core.tracking import MODEL, WEIGHTS_TAG
from components.register.candidate import Candidate
from components.register.gate import Verdict, judge
from components.register.params import GateRule
from components.register.promotion import FAILED, GATE, PASSED, SCORE, SUITE, all_versions
from components.register.runs import IDENTITY

RULES, VERDICTS = "gate.rules", "gate.verdicts"


def find_version(client: Any, candidate: Candidate) -> Any | None:
    """The version of this candidate, if it is registered already: of several, which racing writers made, the first."""
    ensure_registered_model(client)
    return next(iter(all_versions(client, f" and tags.{IDENTITY} = '{candidate.identity}'")), None)


def ensure_registered_model(client: Any) -> None:
    """Make the registered model on first use."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(MODEL, description="Text-embedding models that came out of Embedmill.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def verdicts_on(client: Any, candidate: Candidate, rules: Sequence[GateRule], version: Any | None) -> list[Verdict]:
    """Hold the rules against the candidate, or recall what came of it: the same rules judge a version only once,
    since later champions would make them say something else."""
    if version is not None and version.tags.get(RULES) == rules_digest(rules):
        return [Verdict(**verdict) for verdict in json.loads(version.tags[VERDICTS])]
    return judge(candidate, rules, _champion_values(client, candidate))


def _champion_values(client: Any, candidate: Candidate) -> Mapping[str, float] | None:
    """The champion's measured values, if it is another model measured on the same suite."""
    champion = tracking.champion(client)
    if champion is None or champion.tags.get(SUITE) != candidate.suite:
        return None
    if champion.tags.get(IDENTITY) == candidate.identity:
        return None
    metrics: Mapping[str, float] = client.get_run(champion.run_id).data.metrics
    return metrics


def rules_digest(rules: Sequence[GateRule]) -> str:
    """Digest of the gate's rules."""
    return digest_json([rule.model_dump(mode="json") for rule in rules])


def register_version(
    client: Any,
    candidate: Candidate,
    run_id: str,
    model_id: str,
    rules: Sequence[GateRule],
    verdicts: Sequence[Verdict],
) -> Any:
    """Create the version with all its tags at once.

    Of several writers that register the same candidate at the same time, the one with the lowest number stays; the
    others take theirs back and go on with that one.
    """
    tags = {
        IDENTITY: candidate.identity,
        SCORE: repr(candidate.score),
        SUITE: candidate.suite,
        WEIGHTS_TAG: candidate.weights,
        "data.version": candidate.data_version,
        **gate_tags(rules, verdicts),
    }
    mine = client.create_model_version(MODEL, f"models:/{model_id}", run_id, tags=tags, model_id=model_id)
    first = find_version(client, candidate)
    assert first is not None
    if first.version != mine.version:
        client.delete_model_version(MODEL, mine.version)
    return first


def gate_tags(rules: Sequence[GateRule], verdicts: Sequence[Verdict]) -> dict[str, str]:
    """The tags that say what the gate decided, by which rules, and why."""
    return {
        GATE: PASSED if all(verdict.held for verdict in verdicts) else FAILED,
        RULES: rules_digest(rules),
        VERDICTS: json.dumps([asdict(verdict) for verdict in verdicts], ensure_ascii=False),
    }
