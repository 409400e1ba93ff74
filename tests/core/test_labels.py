"""Labels to group costs by: what Kubernetes takes, and none that the systems around the pods find them by."""

from __future__ import annotations

import pytest

from components.core.errors import UsageError
from components.core.labels import format_labels, parse_labels


def test_labels_are_read_and_written_as_one_text_in_any_order() -> None:
    labels = {"team": "search", "cost.example.com/center": "42", "Tier_2": "a.b-c"}
    assert parse_labels("team=search,cost.example.com/center=42,Tier_2=a.b-c") == labels
    assert format_labels(labels) == format_labels(dict(reversed(labels.items())))
    assert parse_labels(format_labels(labels)) == labels
    assert parse_labels("") == parse_labels(",") == {}


def test_the_longest_that_kubernetes_takes() -> None:
    prefix = ".".join(["a" * 63] * 3 + ["b" * 61])  # 253 characters
    assert parse_labels(f"{prefix}/{'k' * 63}={'v' * 63}") == {f"{prefix}/{'k' * 63}": "v" * 63}
    for text in (f"{prefix}b/k=v", f"{'a' * 64}.b/k=v", f"{'k' * 64}=v", f"k={'v' * 64}"):
        with pytest.raises(UsageError, match="should be 1 to 63 letters"):
            parse_labels(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("team", "label team: expected KEY=VALUE"),
        ("team=", "label team=: the value should be"),
        ("=search", "label =search: the key should be"),
        ("team=search=web", "label team=search=web: the value should be"),
        ("team=two words", "label team=two words: the value should be"),
        ("team=-a", "label team=-a: the value should be"),
        ("team=a\n", "label team=a\n: the value should be"),
        ("te am=a", "label te am=a: the key should be"),
        ("a=1, b=2", "label  b=2: the key should be"),
        ("Example.com/team=a", "label Example.com/team=a: the key should be"),
        ("a/b/c=d", "label a/b/c=d: the key should be"),
        ("a=1,a=2", "label a=2: a is given twice"),
    ],
)
def test_what_is_no_label_is_said(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_labels(text)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    "key",
    [
        *("app.kubernetes.io/part-of", "kueue.x-k8s.io/queue-name", "jobset.sigs.k8s.io/jobset-name"),
        *("trainer.kubeflow.org/x", "ray.io/cluster", "workflows.argoproj.io/completed", "sidecar.istio.io/inject"),
        *("embedmill.dev/run", "pipeline/runid", "job-name"),
    ],
)
def test_labels_by_which_systems_find_pods_cannot_be_set(key: str) -> None:
    with pytest.raises(UsageError, match="kept for the systems"):
        parse_labels(f"team=search,{key}=mine")
    assert parse_labels(f"example.com/{key.rpartition('/')[2]}=mine")
