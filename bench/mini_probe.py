"""Training logs of shrunk recipes as rows: `python bench/mini_probe.py FOLDER`.

FOLDER holds NAME.safetensors and NAME.csv of runs of `novelview.stages.train` (io.out, io.log). A row a run: what
it was, its first and last logged loss and PSNR, and the processor's time a step. Used with the sizes and recipes of
scale mini at 56 and 64 px and few scenes a step, to see that every loss falls."""

import argparse
import csv
from pathlib import Path

from common import append

from novelview.models.registry import read_config


def row(weights: Path) -> dict[str, object]:
    """Return the row of one run."""
    config = read_config(weights)
    with open(weights.with_suffix(".csv"), newline="") as stream:
        lines = list(csv.DictReader(stream))
    first, last = lines[0], lines[-1]
    return {
        **{"run": weights.stem, "resolution": config["views"]["image_size"], "steps": config["train"]["steps"]},
        **{"scenes": config["train"]["batch_size"], "targets": config["views"]["num_target"]},
        **{
            f"{name}_{key}": line[key]
            for name, line in (("first", first), ("last", last))
            for key in ("step", "loss", "psnr")
        },
        "seconds_a_step": round(float(last["seconds"]) / int(last["step"]), 2),
    }


def main() -> None:
    """Append and print a row for every finished run of the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    found = sorted(parser.parse_args().folder.glob("*.safetensors"))
    append("mini_probe", [row(weights) for weights in found])


if __name__ == "__main__":
    main()
