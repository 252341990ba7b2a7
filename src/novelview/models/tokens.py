"""Between pixels and tokens: patches, pose tokenizers, the image token decoder (specs/uplvsm.md sections 2.2, 2.4)."""

from jaxtyping import Float
from torch import Tensor, nn

from novelview.errors import DataError
from novelview.models.layers import BASE_STD, init_linears


def check_size(height: int, width: int, patch: int) -> None:
    """Raise DataError unless both sides are multiples of the patch size."""
    if height % patch or width % patch or not height or not width:
        raise DataError(f"images of {width}x{height} pixels cannot be cut into {patch}-pixel patches; resize them")


class Patchify(nn.Module):
    """[n c h w] -> [n patches patch*patch*c]: patches row by row, each flattened as (row, column, channel)."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n t k"]:
        """Cut maps into flattened patches."""
        check_size(x.shape[-2], x.shape[-1], self.patch)
        cut = x.unflatten(-1, (-1, self.patch)).unflatten(-3, (-1, self.patch))
        return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(x: Float[Tensor, "n t k"], patch: int, height: int, width: int) -> Float[Tensor, "n 3 h w"]:
    """Put patches flattened as (row, column, channel) back into images."""
    grid = x.unflatten(-1, (patch, patch, 3)).unflatten(1, (height // patch, width // patch))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def patch_tokenizer(channels: int, d: int, patch: int, gain: float) -> nn.Sequential:
    """Build the tokenizer of a map: patches of `channels` channels through one bias-free linear layer."""
    tokenizer = nn.Sequential(Patchify(patch), nn.Linear(channels * patch * patch, d, bias=False))
    init_linears(tokenizer, BASE_STD * gain)
    return tokenizer


def pose_tokenizer(d: int, patch: int, gain: float) -> nn.Sequential:
    """Build the tokenizer of a Plücker map."""
    return patch_tokenizer(6, d, patch, gain)


def image_token_decoder(d: int, patch: int, gain: float) -> nn.Sequential:
    """Build the head from tokens to the colours of their patches in [0,1]."""
    decoder = nn.Sequential(nn.LayerNorm(d, bias=False), nn.Linear(d, 3 * patch * patch, bias=False), nn.Sigmoid())
    init_linears(decoder, BASE_STD * gain)
    return decoder
