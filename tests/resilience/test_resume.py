"""Interrupted training: killed, asked to stop, checkpoints damaged, several processes; the weights come out equal."""

import csv
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from novelview.config.compose import compose
from novelview.errors import CheckpointError, ConfigError, NovelviewError
from novelview.training.loop import train

TINY = """
model=uplvsm scale=demo phase=pretrain runtime.device=cpu runtime.threads=1 runtime.wandb=disabled runtime.log_every=3
model.transformer.d=24 model.transformer.d_head=12 model.dino.embed_dim=24 model.dino.num_heads=2
model.dino.img_size=28 model.patch_size=14 model.dino.patch_size=14 model.dino.depth=0
model.encoder_n_layer=1 model.estimator_n_layer=1 model.decoder_n_layer=1 model.n_latent_vectors=4
views.image_size=28 views.num_views=5 views.num_target=2 views.min_frame_dist=4 views.max_frame_dist=9
train.batch_size=2 train.warmup=2 train.amp=bf16
"""
STEPS = 40


class Training:
    """The training stage on a tiny model, in a folder of its own."""

    def __init__(self, folder: Path, packed: Path, *overrides: str, steps: int = STEPS) -> None:
        self.folder, self.errors = folder, folder / "errors.txt"
        io = {"packed": packed, "out": folder / "model.safetensors", "log": folder / "train.csv"}
        io["checkpoints"] = folder / "checkpoints"
        paths = [f"io.{key}={value}" for key, value in io.items()]
        self.overrides = [*TINY.split(), f"train.steps={steps}", *paths, *overrides]
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, processes: int = 1) -> subprocess.Popen[str]:
        """Start the command, under torchrun when several processes are asked for."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        words = [sys.executable, *(torchrun if processes > 1 else []), "-m", "novelview.stages.train", *self.overrides]
        with open(self.errors, "w") as errors:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            return subprocess.Popen(words, stderr=errors, text=True, env=environment, cwd=self.folder)

    def command(self, processes: int = 1) -> str:
        process = self.start(processes)
        process.wait(timeout=300)
        assert process.returncode == 0, self.errors.read_text()
        return self.errors.read_text()

    def here(self) -> None:
        assert train(compose("train", self.overrides)) == 0

    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("[!.]*.pt"))

    def newest(self) -> str | None:
        names = [path.name for path in self.checkpoints()]
        return names[-1] if names else None

    def weights(self) -> bytes:
        return (self.folder / "model.safetensors").read_bytes()

    def rows(self) -> list[dict[str, str]]:
        with open(self.folder / "train.csv") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            assert float(row.pop("seconds")) >= 0
        return rows


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "the run did not get this far"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, packed) -> Training:
    training = Training(tmp_path_factory.mktemp("undisturbed"), packed)
    training.here()
    return training


def test_the_log_has_a_row_for_every_interval(undisturbed) -> None:
    rows = undisturbed.rows()
    assert [int(row["step"]) for row in rows] == [*range(3, 41, 3), 41]
    assert list(rows[0]) == ["step", "loss", "mse", "psnr", "lr", "grad_norm", "skipped"]
    assert float(rows[0]["loss"]) > 0


def killed_at_random_moments(training: Training, rng: random.Random, times: int) -> bool:
    """Start and kill -9 the command: each time some moment after it made a new checkpoint.

    Returns whether every signal met it at work: on a busy machine it may have ended before.
    """
    ends = []
    for _ in range(times):
        before = training.newest()
        process = training.start()
        wait_for(lambda before=before: training.newest() != before, process)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        ends.append(process.wait())
    return set(ends) == {-signal.SIGKILL}


SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8)]


@pytest.mark.parametrize("seed", [1, *SLOW])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path, packed, undisturbed, seed) -> None:
    rng = random.Random(seed)
    trials = (Training(tmp_path / str(trial), packed, "runtime.checkpoint_seconds=0.01") for trial in range(10))
    training = next(trial for trial in trials if killed_at_random_moments(trial, rng, times=2))
    assert "resuming from" in training.command()
    assert training.weights() == undisturbed.weights()
    assert training.rows() == undisturbed.rows()
    assert not list(tmp_path.rglob("*.partial*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_asked_to_stop_it_saves_and_says_so(tmp_path, packed, undisturbed, number) -> None:
    training = Training(tmp_path, packed, "runtime.checkpoint_seconds=0")
    process = training.start()
    wait_for(training.checkpoints, process)
    process.send_signal(number)
    assert process.wait(timeout=60) == 3
    said = training.errors.read_text()
    assert f"stopped by {number.name} after step" in said and "Traceback" not in said
    assert not (tmp_path / "model.safetensors").exists()
    training.here()
    assert training.weights() == undisturbed.weights()
    assert training.rows() == undisturbed.rows()


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, packed, undisturbed, caplog) -> None:
    training = Training(tmp_path, packed, "runtime.checkpoint_seconds=0", "runtime.keep_checkpoints=3")
    training.here()
    assert len(training.checkpoints()) == 3
    newest = training.checkpoints()[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    caplog.set_level("INFO")
    training.here()
    assert f"damaged checkpoint passed over: {newest}" in caplog.text and "after step 39" in caplog.text
    assert training.weights() == undisturbed.weights()


def test_another_configuration_ignores_the_checkpoints(tmp_path, packed, undisturbed, caplog) -> None:
    Training(tmp_path, packed, "train.lr=1e-4", steps=3).here()
    stale = Training(tmp_path, packed).checkpoints()
    training = Training(tmp_path, packed)
    training.here()
    assert f"STALE checkpoint ignored: {stale[0]}" in caplog.text
    assert set(stale) < set(training.checkpoints())
    assert training.weights() == undisturbed.weights()


def test_a_finished_run_only_writes_its_weights_again(tmp_path, packed) -> None:
    training = Training(tmp_path, packed, steps=4)
    training.here()
    before, rows = training.weights(), training.rows()
    for path in (tmp_path / "model.safetensors", tmp_path / "train.csv"):
        path.unlink()
    training.here()
    assert training.weights() == before and training.rows() == rows


def test_workers_and_cache_change_nothing(tmp_path, packed, undisturbed) -> None:
    training = Training(tmp_path, packed, "runtime.workers=2", "runtime.cache_mb=0")
    training.here()
    assert training.weights() == undisturbed.weights()


def test_two_processes_equal_one_with_twice_the_batch(tmp_path, packed) -> None:
    """The same scenes reach the same update, up to the order of sums."""
    recipe = ("train.extra_iteration=false", "train.grad_accum=2", "train.amp=none")
    pair = Training(tmp_path / "pair", packed, *recipe, "train.batch_size=2", steps=6)
    single = Training(tmp_path / "single", packed, *recipe, "train.batch_size=4", steps=6)
    pair.command(processes=2)
    single.here()
    ours, theirs = (load_file(training.folder / "model.safetensors") for training in (pair, single))
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() <= 2e-5 * max(1.0, value.abs().max().item()), name


@pytest.mark.slow
def test_two_processes_asked_to_stop_go_on_together(tmp_path, packed) -> None:
    whole = Training(tmp_path / "whole", packed)
    whole.command(processes=2)
    training = Training(tmp_path / "stopped", packed, "runtime.checkpoint_seconds=0.01")
    process = training.start(processes=2)
    wait_for(training.checkpoints, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    assert "stopped by SIGTERM after step" in training.errors.read_text()
    assert "resuming from" in training.command(processes=2)
    assert training.weights() == whole.weights()
    assert training.rows() == whole.rows()


def test_activation_checkpointing_changes_nothing(tmp_path, packed, undisturbed) -> None:
    training = Training(tmp_path, packed, "train.activation_checkpointing=true")
    training.here()
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path, undisturbed.folder))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_compiled_model_learns_the_same_and_keeps_its_names(tmp_path, packed) -> None:
    plain, compiled = (
        Training(tmp_path / name, packed, f"train.compile={name}", steps=4) for name in ("false", "true")
    )
    plain.here()
    compiled.here()
    ours, theirs = (load_file(training.folder / "model.safetensors") for training in (compiled, plain))
    assert set(ours) == set(theirs)
    assert all((ours[name] - theirs[name]).abs().max() < 2e-3 for name in theirs)


def test_offline_tracking_stays_beside_the_checkpoints(tmp_path, packed) -> None:
    Training(tmp_path, packed, "runtime.wandb=offline", steps=3).command()
    assert list((tmp_path / "checkpoints" / "wandb").glob("offline-run-*"))
    assert not (tmp_path / "wandb").exists()


def test_weights_of_another_model_are_refused(tmp_path, packed, undisturbed) -> None:
    weights = f"io.init={undisturbed.folder / 'model.safetensors'}"
    with pytest.raises(CheckpointError, match=r"model\.n_latent_vectors is 4 there and 5 here"):
        Training(tmp_path, packed, weights, "model.n_latent_vectors=5", steps=3).here()


def test_a_longer_stage_starts_from_earlier_weights(tmp_path, packed, undisturbed) -> None:
    weights = f"io.init={undisturbed.folder / 'model.safetensors'}"
    frozen = ("phase=finetune", "train.lr=1e-12", "train.weight_decay=0", "views.image_size=42")
    training = Training(tmp_path, packed, weights, *frozen, steps=2)
    training.here()
    start, end = (load_file(folder / "model.safetensors") for folder in (undisturbed.folder, tmp_path))
    assert all((start[name] - end[name]).abs().max() < 1e-8 for name in start)


def test_scenes_too_short_are_an_error_that_names_the_key(tmp_path, packed) -> None:
    with pytest.raises(ConfigError, match=r"views\.min_frame_dist=30.* lower views\.min_frame_dist to 10 or less"):
        Training(tmp_path, packed, "views.min_frame_dist=30", "views.max_frame_dist=40", steps=3).here()


def test_a_run_that_never_updates_is_an_error(tmp_path, packed) -> None:
    with pytest.raises(NovelviewError, match="not one of 3 updates was applied"):
        Training(tmp_path, packed, "train.clip_norm=1e-9", steps=3).here()
    assert not (tmp_path / "model.safetensors").exists()


def test_a_run_that_stops_changing_gives_up_early(tmp_path, packed, monkeypatch) -> None:
    monkeypatch.setattr("novelview.training.loop.PATIENCE", 5)
    with pytest.raises(
        NovelviewError, match=r"last 5 updates up to step 5 were skipped.*gradient norm was .* above 4e-09"
    ):
        Training(tmp_path, packed, "train.clip_norm=1e-9").here()


# More steps


@pytest.mark.parametrize("applies", [True, False])
def test_more_steps_go_on_where_the_schedule_allows_it(tmp_path: Path, packed: Path, caplog, applies: bool) -> None:
    schedule = f"train.schedule={'constant' if applies else 'cosine'}"
    whole = Training(tmp_path / "whole", packed, schedule, steps=7)
    whole.here()
    short = Training(tmp_path / "raised", packed, schedule, steps=4)
    short.here()
    kept = (short.folder / "model.safetensors").read_bytes()
    caplog.clear()
    raised = Training(tmp_path / "raised", packed, schedule, steps=7)
    with caplog.at_level(logging.INFO):
        raised.here()
    assert (raised.folder / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()
    assert ("after step 4" in caplog.text) == applies
    assert ("is of other train.steps, and this train.schedule depends on their number" in caplog.text) != applies
    short.here()  # and back: a state beyond the last step is no start
    assert (short.folder / "model.safetensors").read_bytes() == kept
