"""Which files of the configuration tree a stage is composed of."""

from collections.abc import Sequence

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from novelview.config.compose import compose, conf_dir
from novelview.config.literal import literal
from novelview.config.options import read_options


def config_files(stage: str, overrides: Sequence[str] = ()) -> dict[str, list[str] | None]:
    """Return the files below conf/ that hold a stage's result-bearing values, and the keys in them; None: all.

    {"stage/train.yaml": None, "models/uplvsm.yaml": ["recipes.demo.pretrain", "sizes.demo"]}

    Files of the group `runtime` are left out: they say how to run, never what to compute. Raises ConfigError as
    `compose` does.
    """
    compose(stage, overrides)  # checks every word and registers the schemas
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        words = [literal(word) for word in overrides]
        defaults = loader.compute_defaults_list(f"stage/{stage}", words, RunMode.RUN).defaults
    options = read_options(conf_dir())
    found: dict[str, list[str] | None] = {}
    for path in (item.config_path for item in defaults if item.config_path):
        for file, key in options[path].origins if path in options else ():
            found[file] = sorted({*(found.get(file) or ()), key})
        if not path.startswith("runtime/") and (conf_dir() / f"{path}.yaml").is_file():
            found[f"{path}.yaml"] = None
    return found
