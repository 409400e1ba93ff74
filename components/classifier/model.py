"""Logistic regression on hashed n-grams of characters (and words), as a skops file that is the same every time."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHARACTERS = (1, 3)
WORDS = (1, 2)
FEATURES = 1 << 18
INVERSE_REGULARISATION = 10.0
OTHER = "other"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def fit(texts: Sequence[str], positive: NDArray[np.bool_], label: str, words: bool) -> Any:
    """A scikit-learn pipeline from texts to the probability of `label` against OTHER.

    Which n-grams a text holds counts, not how often. Texts are folded by NFKD and lower case first, so that full-width
    letters and accents hide nothing.
    """
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    same = {
        "n_features": FEATURES,
        "binary": True,
        "alternate_sign": False,
        "strip_accents": "unicode",
        "dtype": np.float32,
    }
    grams = [HashingVectorizer(analyzer="char", ngram_range=CHARACTERS, **same)]
    if words:
        grams.append(HashingVectorizer(analyzer="word", ngram_range=WORDS, token_pattern=r"(?u)\b\w+\b", **same))
    regression = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000)
    union = make_union(*grams)
    model = make_pipeline(union, regression).fit(texts, np.where(positive, label, OTHER))
    for _, vectoriser in union.transformer_list:
        vars(vectoriser).pop("_stop_words_id", None)  # a memory address that it checks its stop words by; it has none
    return model


def encode(model: Any) -> bytes:
    """The model as a skops archive, its entries numbered in order of appearance.

    skops names them by memory addresses and stamps them with the time, so that no two files would be the same.
    """
    import skops.io

    archive = zipfile.ZipFile(io.BytesIO(skops.io.dumps(model)))
    schema = json.loads(archive.read("schema.json"))
    numbers: dict[int, int] = {}
    files: dict[str, str] = {}
    _renumber(schema, numbers, files)
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as target:
        for old, new in files.items():
            target.writestr(zipfile.ZipInfo(new, _EPOCH), archive.read(old), zipfile.ZIP_DEFLATED)
        schema_bytes = json.dumps(schema, indent=1).encode()
        target.writestr(zipfile.ZipInfo("schema.json", _EPOCH), schema_bytes, zipfile.ZIP_DEFLATED)
    return result.getvalue()


def _renumber(node: Any, numbers: dict[int, int], files: dict[str, str]) -> None:
    if isinstance(node, dict):
        if "__id__" in node:
            node["__id__"] = numbers.setdefault(node["__id__"], len(numbers) + 1)
        if isinstance(node.get("file"), str):
            suffix = node["file"].rpartition(".")[2]
            node["file"] = files.setdefault(node["file"], f"{len(files) + 1}.{suffix}")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _renumber(child, numbers, files)
