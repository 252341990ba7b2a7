"""What a study costs: operations counted without values and with them, and the lines a reader decides on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import NAMES, views
from torch.utils.flop_counter import FlopCounterMode

from novelview.config.compose import compose
from novelview.config.plan import Plan
from novelview.config.schema import ViewsConfig
from novelview.errors import ConfigError
from novelview.models.registry import build
from novelview.planning import hours as flops
from novelview.planning.cost import chunk_bytes, cost, disk, downloads
from novelview.planning.hours import _trained, read_throughput, works
from novelview.stages.plan import main


def counted(model: torch.nn.Module, size: int) -> float:
    """Return the operations of one forward pass over 1 scene, 2 contexts and 3 targets as PyTorch counts them."""
    given = views(2, 1, (size, size), scenes=1), views(3, 2, (size, size), scenes=1)
    # The fused attention of the CPU is not in PyTorch's count, its plain form is.
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        model(*given)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", NAMES)
def test_operations_and_parameters_are_those_of_the_model(name: str) -> None:
    node = compose("train", [f"model={name}", "scale=mini"]).model
    model = build(node).eval()
    size = 4 * node.patch_size
    found = flops.forward(node, ViewsConfig(image_size=size, patch_size=node.patch_size), 2, 3)
    assert found == pytest.approx(counted(model, size), rel=0.03)
    own = sum(parameter.numel() for parameter in model.parameters())
    assert flops.parameters(node) == pytest.approx(own, rel=0.2)


def test_operations_and_parameters_are_those_worked_by_hand() -> None:
    # LVSM, decoder-only, of mini: 8 layers of d = 256, patches of 14. 16 tokens a view at 56 px, 48 a sequence.
    node = compose("train", ["model=lvsm_decoder_only", "scale=mini"]).model
    blocks = 3 * 8 * (24 * 48 * 256**2 + 4 * 48**2 * 256)
    tokens = (2 * 9 + 3 * 6 + 3 * 3) * 2 * 16 * 14**2 * 256  # channels of contexts, of target rays, of colours out
    rays = 5 * 2 * (2 * 9 * 56**2)  # two products of a 3x3 matrix with every pixel of every view
    assert flops.forward(node, ViewsConfig(image_size=56), 2, 3) == blocks + tokens + rays == 1_941_380_352
    norms = 8 * (2 * 256 + 2 * 64) + 2 * 256
    assert flops.parameters(node) == 8 * 12 * 256**2 + 18 * 14**2 * 256 + norms == 7_200_256


@pytest.mark.parametrize(("size", "side"), [("mini/depthsplat_mv", 128), ("demo/depthsplat", 64)])
def test_operations_of_the_gaussian_model_are_those_of_its_encoder(size: str, side: int) -> None:
    scale = size.split("/")[0]
    node = compose("train", ["model=depthsplat", f"scale={scale}", f"size={size}"]).model
    model = build(node).eval()
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        model.encode(views(2, 1, (side, side), scenes=1))
    found = flops.forward(node, ViewsConfig(image_size=side, patch_size=16), 2, 4)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.03)
    assert flops.parameters(node) == pytest.approx(sum(value.numel() for value in model.parameters()), rel=0.1)


def test_small_models_wait_for_their_kernels_on_gpus_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plan, table = Plan({"study": "mini", "scale": "mini"}), read_throughput()
    config = plan.composed("train", "ptlvsm", "pretrain")
    step = flops.training_step(config)
    assert step is not None
    expected = config.train.steps * (step / (0.12 * 989e12) + 0.015) + 15
    assert _trained(config, step, table, "h200") == (pytest.approx(expected), False)
    assert table.rate("h200", "uplvsm", "9", "bf16", "train", 2.6e8)[0] == pytest.approx(0.35 * 989e12)
    assert table.rate("h200", "depthsplat", "9", "tf32", "train", 7e6)[0] == pytest.approx(0.12 * 495e12)
    assert not table.is_small("cpu", 1e6) and not table.is_small("h200", None)
    points = next(volume for volume in disk(plan, table) if volume.what == "pointmaps at 112 px")
    assert points.bytes == 2048 * 48 * 3 * 112**2 * 4 and not points.present
    said = cost(plan)
    assert "(assumed): train 12%, evaluate 12% of the peak" in said and "15 s a job beside" in said
    assert "(assumed)" not in cost(Plan({"scale": "paper"})) and "?" not in said.split("there: outputs")[0]


def test_published_size_is_about_260_million_parameters() -> None:
    node = compose("train", ["model=uplvsm", "scale=paper"]).model
    assert flops.parameters(node) == pytest.approx(260_132_743, rel=0.03)


def test_vgg_is_the_known_count() -> None:
    # 19.6 G multiply-adds at 224 px over all 16 convolutions, of which the last two (0.46 G each) are not used.
    assert flops.vgg(224, 224) == pytest.approx(2 * (19.5e9 - 2 * 0.46e9), rel=0.01)


def test_a_step_is_forward_backward_recomputation_and_losses() -> None:
    stage = compose("train", ["scale=paper"])
    own = flops.forward(stage.model, stage.views, 2, 6)
    assert own is not None
    plain = replace(stage, train=replace(stage.train, activation_checkpointing=False, batch_size=1))
    plain.train.losses = replace(plain.train.losses, perceptual=0.0)
    assert flops.training_step(plain) == pytest.approx(3 * own)
    assert flops.training_step(stage) == pytest.approx(16 * (4 * own + 18 * flops.vgg(224, 224)))


def test_hours_are_operations_over_the_rate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plan, table = Plan({"scale": "paper"}), read_throughput()
    found = {work.stage: work for work in works(plan, table, ["a100"])}
    config = plan.composed("train", "uplvsm", "pretrain")
    other = plan.composed("train", "ptlvsm", "pretrain")
    steps = sum(flops.training_step(one) * 100_000 for one in (config, other))
    assert found["pretrain"].hours["a100"] == pytest.approx(4 * 8 * steps / (0.35 * 312e12) / 3600)
    assert not found["pretrain"].measured and (found["pretrain"].jobs, found["evaluate"].jobs) == (8, 16)
    demo = {work.stage: work for work in works(Plan({}), table, ["cpu"])}
    assert demo["pretrain"].measured and 0.01 < demo["pretrain"].hours["cpu"] < 0.3


def test_what_is_there_costs_nothing_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan({})
    before = {work.stage: work for work in works(plan, read_throughput(), ["cpu"])}
    run = plan.runs(trained=True, started=False)[0]
    Path(run.folder).mkdir(parents=True)
    Path(run.weights).write_bytes(b"weights")
    after = {work.stage: work for work in works(plan, read_throughput(), ["cpu"])}
    assert (after["pretrain"].done, before["pretrain"].done) == (1, 0)
    assert after["pretrain"].hours["cpu"] < before["pretrain"].hours["cpu"]


def test_downloads_are_what_the_configurations_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names = [volume.what for volume in downloads(Plan({"scale": "paper"}))]
    assert {"re10k", "vgg19", "overlap_small", "evaluation_index_re10k"} <= set(names)
    without = downloads(Plan({"scale": "paper", "set": "train.losses.perceptual=0"}))
    assert "vgg19" not in [volume.what for volume in without]
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained/imagenet-vgg-verydeep-19.mat").write_bytes(b"weights")
    assert [volume.present for volume in downloads(Plan({"scale": "paper"})) if volume.what == "vgg19"] == [True]


def test_chunks_on_disk_are_measured_and_absent_ones_looked_up(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/000000.torch").write_bytes(bytes(1000))
    table = read_throughput()
    assert chunk_bytes(Plan({"scale": "paper", "path": str(tmp_path)}), table) == 1000
    assert chunk_bytes(Plan({"scale": "paper", "path": str(tmp_path / "empty")}), table) == 575e9


def test_the_text_says_what_is_estimated_and_on_what(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text = cost(Plan({"scale": "paper"}))
    assert "estimated, not measured" in text and "NVIDIA A100 data sheet" in text and "GPU-hours" in text
    assert "subsets little, medium, large, full; sizes 224, 518 px" in text
    assert "CPU-hours" in cost(Plan({}))


def test_the_command_takes_what_snakemake_takes_and_mistakes_are_one_line(capsys: pytest.CaptureFixture) -> None:
    assert main(["study=scaling", "scale=demo", "set=train.steps=7 train.warmup=1"]) == 0
    assert "scaling" in capsys.readouterr().out
    for words in (["scale=huge"], ["paper"], ["colour=red"]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("error: ")


def test_a_wrong_key_in_the_table_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "throughput.yaml").write_text("devices: {a100: {speed: 3}}\n")
    monkeypatch.setenv("NOVELVIEW_CONF", str(tmp_path))
    with pytest.raises(ConfigError, match=r"throughput\.yaml"):
        read_throughput()
