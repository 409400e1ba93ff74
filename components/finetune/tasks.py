"""The tasks of fine-tuning: what the records of each are trained on, and how their batches follow one another."""

from __future__ import annotations

import numpy as np

from components.core.errors import UsageError
from components.finetune.params import FinetuneParams
from components.training.corpus import RetrievalRows, Rows
from components.training.distributed import World
from components.training.dynamic import HardNegatives, Pool, Rule
from components.training.mining import Window
from components.training.objectives import ClassContrast, Matryoshka, Objective, Similarity
from components.training.plan import TASK_OF, Roles, Schedule
from components.training.session import Session
from components.training.tokens import SidedTokens


def shared(params: FinetuneParams) -> dict[str, int]:
    """What the processes share out evenly, by key: roles of a balanced step, else the rows of a batch."""
    if params.schedule.sampling == "balanced":
        return {"schedule.roles": params.schedule.roles.total}
    if params.schedule.batch_tokens is not None:
        return {}
    return {f"{task}.batch_size": getattr(params, task).batch_size for task in TASK_OF}


def hard_negatives(params: FinetuneParams, pairs: RetrievalRows, dims: int, world: World) -> HardNegatives | None:
    """The negatives that are mined for ``pairs`` with a model of ``dims`` dimensions, not mined yet; or None."""
    mining = params.mining
    if not mining.negatives or not len(pairs.query):
        return None
    passage_P, wanted = np.unique(pairs.positive), mining.negatives * retrieval_roles(params)
    if len(passage_P) <= wanted:
        raise UsageError(
            f"finetune.mining.negatives: {wanted} for a query, the records have {len(passage_P)} distinct passages; "
            f"allowed: up to {len(passage_P) - 1} over all retrieval roles"
        )
    pool = Pool(
        pairs.query,
        pairs.positive,
        passage_P,
        Window(mining.first, mining.last, mining.ceiling),
        min(mining.dims, dims),
        world.device.type,
    )
    rule = Rule(**mining.dynamic.model_dump()) if mining.dynamic else None
    return HardNegatives(pool, mining.negatives, rule, pairs.negatives, retrieval_roles(params), world)


def objectives(
    params: FinetuneParams,
    session: Session,
    pairs: RetrievalRows,
    negatives: Rows | HardNegatives,
    matryoshka: Matryoshka,
    tokens: SidedTokens,
) -> list[Objective]:
    """The objectives of the tasks that have records; ``negatives`` are those of ``pairs``."""
    graded = session.corpus.similarity(tokens)
    classes = session.corpus.classes(tokens, params.classes.negatives, session.ctx.seed)
    counted = tokens if params.schedule.batch_tokens is not None else None
    found: list[Objective] = [
        session.retrieval(params.retrieval, "finetune.retrieval", pairs, negatives, matryoshka),
        Similarity(
            graded.left,
            graded.right,
            graded.label,
            graded.repeat,
            params.similarity.batch_size,
            1 / params.similarity.temperature,
            matryoshka,
            params.similarity.weight,
        ),
        ClassContrast(
            classes.text,
            classes.label,
            classes.others,
            classes.repeat,
            params.classes.batch_size,
            1 / params.classes.temperature,
            matryoshka,
            params.classes.weight,
        ),
    ]
    tasks = (
        pairs.task(params.retrieval.batch_size, counted, params.mining.negatives * retrieval_roles(params)),
        graded.task(params.similarity.batch_size, counted),
        classes.task(params.classes.batch_size, counted),
    )
    for objective, task in zip(found, tasks, strict=True):
        objective.task = task
    return [objective for objective in found if len(objective.task)]


def schedule(params: FinetuneParams) -> Schedule:
    """How the tasks' batches follow one another."""
    wanted = params.schedule
    return Schedule(
        wanted.sampling,
        {str(task): weight for task, weight in wanted.weights.items()},
        Roles(**wanted.roles.model_dump()),
        wanted.batch_tokens,
        wanted.same_source,
        "finetune",
    )


def retrieval_roles(params: FinetuneParams) -> int:
    """How many roles bring negatives of their own."""
    return params.schedule.roles.retrieval if params.schedule.sampling == "balanced" else 1
