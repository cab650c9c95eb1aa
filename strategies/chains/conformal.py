"""Conformal p-values over banks of losses, and the laws of the rates that follow from them.

ATTS (arXiv 2509.15148, eq. 13): of a candidate with loss l among N calibration losses
p = (1 + number of calibration losses up to l) / (N + 1). A bad candidate has a large p; it is
rejected, that is handed to the target model, when p > 1 - rho. (The paper's text calls the bound
alpha, its code works with a percentile bound tau; both are 1 - rho here, because secondary sources
disagree about which of them is "the rejection rate". rho is, for sure.)

Only ranks matter: any strictly increasing transform of the loss (NLL, perplexity) gives the same
decisions, in any order of the bank. Ties are broken at random, so that p is uniform on 1/(N+1),
..., 1 whenever candidate and bank are exchangeable.

The laws, for exchangeable losses and k = floor((1 - rho)(N + 1)):
- a candidate is rejected with probability q = (N + 1 - k) / (N + 1), at least rho and less than
  rho + 1/(N + 1);
- given the bank, that probability is Beta(N + 1 - k, k) distributed, so M candidates that share
  one bank are rejected beta-binomially: SD sqrt(q(1-q) [1/(N+2) + (N+1)/((N+2)M)]) of the rate.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# (1 - rho)(N + 1) is a product of floats: 0.7 * 10 must not be less than 7.
_SLACK = 1e-9
LEAST = 1e-6  # of a rho above 0: what is rarer is seen in no run, and 1/rho is to be a number


class Bank:
    """Losses of calibration candidates: mean NLL in nats, +inf for one that was not scored."""

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._losses = sorted(losses)

    def __len__(self) -> int:
        return len(self._losses)

    def rank(self, loss: float, luck: float) -> int:
        """The candidate's rank among the N + 1 losses, from 1 (best) to N + 1; luck, uniform in
        [0, 1), chooses among equal ones."""
        below = bisect_left(self._losses, loss)
        ties = bisect_right(self._losses, loss) - below
        return below + 1 + min(ties, int(luck * (ties + 1)))

    def p_value(self, loss: float, luck: float) -> float:
        """rank / (N + 1): uniform on 1/(N+1), ..., 1 under exchangeability."""
        return self.rank(loss, luck) / (len(self) + 1)


def rejects(rank: int, n: int, rho: float) -> bool:
    """Whether p = rank / (n + 1) > 1 - rho. Never for rho 0, always for rho 1."""
    return rank > _kept(rho, n)


def enough(rho: float) -> int:
    """Losses that a bank should hold before it decides: 4 ceil(1/rho), so that four of them lie
    in the rejected tail. Until then a coin with probability rho decides."""
    return 4 * math.ceil(1 / rho - _SLACK)


def law_of_rate(rho: float, n: int) -> float:
    """q: the expected rate over banks of n losses."""
    return (n + 1 - _kept(rho, n)) / (n + 1)


def law_of_deviation(rho: float, n: int, m: int) -> float:
    """Standard deviation of the rate measured on m candidates that share one bank of n."""
    q = law_of_rate(rho, n)
    return math.sqrt(q * (1 - q) * (1 / (n + 2) + (n + 1) / ((n + 2) * m)))


@dataclass(frozen=True, slots=True)
class Group:
    """m decisions that were made with one bank of n losses; n is None where a coin made them."""

    m: int
    n: int | None

    def law(self, rho: float) -> npt.NDArray[np.float64]:
        """Probabilities of 0..m rejections: beta-binomial, for a coin binomial."""
        if self.n is None:
            rest = [math.log(rho), math.log1p(-rho)] if 0 < rho < 1 else None
            if rest is None:
                return _certain(self.m, rho >= 1)
            logs = [
                _log_choose(self.m, i) + i * rest[0] + (self.m - i) * rest[1]
                for i in range(self.m + 1)
            ]
            return _normal(logs)
        k = _kept(rho, self.n)
        a, b = self.n + 1 - k, k
        if not a or not b:
            return _certain(self.m, not b)
        logs = [
            _log_choose(self.m, i) + _log_beta(i + a, self.m - i + b) - _log_beta(a, b)
            for i in range(self.m + 1)
        ]
        return _normal(logs)

    def expected(self, rho: float) -> float:
        """Expected rejections."""
        return self.m * (rho if self.n is None else law_of_rate(rho, self.n))


def law_of_count(rho: float, groups: Sequence[Group]) -> npt.NDArray[np.float64]:
    """Probabilities of the total number of rejections in groups that are independent.

    Banks that grow from round to round are not quite: a later one holds the losses of an earlier
    one. Simulation puts the rate's SD within a few per cent of this law.
    """
    total: npt.NDArray[np.float64] = np.ones(1)
    for group in groups:
        total = np.asarray(np.convolve(total, group.law(rho)), dtype=np.float64)
    return total


def interval(rho: float, groups: Sequence[Group], level: float = 0.95) -> tuple[float, float]:
    """Central interval of the rate over all decisions of `groups`, of at least `level`."""
    law = law_of_count(rho, groups)
    cumulated = np.cumsum(law)
    tail = (1 - level) / 2
    low = int(np.searchsorted(cumulated, tail))
    high = int(np.searchsorted(cumulated, 1 - tail))
    m = len(law) - 1
    return low / m, min(high, m) / m


def _kept(rho: float, n: int) -> int:
    """k: ranks up to it are kept."""
    return math.floor((1 - rho) * (n + 1) + _SLACK)


def _certain(m: int, all_of_them: bool) -> npt.NDArray[np.float64]:
    law = np.zeros(m + 1)
    law[m if all_of_them else 0] = 1.0
    return law


def _normal(logs: list[float]) -> npt.NDArray[np.float64]:
    law = np.exp(np.array(logs))
    return np.asarray(law / law.sum(), dtype=np.float64)


def _log_choose(m: int, i: int) -> float:
    return math.lgamma(m + 1) - math.lgamma(i + 1) - math.lgamma(m - i + 1)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
