"""Tables of benchmarks: on the terminal, as Markdown and JSON in a folder, in a document."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from reasoning.evals.statistics import Estimate
from reasoning.header import describe


@dataclass(frozen=True, slots=True)
class Row:
    """What is shown, and what it was made of."""

    cells: tuple[str, ...]
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Table:
    """name: of its files, and of the markers in a document."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)

    @staticmethod
    def estimate(estimate: Estimate) -> str:
        return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"

    def rich(self) -> RichTable:
        shown = RichTable(title=self.title, caption="\n".join(self.notes) or None)
        for column in self.columns:
            shown.add_column(column, overflow="fold")
        for row in self.rows:
            shown.add_row(*row.cells)
        return shown

    def markdown(self) -> str:
        lines = [f"{self.title} ({_machine()}):", ""]
        lines += [f"| {' | '.join(self.columns)} |", "|" + "---|" * len(self.columns)]
        lines += [f"| {' | '.join(row.cells)} |" for row in self.rows]
        return "\n".join(lines + [""] * bool(self.notes) + self.notes) + "\n"

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.md").write_text(self.markdown())
        content = {"header": describe(), "table": asdict(self)}
        (folder / f"{self.name}.json").write_text(json.dumps(content, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def _machine() -> str:
    """The hardware in a few words."""
    hardware = describe()["hardware"]
    gpus = ", ".join(hardware["gpus"])
    return f"{hardware['processor']}, {hardware['cores']} cores" + (f", {gpus}" if gpus else "")
