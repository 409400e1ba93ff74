"""A transformer as `pretrain.model` describes it: what a folder has is kept where it fits, the rest is added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.records import record_table
from components.pretrain.params import PretrainParams
from components.pretrain.start import start_static, start_transformer
from components.training.corpus import Corpus
from components.training.model import save_model
from components.training.tokens import SidedTokens, build_store
from components.training.transformer import TransformerModel, new_transformer
from components.training.vocabulary import learn_tokenizer

TEXTS = ["read a csv file into a table", "open the socket", "merge two tables by key"]


@pytest.fixture
def saved(tmp_path: Path) -> TransformerModel:
    """A model with a scaling layer, as a folder."""
    model = new_transformer(
        learn_tokenizer(TEXTS, 200, 1), 3, layers=1, hidden=16, heads=2, intermediate=16, max_positions=24
    )
    model.add_dense(28, 5)
    save_model(model, str(tmp_path / "model"), {})
    return model


def start(folder: Path, **wanted: Any) -> TransformerModel:
    model = {"type": "transformer", "name": str(folder / "model"), **wanted}
    params = PretrainParams.model_validate({"model": model, "matryoshka": {"dims": [16]}, "max_tokens": 20})
    record = {"task": "retri_contrast", "text": TEXTS[0], "text_pos": TEXTS[1], "source": "a"}
    return start_transformer(params, Corpus(record_table([record]), "digest", "data/x"), seed=1)


@pytest.mark.parametrize("dense", [None, 28])
def test_a_scaling_layer_that_fits_is_kept(dense: int | None, saved: TransformerModel, tmp_path: Path) -> None:
    found = start(tmp_path, dense=dense)
    assert found.dims == 28
    assert np.array_equal(found.encode(TEXTS), saved.encode(TEXTS))


def test_another_size_is_a_new_layer_on_the_same_encoder(saved: TransformerModel, tmp_path: Path) -> None:
    found = start(tmp_path, dense=1792)
    assert (found.dims, found.encode(TEXTS).shape) == (1792, (3, 1792))
    assert found.dense is not None
    assert found.dense.in_features == 16
    assert np.array_equal(start(tmp_path, dense=1792).encode(TEXTS), found.encode(TEXTS))  # a function of the seed
    theirs = dict(saved.encoder.named_parameters())
    assert all(
        np.array_equal(weight.detach(), theirs[name].detach()) for name, weight in found.encoder.named_parameters()
    )


def test_positions_are_extended_before_texts_are_cut(saved: TransformerModel, tmp_path: Path) -> None:
    found = start(tmp_path, positions={"length": 60})
    assert found.capacity == 60
    assert np.array_equal(found.encode(TEXTS), saved.encode(TEXTS))


def test_a_table_starts_from_given_vectors_and_weights_by_token_or_number(tmp_path: Path) -> None:
    tokenizer = learn_tokenizer(TEXTS, 60, 1)
    count = tokenizer.get_vocab_size()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    table_VD = np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", table_VD)
    weight_V = np.ones(count, np.float32)
    weight_V[tokenizer.token_to_id("table")] = 0.25
    np.save(tmp_path / "weights.npy", weight_V)
    (tmp_path / "weights.json").write_text('{"table": 0.25, "unheard of": 7}')
    tokens = SidedTokens.same(build_store(tmp_path / "tokens", tokenizer, TEXTS, "all"))

    def start(**files: str) -> np.ndarray:
        model = {name: str(tmp_path / file) for name, file in files.items()}
        given = {"model": model, "tokenizer": str(tmp_path / "tokenizer.json"), "matryoshka": {"dims": [16, 8]}}
        made = start_static(PretrainParams.model_validate(given), tokenizer, tokens, 0, {})
        return np.asarray(made.weight_VD)

    assert np.array_equal(start(vectors="vectors.npy"), table_VD)
    for file in ("weights.npy", "weights.json"):
        assert np.array_equal(start(vectors="vectors.npy", token_weights=file), table_VD * weight_V[:, None])
    plain, weighed = start(), start(token_weights="weights.json")
    assert not np.array_equal(plain, weighed)
