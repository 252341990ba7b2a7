"""PM-Loss and its alignment on their own: degenerate clouds, guards, neighbours, light imports. Study pmloss: who
learns from which pointmaps, what differs between its runs, and the published recipe."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from novelview.cameras.align import umeyama
from novelview.config.checkpoints import difference
from novelview.config.compose import compose
from novelview.config.digest import resolved
from novelview.config.plan import SIZED_BY, Plan
from novelview.errors import DataError
from novelview.losses.pointmap import (
    PointmapLoss,
    flat_pointmap,
    nearest,
    nearest_brute_force,
    pointmap_loss,
    teacher_images,
)
from novelview.planning.hours import read_throughput, works
from novelview.scenes.imports.chunk_folder import _with_prefix


def _cloud(seed: int, n: int = 64, scenes: int = 1) -> Tensor:
    return torch.randn(scenes, n, 3, generator=torch.Generator().manual_seed(seed))


def _degenerate(name: str) -> Tensor:
    cloud = _cloud(0)
    if name == "planar":
        cloud[..., 2] = 0
    elif name == "collinear":
        cloud[..., 1:] = 0
    elif name == "equal":
        cloud[:] = torch.tensor([0.3, -2.0, 1e3])
    elif name == "single":
        cloud = cloud[:, :1]
    elif name == "cube":  # equal singular values: the derivative of the SVD itself is infinite here
        corners = torch.tensor([-1.0, 1.0])
        cloud = torch.cartesian_prod(corners, corners, corners)[None]
    return cloud


@pytest.mark.parametrize("name", ["planar", "collinear", "equal", "single", "cube"])
@pytest.mark.parametrize("side", ["pointmap", "predicted", "both"])
@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_degenerate_clouds_give_finite_losses_and_gradients(name: str, side: str, mirror: float) -> None:
    degenerate = _degenerate(name)
    other = degenerate.clone() if side == "both" else _cloud(1, degenerate.shape[1])
    predicted, pointmap = (degenerate, other) if side == "predicted" else (other, degenerate)
    predicted = (predicted * torch.tensor([1, 1, mirror])).requires_grad_()
    loss = pointmap_loss(predicted, pointmap)
    loss.sum().backward()
    assert predicted.grad is not None
    assert torch.isfinite(loss).all() and torch.isfinite(predicted.grad).all()
    spread = predicted.detach().var(dim=1, unbiased=False).sum()
    assert loss <= spread + 1e-6  # the mean point alone is a fit of that error


def test_the_gradient_of_the_alignment_is_that_of_finite_differences() -> None:
    source, target = _cloud(2, 7).double().requires_grad_(), _cloud(3, 7).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda one, two: umeyama(one, two).points(one), (source, target))
    mirrored = (target.detach() * torch.tensor([1, 1, -1])).requires_grad_()
    assert torch.autograd.gradcheck(lambda one, two: umeyama(one, two).points(one), (source, mirrored))


def test_a_batch_is_its_scenes() -> None:
    source, target = _cloud(4, scenes=3), _cloud(5, scenes=3)
    together = umeyama(source, target).points(source)
    each = torch.stack([umeyama(one, two).points(one) for one, two in zip(source, target, strict=True)])
    torch.testing.assert_close(together, each)


def test_a_similarity_of_the_truth_costs_nothing() -> None:
    cloud, turn = _cloud(6, scenes=2), torch.linalg.qr(_cloud(7, 3)[0]).Q
    turn = turn * torch.linalg.det(turn)
    moved = 3.0 * cloud @ turn.mT + torch.tensor([1.0, -5.0, 0.5])
    assert pointmap_loss(moved, cloud).max() < 1e-9
    assert pointmap_loss(moved * torch.tensor([1, 1, -1]), cloud).min() > 1e-2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, 3e38])
@pytest.mark.parametrize("side", ["predicted", "pointmap", "both"])
def test_a_broken_scene_counts_nothing_and_spares_the_others(value: float, side: str) -> None:
    predicted, pointmap = _cloud(8, scenes=2), _cloud(9, scenes=2)
    expected = pointmap_loss(predicted, pointmap)[1]
    for name, cloud in (("predicted", predicted), ("pointmap", pointmap)):
        if side in (name, "both"):
            cloud[0, 3] = value
    predicted.requires_grad_()
    with pytest.warns(RuntimeWarning, match="1 of 2 scenes count 0"):
        loss = pointmap_loss(predicted, pointmap)
    (gradient,) = torch.autograd.grad(loss.sum(), predicted)
    assert loss[0] == 0 and not gradient[0].any()
    torch.testing.assert_close(loss[1], expected)
    assert gradient[1].any() and torch.isfinite(gradient).all()


def test_huge_clouds_stay_finite() -> None:
    predicted, pointmap = (1e14 * _cloud(18, 5000)).requires_grad_(), 1e14 * _cloud(19, 5000)
    loss = pointmap_loss(predicted, pointmap)
    (gradient,) = torch.autograd.grad(loss.sum(), predicted)
    assert torch.isfinite(loss).all() and loss > 0 and torch.isfinite(gradient).all()


def test_a_large_loss_counts_a_hundred_thousandth() -> None:
    predicted, pointmap = _cloud(10).requires_grad_(), _cloud(11)
    plain, cut = pointmap_loss(predicted, pointmap, 1e9), pointmap_loss(predicted, pointmap, 1e-3)
    torch.testing.assert_close(cut, 1e-5 * plain)
    gradients = [torch.autograd.grad(loss.sum(), predicted)[0] for loss in (plain, cut)]
    torch.testing.assert_close(gradients[1], 1e-5 * gradients[0])


def test_the_term_waits_for_its_step() -> None:
    predicted, pointmap = _cloud(12), _cloud(13)
    term = PointmapLoss(weight=0.1, apply_after=5)
    assert term(predicted, pointmap, step=4) == 0
    torch.testing.assert_close(term(predicted, pointmap, step=5), 0.1 * pointmap_loss(predicted, pointmap).mean())


@pytest.mark.parametrize("shapes", [((1, 4, 3), (1, 5, 3)), ((4, 3), (4, 3)), ((1, 0, 3), (1, 0, 3)), ((1, 4, 2),) * 2])
def test_clouds_that_do_not_pair_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(DataError, match="PM-Loss needs a pointmap"):
        pointmap_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_points_that_are_not_finite_cannot_be_aligned() -> None:
    for value in (torch.nan, torch.inf):
        with pytest.raises(DataError, match="finite"):
            umeyama(torch.full((4, 3), value), torch.zeros(4, 3))
    with pytest.raises(DataError, match="too large"):
        umeyama(1e30 * _cloud(0)[0], 1e30 * _cloud(1)[0])


def test_half_precision_under_autocast_changes_nothing() -> None:
    predicted, pointmap = _cloud(14), _cloud(15)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pointmap_loss(predicted, pointmap)
    torch.testing.assert_close(inside, pointmap_loss(predicted, pointmap), rtol=0, atol=0)


def test_brute_force_finds_what_the_tree_finds_far_from_the_origin() -> None:
    queries, points = _cloud(16, 500)[0] + 1e3, _cloud(17, 400)[0] + 1e3
    distance = [(queries - points[search(queries, points)]).norm(dim=-1) for search in (nearest, _small_chunks)]
    torch.testing.assert_close(distance[0], distance[1], rtol=1e-5, atol=1e-6)


def _small_chunks(queries: Tensor, points: Tensor) -> Tensor:
    return nearest_brute_force(queries, points, pairs=1000)


def test_a_pointmap_is_resized_by_nearest_pixels() -> None:
    points = torch.arange(2 * 2 * 2 * 3).view(1, 2, 2, 2, 3).float()
    flat = flat_pointmap(points, 4, 4).view(2, 4, 4, 3)
    torch.testing.assert_close(flat[:, ::2, ::2], points[0])
    torch.testing.assert_close(flat[:, 1::2, 1::2], points[0])
    assert teacher_images(torch.zeros(1, 2, 3, 256, 448)).shape == (1, 2, 3, 252, 448)


def test_the_loss_alone_imports_neither_hydra_nor_the_models() -> None:
    heavy = ("hydra", "omegaconf", "torchvision", "matplotlib", "novelview.models", "novelview.config")
    code = f"import sys, novelview.losses.pointmap; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_page_s_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/pmloss.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    assert example.count("\n") <= 10
    exec(compile(example, "docs/pmloss.md", "exec"), {})
    loss = float(capsys.readouterr().out.split("[")[1].split("]")[0])
    assert 2 < loss < 3.1  # unrelated clouds: a little less than their variance of 3


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan({"study": "pmloss", "scale": "demo"})


def test_only_the_run_with_the_loss_waits_for_pointmaps(plan: Plan) -> None:
    folder = "data/rooms/pointmaps/exact-x64"
    learns = {run.name: plan.pointmaps(run) for run in plan.runs() if (run.data, run.res) == ("rooms-full", "64")}
    assert learns["depthsplat_pmloss"] == [folder] and learns["depthsplat_plain"] == []


def test_pointmaps_are_made_at_the_size_of_the_training(plan: Plan) -> None:
    words = plan.pointmap_words("exact", "64")
    stage, train = compose("pointmaps", words), plan.composed("train", "depthsplat_pmloss", "pretrain")
    for key in SIZED_BY:
        assert getattr(stage.views, key) == getattr(train.views, key)
    assert (stage.dataset, stage.teacher) == ("rooms", "exact")


def test_the_plan_counts_the_pointmaps(plan: Plan) -> None:
    counted = {work.stage: work.jobs for work in works(plan, read_throughput(), ["cpu"])}
    assert counted["pointmaps"] == 1 and counted["pretrain"] == 2
    other = works(Plan({"study": "less3depend", "scale": "demo"}), read_throughput(), ["cpu"])
    assert "pointmaps" not in {work.stage for work in other}


def test_vggt_is_fetched_for_its_own_pointmaps_alone(plan: Plan) -> None:
    assert plan.teacher_weights("exact") == []
    assert plan.teacher_weights("vggt") == ["pretrained/vggt_1b.safetensors"]


def test_other_studies_know_no_pointmaps() -> None:
    plan = Plan({"study": "less3depend", "scale": "demo"})
    run = plan.runs(trained=True)[0]
    assert plan.pointmaps(run) == []


@pytest.mark.parametrize("scale", ["demo", "mini", "paper"])
def test_the_two_runs_differ_in_the_loss_alone(scale: str) -> None:
    given = {} if scale != "paper" else {"path": "datasets/dl3dv-480p"}
    plan = Plan({"study": "pmloss", "scale": scale, **given})
    plain, pmloss = (resolved(plan.composed("train", name, "pretrain")) for name in plan.study.models)
    assert plain["train"]["losses"]["pointmap"]["weight"] == 0
    assert pmloss["train"]["losses"]["pointmap"]["weight"] == 0.005
    for config in (plain, pmloss):
        config.pop("variant")
        config["train"]["losses"]["pointmap"].pop("weight")
    assert not difference(plain, pmloss)


def test_the_published_recipes() -> None:
    re10k = compose("train", ["model=depthsplat", "scale=paper", "phase=pretrain"])
    assert (re10k.train.lr, re10k.train.lr_pretrained, re10k.train.weight_decay) == (2e-4, 2e-6, 0.01)
    assert (re10k.train.schedule, re10k.train.decay, re10k.train.clip_norm) == ("onecycle", "all", 0.5)
    assert re10k.train.steps * re10k.train.batch_size * 8 == 4_800_000
    assert (re10k.train.losses.lpips, re10k.train.losses.lpips_from, re10k.train.losses.mse) == (0.05, 0, 1.0)
    assert (re10k.views.num_context, re10k.views.num_target, re10k.views.augment.mirror) == (2, 4, True)
    assert (re10k.model.near, re10k.model.far) == (0.5, 100.0)
    pm = Plan({"study": "pmloss", "scale": "paper", "path": "x"}).composed("train", "depthsplat_pmloss", "pretrain")
    assert (pm.train.steps, pm.train.batch_size, pm.views.num_context, pm.views.min_context) == (100_001, 1, 6, 2)
    assert (pm.views.image_size, pm.views.image_width, pm.views.filter) == (256, 448, "bilinear")
    assert (pm.model.near, pm.model.far, pm.model.gaussian.offset_mode) == (1.0, 200.0, "unconstrained")
    losses = pm.train.losses
    assert (losses.ignore_large_mse, losses.damp_above, losses.stale_lpips) == (0.2, 0.1, True)
    assert (losses.pointmap.teacher, losses.pointmap.ignore_large) == ("vggt", 100.0)


def test_index_keys_get_the_prefix_of_the_chunks_they_name(tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"aa": {"context": [0, 9], "target": [3]}, "dl3dv_bb": None}))
    scenes = {"dl3dv_aa": "000000.torch", "dl3dv_bb": "000000.torch"}
    assert list(json.loads(_with_prefix(index, scenes))) == ["dl3dv_aa", "dl3dv_bb"]
    assert _with_prefix(index, {"aa": "000000.torch"}) == index.read_bytes()
