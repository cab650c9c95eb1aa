"""Stop strings, found where they are completed while a chain is decoded."""

from __future__ import annotations

from reasoning.engines.base import Sampling


class Stops:
    """The stop strings of one chain, and what it has written since the last one that it passed."""

    def __init__(self, sampling: Sampling) -> None:
        self._at_once = sampling.stop
        self._counted, self._left = sampling.nth_stop or ("", 0)
        self._text = ""

    def feed(self, piece: str) -> str | None:
        """The stop string that the text of the newest token completes, if it ends the chain."""
        self._text += piece
        if found := self._completed(self._at_once, piece):
            return found
        if self._left and self._completed((self._counted,), piece):
            self._left -= 1
            if not self._left:
                self._left = 1  # should it go on all the same (min_tokens), the next one ends it
                return self._counted
            self._text = ""  # what comes is looked at as if it had been asked for anew
        return None

    def _completed(self, stops: tuple[str, ...], piece: str) -> str | None:
        for stop in stops:
            # Only what ends within the new piece is new.
            if piece and stop in self._text[1 - len(stop) - len(piece) :]:
                return stop
        return None
