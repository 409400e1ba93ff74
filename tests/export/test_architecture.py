"""What a card says of a model is what stands in its files, as sentence-transformers wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.core.measure import Scores
from components.core.prompts import Prompts
from components.core.suite import StsTask
from components.export.architecture import read_architecture
from components.export.card import model_card
from components.export.params import ExportParams

TRAINING = {"data": "0123456789abcdef", "records": {"pairs": 12}, "languages": {"en": 12}}
TASK = StsTask("graded", "en", ["a"], ["b"], [1.0])
MEASURED: dict[str, dict[int, Scores]] = {"graded": {24: {"spearman": 50.0}}}


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with cls pooling and a scaling layer, saved by sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("transformer")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    sizes: dict[str, Any] = {
        "vocab_size": 7, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    }  # fmt: skip
    BertModel(BertConfig(**sizes)).save_pretrained(folder / "plain")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "plain")
    modules = [
        Transformer(str(folder / "plain"), max_seq_length=32),
        Pooling(16, "cls"),
        Dense(16, 24, activation_function=None),
        Normalize(),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


def test_a_transformer_is_described_by_its_files(transformer: Path) -> None:
    architecture = read_architecture(str(transformer))
    text = " ".join(architecture.sentences)
    assert architecture.kind == "transformer"
    # embeddings 7·16 + 512·16 + 2·16 + 2·16, a layer 4·(16·16+16) + 16·32+32 + 32·16+16 + 4·16, pooler and dense
    assert architecture.parameters == 8368 + 2 * 2224 + 272 + 24 * 16 + 24
    assert "BERT family: 2 layers of 16 with 2 attention heads, 7 kinds of token" in text
    assert "first 32 tokens" in text
    assert "the vector of the first token" in text
    assert "makes 24 dimensions of 16" in text


def test_the_card_of_a_transformer_says_nothing_of_static_vectors(transformer: Path) -> None:
    prompts = Prompts("Find: ", "", "")
    config = {"matryoshka_dims": [24], "training": {**TRAINING, "base": "org/name"}, **prompts.config()}
    card = model_card(ExportParams(), read_architecture(str(transformer)), config, [TASK], MEASURED)
    assert "static-embedding" not in card.split("---")[1]
    assert "No attention" not in card
    assert "model.encode_query(" in card
    assert "Started from `org/name`" in card
    assert "templates" not in card


def test_a_template_that_sentence_transformers_cannot_fill_in_is_said(transformer: Path) -> None:
    config = {"matryoshka_dims": [24], "training": TRAINING, **Prompts("Find {text}!").config()}
    card = model_card(ExportParams(), read_architecture(str(transformer)), config, [TASK], MEASURED)
    assert 'query `"Find {text}!"`' in card
    assert "Pretrained from scratch" in card
