"""PLY files of Gaussians, read back as a viewer reads them. Images of several scenes blended in one pass, as on a GPU,
against each one blended alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from novelview.errors import DataError
from novelview.splatting import blend
from novelview.splatting.gaussians import Gaussians, covariance_of, write_ply
from novelview.splatting.project import TILE, Settings, stack_bounds, tile_counts, tile_origins
from novelview.splatting.rasterize import DecoderQuirks, rasterize, rasterize_scenes, render_gaussians

SIZE = 24
K = torch.tensor([[[24.0, 0, 12.0], [0, 24.0, 12.0], [0, 0, 1]]])


def _gaussians(k: int, n: int = 60) -> Gaussians:
    generator = torch.Generator().manual_seed(k)
    means = torch.randn(1, n, 3, generator=generator) + torch.tensor([0, 0, 4.0])
    quats, scales = torch.randn(1, n, 4, generator=generator), 0.05 + 0.3 * torch.rand(1, n, 3, generator=generator)
    harmonics = 0.3 * torch.randn(1, n, 3, k, generator=generator)
    return Gaussians(means, covariance_of(quats, scales), torch.rand(1, n, generator=generator), harmonics)


def _read(path: Path) -> dict[str, Tensor]:
    head, body = path.read_bytes().split(b"end_header\n", 1)
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    names = [line.split()[2] for line in lines if line.startswith("property float ")]
    count = int(next(line for line in lines if line.startswith("element vertex ")).split()[2])
    table = np.frombuffer(body, dtype="<f4").reshape(count, len(names))
    return {name: torch.from_numpy(table[:, column].copy()) for column, name in enumerate(names)}


def _columns(read: dict[str, Tensor], prefix: str) -> Tensor:
    numbered = sorted((int(name.removeprefix(prefix)), name) for name in read if name.startswith(prefix))
    return torch.stack([read[name] for _, name in numbered], dim=-1)


@pytest.mark.parametrize("k", [1, 4, 9, 16, 25])
def test_a_viewer_shows_what_the_decoder_renders(k: int, tmp_path: Path) -> None:
    gaussians = _gaussians(k)
    write_ply(tmp_path / "scene.ply", gaussians)
    read = _read(tmp_path / "scene.ply")
    rest = [f"f_rest_{number}" for number in range(3 * (min(k, 16) - 1))]
    shape = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert list(read) == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, *shape]
    sh = _columns(read, "f_dc_")[:, None]
    if rest:
        sh = torch.cat([sh, _columns(read, "f_rest_").unflatten(1, (3, -1)).mT], dim=1)
    shown = rasterize(
        torch.stack([read[name] for name in "xyz"], dim=-1),
        torch.sigmoid(read["opacity"]),
        torch.eye(4)[None],
        K,
        SIZE,
        SIZE,
        quats=_columns(read, "rot_"),
        scales=torch.exp(_columns(read, "scale_")),
        sh=sh,
        near=0.02,
    )
    quirks = DecoderQuirks(three_sigma=False)
    intrinsics = torch.tensor([[[24.0, 24.0, 12.0, 12.0]]])
    ours = render_gaussians(gaussians, torch.eye(4)[None, None], intrinsics, SIZE, SIZE, 0.1, 100.0, quirks=quirks)
    torch.testing.assert_close(shown.color, ours.images[0], rtol=0, atol=2e-4)
    assert ours.images.std() > 0.05


def test_flat_opaque_and_no_gaussians_are_written_finite(tmp_path: Path) -> None:
    gaussians = _gaussians(4)
    gaussians.covariances[:] = 0
    gaussians.opacities[:] = torch.arange(60) % 2
    write_ply(tmp_path / "flat.ply", gaussians)
    read = _read(tmp_path / "flat.ply")
    assert all(torch.isfinite(value).all() for value in read.values())
    assert torch.sigmoid(read["opacity"]).max() > 0.999
    write_ply(tmp_path / "none.ply", _gaussians(4, n=0))
    assert len(_read(tmp_path / "none.ply")["x"]) == 0


def test_what_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    broken = _gaussians(4)
    broken.means[0, 0] = torch.nan
    two = Gaussians(*(value.repeat(2, *[1] * (value.dim() - 1)) for value in _gaussians(4).tensors()))
    for gaussians, message in ((broken, "not finite"), (two, "one scene")):
        with pytest.raises(DataError, match=message):
            write_ply(tmp_path / "scene.ply", gaussians)
    assert not list(tmp_path.iterdir())


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
