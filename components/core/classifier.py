"""A text classifier from a file: fastText (.bin, .ftz), scikit-learn (.skops) or ONNX (.onnx, or a folder).

What a classifier is lies in its bytes, so it is named by URI and SHA-256 together and verified before use. Nothing is
unpickled and no code of the model runs: skops refuses every type that it does not know, ONNX Runtime every custom
operator. A text's score does not depend on the texts that are scored with it.
"""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from components.core.errors import InputError, UsageError
from components.core.hashed import HashedRegression
from components.core.pinned import fetch

KINDS = ".bin or .ftz (fastText), .skops (scikit-learn), .onnx, or a folder with model.onnx and config.json"
FASTTEXT_MAGIC = (793712314).to_bytes(4, "little")
FASTTEXT_LABEL = "__label__"
EVERY_LABEL = {"k": -1, "threshold": -1.0}  # at a threshold of 0 fastText leaves out what is below 1e-5
MAX_TOKENS = 512
BATCH_TEXTS = 64
PART_TEXTS = 4096  # that a model is given at once: some take kilobytes for each

Scores = NDArray[np.float32]


class Backend(Protocol):
    """A loaded model: its labels, and the probability of one of them for each text, float32 [N] in [0, 1]."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def scores(self, texts: Sequence[str], label: str) -> Scores: ...


@dataclass(frozen=True)
class Classifier:
    """A verified model and the label that is asked of it."""

    backend: Backend
    label: str
    uri: str

    @classmethod
    def open(cls, uri: str, sha256: str, label: str) -> Classifier:
        """Fetch, verify and load a classifier.

        Raises InputError if it is not there, has another digest or cannot be loaded, UsageError for an unknown label.
        """
        backend = _load(uri, sha256)
        if label not in backend.labels:
            raise UsageError(f"{uri}: has no label {label!r}; its labels are {_listed(backend.labels)}")
        return cls(backend, label, uri)

    def scores(self, texts: Sequence[str]) -> Scores:
        """Probability of the label for each text, float32 [N] in [0, 1]. Raises InputError if the model gives NaN."""
        if not texts:
            return np.empty(0, np.float32)
        parts = (texts[start : start + PART_TEXTS] for start in range(0, len(texts), PART_TEXTS))
        scores: Scores = np.concatenate([self.backend.scores(part, self.label) for part in parts])
        if np.isnan(scores).any():
            text = texts[int(np.isnan(scores).argmax())]
            raise InputError(f"{self.uri}: gives NaN for the text {text[:80]!r}")
        return np.clip(scores, 0, 1).astype(np.float32)


def labels_of(uri: str, sha256: str) -> tuple[str, ...]:
    """The labels that a classifier knows. Raises InputError as `Classifier.open` does."""
    return _load(uri, sha256).labels


@lru_cache(maxsize=16)
def _load(uri: str, sha256: str) -> Backend:
    path = fetch(uri, sha256)
    try:
        return _backend(path, uri)
    except InputError:
        raise
    except Exception as error:  # each format fails in its own ways; all of them mean an unusable file
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{uri}: not a usable classifier ({type(error).__name__}: {reason})") from None


def _backend(path: Path, uri: str) -> Backend:
    if path.is_dir():
        if (path / "model.onnx").is_file():
            return _Onnx.load(path / "model.onnx", path, uri)
        raise InputError(f"{uri}: a folder without model.onnx; a classifier is {KINDS}")
    if path.suffix in (".bin", ".ftz"):
        return _FastText.load(path, uri)
    if path.suffix == ".skops":
        return _Sklearn.load(path, uri)
    if path.suffix == ".onnx":
        return _Onnx.load(path, None, uri)
    raise InputError(f"{uri}: unknown kind of classifier; wanted {KINDS}")


@dataclass(frozen=True)
class _FastText:
    model: Any
    names: dict[str, str]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.names)

    @classmethod
    def load(cls, path: Path, uri: str) -> _FastText:
        import fasttext

        with path.open("rb") as file:
            if file.read(4) != FASTTEXT_MAGIC:
                raise InputError(f"{uri}: not a fastText model (its first bytes are others)")
        model = fasttext.load_model(str(path))
        names, _ = model.predict("a", **EVERY_LABEL)
        return cls(model, {name.removeprefix(FASTTEXT_LABEL): name for name in sorted(names)})

    def scores(self, texts: Sequence[str], label: str) -> Scores:
        wanted = self.names[label]
        scores = np.zeros(len(texts), np.float32)
        for row, text in enumerate(texts):
            names, probabilities = self.model.predict(text.replace("\n", " "), **EVERY_LABEL)
            if names:  # a text without any known word has no labels
                scores[row] = probabilities[names.index(wanted)]
        return scores


@dataclass(frozen=True)
class _Sklearn:
    """`hashed` stands for a model of the shape that `embedmill classifier train` makes."""

    model: Any
    labels: tuple[str, ...]
    hashed: HashedRegression | None

    @classmethod
    def load(cls, path: Path, uri: str) -> _Sklearn:
        skops = _skops()
        if not zipfile.is_zipfile(path):
            raise InputError(f"{uri}: not a skops file")
        # skops knows the types of scikit-learn, numpy and scipy, and of Python those that run no code
        untrusted = skops.get_untrusted_types(file=path)
        if untrusted:
            raise InputError(f"{uri}: holds types that are not trusted: {', '.join(sorted(untrusted)[:5])}")
        model = skops.load(path, trusted=[])
        if not hasattr(model, "predict_proba"):
            raise InputError(f"{uri}: {type(model).__name__} gives no probabilities (predict_proba)")
        labels = tuple(str(label) for label in model.classes_)
        if model.predict_proba([""]).shape != (1, len(labels)):
            raise InputError(f"{uri}: does not classify texts")
        return cls(model, labels, HashedRegression.of(model))

    def scores(self, texts: Sequence[str], label: str) -> Scores:
        if self.hashed:
            second = self.hashed.probabilities(texts)
            return np.asarray(second if self.labels.index(label) else 1 - second, np.float32)
        return np.asarray(self.model.predict_proba(texts)[:, self.labels.index(label)], np.float32)


class _NoTorch(MetaPathFinder):
    """Says that PyTorch is not installed."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "torch":
            raise ModuleNotFoundError("not wanted here", name="torch")


def _skops() -> Any:
    """skops.io, which loads every module of scikit-learn; one of them would load PyTorch, 200 MB in each worker."""
    finder = _NoTorch()
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module("skops.io")
    finally:
        sys.meta_path.remove(finder)


@dataclass(frozen=True)
class _Onnx:
    """`tokenizer` is None for a model that takes the texts themselves.

    Tokens are run one text at a time: padding, and the scales of dynamic quantisation, would tie a text's score to its
    neighbours. Texts are run in batches of one size, the last one filled up: a row always meets the same kernel.
    """

    session: Any
    tokenizer: Any
    labels: tuple[str, ...]
    output: str
    softmax: bool
    sigmoid: bool

    @classmethod
    def load(cls, path: Path, folder: Path | None, uri: str) -> _Onnx:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        takes_text = session.get_inputs()[0].type == "tensor(string)"
        if not takes_text and (folder is None or not (folder / "tokenizer.json").is_file()):
            raise InputError(f"{uri}: takes no texts, and there is no tokenizer.json beside it in a folder")
        wanted = ("seq(map(string,tensor(float)))", "tensor(float)")
        output = next((output for output in reversed(session.get_outputs()) if output.type in wanted), None)
        if output is None:
            raise InputError(f"{uri}: has no output of probabilities or logits (float)")
        config = (
            json.loads((folder / "config.json").read_bytes()) if folder and (folder / "config.json").exists() else {}
        )
        id2label = config.get("id2label") or json.loads(
            session.get_modelmeta().custom_metadata_map.get("id2label", "{}")
        )
        labels = tuple(str(id2label[key]) for key in sorted(id2label, key=int))
        is_map = output.type == wanted[0]
        logits = not is_map and "prob" not in output.name.lower()
        each = logits and (config.get("problem_type") == "multi_label_classification" or len(labels) == 1)
        tokenizer = None if takes_text else _tokenizer(folder)
        model = cls(session, tokenizer, labels, output.name, logits and not each, each)
        probe = model._run(["a"])
        if is_map:
            return cls(session, tokenizer, tuple(sorted(probe[0])), output.name, False, False)
        if probe.shape != (1, len(labels)):
            found = f"{len(labels)} labels" if labels else "none"
            raise InputError(
                f"{uri}: gives {probe.shape[-1]} values a text but names {found}: config.json of the folder, or the "
                "model's metadata, needs id2label"
            )
        return model

    def scores(self, texts: Sequence[str], label: str) -> Scores:
        rows = self._run(texts)
        if isinstance(rows, list):
            return np.array([row[label] for row in rows], np.float32)
        values = rows.astype(np.float64)
        if self.softmax:
            values = np.exp(values - values.max(axis=1, keepdims=True))
            values /= values.sum(axis=1, keepdims=True)
        elif self.sigmoid:
            values = 1 / (1 + np.exp(-values))
        return np.asarray(values[:, self.labels.index(label)], np.float32)

    def _run(self, texts: Sequence[str]) -> Any:
        """Raw outputs for texts: float32 [N, labels], or a list of {label: probability}."""
        parts = [self._run_tokens(text) for text in texts] if self.tokenizer else list(self._run_texts(texts))
        if isinstance(parts[0], list):
            return [row for part in parts for row in part]
        return np.concatenate(parts)

    def _run_tokens(self, text: str) -> NDArray[np.float32]:
        encoding = self.tokenizer.encode(text)
        known = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        feed = {each.name: np.array([known[each.name]], np.int64) for each in self.session.get_inputs()}
        values: NDArray[np.float32] = self.session.run([self.output], feed)[0]
        return values

    def _run_texts(self, texts: Sequence[str]) -> Any:
        given = self.session.get_inputs()[0]
        size = given.shape[0] if given.shape and isinstance(given.shape[0], int) else BATCH_TEXTS
        for start in range(0, len(texts), size):
            batch = list(texts[start : start + size])
            filled = np.array(batch + [""] * (size - len(batch)), object)
            feed = {given.name: filled.reshape(-1, 1) if len(given.shape or ()) == 2 else filled}
            yield self.session.run([self.output], feed)[0][: len(batch)]


def _tokenizer(folder: Path | None) -> Any:
    from tokenizers import Tokenizer

    assert folder is not None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    limit = (tokenizer.truncation or {}).get("max_length", MAX_TOKENS)
    tokenizer.enable_truncation(min(limit, MAX_TOKENS))
    return tokenizer


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:12])
    return f"{shown} and {len(labels) - 12} more" if len(labels) > 12 else shown
