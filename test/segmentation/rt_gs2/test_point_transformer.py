import pytest
import torch
import torch.nn.functional as F

from gs_semantic.segmentation.generalization.rt_gs2.point_transformer import (
    PointTransformer,
    PointTransformerConfig,
    _PatchAttention,
)
from gs_semantic.segmentation.generalization.rt_gs2.pyramid import build_pyramid
from gs_semantic.segmentation.generalization.rt_gs2.sparse import SubmanifoldConv, find_neighbours


def surface(count: int, seed: int = 0) -> torch.Tensor:
    """Different cells of a grid near a wavy floor, (N,3)."""
    generator = torch.Generator().manual_seed(seed)
    xy = torch.randint(0, 40, (count, 2), generator=generator)
    z = (3 + 3 * torch.sin(xy.float().sum(dim=1) / 6)).long()
    return torch.unique(torch.cat([xy, z[:, None]], dim=1), dim=0)


@pytest.mark.parametrize("kernel", [3, 5])
def test_sparse_convolution_is_the_dense_one_at_occupied_cells(kernel):
    cells = surface(300)
    conv = SubmanifoldConv(3, 4, kernel)
    torch.nn.init.normal_(conv.bias)
    x = torch.randn(len(cells), 3, requires_grad=True)
    out = conv(x, find_neighbours(cells, kernel), None, None)
    size, (i, j, k) = cells.amax(dim=0) + 1, cells.T
    dense = torch.zeros(3, *size.tolist()).index_put((torch.arange(3)[:, None], i, j, k), x.T)
    weight = conv.weight.reshape(kernel, kernel, kernel, 3, 4).permute(4, 3, 0, 1, 2)
    wanted = F.conv3d(dense[None], weight, conv.bias, padding=kernel // 2)[0][:, i, j, k].T
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(out)
    found = torch.autograd.grad(out, (x, conv.weight, conv.bias), upstream)
    expected = torch.autograd.grad(wanted, (x, conv.weight, conv.bias), upstream)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_points_in_one_cell_hear_themselves_and_the_mean_of_the_next_cell():
    cells = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 0, 1]])
    pyramid = build_pyramid(cells, 1, 3, ("z",))
    level = pyramid.levels[0]
    conv = SubmanifoldConv(1, 1, 3, bias=False)
    torch.nn.init.zeros_(conv.weight)
    conv.weight.data[13], conv.weight.data[14] = 1.0, 10.0  # itself; the cell at +1 along z
    out = conv(torch.tensor([[1.0], [2.0], [4.0]]), level.neighbours, level.cell_of, level.cell_size)
    assert out[:, 0].tolist() == [1 + 10 * 3, 2, 4]


def test_levels_halve_cells_and_keep_every_curve():
    cells = surface(500)
    pyramid = build_pyramid(cells, 3, 5)
    fine, middle, coarse = pyramid.levels
    assert middle.count == len(torch.unique(cells >> 1, dim=0))
    assert coarse.count == len(torch.unique(cells >> 2, dim=0))
    assert coarse.parent is None and fine.parents == middle.count
    for level in pyramid.levels:
        assert len(level.orders) == 4
        for order in level.orders:
            assert torch.equal(order.sort().values, torch.arange(level.count))
    members = torch.zeros(middle.count, dtype=torch.long).index_add(0, fine.parent, torch.ones(fine.count).long())
    assert members.min() >= 1 and members.max() <= 8


def test_patch_attention_is_plain_attention_within_patches():
    torch.manual_seed(0)
    attention = _PatchAttention(8, 2, 4).eval()
    x, order = torch.randn(10, 8), torch.randperm(10)
    found = attention(x, order)
    query, key, value = attention.qkv(x).reshape(10, 3, 2, 4).unbind(dim=1)
    mixed = torch.empty(10, 2, 4)
    for first in (0, 4, 6):  # the last patch overlaps the second and overrides only what is its own
        rows = order[first : first + 4]
        scores = torch.einsum("ahc,bhc->hab", query[rows], key[rows]) / 2
        answer = torch.einsum("hab,bhc->ahc", scores.softmax(dim=-1), value[rows])
        new = torch.arange(4) + first >= (8 if first == 6 else first)
        mixed[rows[new]] = answer[new]
    torch.testing.assert_close(found, attention.out(mixed.reshape(10, 8)), rtol=1e-4, atol=1e-5)


def test_paper_sizes():
    config = PointTransformerConfig()
    model = PointTransformer(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 44e6 < count < 48e6  # the published network has 46 million
    assert config.features == 32


def test_answer_belongs_to_the_point_whatever_the_order_of_points():
    torch.manual_seed(0)
    model = PointTransformer(PointTransformerConfig.small()).eval()
    xyz = surface(400).float() * 0.07 + 0.01
    features = torch.randn(len(xyz), 10)
    shuffle = torch.randperm(len(xyz))
    with torch.no_grad():
        one, other = model(xyz, features), model(xyz[shuffle], features[shuffle])
    torch.testing.assert_close(one[shuffle], other, rtol=1e-3, atol=1e-4)
    assert one.shape == (len(xyz), 32) and one.std() > 0.1


@pytest.mark.parametrize("count", [1, 10])
def test_a_handful_of_points_works(count):
    model = PointTransformer(PointTransformerConfig.small()).eval()
    with torch.no_grad():
        assert torch.isfinite(model(torch.rand(count, 3), torch.rand(count, 10))).all()


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    config = PointTransformerConfig(
        **{**vars(PointTransformerConfig.small()), "drop_path": 0.0, "patch": 64},
    )
    model = PointTransformer(config).train()
    xyz = surface(400).float() * 0.07
    model(xyz, torch.randn(len(xyz), 10)).square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # what a layer norm behind it, or a softmax, does not let through
    assert all(name.endswith(("qkv.bias", ".bias")) for name in silent), silent
