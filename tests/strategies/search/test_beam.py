"""Beam search, lookahead and DVTS on known trees."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning import Budget, Solution, Solver
from reasoning.errors import ConfigError
from reasoning.strategies.beam import Beam, tiled
from tests.strategies.search.trees import (
    PROBLEM,
    SEEDS,
    Draws,
    TreeEngine,
    chance,
    ends_at_depth,
    keeps_to,
    noisy,
    path_of,
    plain,
    search,
    some,
    wild,
)

ITS_HUB: dict[str, Any] = {"width_is": "kept", "finished": "hold"}


def completions(solution: Solution) -> list[dict[str, Any]]:
    (event,) = solution.trace.of("completions")
    paths: list[dict[str, Any]] = event.data["paths"]
    return paths


def drawn(says: Any, n: int) -> list[str]:
    """The texts of n plain chains."""
    engine = TreeEngine(says)
    solver = Solver({"policy": engine}, strategy={"name": "majority", "n": n}, max_tokens=100)
    (event,) = solver.solve(PROBLEM).trace.of("sample")
    return [chain.text for chain in event.data["chains"]]


def greedy(says: Any, rewards: Any, n: int, depth: int) -> Draws:
    """The path that takes the best of n draws at every step."""
    path: Draws = ()
    while len(path) < depth:
        path = max(((*path, draw) for draw in range(n)), key=rewards)
    return path


@some
@given(SEEDS)
def test_beam_2_8_1_with_n_1_it_is_plain_decoding(seed: int) -> None:
    for strategy in ("beam", "dvts", "lookahead"):
        found = search(strategy, wild(seed), noisy(seed), n=1, beam_width=1)
        # An empty step ends a path here, as in search-and-learn.
        assert plain(wild(seed)).text.startswith(found.text.removesuffix("  \n"))
        if "  \n" not in plain(wild(seed)).text:
            assert found.text == plain(wild(seed)).text


@some
@given(SEEDS, st.sampled_from([2, 3, 4]))
def test_beam_2_8_7_with_m_n_it_is_greedy_stepwise_best_of_n(seed: int, n: int) -> None:
    rewards = noisy(seed)
    wanted = greedy(ends_at_depth(4), rewards, n, 4)
    for settings_ in ({}, {"finished": "hold"}):
        found = search("beam", ends_at_depth(4), rewards, n=n, beam_width=n, **settings_)
        assert path_of(found.text) == wanted
    assert path_of(search("step_best_of_n", ends_at_depth(4), rewards, n=n).text) == wanted


@some
@given(SEEDS)
def test_beam_2_8_7_with_m_1_nothing_is_pruned(seed: int) -> None:
    """Held complete paths are not replaced: n independent chains, and the best of them."""
    found = search("beam", ends_at_depth(3), noisy(seed), n=4, beam_width=1, finished="hold")
    assert sorted(path["text"] for path in completions(found)) == sorted(drawn(ends_at_depth(3), 4))
    assert found.text == max(completions(found), key=lambda path: path["score"])["text"]


def test_beam_2_8_7_replacing_complete_paths_favours_short_solutions() -> None:
    def says(path: Draws) -> str:
        long = path[0] == 3
        return f"{'A' if len(path) == (5 if long else 2) else 's'}{path[-1]}\n"

    def rewards(path: Draws) -> float:
        return 0.9 if path[0] == 3 and len(path) == 5 else 0.5

    aside = search("beam", says, rewards, n=4, beam_width=1)
    # Three short paths are done in round 2; the long one is drawn four times from then on.
    assert [path_of(path["text"])[0] for path in completions(aside)] == [0, 1, 2, 3]
    assert aside.usage.verifier_passes == 4 * 5
    hold = search("beam", says, rewards, n=4, beam_width=1, finished="hold")
    assert hold.usage.verifier_passes == 3 * 2 + 5 and path_of(hold.text)[0] == 3
    best = search("beam", says, rewards, n=4, beam_width=1, sort_completed=True)
    assert [path_of(path["text"])[0] for path in completions(best)] == [3] * 4


@pytest.mark.parametrize(("n", "width"), [(4, 4), (4, 2), (4, 1), (8, 2)])
@pytest.mark.parametrize("look", [0, 1, 2])
def test_beam_4_6_2_a_round_is_n_steps_and_lookahead_n_times_k_more(
    n: int, width: int, look: int
) -> None:
    depth = 4
    engine = TreeEngine(ends_at_depth(depth), noisy(n), most=8, depth=depth)
    found = search("lookahead", engine, n=n, beam_width=width, lookahead=look)
    assert engine.steps_asked() == n * depth
    ahead = sum(min(look, depth - level) for level in range(1, depth + 1))
    assert engine.steps_asked(greedy=True) == n * ahead
    assert found.usage.verifier_passes == n * depth


@some
@given(SEEDS, st.booleans())
def test_lookahead_4_6_1_and_2_8_9_without_lookahead_it_is_beam(seed: int, hub: bool) -> None:
    shape = ITS_HUB if hub else {}
    beam = search("beam", wild(seed), noisy(seed), n=4, beam_width=2, **shape)
    none = search("lookahead", wild(seed), noisy(seed), n=4, beam_width=2, lookahead=0, **shape)
    assert (beam.text, beam.usage) == (none.text, none.usage)
    assert completions(beam) == completions(none)


def test_lookahead_scores_the_end_of_the_rollout() -> None:
    """A first step that looks bad, but leads to the best: seen with one step more."""

    def rewards(path: Draws) -> float:
        good = path[0] == 2
        return (0.1 if good else 0.5) if len(path) == 1 else float(good)

    shape: dict[str, Any] = {"n": 4, "beam_width": 4}
    assert path_of(search("beam", ends_at_depth(3), rewards, **shape).text)[0] != 2
    for strategy in ("lookahead", "dvts"):
        found = search(strategy, ends_at_depth(3), rewards, lookahead=1, **shape)
        assert path_of(found.text)[0] == 2


@some
@given(SEEDS, st.integers(1, 3), st.sampled_from(["lookahead", "dvts"]))
def test_dvts_2_8_9_lookahead_text_is_never_appended(seed: int, look: int, strategy: str) -> None:
    found = search(strategy, wild(seed), noisy(seed), n=4, beam_width=2, lookahead=look)
    assert all("g" not in path["text"] for path in completions(found))


@some
@given(SEEDS, st.sampled_from([(4, 1), (4, 2), (4, 4), (3, 1)]))
def test_beam_and_dvts_2_8_10_exactly_n_completions(seed: int, shape: tuple[int, int]) -> None:
    n, width = shape
    for settings_ in ({}, {"sort_completed": True}):
        found = search("beam", wild(seed), noisy(seed), n=n, beam_width=width, **settings_)
        assert len(completions(found)) == n
    for look in (0, 1):
        found = search("dvts", ends_at_depth(3), noisy(seed), n=n, beam_width=width, lookahead=look)
        assert len(completions(found)) == n


@some
@given(SEEDS)
def test_dvts_2_8_7_one_tree_and_n_trees(seed: int) -> None:
    rewards = noisy(seed)
    one = search("dvts", ends_at_depth(3), rewards, n=4, beam_width=4)
    assert path_of(one.text) == greedy(ends_at_depth(3), rewards, 4, 3)
    each = search("dvts", ends_at_depth(3), rewards, n=4, beam_width=1)
    assert [path["text"] for path in completions(each)] == drawn(ends_at_depth(3), 4)


@some
@given(SEEDS, SEEDS)
def test_dvts_2_8_8_trees_do_not_read_each_others_scores(seed: int, other: int) -> None:
    """Tree 0 stands on draws 0 and 1 of the prompt; new rewards there leave tree 1 as it was."""

    def rewards(first: int) -> Any:
        return lambda path: chance(path, first if path[0] < 2 else seed)

    before = search("dvts", ends_at_depth(4), rewards(seed), n=4, beam_width=2)
    after = search("dvts", ends_at_depth(4), rewards(other), n=4, beam_width=2)
    assert completions(before)[2:] == completions(after)[2:]


def test_dvts_2_8_8_swapped_trees_swap_their_completions() -> None:
    def rewards(swap: bool) -> Any:
        def reward(path: Draws) -> float:
            return chance((path[0] ^ 2 if swap else path[0], *path[1:]), 4)

        return reward

    before, after = (
        completions(search("dvts", ends_at_depth(4), rewards(swap), n=4, beam_width=2))
        for swap in (False, True)
    )
    for old, new in zip(before[2:] + before[:2], after, strict=True):
        there, here = path_of(old["text"]), path_of(new["text"])
        assert ((there[0] ^ 2, *there[1:]), old["score"]) == (here, new["score"])


@pytest.mark.parametrize(
    ("settings_", "rounds"),
    [
        # search-and-learn: keep n / M = 4, draw M = 2 of each; n of the prompt.
        ({"n": 8, "beam_width": 2}, [(0, 8), (1, 8), (2, 8)]),
        # its_hub: keep M = 2, draw n / M = 4 of each; n / M of the prompt.
        ({"n": 8, "beam_width": 2, **ITS_HUB}, [(0, 4), (1, 8), (2, 8)]),
    ],
)
def test_both_conventions_keep_and_draw(
    settings_: dict[str, Any], rounds: list[tuple[int, int]]
) -> None:
    engine = TreeEngine(ends_at_depth(3), noisy(1), most=8, depth=3)
    search("beam", engine, **settings_)
    asked: dict[int, list[int]] = {}
    for request in engine.totals.log:
        asked.setdefault(request.position // 3, []).append(request.n)
    assert [(level, sum(counts)) for level, counts in asked.items()] == rounds
    kept = 4 if "width_is" not in settings_ else 2
    assert len(asked[1]) == len(asked[2]) == kept
    assert set(asked[1]) == {8 // kept}


def test_the_same_search_in_both_conventions() -> None:
    """Their widths are each other's inverse; started alike they are one search."""
    spec = {"n": 8, "finished": "hold"}
    one = Beam(beam_width=2, width_is="expansion", **spec)
    two = Beam(beam_width=4, width_is="kept", **spec)
    assert (one.kept, one.expansion) == (two.kept, two.expansion) == (4, 2)


def test_held_paths_compete_with_the_score_they_ended_with() -> None:
    def says(path: Draws) -> str:
        return f"{'A' if len(path) == (1 if path[0] == 0 else 3) else 's'}{path[-1]}\n"

    def rewards(path: Draws) -> float:
        return 0.6 if path[0] == 0 else 0.19 * len(path)

    shape: dict[str, Any] = {"n": 4, "beam_width": 2, **ITS_HUB}
    found = search("beam", says, rewards, **shape)
    # Two draws of the prompt: one ends at 0.6, the other grows to 0.57 and is never better.
    assert path_of(found.text) == (0,)
    # At 0.5 it is held for two rounds, and loses its place to the two that end in the third.
    rivals = search("beam", says, lambda path: rewards(path) - 0.1 * (path[0] == 0), **shape)
    assert {path_of(path["text"]) for path in completions(rivals)} == {(1, 0, 0), (1, 0, 1)}
    aside = shape | {"finished": "aside"}
    kept = search("beam", says, lambda path: rewards(path) - 0.1 * (path[0] == 0), **aside)
    assert (0,) in [path_of(path["text"]) for path in completions(kept)]


def test_tiling_is_cyclic() -> None:
    assert tiled(8, 3) == [3, 3, 2] and tiled(2, 3) == [1, 1, 0] and tiled(0, 2) == [0, 0]


def test_duplicates_are_filtered_on_request() -> None:
    def says(path: Draws) -> str:
        return f"{'A' if len(path) == 3 else 's'}{path[-1] // 2}\n"

    def kept(**settings_: Any) -> set[str]:
        engine = TreeEngine(says, lambda path: 0.5)
        search("beam", engine, n=4, beam_width=2, **settings_)
        prompts = [engine.tokenizer.decode(r.prompt_ids) for r in engine.totals.log]
        return {text for text in prompts if text.count("\n") == 2}

    assert kept() == {"question\ns0\n"} and len(kept(filter_duplicates=True)) == 2


def test_ties_go_to_the_earlier_path() -> None:
    for strategy in ("beam", "dvts", "step_best_of_n"):
        shape = {"n": 4} if strategy == "step_best_of_n" else {"n": 4, "beam_width": 2}
        found = search(strategy, ends_at_depth(3), lambda path: 0.5, **shape)
        assert path_of(found.text) == (0, 0, 0)


@some
@given(
    SEEDS,
    st.sampled_from(["beam", "lookahead", "dvts", "step_best_of_n"]),
    st.none() | st.integers(1, 150),
    st.none() | st.integers(0, 40),
    st.booleans(),
    st.integers(1, 7),
)
def test_caps_are_hard_and_what_was_decoded_is_charged(
    seed: int, strategy: str, tokens: int | None, passes: int | None, hub: bool, rounds: int
) -> None:
    engine = TreeEngine(wild(seed), noisy(seed))
    shape: dict[str, Any] = {"n": 4, "retries": 0}
    if strategy != "step_best_of_n":
        del shape["retries"]
        shape |= {"beam_width": 2, "max_rounds": rounds}
    if hub and strategy in ("beam", "lookahead"):
        shape |= ITS_HUB
    budget = Budget(tokens=tokens, verifier_passes=passes)
    found = search(strategy, engine, budget=budget, **shape)
    keeps_to(budget, found, engine)
    if passes == 0 or (tokens or 9) < 3:
        assert found.text == plain(wild(seed), budget=Budget(tokens=tokens)).text


def test_a_narrow_budget_makes_a_round_narrower() -> None:
    engine = TreeEngine(ends_at_depth(3), noisy(2))
    found = search("beam", engine, n=4, beam_width=2, budget=Budget(verifier_passes=7))
    assert found.status == "budget" and found.usage.verifier_passes == 7
    assert found.answer is not None  # the best path is finished, unscored


@pytest.mark.parametrize("strategy", ["beam", "dvts", "lookahead"])
def test_the_last_round_writes_to_the_end(strategy: str) -> None:
    found = search(strategy, ends_at_depth(5), noisy(3), n=4, beam_width=2, max_rounds=2)
    assert len(path_of(found.text)) == 5 and len(completions(found)) == 4
    assert found.usage.verifier_passes == 8


def test_where_every_step_is_empty_a_path_is_finished_all_the_same() -> None:
    def says(path: Draws) -> str:
        return "  \n" if len(path) < 3 else f"A{path[-1]}\n"

    for strategy in ("beam", "dvts", "step_best_of_n"):
        alone = strategy == "step_best_of_n"
        shape = {"n": 4, "retries": 0} if alone else {"n": 4, "beam_width": 2}
        found = search(strategy, says, lambda path: 0.5, **shape)
        assert found.status == "ok" and plain(says).text.startswith(found.text)


@pytest.mark.parametrize("strategy", ["beam", "lookahead", "dvts"])
@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"n": 6, "beam_width": 4}, "n=6 must be a multiple of beam_width=4, such as 4 or 8"),
        ({"n": 2, "beam_width": 4}, "such as 4 "),
        ({"n": 0}, "`n`"),
        ({"beam_width": 0}, "`beam_width`"),
        ({"lookahead": -1}, "`lookahead`"),
        ({"max_rounds": 0}, "`max_rounds`"),
        ({"select": "first"}, "'weighted'"),
    ],
)
def test_bad_settings_are_said_when_they_are_read(
    strategy: str, settings_: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        search(strategy, ends_at_depth(2), **settings_)
