"""Dense layers in one pass are those of torch."""

import itertools

import pytest
import torch
from torch import nn

from gs_semantic.errors import InvalidRequestError
from gs_semantic.rendering import native


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("rows", "widths"), [(1, (3, 1)), (33, (57, 64, 33)), (1000, (5, 17, 2, 9)), (0, (4, 4))])
def test_dense_layers_are_those_of_torch(rows, widths, last):
    torch.manual_seed(0)
    layers = [(torch.randn(b, a), torch.randn(b)) for a, b in itertools.pairwise(widths)]
    x = 2 * torch.randn(rows, widths[0])
    wanted = x
    for number, (weight, bias) in enumerate(layers):
        wanted = nn.functional.linear(wanted, weight, bias)
        if last or number + 1 < len(layers):
            wanted = nn.functional.elu(wanted)
    found = native.mlp(x, layers, last, threads=2)
    assert found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_layers_that_do_not_fit_are_refused():
    wide = [(torch.zeros(300, 3), torch.zeros(300))]
    with pytest.raises(InvalidRequestError, match="gs_mlp"):
        native.mlp(torch.zeros(2, 3), wide)
    with pytest.raises(InvalidRequestError, match="weight: shape"):
        native.mlp(torch.zeros(2, 3), [(torch.zeros(4, 3), torch.zeros(4)), (torch.zeros(2, 5), torch.zeros(2))])
