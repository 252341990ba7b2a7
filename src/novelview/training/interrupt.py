"""Signals that ask a run to save its state and stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interrupt:
    """Remembers that a signal came, and which."""

    def __init__(self) -> None:
        self.name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None

    def receive(self, number: int, _: FrameType | None) -> None:
        """Note the signal; a second Ctrl-C stops at once."""
        if number == signal.SIGINT and self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


@contextmanager
def listening() -> Iterator[Interrupt]:
    """Note SIGTERM, SIGUSR1 (sent by clusters ahead of the time limit) and SIGINT instead of dying of them."""
    interrupt = Interrupt()
    before = {number: signal.signal(number, interrupt.receive) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
