"""Repetition: whether the last tokens of a chain are a loop, found as they come.

A polynomial rolling hash (Karp and Rabin 1987) of the last `window` tokens. A window that comes
back `times` times at equal distances of at most two windows is a loop; that the tokens are really
equal is checked then, so that a collision of hashes never stops a chain. TrimR (arXiv 2505.17155)
uses such a hash; its window and counts are not published, so they are settings.
"""

from __future__ import annotations

from collections.abc import Iterable

_PRIME = (1 << 61) - 1
_BASE = 0x1F3D5B79A2C4E681 % _PRIME


class Repetition:
    """A detector of one window size. `feed` says when a loop was found; it stays found.

    Memory: one entry a token.
    """

    def __init__(self, window: int, times: int) -> None:
        self.found = False
        self._window = window
        self._times = times
        self._drop = pow(_BASE, window, _PRIME)
        self._hash = 0
        self._ids: list[int] = []
        self._seen: dict[int, tuple[int, int, int]] = {}  # hash: last end, distance, how often

    def feed(self, ids: Iterable[int]) -> bool:
        """Take in tokens; whether a loop has been found up to here."""
        for token in ids:
            if self.found:
                break
            self._ids.append(token)
            self._hash = (self._hash * _BASE + token + 1) % _PRIME
            if len(self._ids) > self._window:
                gone = self._ids[-self._window - 1] + 1
                self._hash = (self._hash - gone * self._drop) % _PRIME
            if len(self._ids) >= self._window:
                self.found = self._comes_back()
        return self.found

    def _comes_back(self) -> bool:
        end, now = len(self._ids), self._hash
        last, distance, often = self._seen.get(now, (0, 0, 0))
        step = end - last
        if last == 0 or step > 2 * self._window:
            self._seen[now] = (end, 0, 1)
            return False
        often = often + 1 if step == distance else 2
        self._seen[now] = (end, step, often)
        return often >= self._times and self._equal(end, step)

    def _equal(self, end: int, distance: int) -> bool:
        windows = [
            self._ids[place - self._window : place]
            for place in range(end, end - self._times * distance, -distance)
        ]
        return all(window == windows[0] for window in windows)
