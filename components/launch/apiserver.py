"""The Kubernetes API as a pod reaches it: patient with a server that fails, clear about one that refuses.

Connection errors and 429, 500, 502, 503 and 504 are tried again for as long as it takes, which is said once a minute;
401 reads the credentials again, since the token of a service account is replaced while a pod runs. What remains are
answers: `ApiError` with the server's own words, for the caller to tell what they mean.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from components.core.errors import EmbedmillError, InputError, UsageError

T = TypeVar("T")
Object = dict[str, Any]
Wait = Callable[[float], None]
"""Waits some seconds, or raises what ends the waiting."""

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PASSING = (0, 429, 500, 502, 503, 504)  # 0: the client's word for a broken TLS connection
REFUSED_TOKENS = 5  # times in a row that credentials just read are refused before they are called wrong


@dataclass(frozen=True)
class Pace:
    """How long things are waited for, in seconds."""

    first: float = 1.0
    """Before the first repetition; every further one waits twice as long."""
    longest: float = 30.0
    remind: float = 60.0
    """Between two lines that say the same is still being waited for."""
    connect: float = 10.0
    answer: float = 60.0
    watch: int = 300
    """A watch that has lasted this long is begun again."""
    farewell: float = 20.0
    """For deleting the job after a signal: within the 30 seconds that Kubernetes gives a pod."""
    drain: float = 30.0
    """For the last lines of the pods of a job that has ended."""


class ApiError(EmbedmillError):
    """An answer other than 2xx that is no passing trouble: its HTTP status, and the server's message as text."""

    def __init__(self, status: int, message: str, kind_unknown: bool = False) -> None:
        super().__init__(message)
        self.status, self.kind_unknown = status, kind_unknown


class ApiServer:
    """Calls of one namespace's API. Every call waits by `wait`, so that whoever calls says what ends the waiting."""

    def __init__(self, log: Callable[[str], None], pace: Pace) -> None:
        """Raises UsageError if the client is not installed, InputError if there is no cluster to be reached."""
        self.log, self.pace = log, pace
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()
        self._client, self.namespace = _connect()

    def get(self, path: str, wait: Wait, **query: Any) -> Object:
        """The object or list at a path such as `/api/v1/namespaces/NS/pods`."""
        return self.patiently(lambda: self._json("GET", path, query), wait)

    def post(self, path: str, body: Object, wait: Wait, **query: Any) -> Object:
        """The object as the server has created it."""
        return self.patiently(lambda: self._json("POST", path, query, body), wait)

    def delete(self, path: str, body: Object, wait: Wait) -> Object:
        """Ask for an object's end; that it is gone is for a watch or `get` to tell."""
        return self.patiently(lambda: self._json("DELETE", path, {}, body), wait)

    def watch(self, path: str, version: str, **query: Any) -> Iterator[tuple[str, Object]]:
        """(type, object) of every change after resourceVersion `version`, until the server ends the watch.

        One attempt: it raises ApiError, 410 for a version that is too old, or one of `passing`.
        """
        query = {**query, "watch": True, "resourceVersion": version, "timeoutSeconds": self.pace.watch}
        for line in self.lines(path, self.pace.watch + self.pace.answer, **query):
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise ApiError(event["object"].get("code", 500), event["object"].get("message", "the watch ended"))
            yield event["type"], event["object"]

    def lines(self, path: str, silence: float, **query: Any) -> Iterator[bytes]:
        """The lines of an answer as they come, each with its newline if it has one; one attempt.

        A connection that is cut raises one of `passing` after the last whole line.
        """
        answer = self._call("GET", path, query, silence)
        try:
            rest = b""
            for chunk in answer.stream(None, decode_content=False):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (line + b"\n" for line in whole)
            if rest:
                yield rest
        except _passing() as error:
            raise Passing(_reason(error)) from None
        finally:
            answer.close()

    def patiently(self, attempt: Callable[[], T], wait: Wait) -> T:
        """What `attempt` returns, however often the server fails. Raises ApiError if it refuses."""
        delay, refused = self.pace.first, 0
        while True:
            try:
                return attempt()
            except Passing as trouble:
                refused = refused + 1 if trouble.unauthorized else 0
                if refused > REFUSED_TOKENS:
                    raise InputError(f"the Kubernetes API refuses this pod's credentials ({trouble})") from None
                self.remind("API", f"the Kubernetes API does not answer ({trouble}); trying again")
                wait(max(delay, min(trouble.after, self.pace.longest)))
                delay = min(2 * delay, self.pace.longest)

    def remind(self, topic: str, line: str) -> None:
        """Log a line, at most once a minute on the same topic."""
        now = time.monotonic()
        with self._lock:
            if now - self._said.get(topic, -self.pace.remind) < self.pace.remind:
                return
            self._said[topic] = now
        self.log(line)

    def _json(self, method: str, path: str, query: Mapping[str, Any], body: Object | None = None) -> Object:
        answer = self._call(method, path, query, self.pace.answer, body)
        try:
            value: Object = json.loads(answer.read())
            return value
        except ValueError:
            raise Passing("an answer that is no JSON") from None
        except _passing() as error:
            raise Passing(_reason(error)) from None
        finally:
            answer.close()

    def _call(
        self, method: str, path: str, query: Mapping[str, Any], silence: float, body: Object | None = None
    ) -> Any:
        """The response, its body not yet read. Raises Passing or ApiError."""
        from kubernetes.client.exceptions import ApiException

        try:
            return self._client.call_api(
                path,
                method,
                query_params=[(key, value) for key, value in query.items() if value not in ("", None)],
                header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=(self.pace.connect, silence),
            )
        except _passing() as error:
            raise Passing(_reason(error)) from None
        except ApiException as error:
            answer = _status(error)
            message = answer.get("message") or f"{error.status} {error.reason}"
            if error.status == 401:
                with self._lock:
                    self._client, _ = _connect()
                raise Passing(message, unauthorized=True) from None
            if error.status in PASSING:
                raise Passing(message, after=_retry_after(error)) from None
            # for a kind it does not know, the server has no Status object but a page that is not found
            raise ApiError(error.status, message, kind_unknown=error.status == 404 and not answer) from None


class Passing(Exception):
    """Trouble that will pass: the call may be tried again."""

    def __init__(self, reason: str, unauthorized: bool = False, after: float = 0.0) -> None:
        super().__init__(reason)
        self.unauthorized, self.after = unauthorized, after


def _connect() -> tuple[Any, str]:
    """A client with fresh credentials, and the namespace: those of the pod, else those of the current kubeconfig."""
    try:
        from kubernetes import client, config
    except ImportError:
        raise UsageError(
            "the Kubernetes client is not installed; install the extra: pip install 'embedmill[cluster]'"
        ) from None
    settings = client.Configuration()
    settings.retries = False  # by this module, which says so
    try:
        config.load_incluster_config(client_configuration=settings)
        namespace = NAMESPACE_FILE.read_text().strip()
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=settings)
            context = config.list_kube_config_contexts()[1]["context"]
        except (config.ConfigException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"no Kubernetes cluster: neither a pod's service account nor a kubeconfig ({reason})"
            ) from None
        namespace = context.get("namespace", "default")
    return client.ApiClient(settings), namespace


def _passing() -> tuple[type[Exception], ...]:
    from urllib3.exceptions import HTTPError

    return (HTTPError, OSError)


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _status(error: Any) -> Object:
    """The Status object that the API server answers with; a proxy before it may answer anything else."""
    try:
        answer = json.loads(error.body)
    except (TypeError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _retry_after(error: Any) -> float:
    after = (error.headers or {}).get("Retry-After", "")
    return float(after) if after.isdigit() else 0.0
