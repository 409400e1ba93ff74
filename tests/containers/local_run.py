"""Run a compiled pipeline by kfp's local Docker runner: `python -m tests.containers.local_run REQUEST.json`.

The request names the file, the parameters, the images, the folder for artefacts, and the containers' environment. They
run as on a cluster: as the image's own user, on a read-only root, without capabilities.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

OWNER = "uid=10001,gid=10001"
CONTAINER = {
    "entrypoint": [],
    "network_mode": "host",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/work": f"{OWNER},exec", "/tmp": f"{OWNER},exec"},
    "shm_size": "1g",
}


def run_container(
    images: dict[str, str], client: Any, image: str, command: list[str], volumes: dict[str, Any], **more: Any
) -> int:
    """What kfp's runner does, with the image of this test's build for the name that the pipeline has.

    It also removes the container itself once its exit code is known: kfp lets Docker remove it, and takes one that is
    gone before it could ask for one that succeeded.
    """
    container = client.containers.run(image=images[image], command=command, detach=True, volumes=volumes, **more)
    try:
        for line in container.logs(stream=True):
            print(line.decode(errors="replace"), end="", flush=True)
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)


def shortly(seconds: float) -> None:
    """The pause before another attempt, for people who wait for a test."""
    time.sleep(min(seconds, 1))


def main(request: Path) -> None:
    """Run it; a pipeline that fails ends with an exception that names the task."""
    from kfp import components, local
    from kfp.local import docker_task_handler
    from kfp.local.orchestrator import task_executor

    wanted = json.loads(request.read_text(encoding="utf-8"))
    docker_task_handler.run_docker_container = partial(run_container, wanted["images"])
    task_executor.time = SimpleNamespace(sleep=shortly)
    runner = local.DockerRunner(**CONTAINER, labels=wanted["labels"], environment=wanted["environment"])
    local.init(runner=runner, pipeline_root=wanted["artefacts"], raise_on_error=True)
    components.load_component_from_file(wanted["pipeline"])(**wanted["parameters"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
