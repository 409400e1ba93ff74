"""The model card: what the model is, how well it does at each dimension, what it was trained on, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from components.core.measure import Scores, main_metric
from components.core.prompts import TEMPLATES, Prompts
from components.core.suite import Task
from components.export.architecture import Architecture
from components.export.params import ExportParams

METRIC_NAMES = {"ndcg_at_10": "nDCG@10", "spearman": "Spearman"}
BYTES = 4  # of one fp32 number
USAGE_DIM = 256

Measured = Mapping[str, Mapping[int, Scores]]


def model_card(
    params: ExportParams,
    architecture: Architecture,
    config: Mapping[str, Any],
    tasks: Sequence[Task],
    measured: Measured,
) -> str:
    """The card in Markdown, with the front matter that the Hugging Face hub reads."""
    dims: list[int] = config["matryoshka_dims"]
    training: Mapping[str, Any] = config["training"]
    usual = max((dim for dim in dims if dim <= USAGE_DIM), default=min(dims))
    return "\n".join(
        [
            *_front_matter(params, architecture.kind, list(training["languages"])),
            f"# {params.name}",
            "",
            *architecture.sentences,
            "Vectors can be cut to their leading dimensions.",
            "",
            "## Use",
            "",
            "```python",
            "from sentence_transformers import SentenceTransformer",
            "",
            f'model = SentenceTransformer("path/to/this/folder", truncate_dim={usual})',
            *_encoding(Prompts.of(config)),
            "print(model.similarity(queries, passages))",
            "```",
            "",
            *_template_note(config),
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
            f"Data version `{training['data'][:12]}`. {_start(training)}, then fine-tuned on all tasks together, by",
            "Embedmill.",
            "",
            "## Licence",
            "",
            f"{params.license}. The licences of the texts trained on apply; check them before publishing the weights.",
            "",
        ]
    )


def _start(training: Mapping[str, Any]) -> str:
    return f"Started from `{training['base']}`" if training.get("base") else "Pretrained from scratch"


def _encoding(prompts: Prompts) -> list[str]:
    """How queries and passages become vectors; sentence-transformers knows the prompts by name."""
    if not prompts.any():
        return ['queries, passages = model.encode(["a query"]), model.encode(["a passage", "another"])']
    return [
        'queries = model.encode_query(["a query"])',
        'passages = model.encode_document(["a passage", "another"])',
    ]


def _template_note(config: Mapping[str, Any]) -> list[str]:
    if TEMPLATES not in config:
        return []
    shown = ", ".join(f"{side} `{json.dumps(text)}`" for side, text in config[TEMPLATES].items() if text)
    return [f"It was trained on texts inside templates, which sentence-transformers does not fill in: {shown}.", ""]


def _front_matter(params: ExportParams, kind: str, languages: Sequence[str]) -> list[str]:
    return [
        "---",
        f"license: {json.dumps(params.license)}",
        *(["language:", *(f"- {lang}" for lang in languages)] if languages else []),
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags:",
        "- sentence-transformers",
        *(["- static-embedding"] if kind == "static" else []),
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
