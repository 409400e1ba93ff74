"""Transformers: the folder that sentence-transformers loads, and training at any batch size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from components.core.errors import EmbedmillError, InputError, UsageError
from components.training.fused import fused_info_nce
from components.training.model import check_dims, load_model, save_model
from components.training.pretrained import find_folder, read_transformer
from components.training.tokens import Bags, tokenise
from components.training.trainee import autograd
from components.training.transformer import Passes, TransformerModel, TransformerTrainee, new_transformer
from components.training.vocabulary import learn_tokenizer

CORPUS = ["read a csv file into a table", "北京大学 open the socket", "merge two tables by key", "write it"]
TEXTS = [*CORPUS, "", "é unknown ☃ signs", "table " * 40, "[SEP] said the text"]
WORDS = ["<s>", "<pad>", "</s>", "<unk>", *sorted({word for text in CORPUS for word in text.split()})]


@pytest.fixture
def model() -> TransformerModel:
    tokenizer = learn_tokenizer(CORPUS, 200, 1)
    return new_transformer(tokenizer, 3, layers=2, hidden=32, heads=2, intermediate=48, max_positions=24)


@pytest.fixture
def bags(model: TransformerModel) -> Bags:
    rng = np.random.default_rng(0)
    words = [word for text in CORPUS for word in text.split()]
    return tokenise(model.tokenizer, [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(40)], special=True)


def plain_folder(folder: Path, kind: str) -> Path:
    """What transformers writes of an XLM-R or a ModernBERT and a tokenizer, without modules.json."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 48, "vocab_size": len(WORDS), "pad_token_id": 1}
    torch.manual_seed(0)
    if kind == "xlm-roberta":
        XLMRobertaModel(XLMRobertaConfig(max_position_embeddings=22, **sizes)).save_pretrained(folder)
    else:
        special = {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
        config = ModernBertConfig(max_position_embeddings=20, local_attention=8, **special, **sizes)
        ModernBertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    named = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **named).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("dense", [None, 48])
def test_sentence_transformers_gives_the_same_vectors(
    model: TransformerModel, pooling: Any, dense: int | None, tmp_path: Path
) -> None:
    model.pooling = pooling
    if dense:
        model.add_dense(dense, 5)
    assert model.dims == (dense or 32)
    save_model(model, str(tmp_path / "model"), {"matryoshka_dims": [32]}, {"README.md": b"card"})
    theirs = SentenceTransformer(str(tmp_path / "model"))
    assert theirs.get_embedding_dimension() == model.dims
    np.testing.assert_allclose(model.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)

    loaded, config = load_model(str(tmp_path / "model"))
    assert config["matryoshka_dims"] == [32]
    assert loaded.digest == model.digest
    assert np.array_equal(loaded.encode(TEXTS), model.encode(TEXTS))
    save_model(loaded, str(tmp_path / "again"), config, {"README.md": b"card"})
    names = {str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model").rglob("*.*")}
    assert len(names) == (12 if dense else 10)
    assert all((tmp_path / "model" / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)
    theirs.save(str(tmp_path / "theirs"))  # and the way back
    assert np.array_equal(load_model(str(tmp_path / "theirs"))[0].encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("kind", ["xlm-roberta", "modernbert"])
def test_plain_folders_of_other_families(kind: str, tmp_path: Path) -> None:
    folder = plain_folder(tmp_path / "plain", kind)
    model, config = load_model(str(folder))
    assert isinstance(model, TransformerModel)
    assert (model.pooling, model.max_tokens, config) == ("mean", 20, {})
    save_model(model, str(tmp_path / "model"), {})
    theirs = SentenceTransformer(str(tmp_path / "model"))
    texts = [text for text in TEXTS if "[SEP]" not in text]
    np.testing.assert_allclose(model.encode(texts), theirs.encode(texts), atol=1e-5)
    assert read_transformer(folder, "cls").pooling == "cls"


def test_a_text_s_vector_does_not_know_its_company(model: TransformerModel) -> None:
    model.add_dense(40, 1)
    together = model.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        assert np.array_equal(model.encode([text])[0], together[row]), text
    many = model.encode(TEXTS * 60)
    assert np.array_equal(many, np.tile(together, (60, 1)))


def test_chunks_give_the_gradients_of_one_graph(model: TransformerModel, bags: Bags) -> None:
    """GradCache with dropout: the same as one backward pass through all chunks' graphs."""
    model.add_dense(40, 1)
    trainee = model.trainee(Passes(chunk_tokens=60))
    torch.manual_seed(9)
    grad_TD = torch.randn(len(bags), 40)
    calls: list[bool] = []

    def counted(outputs: torch.Tensor, gradients: torch.Tensor, last: bool) -> None:
        calls.append(last)
        autograd(outputs, gradients, last)

    embedding_TD = trainee.embed(bags, seed=11)
    assert not embedding_TD.requires_grad
    trainee.backward(grad_TD, counted)
    assert len(calls) > 3
    assert calls == [False] * (len(calls) - 1) + [True]
    found = {name: weight.grad.clone() for name, weight in trainee.parameters.items()}

    outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
    trainee.embed(bags, seed=11)
    trainee.backward(grad_TD, lambda output, grad, last: outputs.append((output, grad)))
    loss = torch.stack([(output * grad).sum() for output, grad in outputs]).sum()
    direct = torch.autograd.grad(loss, list(trainee.parameters.values()))
    for (name, grad), other in zip(found.items(), direct, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-5, msg=name)
    assert torch.equal(trainee.embed(bags, seed=11), embedding_TD)
    assert not torch.equal(trainee.embed(bags, seed=12), embedding_TD)


def test_chunked_is_direct_without_dropout(model: TransformerModel, bags: Bags) -> None:
    without_dropout(model)
    grad_TD = torch.randn(len(bags), 32)
    found = []
    for tokens in (10_000, 60):
        trainee = model.trainee(Passes(chunk_tokens=tokens))
        embedding_TD = trainee.embed(bags, 0)
        trainee.backward(grad_TD)
        found.append((embedding_TD, {name: weight.grad.clone() for name, weight in trainee.parameters.items()}))
    (direct_TD, direct), (chunked_TD, chunked) = found
    torch.testing.assert_close(chunked_TD, direct_TD, rtol=0, atol=1e-6)
    for name, grad in direct.items():
        torch.testing.assert_close(chunked[name], grad, rtol=1e-4, atol=1e-5, msg=name)


def test_a_step_is_sentence_transformers_step(model: TransformerModel, tmp_path: Path) -> None:
    """Loss and the gradient of every weight, packed and in closed form against padded and by autograd."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model.add_dense(48, 5)
    save_model(model, str(tmp_path / "model"), {})
    theirs = SentenceTransformer(str(tmp_path / "model")).eval()
    queries, passages = CORPUS, [f"{text} and more of it" for text in reversed(CORPUS)]
    columns = [{**theirs.tokenizer(side, padding=True, return_tensors="pt")} for side in (queries, passages)]
    loss = MultipleNegativesRankingLoss(theirs, scale=20.0)(
        [{**column, "modality": "text"} for column in columns], torch.empty(0)
    )
    loss.backward()

    without_dropout(model)
    trainee = model.trainee(Passes())
    embedding_TD = trainee.embed(tokenise(model.tokenizer, queries + passages, special=True), 0)
    found = fused_info_nce(embedding_TD[:4], embedding_TD[4:], 20.0, [48], [1.0])
    trainee.backward(torch.cat([found.query_grad, found.passage_grad]))
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    gradient = {
        **{f"encoder.{name}": weight.grad for name, weight in theirs[0].auto_model.named_parameters()},
        **{f"dense.{name}": weight.grad for name, weight in theirs[2].linear.named_parameters()},
    }
    names = list(trainee.parameters)
    ours, others = (
        torch.cat([grads[name].flatten() for name in names])
        for grads in ({name: weight.grad for name, weight in trainee.parameters.items()}, gradient)
    )
    assert float((ours - others).norm()) < 1e-5 * float(others.norm())


def without_dropout(model: TransformerModel) -> None:
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def test_backward_leaves_this_batch_alone(model: TransformerModel, bags: Bags) -> None:
    trainee = model.trainee(Passes())
    grads = []
    for _ in range(2):
        embedding_TD = trainee.embed(bags, 4)
        trainee.backward(torch.ones_like(embedding_TD))
        grads.append({name: weight.grad.clone() for name, weight in trainee.parameters.items()})
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])
    empty = trainee.embed(bags[:0], 4)
    trainee.backward(empty)
    assert all(not weight.grad.any() for weight in trainee.parameters.values())


def test_a_text_without_tokens_is_zeros_and_gets_no_gradient(model: TransformerModel, bags: Bags) -> None:
    with_none = Bags(bags.tokens, np.concatenate([[0, 0], bags.offsets[1:]]))
    trainee = model.trainee(Passes())
    embedding_TD = trainee.embed(with_none, 0)
    assert not embedding_TD[0].any()
    assert torch.equal(embedding_TD[1:], trainee.embed(bags, 0))
    trainee.embed(with_none, 0)
    trainee.backward(torch.ones_like(embedding_TD))
    assert not model.vectors(with_none)[0].any()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_and_leaves_fp32(model: TransformerModel, bags: Bags, precision: Any) -> None:
    trainee = model.trainee(Passes(precision=precision))
    exact, half = model.vectors(bags), trainee.vectors(bags, 32)
    assert half.dtype == np.float32
    assert not np.array_equal(half, exact)
    assert float((half * exact).sum(1).min()) > 0.999
    embedding_TD = trainee.embed(bags, 0)
    assert embedding_TD.dtype == torch.float32
    trainee.backward(torch.ones_like(embedding_TD))
    assert {weight.grad.dtype for weight in trainee.parameters.values()} == {torch.float32}


def test_options_reach_the_encoder(model: TransformerModel, bags: Bags) -> None:
    plain, options = model.trainee(Passes()), Passes(gradient_checkpointing=True, freeze_positions=True)
    embedding_TD = plain.embed(bags, 5)
    plain.backward(torch.ones_like(embedding_TD))
    before = {name: weight.grad.clone() for name, weight in plain.parameters.items()}
    trainee = model.trainee(options)
    assert torch.equal(trainee.embed(bags, 5), embedding_TD)
    trainee.backward(torch.ones_like(embedding_TD))
    table = "encoder.embeddings.position_embeddings.weight"
    assert before.keys() - trainee.parameters.keys() == {table}
    assert not any("pooler" in name for name in before)
    assert all(torch.equal(weight.grad, before[name]) for name, weight in trainee.parameters.items())


def test_frozen_vectors_stay_as_they_were(model: TransformerModel, bags: Bags) -> None:
    trainee = model.trainee(Passes())
    before, frozen = trainee.vectors(bags, 16), trainee.frozen()
    trainee.embed(bags, 0)
    trainee.backward(torch.ones(len(bags), trainee.dims))
    with torch.no_grad():
        for weight in trainee.parameters.values():
            weight.add_(1)
    assert np.array_equal(frozen(bags, 16), before)
    assert not np.array_equal(trainee.vectors(bags, 16), before)
    assert all(weight.requires_grad for weight in trainee.parameters.values())


def test_vectors_are_the_leading_dimensions_without_dropout(model: TransformerModel, bags: Bags) -> None:
    trainee = model.trainee(Passes(threads=1))
    short = trainee.vectors(bags, 8)
    whole = model.vectors(bags)[:, :8]
    np.testing.assert_allclose(short, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)
    assert model.encoder.training
    assert len(trainee.vectors(bags[:0], 8)) == 0


TRAIN = """
import hashlib, sys
import torch
from components.training.tokens import tokenise
from components.training.transformer import Passes, new_transformer
from components.training.vocabulary import learn_tokenizer

texts = ["read a csv file into a table", "merge two tables by key", "write", "open the socket and read"] * 12
torch.set_num_threads(1)
model = new_transformer(learn_tokenizer(texts, 200, 1), 0, layers=2, hidden=64, heads=4, intermediate=96)
bags = tokenise(model.tokenizer, texts, special=True)
trainee = model.trainee(Passes(chunk_tokens=120, threads=int(sys.argv[1])))
adamw = torch.optim.AdamW(trainee.parameters.values(), lr=1e-3, fused=True)
for step in range(3):
    trainee.backward(torch.cos(trainee.embed(bags, step)))
    adamw.step()
assert torch.get_num_threads() == 1
print(model.digest)
"""


def test_the_same_threads_give_the_same_bytes() -> None:
    first, second = (
        subprocess.run([sys.executable, "-c", TRAIN, "2"], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert len(first.strip()) == 64
    assert first == second


def test_new_models_are_a_function_of_the_seed() -> None:
    tokenizer = learn_tokenizer(CORPUS, 200, 1)
    sizes: dict[str, Any] = {"layers": 1, "hidden": 16, "heads": 2, "intermediate": 16}
    assert new_transformer(tokenizer, 1, **sizes).digest == new_transformer(tokenizer, 1, **sizes).digest
    assert new_transformer(tokenizer, 1, **sizes).digest != new_transformer(tokenizer, 2, **sizes).digest
    assert tokenizer.token_to_id("[CLS]") is None  # the caller's own is as it was


def test_special_tokens_follow_the_learned_ones() -> None:
    learned = learn_tokenizer(CORPUS, 200, 1)
    own = new_transformer(learned, 0, layers=1, hidden=16, heads=2).tokenizer
    tokens = own.encode("read ☃ 北京").tokens
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert learned.encode("read 北京").ids == own.encode("read 北京").ids[1:-1]
    assert own.get_vocab_size() == learned.get_vocab_size() + 5
    assert own.encode("xyzzy☃ω").tokens[1] == "[UNK]"


def test_flops_count_weights_and_pairs(model: TransformerModel) -> None:
    trainee = model.trainee(Passes())
    # a layer: 4·32² in attention, 2·32·48 after it; pairs: 3² + 5²
    weights, pairs = 2 * (4 * 32 * 32 + 2 * 32 * 48), 2 * (9 + 25)
    assert trainee.flops(np.array([3, 5])) == 6 * weights * 8 + 12 * 32 * pairs


def no_modules(folder: Path) -> None:
    (folder / "modules.json").unlink()


def cut_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"cut off")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_family(folder: Path) -> None:
    rewrite(folder / "config.json", model_type="gpt2")


def fewer_rows(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 5000, "content": "[NEW]"})
    (folder / "tokenizer.json").write_text(json.dumps(content))


def no_special_tokens(folder: Path) -> None:
    rewrite(folder / "tokenizer.json", post_processor=None)


def other_activation(folder: Path) -> None:
    rewrite(folder / "2_Dense" / "config.json", activation_function="torch.nn.modules.activation.Tanh")


def other_module(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.models.LSTM"
    (folder / "modules.json").write_text(json.dumps(modules))


def deeper(folder: Path) -> None:
    rewrite(folder / "config.json", num_hidden_layers=3)


def max_pooling(folder: Path) -> None:
    rewrite(folder / "1_Pooling" / "config.json", pooling_mode_mean_tokens=False, pooling_mode_max_tokens=True)


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (no_modules, InputError, "no finished model"),
        (cut_weights, InputError, "not a readable model"),
        (pickled, UsageError, "no model.safetensors"),
        (other_family, UsageError, "a gpt2 model; transformers trained here are bert,"),
        (fewer_rows, InputError, r"tokenizer and model do not fit: token '\[NEW\]'"),
        (no_special_tokens, InputError, "puts no special token"),
        (other_activation, UsageError, "Dense layer is not linear"),
        (other_module, UsageError, "made of Transformer, LSTM, Dense, Normalize; allowed"),
        (deeper, InputError, "model.safetensors lacks 16 tensors"),
        (max_pooling, UsageError, "allowed: one of cls, mean, last"),
    ],
)
def test_folders_that_do_not_fit_are_refused_in_one_line(
    damage: Callable[[Path], None],
    error: type[EmbedmillError],
    said: str,
    tmp_path: Path,
    saved: Path,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    damage(folder)
    with pytest.raises(error, match=said) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    tokenizer = learn_tokenizer(CORPUS, 200, 1)
    model = new_transformer(tokenizer, 3, layers=2, hidden=32, heads=2, intermediate=48, max_positions=24)
    model.add_dense(40, 0)
    save_model(model, str(folder), {})
    return folder


def test_names_are_folders_or_models_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_folder(str(tmp_path)) == tmp_path
    with pytest.raises(UsageError, match="no such folder; allowed"):
        find_folder(str(tmp_path / "missing"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="the hub cannot be reached"):
        find_folder("nobody/nothing")


def test_sizes_that_cannot_be(model: TransformerModel, bags: Bags) -> None:
    with pytest.raises(UsageError, match="no multiple"):
        new_transformer(learn_tokenizer(CORPUS, 200, 1), 0, hidden=30, heads=4)
    with pytest.raises(UsageError, match=r"matryoshka.dims: 64 dimensions, but the model has 32"):
        check_dims(model, 64, "matryoshka.dims")
    check_dims(model, 32, "matryoshka.dims")
    long = Bags(np.full(30, 5, np.int32), np.array([0, 30]))
    with pytest.raises(InputError, match="30 tokens, the model 24 positions"):
        model.trainee(Passes()).embed(long, 0)


def test_a_trainee_is_its_model(model: TransformerModel, bags: Bags) -> None:
    """Training changes the model that is saved."""
    trainee = TransformerTrainee(model, Passes())
    before = model.digest
    embedding_TD = trainee.embed(bags, 0)
    trainee.backward(torch.ones_like(embedding_TD))
    with torch.no_grad():
        for weight in trainee.parameters.values():
            weight -= 0.1 * weight.grad
    assert model.digest != before
