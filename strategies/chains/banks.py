"""Banks of ATTS: which losses a draft chunk is compared with, and where they come from.

A bank file is what `python -m reasoning.evals.atts bank` writes; it holds the losses of a
calibration run by turn, and what they depend on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reasoning.engines.base import Engine, Sampling
from reasoning.errors import ConfigError, DataError
from reasoning.journal import digest
from reasoning.strategies.chains.conformal import Bank

Kind = Literal["marginal", "per_question", "per_turn"]

# A loss as it is written: None for a chunk that could not be scored, which counts as infinite.
Loss = float | None


class BankFile(BaseModel):
    """turns: for each turn, from 0, the losses of its chunks. The rest is what they depend on:
    model strings and weights by role, the cap of a draft chunk, and the draft's sampling."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: dict[str, str]
    weights: dict[str, str] = {}
    draft_tokens: int = Field(ge=1)
    sampling: dict[str, Any]
    rho: float
    task: str
    split: str
    turns: list[list[Loss]] = Field(min_length=1)

    @classmethod
    def load(cls, path: str | Path) -> BankFile:
        """Raises DataError for a file that is no bank."""
        path = Path(path)
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise DataError(
                f"bank {path}: {error.strerror}; `python -m reasoning.evals.atts bank` writes one"
            ) from None
        except (ValueError, TypeError, RecursionError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"bank {path} is not a bank file: {reason}") from None
        losses = [loss for turn in found.turns for loss in turn]
        if not losses:
            raise DataError(f"bank {path} holds no losses; calibrate on more problems")
        if any(loss is not None and math.isnan(loss) for loss in losses):
            raise DataError(f"bank {path} holds NaN; a chunk without a loss is null")
        return found

    def save(self, path: Path) -> None:
        path.write_text(self.model_dump_json() + "\n", encoding="utf-8")

    def content(self) -> str:
        """A digest of what it says, for the configuration's hash."""
        return digest(self.model_dump(mode="json"))[:16]

    def check(
        self, draft_tokens: int, engines: Mapping[str, Engine], sampling: Sampling, *, started: bool
    ) -> None:
        """Raise ConfigError where the losses were measured under other conditions."""
        same: list[tuple[str, Any, Any]] = [("draft_tokens", self.draft_tokens, draft_tokens)]
        for name in ("temperature", "top_p", "top_k", "min_p"):
            same.append((f"sampling {name}", self.sampling.get(name), getattr(sampling, name)))
        for role, model in self.models.items():
            same.append((f"the model in role {role!r}", model, engines[role].name))
            if started and role in self.weights:
                weights = engines[role].identity().get("weights")
                same.append((f"the weights of {model}", self.weights[role], weights))
        for what, calibrated, now in same:
            if calibrated != now:
                raise ConfigError(
                    f"the bank was calibrated with {what} {calibrated!r}, and here it is {now!r}; "
                    f"calibrate again, or use the same settings"
                )


class Banks:
    """The banks of one problem: one for all turns, or one for each."""

    def __init__(self, losses: Iterable[tuple[int, Loss]], *, per_turn: bool, last: int) -> None:
        """losses: (turn, loss) pairs. last: turns from this one on share a bank."""
        self._per_turn, self._last = per_turn, last
        found: dict[int, list[float]] = {}
        for turn, loss in losses:
            found.setdefault(self._key(turn), []).append(math.inf if loss is None else loss)
        self._banks = {key: Bank(values) for key, values in found.items()}

    def of(self, turn: int) -> Bank:
        """The bank that decides in `turn`; an empty one where nothing is known."""
        return self._banks.get(self._key(turn), _EMPTY)

    def _key(self, turn: int) -> int:
        return min(turn, self._last) if self._per_turn else 0


def deepest(turns: Sequence[Sequence[Loss]], least: int) -> int:
    """The last turn that has `least` losses in itself and all turns before; 0 where none has."""
    found = 0
    for turn, losses in enumerate(turns):
        if len(losses) < least:
            break
        found = turn
    return found


_EMPTY = Bank()
