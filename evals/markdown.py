"""Markdown: a table's text, put between a document's markers in place.

A document holds `<!-- table:NAME -->` and `<!-- /table:NAME -->`; what stands between them is
written by a command, which stands there too, and by nobody else.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from reasoning.errors import ConfigError, DataError
from reasoning.evals.table import COSTS, Row, cells, header, totals
from reasoning.header import rewrite

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~$&])")


def render(
    made: Sequence[Row],
    commands: Mapping[str, str],
    *,
    costs: Sequence[str] = COSTS,
    written: str = "",
) -> str:
    """The rows as a Markdown table, with the command that made each: in a last column, or below
    where one made them all. Last the command that wrote the table.

    commands: by run name. Raises ConfigError for a run without one: a number in a document comes
    from a command in it.
    """
    missing = sorted({row.run for row in made} - set(commands))
    if missing:
        raise ConfigError(f"no command is given for run {', '.join(missing)}")
    titles = header(made, costs)
    own = titles.index("n")
    texts = []
    for row in made:
        # What stands before the number of questions is text from recipes; the rest is our own.
        found = cells(row, made, costs)
        texts.append([escaped(text) for text in found[:own]] + found[own:])
    told = [_code(commands[row.run]) for row in made]
    below = [f"Costs are means of a question; {totals(made)}"]
    if len(set(told)) == 1:
        below.append(f"Each row: {told[0]}")
    else:
        titles = [*titles, "command"]
        texts = [[*row, command] for row, command in zip(texts, told, strict=True)]
    if written:
        below.append(f"The table: {_code(written)}")
    lines = [_line(titles), "|" + "---|" * len(titles), *map(_line, texts)]
    return "\n".join([*lines, "", ". ".join(below)])


def grid(table: Table) -> str:
    """A terminal's table as Markdown: its title, the cells as plain text, its caption."""
    columns = [[column.header, *column.cells] for column in table.columns]
    header, *body = [[escaped(str(cell)) for cell in row] for row in zip(*columns, strict=True)]
    rules = "|" + "|".join("---" if c.justify == "left" else "---:" for c in table.columns) + "|"
    parts = [] if table.title is None else [f"{escaped(str(table.title))}:", ""]
    parts += [_line(header), rules, *map(_line, body)]
    parts += [] if table.caption is None else ["", escaped(str(table.caption))]
    return "\n".join(parts)


def place(path: Path, name: str, table: Table, module: str) -> None:
    """Put a table between a document's markers, with the command that runs: `module`'s."""
    command = f"python -m {module} {shlex.join(sys.argv[1:])}"
    replace(path, name, f"{grid(table)}\n\n{_code(command)}")


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def replace(path: Path, name: str, text: str) -> bool:
    """Put `text` between the markers of `name`; whether the document changed.

    Raises DataError unless each marker stands in the document once, in order.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"a table's name is letters, digits, '.', '_' and '-', not {name!r}")
    try:
        old = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    start, end = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
    for marker in (start, end):
        if old.count(marker) != 1:
            raise DataError(f"{path} holds {marker!r} {old.count(marker)} times instead of once")
    head, _, rest = old.partition(start)
    _, found, tail = rest.partition(end)
    if not found:
        raise DataError(f"{path}: {end!r} stands before {start!r}")
    if start in text or end in text:
        raise ConfigError(f"the text for table {name!r} holds its own markers")
    new = f"{head}{start}\n{text.strip()}\n{end}{tail}"
    if new == old:
        return False
    rewrite(path, new)
    return True


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _code(command: str) -> str:
    # A bar would end the cell even inside backticks; backticks would end the code.
    return "`" + " ".join(command.split()).replace("`", "'").replace("|", "\\|") + "`"
