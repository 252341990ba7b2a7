"""The attention overlay: which patch is red, where the colours lie, and what is refused."""

import numpy as np
import pytest

from novelview.errors import DataError
from novelview.figures.pictures import STOPS, colours, overlay

ROWS, COLUMNS, SIZE = 2, 3, 4
COUNT = ROWS * COLUMNS
VIEWS = np.zeros((ROWS * SIZE, COLUMNS * SIZE, 3)), np.ones((ROWS * SIZE, COLUMNS * SIZE, 3))


def test_one_patch_is_red_and_the_other_view_coloured() -> None:
    attention = np.zeros((2 * COUNT, 2 * COUNT))
    attention[4, COUNT + 2] = 0.3
    marked, coloured = overlay(attention, *VIEWS, patch=4, size=SIZE)
    red = np.zeros_like(marked)
    red[4:8, 4:8, 0] = 0.5
    np.testing.assert_allclose(marked, red)
    expected = np.broadcast_to(0.5 + 0.5 * STOPS[0], coloured.shape).copy()
    expected[0:4, 8:12] = 0.5 + 0.5 * STOPS[-1]
    np.testing.assert_allclose(coloured, expected)
    assert not VIEWS[0].any() and VIEWS[1].all(), "the pictures given are left as they are"


def test_even_attention_has_one_colour() -> None:
    _, coloured = overlay(np.full((2 * COUNT, 2 * COUNT), 0.1), *VIEWS, patch=0, size=SIZE)
    np.testing.assert_allclose(coloured, np.broadcast_to(0.5 + 0.5 * STOPS[0], coloured.shape))


def test_colours_are_straight_lines_between_the_stops() -> None:
    np.testing.assert_allclose(colours(np.array([0, 1 / 3, 2 / 3, 1])), STOPS)
    np.testing.assert_allclose(colours(np.array([1 / 6])), STOPS[:2].mean(axis=0)[None])


@pytest.mark.parametrize("patch", [-1, COUNT])
def test_a_patch_outside_the_view_is_refused(patch: int) -> None:
    with pytest.raises(DataError, match=f"patch {patch} does not exist"):
        overlay(np.zeros((2 * COUNT, 2 * COUNT)), *VIEWS, patch=patch, size=SIZE)


def test_a_map_of_three_views_is_refused() -> None:
    with pytest.raises(DataError, match="two views"):
        overlay(np.zeros((3 * COUNT, 3 * COUNT)), *VIEWS, patch=0, size=SIZE)
