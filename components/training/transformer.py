"""Transformer encoders: read, built from nothing, run without padding, and trained at any batch size.

A text's embedding is its token states' mean, or the state of its first or last token, then a linear scaling layer if
the model has one. The folder written and read is sentence-transformers': Transformer, Pooling, Dense, Normalize.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from components.core.errors import InputError, UsageError
from components.training.packing import Packed, length_order, make_lean, pack, pool, register_attention
from components.training.tokens import Bags, tokenise
from components.training.trainee import Backward, Frozen, Vectors, autograd

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor, nn

Pooling = Literal["cls", "mean", "last"]
Precision = Literal["fp32", "bf16", "fp16"]

# Encoders whose attention and positions are known here, by model_type of config.json.
ABSOLUTE, SHIFTED, ROTARY = ("bert",), ("roberta", "camembert", "xlm-roberta"), ("modernbert",)
FAMILIES = (*ABSOLUTE, *SHIFTED, *ROTARY)
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WEIGHTS, CONFIG, TRANSFORMER = "model.safetensors", "config.json", "sentence_bert_config.json"
MODULE = "sentence_transformers.models."
POOLING_KEYS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken"}
# Tokens of one evaluation batch, and texts tokenised at once. Few tokens stay in a processor's cache.
BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
TOKENIZED_TEXTS = 4096


@dataclass(frozen=True)
class Passes:
    """How forward and backward passes are run.

    ``chunk_tokens``: tokens of one pass. ``threads``: PyTorch's own during a pass, None for those in use; the same
    number gives the same bytes on a CPU.
    """

    chunk_tokens: int = 8192
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False
    freeze_positions: bool = False
    threads: int | None = None


@dataclass
class TransformerModel:
    """An encoder of transformers, its tokenizer (special tokens added, cut at ``max_tokens``), pooling and scaling."""

    encoder: Any
    tokenizer: Tokenizer
    pooling: Pooling
    max_tokens: int
    dense: nn.Linear | None
    tokenizer_files: dict[str, bytes]

    def __post_init__(self) -> None:
        self.encoder.set_attn_implementation(register_attention())
        self.encoder.config.use_cache = False
        make_lean(self.encoder)
        if self.dense is not None:
            make_lean(self.dense)
        self.limit_tokens(self.max_tokens)

    @property
    def dims(self) -> int:
        """Dimensions of the full embedding."""
        return int(self.dense.out_features if self.dense is not None else self.encoder.config.hidden_size)

    @property
    def first_position(self) -> int:
        """The number of a text's first position: RoBERTa and its kin leave those up to the padding token's out."""
        config = self.encoder.config
        return int(config.pad_token_id) + 1 if config.model_type in SHIFTED else 0

    @property
    def capacity(self) -> int:
        """Tokens of the longest text that the encoder has positions for."""
        return int(self.encoder.config.max_position_embeddings) - self.first_position

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        place: torch.device = next(self.encoder.parameters()).device
        return place

    @property
    def digest(self) -> str:
        """SHA-256 over tokenizer, configuration and weights."""
        facts = [self.tokenizer.to_str(), self._config(), self.pooling, self.max_tokens]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, tensor in self.tensors().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """Every weight by name, on the CPU, contiguous: the encoder's by transformers' names, ``dense.…``."""
        state = dict(self.encoder.state_dict())
        if self.dense is not None:
            state |= {f"dense.{name}": tensor for name, tensor in self.dense.state_dict().items()}
        return {name: state[name].detach().cpu().contiguous() for name in sorted(state)}

    def to(self, device: str | torch.device) -> TransformerModel:
        """Move the weights; returns itself."""
        self.encoder.to(device)
        if self.dense is not None:
            self.dense.to(device)
        return self

    def add_dense(self, dims: int, seed: int) -> None:
        """Put a new scaling layer to ``dims`` dimensions behind the pooling, in place of one that is there."""
        import torch

        torch.manual_seed(seed)
        self.dense = torch.nn.Linear(int(self.encoder.config.hidden_size), dims).to(self.device)
        make_lean(self.dense)

    def limit_tokens(self, length: int) -> None:
        """Cut texts at ``length`` tokens, special ones included."""
        self.max_tokens = length
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(length)

    def states(self, packed: Packed) -> Tensor:
        """Embeddings [B, D] of packed texts, in order, not normalised, fp32. Raises InputError if one is too long."""
        if packed.longest > self.capacity:
            raise InputError(
                f"a text has {packed.longest} tokens, the model {self.capacity} positions; lower max_tokens"
            )
        hidden_1TH = self.encoder(
            input_ids=packed.ids, position_ids=packed.positions + self.first_position, packed=packed
        ).last_hidden_state
        pooled_BH = pool(hidden_1TH[0], packed, self.pooling)
        states_BD: Tensor = pooled_BH if self.dense is None else self.dense(pooled_BH)
        return states_BD.float()

    def vectors(self, bags: Bags, dims: int | None = None, precision: Precision = "fp32") -> Vectors:
        """L2-normalised leading ``dims`` dimensions of the texts' embeddings, float32 [B, dims], without dropout.

        On a CPU in fp32 a text's vector does not depend, bit for bit, on the texts beside it.
        """
        import torch
        from torch.nn.functional import normalize

        width = dims or self.dims
        vectors_BD = np.zeros((len(bags), width), np.float32)
        training = self.encoder.training
        self.encoder.eval()
        try:
            with torch.inference_mode(), autocast(self.device.type, precision):
                for rows, part in chunks(bags, evaluation_tokens(self.device)):
                    states_BD = self.states(pack(part, self.device))[:, :width]
                    vectors_BD[rows] = normalize(states_BD, dim=1).cpu().numpy()
        finally:
            self.encoder.train(training)
        return vectors_BD

    def encode(self, texts: Sequence[str]) -> Vectors:
        """L2-normalised embeddings, float32 [N, D]."""
        rows_ND = np.empty((len(texts), self.dims), np.float32)
        for start in range(0, len(texts), TOKENIZED_TEXTS):
            part = texts[start : start + TOKENIZED_TEXTS]
            rows_ND[start : start + len(part)] = self.vectors(tokenise(self.tokenizer, part, special=True))
        return rows_ND

    def trainee(self, passes: Passes) -> TransformerTrainee:
        """The model as the loop trains it, in place."""
        return TransformerTrainee(self, passes)

    def files(self) -> dict[str, bytes]:
        """The folder's files by path, without modules.json and the model card; the same model gives the same bytes."""
        from safetensors.torch import save

        tensors = self.tensors()
        dense = {name.removeprefix("dense."): tensors.pop(name) for name in list(tensors) if name.startswith("dense.")}
        files = {
            CONFIG: json_bytes(self._config()),
            WEIGHTS: save(tensors, {"format": "pt"}),
            TRANSFORMER: json_bytes({"max_seq_length": self.max_tokens, "do_lower_case": False}),
            "1_Pooling/config.json": json_bytes(
                {"word_embedding_dimension": self.encoder.config.hidden_size}
                | {key: mode == self.pooling for mode, key in POOLING_KEYS.items()}
            ),
            **self.tokenizer_files,
            "tokenizer_config.json": json_bytes(
                json.loads(self.tokenizer_files["tokenizer_config.json"]) | {"model_max_length": self.max_tokens}
            ),
        }
        if self.dense is not None:
            files["2_Dense/config.json"] = json_bytes(
                {
                    "in_features": self.dense.in_features,
                    "out_features": self.dense.out_features,
                    "bias": self.dense.bias is not None,
                    "activation_function": "torch.nn.modules.linear.Identity",
                }
            )
            files[f"2_Dense/{WEIGHTS}"] = save({f"linear.{name}": tensor for name, tensor in dense.items()})
        files[f"{self.modules()[-1]['path']}/config.json"] = json_bytes({})
        return files

    def modules(self) -> list[dict[str, Any]]:
        """What modules.json lists."""
        kinds = ["Transformer", "Pooling", *(["Dense"] if self.dense is not None else []), "Normalize"]
        return [
            {"idx": idx, "name": str(idx), "path": f"{idx}_{kind}" if idx else "", "type": MODULE + kind}
            for idx, kind in enumerate(kinds)
        ]

    def _config(self) -> dict[str, Any]:
        config = dict(self.encoder.config.to_diff_dict())
        config.pop("_name_or_path", None)
        return config | {"architectures": [type(self.encoder).__name__], "dtype": "float32"}


class TransformerTrainee:
    """A transformer under training.

    A batch of more than ``chunk_tokens`` tokens is done in chunks: `embed` keeps no graph, `backward` runs each chunk
    forward again, with the dropout of the first time, and back at once (GradCache, Gao et al. 2021). So memory depends
    on ``chunk_tokens``, not on the batch. A smaller batch keeps its graph from `embed` to `backward`.
    """

    def __init__(self, model: TransformerModel, passes: Passes) -> None:
        from torch import nn

        self._model, self._passes = model, passes
        self._modules = nn.ModuleDict({"encoder": model.encoder})
        if model.dense is not None:
            self._modules["dense"] = model.dense
        for name, parameter in model.encoder.named_parameters():
            # the pooler, if there is one, is not part of an embedding
            frozen = name.startswith("pooler.") or (passes.freeze_positions and ".position_embeddings." in f".{name}")
            parameter.requires_grad_(not frozen)
        if passes.gradient_checkpointing:
            model.encoder.activation_checkpointing_enable({"use_reentrant": False})
        self._modules.train()
        self._kept: _Kept | None = None
        self.agree: Callable[[int], int] = int

    @property
    def module(self) -> nn.Module:
        """Encoder and scaling layer as one module."""
        return self._modules

    @property
    def dims(self) -> int:
        """Dimensions of an embedding."""
        return self._model.dims

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._model.device

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """The weights that are trained, by name."""
        return {name: weight for name, weight in self._modules.named_parameters() if weight.requires_grad}

    def embed(self, bags: Bags, seed: int) -> Tensor:
        """Embeddings [T, D], not normalised; those of texts without tokens are zeros."""
        import torch

        parts = list(chunks(bags, self._passes.chunk_tokens))
        parts += [_IDLE] * (self.agree(len(parts)) - len(parts))
        embedding_TD = torch.zeros(len(bags), self.dims, device=self.device)
        with torch.set_grad_enabled(len(parts) == 1), use_threads(self._passes.threads):
            for number, (rows, part) in enumerate(parts):
                output = self._forward(part, seed, number)
                embedding_TD[torch.from_numpy(rows).to(self.device)] = output.detach()[: len(rows)]
        self._kept = _Kept(parts, seed, output if len(parts) == 1 else None)
        return embedding_TD

    def backward(self, grad_TD: Tensor, run: Backward = autograd) -> None:
        """Leaves the gradients of this batch in the parameters, over whatever was there."""
        import torch

        assert self._kept is not None, "embed comes first"
        kept, self._kept = self._kept, None
        for weight in self.parameters.values():
            weight.grad = None if kept.parts else torch.zeros_like(weight)
        with use_threads(self._passes.threads):
            for number, (rows, part) in enumerate(kept.parts):
                output = self._forward(part, kept.seed, number) if kept.output is None else kept.output
                grad = grad_TD[torch.from_numpy(rows).to(grad_TD.device)].to(output.device)
                run(output[: len(rows)], grad, number == len(kept.parts) - 1)

    def vectors(self, bags: Bags, dims: int) -> Vectors:
        """Unit vectors float32 [T, dims] of the leading dimensions, without dropout."""
        with use_threads(self._passes.threads):
            passes = sum(1 for _ in chunks(bags, evaluation_tokens(self.device)))
            for _ in range(self.agree(passes) - passes):
                self._model.vectors(_IDLE[1], dims, self._passes.precision)
            return self._model.vectors(bags, dims, self._passes.precision)

    def frozen(self) -> Frozen:
        """The same of a copy of the weights; it leaves the number of threads to the thread that calls it."""
        model = replace(self._model, encoder=deepcopy(self._model.encoder), dense=deepcopy(self._model.dense))
        return partial(model.vectors, precision=self._passes.precision)

    def flops(self, lengths: npt.NDArray[np.int64]) -> float:
        """Floating-point operations that training on texts of these lengths takes, for model FLOPs utilisation.

        Six a weight and token (two forward, four backward) and twelve a layer, unit of width and pair of tokens that
        attend to each other; embeddings are looked up and count nothing, a second forward pass neither.
        """
        encoder, config = self._model.encoder, self._model.encoder.config
        weights = sum(
            weight.numel()
            for name, weight in encoder.named_parameters()
            if weight.ndim == 2 and "embeddings." not in name and not name.startswith("pooler.")
        )
        dense = 0 if self._model.dense is None else self._model.dense.weight.numel()
        pairs = _attended(lengths, config)
        return float(6 * weights * lengths.sum() + 6 * dense * len(lengths) + 12 * config.hidden_size * pairs)

    def _forward(self, part: Bags, seed: int, number: int) -> Tensor:
        import torch

        torch.manual_seed(_chunk_seed(seed, number))
        with autocast(self.device.type, self._passes.precision):
            return self._model.states(pack(part, self.device))


@dataclass(frozen=True)
class _Kept:
    """What `backward` needs of the last `embed`: chunks, seed, and the output with its graph, if one is kept."""

    parts: list[tuple[npt.NDArray[np.int64], Bags]]
    seed: int
    output: Tensor | None


def chunks(bags: Bags, tokens: int) -> Iterator[tuple[npt.NDArray[np.int64], Bags]]:
    """Texts that have tokens, shortest first, in chunks of at most ``tokens`` tokens or one text: rows [b] and bags."""
    lengths = bags.lengths
    order = length_order(bags)
    order = order[lengths[order] > 0]
    ends = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + tokens, side="right")))
        rows = order[start:stop]
        offsets = np.concatenate([[0], ends[start:stop] - before])
        within = np.arange(offsets[-1]) + np.repeat(bags.offsets[rows] - offsets[:-1], lengths[rows])
        yield rows, Bags(bags.tokens[within], offsets)
        start = stop


# A pass that only keeps step with other processes: one token, whose output nobody takes.
_IDLE = (np.zeros(0, np.int64), Bags(np.zeros(1, np.int32), np.array([0, 1])))


def evaluation_tokens(device: torch.device) -> int:
    """Tokens of one pass without gradients."""
    return BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])


def autocast(device: str, precision: Precision) -> Any:
    """The context in which products are computed in ``precision``."""
    import torch

    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device, torch.bfloat16 if precision == "bf16" else torch.float16)


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads of its own; None leaves it as it is."""
    import torch

    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _chunk_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def _attended(lengths: npt.NDArray[np.int64], config: Any) -> int:
    """Pairs of tokens that attend to each other, over all layers and texts."""
    everywhere = int((lengths**2).sum())
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    reach = np.minimum(getattr(config, "sliding_window", None) or 0, lengths - 1)
    nearby = int(((2 * reach + 1) * lengths - reach * (reach + 1)).sum())
    return sum(nearby if kind == "sliding_attention" else everywhere for kind in kinds)


def new_transformer(
    tokenizer: Tokenizer,
    seed: int,
    layers: int = 4,
    hidden: int = 312,
    heads: int = 12,
    intermediate: int = 1200,
    max_positions: int = 512,
    pooling: Pooling = "mean",
) -> TransformerModel:
    """A BERT with random weights; ``tokenizer`` gets the special tokens it needs if it has none."""
    import torch
    from transformers import BertConfig, BertModel

    if hidden % heads:
        raise UsageError(f"model.hidden: {hidden} is no multiple of model.heads ({heads})")
    tokenizer = with_special_tokens(tokenizer)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=max_positions,
        pad_token_id=tokenizer.token_to_id("[PAD]"),
    )
    torch.manual_seed(seed)
    named = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": json_bytes({"tokenizer_class": "PreTrainedTokenizerFast", **named}),
    }
    return TransformerModel(BertModel(config), tokenizer, pooling, max_positions, None, files)


def with_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that knows BERT's special tokens and puts [CLS] and [SEP] around a text; no truncation, no padding.

    Tokens keep their numbers, special ones follow the last. Raises UsageError if the tokenizer puts other tokens
    around a text.
    """
    from tokenizers import Tokenizer, processors

    content = json.loads(tokenizer.to_str())
    if content["model"]["type"] == "BPE" and content["model"].get("unk_token") is None:
        content["model"]["unk_token"] = "[UNK]"
        content["model"]["fuse_unk"] = True
        vocab = content["model"]["vocab"]
        vocab.setdefault("[UNK]", tokenizer.get_vocab_size())
    own = Tokenizer.from_str(json.dumps(content))
    own.no_padding()
    own.no_truncation()
    own.add_special_tokens(list(SPECIAL_TOKENS))
    if not own.num_special_tokens_to_add(is_pair=False):
        ids = [(token, own.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        own.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ids)
    around = own.encode("").tokens
    if around != ["[CLS]", "[SEP]"]:
        raise UsageError(f"tokenizer: puts {around} around a text; a new BERT wants [CLS] and [SEP]")
    return own


def json_bytes(value: Any) -> bytes:
    """A JSON document as models' folders have it: indented, keys sorted."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
