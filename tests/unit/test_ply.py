"""PLY files of Gaussians, read back as a viewer reads them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from novelview.errors import DataError
from novelview.splatting.gaussians import Gaussians, covariance_of, write_ply
from novelview.splatting.rasterize import DecoderQuirks, rasterize, render_gaussians

SIZE = 24
K = torch.tensor([[[24.0, 0, 12.0], [0, 24.0, 12.0], [0, 0, 1]]])


def _gaussians(k: int, n: int = 60) -> Gaussians:
    generator = torch.Generator().manual_seed(k)
    means = torch.randn(1, n, 3, generator=generator) + torch.tensor([0, 0, 4.0])
    quats, scales = torch.randn(1, n, 4, generator=generator), 0.05 + 0.3 * torch.rand(1, n, 3, generator=generator)
    harmonics = 0.3 * torch.randn(1, n, 3, k, generator=generator)
    return Gaussians(means, covariance_of(quats, scales), torch.rand(1, n, generator=generator), harmonics)


def _read(path: Path) -> dict[str, Tensor]:
    """Read a binary little-endian PLY of floats by the names in its header."""
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
