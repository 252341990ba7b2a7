"""Training subsets of the scaling study: the first chunks of a data set (specs/re10k_format.md section 5).

The paper trains on 76, 304, 1216 and all 4866 chunks of RealEstate10K, which is floor(4866 / 64), / 16 and / 4; which
chunks is not published. Here they are the first ones in name order, and `check_counts` compares their scenes with the
published 1,202, 4,121, 16,449 and 66,033.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from novelview.config.schema import SUBSETS
from novelview.errors import ConfigError, DataError


class Chunked(Protocol):
    """What a subset is taken from (`novelview.scenes.store.PackedStore`)."""

    scenes: list[str]

    @property
    def chunks(self) -> list[str]: ...

    def chunk(self, scene: str) -> str: ...


def subset_scenes(store: Chunked, name: str) -> list[str]:
    """Return the scenes of the training subset `name` in the store's order: those in its first chunks by name.

    Raises ConfigError for an unknown subset, and where there are fewer chunks than parts.
    """
    if name not in SUBSETS:
        raise ConfigError(f"subset={name}: choose one of {', '.join(SUBSETS)}")
    if SUBSETS[name] == 1:
        return list(store.scenes)
    kept = set(first_chunks(store.chunks, name))
    return [scene for scene in store.scenes if store.chunk(scene) in kept]


def first_chunks(chunks: Sequence[str], name: str) -> list[str]:
    """Return the chunks of subset `name` out of all; raises ConfigError where one part in so many is none."""
    count = len(chunks) // SUBSETS[name]
    if not count:
        raise ConfigError(
            f"subset={name}: is 1/{SUBSETS[name]} of the training chunks, and there are {len(chunks)}; "
            f"take subset=full, or data in more chunks (rooms: a smaller source.chunk_bytes)"
        )
    return sorted(chunks)[:count]


def check_counts(index: Mapping[str, str], published: Mapping[str, Sequence[int]], where: str) -> None:
    """Raise DataError when a subset has other chunks or scenes than published.

    index: scene -> chunk file, as in a split's index.json; published: subset -> (chunks, scenes).
    """
    scenes = Counter(index.values())
    chunks = sorted(scenes)
    for name, (wanted_chunks, wanted_scenes) in published.items():
        count = len(chunks) // SUBSETS[name]
        found = sum(scenes[chunk] for chunk in chunks[:count])
        if (count, found) != (wanted_chunks, wanted_scenes):
            other = _other_rule(scenes, chunks, name, wanted_scenes)
            raise DataError(
                f"{where}: subset {name} has {count:,} chunks with {found:,} scenes, published are "
                f"{wanted_chunks:,} with {wanted_scenes:,}{other}; fetch the whole data set, or set "
                f"source.allow_partial=true to go on with this copy"
            )


def _other_rule(scenes: Mapping[str, int], chunks: list[str], name: str, wanted: int) -> str:
    """Say which other simple choice of as many chunks has the published number of scenes, if one has."""
    count, step = len(chunks) // SUBSETS[name], SUBSETS[name]
    choices = {"the last chunks": chunks[len(chunks) - count :], f"every {step}th chunk": chunks[::step][:count]}
    fitting = [words for words, chosen in choices.items() if sum(scenes[chunk] for chunk in chosen) == wanted]
    return f" ({fitting[0]} would have them)" if fitting else ""
