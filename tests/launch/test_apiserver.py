"""How the API is reached from inside a pod, and how often its trouble is said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from components.launch import apiserver
from components.launch.apiserver import ApiServer, Pace
from tests.fixtures.fake_kubernetes import NAMESPACE, FakeKubernetes


def test_a_pod_is_known_by_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("token", "a-token"), ("ca.crt", "a certificate"), ("namespace", "of-a-team\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(apiserver, "NAMESPACE_FILE", tmp_path / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    seen: list[object] = []
    monkeypatch.setattr("kubernetes.client.ApiClient", seen.append)
    assert ApiServer(print, Pace()).namespace == "of-a-team"
    (settings,) = seen
    assert settings.host == "https://10.0.0.1:443"  # type: ignore[attr-defined]
    assert settings.ssl_ca_cert == str(tmp_path / "ca.crt")  # type: ignore[attr-defined]
    header = settings.auth_settings()["BearerToken"]  # type: ignore[attr-defined]
    assert (header["key"], header["value"]) == ("authorization", "bearer a-token")


def test_trouble_is_said_once_a_minute_and_waited_for_longer_and_longer(
    cluster: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    now = [1000.0]
    monkeypatch.setattr(apiserver, "time", SimpleNamespace(monotonic=lambda: now[0]))
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    said: list[str] = []
    api = ApiServer(said.append, Pace())
    cluster.trouble("status", times=12, status=500)
    cluster.trouble("status", times=1, status=429, retry_after="7")
    assert api.get(f"/api/v1/namespaces/{NAMESPACE}/pods", wait)["items"] == []
    assert waited[:12] == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30]
    assert len(waited) == 13
    why = [line.partition("(")[2].partition(")")[0] for line in said]  # at 0, 61, 121, 181 and 241 seconds
    assert why == ["etcdserver: request timed out"] * 4 + ["not now"]
