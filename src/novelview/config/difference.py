"""In what two model nodes differ, so that weights of one are not taken for those of another."""

from typing import Any

INITIAL = (  # keys that choose initial values alone: weights of one choice fit a model of another
    *("dino.weights", "dino.patch_std", "dino.patch_centred", "dino.pos_init", "dino.pos_gain"),
    *("transformer.init_gain", "transformer.qk_norm_init", "pose_head_std", "pose_identity_bias"),
    *("decoder_init_last_only", "init_gain"),
    *("match_weights", "gaussian.second_channel_bias"),
    # what DepthSplat is trained and used with at will, none of which shapes a weight
    *("near", "far", "rasterizer", "supervise_all_scales", "transformer_nearest_views", "cost_volume_nearest_views"),
    *("gaussian.offset_mode", "gaussian.offset_factor", "gaussian.scale_min", "gaussian.scale_max"),
)


def difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str | None:
    """Return the first key in which two model nodes differ, with both values; initial values do not count."""
    left, right = _flat(theirs), _flat(ours)
    for key in sorted({*left, *right} - {*INITIAL}, key=lambda key: (key != "name", key)):
        if left.get(key) != right.get(key):
            return f"model.{key} is {left.get(key)} there and {right.get(key)} here"
    return None


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
