"""State that problems share: what one learned, later ones read. It advances in rounds.

Round r reads what the problems of all rounds before it contributed, in the order of rounds and then
of ids: so what a problem reads does not depend on which other one was done first. Configurations
and replicates share nothing with each other. What is contributed is evidence such as a verifier's
score, never a reference answer.

What a round reads is written into the journal once, as any reply, and is found there by a replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reasoning.budget import Usage
from reasoning.journal import Journal, digest
from reasoning.trace import Trace

Evidence = Mapping[str, Sequence[Any]]


def evidence(trace: Trace) -> dict[str, list[Any]]:
    """What a problem contributed, by name; in the order of branches, whichever was done first."""
    found: dict[str, list[Any]] = {}
    for event in sorted(trace.of("evidence"), key=lambda event: event.branch):
        found.setdefault(event.data["name"], []).append(event.data["value"])
    return found


class SharedState:
    """Evidence of one run. A configuration is named by its identity."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._given: dict[tuple[str, int], dict[tuple[int, str], Evidence]] = {}
        self._read: dict[tuple[str, int, int, str], list[Any]] = {}

    def add(
        self, identity: str, replicate: int, round_: int, problem: str, given: Evidence
    ) -> None:
        """Keep what a problem of round `round_` contributed. A second time changes nothing."""
        if given:
            self._given.setdefault((identity, replicate), {}).setdefault((round_, problem), given)

    def read(self, identity: str, replicate: int, round_: int, name: str) -> list[Any]:
        """What the rounds before `round_` contributed under `name`. Do not change it."""
        place = (identity, replicate, round_, name)
        if place not in self._read:
            self._read[place] = self._journaled(*place)
        return self._read[place]

    def _journaled(self, identity: str, replicate: int, round_: int, name: str) -> list[Any]:
        what = {"read": name, "round": round_}
        key, asked = ("", identity, replicate, f"round-{round_}", 0, f"read {name}"), digest(what)
        recorded = self._journal.find(key, asked, what)
        if recorded is not None:
            return list(recorded["v"])
        given = self._given.get((identity, replicate), {})
        value = [
            item
            for (earlier, _), found in sorted(given.items(), key=lambda entry: entry[0])
            if earlier < round_
            for item in found.get(name, ())
        ]
        if round_ > 0:  # the first round has nothing to read
            self._journal.record(what, [(key, asked, {"v": value, "u": Usage().sparse()})])
        return value
