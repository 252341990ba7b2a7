"""Wheels for a bare machine: python -m carry.bundle FOLDER [--python 3.12] [--platform x86_64].

Everything the mini scale imports beside torch, triton and numpy, at the versions of constraints.txt, for another Python
and platform if asked. What the mini scale never opens (tests, solvers, the library around the photographs of
scikit-image) is left out of the wheels, and the rest compressed better, so that the folder stays small."""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

PACKAGES = Path(__file__).with_name("wheels.txt").read_text().split()
GLIBC = (28, 27, 24, 17, 12, 5)  # manylinux_2_N tags that a machine of the last years takes
KEPT = {  # of these wheels only what matches is kept; the photographs are the textures of the rooms
    "scikit_image": r"skimage/(__init__\.pyi?|_shared/(__init__|version_requirements|tester)\.py"
    r"|data/(__init__\.pyi?|[a-z_]+\.(png|jpg)))|.*\.dist-info/.*"
}
DROPPED = {  # of these wheels what matches is dropped
    "pulp": r"pulp/(solverdir|tests?)/.*",
    "pandas": r"pandas/tests/.*",
    "matplotlib": r"(matplotlib|mpl_toolkits)/(.*/)?tests/.*|matplotlib/mpl-data/(sample_data|images)/.*",
    "sqlalchemy": r"sqlalchemy/(dialects/(oracle|mssql|mysql|postgresql)/.*|testing/.*)",
    "snakemake": r"snakemake/(assets|report)/.*\.(js|css|woff2?)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Fill a folder with the wheels; returns 0, or 2 with one line for a wheel that is not to be had."""
    parser = argparse.ArgumentParser(prog="python -m carry.bundle", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the wheels go; replaced whole")
    parser.add_argument("--python", default="3.12", help="version of the machine's Python, such as 3.12")
    parser.add_argument("--platform", default="x86_64", help="its processor, such as x86_64 or aarch64")
    parser.add_argument("--constraints", type=Path, default=Path("constraints.txt"))
    parser.add_argument(
        "--with", dest="more", nargs="*", default=[], help="further packages, such as numpy or scipy av"
    )
    given = parser.parse_args(argv)
    try:
        made = collect(given.folder, [*PACKAGES, *given.more], given.constraints, given.python, given.platform)
    except LookupError as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 2
    print(f"{given.folder}: {len(made)} wheels, {sum(path.stat().st_size for path in made) / 1e6:.1f} MB")
    return 0


def collect(folder: Path, names: Sequence[str], constraints: Path, python: str, platform: str) -> list[Path]:
    """Replace `folder` by the wheels of these packages; raises LookupError for one without pin or wheel."""
    pins = pinned(constraints)
    unknown = [name for name in names if normal(name) not in pins]
    if unknown:
        raise LookupError(f"{unknown[0]}: has no pin in {constraints}; add one")
    with tempfile.TemporaryDirectory() as place:
        _fetch([pins[normal(name)] for name in names], Path(place), python, platform)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return [slim(path, folder / path.name) for path in sorted(Path(place).glob("*.whl"))]


def pinned(constraints: Path) -> dict[str, str]:
    """Return the pins of a constraints file by normalised name."""
    lines = constraints.read_text().split()
    return {normal(line.partition("==")[0]): line for line in lines if "==" in line}


def normal(name: str) -> str:
    """Return a package's name as indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _fetch(pins: list[str], place: Path, python: str, platform: str) -> None:
    """Download wheels for another Python; what is only to be had as source is built here, if it is pure Python."""
    tags = [f"manylinux_2_{number}_{platform}" for number in GLIBC] + [f"manylinux{n}_{platform}" for n in (2014, 1)]
    where = ["--python-version", python, "--implementation", "cp", *(f"--platform={tag}" for tag in tags)]
    left, sources, said = list(pins), [], ""
    while left:
        said = _pip("download", "--no-deps", "--only-binary=:all:", *where, "--dest", str(place), *left)
        lacking = re.findall(r"No matching distribution found for (\S+)", said)
        if not said or not lacking:
            break
        left, sources = [pin for pin in left if pin not in lacking], [*sources, *lacking]
    if said:
        raise LookupError(f"wheels for Python {python} on {platform}: {said.strip().splitlines()[-1]}")
    before = set(place.glob("*.whl"))
    said = _pip("wheel", "--no-deps", "--wheel-dir", str(place), *sources) if sources else ""
    if said or not all(path.name.endswith("-none-any.whl") for path in set(place.glob("*.whl")) - before):
        raise LookupError(f"no wheels for Python {python} on {platform} of {', '.join(sources)}; change their pins")


def _pip(*words: str) -> str:
    """Run pip; return what it said against it, empty where it did as told."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stderr or "pip failed") if done.returncode else ""


def slim(wheel: Path, out: Path) -> Path:
    """Write a wheel again without what `KEPT` and `DROPPED` leave out, in LZMA; its record says the same."""
    package = wheel.name.partition("-")[0].lower()
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as target:
        kept = [info for info in source.infolist() if not info.is_dir() and wanted(package, info.filename)]
        names = {info.filename for info in kept}
        for info in kept:
            content = source.read(info)
            if info.filename.endswith(".dist-info/RECORD"):
                content = _record(content, names)
            entry = zipfile.ZipInfo(info.filename, info.date_time)
            entry.external_attr, entry.compress_type = info.external_attr, zipfile.ZIP_LZMA
            target.writestr(entry, content)
    return out


def wanted(package: str, name: str) -> bool:
    """Whether a file of a wheel goes into the bundle."""
    kept, dropped = KEPT.get(package), DROPPED.get(package)
    return not (kept and not re.fullmatch(kept, name)) and not (dropped and re.fullmatch(dropped, name))


def _record(content: bytes, names: set[str]) -> bytes:
    lines = content.decode().splitlines(keepends=True)
    return "".join(line for line in lines if line.rsplit(",", 2)[0].strip('"') in names).encode()


def digest_of(folder: Path) -> str:
    """Return a digest of a folder of wheels: their names and bytes."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.whl")):
        total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
