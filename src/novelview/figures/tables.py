"""A table as data, and its Markdown, LaTeX (booktabs), CSV and HTML forms."""

import csv
import html
import io
from dataclasses import dataclass, field
from pathlib import Path

from novelview.files import write_text

LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "−": "$-$", "±": r"$\pm$", "→": r"$\to$", "°": r"$^\circ$"}


@dataclass(frozen=True)
class Cell:
    """One cell: its main number, what follows it in smaller print, whether it is the best of its block, and a tone.

    tone: win, loss, tie or empty; the page colours it.
    """

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
class Table:
    """A titled table with notes printed underneath."""

    title: str
    head: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())


def write_tables(stem: Path, title: str, tables: list[Table], csv_text: str) -> list[Path]:
    """Write tables to `stem`.md and .tex and their records, already CSV, to `stem`.csv; return the paths."""
    texts = {".md": f"# {title}\n\n{to_markdown(tables)}", ".tex": to_latex(tables), ".csv": csv_text}
    paths = [stem.with_name(stem.name + suffix) for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def to_markdown(tables: list[Table]) -> str:
    """Return the tables as GitHub Markdown; the best of a column is bold."""
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    notes = [f"{note}  " for note in table.notes]
    return "\n".join([f"## {table.title}", "", *(_markdown_rows(table) if table.rows else ()), "", *notes, ""])


def _markdown_rows(table: Table) -> list[str]:
    head = [*table.head, *table.columns]
    rule = [*("---" for _ in table.head), *("---:" for _ in table.columns)]
    body = [
        [*row.head, *(f"**{cell.whole}**" if cell.best else cell.whole for cell in row.cells)] for row in table.rows
    ]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *body)]


def to_latex(tables: list[Table]) -> str:
    """Return the tables as LaTeX `table` environments for the booktabs package."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(table) for table in tables)


def _latex(table: Table) -> str:
    if not table.rows:
        return f"% {table.title}: {' '.join(table.notes)}\n"
    lines = [
        r"\begin{table}[t]",
        r"\centering\small",
        rf"\caption{{{escape_latex(' '.join([table.title + '.', *table.notes]))}}}",
        rf"\begin{{tabular}}{{{'l' * len(table.head)}{'r' * len(table.columns)}}}",
        r"\toprule",
        _latex_line([*table.head, *table.columns]),
        r"\midrule",
    ]
    for number, row in enumerate(table.rows):
        if number and row.block != table.rows[number - 1].block:
            lines.append(r"\midrule")
        lines.append(_latex_row(row))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _latex_row(row: Row) -> str:
    cells = [rf"\textbf{{{escape_latex(cell.whole)}}}" if cell.best else escape_latex(cell.whole) for cell in row.cells]
    return " & ".join([*(escape_latex(part) for part in row.head), *cells]) + r" \\"


def _latex_line(texts: list[str]) -> str:
    return " & ".join(escape_latex(text) for text in texts) + r" \\"


def escape_latex(text: str) -> str:
    """Return `text` with LaTeX's special characters escaped."""
    return "".join(LATEX.get(sign, sign) for sign in text)


def to_csv(header: list[str], records: list[list[object]]) -> str:
    """Return records as CSV text with Unix line ends."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([header, *records])
    return stream.getvalue()


def to_html(table: Table) -> str:
    """Return one table as HTML with row kinds and tones as classes; notes are not included."""
    head = "".join(f'<th scope="col" class="{kind}">{html.escape(text)}</th>' for kind, text in _html_head(table))
    blocks = [0, *(row.block for row in table.rows)]
    body = "\n".join(
        f'<tr class="{row.kind}{" first" if row.block != before else ""}">{_html_row(row)}</tr>'
        for row, before in zip(table.rows, blocks, strict=False)
    )
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def _html_head(table: Table) -> list[tuple[str, str]]:
    return [*(("text", text) for text in table.head), *(("number", text) for text in table.columns)]


def _html_row(row: Row) -> str:
    first, *rest = (html.escape(part) for part in row.head)
    texts = "".join(f'<td class="text">{part}</td>' for part in rest)
    return f'<th scope="row">{first}</th>{texts}{"".join(_html_cell(cell) for cell in row.cells)}'


def _html_cell(cell: Cell) -> str:
    detail = f"<small>{html.escape(cell.detail.removeprefix(' /').strip())}</small>" if cell.detail else ""
    return f'<td class="number {cell.tone}{" best" if cell.best else ""}">{html.escape(cell.text)}{detail}</td>'
