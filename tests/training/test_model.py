"""The model folder: what sentence-transformers loads is what we computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from components.core.errors import InputError
from components.training.model import StaticModel, load_model, save_model
from components.training.transformer import new_transformer
from components.training.vocabulary import learn_tokenizer
from tests.fixtures.seaweed import S3Bucket

TEXTS = ["read a csv file into a table", "readCsv 北京 table", "", "unknown: é", "file " * 30]


@pytest.fixture(scope="module")
def model() -> StaticModel:
    tokenizer = learn_tokenizer(["read a csv file into a table", "北京大学"], 200, 1)
    tokenizer.enable_truncation(20)
    torch.manual_seed(0)
    return StaticModel(tokenizer, torch.randn(tokenizer.get_vocab_size(), 16))


def test_sentence_transformers_gives_the_same_vectors(model: StaticModel, tmp_path: Path) -> None:
    save_model(model, str(tmp_path / "model"), {"matryoshka_dims": [16, 8]})
    theirs = SentenceTransformer(str(tmp_path / "model")).encode(TEXTS)
    np.testing.assert_allclose(model.encode(TEXTS), theirs, atol=1e-6)
    assert not theirs[2].any()
    short = SentenceTransformer(str(tmp_path / "model"), truncate_dim=8).encode(TEXTS)
    np.testing.assert_allclose(model.encode(TEXTS)[:, :8], short, atol=1e-6)


def test_saved_model_is_loaded_and_saved_again_byte_for_byte(model: StaticModel, tmp_path: Path) -> None:
    save_model(model, str(tmp_path / "one"), {"matryoshka_dims": [16]}, {"README.md": b"card"})
    loaded, config = load_model(str(tmp_path / "one"))
    assert loaded.digest == model.digest
    save_model(loaded, str(tmp_path / "two"), config, {"README.md": b"card"})
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_folder_that_is_no_model_is_refused(model: StaticModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no modules.json"):
        load_model(str(tmp_path))
    save_model(model, str(tmp_path), {})
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"not a static embedding model"):
        load_model(str(tmp_path))
    smaller = StaticModel(model.tokenizer, model.weight_VD[:-1])
    save_model(smaller, str(tmp_path), {})
    with pytest.raises(InputError, match=r"embedding rows, but"):
        load_model(str(tmp_path))


def test_models_live_in_s3_too(model: StaticModel, s3: S3Bucket) -> None:
    sizes = {"layers": 1, "hidden": 16, "heads": 2, "intermediate": 24, "max_positions": 24}
    transformer = new_transformer(learn_tokenizer(["read a csv file into a table"], 200, 1), 0, **sizes)
    transformer.add_dense(24, 0)
    for name, kept in {"static": model, "transformer": transformer}.items():
        save_model(kept, f"{s3.uri}/{name}", {"matryoshka_dims": [16]})
        loaded, config = load_model(f"{s3.uri}/{name}")
        assert loaded.digest == kept.digest
        assert config["matryoshka_dims"] == [16]
        np.testing.assert_array_equal(loaded.encode(TEXTS[:2]), kept.encode(TEXTS[:2]))
