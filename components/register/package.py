"""The model as MLflow keeps it: the exported folder byte for byte, with signature, input example and requirements.

MLflow's own sentence-transformers flavour loads the model and saves it again. Copying keeps what was measured: the
same weights, config and model card, and no need for torch here. The flavour reads the result as one of its own.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from components.core.tracking import MODEL, MODEL_FOLDER, WEIGHTS_TAG
from components.register.candidate import Candidate
from components.register.runs import IDENTITY

FLAVOUR = "sentence_transformers"
WORK = Path(".embedmill/register")
# What serving needs; MLflow would find it out by loading the model in a process of its own, which takes a minute.
REQUIREMENTS = ("mlflow", "numpy", "safetensors", "sentence-transformers", "tokenizers", "torch", "transformers")
EXAMPLE = ("read a csv file into a table",)


def ensure_logged_model(client: Any, parent: Any, candidate: Candidate) -> str:
    """The id of the logged model of this candidate; one that an earlier attempt left unfinished is completed."""
    experiment = parent.info.experiment_id
    found = client.search_logged_models([experiment], filter_string=f"tags.{IDENTITY} = '{candidate.identity}'")
    mine = [model for model in found if model.source_run_id == parent.info.run_id]
    model = (
        mine[0]
        if mine
        else client.create_logged_model(
            experiment,
            name=MODEL,
            source_run_id=parent.info.run_id,
            tags={IDENTITY: candidate.identity, WEIGHTS_TAG: candidate.weights},
            params={"dims": str(candidate.dims)},
            model_type="embedding",
        )
    )
    if str(model.status) != "READY":
        WORK.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=WORK) as part:
            write_package(Path(part), candidate, parent.info.run_id, model.model_id)
            client.log_model_artifacts(model.model_id, part)
        client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def write_package(folder: Path, candidate: Candidate, run_id: str, model_id: str) -> None:
    """Write an MLflow model into an empty folder."""
    from mlflow import pyfunc
    from mlflow.models import Model
    from mlflow.models.utils import _save_example

    model = Model(run_id=run_id, model_id=model_id, model_uuid=model_id, signature=_signature(candidate.dims))
    _save_example(model, list(EXAMPLE), str(folder))
    shutil.copytree(candidate.folder, folder / MODEL_FOLDER, copy_function=_link_or_copy)
    model.add_flavor(FLAVOUR, sentence_transformers_version=version("sentence-transformers"), code=None)
    pyfunc.add_to_model(model, loader_module=f"mlflow.{FLAVOUR}", data=MODEL_FOLDER, python_env="python_env.yaml")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements()), encoding="utf-8")
    (folder / "python_env.yaml").write_text(
        f"python: {platform.python_version()}\nbuild_dependencies:\n- pip\ndependencies:\n- -r requirements.txt\n",
        encoding="utf-8",
    )
    model.model_size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    model.save(str(folder / "MLmodel"))


def requirements() -> list[str]:
    """Pinned requirements; a local build tag such as `+cpu` names no release that others could install."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def _signature(dims: int) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    return ModelSignature(Schema([ColSpec("string")]), Schema([TensorSpec(np.dtype("float32"), (-1, dims))]))


def _link_or_copy(source: str, target: str) -> None:
    """MLflow copies (or sends) the files once more, so that a second name for the same bytes is enough here."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
