"""Lenses: projection against pycolmap's, and undistortion against a picture taken without distortion."""

import numpy as np
import pycolmap
import pytest
from PIL import Image

from novelview.errors import DataError
from novelview.scenes.imports import colmap
from novelview.scenes.imports.scene import Lens, flatten, undistort

MODELS = {
    "SIMPLE_PINHOLE": [300, 160, 120],
    "PINHOLE": [300, 310, 158, 123],
    "SIMPLE_RADIAL": [300, 160, 120, 0.08],
    "RADIAL": [300, 160, 120, -0.1, 0.03],
    "OPENCV": [300, 310, 158, 123, 0.06, -0.08, -0.001, 0.002],
    "OPENCV_FISHEYE": [300, 310, 158, 123, 0.05, -0.02, 0.004, -0.001],
    "FULL_OPENCV": [300, 310, 158, 123, 0.06, -0.08, -0.001, 0.002, 0.01, 0.02, -0.01, 0.005],
    "FOV": [300, 310, 158, 123, 0.6],
    "SIMPLE_RADIAL_FISHEYE": [300, 160, 120, 0.03],
    "RADIAL_FISHEYE": [300, 160, 120, 0.03, -0.01],
    "THIN_PRISM_FISHEYE": [300, 310, 158, 123, 0.05, -0.02, 0.001, -0.002, 0.004, -0.001, 0.001, 0.002],
    "RAD_TAN_THIN_PRISM_FISHEYE": [
        300, 310, 158, 123, 0.05, -0.02, 0.004, -0.001, 0.0, 0.0, 0.001, -0.002, 0.001, 0.0, 0.002, 0.0
    ],
    "SIMPLE_DIVISION": [300, 160, 120, -0.1],
    "DIVISION": [300, 310, 158, 123, -0.1],
    "SIMPLE_FISHEYE": [300, 160, 120],
    "FISHEYE": [300, 310, 158, 123],
    "EUCM": [300, 310, 158, 123, 0.5, 1.1],
}  # fmt: skip


def lens_of(model: str) -> Lens:
    return colmap._lens(model, 320, 240, tuple(map(float, MODELS[model])))


@pytest.mark.parametrize("model", MODELS)
def test_projection_is_colmaps(model):
    camera = pycolmap.Camera(model=model, width=320, height=240, params=MODELS[model])
    rays = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    expected = np.array([camera.img_from_cam(np.array([*ray, 1.0])) for ray in rays]).reshape(-1, 2)
    assert np.allclose(lens_of(model).project(rays), expected, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_flat_lens_is_covered_by_the_picture_and_as_wide_as_that_allows(model):
    lens = lens_of(model)
    flat = flatten(lens)
    corners = np.stack(np.meshgrid(np.linspace(0, 320, 81), np.linspace(0, 240, 61)), -1)
    pixels = lens.project((corners - (flat.cx, flat.cy)) / (flat.fx, flat.fy))
    assert (pixels >= -1e-3).all() and (pixels <= np.array([320, 240]) + 1e-3).all()
    slack = min(pixels.min(), (np.array([320, 240]) - pixels).min())
    assert slack < 0.01 and (flat.cx, flat.cy) == (lens.cx, lens.cy) and not flat.distorted


def test_a_lens_without_distortion_stays_as_it_is():
    assert flatten(lens_of("PINHOLE")) is not None and flatten(lens_of("PINHOLE")) == lens_of("PINHOLE")


@pytest.mark.parametrize("radial", [(-50.0, 0.0, 0.0, 0.0), (1e6, 0.0, 0.0, 0.0)])
def test_absurd_distortion_is_refused(radial):
    with pytest.raises(DataError, match="cannot be removed"):
        flatten(Lens(320, 240, 300, 300, 160, 120, radial))


def pattern(rays: np.ndarray) -> np.ndarray:
    """A smooth picture as a function of direction, uint8 RGB."""
    waves = [np.sin(9 * rays[..., 0]), np.cos(8 * rays[..., 1]), np.sin(7 * (rays[..., 0] + rays[..., 1]))]
    return (127.5 + 120 * np.stack(waves, -1)).round().astype(np.uint8)


def grid(lens: Lens) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(lens.width) + 0.5, np.arange(lens.height) + 0.5), -1)


def invert(lens: Lens, pixels: np.ndarray) -> np.ndarray:
    """Rays of distorted pixels by fixed-point iteration, independent of the resampler."""
    target = (pixels - (lens.cx, lens.cy)) / (lens.fx, lens.fy)
    rays = target.copy()
    for _ in range(200):
        rays += target - (lens.project(rays) - (lens.cx, lens.cy)) / (lens.fx, lens.fy)
    return rays


@pytest.mark.parametrize("model", [model for model in MODELS if "PINHOLE" not in model])
def test_undistorted_picture_is_the_one_a_flat_lens_takes(model):
    lens = lens_of(model)
    flat = flatten(lens)
    seen = undistort(Image.fromarray(pattern(invert(lens, grid(lens)))), lens, flat)
    truth = pattern((grid(flat) - (flat.cx, flat.cy)) / (flat.fx, flat.fy))
    difference = np.abs(np.asarray(seen).astype(int) - truth)
    assert difference.max() <= 3 and difference.mean() < 0.6
