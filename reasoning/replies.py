"""The content-addressed store of replies: a sample is drawn once in a sweep.

The key of a chain is what decides its tokens: model content, prompt ids, sampling and random
stream, but not the cap, because a chain cut earlier is a prefix of the same chain. So a sweep
over N, or over budgets, finds what the largest setting drew. Only engines whose chains are a
function of that key (capability `seeds`) are stored.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasoning.errors import JournalError

# Replies that come close together are written together: a transaction costs more than its rows.
TOGETHER, SECONDS = 256, 0.1


class ReplyStore:
    """A SQLite file beside the runs, shared by all of them. Without a path it stores nothing."""

    def __init__(self, path: Path | None = None) -> None:
        self._db: sqlite3.Connection | None = None
        self._fresh: dict[str, str] = {}  # kept here, not written yet
        self._written = 0.0
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA busy_timeout=30000")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)"
            )
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"{path} is not a reply store ({error}); move it away to start a new one"
            ) from None

    def __bool__(self) -> bool:
        return self._db is not None

    def get(self, keys: list[str]) -> dict[str, Any]:
        """Those of `keys` that are there."""
        if self._db is None or not keys:
            return {}
        found = {key: json.loads(self._fresh[key]) for key in keys if key in self._fresh}
        asked = [key for key in keys if key not in found]
        for start in range(0, len(asked), 500):
            some = asked[start : start + 500]
            marks = ",".join("?" * len(some))
            rows = self._db.execute(
                f"SELECT key, reply FROM replies WHERE key IN ({marks})",
                some,
            )
            found.update((key, json.loads(reply)) for key, reply in rows)
        return found

    def put(self, replies: Mapping[str, str]) -> None:
        """Keep replies (as JSON); a longer one replaces a shorter one of the same key.

        They may be written with the next ones, at the latest by `close`. What a kill loses of them
        stands in the journal, and a continued run puts it again.
        """
        if self._db is None:
            return
        for key, reply in replies.items():
            if len(reply) > len(self._fresh.get(key, "")):
                self._fresh[key] = reply
        if len(self._fresh) >= TOGETHER or time.monotonic() > self._written + SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is kept here only."""
        if self._db is None or not self._fresh:
            return
        rows, self._fresh = list(self._fresh.items()), {}
        with self._db:  # one transaction, not one a row
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT INTO replies VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET "
                "reply = excluded.reply WHERE length(excluded.reply) > length(reply)",
                rows,
            )
        self._written = time.monotonic()

    def close(self) -> None:
        """Write what is left."""
        if self._db is not None:
            self.flush()
            self._db.close()
            self._db = None
