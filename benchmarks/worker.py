"""Runs one peer inside its own environment: `python worker.py TASK TEXTS OPTIONS`, one measurement a line of stdin.

TEXTS is a file of JSON lines with `id` and `text` (or `html`), read before anything is measured; OPTIONS is JSON. Each
line answered on stdout is JSON: CPU seconds (this process, its threads and its finished children) of the stage alone,
and what came out.
This file imports nothing of the project.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

WIDTH = 5
PERMUTATIONS = 128

Run = Callable[[], Any]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what peers print does not mix with the answers
    task, path, options = sys.argv[1:4]
    with Path(path).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    with tempfile.TemporaryDirectory() as scratch:
        prepare = TASKS[task](rows, json.loads(options), Path(scratch))
        for _ in sys.stdin:
            run, finish = prepare()
            gc.collect()
            start = cpu_seconds()
            value = run()
            taken = cpu_seconds() - start
            print(json.dumps({"cpu": taken, "value": finish(value)}), file=answers, flush=True)


def cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def character_shingles(text: str) -> list[str]:
    return [text[start : start + WIDTH] for start in range(max(1, len(text) - WIDTH + 1))]


def nothing(value: Any) -> None:
    return None


# Signatures: texts in memory → 128 values each.


def datasketch_signatures(rows: list[dict[str, str]], options: dict[str, Any], scratch: Path) -> Any:
    from datasketch import MinHash

    texts = [row["text"] for row in rows]

    def run() -> Any:
        sets = ([shingle.encode() for shingle in character_shingles(text)] for text in texts)
        return [found.digest() for found in MinHash.generator(sets, num_perm=PERMUTATIONS)]

    return lambda: (run, len)


def rensa_signatures(rows: list[dict[str, str]], options: dict[str, Any], scratch: Path) -> Any:
    from rensa import RMinHash

    texts = [row["text"] for row in rows]
    name = "digest_matrix_from_token_sets_rho" if options.get("rho") else "digest_matrix_from_token_sets"
    digest = getattr(RMinHash, name)

    def run() -> Any:
        return digest([character_shingles(text) for text in texts], PERMUTATIONS, 42)

    return lambda: (run, nothing)


def gaoya_signatures(rows: list[dict[str, str]], options: dict[str, Any], scratch: Path) -> Any:
    from gaoya.minhash import MinHashStringIndex

    texts = [row["text"] for row in rows]

    def run() -> Any:
        index = MinHashStringIndex(
            hash_size=32,
            jaccard_threshold=0.8,
            num_bands=16,
            band_size=8,
            analyzer="char",
            lowercase=False,
            ngram_range=(WIDTH, WIDTH),
        )
        for number, text in enumerate(texts):
            index.insert_document(number, text)
        return index

    return lambda: (run, nothing)


def character_tokenizer() -> Any:
    """A tokenizer of datatrove's own kind whose words are characters: its 5-grams are then character 5-grams."""
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Characters(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return list(text)

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    return Characters()


def datatrove_config(normalise: bool = True) -> Any:
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.text import TextNormConfig

    norm = TextNormConfig() if normalise else TextNormConfig(**dict.fromkeys(vars(TextNormConfig()), False))
    return MinhashConfig(n_grams=WIDTH, num_buckets=16, hashes_per_bucket=PERMUTATIONS // 16, norm_config=norm)


def datatrove_signatures(rows: list[dict[str, str]], options: dict[str, Any], scratch: Path) -> Any:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupSignature

    quiet_datatrove()
    documents = [Document(text=row["text"], id=row["id"]) for row in rows]

    def prepare() -> tuple[Run, Callable[[Any], Any]]:
        folder = tempfile.mkdtemp(dir=scratch)
        config = datatrove_config(options["normalise"])
        stage = MinhashDedupSignature(folder, config=config, language=character_tokenizer())
        return lambda: stage.run(documents), nothing

    return prepare


def quiet_datatrove() -> None:
    from datatrove.utils.logging import logger

    logger.remove()


# Whole deduplication: documents in a file → the ids of those that stay.


def datatrove_deduplication(rows: list[dict[str, str]], options: dict[str, Any], scratch: Path) -> Any:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    os.environ["DATATROVE_COLORIZE_LOGS"] = "0"
    source = scratch / "documents"
    source.mkdir()
    (source / "part.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def prepare() -> tuple[Run, Callable[[Any], Any]]:
        home = Path(tempfile.mkdtemp(dir=scratch))
        config = datatrove_config()

        def reader() -> Any:
            return JsonlReader(str(source))

        signatures, buckets, removed = (str(home / name) for name in ("signatures", "buckets", "removed"))
        output = home / "output"
        signature = MinhashDedupSignature(signatures, config=config, language=character_tokenizer())
        stages: list[tuple[list[Any], int]] = [
            ([reader(), signature], 1),
            ([MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets),
            ([MinhashDedupCluster(buckets, removed, config=config)], 1),
            ([reader(), MinhashDedupFilter(removed), JsonlWriter(str(output), compression=None)], 1),
        ]

        def run() -> None:
            for number, (pipeline, tasks) in enumerate(stages):
                logs = str(home / f"logs{number}")
                LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=logs).run()

        def survivors(_: Any) -> list[str]:
            kept: list[str] = []
            for file in sorted(output.glob("*.jsonl")):
                kept += [json.loads(line)["id"] for line in file.read_text(encoding="utf-8").splitlines()]
            shutil.rmtree(home)
            return kept

        return run, survivors

    return prepare


def textdedup_deduplication(rows: list[dict[str, str]], options: dict[str, Any], scratch: Path) -> Any:
    import datasets
    from text_dedup import minhash

    datasets.disable_progress_bars()
    datasets.disable_caching()
    # its shingles are n-grams of words, split at what is no letter or digit: where a language writes no spaces (or the
    # caller says so), the characters are set apart
    spaced = options["characters"]
    columns = {
        "id": [row["id"] for row in rows],
        "text": [" ".join(row["text"]) if spaced else row["text"] for row in rows],
    }
    source = str(scratch / "documents")
    datasets.Dataset.from_dict(columns).save_to_disk(source)

    def prepare() -> tuple[Run, Callable[[Any], Any]]:
        output = tempfile.mkdtemp(dir=scratch)
        arguments = ["--path", source, "--local", "--output", output, "--column", "text", "--num_proc", "1"]
        arguments += ["--ngram", str(WIDTH), "--num_perm", str(PERMUTATIONS), "--threshold", str(options["threshold"])]
        arguments += ["--min_length", "0"]

        def survivors(_: Any) -> list[str]:
            return list(datasets.load_from_disk(output)["id"])

        return lambda: minhash.main(arguments, standalone_mode=False), survivors

    return prepare


# Extraction: HTML → main text.


def trafilatura_extraction(rows: list[dict[str, str]], options: dict[str, Any], scratch: Path) -> Any:
    from trafilatura import extract

    def run() -> dict[str, str]:
        return {row["id"]: extract(row["html"], include_comments=False, include_tables=False) or "" for row in rows}

    return lambda: (run, lambda value: value)


TASKS = {
    "datasketch_signatures": datasketch_signatures,
    "rensa_signatures": rensa_signatures,
    "gaoya_signatures": gaoya_signatures,
    "datatrove_signatures": datatrove_signatures,
    "datatrove_deduplication": datatrove_deduplication,
    "textdedup_deduplication": textdedup_deduplication,
    "trafilatura_extraction": trafilatura_extraction,
}

if __name__ == "__main__":
    main()
