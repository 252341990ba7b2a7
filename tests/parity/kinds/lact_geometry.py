"""LaCT's cameras against the reference: rays, scene normalisation, turntable, blended path, resize and crop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformer_fixture import close

from novelview.cameras.camera import cover_plan, rays
from novelview.cameras.paths import along, turntable
from novelview.cameras.poses import mean_frame

ATOL = 1e-5
BUNDLED = Path(__file__).parents[2] / "goldens/lact/geometry"


def check_rays(folder: Path, config: dict[str, Any]) -> None:
    fixture = load_file(folder / "cases.safetensors")
    origin, direction = rays(fixture["rays.c2w"], fixture["rays.fxfycxcy"], *fixture["rays.d"].shape[-2:])
    moment = torch.linalg.cross(origin, direction, dim=-3)
    for name, ours in (("o", origin), ("d", direction), ("o_cross_d", moment)):
        close(f"rays.{name}", ours, fixture[f"rays.{name}"], ATOL)


def check_normalisation(folder: Path, config: dict[str, Any]) -> None:
    fixture = load_file(folder / "cases.safetensors")
    close(
        "norm.c2w_out",
        mean_frame(fixture["norm.c2w_in"], 1.0).transform(fixture["norm.c2w_in"]),
        fixture["norm.c2w_out"],
        ATOL,
    )


def check_turntable(folder: Path, config: dict[str, Any]) -> None:
    fixture, asked = load_file(folder / "cases.safetensors"), config["turntable"]
    options = {name: asked[name] for name in ("hfov", "elevation", "min_radius", "max_radius")}
    c2w, intrinsics = turntable(asked["num_views"], asked["h"], asked["w"], **options)
    close("turntable.c2w", c2w[None], fixture["turntable.c2w"], ATOL)
    close("turntable.fxfycxcy", intrinsics[None], fixture["turntable.fxfycxcy"], ATOL)


def check_interpolation(folder: Path, config: dict[str, Any]) -> None:
    fixture, between = load_file(folder / "cases.safetensors"), config["interp_num_views"]
    for scene, (c2w, lens) in enumerate(zip(fixture["interp.c2w_in"], fixture["interp.fxfycxcy_in"], strict=True)):
        places = torch.arange((len(c2w) - 1) * (between + 1) + 1, dtype=torch.float64) / (between + 1)
        poses, lenses = along(c2w, lens, places, blend="entrywise")
        close("interp.c2w_out", poses, fixture["interp.c2w_out"][scene], ATOL)
        close("interp.fxfycxcy_out", lenses, fixture["interp.fxfycxcy_out"][scene], ATOL)


def check_crop(folder: Path, config: dict[str, Any]) -> None:
    """Resize to cover, centre crop, white below transparent pixels; the intrinsics that go with them."""
    fixture = load_file(folder / "cases.safetensors")
    assert config["crop"]
    for case in config["crop"]:
        name = f"crop{case['case']}"
        picture = _source(folder, case["source"], fixture.get(f"{name}.src_rgb_u8"))
        plan = cover_plan(picture.height, picture.width, *case["target_hw"])
        close(f"{name}.rgb_u8", plan.image(picture).permute(1, 2, 0), fixture[f"{name}.rgb_u8"], 0)
        lens = plan.intrinsics(torch.tensor(case["fxfycxcy_in"]))
        close(f"{name}.fxfycxcy", lens, fixture[f"{name}.fxfycxcy"], ATOL, rtol=1e-6)


def _source(folder: Path, name: str, recorded: Tensor | None) -> Image.Image:
    """Open the picture of a case: recorded in the fixture, beside it, or among those kept with our own."""
    if recorded is not None:
        return Image.fromarray(recorded.numpy())
    places = [folder, *(above / "data/gso_character" for above in folder.parents), BUNDLED]
    found = [place / name for place in places if (place / name).is_file()]
    if not found:
        pytest.fail(f"{folder}: its picture {name} is neither beside it nor in a data/gso_character folder above it")
    return Image.open(found[0])
