"""Counter-based random streams: a number is a function of (key, counter), never of call order.

A chain's stream key is a hash of (recipe seed, problem, replicate, branch, forks); token `t` uses
counter `t`. So compared strategies share their luck, and a chain decoded in one request or in
forty is the same chain.

NumPy is imported where numbers are drawn: the core makes keys only, and is loaded without it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# An encoder that is made once: json.dumps makes one for every call.
_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode
_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


def key(*parts: Any) -> int:
    """A 63-bit key of the parts (JSON values), stable across processes and platforms."""
    return _number(hashlib.sha256(_json(parts).encode()))


class Keys:
    """Keys that differ in their last part: `Keys(*parts)(last)` is `key(*parts, last)`."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        self._begun = hashlib.sha256((_json(parts)[:-1] + ",").encode())

    def __call__(self, last: Any) -> int:
        whole = self._begun.copy()
        whole.update((_json(last) + "]").encode())
        return _number(whole)


def _number(hashed: hashlib._Hash) -> int:
    return int.from_bytes(hashed.digest()[:8], "big") >> 1


def uniform(keys: npt.ArrayLike, counters: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Uniforms in [0, 1), one for each (key, counter) pair, broadcast.

    splitmix64 (Steele, Lea, Flood 2014) of a key-dependent start, evaluated at the counter.
    """
    import numpy as np

    golden = np.uint64(_GOLDEN)
    with np.errstate(over="ignore"):
        start = _mix(np.asarray(keys).astype(np.uint64) + golden)
        bits = _mix(start + golden * (np.asarray(counters).astype(np.uint64) + np.uint64(1)))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    import numpy as np

    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX2)
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)
