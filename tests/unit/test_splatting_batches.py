"""Images of several scenes blended in one pass, as on a GPU, against each one blended alone."""

import pytest
import torch
from torch import Tensor

from novelview.splatting import blend
from novelview.splatting.project import TILE, Settings, stack_bounds, tile_counts, tile_origins
from novelview.splatting.rasterize import rasterize_scenes

SETTINGS = Settings(21, 18, 0.2)


def scene(n: int, cameras: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    poses = torch.eye(4, dtype=torch.float64).repeat(cameras, 1, 1)
    poses[:, 0, 3] = torch.linspace(-0.5, 0.5, cameras, dtype=torch.float64)
    lens = torch.tensor([[20.0, 0, 9.0], [0, 22.0, 10.0], [0, 0, 1]], dtype=torch.float64)
    scales = 0.02 + 0.4 * torch.rand(n, 3, generator=generator)
    found = {
        "means": torch.randn(n, 3, generator=generator) + torch.tensor([0, 0, 3.0]),
        "opacities": torch.rand(n, generator=generator),
        "covariances": torch.diag_embed(scales.square()),
        "colors": torch.rand(cameras, n, 3, generator=generator),
    }
    given = {name: value.double().requires_grad_() for name, value in found.items()}
    return given | {"viewmats": poses, "Ks": lens.repeat(cameras, 1, 1)}


def leaves(scenes: list[dict[str, Tensor]]) -> list[Tensor]:
    return [value for one in scenes for value in one.values() if value.requires_grad]


@pytest.mark.parametrize("sizes", [((60, 2), (90, 1), (1, 3)), ((200, 1),)])
def test_one_pass_over_all_images_changes_nothing(sizes: tuple[tuple[int, int], ...]) -> None:
    scenes = [scene(n, cameras, seed) for seed, (n, cameras) in enumerate(sizes)]
    drawn = [blend._drawn(one, camera, SETTINGS) for one in scenes for camera in range(len(one["viewmats"]))]
    together = blend._blended(drawn, SETTINGS)
    alone = torch.cat(blend.blend_scenes(scenes, SETTINGS))
    assert together.shape == (len(drawn), 18, 21, 5)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    weights = torch.randn(alone.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.autograd.grad((images * weights).sum(), leaves(scenes)) for images in (together, alone)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_scenes_come_back_with_their_own_cameras() -> None:
    scenes = [scene(30, 2, 0), scene(40, 1, 1)]
    splats = rasterize_scenes(scenes, SETTINGS, torch.ones(3, dtype=torch.float64))
    assert [splat.color.shape for splat in splats] == [(2, 3, 18, 21), (1, 3, 18, 21)]
    (alone,) = rasterize_scenes(scenes[1:], SETTINGS, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(splats[1].color, alone.color)
    assert all(splat.alpha.detach().max() > 0.5 for splat in splats)


def test_tiles_of_stacked_images_begin_where_those_of_one_do() -> None:
    columns, rows = tile_counts(SETTINGS)
    numbers = torch.arange(3 * columns * rows)
    left, top = tile_origins(numbers, SETTINGS)
    assert torch.equal(left.view(3, -1)[2], left.view(3, -1)[0]) and torch.equal(top.view(3, -1)[2], top.view(3, -1)[0])
    assert (left.max(), top.max()) == ((columns - 1) * TILE, (rows - 1) * TILE)
    bounds = torch.tensor([[0, 1, 2, 3]])
    assert stack_bounds([bounds, bounds], SETTINGS).tolist() == [[0, 1, 2, 3], [0, 1 + rows, 2, 3 + rows]]
