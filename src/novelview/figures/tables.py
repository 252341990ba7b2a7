"""A table as data, how scores stand in its cells, and its Markdown, LaTeX (booktabs), CSV and HTML forms."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from markupsafe import Markup

from novelview.figures.results import Score
from novelview.files import write_text

LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "−": "$-$", "±": r"$\pm$", "→": r"$\to$", "°": r"$^\circ$"}
LATEX |= {"\\": r"\textbackslash{}", "$": r"\$", "{": r"\{", "}": r"\}"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
MARKDOWN = {"\\": r"\\", "`": r"\`", "|": r"\|", "&": "&amp;", "<": "&lt;", "\n": " ", "\r": " "}
NONE = "–"


@dataclass(frozen=True)
class Cell:
    """One cell: main number, what follows in smaller print, best of its block or not; tone: win, loss, tie or empty."""

    text: str
    detail: str = ""
    best: bool = False
    tone: str = ""

    @property
    def whole(self) -> str:
        """The cell on one line."""
        return self.text + self.detail


@dataclass(frozen=True)
class Row:
    """One row: the first cells are its head; `kind` is model, baseline or published; blocks are ruled off."""

    head: tuple[str, ...]
    cells: tuple[Cell, ...]
    kind: str = "model"
    block: int = 0


@dataclass(frozen=True)
class Grid:
    """Rows under a title, with notes printed underneath."""

    title: str
    head: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def html(self) -> Markup:
        """The table as HTML with row kinds and tones as classes, without its notes."""
        heads = [*(("text", text) for text in self.head), *(("number", text) for text in self.columns)]
        head = "".join(f'<th scope="col" class="{kind}">{escape(text)}</th>' for kind, text in heads)
        blocks = [0, *(row.block for row in self.rows)]
        rows = []
        for row, before in zip(self.rows, blocks, strict=False):
            first, *rest = map(escape, row.head)
            parts = [f'<th scope="row">{first}</th>', *(f'<td class="text">{part}</td>' for part in rest)]
            for cell in row.cells:
                detail = f"<small>{escape(cell.detail.removeprefix(' /').strip())}</small>" if cell.detail else ""
                best = " best" if cell.best else ""
                parts.append(f'<td class="number {cell.tone}{best}">{escape(cell.text)}{detail}</td>')
            rows.append(f'<tr class="{row.kind}{" first" if row.block != before else ""}">{"".join(parts)}</tr>')
        body = "\n".join(rows)
        return Markup(f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>")


@dataclass(frozen=True)
class Table:
    """What a table function makes: grids to read, and the same numbers at full precision as records under a header."""

    grids: tuple[Grid, ...]
    header: tuple[str, ...]
    records: Sequence[Sequence[object]]

    def write(self, stem: Path, title: str) -> list[Path]:
        """Write the grids to `stem`.md and .tex and the records to `stem`.csv; return the paths."""
        latex = "% needs \\usepackage{booktabs}\n" + "\n".join(map(_latex, self.grids))
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([self.header, *self.records])
        texts = {".md": f"# {title}\n\n{to_markdown(self.grids)}", ".tex": latex, ".csv": lines.getvalue()}
        files = {stem.with_name(stem.name + suffix): text for suffix, text in texts.items()}
        for path, text in files.items():
            write_text(path, text)
        return [*files]


def verdict(score: Score) -> str:
    """Call a paired difference a win or a loss only where its interval excludes 0; else a tie."""
    return "win" if score.low > 0 else "loss" if score.high < 0 else "tie"


def difference(score: Score, unit: str = " dB") -> str:
    """Return `+1.23 dB [0.98, 1.47]`, with true minus signs."""
    low, high = (f"{bound:.2f}".replace("-0.00", "0.00") for bound in (score.low, score.high))
    mean = f"{score.mean:+.2f}".replace("-0.00", "+0.00")
    return f"{mean}{unit} [{low}, {high}]".replace("-", "−")


def number(score: Score, metric: str) -> str:
    """Return a mean as printed: PSNR with two decimals, the others with three."""
    return "n/a" if not score.known else f"{score.mean:.{2 if metric == 'psnr' else 3}f}"


Scores = dict[str, Score] | None  # of all metrics; None where nothing was evaluated


def shown(scores: dict[str, Score]) -> tuple[str, ...]:
    """Return the metrics of a cell; FLIP stands in where LPIPS was not computed."""
    perceptual = "flip" if scores["flip"].known and not scores["lpips"].known else "lpips"
    return "psnr", "ssim", perceptual, "sharpness"


def score_cell(scores: Scores, best: float | None = None) -> Cell:
    """Return a cell of all metrics; best: the highest PSNR of those it stands among."""
    if scores is None:
        return Cell(NONE)
    psnr, *rest = (number(scores[metric], metric) for metric in shown(scores))
    return Cell(psnr, "".join(f" / {text}" for text in rest), best=scores["psnr"].mean == best)


def score_cells(lines: Sequence[Sequence[Scores]]) -> list[tuple[Cell, ...]]:
    """Return the cells of rows that are compared, the highest PSNR of each column marked."""
    columns = [[scores["psnr"].mean for scores in column if scores] for column in zip(*lines, strict=True)]
    best = [max((mean for mean in column if mean == mean), default=None) for column in columns]  # NaN: not computed
    return [tuple(map(score_cell, line, best)) for line in lines]


def difference_cell(score: Score, mark: str = "", toned: bool = True) -> Cell:
    """Return a cell of a paired PSNR difference, with `mark` behind its interval."""
    if not score.known:
        return Cell(NONE)
    mean, interval = difference(score, "").split(" ", 1)
    return Cell(mean, f" {interval}{mark}", tone=verdict(score) if toned else "")


def to_markdown(grids: Sequence[Grid]) -> str:
    """Return the grids as GitHub Markdown; the best of a column is bold."""
    lines: list[str] = []
    for grid in grids:
        cells = [[f"**{cell.whole}**" if cell.best else cell.whole for cell in row.cells] for row in grid.rows]
        rows = [
            [*map(_markdown, row.head), *map(_markdown, texts)] for row, texts in zip(grid.rows, cells, strict=True)
        ]
        rule = [*("---" for _ in grid.head), *("---:" for _ in grid.columns)]
        heads = [*map(_markdown, [*grid.head, *grid.columns])]
        rows = [f"| {' | '.join(line)} |" for line in (heads, rule, *rows) if rows]
        lines += [f"## {_markdown(grid.title)}", "", *rows, "", *(f"{_markdown(note)}  " for note in grid.notes), ""]
    return "\n".join(lines)


def _markdown(text: str) -> str:
    return "".join(MARKDOWN.get(sign, sign) for sign in text).replace("](", r"]\(")


def _latex(grid: Grid) -> str:
    if not grid.rows:
        return f"% {grid.title}: {' '.join(grid.notes)}\n"
    lines = [
        r"\begin{table}[t]",
        r"\centering\small",
        rf"\caption{{{escape_latex(' '.join([grid.title + '.', *grid.notes]))}}}",
        rf"\begin{{tabular}}{{{'l' * len(grid.head)}{'r' * len(grid.columns)}}}",
        r"\toprule",
        " & ".join(map(escape_latex, [*grid.head, *grid.columns])) + r" \\",
        r"\midrule",
    ]
    for before, row in zip([grid.rows[0], *grid.rows], grid.rows, strict=False):
        lines += [r"\midrule"] if row.block != before.block else []
        texts = ((escape_latex(cell.whole), cell.best) for cell in row.cells)
        cells = (rf"\textbf{{{text}}}" if best else text for text, best in texts)
        lines.append(" & ".join([*map(escape_latex, row.head), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def escape_latex(text: str) -> str:
    """Return `text` with LaTeX's special characters escaped."""
    return "".join(LATEX.get(sign, sign) for sign in text)
