"""Kubeflow Pipelines through its REST client: runs are found by name, created and looked at.

`kfp`, the SDK, stays out of the images, so whatever starts a run there goes through here. Host, namespace and token
come from where the SDK takes them: KF_PIPELINES_ENDPOINT, ~/.config/kfp/context.json and, inside a cluster, the
service's own name and the token that the kubelet renews in a file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from components.core.errors import InputError, UsageError

ENDPOINT_KEY = "KF_PIPELINES_ENDPOINT"
PAGES_KEY = "KF_PIPELINES_UI_ENDPOINT"
TOKEN_KEY = "EMBEDMILL_KFP_TOKEN"
TOKEN_FILE_KEY = "KF_PIPELINES_SA_TOKEN_PATH"
TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"
NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
CLUSTER_KEY = "KUBERNETES_SERVICE_HOST"
CLUSTER_ENDPOINT = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
CONTEXT = ".config/kfp/context.json"

SUCCEEDED, FAILED, CANCELED, SKIPPED = "SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"
ENDED = (SUCCEEDED, FAILED, CANCELED, SKIPPED)
ARCHIVED = "ARCHIVED"

ATTEMPTS = 4
# Seconds before the second attempt, doubled for each further one.
PAUSE_SECONDS = 0.5
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect; without an answer
TRANSIENT_STATUS = (0, 408, 429, 500, 502, 503, 504)
MESSAGE_CHARACTERS = 400

Parameter = str | int | float | bool | list[Any] | dict[str, Any]
Result = TypeVar("Result")


class PipelinesError(InputError):
    """The API cannot be reached or does not do what it was asked to. `status` is HTTP's, 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def transient(self) -> bool:
        """Whether the same request may go well a moment later."""
        return self.status in TRANSIENT_STATUS


class PipelineRefused(PipelinesError):
    """The API does not take the pipeline or its parameters."""

    exit_code = UsageError.exit_code


@dataclass(frozen=True)
class Task:
    """A task of a run as the API tells it; `parent` is the id of the task that holds it, where the API knows."""

    id: str
    name: str
    state: str
    started: str
    parent: str | None = None
    error: str = ""


@dataclass(frozen=True)
class Run:
    """A run and its tasks, in the order in which they started."""

    id: str
    name: str
    state: str
    tasks: tuple[Task, ...] = ()
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is over, well or not."""
        return self.state in ENDED


class Pipelines:
    """A connection to the API. Reading is tried again while the failure may pass; every failure is a PipelinesError."""

    def __init__(self, client: Any, host: str, namespace: str | None) -> None:
        import kfp_server_api

        self.host, self.namespace = host, namespace
        self._models = kfp_server_api
        self._client = client
        self._runs = kfp_server_api.RunServiceApi(client)
        self._experiments = kfp_server_api.ExperimentServiceApi(client)

    @classmethod
    def connect(cls, host: str | None = None, namespace: str | None = None, token_file: str | None = None) -> Pipelines:
        """Connect to the API at `host`, or where the environment says it is, and ask whether it is one.

        A server for several users wants a namespace: the one given, of the SDK's context file, or of this pod. Raises
        UsageError if there is no host or no namespace, PipelinesError if the host does not answer as the API does.
        """
        try:
            import kfp_server_api
        except ImportError:
            raise UsageError(
                "kfp-server-api is not installed; install the extra: pip install 'embedmill[cluster]'"
            ) from None
        context = _context()
        host = _host(host)
        configuration = kfp_server_api.Configuration(host=host)
        configuration.retries = False  # ours say more, and a request that is no reading is not sent twice
        configuration.ssl_ca_cert = os.environ.get("SSL_CERT_FILE")
        read_token = _token(token_file)
        if read_token is not None:
            configuration.api_key["authorization"] = ""
            configuration.api_key_prefix["authorization"] = "Bearer"
            configuration.refresh_api_key_hook = lambda shown: shown.api_key.update(authorization=read_token())
        client = kfp_server_api.ApiClient(
            configuration,
            cookie=context.get("client_authentication_cookie"),
            header_name=context.get("client_authentication_header_name"),
            header_value=context.get("client_authentication_header_value"),
        )
        pipelines = cls(client, host, namespace or context.get("namespace") or None)
        if pipelines._has_namespaces() and not pipelines.namespace:
            pipelines.namespace = _pod_namespace()
            if not pipelines.namespace:
                raise UsageError(f"{host} is for several users: name yours with --namespace")
        return pipelines

    def url(self, run_id: str) -> str:
        """The page of a run."""
        return f"{(os.environ.get(PAGES_KEY) or self.host).rstrip('/')}/#/runs/details/{run_id}"

    def find_run(self, name: str) -> Run | None:
        """The newest run of exactly this name that is not archived, without its tasks; None if there is none."""
        answer = self._read(
            lambda: self._runs.run_service_list_runs(
                filter=_named(name),
                sort_by="created_at desc",
                page_size=100,
                _request_timeout=TIMEOUT_SECONDS,
                **self._in_namespace(),
            )
        )
        found = [run for run in answer.runs or [] if run.storage_state != ARCHIVED and run.display_name == name]
        return _run(found[0]) if found else None

    def run(self, run_id: str) -> Run:
        """A run by its id, with its tasks."""
        return _run(self._read(lambda: self._runs.run_service_get_run(run_id, _request_timeout=TIMEOUT_SECONDS)))

    def create_run(
        self,
        name: str,
        experiment: str,
        package: Mapping[str, Any],
        parameters: Mapping[str, Parameter],
        service_account: str = "",
        before: Callable[[], None] = lambda: None,
    ) -> Run:
        """Start a run of a pipeline in an experiment, which is made if it is missing.

        `package` is what the compiler writes: a pipeline spec, or {"pipeline_spec": …, "platform_spec": …}. All pods of
        the run are of `service_account`, by default the server's own. `before` is called right before the request that
        creates the run; if it raises, that is not sent. Where an answer was lost the run may be there all the same:
        `start_run` finds that out.
        """
        body = self._models.V2beta1Run(
            experiment_id=self.experiment(experiment),
            display_name=name,
            pipeline_spec=dict(package),
            runtime_config=self._models.V2beta1RuntimeConfig(parameters=dict(parameters)),
            service_account=service_account or None,
        )
        before()
        return _run(self._ask(lambda: self._runs.run_service_create_run(body, _request_timeout=TIMEOUT_SECONDS)))

    def start_run(
        self,
        name: str,
        experiment: str,
        package: Mapping[str, Any],
        parameters: Mapping[str, Parameter],
        service_account: str = "",
        before: Callable[[], None] = lambda: None,
    ) -> Run:
        """The run of this name, created if there is none: called again, or after a lost answer, it starts no second.

        Two callers at the same moment may still start one each; who can be two claims the name first, and lets `before`
        raise, which is called right before each request to create the run, where the claim has run out.
        """
        for number in range(ATTEMPTS):
            found = self.find_run(name)
            if found is not None:
                return found
            try:
                return self.create_run(name, experiment, package, parameters, service_account, before)
            except PipelinesError as error:
                if not error.transient or number == ATTEMPTS - 1:
                    raise
                time.sleep(PAUSE_SECONDS * 2**number)
        raise AssertionError("unreachable")

    def experiment(self, name: str) -> str:
        """The id of the experiment of this name, made if it is missing."""
        return self._find_experiment(name) or self._make_experiment(name)

    def _find_experiment(self, name: str) -> str | None:
        answer = self._read(
            lambda: self._experiments.experiment_service_list_experiments(
                filter=_named(name), _request_timeout=TIMEOUT_SECONDS, **self._in_namespace()
            )
        )
        return str(answer.experiments[0].experiment_id) if answer.experiments else None

    def _make_experiment(self, name: str) -> str:
        body = self._models.V2beta1Experiment(display_name=name, namespace=self.namespace)
        try:
            made = self._ask(
                lambda: self._experiments.experiment_service_create_experiment(body, _request_timeout=TIMEOUT_SECONDS)
            )
        except PipelinesError as error:
            found = self._find_experiment(name) if error.status == 409 or error.transient else None
            if found is None:  # another has not made it meanwhile
                raise
            return found
        return str(made.experiment_id)

    def _has_namespaces(self) -> bool:
        """Whether the server is for several users. Raises PipelinesError if it is no Kubeflow Pipelines."""
        health = self._models.HealthzServiceApi(self._client)
        multi_user = self._read(lambda: health.healthz_service_get_healthz(_request_timeout=TIMEOUT_SECONDS)).multi_user
        try:
            shown = json.loads(self._client.last_response.data)
        except ValueError:
            shown = None
        if not isinstance(shown, dict):  # a page of a proxy or of a login
            raise PipelinesError(f"{self.host}: no Kubeflow Pipelines API there (it answers with a page)", 200)
        return bool(multi_user)

    def _in_namespace(self) -> dict[str, str]:
        return {"namespace": self.namespace} if self.namespace else {}

    def _read(self, call: Callable[[], Result]) -> Result:
        return _retried(lambda: self._ask(call))

    def _ask(self, call: Callable[[], Result]) -> Result:
        """What a call to the client returns. Raises PipelinesError, one line that says what is wrong."""
        import urllib3

        try:
            return call()
        except self._models.ApiException as error:
            raise self._failure(int(error.status or 0), _message(error)) from None
        except urllib3.exceptions.HTTPError as error:
            reason = str(error).rpartition(": ")[2].strip("()'\"") or type(error).__name__
            reason += ")" * (reason.count("(") - reason.count(")"))
            raise PipelinesError(f"{self.host}: cannot be reached ({reason})") from None

    def _failure(self, status: int, message: str) -> PipelinesError:
        said = f": {message}" if message else ""
        if status == 0:
            return PipelinesError(f"{self.host}: cannot be reached{said}")
        if status == 400:
            return PipelineRefused(f"{self.host}: refused{said}", status)
        if 300 <= status < 400 or status == 401:
            wanted = f"a valid token: --token-file, {TOKEN_KEY} or {TOKEN_FILE_KEY}"
            return PipelinesError(f"{self.host}: not logged in (HTTP {status}){said}; it wants {wanted}", status)
        if status == 403:
            where = f"namespace {self.namespace}" if self.namespace else "this server"
            return PipelinesError(f"{self.host}: this token may not do that in {where}{said}", status)
        return PipelinesError(f"{self.host}: HTTP {status}{said}", status)


def _retried(attempt: Callable[[], Result]) -> Result:
    for number in range(ATTEMPTS - 1):
        try:
            return attempt()
        except PipelinesError as error:
            if not error.transient:
                raise
            time.sleep(PAUSE_SECONDS * 2**number)
    return attempt()


def _host(host: str | None) -> str:
    host = host or os.environ.get(ENDPOINT_KEY) or (CLUSTER_ENDPOINT if CLUSTER_KEY in os.environ else "")
    if not host:
        raise UsageError(
            f"no Kubeflow Pipelines host: give --host or set {ENDPOINT_KEY}, such as http://localhost:8080"
        )
    address = host if "://" in host else f"https://{host}"  # as the SDK has it
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is none
        valid = False
    if not valid:
        raise UsageError(f"host {host}: expected an address such as http://localhost:8080")
    return address.rstrip("/")


def _token(token_file: str | None) -> Callable[[], str] | None:
    """A function that says the token as it is now, or None where there is none."""
    file = token_file or os.environ.get(TOKEN_FILE_KEY) or ""
    value = os.environ.get(TOKEN_KEY, "").strip()
    if not token_file and value:
        return lambda: value
    if not file and Path(TOKEN_FILE).is_file():
        file = TOKEN_FILE
    if not file:
        return None

    def read() -> str:
        try:
            token = Path(file).read_text(encoding="ascii").strip()
        except UnicodeDecodeError:
            token = ""
        except OSError as error:
            raise InputError(f"{file}: no token to read ({error.strerror or error})") from None
        if not token or len(token.split()) > 1:  # the client would fail on it, each in a way of its own
            raise InputError(f"{file}: no token to read (expected one word of ASCII characters)")
        return token

    read()
    return read


def _context() -> dict[str, Any]:
    """What the SDK has been told to remember."""
    try:
        value = json.loads((Path.home() / CONTEXT).read_bytes())
    except (OSError, ValueError, RuntimeError):
        return {}
    return value if isinstance(value, dict) else {}


def _pod_namespace() -> str | None:
    try:
        return Path(NAMESPACE_FILE).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _named(name: str) -> str:
    predicate = {"key": "display_name", "operation": "EQUALS", "string_value": name}
    return json.dumps({"predicates": [predicate]})


def _run(answer: Any) -> Run:
    if not answer.run_id:
        raise PipelinesError("Kubeflow Pipelines: the answer holds no run", 200)
    details = (answer.run_details.task_details if answer.run_details else None) or []
    tasks = [
        Task(
            str(task.task_id),
            str(task.display_name or ""),
            str(task.state or ""),
            str(task.start_time or task.create_time or ""),
            task.parent_task_id or None,
            _error_line(task.error),
        )
        for task in details
    ]
    tasks.sort(key=lambda task: (not task.started, task.started))
    return Run(str(answer.run_id), str(answer.display_name), str(answer.state), tuple(tasks), _error_line(answer.error))


def _error_line(error: Any) -> str:
    return _one_line(str(error.message)) if error is not None and error.message else ""


def _message(error: Any) -> str:
    """What the body of a refusal says, in one line."""
    body = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else error.body
    try:
        value = json.loads(body or "")
    except ValueError:
        # the reason of a failure without an answer; of a page its text would say nothing
        return "" if error.status else _one_line(str(error.reason or ""))
    if not isinstance(value, dict):
        return ""
    details = [each for each in value.get("details") or () if isinstance(each, dict)]
    if (
        details and error.status < 500
    ):  # what is meant for people, without the names of the functions that it went through
        value = {
            **value,
            "message": details[0].get("error_message") or details[0].get("message") or value.get("message"),
        }
    return _one_line(str(value.get("message") or value.get("error") or ""))


def _one_line(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= MESSAGE_CHARACTERS else f"{line[:MESSAGE_CHARACTERS]}…"
