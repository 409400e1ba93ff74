"""The model card: what the model is, how well it does at each dimension, what it was trained on, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from components.core.measure import Scores, main_metric
from components.core.suite import Task
from components.export.params import ExportParams

METRIC_NAMES = {"ndcg_at_10": "nDCG@10", "spearman": "Spearman"}
BYTES = 4  # of one fp32 number
USAGE_DIM = 256

Measured = Mapping[str, Mapping[int, Scores]]


def model_card(
    params: ExportParams, tokens: int, config: Mapping[str, Any], tasks: Sequence[Task], measured: Measured
) -> str:
    """The card in Markdown, with the front matter that the Hugging Face hub reads."""
    dims: list[int] = config["matryoshka_dims"]
    training: Mapping[str, Any] = config["training"]
    usual = max((dim for dim in dims if dim <= USAGE_DIM), default=min(dims))
    return "\n".join(
        [
            *_front_matter(params, list(training["languages"])),
            f"# {params.name}",
            "",
            f"A static text-embedding model: {tokens:,} token vectors of {max(dims)} dimensions; a text is the mean of",
            "its tokens' vectors. No attention and no GPU: tokenising limits the speed. Vectors can be cut to their",
            "leading dimensions.",
            "",
            "## Use",
            "",
            "```python",
            "from sentence_transformers import SentenceTransformer",
            "",
            f'model = SentenceTransformer("path/to/this/folder", truncate_dim={usual})',
            'queries, passages = model.encode(["a query"]), model.encode(["a passage", "another"])',
            "print(model.similarity(queries, passages))",
            "```",
            "",
            f"Dimensions trained for: {', '.join(map(str, dims))}. Similarity is the cosine; a cut vector is no longer",
            "of unit length, so normalise it again before using a dot product.",
            "",
            "## Measured",
            "",
            "In percent, on records kept out of training. Retrieval is over the whole held-out corpus.",
            "",
            *_scores_table(tasks, measured),
            "",
            "## Trained on",
            "",
            *_sources_table(training["records"]),
            "",
            f"Data version `{training['data'][:12]}`. Pretrained from scratch, then fine-tuned on all tasks together",
            "with mined hard negatives, by Embedmill.",
            "",
            "## Licence",
            "",
            f"{params.license}. The licences of the texts trained on apply; check them before publishing the weights.",
            "",
        ]
    )


def _front_matter(params: ExportParams, languages: Sequence[str]) -> list[str]:
    return [
        "---",
        f"license: {json.dumps(params.license)}",
        *(["language:", *(f"- {lang}" for lang in languages)] if languages else []),
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags:",
        "- sentence-transformers",
        "- static-embedding",
        "- matryoshka",
        "---",
        "",
    ]


def _scores_table(tasks: Sequence[Task], measured: Measured) -> list[str]:
    heads = [f"{task.name} ({METRIC_NAMES[main_metric(task)]})" for task in tasks]
    lines = [_row(["dimensions", "bytes", *heads]), _row(["---:"] * (2 + len(tasks)))]
    for dim in sorted(measured[tasks[0].name], reverse=True):
        scores = [f"{measured[task.name][dim][main_metric(task)]:.1f}" for task in tasks]
        lines.append(_row([str(dim), f"{dim * BYTES:,}", *scores]))
    return lines


def _sources_table(records: Mapping[str, int]) -> list[str]:
    lines = [_row(["source", "records"]), _row(["---", "---:"])]
    return [*lines, *(_row([source, f"{count:,}"]) for source, count in records.items())]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
