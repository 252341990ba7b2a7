"""DepthSplat: what it returns, what it refuses, where its weights come from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from tiny_splats import DINO, PM, TWO_SCALES, depthsplat, gaussian_config, posed_views, splat_config

from novelview.config.keys import validate
from novelview.config.models import DinoConfig
from novelview.errors import CheckpointError, ConfigError, DataError
from novelview.evaluation.encoded_scene import scene_of, tensors_of
from novelview.models.published import load_published
from novelview.models.registry import load_weights, save_weights
from novelview.scenes.batch import Views


def test_renders_any_camera_and_tells_its_depths() -> None:
    model, context, target = depthsplat(), posed_views(2, (32, 48)), posed_views(3, (32, 48), seed=1)
    with torch.no_grad():
        render = model(context, target)
    assert render.images.shape == (1, 3, 3, 32, 48)
    assert set(render.extras) == {"depth", "means"}
    assert render.extras["means"].shape == (1, 2 * 32 * 48, 3)
    depth = render.extras["depth"]
    assert depth.shape == (1, 2, 32, 48)
    assert (depth >= 1).all() and (depth <= 20.0001).all()


def test_gaussians_lie_where_the_depth_says() -> None:
    """Cameras look along z from z = 0, so the z of a mean is the depth of its pixel, also along rays of length 1."""
    for changes in ({}, {"gaussian": gaussian_config(**PM)}):
        model, context = depthsplat(**changes), posed_views(2)
        with torch.no_grad():
            scene = model.encode(context)
        z = model.drawable(scene).means[..., 2].view_as(scene.depths)
        slack = 0.02 * scene.depths  # the offset moves a ray within its pixel, whose z depth the map tells
        assert ((z - scene.depths).abs() <= slack).all()


@pytest.mark.parametrize(("every", "coarser"), [(False, 1), (True, 2)])
def test_training_renders_coarser_predictions(every: bool, coarser: int) -> None:
    model = depthsplat(**TWO_SCALES, supervise_all_scales=every).train()
    context, target = posed_views(2), posed_views(2, seed=1)
    render = model(context, target)
    assert render.extras["intermediate"].shape == (coarser, 1, 2, 3, 32, 32)
    (render.images.sum() + render.extras["intermediate"].sum() + render.extras["means"].sum()).backward()
    without = [
        name for name, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()
    ]
    assert not without
    with torch.no_grad():
        assert set(model.eval()(context, target).extras) == {"depth", "means"}


@pytest.mark.parametrize("views", [2, 3, 5])
def test_any_number_of_views(views: int) -> None:
    with torch.no_grad():
        scene = depthsplat().encode(posed_views(views, scenes=2))
    assert scene.depths.shape == (2, views, 32, 32)
    assert scene.depths.isfinite().all()


def test_scenes_of_a_batch_do_not_see_each_other() -> None:
    model, both = depthsplat(**TWO_SCALES), posed_views(3, scenes=2)
    with torch.no_grad():
        joint = model.encode(both).depths
        assert both.images is not None
        alone = model.encode(Views(both.images[1:], both.c2w[1:], both.intrinsics[1:])).depths
    torch.testing.assert_close(joint[1:], alone, atol=1e-4, rtol=1e-5)


def test_confidence_is_one_more_channel() -> None:
    model = depthsplat(gaussian=gaussian_config(confidence_activation="sigmoid"))
    with torch.no_grad():
        confidence = model.encoded(posed_views(2)).confidence
    assert confidence is not None
    assert confidence.shape == (1, 2 * 32 * 32)
    assert (confidence > 0).all() and (confidence < 2).all()


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (posed_views(1), "give 2 context views or more"),
        (posed_views(2, (32, 40)), "40x32"),
        (Views(None, posed_views(2).c2w, posed_views(2).intrinsics), "needs context images"),
        (Views(torch.rand(1, 2, 4, 32, 32), posed_views(2).c2w, posed_views(2).intrinsics), "RGB"),
        (Views(torch.rand(1, 2, 3, 32, 32), None, posed_views(2).intrinsics), "poses"),  # type: ignore[arg-type]
    ],
)
def test_what_views_are_refused(context: Views, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        depthsplat()(context, posed_views(1))
    assert "\n" not in str(raised.value)


def test_a_depth_model_renders_nothing() -> None:
    model = depthsplat(train_depth_only=True)
    with torch.no_grad():
        assert model.encode(posed_views(2)).depths.shape == (1, 2, 32, 32)
        with pytest.raises(DataError, match="train_depth_only"):
            model(posed_views(2), posed_views(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_scales": 2}, "num_scales/upsample_factor/lowest_feature_resolution=2/4/4"),
        ({"patch_size": 32}, "must be 4 \\* lowest_feature_resolution, 16"),
        ({"near": 20.0, "far": 1.0}, "near=20.0"),
        ({"num_depth_candidates": 2}, "num_depth_candidates=2"),
        ({"cnn_channels": [8, 8]}, "cnn_channels"),
        ({"feature_channels": 18}, "feature_channels=18"),
        ({"depth_unet_channels": 12}, "depth_unet_channels=12"),
        ({"unet_head_channels": 12}, "unet_head_channels=12"),
        ({"dino_layers": [0, 1, 2, 4]}, "dino_layers"),
        ({"dino_layers": [0, 1, 1, 2]}, "dino_layers"),
        ({"transformer_nearest_views": 1}, "transformer_nearest_views=1"),
        ({"many_view_mask": "none"}, "published, aligned"),
        ({"gaussian": gaussian_config(sh_degree=5)}, "sh_degree=5"),
        ({"gaussian": gaussian_config(offset_mode="free")}, "ori, pixel, unconstrained"),
        ({"gaussian": gaussian_config(scale_min=5.0)}, "scale_min=5.0"),
        ({"gaussian": gaussian_config(regressor="unet", regressor_channels=12)}, "regressor_channels=12"),
    ],
)
def test_what_configurations_are_refused(changes: dict[str, Any], message: str) -> None:
    validate(splat_config())
    with pytest.raises(ConfigError, match=message) as raised:
        validate(splat_config(**changes))
    assert "\n" not in str(raised.value)


def test_published_checkpoints_of_both_kinds(tmp_path: Path) -> None:
    """Full models come as `encoder.*` beside the losses' networks, depth models bare under `model`."""
    model, depth_only = depthsplat(), depthsplat(train_depth_only=True)
    state = model.state_dict()
    assert all(key.startswith("encoder.") for key in state)
    torch.save({"state_dict": {**state, "losses.1.lpips.lin0.weight": torch.ones(1)}}, tmp_path / "full.ckpt")
    bare = {key.removeprefix("encoder.depth_predictor."): value for key, value in depth_only.state_dict().items()}
    torch.save({"model": bare}, tmp_path / "depth.pth")
    for file, target in (("full.ckpt", model), ("full.ckpt", depth_only), ("depth.pth", depth_only)):
        with torch.no_grad():
            for value in target.parameters():
                value.zero_()
        load_published(tmp_path / file, target)
        assert all(
            (value == (state | depth_only.state_dict())[key]).all() for key, value in target.state_dict().items()
        )
    with pytest.raises(CheckpointError, match=r"lacks the weight 'encoder\.feature_upsampler"):
        load_published(tmp_path / "depth.pth", model)


def test_our_own_weights_rebuild_the_model(tmp_path: Path) -> None:
    model = depthsplat(**TWO_SCALES, gaussian=gaussian_config(**PM))
    node: Any = OmegaConf.to_container(OmegaConf.structured(model.cfg))
    save_weights(tmp_path / "model.safetensors", model, {"model": {**node, "match_weights": "nowhere.pth"}})
    again, _ = load_weights(tmp_path / "model.safetensors")
    context, target = posed_views(2), posed_views(1, seed=2)
    with torch.no_grad():
        assert torch.equal(again(context, target).images, model(context, target).images)


def test_an_encoded_scene_comes_back(tmp_path: Path) -> None:
    model, target = depthsplat(), posed_views(1, seed=1)
    with torch.no_grad():
        scene = model.encode(posed_views(2))
        save_file({name: value.contiguous() for name, value in tensors_of(scene).items()}, tmp_path / "scene")
        again: Any = scene_of(tensors_of(scene))
        ours, theirs = (model.decode(one, target.c2w, target.intrinsics, 32, 32) for one in (scene, again))
    assert torch.equal(ours, theirs)


def _foreign(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Write what Depth Anything V2 and UniMatch come as: bare, and under `model`; both with parts of theirs."""
    predictor = depthsplat(**changes).encoder.depth_predictor.state_dict()
    mono = {key: value + 1 for key, value in predictor.items() if key.startswith("pretrained.")}
    match = {key: value + 1 for key, value in predictor.items() if key.startswith(("backbone.", "transformer."))}
    torch.save({**mono, "depth_head.projects.0.weight": torch.ones(2)}, folder / "mono.pth")
    torch.save({"model": {**match, "upsampler.0.weight": torch.ones(2)}}, folder / "match.pth")
    return folder / "mono.pth", folder / "match.pth"


def test_initial_weights_are_loaded_as_far_as_they_fit(tmp_path: Path) -> None:
    mono, match = _foreign(tmp_path)
    dino = DinoConfig(**{**vars(DINO), "weights": str(mono)})
    plain, started = depthsplat(), depthsplat(dino=dino, match_weights=str(match))
    for key, value in started.state_dict().items():
        moved = key.startswith(
            tuple(f"encoder.depth_predictor.{part}." for part in ("pretrained", "backbone", "transformer"))
        )
        torch.testing.assert_close(value, plain.state_dict()[key] + moved)
    record = started.started_from
    assert set(record) == {"mono.pth", "match.pth"}
    assert all(told["left_out"] == 1 and not told["missing"] and told["loaded"] > 20 for told in record.values())


def test_initial_weights_that_are_missing_or_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"stages\.fetch unimatch_flow"):
        depthsplat(match_weights="unimatch_flow")
    with pytest.raises(CheckpointError, match=r"model.match_weights=\S*none.pth: \S*none.pth is no file"):
        depthsplat(match_weights=str(tmp_path / "none.pth"))
    _, match = _foreign(tmp_path, feature_channels=32)
    with pytest.raises(CheckpointError, match="choose the right size"):
        depthsplat(match_weights=str(match))
    torch.save({"other.weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="is it the file that was asked for"):
        depthsplat(match_weights=str(tmp_path / "other.pth"))


def test_half_precision_keeps_places_and_depths() -> None:
    """Under autocast only products of the networks are rounded: places, candidates and Gaussians stay float32."""
    model, context, target = depthsplat(**TWO_SCALES), posed_views(2), posed_views(1, seed=1)
    with torch.no_grad():
        plain = model(context, target)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(context, target)
    assert {half.images.dtype, half.extras["depth"].dtype, half.extras["means"].dtype} == {torch.float32}
    off = (1 / half.extras["depth"] - 1 / plain.extras["depth"]).abs()
    assert off.mean() < 0.01, "a coarse step of 1/depth is 0.06"


def test_recomputed_activations_give_the_same_gradients() -> None:
    context, target = posed_views(3), posed_views(1, seed=1)
    gradients = []
    for recompute in (False, True):
        model = depthsplat().train()
        model.activation_checkpointing = recompute
        model(context, target).images.square().mean().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
