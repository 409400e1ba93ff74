"""The model before the first step: a table or a transformer from scratch, or a published transformer made to fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from components.core.errors import UsageError
from components.core.prompts import Prompts
from components.pretrain.initial import initial_table, read_token_weights, read_vectors
from components.pretrain.params import PretrainParams
from components.training.corpus import Corpus
from components.training.model import StaticModel, check_dims
from components.training.positions import extend_positions
from components.training.pretrained import find_folder, read_transformer
from components.training.session import limit_tokens
from components.training.settings import longest
from components.training.tokens import SidedTokens
from components.training.transformer import TransformerModel, new_transformer
from components.training.vocabulary import learn_tokenizer, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from components.training.encoder import Encoder

DIMS = "pretrain.matryoshka.dims"


def prompts_of(params: PretrainParams) -> Prompts:
    """The prompts of queries, passages and other texts."""
    return Prompts(**params.prompts.model_dump())


def find_tokenizer(params: PretrainParams, corpus: Corpus) -> Tokenizer:
    """The tokenizer of a model from scratch: learned from the corpus, or given. It cuts texts at `max_tokens`."""
    if params.tokenizer == "train":
        tokenizer = learn_tokenizer(corpus.sample(params.sample_characters), params.vocab_size, params.min_frequency)
    else:
        tokenizer = load_tokenizer(params.tokenizer)
    tokenizer.enable_truncation(longest(params.max_tokens))
    return tokenizer


def start_static(
    params: PretrainParams, tokenizer: Tokenizer, tokens: SidedTokens, seed: int, teachers: Mapping[str, Encoder]
) -> StaticModel:
    """A table with a row for each token of the corpus: see `initial_table`, or as files say."""
    import torch

    wanted, dims = params.model, params.matryoshka.descending[0]
    weight_V = None if wanted.token_weights is None else read_token_weights(wanted.token_weights, tokenizer)
    if wanted.vectors is None:
        table_VD = initial_table(tokenizer, tokens.stores, dims, seed, teachers, params.teacher_share, weight_V)
    else:
        table_VD = read_vectors(wanted.vectors, tokenizer, dims)
        table_VD = table_VD if weight_V is None else table_VD * weight_V[:, None]
    return StaticModel(tokenizer, torch.from_numpy(table_VD))


def start_transformer(params: PretrainParams, corpus: Corpus, seed: int) -> TransformerModel:
    """The transformer that `pretrain.model` describes. Raises UsageError where its parts do not fit."""
    wanted = params.model
    if wanted.name is None:
        tokenizer = find_tokenizer(params, corpus)
        sizes = {name: getattr(wanted, name) for name in ("layers", "hidden", "heads", "intermediate", "max_positions")}
        model = new_transformer(tokenizer, seed, **sizes, pooling=wanted.pooling or "mean")
    else:
        if params.tokenizer != "train":
            raise UsageError(
                f"pretrain.tokenizer: {params.tokenizer}: {wanted.name} brings its own tokenizer; leave it at train"
            )
        model = read_transformer(find_folder(wanted.name), wanted.pooling)
    if wanted.positions is not None:
        extend_positions(model, wanted.positions.length, wanted.positions.alpha)
    if wanted.dense is not None and wanted.dense != model.dims:
        model.add_dense(wanted.dense, seed)
    limit_tokens(model, params.max_tokens, "pretrain.max_tokens")
    for dims in params.matryoshka.dims or ():
        check_dims(model, dims, DIMS)
    return model
