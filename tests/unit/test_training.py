"""The recipe's rules one by one, and what a run keeps: checkpoints, log rows, tracking."""

import csv
import logging
import math
import os
import pickle
import random
import signal
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from novelview.config.compose import compose
from novelview.config.schema import RuntimeConfig, TrainConfig
from novelview.devices import Team, pick_device, team
from novelview.errors import ConfigError
from novelview.files import holding_lock
from novelview.models.render import Render
from novelview.scenes.batch import Batch, Views
from novelview.training import watch
from novelview.training.checkpoint import (
    COLUMNS,
    Checkpoints,
    Record,
    build_model,
    difference,
    noting_signals,
    random_state,
    restore_random_state,
)
from novelview.training.loop import Stepper
from novelview.training.optim import Updater, adamw, learning_rate, parameter_groups
from novelview.training.watch import Progress

CFG = TrainConfig(lr=0.1, warmup=0, steps=10, schedule="constant", amp="none", weight_decay=0.0)
ALONE = Team(0, 1, torch.device("cpu"))


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def updater(model: nn.Module, cfg: TrainConfig = CFG, **keywords) -> Updater:
    return Updater(model, adamw(model, cfg), cfg, **keywords)


def set_gradients(model: nn.Linear, value: float) -> None:
    model.weight.grad, model.bias.grad = torch.full((2, 3), value), torch.full((2,), value)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


FINE = [torch.tensor(1.0)]


class Overflowing(torch.amp.grad_scaler.GradScaler):
    """Reports, as the real one on a GPU does, that float16 overflowed: the step is left out and the scale halves."""

    def __init__(self, overflows: list[bool]) -> None:
        super().__init__("cpu", enabled=True)
        self.overflows, self.now = overflows, 65536.0

    def scale(self, outputs):
        return outputs

    def unscale_(self, optimizer) -> None:
        pass

    def step(self, optimizer, *args, **keywords):
        return None if self.overflows[0] else optimizer.step()

    def update(self, new_scale=None) -> None:
        self.now *= 0.5 if self.overflows.pop(0) else 1.0

    def get_scale(self) -> float:
        return self.now


@pytest.mark.parametrize("on_skip", [True, False])
def test_updates_that_overflow_float16_are_skipped_not_applied(on_skip: bool) -> None:
    model = linear()
    rule = updater(model, replace(CFG, schedule_on_skip=on_skip), scaler=Overflowing([True, False, True]))
    before, found = weights(model), []
    for _ in range(3):
        set_gradients(model, 0.1)
        found.append((rule.update(FINE).skipped, torch.equal(weights(model), before)))
        before = weights(model)
    assert found == [("overflow", True), (None, False), ("overflow", True)]
    assert (rule.seen, rule.applied, rule.scheduled) == (3, 1, 3 if on_skip else 1)


def test_decay_spares_vectors_marked_and_frozen_parameters() -> None:
    model = nn.Module()
    model.matrix, model.vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    model.marked, model.table = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(1, 2, 2))
    model.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    model.marked._no_weight_decay = True
    decayed, free = parameter_groups(model.parameters(), 0.05)
    assert [id(one) for one in decayed["params"]] == [id(model.matrix), id(model.table)]
    assert [id(one) for one in free["params"]] == [id(model.vector), id(model.marked)]
    assert decayed["weight_decay"] == 0.05 and free["weight_decay"] == 0.0


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_the_rate_rises_from_zero_to_its_peak(kind) -> None:
    rates = [learning_rate(step, 2.0, 4, 12, kind) for step in range(13)]
    assert rates[:5] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert rates[8] == pytest.approx(2.0 if kind == "constant" else 1.0)
    assert rates[12] == pytest.approx(2.0 if kind == "constant" else 0.0, abs=1e-12)


@pytest.mark.parametrize(("steps", "rise"), [(990, 0.01), (190, 0.3), (40, 0.01)])
def test_onecycle_is_pytorchs(steps, rise) -> None:
    model = linear()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    total = steps + 10
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-4, total, pct_start=rise, cycle_momentum=False, anneal_strategy="cos"
    )
    rule = updater(model, replace(CFG, lr=2e-4, steps=steps, schedule="onecycle", onecycle_rise=rise))
    for _ in range(total - 1):
        assert rule.lr == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        rule.scheduled += 1
        optimizer.step()
        theirs.step()


def test_pretrained_parameters_follow_the_schedule_at_a_rate_of_their_own() -> None:
    model = nn.ModuleDict({"pretrained": linear(), "head": linear(1)})
    cfg = replace(CFG, lr=2e-4, lr_pretrained=2e-6, weight_decay=0.01, decay="all", schedule="onecycle")
    optimizer = adamw(model, cfg)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.01}
    rule = Updater(model, optimizer, cfg)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
        rate = rule.lr
        rule.update(FINE)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate / 100])
    decayed = adamw(model, replace(cfg, decay="matrices")).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in decayed] == [(1, 0.01), (1, 0.0)] * 2


def test_a_rate_for_pretrained_parameters_needs_some() -> None:
    with pytest.raises(ConfigError, match=r"train\.lr_pretrained=2e-06: no parameter"):
        adamw(linear(), replace(CFG, lr_pretrained=2e-6))


def test_no_norm_is_too_large_without_a_factor() -> None:
    model = linear()
    rule = updater(model, replace(CFG, clip_norm=0.5, allowed_gradnorm_factor=0.0))
    set_gradients(model, 1e4)
    assert rule.update(FINE).skipped is None and rule.applied == 1


def test_no_warm_up_starts_at_the_peak() -> None:
    assert learning_rate(0, 2.0, 0, 12, "cosine") == 2.0


def test_the_first_update_of_a_warm_up_changes_nothing() -> None:
    model = linear()
    before, rule = weights(model), updater(model, replace(CFG, warmup=2))
    set_gradients(model, 0.1)
    update = rule.update(FINE)
    assert update.lr == 0 and update.skipped is None and rule.lr == 0.05
    assert torch.equal(weights(model), before)


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_reported() -> None:
    model = linear()
    rule = updater(model, replace(CFG, clip_norm=0.5))
    set_gradients(model, 0.25)
    norm = rule._clip()
    assert norm == pytest.approx(0.25 * math.sqrt(8))
    assert torch.linalg.vector_norm(torch.cat([model.weight.grad.flatten(), model.bias.grad])) == pytest.approx(
        0.5, rel=1e-5
    )


def test_gradients_that_are_no_numbers_become_small_ones() -> None:
    model = linear()
    set_gradients(model, 0.0)
    model.weight.grad[0] = torch.tensor([math.nan, math.inf, -math.inf])
    updater(model)._clip()
    assert model.weight.grad[0].tolist() == pytest.approx([0.0, 1e-6, -1e-6])


@pytest.mark.parametrize("advances", [True, False])
def test_a_large_norm_skips_the_update(advances) -> None:
    model = linear()
    before = weights(model)
    rule = updater(model, replace(CFG, clip_norm=1.0, allowed_gradnorm_factor=2.0, schedule_on_skip=advances))
    set_gradients(model, 1.0)
    update = rule.update(FINE)
    assert update.skipped == "norm" and update.grad_norm == pytest.approx(math.sqrt(8))
    assert torch.equal(weights(model), before) and model.weight.grad is None
    assert rule.scheduled == int(advances) and rule.applied == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_skips_everything(bad) -> None:
    model = linear()
    before, rule = weights(model), updater(model)
    set_gradients(model, 0.1)
    update = rule.update([torch.tensor(1.0), torch.tensor(bad)])
    assert update.skipped == "nonfinite" and math.isnan(update.grad_norm)
    assert torch.equal(weights(model), before) and model.weight.grad is None
    assert (rule.scheduled, rule.applied) == (0, 0)


def test_another_process_bad_loss_skips_here_too() -> None:
    model = linear()
    rule = updater(model, agree=lambda flag: True)
    set_gradients(model, 0.1)
    assert rule.update(FINE).skipped == "nonfinite" and rule.applied == 0


def test_the_update_is_adamw_with_the_scheduled_rate() -> None:
    model, other = linear(), linear()
    cfg = replace(CFG, warmup=2, weight_decay=0.3)
    rule = updater(model, cfg)
    plain = torch.optim.AdamW(parameter_groups(other.parameters(), 0.3), betas=(0.9, 0.95), eps=1e-8)
    for step in range(4):
        set_gradients(model, 0.01 * (step + 1))
        set_gradients(other, 0.01 * (step + 1))
        rule.update(FINE)
        for group in plain.param_groups:
            group["lr"] = learning_rate(step, 0.1, 2, 10, "constant")
        plain.step()
    assert torch.equal(weights(model), weights(other)) and rule.applied == 4


class Painter(nn.Module):
    """The least model: a colour transform of the mean context."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)

    def forward(self, context: Views, target: Views) -> SimpleNamespace:
        image = self.mix(context.images.mean(1)).sigmoid()
        return SimpleNamespace(images=image[:, None].expand(-1, target.c2w.shape[1], -1, -1, -1))


def squared(render: Render, batch: Batch) -> dict[str, torch.Tensor]:
    assert batch.target.images is not None
    mse = (render.images - batch.target.images).square().mean()
    return {"loss": mse, "mse": mse, "psnr": -10 * mse.log10()}


def batch(scenes: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(scenes, 4, 3, 6, 6, generator=generator)
    views = Views(images, torch.eye(4).expand(scenes, 4, 4, 4), torch.ones(scenes, 4, 4))
    return Batch([str(row) for row in range(scenes)], views.span(0, 2), views.span(2, 4))


def halves(whole: Batch) -> list[Batch]:
    rows = (slice(0, 2), slice(2, 4))
    return [
        Batch(
            whole.scene[row], *(view._map(lambda field, row=row: field[row]) for view in (whole.context, whole.target))
        )
        for row in rows
    ]


def stepper(cfg: TrainConfig = CFG) -> Stepper:
    torch.manual_seed(1)
    return Stepper(Painter(), squared, cfg, ALONE)


def test_accumulated_micro_batches_equal_the_whole_batch() -> None:
    whole, parts = stepper(), stepper(replace(CFG, grad_accum=2))
    values, update = whole.step([batch(4)])
    part_values, part_update = parts.step(halves(batch(4)))
    assert part_values["loss"] == pytest.approx(values["loss"], rel=1e-6)
    assert part_update.grad_norm == pytest.approx(update.grad_norm, rel=1e-5)
    assert torch.allclose(weights(whole.model), weights(parts.model), atol=1e-6)


def test_training_lowers_the_loss_and_bf16_follows_fp32() -> None:
    plain, half = stepper(), stepper(replace(CFG, amp="bf16"))
    losses = [plain.step([batch(4)])[0]["loss"] for _ in range(10)]
    halved = [half.step([batch(4)])[0]["loss"] for _ in range(10)]
    assert losses[-1] < losses[0]
    assert halved == pytest.approx(losses, rel=0.02) and halved != losses


def test_fp16_scales_the_loss_without_changing_the_step() -> None:
    plain, scaled = stepper(), stepper(replace(CFG, amp="fp16"))
    norms = [one.step([batch(4)])[1].grad_norm for one in (plain, scaled)]
    assert norms[1] == pytest.approx(norms[0], rel=0.02)
    assert scaled.updater.scaler.get_scale() > 1 and scaled.updater.applied == 1


def test_updater_counters_survive_a_checkpoint() -> None:
    one, other = updater(linear()), updater(linear())
    one.scheduled, one.applied = 7, 5
    other.load_state_dict(one.state_dict())
    assert (other.scheduled, other.applied) == (7, 5)


def state(value: float) -> dict:
    return {"weight": torch.full((3,), value)}


def test_checkpoints_rotate_and_the_newest_is_loaded(tmp_path) -> None:
    kept = Checkpoints(tmp_path, "aa", keep=2)
    assert kept.load() is None
    for step in (9, 10, 100):
        kept.save(step, state(step))
    assert [path.name.split("-")[2] for path in kept.own()] == ["000000100", "000000010"]
    found = kept.load()
    assert found is not None and found["step"] == 100 and found["weight"].tolist() == [100.0] * 3


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_checkpoints_are_passed_over_by_name(tmp_path, caplog, damage) -> None:
    kept = Checkpoints(tmp_path, "aa", keep=2)
    kept.save(1, state(1))
    newest = kept.save(2, state(2))
    content = bytearray(newest.read_bytes())
    content[-100] ^= 4
    newest.write_bytes({"cut": content[:50], "flip": content, "empty": b""}[damage])
    found = kept.load()
    assert found is not None and found["step"] == 1
    assert f"damaged checkpoint passed over: {newest}" in caplog.text


def test_a_checkpoint_with_code_in_it_is_not_executed(tmp_path, monkeypatch) -> None:
    kept, made = Checkpoints(tmp_path, "aa", keep=2), tmp_path / "made"
    dump = pickle.dumps(Bomb(str(made)), protocol=2)
    monkeypatch.setattr("novelview.training.checkpoint.torch.save", lambda value, stream: stream.write(dump))
    kept.save(1, {})
    assert kept.load() is None and not made.exists()
    pickle.loads(dump)
    assert made.exists()


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_checkpoints_of_another_run_are_reported_and_kept(tmp_path, caplog) -> None:
    theirs = Checkpoints(tmp_path, "bb", keep=1).save(5, state(5))
    ours = Checkpoints(tmp_path, "aa", keep=1)
    assert ours.load() is None and f"STALE checkpoint ignored: {theirs}" in caplog.text
    ours.save(1, state(1))
    assert theirs.exists()


@pytest.mark.parametrize("go_on", [False, True])
def test_a_run_begins_anew_or_goes_on_where_code_changed(tmp_path, caplog, go_on) -> None:
    caplog.set_level("INFO")
    code = {"novelview.losses": "1", "novelview.models.lact": "1", "novelview.gone": "1"}
    theirs = Checkpoints(tmp_path, "aa", keep=2, code=code).save(100, state(100))
    ours = Checkpoints(
        tmp_path, "aa", keep=2, code={"novelview.losses": "2", "novelview.models.lact": "1"}, go_on=go_on
    )
    found = ours.load()
    assert (found and found["step"]) == (100 if go_on else None)
    assert str(theirs) in caplog.text and "novelview.gone, novelview.losses" in caplog.text
    assert "novelview.models.lact" not in caplog.text and ("STALE" in caplog.text) is not go_on
    ours.save(3, state(3))
    newest = ours.save(4, state(4))
    assert theirs.exists() is not go_on  # a run that went on has no use for it; another code's run may come back to it
    caplog.clear()
    again = ours.load()
    assert again is not None and again["step"] == 4 and f"resuming from {newest}" in caplog.text


def test_random_generators_continue_where_they_were() -> None:
    saved = random_state()
    drawn = torch.rand(3), random.random()
    restore_random_state(saved)
    assert torch.equal(torch.rand(3), drawn[0]) and random.random() == drawn[1]


def values(step: int, skipped: bool = False) -> dict[str, float]:
    norm = math.nan if skipped else 0.5
    return {"loss": step, "mse": step, "psnr": 10.0, "lr": 0.1 * step, "grad_norm": norm, "skipped": float(skipped)}


def test_rows_are_means_since_the_row_before_and_resume_seamlessly(tmp_path) -> None:
    whole, first, second = (Record(tmp_path / f"{name}.csv", 3, 7) for name in "abc")
    for step in range(1, 8):
        whole.add(step, values(step, skipped=step == 2))
    for step in range(1, 5):
        first.add(step, values(step, skipped=step == 2))
    saved = pickle.loads(pickle.dumps(first.state_dict()))
    first.add(5, values(5))
    first.add(6, values(6))
    second.load_state_dict(saved)
    for step in range(5, 8):
        second.add(step, values(step))
    written = []
    for record in (whole, second):
        record.write()
        with open(record.path) as stream:
            rows = list(csv.DictReader(stream))
        assert list(rows[0]) == list(COLUMNS)
        written.append([{key: row[key] for key in COLUMNS if key != "seconds"} for row in rows])
    assert written[0] == written[1]
    assert [(row["step"], row["loss"], row["lr"], row["skipped"]) for row in written[0]] == [
        ("3", "2", "0.3", "1"),
        ("6", "5", "0.6", "0"),
        ("7", "7", "0.7", "0"),
    ]
    assert written[0][0]["grad_norm"] == "0.5"


def test_progress_prints_lines_away_from_a_terminal(capsys) -> None:
    progress = Progress(10, 0, 8, enabled=True)
    progress.row({"step": 5.0, "loss": 0.25, "psnr": 6.0, "lr": 0.1})
    progress.bar.close()
    said = capsys.readouterr().err
    assert said.startswith("step 5/10 loss 0.25 psnr 6.00 lr 0.1") and "images/s" in said and "left" in said
    quiet = Progress(10, 0, 8, enabled=False)
    quiet.row({"step": 5.0, "loss": 0.25, "psnr": 6.0, "lr": 0.1})
    assert capsys.readouterr().err == ""


def test_disabled_tracking_does_not_import_wandb(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = watch.open_tracker("disabled", "aa", tmp_path, "name", {})
    tracker.row({"step": 1.0})
    tracker.finish()


class FakeWandb:
    """Refuses to go online, records what is asked of it."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        self.calls: list[dict] = []

    def Settings(self, **settings) -> dict:
        return settings

    def init(self, **arguments) -> SimpleNamespace:
        self.calls.append(arguments)
        if arguments["mode"] == "online":
            raise self.Error("no route\nto host")
        return SimpleNamespace(define_metric=lambda *args, **kwargs: None)


def test_tracking_without_a_network_goes_offline_and_says_so(tmp_path, monkeypatch, caplog) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    watch.open_tracker("online", "aa", tmp_path / "runs", "name", {})
    assert [call["mode"] for call in fake.calls] == ["online", "offline"]
    assert fake.calls[1]["id"] == "aa" and fake.calls[1]["resume"] == "allow"
    assert fake.calls[1]["dir"] == str(tmp_path / "runs")
    assert "wandb cannot go online (no route to host)" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_are_noted_and_handlers_put_back(number) -> None:
    before = signal.getsignal(number)
    with noting_signals() as interrupt:
        assert not interrupt
        os.kill(os.getpid(), number)
        assert interrupt and interrupt.name == number.name
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_stops_at_once() -> None:
    with noting_signals(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_weights_fit_whatever_their_initial_values() -> None:
    ours = {"name": "uplvsm", "transformer": {"d": 96, "init_gain": 5.0}, "pose_head_std": 0.2}
    assert difference({**ours, "pose_head_std": 0.02, "transformer": {"d": 96, "init_gain": 1.0}}, ours) is None
    assert difference({**ours, "transformer": {"d": 48}}, ours) == "model.transformer.d is 48 there and 96 here"
    both = {"name": "ptlvsm", "transformer": {"d": 48}}
    assert difference(both, ours) == "model.name is ptlvsm there and uplvsm here"


def test_asking_for_a_missing_gpu_is_a_configuration_error(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no usable GPU"):
        pick_device("cuda")


def test_alone_nothing_is_communicated() -> None:
    with team(RuntimeConfig(device="cpu")) as members:
        assert members.leads and members.world == 1
        assert members.any([True, False]) == [True, False] and members.gather(3) == [3]
        assert members.mean([1.5]) == [1.5]


def test_starting_from_scratch_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        build_model(compose("train", ["model=ptlvsm"]), ALONE)
    assert "from scratch" in caplog.text


def test_a_second_run_in_the_same_folder_waits_for_the_first(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    order = []

    def second() -> None:
        with holding_lock(tmp_path):
            order.append("second")

    with holding_lock(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        while not caplog.records:
            time.sleep(0.01)
        order.append("first")
    other.join()
    assert order == ["first", "second"] and "another process" in caplog.text
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}*"))
