"""The checks of LVSM fixtures on shapes that were never recorded, and that they notice what they should."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from discovery import checks_of
from lvsm_reference import write_fixture
from safetensors.torch import load_file, save_file

from novelview.errors import NovelviewError

DECODER_ONLY = {"n_layer": 3}
ENCODER_DECODER = {"encoder_n_layer": 3, "decoder_n_layer": 1, "n_latent_vectors": 7}


def _config(sizes: dict[str, int], **changes: Any) -> dict[str, Any]:
    chosen = {"height": 24, "width": 40, "views": 5, "inputs": 2, "patch": 8, "d": 48, "d_head": 12, "qk": True}
    chosen |= {"loop": True, "order": False, **changes}
    kind = "lvsm_decoder_only" if "n_layer" in sizes else "lvsm_encoder_decoder"
    transformer = {"d": chosen["d"], "d_head": chosen["d_head"], "use_qk_norm": chosen["qk"], **sizes}
    tokenizers = {
        name: {"patch_size": chosen["patch"], "in_channels": channels}
        for name, channels in (("image_tokenizer", 9), ("target_pose_tokenizer", 6))
    }
    training = {"num_input_views": chosen["inputs"], "num_target_views": 2, "l2_loss_weight": 1.0}
    training |= {"lpips_loss_weight": 0.0, "perceptual_loss_weight": 0.0}
    return {
        "fixture": kind,
        "config": {"model": {**tokenizers, "transformer": transformer}, "training": training},
        **{name: chosen[name] for name in ("height", "width", "views")},
        "batch": 2,
        "seed": 5,
        "video": {"num_frames": 3, "loop_video": chosen["loop"], "order_poses": chosen["order"]},
    }


def _check(folder: Path, names: tuple[str, ...] = ()) -> None:
    config = json.loads((folder / "config.json").read_text())
    checks = checks_of(config["fixture"])
    assert set(checks) >= {"outputs", "train_step", "evaluation_loss", "video"}
    for name in names or checks:
        checks[name](folder, config)


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": DECODER_ONLY},
        {"sizes": ENCODER_DECODER},
        {"sizes": DECODER_ONLY, "qk": False, "patch": 4, "inputs": 4, "views": 6, "loop": False, "order": True},
        {"sizes": ENCODER_DECODER, "qk": False, "d": 40, "d_head": 40, "height": 40, "width": 16},
    ],
    ids=["decoder-only", "encoder-decoder", "decoder-only-plain", "encoder-decoder-plain"],
)
def test_other_shapes(changes: dict[str, Any], tmp_path: Path) -> None:
    write_fixture(tmp_path, _config(**changes))
    _check(tmp_path)


@pytest.mark.parametrize("sizes", [DECODER_ONLY, ENCODER_DECODER], ids=["decoder-only", "encoder-decoder"])
@pytest.mark.parametrize(
    ("key", "value"), [("d_head", 24), ("num_input_views", 3), ("video", None), ("num_frames", 4), ("patch", 4)]
)
def test_the_configuration_decides(sizes: dict[str, int], key: str, value: Any, tmp_path: Path) -> None:
    config = _config(sizes)
    write_fixture(tmp_path, config)
    (tmp_path / "config.json").write_text(json.dumps(_altered(config, key, value)))
    with pytest.raises((AssertionError, NovelviewError)):
        _check(tmp_path)


def _altered(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    altered = copy.deepcopy(config)
    model = altered["config"]["model"]
    if key == "patch":
        for name in ("image_tokenizer", "target_pose_tokenizer"):
            model[name]["patch_size"] = value
        return altered
    places = (altered, altered["video"], model["transformer"], altered["config"]["training"])
    next(place for place in places if key in place)[key] = value
    return altered


@pytest.mark.parametrize("sizes", [DECODER_ONLY, ENCODER_DECODER], ids=["decoder-only", "encoder-decoder"])
def test_an_altered_record_fails(sizes: dict[str, int], tmp_path: Path) -> None:
    write_fixture(tmp_path, _config(sizes))
    recorded = load_file(tmp_path / "outputs.safetensors")
    for name in recorded:
        altered = {**recorded, name: recorded[name] + torch.tensor(1e-4)}
        save_file(altered, tmp_path / "outputs.safetensors")
        with pytest.raises(AssertionError, match=name):
            _check(tmp_path, ("outputs",))
