"""Overrides whose values are plain text: paths and names reach Hydra quoted, so its grammar cannot reject them."""

import os
import re

LISTS = ("io.inputs", "io.curves", "io.extras", "io.models", "io.before", "io.showcase")


def literal(override: str) -> str:
    """Return `key=value` with the value of a path quoted for Hydra and `~` expanded; other overrides as they are.

    Paths are the keys `path`, `source.images`, those under `io` that hold one, and all that end in `weights`. A value
    that is already quoted, `null` or empty stays as it is; a `${key}` in it is still replaced.
    """
    key, equals, value = override.partition("=")
    if not equals or not _is_path(key.lstrip("+")) or value in ("", "null", "???") or _quoted(value):
        return override
    return f"{key}={_quote(os.path.expanduser(value))}"


def _is_path(key: str) -> bool:
    if key in ("path", "source.images"):
        return True
    return key not in LISTS and (key.startswith("io.") or key.rpartition(".")[2].endswith("weights"))


def _quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\""


def _quote(value: str) -> str:
    # Inside Hydra's quotes a backslash is special only before a quote, the closing one included.
    inner = re.sub(r"(\\*)'", lambda found: 2 * found[1] + "\\'", value)
    tail = len(inner) - len(inner.rstrip("\\"))
    return f"'{inner}{chr(92) * tail}'"
