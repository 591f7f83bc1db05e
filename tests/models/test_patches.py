"""A picture becomes tokens square by square, in the order in which a page is read."""

import pytest
import torch

from clearhead import ClearheadError
from clearhead.models.patches import Patches
from clearhead.nn import LayerNorm


@torch.no_grad()
def test_tokens_are_squares_times_a_matrix_plus_their_places() -> None:
    """Equation 1 of the paper, written out."""
    patches = Patches(5, size=6, patch=2, channels=3)
    patches.position.table.normal_()
    pixels = torch.randn(2, 3, 6, 6)
    matrix = patches.project.weight.flatten(1)
    expected = [patches.class_token.expand(2, 5)]
    for row in range(3):
        for column in range(3):
            square = pixels[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
            expected.append(square @ matrix.T + patches.project.bias)
    torch.testing.assert_close(patches(pixels), torch.stack(expected, 1) + patches.position.table)


@torch.no_grad()
def test_a_norm_comes_last() -> None:
    patches = Patches(5, size=4, patch=2, norm=LayerNorm)
    made = patches(torch.randn(1, 3, 4, 4))
    torch.testing.assert_close(made.mean(-1), torch.zeros(1, 5), atol=1e-5, rtol=0)


def test_squares_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ClearheadError, match=r"7 pixels a side do not divide into squares of 2"):
        Patches(5, size=7, patch=2)


@pytest.mark.parametrize("shape", [(1, 3, 8, 6), (1, 1, 6, 6)])
def test_a_picture_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ClearheadError, match=r"got pixels of shape \(1, .* expected \(B, 3, 6, 6\)"):
        Patches(5, size=6, patch=2)(torch.randn(shape))
