"""Configuration: composition, types, values, digests, the generated reference."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import config_reference as reference
from novelview.config.compose import STAGES, compose, conf_dir
from novelview.config.digest import digest, resolved
from novelview.config.stages import TrainStage
from novelview.errors import ConfigError

ROOT = Path(__file__).parents[2]
NEEDED = {
    "evaluate": ["io.weights=w", "io.out=o"],
    "figures": ["figure=f", "io.out=o"],
    "report": ["io.out=o", "io.figures=f"],
    "publish": ["io.weights=w", "io.evaluation=e", "io.out=o"],
    "compact": ["name=a", "io.weights=w", "io.out=o"],
    "render": ["io.weights=w", "io.out=o"],
    "latency": ["io.out=o"],
    "depth": ["io.weights=w", "io.out=o"],
}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_composes_to_its_dataclass(stage: str) -> None:
    assert isinstance(compose(stage, NEEDED.get(stage, [])), STAGES[stage])


@pytest.mark.parametrize("scale", ["demo", "mini", "paper"])
@pytest.mark.parametrize("model", ["uplvsm", "ptlvsm"])
def test_every_scale_has_both_phases_of_every_model(scale: str, model: str) -> None:
    sizes = [
        compose("train", [f"scale={scale}", f"model={model}", f"phase={p}"]).views.image_size
        for p in ("pretrain", "finetune")
    ]
    assert sizes == {"demo": [56, 126], "mini": [112, 252], "paper": [224, 518]}[scale]


def test_paper_scale_is_the_published_recipe() -> None:
    config = compose("train", ["scale=paper", "model=uplvsm", "phase=finetune"])
    assert isinstance(config, TrainStage)
    assert (config.train.lr, config.train.steps, config.train.batch_size, config.train.warmup) == (
        4e-5,
        80_000,
        6,
        4000,
    )
    assert (config.model.transformer.d, config.model.n_latent_vectors, config.model.dino.depth) == (768, 1024, 12)


@pytest.mark.parametrize(
    ("stage", "overrides", "words"),
    [
        ("train", ["model.widht=3"], ["model.widht", "UPLVSMConfig"]),
        ("train", ["train.lr=fast"], ["train.lr", "fast"]),
        ("train", ["model=nerf"], ["nerf", "uplvsm"]),
        ("train", ["scale=huge"], ["huge", "demo"]),
        ("train", ["views.image_size=57"], ["views.image_size=57", "14"]),
        ("train", ["train.schedule=step"], ["train.schedule=step", "cosine"]),
        ("train", ["train.batch_size=0"], ["train.batch_size=0"]),
        ("train", ["views.num_target=9"], ["views.num_target=9"]),
        ("train", ["model.transformer.d_head=25"], ["d_head=25"]),
        ("train", ["io.pakced=x"], ["pakced"]),
        ("train", ["train.losses.perceptual=1", "train.losses.vgg_weights=null"], ["vgg_weights", "perceptual=0"]),
        ("download", ["source.seed=x"], ["source.seed", "x"]),
        ("download", ["source=video"], ["video", "photos"]),
        ("download", ["source.fov=[75,50]"], ["source.fov"]),
        ("evaluate", ["io.weights=w"], ["io.out"]),
        ("preprocess", ["two words"], ["two words"]),
        ("cook", [], ["cook", "train"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(stage: str, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(stage, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_run_only_keys_leave_the_digest_alone_and_others_do_not() -> None:
    plain = digest(compose("train"))
    assert digest(compose("train", ["runtime.workers=3", "runtime.wandb=disabled", "io.out=elsewhere"])) == plain
    assert digest(compose("train", ["train.lr=0.001"])) != plain
    assert digest(compose("train", ["model.transformer.init_gain=4.0"])) != plain
    assert set(resolved(compose("train"))).isdisjoint({"runtime", "io"})


def test_comments_and_key_order_leave_the_digest_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = digest(compose("train"))
    copy = tmp_path / "conf"
    subprocess.run(["cp", "-r", conf_dir(), copy], check=True)
    model = copy / "models/uplvsm.yaml"
    head, recipes = model.read_text().split("recipes:\n")
    head, sizes = head.split("sizes:\n")
    model.write_text(f"{head}\n# another remark\nrecipes:\n{recipes}\nsizes:\n{sizes}\n")
    monkeypatch.setenv("NOVELVIEW_CONF", str(copy))
    assert digest(compose("train")) == plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sizes: [", r"conf/models/uplvsm.yaml: "),
        ("size: {demo: {}}", r"uplvsm.yaml: size: unknown; give sizes, recipes"),
        ("sizes: {demo: 3}", r"uplvsm.yaml: sizes.demo: give a mapping, not 3"),
        ("sizes: {demo: {d: 1, d: 2}}", r"key 'd' stands twice"),
        ("sizes: {demo: {extends: ptlvsn}}", r"uplvsm.yaml: sizes.demo.extends=ptlvsn: no other size is called so"),
        ("recipes: {demo: {one: {extends: uplvsm/one}}}", r"recipes.demo.one.extends=uplvsm/one: no other recipe"),
    ],
)
def test_a_mistake_in_a_models_file_is_one_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(conf_dir(), tmp_path / "conf")
    (tmp_path / "conf/models/uplvsm.yaml").write_text(text)
    monkeypatch.setenv("NOVELVIEW_CONF", str(tmp_path / "conf"))
    with pytest.raises(ConfigError, match=message) as caught:
        compose("train", ["model=ptlvsm"])
    assert "\n" not in str(caught.value)


def test_a_command_line_mistake_is_one_line_and_status_2() -> None:
    command = [sys.executable, "-m", "novelview.stages.train", "train.lrr=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and "lrr" in done.stderr


def test_the_generated_pages_are_current() -> None:
    assert (ROOT / "docs/config.md").read_text() == reference.keys(), "run `make docs`"
    pins = (ROOT / "constraints.txt").read_text()
    assert (ROOT / "environment.yml").read_text() == reference.environment(pins), "run `make -B environment.yml`"
