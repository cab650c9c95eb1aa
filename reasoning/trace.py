"""Trace: everything that happened to a problem, as events that form a tree of branches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. branch: path of the branch ("" is the root).

    kind: sample, score, choose, rate, stream, note, branch, offer, cut. data: what it was,
    JSON values or frozen objects of this package.
    """

    kind: str
    branch: str
    data: dict[str, Any]


@dataclass(slots=True)
class Trace:
    """Events in the order in which they were recorded."""

    events: list[Event] = field(default_factory=list)

    def add(self, kind: str, branch: str, **data: Any) -> None:
        self.events.append(Event(kind, branch, data))

    def of(self, kind: str) -> Iterator[Event]:
        return (event for event in self.events if event.kind == kind)

    def branches(self) -> dict[str, list[Event]]:
        """Events by branch path; a path's parent is the part before its last slash."""
        tree: dict[str, list[Event]] = {"": []}
        for event in self.events:
            tree.setdefault(event.branch, []).append(event)
        return tree
