"""Pictures, figures and videos as data URIs, so that a page needs no other file."""

import base64
import io
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from PIL import Image, UnidentifiedImageError

from novelview.errors import DataError
from novelview.figures.gallery import Picture

MAX_SIDE = 256  # pixels of a gallery picture on the page
MAX_WIDTH = 2000  # pixels of a figure on the page
QUALITY = 88


def data_uri(content: bytes, kind: str) -> str:
    """Return `content` as a base64 data URI of media type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture_uri(picture: Picture) -> str:
    """Return a picture in [0,1] as a WebP data URI, shrunk to `MAX_SIDE` where larger."""
    image = Image.fromarray(np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8))
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return _webp(image)


def error_uri(error: Float[np.ndarray, "h w"], limit: float, cmap: str) -> str:
    """Return an error map as a coloured picture; `limit` is the bright end of the scale."""
    return picture_uri(colormaps[cmap](np.clip(error / limit, 0, 1))[..., :3])


def figure_uri(stem: Path) -> str:
    """Return a finished figure: its SVG, or its PNG as WebP where that is smaller; DataError when it is missing."""
    vector, raster = stem.with_name(stem.name + ".svg"), stem.with_name(stem.name + ".png")
    if not raster.is_file():
        raise DataError(f"{raster}: no such figure; run the figures stage first")
    try:
        with Image.open(raster) as image:
            image.thumbnail((MAX_WIDTH, 4 * MAX_WIDTH), Image.Resampling.LANCZOS)
            small = _webp(image.convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{raster}: not a picture; delete it and draw it again") from None
    drawn = data_uri(vector.read_bytes(), "image/svg+xml") if vector.is_file() else small
    return min(small, drawn, key=len)


def video_uri(path: Path) -> str:
    """Return an MP4 file as a data URI."""
    return data_uri(path.read_bytes(), "video/mp4")


def _webp(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=QUALITY, method=4)
    return data_uri(stream.getvalue(), "image/webp")
