"""Pictures of any pixel format to 8-bit RGB."""

import numpy as np
from PIL import Image

TRANSPARENT = ("RGBA", "LA", "PA")


def eight_bit(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB, or RGBA where it has transparency; raises ValueError for 32-bit pixels.

    PIL would clip 16-bit grey at 255; it is scaled instead.
    """
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.float32) / 257
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, of unknown range; convert it to 8 bits")
    transparent = picture.mode in TRANSPARENT or "transparency" in picture.info
    return picture.convert("RGBA" if transparent else "RGB")
