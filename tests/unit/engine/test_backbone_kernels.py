"""The operations of a layer against PyTorch's own, for matrices kept in 16 and in 32 bits."""

import pytest
import torch
import torch.nn.functional as F

from aqaa.engine.backbone import kernels
from aqaa.engine.backbone.kernels import Product, RmsNorm, widens


def draws(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[False, True], ids=["narrow matrices kept wide", "kept narrow"])
def narrow(request, monkeypatch):
    """Whether PyTorch can multiply by 16-bit matrices; on any machine it may be told that it cannot."""
    if not request.param:
        monkeypatch.setattr(kernels, "widens", lambda: False)
    elif not widens():
        pytest.skip("PyTorch has no product with 16-bit matrices on this processor (FBGEMM, x86 with AVX2)")
    return request.param


@pytest.mark.parametrize("rows", [1, 4, 7, 8, 64])
@pytest.mark.parametrize(("inputs", "outputs"), [(256, 512), (64, 90), (3, 1), (768, 256)])
def test_a_half_precision_matrix_gives_the_plain_product(narrow, rows, inputs, outputs):
    weight_ED, x_ND = draws(outputs, inputs).half().float(), draws(rows, inputs, seed=1)
    product = Product(weight_ED)
    assert product.half is narrow
    torch.testing.assert_close(product(x_ND), x_ND @ weight_ED.t(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("odd", [1 + 2**-12, 1e6, 1e-9])
def test_a_matrix_with_one_value_beyond_half_precision_keeps_every_bit(odd):
    weight_ED = torch.eye(8)
    weight_ED[2, 3] = odd
    product = Product(weight_ED)
    assert not product.half
    assert torch.equal(product(torch.eye(8)).t(), weight_ED)


def test_rms_norm_is_the_plain_one():
    weight_D = draws(96)
    x_ND = draws(5, 96, seed=1) * torch.tensor([1e-4, 0.1, 1.0, 30.0, 1e4])[:, None] + 0.5
    got, want = RmsNorm(weight_D, 1e-5)(x_ND), F.rms_norm(x_ND, (96,), weight_D, 1e-5)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
