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
class Throughput:
    """conf/throughput.yaml."""

    devices: dict[str, Device] = field(default_factory=dict)
    utilisation: dict[str, float] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    jpeg_bytes_per_pixel: float = 0.0
    entries: dict[str, int] = field(default_factory=dict)

    def rate(self, device: str, model: str, size: str, amp: str, stage: str) -> tuple[float, bool]:
        """Return operations a second of one process on one device, and whether they were measured.

        stage: train or evaluate; amp: bf16, fp16 or none.
        """
        if stage == "train":
            for row in self.measured:
                if (row.device, row.model, row.size) == (device, model, size):
                    return row.teraflops * 1e12, True
        own = self.devices[device]
        peak = own.fp32_tflops if amp == "none" else own.bf16_tflops
        return peak * self.utilisation[stage] * 1e12, False


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
