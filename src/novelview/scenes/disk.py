"""Write errors that say where: a full disk reports neither its file nor, under torch.save, itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locating(place: Path | str) -> Iterator[None]:
    """Give every OSError of the body that names no file the name `place`.

    torch.save answers a failed write with a RuntimeError of its own about its position in the archive; the failed
    write is that error's context.
    """
    try:
        yield
    except OSError as error:
        raise _located(error, place) from None
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise _located(error.__context__, place) from None
        raise


def _located(error: OSError, place: Path | str) -> OSError:
    if error.filename is not None:
        return error
    return OSError(error.errno, error.strerror or str(error), str(place))
