"""Operations of a layer with fixed weights, in the form that a CPU computes fastest for a few rows."""

import warnings
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


class Product:
    """``x_ND @ weight_ED.t()`` in float32.

    Decoding waits for memory: a few rows cost hardly more than reading the matrix. One whose values are all
    half-precision numbers, as a bundle's are, is therefore kept in 16 bits and widened in the registers where
    PyTorch can (FBGEMM, on x86; in one thread). The product is the same, to rounding. ``half`` tells which.
    """

    def __init__(self, weight_ED: Tensor) -> None:
        self.half = widens() and torch.equal(weight_ED.half().float(), weight_ED)
        self._weight = (
            torch.fbgemm_pack_gemm_matrix_fp16(weight_ED.contiguous())
            if self.half
            else weight_ED.t().contiguous()
        )

    def __call__(self, x_ND: Tensor) -> Tensor:
        """(N, D) to (N, E)."""
        if self.half:
            return torch.fbgemm_linear_fp16_weight_fp32_activation(x_ND, self._weight, None)
        return torch.mm(x_ND, self._weight)


class RmsNorm:
    """``x / sqrt(mean(x²) + eps) · weight_D``.

    Computed as one LayerNorm of (x, -x), whose mean is 0 and whose variance is the mean square of x:
    ``F.rms_norm`` runs eight kernels on a CPU, and their calls take longer than their work.
    """

    def __init__(self, weight_D: Tensor, eps: float) -> None:
        self._weight_2D = torch.cat((weight_D, torch.zeros_like(weight_D)))
        self._eps = eps

    def __call__(self, x_ND: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        both_ND = torch.cat((x_ND, -x_ND), 1)
        normed_ND = F.layer_norm(both_ND, self._weight_2D.shape, self._weight_2D, None, self._eps)
        return normed_ND[:, : x_ND.shape[1]]


@cache
def widens() -> bool:
    """Whether PyTorch multiplies by 16-bit matrices on this machine."""
    names = ("fbgemm_pack_gemm_matrix_fp16", "fbgemm_linear_fp16_weight_fp32_activation")
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    if not all(hasattr(torch, name) for name in names):
        return False
    with warnings.catch_warnings():  # each says once that a later PyTorch will drop it; ours is pinned
        warnings.simplefilter("ignore")
        packed = torch.fbgemm_pack_gemm_matrix_fp16(torch.zeros(1, 1))
        torch.fbgemm_linear_fp16_weight_fp32_activation(torch.zeros(1, 1), packed, None)
    return True
