"""Which files of the configuration tree a stage is composed of."""

from collections.abc import Sequence

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from novelview.config.compose import compose, conf_dir
from novelview.config.literal import literal


def config_files(stage: str, overrides: Sequence[str] = ()) -> list[str]:
    """Return the files below conf/ that hold a stage's result-bearing values: `stage/train.yaml`, `model/uplvsm.yaml`.

    Files of the group `runtime` are left out: they say how to run, never what to compute. Raises ConfigError as
    `compose` does.
    """
    compose(stage, overrides)  # checks every word and registers the schemas
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        words = [literal(word) for word in overrides]
        defaults = loader.compute_defaults_list(f"stage/{stage}", words, RunMode.RUN).defaults
    names = {f"{item.config_path}.yaml" for item in defaults if item.config_path}
    return sorted(name for name in names if not name.startswith("runtime/") and (conf_dir() / name).is_file())
