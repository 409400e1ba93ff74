"""Labels of pods and jobs by which a cluster's costs are grouped: the pipeline, and those of whoever starts a run."""

from __future__ import annotations

import re
from collections.abc import Mapping

from components.core.errors import UsageError

PIPELINE = "embedmill.dev/pipeline"
# In the environment of a pod, for the jobs that it starts.
PIPELINE_KEY = "EMBEDMILL_PIPELINE"
# Prefixes under which the cluster, the systems that run pods, and this project keep what they find pods by.
SYSTEMS = (
    *("kubernetes.io", "k8s.io", "x-k8s.io", "kubeflow.org", "argoproj.io", "ray.io", "istio.io"),
    *("embedmill.dev", "pipeline"),
)
OF_JOBS = ("controller-uid", "job-name")  # those of Kubernetes' Job that have no prefix

_WORD = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_DOMAIN = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_KEY = re.compile(rf"((?=.{{1,253}}/)(?P<prefix>{_DOMAIN}(\.{_DOMAIN})*)/)?{_WORD}")
_EXPECTED = "1 to 63 letters, digits, '-', '_' and '.', a letter or digit at both ends"


def parse_labels(text: str) -> dict[str, str]:
    """The labels of a text such as `team=search,cost-center=42`; the empty text has none.

    Raises UsageError for what Kubernetes would not take, and for labels that are not the user's to set.
    """
    labels: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        match = _KEY.fullmatch(key)
        if not equals:
            raise UsageError(f"label {pair}: expected KEY=VALUE, such as team=search")
        if match is None:
            raise UsageError(f"label {pair}: the key should be {_EXPECTED}; before it, if at all, a domain and '/'")
        if not re.fullmatch(_WORD, value):
            raise UsageError(f"label {pair}: the value should be {_EXPECTED}")
        prefix = match["prefix"] or ""
        if key in OF_JOBS or any(prefix == system or prefix.endswith(f".{system}") for system in SYSTEMS):
            raise UsageError(f"label {pair}: {key} is kept for the systems that run the pods; take another key")
        if key in labels:
            raise UsageError(f"label {pair}: {key} is given twice")
        labels[key] = value
    return labels


def format_labels(labels: Mapping[str, str]) -> str:
    """The text of labels, one for the same labels in any order."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
