"""The picture in a page is what the model read, bounded in size, with its patches where they are."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clearhead.errors import ClearheadError
from clearhead.view.image import AS_PNG, LARGEST, on_page, patches


def opened(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")


PIXELS = (np.indices((32, 32, 3)).sum(0) * 3).astype("u1")


@pytest.mark.parametrize("how", ["array", "tensor", "parts", "PIL", "path"])
def test_a_picture_is_the_same_however_it_is_given(how: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    given = {
        "array": PIXELS,
        "tensor": torch.from_numpy(PIXELS),
        "parts": torch.from_numpy(PIXELS) / 255,
        "PIL": Image.fromarray(PIXELS),
        "path": path,
    }[how]
    page = on_page(given, 17)
    assert (page["rows"], page["columns"], page["first"]) == (4, 4, 1)
    assert page["source"].startswith("data:image/png;base64,")
    np.testing.assert_array_equal(np.asarray(opened(page["source"])), PIXELS)


def test_a_large_picture_is_made_smaller_and_a_photograph_of_it() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (900, 1800, 3), dtype="u1")
    source = on_page(noise, 8 * 16 + 1)["source"]
    assert source.startswith("data:image/jpeg;base64,")
    assert opened(source).size == (LARGEST, LARGEST // 2)
    assert len(source) < 1.5 * AS_PNG


@pytest.mark.parametrize(
    ("tokens", "aspect", "grid"),
    [
        (197, 1.0, (14, 14, 1)),
        (197, 2.0, (14, 14, 1)),  # the model made a square of it
        (50, 1.0, (7, 7, 1)),
        (198, 1.0, (14, 14, 2)),
        (261, 1.0, (16, 16, 5)),
        (256, 1.0, (16, 16, 0)),
        (8 * 12 + 1, 1.5, (8, 12, 1)),
        (12 * 8, 2 / 3, (12, 8, 0)),
    ],
)
def test_the_grid_of_patches_is_found(tokens: int, aspect: float, grid: tuple[int, int, int]) -> None:
    assert patches(tokens, aspect) == grid


@pytest.mark.parametrize(("tokens", "aspect"), [(2, 1.0), (48, 1.0), (97, 1.0), (1, 3.0)])
def test_tokens_that_are_no_grid_are_refused(tokens: int, aspect: float) -> None:
    with pytest.raises(
        ClearheadError, match=f"a model of {tokens} tokens .* expected the tokens to be a grid of patches"
    ):
        patches(tokens, aspect)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("nowhere.png", "'nowhere.png', which can't be read as a picture"),
        (torch.zeros(3, 32, 32), r"numbers of shape \(3, 32, 32\); expected a path"),
        (torch.randn(4, 4, 3), r"expected bytes, or numbers from 0 to 1. Undo the model's normalisation"),
        (object(), "got object; expected a path"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(image: object, said: str) -> None:
    with pytest.raises(ClearheadError, match=said):
        on_page(image, 17)
