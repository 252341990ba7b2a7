"""Stage `latency`: python -m novelview.stages.latency io.models=[FILE,...] io.out=latency.csv [views=[2,8,32]]."""

from pathlib import Path

from novelview.config.schema import size_name
from novelview.config.stages import LatencyStage
from novelview.devices import team
from novelview.errors import ConfigError
from novelview.evaluation.latency import Cost, costs, write_costs
from novelview.files import require_writable
from novelview.models.registry import load_weights
from novelview.scenes.store import PackedStore
from novelview.stages.cli import log, run_stage
from novelview.stages.evaluate import views_of


def latency(cfg: LatencyStage) -> None:
    """Time reconstruction and rendering of every weights file in `io.models` and write one CSV to `io.out`.

    Raises NovelviewError for no weights, or more views than any scene has frames."""
    require_writable(cfg.io["out"], "io.out")
    if not cfg.io.get("models"):
        raise ConfigError("io.models is empty; name the weights to time as io.models=[FILE,...]")
    if not cfg.views or min(cfg.views) < 1:
        raise ConfigError(f"views={min(cfg.views, default=[])}: name numbers of context views from 1 up")
    store = PackedStore(Path(cfg.io["packed"]) / "test")
    rows: list[Cost] = []
    with team(cfg.runtime) as ranks:
        for path in cfg.io["models"]:
            model, config = load_weights(path)
            name = config.get("variant") or config["model"]["name"]
            for size in ["", *cfg.sizes]:
                views = views_of(config, path, size)
                rows += costs(model.to(ranks.device).eval(), name, size_name(views), store, views, cfg)
                log.info("%s at %s: timed with %s views", name, size_name(views), cfg.views)
        write_costs(cfg.io["out"], rows, ranks.device)


if __name__ == "__main__":
    raise SystemExit(run_stage("latency", latency))
