"""How fast devices are: conf/throughput.yaml, measured where a row says so, estimated everywhere else."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from novelview.config.compose import conf_dir
from novelview.errors import ConfigError


@dataclass
class Device:
    """A class of devices: peaks in 10^12 operations a second, dense, and where the figures are from."""

    title: str = ""
    bf16_tflops: float = 0.0
    tf32_tflops: float = 0.0
    fp32_tflops: float = 0.0
    source: str = ""
    date: str = ""


@dataclass
class Measured:
    """What one process reached with one model at one image size, in 10^12 operations a second."""

    device: str = ""
    model: str = ""
    size: str = ""
    teraflops: float = 0.0
    source: str = ""
    date: str = ""


@dataclass
class Small:
    """What is assumed of GPUs that work on models of at most `parameters` parameters; times beside their products."""

    parameters: float = 0.0
    utilisation: dict[str, float] = field(default_factory=dict)
    step_ms: dict[str, float] = field(default_factory=dict)  # a training step's, by model; `default` for the others
    entry_ms: float = 0.0  # an evaluation entry's
    job_seconds: float = 0.0
    source: str = ""

    def step_seconds(self, model: str) -> float:
        """Return what a training step of a model takes beside its matrix products."""
        return self.step_ms.get(model, self.step_ms.get("default", 0.0)) / 1000


@dataclass
class Throughput:
    """conf/throughput.yaml."""

    devices: dict[str, Device] = field(default_factory=dict)
    utilisation: dict[str, float] = field(default_factory=dict)
    small: Small = field(default_factory=Small)
    measured: list[Measured] = field(default_factory=list)
    jpeg_bytes_per_pixel: float = 0.0
    entries: dict[str, int] = field(default_factory=dict)

    def is_small(self, device: str, parameters: float | None) -> bool:
        """Tell whether a model of so many parameters is too small to keep a device busy."""
        return device != "cpu" and parameters is not None and parameters <= self.small.parameters

    def rate(
        self, device: str, model: str, size: str, amp: str, stage: str, parameters: float | None = None
    ) -> tuple[float, bool]:
        """Return operations a second of one process on one device, and whether they were measured.

        stage: train or evaluate; amp: bf16, fp16, tf32 or none; parameters: the model's, where they are known.
        """
        if stage == "train":
            for row in self.measured:
                if (row.device, row.model, row.size) == (device, model, size):
                    return row.teraflops * 1e12, True
        own = self.devices[device]
        peak = {"none": own.fp32_tflops, "tf32": own.tf32_tflops}.get(amp, own.bf16_tflops)
        share = self.small.utilisation if self.is_small(device, parameters) else self.utilisation
        return peak * share[stage] * 1e12, False


def read_throughput() -> Throughput:
    """Read conf/throughput.yaml; raises ConfigError, one line, for a key that does not belong there."""
    path = conf_dir() / "throughput.yaml"
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(Throughput), OmegaConf.load(path))
        found = OmegaConf.to_object(merged)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None
    assert isinstance(found, Throughput)
    return found
