"""The matrix that all policies which watch a stream must pass (numbers 5.1 to 5.6), on scripted
models and on the shipped one. Each policy's own identity, prefix and ledger tests are with it."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from writing import CHAINS, TAG, Asked, Judge, Line, Written, forced, problem, write

from reasoning import Sampling, Solver
from reasoning.chain import Chain
from reasoning.configuration import described
from reasoning.engines.characters import CharacterTokenizer
from reasoning.engines.local import LocalEngine
from reasoning.engines.scripted import ScriptedEngine
from reasoning.errors import CapabilityError, ConfigError
from reasoning.evals import experiment
from reasoning.evals.tasks import Countdown
from reasoning.problem import Solution
from reasoning.recipe import Recipe

OFF: list[dict[str, Any]] = [
    {"name": "budget_forcing"},
    {"name": "trimr", "m": None, "r_thres": 2.0, "repetition": False, "reflections": ["wait"]},
    {"name": "deer", "threshold": 1.0, "words": ["wait"]},
    {"name": "dynasor", "k": None},
]
# They ask, and never act.
IDLE: list[dict[str, Any]] = [
    {"name": "trimr", "verifier": "rules", "m": 99, "r_thres": 2.0, "reflections": ["wait"],
     "repetition": False, "n_send": 7, "min_thought": 0},
    {"name": "deer", "threshold": 0.5, "words": ["wait"], "trial_closes": True, "trials": 4},
    {"name": "dynasor", "k": 99, "c": 30},
]  # fmt: skip


@pytest.fixture(scope="module")
def shipped() -> Iterator[LocalEngine]:
    yield LocalEngine("countdown-policy", threads=1)


def on_shipped(engine: LocalEngine, policy: Any) -> tuple[list[Chain], Solution]:
    asked = Countdown(split="dev", numbers=4).problems(1)[0]
    solver = Solver(
        {"policy": engine},
        strategy=Written(n=2),
        chain_policy=policy,
        sampling=Sampling(temperature=1.0),
        max_tokens=100,
    )
    solution = asyncio.run(solver.asolve(asked))
    return CHAINS.pop(asked.id), solution


def test_5_1_5_5_identity_and_clean_caches_on_a_real_model(shipped: LocalEngine) -> None:
    plain, base = on_shipped(shipped, "plain")
    assert any("wait" in chain.text for chain in plain)
    for policy in OFF:
        ours, solution = on_shipped(shipped, policy)
        assert ours == plain, policy
        assert solution.usage.tokens == base.usage.tokens
    # Trials and probes decoded beside a chain leave nothing in it: the tokens behind them are
    # those of a model that was never asked.
    for policy in IDLE:
        ours, solution = on_shipped(shipped, policy)
        assert [(c.ids, c.text) for c in ours] == [(c.ids, c.text) for c in plain], policy
        if policy["name"] != "trimr":
            assert solution.usage.probe > 0


def test_5_2_5_3_prefix_and_ledger_on_a_real_model(shipped: LocalEngine) -> None:
    plain, _ = on_shipped(shipped, "plain")
    for policy in (
        {"name": "budget_forcing", "max_thinking": 50},
        {"name": "trimr", "verifier": "rules", "m": None, "r_thres": 0.3, "n_thres": 0,
         "agreement": False, "n_send": 5, "reflections": ["wait"]},
        {"name": "deer", "threshold": -1.0, "words": ["wait"]},
        {"name": "dynasor", "k": 1, "c": 30, "probe_tokens": 40},
    ):  # fmt: skip
        ours, solution = on_shipped(shipped, policy)
        events = list(solution.trace.of("force"))
        assert events, policy
        for chain, own in zip(ours, plain, strict=True):
            thinking = chain.text.partition("answer ")[0]
            assert own.text.startswith(thinking) or own.text.startswith(thinking[:-1])
        usage = solution.usage
        placed = sum(len(event.data["ids"]) for event in events)
        committed = usage.tokens - usage.discarded - usage.probe
        assert committed == sum(len(chain.ids) for chain in ours) - placed


def test_5_4_5_6_chains_do_not_wait_for_each_other_nor_share_luck() -> None:
    loop = Line("abcdefgh" * 40, seconds=1.0)
    calm = Line(f"calm and short, 1 2 3.{TAG}3", seconds=1.0)
    slow = Line(f"slow.{TAG}4", seconds=50.0)
    keys: dict[int, Line] = {}

    def script(prompt: str, key: int) -> Line:
        return keys.setdefault(key, (loop, calm, slow)[len(keys) % 3])

    plain, base = write(ScriptedEngine(script=script), "plain", 3)
    spec = {"name": "trimr", "n_send": 4, "m": None, "r_thres": 2.0}
    ours, solution = write(ScriptedEngine(script=script), spec, 3)
    assert forced(solution) == ["repetition"]
    assert ours[0].text.partition("\n")[0] == loop.text[: ours[0].text.index("\n")] != loop.text
    assert ours[1:] == plain[1:]
    # The slowest chain decides, as without a policy: nobody waited for another.
    assert solution.seconds == base.seconds == len(slow.text + "$") * 50.0


@pytest.mark.parametrize("outer", ["budget_forcing", "trimr", "deer", "dynasor"])
@pytest.mark.parametrize("inner", ["budget_forcing", "trimr", "deer", "dynasor"])
def test_policies_compose_and_the_same_one_twice_is_refused(outer: str, inner: str) -> None:
    off = {spec["name"]: spec for spec in OFF}
    spec = {**off[outer], "inner": off[inner]}
    texts = [f"a. wait, b. {TAG}c", "no end"]
    if outer == inner:
        with pytest.raises(ConfigError, match="another"):
            write(ScriptedEngine(script=texts), spec)
        return
    assert (
        write(ScriptedEngine(script=texts), spec, 3)[0]
        == write(ScriptedEngine(script=texts), "plain", 3)[0]
    )


@pytest.mark.parametrize(
    "policy", ["spec_reason", "atts", "budget_forcing", "trimr", "deer", "dynasor"]
)
def test_a_strategy_that_reads_log_probabilities_wants_a_policy_that_keeps_them(
    policy: str,
) -> None:
    models = {role: ScriptedEngine(role) for role in ("policy", "draft", "verifier")}
    with pytest.raises(CapabilityError, match=f"deep_conf reads.*{policy} does not keep"):
        Solver(models, strategy="deep_conf", chain_policy=policy)
    Solver(models, strategy="deep_conf")


def test_a_policy_is_told_of_by_its_registry_name_and_hashed_as_before() -> None:
    made = Solver({"policy": ScriptedEngine()}, chain_policy={"name": "trimr", "verifier": "rules"})
    told = made._configuration.describe()
    assert told["chain_policy"]["name"] == "trimr" and told["strategy"]["name"] == "majority"
    assert described(made._configuration.policy)["name"] == "trim_r"


@pytest.mark.parametrize(
    ("task", "model", "policy", "words"),
    [
        (
            "countdown",
            "local/countdown-policy",
            {"name": "budget_forcing", "n_ignore": 1},
            "'Wait'",
        ),
        ("countdown", "scripted/", {"name": "deer", "inducers": "pro"}, "open a box"),
        ("math500", "scripted/", {"name": "budget_forcing", "max_thinking": 10}, "set `closing`"),
    ],
)
def test_what_is_wrong_with_every_problem_refuses_the_recipe(
    task: str, model: str, policy: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REASONING_DATA", str(tmp_path))
    row = {"problem": "1+1?", "answer": "2", "unique_id": "a"}
    (tmp_path / "math500.jsonl").write_text(json.dumps(row))
    recipe = Recipe(
        name="r",
        task={"name": task, "count": 1},
        models={"policy": model},
        strategies=["single"],
        chain_policy=policy,
    )
    with pytest.raises(ConfigError, match=words):
        experiment.run_sync(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "results.jsonl").exists()


def test_what_does_not_watch_a_stream_is_not_stood_around() -> None:
    with pytest.raises(ConfigError, match="cannot stand around"):
        write(ScriptedEngine(), {"name": "trimr", "verifier": "rules", "inner": "spec_reason"})


def test_of_several_policies_the_first_to_act_acts() -> None:
    text = "thinking on and on. " * 30 + TAG
    engine = Asked([Line(text, seconds=1.0)], lambda _: Line("5}", seconds=0.1))
    spec = {
        "name": "budget_forcing",
        "max_thinking": 300,
        "inner": {"name": "dynasor", "k": 2, "c": 50},
    }
    assert forced(write(engine, spec)[1]) == ["certain"]
    spec["max_thinking"] = 120
    assert forced(write(engine, spec)[1]) == ["max"]


def test_a_policy_that_cannot_write_steps_is_refused_for_a_strategy_that_asks_for_them() -> None:
    class Stepwise(Written):
        unit = "step"

    engine = ScriptedEngine()
    with pytest.raises(ConfigError, match="cannot write"):
        Solver({"policy": engine}, strategy=Stepwise(), chain_policy="dynasor")
    assert Judge(lambda _: 1.0).asked == [] and engine.totals.requests == 0


class _Long(CharacterTokenizer):
    """Characters, and tokens that go on behind a transition word and a tag."""

    LONG = ("Wait, ", f"d.{TAG}\n")

    def encode(self, text: str) -> list[int]:
        for place, word in enumerate(self.LONG):
            before, found, after = text.partition(word)
            if found:
                return [*self.encode(before), 0xE000 + place, *self.encode(after)]
        return super().encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        text = super().decode(ids)
        for place, word in enumerate(self.LONG):
            text = text.replace(chr(0xE000 + place), word)
        return text


def test_a_token_may_reach_over_both_ends_of_what_is_cut() -> None:
    text = f"one, Wait, two and Wait, end.{TAG}\n5"

    def engine() -> Asked:
        made = Asked([text], lambda _: Line("7}x", logprob=-1.0))
        made.tokenizer = _Long()
        return made

    (plain,), _ = write(engine())
    never = engine()
    assert write(never, {"name": "deer", "words": ["Wait"]})[0] == [plain]
    assert [prompt.partition("\n")[2][:5] for prompt in never.probes] == ["one, ", "one, "]
    exits, _ = write(engine(), {"name": "deer", "threshold": -1.0})
    assert exits[0].text.startswith(f"one, \n{TAG}")
    # "d." stands in the tag's own token: it is put back.
    waits, solution = write(engine(), {"name": "budget_forcing", "n_ignore": 1}, max_tokens=60)
    assert waits[0].text.startswith("one, Wait, two and Wait, end.Wait")
    assert solution.usage.discarded == 1


def test_a_stop_of_the_recipe_ends_the_chain_also_beside_those_of_a_policy() -> None:
    sampling = Sampling(stop=("STOP",))
    text = f"one. Wait, two STOP three Wait {TAG}"
    for policy in ("plain", "deer", {"name": "budget_forcing", "n_ignore": 2}):
        engine = Asked([text], lambda _: Line("7}x", logprob=-1.0))
        (chain,), _ = write(engine, policy, sampling=sampling)
        assert chain.text == "one. Wait, two STOP" and chain.finish == "stop"


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "budget_forcing", "n_ignore": 1},  # `Wait`: the vocabulary has no capitals
        {"name": "budget_forcing", "max_thinking": 9, "final": "Final"},
        {"name": "trimr", "verifier": "rules", "forced": "Enough.\n"},
        {"name": "deer", "inducers": ["Answer: "]},
        {"name": "dynasor", "probe": "\\boxed{"},
        {"name": "deer", "threshold": 1.0, "inner": {"name": "dynasor", "probe": "\\boxed{"}},
    ],
)
def test_a_text_that_the_model_has_no_tokens_for_is_refused_before_anything_is_asked(
    spec: dict[str, Any],
) -> None:
    class Small(CharacterTokenizer):
        def encode(self, text: str) -> list[int]:
            return [ord(c) if c.islower() or c in " \n.=+0123456789" else 3 for c in text]

    engine = ScriptedEngine(script=["1+2=3\nwait 1\nanswer 3\n"])
    engine.tokenizer = Small()
    with pytest.raises(ConfigError, match="has no tokens for"):
        write(engine, spec, asked=problem(closing="answer ", step="\n"))
    assert engine.totals.requests == 0
