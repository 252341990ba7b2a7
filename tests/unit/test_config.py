"""Configuration: composition, types, values, digests, the generated reference. The file of a planned configuration is
what composition gives, and no other file is taken for it. Paths with any characters survive the command line;
numbers and paths that nothing can use are one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import config_reference as reference
from novelview.config.compose import STAGES, compose, conf_dir, quoted, read_config_file
from novelview.config.digest import digest, resolved
from novelview.config.plan import CONFIGS, Plan
from novelview.config.stages import TrainStage
from novelview.errors import ConfigError
from novelview.stages.cli import run_stage

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
    assert sizes == {"demo": [64, 112], "mini": [112, 252], "paper": [224, 518]}[scale]


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
        ("train", ["views.image_size=57"], ["views.image_size=57", "8"]),
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
    head, recipes = model.read_text().split("\nrecipes:\n")
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
def test_a_mistake_in_a_models_file_is_one_line(text: str, message: str, tmp_path, monkeypatch):
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


CASES = [
    ("train", ["model=lact", "phase=finetune"], []),
    ("train", ["model=uplvsm", "scale=paper", "train.lr=1e-3"], ["io.packed=/a, b"]),
    ("download", ["source=rooms"], []),
    ("poses", ["poses=vggt"], []),
    ("evaluate", ["eval=views"], ["io.weights=~/w", "io.out=-"]),
    ("figures", ["study=lact", "figure=views"], ["io.out=-", "io.inputs=[a,b]"]),
    ("adopt", ["name=uplvsm_x224"], []),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file() -> Path:
    """The planned configuration of a training with settings of `runtime`, as a file."""
    return Path(Plan({"set": "runtime.max_minutes=3"}, write=True).stage("train", "ptlvsm", "pretrain")["config"])


@pytest.mark.parametrize(("stage", "words", "own"), CASES)
def test_what_is_read_back_is_what_was_composed(stage: str, words: list[str], own: list[str]) -> None:
    planned = Plan({}, write=True).call(stage, *words)
    fresh = compose(stage, [*words, *own, "runtime.threads=3"])
    assert read_config_file(stage, planned["config"], [*own, "runtime.threads=3"]) == fresh
    assert digest(fresh) == planned["digest"] and planned["config"] == str(
        CONFIGS / f"{stage}-{planned['digest']}.yaml"
    )


def test_an_edit_of_the_tree_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(conf_dir(), tmp_path / "conf")
    monkeypatch.setenv("NOVELVIEW_CONF", str(tmp_path / "conf"))
    before = Plan({}).composed("evaluate")
    (tmp_path / "conf" / "eval" / "rooms.yaml").write_text("# @package eval\nsplits: [gap23]\n")
    after = Plan({}).composed("evaluate")
    assert after.eval.splits == ["gap23"] != before.eval.splits


def test_settings_of_runtime_travel_in_the_file_and_change_no_name(file: Path) -> None:
    assert read_config_file("train", file).runtime.max_minutes == 3
    assert Plan({}, write=True).stage("train", "ptlvsm", "pretrain")["config"] == str(file)
    assert read_config_file("train", file).runtime.max_minutes == 0


def test_a_file_that_says_the_same_already_is_left_alone(file: Path) -> None:
    before = file.stat().st_mtime_ns
    Plan({"set": {"runtime": {"max_minutes": 3}}}, write=True).stage("train", "ptlvsm", "pretrain")
    assert file.stat().st_mtime_ns == before


def test_a_plan_that_is_only_read_writes_nothing(tmp_path: Path) -> None:
    Plan({}).stage("train", "ptlvsm", "pretrain")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("seed: 777", "seed: 778", "was changed after it was written"),
        ("name: ptlvsm", "name: nerf", "no configuration of stage train of this version"),
        ("seed: 777", "seed: many", "no configuration of stage train of this version"),
        ("seed: 777", "sead: 777", "no configuration of stage train of this version"),
        ("stage: train", "stage: evaluate", "is of stage evaluate, not train"),
        ("digest: ", "dig: ", "or cut off"),
        ("config:", "config: [", "cannot be read"),
        ("threads: ", "threads: many #", "no configuration of stage train of this version"),
    ],
)
def test_a_damaged_changed_or_foreign_file_is_one_line(file: Path, capsys, old: str, new: str, line: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    assert run_stage("train", lambda _: pytest.fail("ran"), ["--config", str(file)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {file}: ") and line in error and "\n" not in error


def test_a_file_cut_off_anywhere_is_one_line(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(0, len(whole) - 1, 97):
        file.write_bytes(whole[:length])
        with pytest.raises(ConfigError) as caught:
            read_config_file("train", file)
        assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("train.lr=1", "train.lr=1: beside --config only words under io. and runtime. are taken"),
        ("model=lact", "beside --config only words under io. and runtime."),
        ("io.pakced=x", "pakced"),
        ("runtime.threads=many", "runtime.threads"),
        ("io.out=", "io.out is empty"),
    ],
)
def test_words_beside_a_file_say_where_and_how_to_run_alone(file: Path, word: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config_file("train", file, [word])
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_gone_is_one_line_that_says_what_to_do() -> None:
    command = [sys.executable, "-m", "novelview.stages.preprocess", "--config", "logs/config/preprocess-0.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "logs/config/preprocess-0.yaml: no such file" in done.stderr and "snakemake -n" in done.stderr


def test_the_configuration_is_stored_beside_the_result_and_can_be_run_again(file: Path, tmp_path: Path) -> None:
    seen = []

    def body(config: object) -> None:
        seen.append(config)
        (tmp_path / "made").mkdir(exist_ok=True)

    words = ["io.out=made/model.safetensors", "runtime.threads=2"]
    assert run_stage("train", body, ["--config", str(file), *words]) == 0
    stored = tmp_path / "made/config.yaml"
    before = stored.read_bytes()
    assert b"max_minutes" not in before and b"\n  io:" not in before
    assert run_stage("train", body, ["--config", str(stored), *words]) == 0
    assert digest(seen[0]) == digest(seen[1]) and stored.read_bytes() == before


PATHS = [
    *("/a b/c", "/a,b", "/a(b)", "/a=b", "/a[b]", "[ab]", "{a}", "/don't", '/d"q', "/a#b", "/für/日本", "/a&b;c!"),
    *("back\\slash", "end\\", "quote\\'s", " lead and trail ", "2024", "true"),
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_arrives_as_it_was_written(path: str) -> None:
    config = compose("download", ["source=photos", f"path={path}", f"io.out={path}"])
    assert (config.path, config.io["out"]) == (path, path)


def test_the_home_folder_is_expanded_wherever_a_shell_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert compose("download", ["source=photos", "path=~/Pictures"]).path == "/home/someone/Pictures"
    assert compose("train", ["model.dino.weights=~/d.pth"]).model.dino.weights == "/home/someone/d.pth"


def test_what_is_no_path_or_already_quoted_is_left_alone() -> None:
    words = ["train.lr=1e-3", "io.inputs=[a,b]", "path='a b'", "io.init=null", "+io.x", "eval.splits=[small]"]
    assert [quoted(word) for word in words] == words


def test_quoting_leaves_digests_alone() -> None:
    plain, quoted = ([f"path={quote}/data/x{quote}", "source=photos"] for quote in ("", "'"))
    assert digest(compose("download", plain)) == digest(compose("download", quoted))


@pytest.mark.parametrize(
    ("stage", "override", "words"),
    [
        ("train", "io.out=null", "io.out is empty"),
        ("train", "io.init=", "io.init is empty"),
        ("evaluate", "io.weights=null", "io.weights is empty"),
        ("train", "train.lr=inf", "train.lr=inf"),
        ("train", "train.seed=-1", "train.seed=-1"),
        ("train", "train.seed=99999999999999999999", "64 bits"),
        ("train", "train.beta1=1.5", "train.beta1=1.5"),
        ("train", "model.encoder_n_layer=-1", "model.encoder_n_layer=-1"),
        ("train", "model.dino.num_register_tokens=-1", "num_register_tokens=-1"),
        ("train", "dataset=../up", "dataset=../up"),
        ("evaluate", "eval.video_frames=1", "eval.video_frames=1"),
        ("evaluate", "eval.seed=-1", "eval.seed=-1"),
    ],
)
def test_a_value_nothing_can_use_is_named(stage: str, override: str, words: str) -> None:
    needed = ["io.weights=w", "io.out=o"] if stage == "evaluate" else []
    with pytest.raises(ConfigError) as caught:
        compose(stage, [*needed, override])
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["source.min_registered=2", "source.context_gap=-3", "source.max_side=-1"])
def test_photographs_options_out_of_range_are_named(wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        compose("download", ["source=photos", f"path={Path.cwd()}", wrong])
