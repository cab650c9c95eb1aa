"""Estimators from n recorded samples of a question: what k of them would have given.

Sources: pass@k is Chen et al. 2021 (arXiv 2107.03374) equation 1; G-Pass@k is arXiv 2412.13147
equations 3-6; voting over all k-subsets follows from linearity of expectation. All numbers are
exact expectations over uniformly drawn k-subsets unless a function says that it samples them.
A question's answers are compared by their canonical keys; None is a sample without an answer,
which never votes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import hypergeom

from reasoning.errors import ConfigError

Floats = NDArray[np.float64]

RANDOM_SUBSETS = 10_000
# Below this many samples of a question, its vote is computed exactly; the work grows as n**3.
EXACT_VOTE_SAMPLES = 256


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Floats:
    """Chance that at least one of k samples is right: 1 - C(n-c, k) / C(n, k), unbiased.

    n: samples, c: right ones among them (same shape, or broadcastable); returns that shape.
    Written as a product of k factors in [0, 1], so that no binomial overflows.
    Raises ConfigError for k > n or c outside 0..n.
    """
    samples, right = _counts(n, c, k)
    drawn = np.arange(k)
    wrong_left = np.maximum((samples - right)[..., None] - drawn, 0)
    failing = np.prod(wrong_left / (samples[..., None] - drawn), axis=-1)
    return np.asarray(1.0 - failing, dtype=np.float64)


def pass_hat_k(n: ArrayLike, c: ArrayLike, k: int) -> Floats:
    """pass^k: the chance that all of k samples are right, C(c, k) / C(n, k)."""
    samples, right = _counts(n, c, k)
    drawn = np.arange(k)
    right_left = np.maximum(right[..., None] - drawn, 0)
    return np.asarray(np.prod(right_left / (samples[..., None] - drawn), axis=-1), np.float64)


def g_pass_at_k(n: ArrayLike, c: ArrayLike, k: int, threshold: float) -> Floats:
    """G-Pass@k: the chance that at least max(ceil(threshold * k), 1) of k samples are right.

    threshold 0 is pass@k, 1 is pass^k.
    """
    if not 0.0 <= threshold <= 1.0:
        raise ConfigError(f"the threshold of G-Pass@k is a share from 0 to 1, not {threshold}")
    samples, right = _counts(n, c, k)
    # 0.7 * 10 is 7.000000000000001 in floats, and must not become 8.
    least = max(math.ceil(threshold * k - 1e-9), 1)
    return np.asarray(hypergeom.sf(least - 1, samples, right, k), dtype=np.float64)


def mg_pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Floats:
    """mG-Pass@k: (2/k) times the sum of G-Pass@k at i/k for i from ceil(k/2)+1 to k."""
    samples, right = _counts(n, c, k)
    total = np.zeros(np.broadcast(samples, right).shape)
    for least in range(math.ceil(k / 2) + 1, k + 1):
        total = total + hypergeom.sf(least - 1, samples, right, k)
    return np.asarray(2.0 / k * total, dtype=np.float64)


def best_at_k(scores: ArrayLike, right: ArrayLike, k: int) -> float:
    """Best-of-k from n scored samples: the chance that the top-scored of a k-subset is right.

    scores, right: shape (n,). The sample of rank r (0 is best) is a k-subset's best with chance
    C(n-1-r, k-1) / C(n, k). Samples with equal scores are interchangeable, so each stands for
    its tie group's mean. Raises ConfigError for a NaN score or k > n.
    """
    values, correct = np.asarray(scores, np.float64), np.asarray(right, np.float64)
    if values.shape != correct.shape or values.ndim != 1:
        raise ConfigError(f"scores {values.shape} and right {correct.shape} must be equally long")
    _counts(len(values), 0, k)
    if np.isnan(values).any():
        raise ConfigError(f"score {int(np.isnan(values).argmax())} is NaN; drop or rescore it")
    order = np.argsort(-values, kind="stable")
    _, group = np.unique(-values[order], return_inverse=True)
    shared = np.bincount(group, weights=correct[order]) / np.bincount(group)
    return float(_rank_chances(len(values), k) @ shared[group])


def maj_at_k(
    answers: Sequence[Hashable | None],
    right: Mapping[Hashable, bool],
    k: int,
    *,
    seed: int = 0,
) -> float:
    """Majority vote of k samples: the chance that the plurality answer is right.

    answers: n canonical keys. right: whether each key is right (a missing key is wrong).
    Ties are split uniformly among the tied answers. Exact up to EXACT_VOTE_SAMPLES samples,
    beyond that the mean over RANDOM_SUBSETS subsets drawn with `seed`.
    """
    _counts(len(answers), 0, k)
    if len(answers) > EXACT_VOTE_SAMPLES:
        return _sampled_vote(answers, right, np.ones(len(answers)), k, seed)
    votes: dict[Hashable, int] = {}
    for answer in answers:
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
    abstaining = len(answers) - sum(votes.values())
    total = 0.0
    for answer, count in votes.items():
        if right.get(answer, False):
            others = [v for key, v in votes.items() if key != answer]
            total += _chance_of_winning(count, others, abstaining, k)
    return total / float(math.comb(len(answers), k))


def weighted_at_k(
    answers: Sequence[Hashable | None],
    weights: ArrayLike,
    right: Mapping[Hashable, bool],
    k: int,
    *,
    seed: int = 0,
) -> float:
    """Weighted vote of k samples: the answer with the largest sum of weights, judged.

    weights: shape (n,), at least 0. There is no closed form: all subsets are enumerated where
    there are at most RANDOM_SUBSETS of them, else that many are drawn with `seed`.
    """
    _counts(len(answers), 0, k)
    values = np.asarray(weights, np.float64)
    if values.shape != (len(answers),):
        raise ConfigError(f"{len(answers)} answers need as many weights, not {values.shape}")
    if not (values >= 0).all():
        raise ConfigError("vote weights must be at least 0 and not NaN")
    return _sampled_vote(answers, right, values, k, seed)


def _counts(n: ArrayLike, c: ArrayLike, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    samples, right = np.broadcast_arrays(np.asarray(n, np.int64), np.asarray(c, np.int64))
    if k < 1 or (samples < k).any():
        raise ConfigError(f"k = {k} needs 1 <= k <= n, and the fewest samples are {samples.min()}")
    if (right < 0).any() or (right > samples).any():
        raise ConfigError("the number of right samples must lie between 0 and n")
    return samples, right


def _rank_chances(n: int, k: int) -> Floats:
    """C(n-1-r, k-1) / C(n, k) for r = 0..n-1, by the ratio of neighbours (r = 0 gives k/n)."""
    chances = np.zeros(n)
    value = k / n
    for rank in range(n - k + 1):
        chances[rank] = value
        if rank < n - k:
            value *= (n - k - rank) / (n - 1 - rank)
    return chances


def _chance_of_winning(count: int, others: Sequence[int], abstaining: int, k: int) -> float:
    """Number of k-subsets an answer with `count` votes wins, a tie of t counting 1/t.

    For every winning number of votes m, `ways[s, t]` counts the choices from the other answers
    that hold s samples in all, none more than m of one answer, with exactly t answers at m.
    """
    total = 0.0
    for m in range(1, min(count, k) + 1):
        rest = k - m
        ways = np.zeros((rest + 1, rest // m + 1))
        ways[0, 0] = 1.0
        for votes in others:
            grown = np.zeros_like(ways)
            for x in range(min(votes, m - 1, rest) + 1):
                grown[x:] += math.comb(votes, x) * ways[: rest + 1 - x]
            if votes >= m and rest >= m:
                grown[m:, 1:] += math.comb(votes, m) * ways[: rest + 1 - m, :-1]
            ways = grown
        for silent in range(min(abstaining, rest) + 1):
            by_tie = ways[rest - silent] / (1.0 + np.arange(ways.shape[1]))
            total += math.comb(count, m) * math.comb(abstaining, silent) * float(by_tie.sum())
    return total


def _sampled_vote(
    answers: Sequence[Hashable | None],
    right: Mapping[Hashable, bool],
    weights: Floats,
    k: int,
    seed: int,
) -> float:
    keys = list(dict.fromkeys(answer for answer in answers if answer is not None))
    if not keys:
        return 0.0
    place = {key: index for index, key in enumerate(keys)}
    ballots = np.zeros((len(answers), len(keys)))
    present = np.zeros((len(answers), len(keys)))
    for index, answer in enumerate(answers):
        if answer is not None:
            ballots[index, place[answer]] = weights[index]
            present[index, place[answer]] = 1.0
    good = np.array([bool(right.get(key, False)) for key in keys])
    total, drawn = 0.0, 0
    for members in _subsets(len(answers), k, seed):
        sums, there = members @ ballots, (members @ present) > 0
        sums = np.where(there, sums, -np.inf)
        best = sums.max(axis=1, keepdims=True)
        # Sums of the same weights in another order differ in the last bits; they are still ties.
        winners = there & (sums >= best - 1e-12 * np.maximum(1.0, np.abs(best)))
        any_vote = winners.any(axis=1)
        share = (winners & good).sum(axis=1) / np.maximum(winners.sum(axis=1), 1)
        total += float(np.where(any_vote, share, 0.0).sum())
        drawn += len(members)
    return total / drawn


def _subsets(n: int, k: int, seed: int) -> list[Floats]:
    """Membership matrices, shape (subsets, n), in chunks; all k-subsets where they are few."""
    chunk = 1000
    blocks: list[Floats] = []
    if math.comb(n, k) <= RANDOM_SUBSETS:
        chosen = itertools.combinations(range(n), k)
        while block := list(itertools.islice(chosen, chunk)):
            members = np.zeros((len(block), n))
            np.put_along_axis(members, np.array(block), 1.0, axis=1)
            blocks.append(members)
        return blocks
    random = np.random.default_rng(seed)
    for _ in range(RANDOM_SUBSETS // chunk):
        ranks = random.random((chunk, n)).argpartition(k - 1, axis=1)[:, :k]
        members = np.zeros((chunk, n))
        np.put_along_axis(members, ranks, 1.0, axis=1)
        blocks.append(members)
    return blocks
