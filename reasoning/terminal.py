"""What may be shown in a terminal: nothing that a model or a file says steers it."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    """Text without control characters, which a terminal would obey; those of `keep` stay."""
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)
