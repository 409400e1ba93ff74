"""Matrix products of embeddings, by the fastest exact way of the machine.

On some processors the BLAS that PyTorch calls for fp32 runs at half the speed of oneDNN, which PyTorch carries too and
uses for other types; both round in fp32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def product(left_ND: Tensor, right_MD: Tensor, total_NM: Tensor | None = None) -> Tensor:
    """``left · rightᵀ``, plus ``total`` where given, [N, M]; fp32 for operands in half precision.

    Operands are contiguous, or transposes of contiguous tensors.
    """
    import torch

    if left_ND.dtype == torch.float32 and left_ND.device.type == "cpu" and _has_onednn():
        ops = torch.ops.mkldnn
        if total_NM is None:
            plain_NM: Tensor = ops._linear_pointwise(left_ND, right_MD, None, "none", [], "")
            return plain_NM
        summed_NM: Tensor = ops._linear_pointwise.binary(left_ND, total_NM, right_MD, None, "add")
        return summed_NM
    if left_ND.device.type == "cuda" and left_ND.dtype != torch.float32:
        wide_NM = torch.mm(left_ND, right_MD.T, out_dtype=torch.float32)
    else:
        wide_NM = left_ND @ right_MD.T
    if total_NM is not None:
        return total_NM + wide_NM
    return wide_NM.to(torch.promote_types(wide_NM.dtype, torch.float32))


@lru_cache(maxsize=1)
def _has_onednn() -> bool:
    import torch

    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
