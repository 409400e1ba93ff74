"""Search over a real tiny model: what is found, in which order, from which index, and what is said when it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from components.core import tracking
from components.core.errors import InputError, UsageError
from components.core.fingerprint import digest_file
from components.core.manifest import Dataset
from components.search import champion as champion_module
from components.search import index as index_module
from components.search.champion import find_champion
from components.search.command import search as command
from components.search.corpus import corpus_table
from components.search.index import Index, open_index
from components.search.search import CORPUS, search
from components.training.encoder import open_encoder
from tests.register.tiny_run import PASSAGES, passage_rows, register, write_dataset, write_model, write_run

MODEL = "models/export"


def test_the_nearest_passage_comes_first(corpus: Path) -> None:
    hits = search("parse json", k=2, model=MODEL)
    assert hits[0].title == "json.loads"
    assert hits[0].text == PASSAGES["json.loads"]
    assert hits[0].source == "pydoc.named"
    assert hits[0].score > hits[1].score


def test_each_passage_of_both_datasets_is_there_once(corpus: Path) -> None:
    hits = search("read a csv file", k=99, model=MODEL)
    assert sorted(hit.title for hit in hits) == sorted([*PASSAGES, "Read a table."])
    extra = next(hit for hit in hits if hit.source == "web")
    assert (extra.title, extra.url) == ("Read a table.", "https://example.org")
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_data_without_retrieval_pairs_gives_its_sentences(tmp_path: Path) -> None:
    pair = {"task": "cosent", "text": "打开文件", "label": 1.0, "source": "atec"}
    pairs = [{**pair, "text_pair": other} for other in ("读文件", "打开文件")]
    write_dataset(tmp_path / "d", pairs)
    assert corpus_table([Dataset.open(str(tmp_path / "d"))])["text"].to_pylist() == ["打开文件", "读文件"]


def test_vectors_are_cut_to_the_leading_dimensions_and_equal_scores_keep_their_order() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 0], [0.6, 0.8], [1, 0]], np.float32)
    index = Index(vectors, pa.table({"text": list("abcde")}))
    assert index.nearest(np.array([1, 0], np.float32), 2)[0] == [0, 2]
    assert index.nearest(np.array([1, 0], np.float32), 9)[0] == [0, 2, 4, 3, 1]


def test_an_index_is_built_once_and_again_for_other_data_or_another_model(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    real = index_module._build
    monkeypatch.setattr(index_module, "_build", lambda folder, *rest: (built.append(folder.name), real(folder, *rest)))
    for _ in range(2):
        search("csv", model=MODEL)
    assert len(built) == 1
    write_dataset(corpus / "data/score", passage_rows()[:2])
    search("csv", model=MODEL)
    write_model(corpus / MODEL, seed=1)
    search("csv", model=MODEL)
    assert len(set(built)) == 3
    for seed in range(2, 5):
        write_model(corpus / MODEL, seed=seed)
        search("csv", model=MODEL)
    left = sorted(path.name for path in index_module.FOLDER.iterdir())
    assert len(left) == index_module.KEPT
    assert built[-1] in left


def test_an_index_that_was_cut_off_is_never_read(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut(BaseException):
        pass

    def cut(*_: object) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(index_module, "_write_vectors", cut)
        with pytest.raises(Cut):
            search("csv", model=MODEL)
    assert search("parse json", k=1, model=MODEL)[0].title == "json.loads"


def test_an_index_is_the_same_bytes_again(corpus: Path) -> None:
    files = ("vectors.npy", "passages.arrow")

    def digests() -> list[str]:
        open_index(open_encoder(MODEL), CORPUS)
        folder = next(index_module.FOLDER.iterdir())
        found = [digest_file(folder / name) for name in files]
        for name in files:
            (folder / name).unlink()
        folder.rmdir()
        return found

    assert digests() == digests()


@pytest.mark.parametrize(
    ("query", "model", "error", "message"),
    [
        ("  ", MODEL, UsageError, "the query is empty"),
        ("xylophone", MODEL, UsageError, "knows no part of 'xylophone'"),
        ("csv", "models/none", UsageError, "models/none"),
        ("csv", "champion", InputError, "no champion yet; `embedmill run` trains one"),
    ],
)
def test_what_cannot_be_searched(corpus: Path, query: str, model: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        search(query, model=model)
    assert not Path("mlflow.db").exists()


def test_a_corpus_that_is_missing_or_empty(corpus: Path) -> None:
    with pytest.raises(InputError, match=r"data/none: no manifest\.json"):
        search("csv", model=MODEL, corpus=["data/none"])
    write_dataset(corpus / "data/empty", [])
    with pytest.raises(InputError, match="data/empty: no passages to search"):
        search("csv", model=MODEL, corpus=["data/empty"])


def test_output_for_pipes_and_programs(corpus: Path) -> None:
    plain = CliRunner().invoke(command, ["parse", "json", "-k", "1", "--model", MODEL], catch_exceptions=False)
    assert plain.output.splitlines()[0].split("  ")[1:] != []
    first, *lines = plain.output.splitlines()
    assert first.endswith("json.loads  [pydoc.named]")
    assert [line.strip() for line in lines] == ["loads(text)", "Parse json."]
    result = CliRunner().invoke(command, ["parse json", "--model", MODEL, "--json"], catch_exceptions=False)
    hits = json.loads(result.output)
    assert hits[0]["title"] == "json.loads"
    assert hits[0]["text"] == PASSAGES["json.loads"]


def test_the_champion_is_found_and_looked_up_again_only_after_a_change(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(project)
    register()
    asked: list[int] = []
    real = tracking.connect
    monkeypatch.setattr(champion_module.tracking, "connect", lambda: (asked.append(1), real())[1])
    first = find_champion()
    assert find_champion() == first
    assert (first.version, len(asked)) == ("1", 1)
    assert search("parse json", k=1)[0].title == "json.loads"
    write_run(project, seed=1, score=55.0)
    register()
    asked.clear()
    second = find_champion()
    assert (second.version, len(asked)) == ("2", 1)
    assert second.folder != first.folder
    client = real()
    client.set_registered_model_alias(tracking.MODEL, tracking.CHAMPION, "1")
    assert find_champion() == first


def test_a_repeated_search_needs_neither_mlflow_nor_sentence_transformers(project: Path) -> None:
    write_run(project)
    register()
    search("csv")
    script = (
        "import sys\n"
        "from components.search.search import search\n"
        "assert search('parse json', k=1)[0].title == 'json.loads'\n"
        "print(sorted({'mlflow', 'sentence_transformers', 'transformers', 'faiss'} & set(sys.modules)))\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_queries_and_passages_get_the_prompts_that_the_model_was_trained_with(corpus: Path) -> None:
    before = search("parse json", k=2, model=MODEL)
    config = corpus / MODEL / "config_sentence_transformers.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prompts": {"query": "read csv file " * 4}}))
    after = search("parse json", k=2, model=MODEL)
    assert before[0].title == "json.loads"
    assert after[0].title != "json.loads"
