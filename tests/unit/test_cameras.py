"""Cameras: sizes and intrinsics, rays, pose encodings, paths and alignment."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from novelview.cameras.align import fit_cameras, rotation_error_deg, translation_error, umeyama
from novelview.cameras.camera import plucker, rays, resize_crop_plan
from novelview.cameras.paths import interpolate, nearest_order
from novelview.cameras.poses import c2w_to_encoding, canonicalise, encoding_to_c2w, mat_to_quat, mean_frame, quat_to_mat
from novelview.config.schema import ViewsConfig
from novelview.errors import DataError


def cameras(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    encoding = torch.randn(count, 7, generator=generator, dtype=torch.float64)
    return encoding_to_c2w(encoding)


def views(**changes: object) -> ViewsConfig:
    return ViewsConfig(**{"image_size": 224, "patch_size": 14, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("height", "width", "changes", "resized", "cropped"),
    [
        (360, 640, {}, (224, 392), (224, 224)),
        (360, 640, {"image_size": 518}, (518, 924), (518, 518)),
        (360, 640, {"square_crop": False}, (224, 392), (224, 392)),
        (224, 224, {}, (224, 224), (224, 224)),
        (640, 360, {}, (392, 224), (224, 224)),
        (640, 360, {"portrait": "reference"}, (224, 126), (126, 126)),
        (230, 224, {}, (224, 224), (224, 224)),
        (10, 2000, {"square_crop": False, "image_size": 14}, (14, 2800), (14, 2800)),
    ],
)
def test_sizes_of_a_plan(height, width, changes, resized, cropped) -> None:
    plan = resize_crop_plan(height, width, views(**changes))
    assert (plan.resize_h, plan.resize_w) == resized
    assert (plan.out_h, plan.out_w) == cropped
    assert plan.top == (resized[0] - cropped[0]) // 2 and plan.left == (resized[1] - cropped[1]) // 2


@pytest.mark.parametrize(("height", "width"), [(0, 640), (360, 0), (-1, 5), (2000, 10), (10_000, 1)])
def test_frames_without_enough_pixels_are_refused(height: int, width: int) -> None:
    with pytest.raises(DataError, match=f"{width}x{height}"):
        resize_crop_plan(height, width, views(portrait="reference"))


def test_an_image_of_another_size_than_planned_is_refused() -> None:
    plan = resize_crop_plan(36, 64, views(image_size=28))
    with pytest.raises(DataError, match="64, 36"):
        plan.image(Image.new("RGB", (36, 64)))


@pytest.mark.parametrize("size", [(72, 128), (128, 72)])
def test_intrinsics_follow_the_picture(size: tuple[int, int]) -> None:
    height, width = size
    row, column = height / 2 + 9, width / 2 - 7
    down, across = np.mgrid[:height, :width]
    blob = np.exp(-((across + 0.5 - column) ** 2 + (down + 0.5 - row) ** 2) / 18)
    picture = Image.fromarray((255 * blob).astype(np.uint8)).convert("RGB")
    plan = resize_crop_plan(height, width, views(image_size=56))
    image = plan.image(picture)[0].double()
    assert image.shape == (plan.out_h, plan.out_w)
    # the pixel a point at (column, row) falls on is where intrinsics put a principal point that was there
    centre = plan.intrinsics(torch.tensor([50.0, 60.0, column, row], dtype=torch.float64))
    places = torch.arange(56, dtype=torch.float64) + 0.5
    found = [(image.sum(0) * places).sum() / image.sum(), (image.sum(1) * places).sum() / image.sum()]
    torch.testing.assert_close(torch.stack(found), centre[2:], atol=0.15, rtol=0)


def test_rays_pass_through_the_pixels_they_are_of() -> None:
    c2w, intrinsics = cameras(3), torch.tensor([20.0, 25.0, 8.5, 5.0], dtype=torch.float64).expand(3, 4)
    origin, direction = rays(c2w, intrinsics, 10, 16)
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(3, 10, 16, dtype=torch.float64))
    local = torch.linalg.inv(c2w)[:, :3] @ torch.cat([origin + 3 * direction, torch.ones(3, 1, 10, 16)], 1).flatten(2)
    assert (local[:, 2] > 0).all(), "rays look along +z"
    x = (20 * local[:, 0] / local[:, 2] + 8.5).view(3, 10, 16)
    y = (25 * local[:, 1] / local[:, 2] + 5.0).view(3, 10, 16)
    torch.testing.assert_close(x, (torch.arange(16.0).double() + 0.5).expand_as(x))
    torch.testing.assert_close(y, (torch.arange(10.0).double() + 0.5)[:, None].expand_as(y))


def test_pluecker_coordinates_do_not_depend_on_the_point_on_the_ray() -> None:
    c2w, intrinsics = cameras(2), torch.tensor([20.0, 20.0, 4.0, 3.0], dtype=torch.float64).expand(2, 4)
    origin, direction = rays(c2w, intrinsics, 6, 8)
    coordinates = plucker(c2w, intrinsics, 6, 8)
    assert coordinates.shape == (2, 6, 6, 8)
    moved = torch.linalg.cross(origin + 5 * direction, direction, dim=1)
    torch.testing.assert_close(coordinates[:, :3], moved)
    torch.testing.assert_close(coordinates[:, 3:], direction)


def test_the_identity_camera_has_no_moment() -> None:
    coordinates = plucker(torch.eye(4), torch.tensor([9.0, 9.0, 4.0, 4.0]), 8, 8)
    assert torch.equal(coordinates[:3], torch.zeros(3, 8, 8))


def test_rays_stay_in_float32_under_autocast() -> None:
    c2w, intrinsics = cameras(2).float(), torch.tensor([20.0, 20.0, 4.0, 3.0]).expand(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = plucker(c2w, intrinsics, 6, 8)
    assert torch.equal(inside, plucker(c2w, intrinsics, 6, 8))


def turns() -> Tensor:
    """Rotations by every quaternion with components in {-1, 0, 1}: half turns, quarter turns, the identity."""
    values = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    all_of_them = torch.cartesian_prod(values, values, values, values)
    return all_of_them[all_of_them.norm(dim=1) > 0]


def test_encodings_survive_the_way_there_and_back() -> None:
    quaternions = torch.cat([turns(), c2w_to_encoding(cameras(50))[:, 3:]])
    rotations = quat_to_mat(quaternions)
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand_as(rotations))
    assert (torch.linalg.det(rotations) > 0).all()
    found = mat_to_quat(rotations)
    assert (found[:, 3] >= 0).all()
    torch.testing.assert_close(quat_to_mat(found), rotations)
    c2w = cameras(9)
    torch.testing.assert_close(encoding_to_c2w(c2w_to_encoding(c2w)), c2w)


def test_quaternions_are_scalar_last() -> None:
    quarter = math.sqrt(0.5)
    about_z = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(mat_to_quat(about_z), torch.tensor([0.0, 0.0, quarter, quarter]))


def test_normalised_poses_fill_the_cube_and_keep_their_geometry() -> None:
    poses = cameras(6, seed=3)
    normal = mean_frame(poses, 1.35).transform(poses)
    assert normal[:, :3, 3].abs().max().item() == pytest.approx(1 / 1.35)
    torch.testing.assert_close(normal[:, :3, 3].mean(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(normal[0, :3, :3].mT @ normal[1, :3, :3], poses[0, :3, :3].mT @ poses[1, :3, :3])
    ratios = torch.cdist(normal[:, :3, 3], normal[:, :3, 3]) / torch.cdist(poses[:, :3, 3], poses[:, :3, 3])
    steady = ratios[~torch.eye(6, dtype=torch.bool)]
    torch.testing.assert_close(steady, steady[:1].expand_as(steady))
    moved = cameras(1, seed=4) @ poses
    torch.testing.assert_close(mean_frame(moved, 1.35).transform(moved), normal)


def test_cameras_in_one_place_stay_finite() -> None:
    poses = cameras(3)
    poses[:, :3, 3] = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert mean_frame(poses, 1.35).transform(poses)[:, :3, 3].abs().max() < 1e-9


def test_canonical_cameras_are_relative_to_the_first() -> None:
    poses = torch.stack([cameras(4, seed=1), cameras(4, seed=2)]).float()
    relative = canonicalise(poses)
    torch.testing.assert_close(relative[:, 0], torch.eye(4).expand(2, 4, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(poses[:, :1] @ relative, poses, atol=1e-4, rtol=0)


def test_a_singular_first_camera_is_refused() -> None:
    poses = cameras(2).float()
    poses[0, :3, :3] *= 1e-6
    with pytest.raises(DataError, match="singular"):
        canonicalise(poses)


def lenses(count: int) -> Tensor:
    return torch.arange(4.0 * count, dtype=torch.float64).view(count, 4)


@pytest.mark.parametrize(("loop", "legs"), [(False, 2), (True, 3)])
def test_paths_start_and_end_at_their_cameras(loop: bool, legs: int) -> None:
    c2w = cameras(3)
    path, intrinsics = interpolate(c2w, lenses(3), 5, loop=loop)
    assert path.shape == (5 * legs, 4, 4) and intrinsics.shape == (5 * legs, 4)
    for leg in range(legs):
        for frame, camera in ((5 * leg, leg), (5 * leg + 4, (leg + 1) % 3)):
            torch.testing.assert_close(path[frame], c2w[camera])
            torch.testing.assert_close(intrinsics[frame], lenses(3)[camera])
    halfway = path[2]
    torch.testing.assert_close(halfway[:3, 3], c2w[:2, :3, 3].mean(0))
    there, back = (rotation_error_deg(halfway[None], c2w[end : end + 1]) for end in (0, 1))
    torch.testing.assert_close(there, back)
    torch.testing.assert_close(there + back, rotation_error_deg(c2w[:1], c2w[1:2]))


def test_a_path_between_equal_cameras_stands_still() -> None:
    c2w = cameras(1).expand(2, 4, 4)
    torch.testing.assert_close(interpolate(c2w, lenses(2), 3)[0], c2w[:1].expand(3, 4, 4))


def test_ordered_paths_go_to_the_nearest_camera_left() -> None:
    centres = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.5, 0.0, 0.0]])
    assert nearest_order(centres) == [0, 2, 3, 1]


def test_a_path_needs_two_cameras() -> None:
    with pytest.raises(DataError, match="two cameras"):
        interpolate(cameras(1), lenses(1), 5)


def test_umeyama_finds_a_known_similarity() -> None:
    source = cameras(8, seed=5)[:, :3, 3]
    rotation, shift = cameras(1)[0, :3, :3], torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    found = umeyama(source, 2.5 * source @ rotation.mT + shift)
    assert found.scale.item() == pytest.approx(2.5)
    torch.testing.assert_close(found.rotation, rotation)
    torch.testing.assert_close(found.translation, shift)


def test_umeyama_never_mirrors() -> None:
    source = cameras(8, seed=5)[:, :3, 3]
    mirrored = source * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    assert torch.linalg.det(umeyama(source, mirrored).rotation).item() == pytest.approx(1)


@pytest.mark.parametrize("counts", [(0, 0), (3, 4)])
def test_umeyama_refuses_sets_that_do_not_pair(counts: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="as many points"):
        umeyama(torch.zeros(counts[0], 3), torch.zeros(counts[1], 3))


@pytest.mark.parametrize("straight", [False, True])
def test_aligned_cameras_are_the_true_ones(straight: bool) -> None:
    true = cameras(6, seed=7)
    if straight:  # a dolly: centres alone leave the turn about the line open
        true[:, :3, 3] = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None] * torch.tensor([1.0, 2.0, 0.5])
    rotation = cameras(1, seed=8)[0, :3, :3]
    estimated = true.clone()
    estimated[:, :3, :3] = rotation @ true[:, :3, :3]
    estimated[:, :3, 3] = 0.2 * true[:, :3, 3] @ rotation.mT + 4
    aligned = fit_cameras(estimated, true).cameras(estimated)
    assert rotation_error_deg(aligned, true).max() < 1e-3
    assert translation_error(aligned, true).max() < 1e-4
    assert rotation_error_deg(estimated, true).min() > 1


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 45.0, 90.0, 179.999, 180.0])
def test_rotation_errors_are_angles(degrees: float) -> None:
    half = math.radians(degrees) / 2
    quaternion = torch.tensor([0.0, math.sin(half), 0.0, math.cos(half)], dtype=torch.float64)
    true = cameras(1)
    turned = true.clone()
    turned[:, :3, :3] = true[:, :3, :3] @ quat_to_mat(quaternion)
    assert rotation_error_deg(turned, true).item() == pytest.approx(degrees, abs=1e-6)
