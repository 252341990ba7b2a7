"""What a person watching the training sees: a bar on a terminal, plain lines elsewhere."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Steps done of `total`, images per second, time left; on standard error."""

    def __init__(self, total: int, start: int, images_per_step: int, enabled: bool) -> None:
        self.total, self.images = total, images_per_step
        self.began, self.begun_at = time.monotonic(), start
        self.terminal = sys.stderr.isatty()
        shown = enabled and self.terminal
        self.bar = tqdm(total=total, initial=start, unit="step", disable=not shown, dynamic_ncols=True)
        self.lines = enabled and not self.terminal

    def step(self) -> None:
        """One step is done."""
        self.bar.update()

    def row(self, row: dict[str, float]) -> None:
        """Show a row of the training log."""
        step = int(row["step"])
        rate = (step - self.begun_at) / max(time.monotonic() - self.began, 1e-9)
        images = rate * self.images
        self.bar.set_postfix_str(f"loss {row['loss']:.4g} psnr {row['psnr']:.2f} {images:.0f} images/s")
        if self.lines:
            left = tqdm.format_interval((self.total - step) / rate) if rate > 0 else "?"
            text = f"step {step}/{self.total} loss {row['loss']:.4g} psnr {row['psnr']:.2f} lr {row['lr']:.3g}"
            print(f"{text} {images:.0f} images/s, {left} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.bar.close()
