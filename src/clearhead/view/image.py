"""Image: the picture that a vision model read, small enough for a page, and how its tokens lie on it as patches."""

import base64
import io
import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearhead.errors import ClearheadError

LARGEST = 640
"""The longer side of the picture in a page, in pixels."""
AS_PNG = 200_000
"""A PNG of more bytes becomes a JPEG."""
SPECIAL = (1, 0, 2, 5)
"""How many tokens stand before the patches, in the order tried: a class token; none; and one for distillation (DeiT);
and four registers (DINOv2)."""


def on_page(image: object, tokens: int) -> dict[str, Any]:
    """The picture as a page shows it: `source`, a data URL, and the patches as `rows` × `columns` after `first` tokens.

    Args:
        image: a path, a PIL image, or (H, W, 3) or (H, W) numbers as an array or a tensor, bytes or 0 to 1. It should
            be what the model read: cropped as its processor crops.
        tokens: how many tokens the model made of it.

    Raises:
        ClearheadError: no Pillow, no picture, or tokens that make no grid of the picture's shape.
    """
    picture = opened(image)
    rows, columns, first = patches(tokens, picture.width / picture.height)
    picture.thumbnail((LARGEST, LARGEST))
    return {"source": _encoded(picture), "rows": rows, "columns": columns, "first": first}


def patches(tokens: int, aspect: float) -> tuple[int, int, int]:
    """Rows and columns of the patches, and how many tokens stand before them.

    `aspect` is the picture's width over its height. Most models read a square, whatever the picture was; else the
    grid's shape must be the picture's, to within half a patch.

    >>> patches(197, 1.0), patches(196, 1.5), patches(97, 1.5)
    ((14, 14, 1), (14, 14, 0), (8, 12, 1))

    Raises:
        ClearheadError: there is no such grid.
    """
    for first in SPECIAL:
        side = math.isqrt(max(0, tokens - first))
        if side > 1 and side * side == tokens - first:
            return side, side, first
    for first in SPECIAL:
        rows = round(math.sqrt(max(0, tokens - first) / aspect))
        if rows > 1 and (tokens - first) % rows == 0:
            columns = (tokens - first) // rows
            if abs(columns - rows * aspect) <= 0.5:
                return rows, columns, first
    raise ClearheadError(
        f"image= got a model of {tokens} tokens and a picture of {aspect:.2f} times its height in width; "
        "expected the tokens to be a grid of patches, a square or of the picture's shape, after "
        f"{', '.join(map(str, SPECIAL))} special tokens. Leave image= out, or give the picture as the model read it."
    )


def opened(image: object) -> Any:
    """As a PIL image of three colours.

    Raises:
        ClearheadError: no Pillow, or no picture.
    """
    if find_spec("PIL") is None:
        raise ClearheadError("image= needs Pillow, which is not installed: pip install 'clearhead[figures]'.")
    from PIL import Image, UnidentifiedImageError  # optional

    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, str | os.PathLike):
        try:
            with Image.open(Path(image)) as read:
                return read.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise ClearheadError(f"image= got {str(image)!r}, which can't be read as a picture: {error}.") from error
    try:
        pixels = torch.as_tensor(image)
    except (TypeError, ValueError, RuntimeError):
        pixels = None
    if pixels is None or not (pixels.dim() == 2 or (pixels.dim() == 3 and pixels.shape[-1] == 3)) or not pixels.numel():
        got = type(image).__name__ if pixels is None else f"numbers of shape {tuple(pixels.shape)}"
        raise ClearheadError(f"image= got {got}; expected a path, a PIL image, or numbers of shape (H, W, 3).")
    return Image.fromarray(_bytes(pixels.detach().cpu()).numpy()).convert("RGB")


def _bytes(pixels: Tensor) -> Tensor:
    if pixels.dtype == torch.uint8:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    if not pixels.is_floating_point() or not 0 <= low <= high <= 1:
        raise ClearheadError(
            f"image= got {pixels.dtype} from {low:.3g} to {high:.3g}; expected bytes, or numbers from 0 to 1. "
            "Undo the model's normalisation first."
        )
    return (pixels * 255).round().byte()


def _encoded(picture: Any) -> str:
    """A data URL: as it is if that is small, else as a photograph."""
    kind, data = "png", _saved(picture, "png", optimize=True)
    if len(data) > AS_PNG:
        kind, data = "jpeg", _saved(picture, "jpeg", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _saved(picture: Any, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, format=kind, **options)
    return data.getvalue()
