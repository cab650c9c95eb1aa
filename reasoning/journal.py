"""The journal: every reply a run received, on disk before the strategy sees it.

One JSON line a record, appended under a lock on the file. A killed process leaves at most a torn
last line, which is dropped (and cut off) when the run is continued. Keys are (problem,
configuration, replicate, branch, ordinal, item); a digest of the ask stands beside each, so that
a replay that asks something else stops instead of answering wrongly.

Before an ask is sent its key is written as an intent; after a kill, or an error that cancelled
what was in flight, the intents without a reply are what is asked, and paid, again: `asked_again`
lists them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from reasoning.errors import JournalError, ReplayDiverged

Key = tuple[Any, ...]

# Encoders that are made once: json.dumps makes one for every call.
_sorted = json.JSONEncoder(separators=(",", ":"), sort_keys=True, ensure_ascii=True).encode
# A value as journal and reply store keep it.
encoded = json.JSONEncoder(separators=(",", ":")).encode


def digest(*parts: Any) -> str:
    """128-bit hex digest of JSON values."""
    return hashlib.sha256(_sorted(parts).encode()).hexdigest()[:32]


class Journal:
    """Records by key. Without a path it keeps nothing: every ask is new."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.asked_again: list[Key] = []
        self._replies: dict[Key, bytes] = {}  # the records as they stand in the file
        self._intents: set[Key] = set()
        self._file: IO[bytes] | None = None
        if path is not None:
            self._open(path)

    def find(self, key: Key, ask_digest: str, ask: Any) -> Any | None:
        """The recorded reply, or None. Raises ReplayDiverged when the recorded ask differs."""
        line = self._replies.get(key)
        if line is None:
            if key in self._intents:
                self.asked_again.append(key)
                self._intents.discard(key)
            return None
        record = json.loads(line)
        if record["d"] != ask_digest:
            raise ReplayDiverged(
                f"{self.path}: the run is not continuing as it went before, at {list(key)}.\n"
                f"  recorded: {json.dumps(record['a'])[:400]}\n"
                f"  asked now: {json.dumps(ask)[:400]}\n"
                f"Code, settings or data changed since; use a new run folder, or undo the change."
            )
        return record["r"]

    def intend(self, keys: list[Key]) -> None:
        """Note that these are about to be asked."""
        if self._file is not None:
            self._write([f'{{"i":{encoded(keys)}}}\n'.encode()])

    def record(self, ask: Any, replies: list[tuple[Key, str, Any]]) -> None:
        """Append the replies (key, digest, value) to one ask, in one write: a kill leaves all or
        none of them. They are in the operating system's hands when this returns."""
        if self._file is not None:
            self.append(ask, [(key, digest, encoded(value)) for key, digest, value in replies])

    def append(self, ask: Any, replies: list[tuple[Key, str, str]]) -> None:
        """`record`, of values that are `encoded` already."""
        if self._file is not None:
            asked = encoded(ask)
            lines = [
                f'{{"k":{encoded(key)},"d":{encoded(digest)},"a":{asked},"r":{value}}}\n'.encode()
                for key, digest, value in replies
            ]
            self._write(lines)
            self._replies.update(
                (key, line) for (key, *_), line in zip(replies, lines, strict=True)
            )

    def close(self) -> None:
        """Flush to disk and unlock."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self._replies)

    def _write(self, lines: list[bytes]) -> None:
        assert self._file is not None
        self._file.write(b"".join(lines))
        self._file.flush()

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise JournalError(
                f"{path} is in use by another process; wait for it or use another run folder"
            ) from None
        file.seek(0)
        end = 0
        for record, line in _records(path, file):
            end += len(line)
            if "k" in record:
                key = _key(record["k"])
                self._replies[key] = line
                self._intents.discard(key)
            else:
                self._intents.update(_key(key) for key in record["i"])
        file.truncate(end)
        file.seek(0, os.SEEK_END)
        self._file = file


def _key(parts: list[Any]) -> Key:
    return tuple(parts)


def _records(path: Path, file: IO[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Whole records, each with its line; a torn last line is left out."""
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            return
        try:
            record = json.loads(line)
        except ValueError:
            raise JournalError(
                f"{path}:{number} is not a journal record; the file is damaged. Move it away, or "
                f"cut it before that line to keep what stands above"
            ) from None
        yield record, line
