"""Segments: the thoughts of a chain, told apart as its text comes.

A thought ends at a paragraph break behind which a reflection word stands (TrimR, arXiv 2505.17155,
section 3). The words of the paper's appendix are not public; the default list is this project's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

REFLECTIONS = (
    "Wait",
    "But",
    "Alternatively",
    "Hmm",
    "However",
    "Actually",
    "Let me check",
    "Let me double check",
    "Let me double-check",
    "Hold on",
)

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


class Segmenter:
    """Thoughts of a growing text, the same however the text is cut into pieces.

    paragraph: what ends a paragraph. words: case counts, and only whole words behind a paragraph
    break; a word in the middle of a paragraph starts no thought.
    """

    def __init__(self, paragraph: str, words: Sequence[str]) -> None:
        # The longest first, so that of two words the one that says more is found.
        names = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
        self._start = re.compile(rf"(?<={re.escape(paragraph)})(?:{names})(?!\w)")
        self._longest = len(paragraph) + max(map(len, words))
        self._scanned = 0
        self.open = ""  # the thought that has not ended

    def feed(self, text: str) -> list[str]:
        """Add text; the thoughts that have ended with it. Joined, thoughts and `open` are all
        that was fed."""
        ended = []
        self.open += text
        place = max(0, self._scanned - self._longest)
        # Whether a word is whole is known from the character behind it.
        while (found := self._start.search(self.open, place)) and found.end() < len(self.open):
            ended.append(self.open[: found.start()])
            self.open = self.open[found.start() :]
            place = 1
        self._scanned = len(self.open)
        return ended

    def finish(self) -> list[str]:
        """The thoughts that end with the text's own end."""
        found = self._start.search(self.open, max(0, self._scanned - self._longest - 1))
        place = found.start() if found else 0
        last = [self.open[:place], self.open[place:]]
        self.open = ""
        return [thought for thought in last if thought]


def last_sentences(thought: str, count: int, characters: int) -> str:
    """The end of a thought: `count` sentences (a line ends one too), at most `characters`."""
    kept = thought.strip()
    starts = [found.end() for found in _SENTENCE_END.finditer(kept)]
    if len(starts) >= count:
        kept = kept[starts[-count] :]
    return kept[-characters:]
