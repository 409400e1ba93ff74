"""How far our losses and gradients are from other projects', as relative differences in fp32; the tests bound them.

sentence-transformers' losses run as installed, FlagEmbedding's in its own environment; Piccolo2's definitions, which no
package has, are written out here. Differences of a gradient are norms over the norm of the other's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import packing, peers
from benchmarks.measure import Result, Table, progress, versions

PAIRS, NEGATIVES, DIMS, SCALE, SEED = 64, 3, 128, 20.0, 1
MATRYOSHKA = [16, 32, 64, 128]
BOUND = 1e-5
FLAG = "FlagEmbedding's fine-tuning"

Found = tuple[float, Any]  # a loss and its gradient


def run() -> Result:
    """One row a loss: relative difference of value and of gradient."""
    rows = []
    for name, compare in CASES.items():
        progress(f"parity: {name}")
        (loss, gradient), (other_loss, other_gradient) = compare()
        apart = float((gradient - other_gradient).norm() / other_gradient.norm())
        rows.append([name, f"{abs(loss - other_loss) / abs(other_loss):.1e}", f"{apart:.1e}"])
    largest = max(float(value) for row in rows for value in row[1:])
    note = (
        f"{PAIRS} queries, {NEGATIVES} hard negatives each, {DIMS} dimensions, scale {SCALE:g} (FlagEmbedding 50, "
        f"Piccolo2 100), fp32 on both sides. Bound: {BOUND:g} relative."
    )
    table = Table("Relative differences", ("", "loss", "gradient"), rows, note)
    return Result("parity", [table], {"largest": largest}, _versions())


def _versions() -> dict[str, str]:
    return versions(("torch", "sentence-transformers")) | peers.versions("FlagEmbedding", environment=peers.TRAINING)


def _vectors(columns: int, seed: int = SEED) -> Any:
    import torch

    return torch.randn(columns * PAIRS, DIMS, generator=torch.Generator().manual_seed(seed))


def _theirs(make: Callable[[Any, Any], Any], columns: int, labels: Any = None) -> Found:
    """Loss and gradient of a loss of sentence-transformers, on a model whose texts are rows of a table."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    class Rows(torch.nn.Module):
        tokenizer, max_seq_length = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())), 1

        def __init__(self, seed: int) -> None:
            super().__init__()
            self.rows = torch.nn.Embedding.from_pretrained(_vectors(columns, seed), freeze=False)

        def __getitem__(self, _: int) -> Any:
            return self.rows

        def get_embedding_dimension(self) -> int:
            return DIMS

        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            return {**features, "sentence_embedding": self.rows(features["input_ids"][:, 0])}

    model, guide = Rows(SEED), Rows(SEED + 1)
    ids = torch.arange(columns * PAIRS).reshape(columns, PAIRS, 1)
    features = [{"input_ids": column, "attention_mask": torch.ones_like(column)} for column in ids]
    loss = make(model, guide)(features, labels)
    loss.backward()
    return float(loss.detach()), model.rows.weight.grad


def _fused(columns: int, scale: float = SCALE, dims: Sequence[int] = (DIMS,), **options: Any) -> Found:
    import torch

    from components.training.fused import fused_info_nce

    rows, weights = _vectors(columns), [1.0] * len(dims)
    found = fused_info_nce(rows[:PAIRS], rows[PAIRS:], scale, dims, weights, **options)
    return found.loss, torch.cat([found.query_grad, found.passage_grad])


def _value(loss: Callable[[Any], Any], columns: int) -> Found:
    from components.training.losses import value_and_gradient

    found: Found = value_and_gradient(loss, _vectors(columns))
    return found


def _ranking(**options: Any) -> tuple[Found, Found]:
    from sentence_transformers.sentence_transformer import losses

    def make(model: Any, _: Any) -> Any:
        if "mini_batch_size" in options:
            return losses.CachedMultipleNegativesRankingLoss(model, scale=SCALE, **options)
        return losses.MultipleNegativesRankingLoss(model, scale=SCALE)

    return _fused(2 + NEGATIVES), _theirs(make, 2 + NEGATIVES)


def _matryoshka() -> tuple[Found, Found]:
    from sentence_transformers.sentence_transformer import losses

    def make(model: Any, _: Any) -> Any:
        inner = losses.MultipleNegativesRankingLoss(model, scale=SCALE)
        return losses.MatryoshkaLoss(model, inner, MATRYOSHKA[::-1])

    return _fused(2 + NEGATIVES, dims=MATRYOSHKA), _theirs(make, 2 + NEGATIVES)


def _guided(kind: Any) -> tuple[Found, Found]:
    from sentence_transformers.sentence_transformer import losses
    from torch.nn.functional import normalize

    from components.training.guide import Guide
    from components.training.losses import IN_BATCH

    rows, margin = np.arange(3 * PAIRS), 0.05
    guide = Guide(rows, normalize(_vectors(3, SEED + 1), dim=1).numpy(), kind, margin)
    masks = guide.masks(rows[:PAIRS], rows[PAIRS:], IN_BATCH)

    def make(model: Any, other: Any) -> Any:
        return losses.GISTEmbedLoss(model, other, 1 / SCALE, kind, margin, False, False)

    return _fused(3, masks=masks), _theirs(make, 3)


def _cosent(dims: Sequence[int]) -> tuple[Found, Found]:
    import torch
    from sentence_transformers.sentence_transformer import losses

    from components.training.losses import cosent, matryoshka

    label = torch.arange(PAIRS) % 5 / 4.0

    def make(model: Any, _: Any) -> Any:
        inner = losses.CoSENTLoss(model, scale=SCALE)
        return losses.MatryoshkaLoss(model, inner, list(dims)[::-1]) if len(dims) > 1 else inner

    def ours(part: Any) -> Any:
        sides = part[:PAIRS], part[PAIRS:]
        return matryoshka(lambda left, right: cosent(left, right, label, SCALE), sides, dims, reduction="sum")

    return _value(ours, 2), _theirs(make, 2, label)


def _flag_embedding() -> tuple[Found, Found]:
    """BGE's fine-tuning by FlagEmbedding's own model: groups of 1 + N passages, temperature 0.02."""
    import torch

    # ours has all positives first, theirs each query's passages together
    order = torch.arange(PAIRS, (2 + NEGATIVES) * PAIRS).reshape(1 + NEGATIVES, PAIRS).T.flatten()
    rows = torch.cat([torch.arange(PAIRS), order])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        np.savez(path, rows=_vectors(2 + NEGATIVES)[rows].numpy())
        with peers.Peer("loss", path, peers.TRAINING, queries=PAIRS, temperature=0.02) as peer:
            peer.measure()
            found = torch.from_numpy(np.load(path.with_suffix(".gradient.npy")))
    gradient = torch.empty_like(found)
    gradient[rows] = found
    return _fused(2 + NEGATIVES, scale=50.0), (float(peer.value), gradient)


def _piccolo_retrieval() -> tuple[Found, Found]:
    """Piccolo2: temperature 0.01, candidates are positives and the texts' negatives; summed over the dimensions."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    def theirs(part: Any) -> Any:
        cut = [normalize(part[:, :dim], dim=1) for dim in MATRYOSHKA]
        return sum(cross_entropy(each[:PAIRS] @ each[PAIRS:].T / 0.01, torch.arange(PAIRS)) for each in cut)

    return _fused(3, scale=100.0, dims=MATRYOSHKA), _value(theirs, 3)


def _piccolo_classes() -> tuple[Found, Found]:
    """Piccolo2: a text against its label and other labels, temperature 0.05, no in-batch negatives."""
    import torch
    from torch.nn.functional import normalize

    from components.training.losses import class_contrast

    def theirs(part: Any) -> Any:
        text, label, other = normalize(part, dim=1).reshape(3, PAIRS, DIMS)
        return torch.log(1 + (((text * other).sum(1) - (text * label).sum(1)) / 0.05).exp()).mean()

    def ours(part: Any) -> Any:
        text, label, other = part.reshape(3, PAIRS, DIMS)
        return class_contrast(text, torch.stack([label, other], dim=1), 1 / 0.05)

    return _value(ours, 3), _value(theirs, 3)


def _shares() -> tuple[Found, Found]:
    """Losses and gradients of four processes' shares, added up, against one process."""
    shares = [_fused(2 + NEGATIVES, dims=MATRYOSHKA, rows=slice(start, start + 16)) for start in range(0, PAIRS, 16)]
    whole = _fused(2 + NEGATIVES, dims=MATRYOSHKA)
    return (sum(loss for loss, _ in shares), sum(gradient for _, gradient in shares)), whole


def _through_a_transformer(chunk_tokens: int) -> Found:
    """Loss and all gradients of a small BERT through our packed forward pass, in chunks of so many tokens."""
    import torch

    from components.training.fused import fused_info_nce

    bags = packing.to_bags([text for side in packing.make_pairs(PAIRS, SEED) for text in side])
    trainee = _small().trainee(_passes(chunk_tokens))
    embedding_TD = trainee.embed(bags, 0)
    query_BD, passage_BD = embedding_TD.chunk(2)
    found = fused_info_nce(query_BD, passage_BD, SCALE, [trainee.dims], [1.0])
    trainee.backward(torch.cat([found.query_grad, found.passage_grad]))
    return found.loss, torch.cat([value.grad.flatten() for value in trainee.parameters.values()])


def _packed_and_padded() -> tuple[Found, Found]:
    """Our packed forward and backward pass, and sentence-transformers' padded one of the same folder."""
    import tempfile

    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from components.training.model import save_model

    with tempfile.TemporaryDirectory() as folder:
        save_model(_small(), folder, {})
        model = SentenceTransformer(folder, device="cpu")
    columns = []
    for texts in packing.make_pairs(PAIRS, SEED):
        padded = model.tokenizer.pad({"input_ids": [text.tolist() for text in texts]}, return_tensors="pt")
        columns.append({**padded, "modality": "text"})
    loss = MultipleNegativesRankingLoss(model, scale=SCALE)(columns, torch.zeros(0))
    loss.backward()
    of_name = {name.removeprefix("0."): value.grad for name, value in model.named_parameters()}
    ours = _through_a_transformer(1 << 20)
    names = list(_small().trainee(_passes(1 << 20)).parameters)
    other = [
        next(grad for name, grad in of_name.items() if name.endswith("." + own.removeprefix("encoder.")))
        for own in names
    ]
    return ours, (float(loss.detach()), torch.cat([grad.flatten() for grad in other]))


def _passes(chunk_tokens: int) -> Any:
    from components.training.transformer import Passes

    return Passes(chunk_tokens=chunk_tokens)


def _small() -> Any:
    import torch

    model = packing.small_bert(layers=2, hidden=64, heads=2, intermediate=128)
    for module in model.encoder.modules():  # chunks draw other masks, so that there must be none
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in ("attention_probs_dropout_prob", "hidden_dropout_prob"):
        setattr(model.encoder.config, name, 0.0)
    return model


CASES: dict[str, Callable[[], tuple[Found, Found]]] = {
    "MultipleNegativesRankingLoss": _ranking,
    "CachedMultipleNegativesRankingLoss": lambda: _ranking(mini_batch_size=16),
    "MatryoshkaLoss of it (sum)": _matryoshka,
    "GISTEmbedLoss, absolute margin": lambda: _guided("absolute"),
    "GISTEmbedLoss, relative margin": lambda: _guided("relative"),
    "CoSENTLoss": lambda: _cosent([DIMS]),
    "MatryoshkaLoss of CoSENTLoss": lambda: _cosent(MATRYOSHKA),
    FLAG: _flag_embedding,
    "Piccolo2's retrieval (definition)": _piccolo_retrieval,
    "Piccolo2's classes (definition)": _piccolo_classes,
    "four shares of a batch, added up, and the batch": _shares,
    "packed, and padded by sentence-transformers": _packed_and_padded,
    "GradCache in chunks of 512 tokens, and in one": lambda: (
        _through_a_transformer(512),
        _through_a_transformer(1 << 20),
    ),
}
