"""Positions by hierarchical decomposition: what was learned stays, what is new follows the formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ModernBertConfig, ModernBertModel, XLMRobertaConfig, XLMRobertaModel

from components.core.errors import UsageError
from components.training.model import load_model, save_model
from components.training.positions import decompose, extend_positions
from components.training.tokens import tokenise
from components.training.transformer import TransformerModel, new_transformer
from components.training.vocabulary import learn_tokenizer

CORPUS = ["read a csv file into a table", "北京大学 open the socket", "merge two tables by key"]


@pytest.fixture
def model() -> TransformerModel:
    tokenizer = learn_tokenizer(CORPUS, 200, 1)
    return new_transformer(tokenizer, 3, layers=2, hidden=32, heads=2, intermediate=48, max_positions=16)


def test_formula_by_hand() -> None:
    # p = (1, 3), α = 0.25: u = (1, 11/3); q₃ = ¼·11/3 + ¾·1, q₄ = 11/3
    longer = decompose(torch.tensor([[1.0], [3.0]]), 4, 0.25)
    torch.testing.assert_close(longer, torch.tensor([[1.0], [3.0], [5 / 3], [11 / 3]]))


def test_the_formula_itself_reproduces_the_first_positions() -> None:
    torch.manual_seed(0)
    known = torch.randn(512, 24)
    longer = decompose(known, 2048, 0.4)
    assert torch.equal(longer[:512], known)  # the same bytes
    base = (known.double() - 0.4 * known[0].double()) / 0.6
    torch.testing.assert_close((0.4 * base[0] + 0.6 * base).float(), known, rtol=0, atol=1e-6)
    torch.testing.assert_close(longer[1500], (0.4 * base[2] + 0.6 * base[476]).float())
    assert len(torch.unique(longer, dim=0)) == 2048


def test_a_text_within_the_old_limit_keeps_its_vector(model: TransformerModel, tmp_path: Path) -> None:
    texts = [CORPUS[0], "table " * 30, "table " * 100]
    before = model.encode(texts)
    extend_positions(model, 40)
    bags = tokenise(model.tokenizer, texts, special=True)
    assert bags.lengths.tolist()[1:] == [32, 40]
    after = model.encode(texts)
    assert np.array_equal(before[0], after[0])
    assert not np.allclose(before[1], after[1], atol=1e-4)  # no longer cut at 16
    save_model(model, str(tmp_path / "long"), {})
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(tmp_path / "long"))
    assert theirs.max_seq_length == theirs.tokenizer.model_max_length == 40
    np.testing.assert_allclose(theirs.encode(texts), after, atol=1e-5)
    assert load_model(str(tmp_path / "long"))[0].digest == model.digest


def test_positions_before_the_first_stay_out_of_it() -> None:
    """XLM-R keeps the rows up to its padding number out of use."""
    tokenizer = new_transformer(learn_tokenizer(CORPUS, 200, 1), 0, layers=1, hidden=32, heads=2).tokenizer
    config = XLMRobertaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=18, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = TransformerModel(XLMRobertaModel(config), tokenizer, "mean", 16, None, {"tokenizer_config.json": b"{}"})
    assert (model.first_position, model.capacity) == (2, 16)
    before, table = model.encode(CORPUS), model.encoder.embeddings.position_embeddings.weight.detach().clone()
    extend_positions(model, 100)
    assert np.array_equal(model.encode(CORPUS), before)
    longer = model.encoder.embeddings.position_embeddings.weight.detach()
    assert torch.equal(longer[:18], table)
    assert len(longer) == model.encoder.config.max_position_embeddings == 102
    torch.testing.assert_close(longer[2:], decompose(table[2:], 100, 0.4))


@pytest.mark.parametrize(
    ("length", "alpha", "said"),
    [(16, 0.4, "17 to 256"), (257, 0.4, "17 to 256"), (32, 0.5, "other than 0.5"), (32, 1.0, "between 0 and 1")],
)
def test_what_cannot_be_is_refused(model: TransformerModel, length: int, alpha: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        extend_positions(model, length, alpha)


def test_rotary_positions_need_no_extension(model: TransformerModel) -> None:
    config = ModernBertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        pad_token_id=0, bos_token_id=0, eos_token_id=1, cls_token_id=0, sep_token_id=1,
    )  # fmt: skip
    rotary = TransformerModel(ModernBertModel(config), model.tokenizer, "cls", 16, None, {})
    with pytest.raises(UsageError, match="no learned positions"):
        extend_positions(rotary, 32)
