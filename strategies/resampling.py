"""Resampling: the weights of particles, and the ways to draw particles by them.

Sources: particle filtering of reasoning steps, arXiv 2502.01618 (section 3, algorithm 1) and its
repository; entropic annealing, arXiv 2510.05825. Nothing here asks a model or holds a random
generator: uniform numbers are handed in.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction
from itertools import accumulate

# Rewards are kept this far from 0 and 1, so that no weight is infinite: logits stay in +-16.118.
CLIP = 1e-7


class Weight(StrEnum):
    """The log-weight of a particle with reward r in [0, 1].

    raw: r, so that chances are softmax(r), as the paper's algorithm 1 has it. log: ln r, chances
    in proportion to the reward, as the model of its section 3 has it. logit: ln(r / (1 - r)),
    chances in proportion to the odds, which is what its repository does.
    """

    raw = "raw"
    log = "log"
    logit = "logit"


class Resampling(StrEnum):
    """multinomial: N independent draws. systematic: N evenly spaced points with one random
    offset, so that particle i comes floor(N p_i) or ceil(N p_i) times. stratified: one point in
    each N-th."""

    multinomial = "multinomial"
    systematic = "systematic"
    stratified = "stratified"


class Annealing(StrEnum):
    """How an entropic filter warms its weights: by effective sample size, by entropy, or by
    progress alone."""

    ess = "ess"
    entropy = "entropy"
    base = "base"


def log_weight(reward: float, weight: Weight) -> float:
    """The log-weight of a reward in [0, 1]; finite, also at 0 and 1."""
    clipped = min(max(reward, CLIP), 1 - CLIP)
    match weight:
        case Weight.raw:
            return reward
        case Weight.log:
            return math.log(clipped)
        case Weight.logit:
            return math.log(clipped) - math.log1p(-clipped)


def softmax(log_weights: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Chances in proportion to exp(log_weight / temperature)."""
    highest = max(log_weights)
    weights = [math.exp((value - highest) / temperature) for value in log_weights]
    total = math.fsum(weights)
    return [value / total for value in weights]


def effective_size(chances: Sequence[float]) -> float:
    """1 / sum of p^2: from 1 (one particle has all the weight) to N (all weigh the same)."""
    return 1.0 / math.fsum(chance * chance for chance in chances)


def entropy(chances: Sequence[float]) -> float:
    """-sum of p ln p, over ln N: from 0 to 1. Of one particle 1."""
    if len(chances) < 2:
        return 1.0
    total = math.fsum(chance * math.log(chance) for chance in chances if chance > 0)
    return -total / math.log(len(chances))


def annealed(kind: Annealing, chances: Sequence[float], progress: float) -> float:
    """The temperature, 1 or more, that keeps early, overconfident rewards from leaving one
    particle alone (arXiv 2510.05825). progress: steps done as a share of the most, in [0, 1]."""
    if len(chances) < 2:
        return 1.0
    match kind:
        case Annealing.ess:
            warm = len(chances) / effective_size(chances) * (1 - progress)
        case Annealing.entropy:
            spread = entropy(chances)
            warm = 1 / max(spread + (1 - spread) * progress, CLIP)
        case Annealing.base:
            warm = 2 - progress
    return max(1.0, warm)


def resample(
    weights: Sequence[float], count: int, how: Resampling, uniforms: Sequence[float]
) -> list[int]:
    """`count` indices drawn in proportion to `weights` (0 or more; all 0 counts as all equal).

    uniforms: in [0, 1), at least `count` of them (systematic uses the first). Sums are exact, so
    equal weights are equal: systematic resampling of N from N equal weights gives each once, in
    order, and what has no weight is never drawn.
    """
    cumulative = list(accumulate(map(Fraction, weights)))
    if not cumulative[-1]:
        cumulative = [Fraction(place) for place in range(1, len(weights) + 1)]
    match how:
        case Resampling.multinomial:
            points = [Fraction(uniform) for uniform in uniforms[:count]]
        case Resampling.systematic:
            points = [(place + Fraction(uniforms[0])) / count for place in range(count)]
        case Resampling.stratified:
            points = [(place + Fraction(u)) / count for place, u in enumerate(uniforms[:count])]
    return [bisect_right(cumulative, point * cumulative[-1]) for point in points]
