"""The runs of a study: every model, training subset and phase with the folder its weights and results lie in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from novelview.config.schema import Study
from novelview.config.study import phases_of, variant_of
from novelview.errors import ConfigError

Size = Callable[[str, str], str]


@dataclass(frozen=True)
class Published:
    """A published checkpoint in the place of a phase: registry name or file, a short name for paths, the phase."""

    source: str
    tag: str
    phase: str


@dataclass(frozen=True)
class Run:
    """One set of weights: trained in `phase`, from those in `start` where there are any.

    name: the run's name, a model's or a variant's; data: folder name that tells the training data apart; res: image
    size in paths, `126` or `72x128`; adopted: the published checkpoint the weights are, empty for a trained run.
    """

    name: str
    model: str
    phase: str
    subset: str
    data: str
    res: str
    folder: str
    weights: str
    start: str = ""
    adopted: str = ""

    @property
    def place(self) -> str:
        """The end of the folder, which its wildcards make up: `uplvsm/rooms-full/x56`."""
        return f"{self.name}/{self.data}/x{self.res}"


def make_runs(study: Study, scale: str, dataset: str, init: Mapping[str, Published], size: Size) -> list[Run]:
    """Return the runs of a study in the order that tables list them: model, subset, phase.

    init: run name -> the published checkpoint it starts from. size: (run name, phase) -> image size in paths.
    Raises ConfigError when two phases of a run share an image size.
    """
    found: list[Run] = []
    for name in study.models:
        phases = phases_of(study, name)
        sizes = {phase: size(name, phase) for phase in phases}
        if len(set(sizes.values())) < len(sizes):
            raise ConfigError(f"{name}: phases {phases} share the resolution {next(iter(sizes.values()))}; change one")
        for subset in study.subsets.get(scale, ["full"]):
            found += _chain(f"results/{scale}/models/{name}", study, name, (dataset, subset), sizes, init.get(name))
    return list(dict.fromkeys(found))


def _chain(
    root: str, study: Study, name: str, data: tuple[str, str], sizes: dict[str, str], init: Published | None
) -> list[Run]:
    """Return the phases of one model on one subset, each starting from the weights of the one before."""
    model = variant_of(study, name).model
    dataset, subset = data
    own_data = f"{dataset}-{subset}" + (f"-{init.tag}" if init else "")
    found: list[Run] = []
    for phase in phases_of(study, name)[study.phases.index(init.phase) if init else 0 :]:
        res, start = sizes[phase], found[-1].weights if found else ""
        if init and phase == init.phase:
            place, weights = f"{dataset}-published", f"{root}/published/x{res}/model.safetensors"
            where = {"data": place, "folder": f"{root}/{place}/x{res}", "weights": weights}
            found.append(Run(name, model, phase, "full", res=res, adopted=init.source, **where))
        else:
            folder = f"{root}/{own_data}/x{res}"
            found.append(Run(name, model, phase, subset, own_data, res, folder, f"{folder}/model.safetensors", start))
    return found
