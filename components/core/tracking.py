"""MLflow set-up in one place: where runs and models go, the commit they came from, and the model that is champion.

Runs go to a local sqlite file and its artifacts beside it, or to any server that MLFLOW_TRACKING_URI names.
Aliases are used, not stages (which MLflow has deprecated).
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.core import environment, lock, storage
from components.core.errors import InputError, UsageError
from components.core.fingerprint import canonical_json, digest_weights

URI_KEY = "MLFLOW_TRACKING_URI"
DEFAULT_URI = "sqlite:///mlflow.db"
ARTIFACTS = "mlartifacts"
EXPERIMENT = "embedmill"
MODEL = "embedmill"
CHAMPION = "champion"
CHAMPION_URI = f"models:/{MODEL}@{CHAMPION}"
REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
WEIGHTS_TAG = "weights.sha256"
# Tags of runs: the step that a run is of, and the run of the whole pipeline.
STEP = "step"
PARENT = "mlflow.parentRunId"
FINISHED = "FINISHED"
# Tag of runs that a pipeline's run on a cluster made, and the variable that names it in its pods.
ORCHESTRATED, RUN_KEY = "kfp.run_id", "EMBEDMILL_RUN_ID"
# Tags of a training that was logged while it ran: fingerprint of inputs, parameters and code, and, once the run has all
# its points, the digest of the log of losses that they make.
TRAINING = "training"
LOSSES = "losses.sha256"
# The sentence-transformers folder inside a logged model; the name is that of MLflow's own flavour.
MODEL_FOLDER = "model.sentence_transformer"
DOWNLOADS = Path(".embedmill/models")
SQLITE = "sqlite:///"
INIT_WAIT_SECONDS = 120.0
MEMORY = "/dev/shm"
UNREACHABLE = "Max retries exceeded"
MLFLOW_SETTINGS = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # the default of seven retries with doubling pauses makes a wrong address look like a hang
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


@dataclass(frozen=True)
class GitState:
    """The commit that the code came from, and one line about what of it is not recorded (empty: all of it is)."""

    sha: str | None
    dirty: bool
    note: str

    def tags(self) -> dict[str, str]:
        """Tags for a run: ours, and the one from which MLflow's pages make a link."""
        if self.sha is None:
            return {}
        return {"git.sha": self.sha, "git.dirty": str(self.dirty).lower(), "mlflow.source.git.commit": self.sha}


def git_state(folder: str | Path = ".") -> GitState:
    """The state of the work tree at `folder`; no git and no repository are states too, not errors."""
    try:
        sha = _git(folder, "rev-parse", "--verify", "HEAD")
    except FileNotFoundError:
        return GitState(None, False, "git is not installed: the commit is not recorded")
    if sha is None:
        return GitState(None, False, "no git commit here: the code version is not recorded")
    # the chain writes dvc.lock while it runs, so that file says nothing about the code
    changed = (_git(folder, "status", "--porcelain", "--", ":/", ":(top,exclude)dvc.lock") or "").splitlines()
    if not changed:
        return GitState(sha, False, "")
    files = "1 file differs" if len(changed) == 1 else f"{len(changed)} files differ"
    return GitState(sha, True, f"{files} from commit {sha[:12]}: these changes are not recorded")


def _git(folder: str | Path, *arguments: str) -> str | None:
    result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def tracking_uri() -> str:
    """The URI of the tracking store: MLFLOW_TRACKING_URI, or a sqlite file in the project's folder."""
    return os.environ.get(URI_KEY) or DEFAULT_URI


def database() -> Path | None:
    """The sqlite file that is the tracking store, or None if the store is something else."""
    uri = tracking_uri()
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def connect() -> Any:
    """An `MlflowClient` of the tracking store, which is made if it is a sqlite file that is not there yet.

    Raises InputError if the store cannot be reached.
    """
    environment.quiet()
    for key, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(key, value)
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic"):  # which set their own level while they are imported
        logging.getLogger(name).setLevel(logging.ERROR)
    path = database()
    uri = tracking_uri()
    with tracking_errors():
        if path is not None:
            _ensure_database(path)
            uri = uri.replace(str(path), str(path.absolute()), 1)
        return _open_store(uri)


def _open_store(uri: str) -> Any:
    import mlflow

    before = os.environ.get(URI_KEY)
    mlflow.set_tracking_uri(uri)  # this sets the variable too, which is the user's to set
    os.environ.pop(URI_KEY, None)
    if before is not None:
        os.environ[URI_KEY] = before
    client = mlflow.MlflowClient()
    client.get_experiment_by_name(EXPERIMENT)
    return client


def _ensure_database(path: Path) -> None:
    """Make the sqlite file elsewhere and put it in its place whole: MLflow cannot open one that was half made when its
    process was killed. Memory serves best, since its eighty migrations each wait for the disk."""
    if path.exists():
        return
    with lock.hold(f".embedmill/locks/{path.name}.lock", "making the MLflow database", INIT_WAIT_SECONDS):
        if path.exists():
            return
        with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
            part = Path(folder) / path.name
            _open_store(f"{SQLITE}{part}")
            storage.upload(part, str(path))


@contextmanager
def tracking_errors() -> Iterator[None]:
    """Turn MLflow's exceptions into InputError: one line that names the tracking store."""
    from mlflow.exceptions import MlflowException

    expected: tuple[type[Exception], ...] = (MlflowException,)
    with suppress(ModuleNotFoundError):  # mlflow-skinny opens no database
        from sqlalchemy.exc import SQLAlchemyError

        expected += (SQLAlchemyError,)
    try:
        yield
    except expected as error:
        text = str(error).strip() or type(error).__name__
        reason = "cannot be reached" if UNREACHABLE in text else text.splitlines()[0]
        raise InputError(f"{store_name()}: {reason}") from error


def store_name() -> str:
    """The tracking store as messages name it, without a password."""
    return f"MLflow at {re.sub(r'//[^/@]*@', '//', tracking_uri())}"


def experiment_id(client: Any) -> str:
    """The id of the project's experiment, made on first use."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        # a server has its own artifact store; a sqlite file has none, so artifacts go beside it
        location = ARTIFACTS if database() else None
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    return str(found.experiment_id)


def find_runs(client: Any, experiment: str, tags: Mapping[str, str]) -> list[Any]:
    """Runs with all of these tags, oldest first."""
    condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    return list(client.search_runs([experiment], condition, order_by=["attributes.start_time ASC"]))


def orchestrated() -> dict[str, str]:
    """The tag that leads from a run to the pipeline's run on a cluster that this process is part of, if it is."""
    run = os.environ.get(RUN_KEY)
    return {ORCHESTRATED: run} if run else {}


def key_name(key: str) -> str:
    """A key as MLflow takes it: letters, digits and `_ - . / : space`, at most 250."""
    return re.sub(r"[^\w/ .:-]", "_", key.replace("@", "_at_"))[:250]


def flatten(section: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The values of nested mappings as `a.b` keys; lists as JSON."""
    if not isinstance(section, Mapping):
        return
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else canonical_json(value)


def champion(client: Any) -> Any | None:
    """The model version with the alias `champion`, or None if there is none yet."""
    return _known(lambda: client.get_model_version_by_alias(MODEL, CHAMPION))


def find_version(uri: str) -> tuple[Any, Any | None]:
    """A client, and the model version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` means (None: there is none).

    Raises UsageError for another form, InputError if the store cannot be reached. A look makes no sqlite file.
    """
    found = REGISTERED.fullmatch(uri)
    if not found:
        raise UsageError(f"{uri}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    path = database()
    if path is not None and not path.exists():
        return None, None
    client = connect()
    with tracking_errors():
        if found["alias"]:
            return client, _known(lambda: client.get_model_version_by_alias(found["name"], found["alias"]))
        return client, _known(lambda: client.get_model_version(found["name"], found["version"]))


def _known(look_up: Callable[[], Any]) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return look_up()
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def logged_model_id(version: Any) -> str:
    """The id of the logged model that a registered version was made from."""
    return str(version.source).removeprefix("models:/")


def fetch_model(client: Any, version: Any) -> Path:
    """The sentence-transformers folder of a model version: where it lies, or a copy below .embedmill/models.

    Raises InputError if its files are gone.
    """
    location: str = client.get_logged_model(logged_model_id(version)).artifact_location
    if urlsplit(location).scheme in ("", "file"):
        folder = storage.local_path(location)
        if not folder.is_dir() and ARTIFACTS in folder.parts:  # the project's folder was moved
            folder = Path(*folder.parts[folder.parts.index(ARTIFACTS) :])
        folder = folder / MODEL_FOLDER
        if not folder.is_dir():
            raise InputError(f"{MODEL} version {version.version}: its files are missing at {folder}")
        return folder
    weights = version.tags.get(WEIGHTS_TAG)
    if weights is None:
        raise InputError(
            f"{version.name} version {version.version}: has no tag {WEIGHTS_TAG}, so embedmill did not make it"
        )
    return _download(f"{location}/{MODEL_FOLDER}", weights)


def _download(uri: str, weights: str) -> Path:
    """A copy of the model at `uri`, kept by the digest of its weights, which are compared before it is kept."""
    target = DOWNLOADS / weights
    if target.is_dir():
        return target
    import mlflow

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as part:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=part))
        if digest_weights(folder) != weights:
            raise InputError(f"{uri}: other weights than were registered, by their SHA-256")
        try:
            folder.replace(target)
        except OSError:  # another process has put the same files there
            if not target.is_dir():
                raise
            shutil.rmtree(folder)
    return target
