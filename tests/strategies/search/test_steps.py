"""What ends a step: the separator, several of them, a number of tokens, a stop of the recipe."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning import Budget, Problem, Sampling, Solver
from reasoning.engines.openai import OpenAIEngine
from reasoning.errors import CapabilityError, ConfigError
from reasoning.registry import strategies
from reasoning.strategies.steps import Stepwise
from tests.engines.stub_server import Stub
from tests.strategies.search.trees import (
    PROBLEM,
    SEEDS,
    WIDTH,
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

# Searches with one continuation a step, which are plain decoding whatever a step is.
NARROW: dict[str, dict[str, Any]] = {
    "a_star": {"k": 1},
    "step_best_of_n": {"n": 1, "retries": 0},
    "mcts": {"n": 1, "max_depth": 20},
    "rebase": {"n": 1},
}


@some
@given(SEEDS, st.sampled_from(sorted(NARROW)), st.integers(1, 4), st.booleans())
def test_one_continuation_a_step_is_plain_decoding_whatever_a_step_is(
    seed: int, strategy: str, many: int, by_tokens: bool
) -> None:
    shape: dict[str, Any] = {"separators": many, "step_tokens": many * WIDTH}
    if by_tokens:
        shape |= {"step_by": "tokens"}
    found = search(strategy, wild(seed), noisy(seed), **shape, **NARROW[strategy])
    assert found.text == plain(wild(seed)).text


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize(("many", "steps"), [(1, 6), (2, 3), (3, 2), (4, 2), (9, 1)])
def test_several_separators_make_a_step(many: int, steps: int, counts: bool) -> None:
    engine = TreeEngine(ends_at_depth(6), lambda path: 0.5, counts=counts)
    found = search("a_star", engine, k=3, separators=many, step_tokens=many * WIDTH)
    assert found.meta["expansions"] == steps and found.usage.verifier_passes == 3 * steps
    assert path_of(found.text) == (0,) * 6
    # A counted step that the answer ends before its last separator has EOS, which is cut off.
    assert found.usage.discarded == (3 if counts and 6 % many else 0)
    assert found.usage.tokens - found.usage.discarded == 3 * 6 * WIDTH
    assert found.usage.tokens == engine.totals.new


@pytest.mark.parametrize("counts", [False, True])
def test_a_step_of_several_separators_ends_at_its_cap_and_at_the_answer(counts: bool) -> None:
    engine = TreeEngine(ends_at_depth(3), lambda path: 0.5, counts=counts)
    (tree,) = search("a_star", engine, k=1, separators=9, step_tokens=5).trace.of("tree")
    assert [row["text"] for row in tree.data["nodes"]] == ["", "s0\ns0", "\nA0\n"]


@some
@given(
    SEEDS,
    st.sampled_from(["a_star", "beam", "dvts", "mcts", "rebase", "particle_filtering"]),
    st.integers(2, 4),
    st.integers(1, 5),
)
def test_an_engine_that_counts_separators_writes_the_same_in_fewer_asks(
    seed: int, strategy: str, many: int, lines: int
) -> None:
    shape: dict[str, Any] = {"k": 3} if strategy == "a_star" else {"n": 4}
    if strategy in ("beam", "dvts"):
        shape["beam_width"] = 2
    found, asked = [], []
    for counts in (False, True):
        engine = TreeEngine(wild(seed), noisy(seed), counts=counts)
        found.append(search(strategy, engine, separators=many, step_tokens=lines * WIDTH, **shape))
        asked.append(engine.totals.requests)
        assert found[-1].usage.tokens == engine.totals.new
    one_by_one, counted = found
    assert (counted.text, counted.answer) == (one_by_one.text, one_by_one.answer)
    assert (counted.status, counted.meta) == (one_by_one.status, one_by_one.meta)
    # What it says after an answer, at most EOS here, is cut off again.
    assert counted.usage.tokens - counted.usage.discarded == one_by_one.usage.tokens
    assert counted.usage.verifier_passes == one_by_one.usage.verifier_passes
    assert asked[1] <= asked[0]


def test_what_is_said_after_an_answer_is_cut_off_at_its_token() -> None:
    def says(path: Draws) -> str:  # an answer, and the model goes on
        return "sA\n" if len(path) == 2 else f"s{path[-1]}\n"

    sampling = Sampling(logprobs=0)
    (one, _), (many, engine) = (
        (search("a_star", engine, k=1, separators=4, step_tokens=12, sampling=sampling), engine)
        for engine in (TreeEngine(says, lambda path: 0.5, counts=c) for c in (False, True))
    )
    assert one.text == many.text == "s0\nsA\n" and one.answer == many.answer == ""
    assert (many.usage.tokens, many.usage.discarded, one.usage.tokens) == (12, 6, 6)
    assert engine.totals.requests == 1


def test_a_step_of_tokens_does_not_stop_at_separators() -> None:
    engine = TreeEngine(ends_at_depth(6), lambda path: 0.5)
    found = search("a_star", engine, k=2, step_by="tokens", step_tokens=2 * WIDTH)
    (tree,) = found.trace.of("tree")
    first = next(row for row in tree.data["nodes"] if row["parent"] == 0)
    assert first["text"] == "s0\ns0\n" and found.answer == "0"
    assert all(not request.sampling.stop for request in engine.totals.log)


@some
@given(
    SEEDS,
    st.sampled_from(["a_star", "beam", "dvts", "mcts", "rebase"]),
    st.integers(1, 3),
    st.none() | st.integers(1, 100),
    st.none() | st.integers(0, 30),
)
def test_caps_are_hard_with_longer_steps(
    seed: int, strategy: str, many: int, tokens: int | None, passes: int | None
) -> None:
    engine = TreeEngine(wild(seed), noisy(seed), counts=seed % 2 == 0)
    budget = Budget(tokens=tokens, verifier_passes=passes)
    shape: dict[str, Any] = {"n": 4}
    if strategy in ("beam", "dvts"):
        shape["beam_width"] = 2
    if strategy == "a_star":
        shape = {"k": 3, "expand_batch": 2}
    found = search(
        strategy, engine, budget=budget, separators=many, step_tokens=many * WIDTH, **shape
    )
    keeps_to(budget, found, engine)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("many", [1, 2])
def test_a_stop_of_the_recipe_completes_a_path(many: int, counts: bool) -> None:
    def stopping(path: Draws) -> str:
        return "sX\n" if len(path) == 2 else f"s{path[-1]}\n"

    for sampling in (Sampling(stop=("X",)), Sampling(stop_ids=(ord("X"),))):
        engine = TreeEngine(stopping, lambda path: 0.5, counts=counts)
        found = search("a_star", engine, k=1, separators=many, step_tokens=9, sampling=sampling)
        assert found.text == "s0\nsX" and found.meta["expansions"] == 3 - many


def test_text_that_is_all_answer_ends_nothing() -> None:
    """Where a task takes any text for an answer, a step's end is not the path's."""
    problem = Problem("p", PROBLEM.messages, step="\n")
    found = search("a_star", ends_at_depth(3), k=1, problem=problem)
    assert found.text == "s0\ns0\nA0\n" and found.meta["expansions"] == 4  # the last gives EOS


def test_a_chain_as_long_as_it_may_get_is_complete() -> None:
    found = search("a_star", ends_at_depth(5), k=2, max_tokens=7, step_tokens=3)
    assert found.status == "ok" and found.text == "s0\ns0\ns" and found.answer is None


@pytest.mark.parametrize(
    ("settings_", "words"), [({"separators": 0}, "`separators`"), ({"step_by": "line"}, "'tokens'")]
)
def test_bad_settings_are_said_when_they_are_read(settings_: dict[str, Any], words: str) -> None:
    for strategy in NARROW:
        with pytest.raises(ConfigError, match=words):
            search(strategy, ends_at_depth(2), **settings_)


@pytest.mark.parametrize("strategy", sorted(NARROW))
def test_texts_keep_their_separators_whatever_the_sampling_says(strategy: str) -> None:
    found = search(
        strategy, ends_at_depth(3), sampling=Sampling(include_stop=False), **NARROW[strategy]
    )
    assert found.text == "s0\ns0\nA0\n"


WIDE: dict[str, dict[str, Any]] = {
    "a_star": {"k": 3},
    "beam": {"n": 4, "beam_width": 2},
    "dvts": {"n": 4, "beam_width": 2},
    "step_best_of_n": {"n": 3},
    "mcts": {"n": 3},
    "rebase": {"n": 4},
    "particle_filtering": {"n": 4},
}


@pytest.mark.parametrize("name", WIDE)
def test_a_solution_has_a_score_where_it_was_rated_itself(name: str) -> None:
    """Not its beginning, which the reserve finished, and not nothing at all."""
    told = list[bool]()
    for passes in (0, 1, 5, 12, 100):
        rated: dict[Draws, float] = {}

        def rewards(path: Draws, rated: dict[Draws, float] = rated) -> float:
            return rated.setdefault(path, 0.5 + len(path) / 16)

        found = search(
            name,
            ends_at_depth(4),
            rewards,
            verifier={"name": "prm", "model": "prm", "read": "last"},
            budget=Budget(verifier_passes=passes),
            **WIDE[name],
        )
        assert found.answer is not None
        assert found.meta.get("score") == rated.get(path_of(found.text))
        told.append("score" in found.meta)
    assert told[0] is False and told[-1] is True


def test_a_vote_of_rollouts_has_no_score() -> None:
    found = search("mcts", ends_at_depth(3), n=2, reward="self_consistent")
    assert found.meta["solutions"] and "score" not in found.meta


@pytest.mark.parametrize("name", [n for n in strategies if issubclass(strategies.get(n), Stepwise)])
async def test_a_server_that_cannot_continue_a_turn_is_refused_before_it_is_asked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with Stub(vllm=False).serving() as stub:
        solver = Solver(
            {"policy": OpenAIEngine("m", base_url=stub.url)},
            strategy=name,
            verifiers={"verifier": "random"},
        )
        with pytest.raises(CapabilityError, match=f"{name} needs continue_turn"):
            await solver.asolve(PROBLEM)
        assert not stub.generations
