"""A table of results, for the terminal and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def rich(self) -> Table:
        table = Table(title=self.title)
        for number, name in enumerate(self.header):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        lines = [self.header, ["---"] + ["---:"] * (len(self.header) - 1), *self.rows]
        drawn = [" | ".join(line).replace("\n", ", ") for line in lines]
        return "".join(f"| {line} |\n" for line in drawn)


def shown_number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def shown_ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else shown_number(value)
