"""REBASE and DORA: shares of a round, the papers' worked examples, the search around them."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning import Budget, Solver
from reasoning.errors import CapabilityError, ConfigError, UnknownName
from reasoning.strategies.rebase import cosines, dora_weights, rebase_weights, whole
from tests.engines.stub_server import ByteIds
from tests.strategies.search.trees import (
    PROBLEM,
    SEEDS,
    Draws,
    TreeEngine,
    ends_at_depth,
    keeps_to,
    noisy,
    path_of,
    plain,
    search,
    some,
    wild,
)

STRATEGIES = ["rebase", "dora"]


class Directed(TreeEngine):
    """A tree whose steps are embedded by direction: draws 0, 2 and 3 go the same way."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.capabilities = type(self.capabilities)(token_keyed=True, pool=True, embed=True)
        self._embeddings = lambda text: [0.1, 0.9950] if text[1] == "1" else [1.0, 0.0]


def test_rebase_worked_example() -> None:
    weights = rebase_weights([0.9, 0.8, 0.5, 0.2], 0.1)
    assert weights == pytest.approx([0.7209, 0.2652, 0.0132, 0.0007], abs=1e-4)
    assert whole(weights, 16) == [12, 4, 0, 0]


def test_dora_worked_example() -> None:
    """Four candidates at reward 0.95; 0, 2 and 3 alike, 1 at cosine 0.1 to them."""
    weights = rebase_weights([0.95] * 4, 0.1)
    assert whole(weights, 12) == [3, 3, 3, 3]
    similar = np.ones((4, 4))
    similar[1, [0, 2, 3]] = similar[[0, 2, 3], 1] = 0.1
    shared = dora_weights(weights, similar, 0.01)
    assert shared == pytest.approx([1 / 6, 1 / 2, 1 / 6, 1 / 6], abs=1e-4)
    assert whole(shared, 12) == [2, 6, 2, 2]


@some
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 100))
def test_shares_are_whole_and_sum_to_n(rewards: list[float], n: int) -> None:
    weights = rebase_weights(rewards, 0.1)
    shares = whole(weights, n)
    assert sum(shares) == n and min(shares) >= 0
    assert all(abs(share - n * w) < 1 for share, w in zip(shares, weights, strict=True))
    ranked = sorted(zip(rewards, shares, strict=True))
    assert all(a[1] <= b[1] + 1 for a, b in itertools.pairwise(ranked))


@some
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_dora_of_directions_all_apart_is_rebase(rewards: list[float]) -> None:
    weights = rebase_weights(rewards, 0.1)
    apart = np.eye(len(rewards))
    assert dora_weights(weights, apart, 0.01) == pytest.approx(weights)
    alike = np.ones((len(rewards), len(rewards)))
    assert dora_weights(weights, alike, 0.01) == pytest.approx(weights)  # one common factor


def test_cosines_of_zero_vectors_are_no_nan() -> None:
    similar = cosines([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    assert similar == pytest.approx(np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1]]))


def second_round(strategy: str, rewards: Any, n: int) -> dict[int, int]:
    """Continuations of each first step."""
    engine = Directed(ends_at_depth(2), rewards, most=n, depth=2)
    assert search(strategy, engine, n=n).answer is not None
    return {path_of(engine.tokenizer.decode(r.prompt_ids))[0]: r.n for r in engine.totals.log[1:]}


def test_continuations_follow_the_rewards() -> None:
    rewards = [0.9, 0.8, 0.5, 0.2]
    assert second_round("rebase", lambda path: rewards[path[0]], 4) == {0: 3, 1: 1}
    assert second_round("rebase", lambda path: 0.5, 4) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_dora_draws_more_of_a_direction_of_its_own() -> None:
    assert second_round("dora", lambda path: 0.5, 4) == {0: 1, 1: 2, 2: 1}


def test_dora_without_embeddings_says_so_before_it_spends() -> None:
    engine = TreeEngine(ends_at_depth(2), lambda path: 0.5)
    with pytest.raises(CapabilityError, match="dora needs embed"):
        search("dora", engine, n=4)
    assert engine.totals.requests == 0


def test_dora_refuses_a_role_that_no_model_has() -> None:
    engine = Directed(ends_at_depth(2), lambda path: 0.5)
    with pytest.raises(UnknownName, match=r"role 'meaning', its `embedder` .*policy, prm"):
        Solver(
            {"policy": engine, "prm": engine},
            strategy={"name": "dora", "embedder": "meaning"},
            verifiers={"verifier": {"name": "prm", "model": "prm"}},
        )


def test_dora_refuses_an_embedder_of_another_vocabulary() -> None:
    policy, other = (Directed(ends_at_depth(2), lambda path: 0.5) for _ in range(2))
    solver = Solver(
        {"policy": policy, "embedder": other},
        strategy={"name": "dora", "n": 4, "embedder": "embedder"},
        verifiers={"verifier": {"name": "prm", "model": "policy"}},
        max_tokens=100,
    )
    assert solver.solve(PROBLEM).answer is not None
    policy.totals.requests = 0
    other.tokenizer = ByteIds()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="have different tokenizers"):
        solver.solve(PROBLEM)
    assert policy.totals.requests == 0


def test_completed_paths_leave_the_rounds() -> None:
    """Draw 0 ends at depth 1: 4 - 1 continuations from then on."""

    def says(path: Draws) -> str:
        return f"{'A' if len(path) == (1 if path[0] == 0 else 3) else 's'}{path[-1]}\n"

    found = search("rebase", says, lambda path: 0.5, n=4)
    assert found.usage.verifier_passes == 4 + 3 + 3


def test_the_reward_weighted_majority_decides() -> None:
    def says(path: Draws) -> str:
        return f"A{7 if path[0] == 0 else 8}\n"

    def rewards(path: Draws) -> float:
        return 0.9 if path[0] == 7 else 0.5

    assert search("rebase", says, rewards, n=4).answer == "8"
    assert search("rebase", says, rewards, n=4, select="best").answer == "7"


@some
@given(
    SEEDS,
    st.sampled_from(STRATEGIES),
    st.none() | st.integers(1, 150),
    st.none() | st.integers(0, 40),
    st.integers(1, 7),
)
def test_caps_are_hard_and_what_was_decoded_is_charged(
    seed: int, strategy: str, tokens: int | None, passes: int | None, rounds: int
) -> None:
    engine = Directed(wild(seed), noisy(seed))
    budget = Budget(tokens=tokens, verifier_passes=passes)
    found = search(strategy, engine, budget=budget, n=4, max_rounds=rounds)
    keeps_to(budget, found, engine)
    if passes == 0:
        assert found.text == plain(wild(seed), budget=Budget(tokens=tokens)).text


@some
@given(SEEDS)
def test_with_n_1_it_is_plain_decoding(seed: int) -> None:
    for strategy in STRATEGIES:
        found = search(strategy, Directed(wild(seed), noisy(seed)), n=1)
        assert found.text == plain(wild(seed)).text


async def test_an_embedding_is_the_mean_of_the_states_that_give_the_logits() -> None:
    import torch
    from safetensors.torch import load_file

    from reasoning.engines import weights
    from reasoning.engines.local import LocalEngine

    tensors = load_file(weights.resolve("countdown-policy") / "model.safetensors")
    output = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]).float()
    async with LocalEngine("countdown-policy", threads=1) as engine:
        ids = engine.tokenizer.encode("14 17 75 10 = 50\n75-10=65 : 14 17 65\n")
        last = len(ids) - 1
        state = await engine.embed(ids, last)
        (score,) = (await engine.score(ids, [10], top=5)).scores
        logprobs = torch.log_softmax(output @ torch.tensor(state.values), dim=0)
        for token, value in score.top.items():
            assert float(logprobs[token]) == pytest.approx(value, abs=1e-3)
        each = [(await engine.embed(ids[: i + 1], i)).values for i in range(last - 3, last + 1)]
        mean = await engine.embed(ids, last - 3)
        assert mean.values == pytest.approx(np.mean(each, axis=0), abs=1e-4)
        assert mean.usage.prefill + mean.usage.cached == len(ids)


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"n": 0}, "`n`"),
        ({"temperature": 0}, "`temperature`"),
        ({"max_rounds": 0}, "`max_rounds`"),
    ],
)
def test_bad_settings_are_said_when_they_are_read(settings_: dict[str, Any], words: str) -> None:
    for strategy in STRATEGIES:
        with pytest.raises(ConfigError, match=words):
            search(strategy, ends_at_depth(2), **settings_)
