"""Predicted seconds: the roofline's two regimes, and what a run's work adds up to."""

import pytest

from reasoning.costs.kinetics import HARDWARE, ModelShape
from reasoning.costs.roofline import Roofline
from reasoning.errors import ConfigError
from reasoning.evals.roofline import Pair, rows

SHAPE = ModelShape(parameters=32e9, kv_elements=2 * 8 * 128 * 64, gqa=5)
PAIR = Pair.named("QwQ-32B", "DeepSeek-R1-Distill-Qwen-1.5B", "H100-SXM")


def test_decoding_one_token_reads_all_weights() -> None:
    _, bandwidth = HARDWARE["H100-SXM"]
    assert Roofline(SHAPE, "H100-SXM").seconds(1, 0) == pytest.approx(64e9 / bandwidth, rel=1e-4)
    # A context's KV is read as well, each chain its own.
    alone, many = (Roofline(SHAPE, "H100-SXM").seconds(1, 10_000, c) for c in (1, 8))
    assert many - alone == pytest.approx(7 * 2 * SHAPE.kv_elements * 10_001 / bandwidth)


def test_a_long_prefill_is_bound_by_arithmetic_and_splits_over_devices() -> None:
    peak, _ = HARDWARE["H100-SXM"]
    flops = 2 * SHAPE.parameters * 4096 + SHAPE.gqa * SHAPE.kv_elements * 4096**2
    assert Roofline(SHAPE, "H100-SXM").seconds(4096, 0) == pytest.approx(flops / peak)
    assert Roofline(SHAPE, "H100-SXM", 2).seconds(4096, 0) == pytest.approx(flops / peak / 2)


def test_the_named_pair_has_the_sizes_of_its_names() -> None:
    # lm_head counted, the embedding's lookup not: 32.0e9 and 1.54e9 weights a token.
    assert PAIR.target.shape.parameters == pytest.approx(32.0e9, rel=0.02)
    assert PAIR.draft.shape.parameters == pytest.approx(1.54e9, rel=0.02)
    assert PAIR.token_ratio == pytest.approx(1.54 / 32.0, rel=0.02)


def _record(label: str, problem: str, **roles: dict[str, float]) -> dict[str, object]:
    what = {"run": "r", "configuration": label, "label": label, "strategy": "single"}
    what |= {"task": "countdown", "split": "test", "grade": "wrong", "problem": problem}
    return {**what, "oracle": False, "roles": roles}


def test_work_of_the_draft_costs_its_share_and_readings_one_pass_each() -> None:
    plain = {"tokens": 100, "prefill": 20, "asks": 1}
    found = [
        _record("plain", "a", policy=plain),
        _record("plain", "b", policy={**plain, "tokens": 200}),
        _record(
            "drafted", "a", draft={**plain}, policy={"prefill": 120, "cached": 300, "asks": 10}
        ),
        _record(
            "drafted", "b", draft={**plain}, policy={"prefill": 120, "cached": 300, "asks": 10}
        ),
        _record("half", "b", policy={**plain, "tokens": 100}),
    ]
    base, drafted, half = rows(found, PAIR, "plain")
    step = PAIR.target.seconds(1, 0)
    assert not base.ratios
    assert base.cost("policy.tokens") == 150 and base.cost("draft.tokens") == 0
    assert base.cost("seconds") == pytest.approx(151 * step, rel=0.01)
    # 10 readings are 10 passes of the target; 100 drafted tokens and a prefill 101 of the draft.
    expected = 10 + 101 * PAIR.token_ratio
    assert drafted.cost("seconds") == pytest.approx(expected * step, rel=0.01)
    assert drafted.ratios["seconds"].value == pytest.approx(expected / 151, rel=0.01)
    # Only the problem that both have is compared.
    assert half.ratios["seconds"].value == pytest.approx(101 / 201, rel=0.01)


def test_verifier_passes_take_the_time_of_their_model() -> None:
    # 28 layers, and a head of two labels in place of a vocabulary.
    assert PAIR.verifier.shape.parameters == pytest.approx(6.5e9, rel=0.02)
    base = {"policy": {"tokens": 100, "prefill": 20, "asks": 1}}
    passes = {"verifier_passes": 10, "verifier_prefill": 50, "verifier_cached": 1000}
    took = PAIR.seconds({**base, "verifier": passes}) - PAIR.seconds(base)
    assert took == pytest.approx(10 * PAIR.verifier.seconds(5, 100))
    written = {**passes, "verifier_tokens": 20}
    more = PAIR.seconds({**base, "judge": written}) - PAIR.seconds(base)
    assert more == pytest.approx(took + 20 * PAIR.verifier.seconds(1, 106))
    small = Pair.named("QwQ-32B", "QwQ-32B", "H100-SXM", 1, "DeepSeek-R1-Distill-Qwen-1.5B")
    assert 0 < small.seconds({"verifier": passes}) < took


def test_what_is_not_known_is_named() -> None:
    with pytest.raises(ConfigError, match="'GPT-9' is not known; known are QwQ-32B"):
        Pair.named("GPT-9", "QwQ-32B", "H100-SXM")
    with pytest.raises(ConfigError, match="no row 'plain' on countdown test; rows are other"):
        rows([_record("other", "a")], PAIR, "plain")
