"""The benchmarks run, and say what they measured. How fast anything is is not a test's business."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import bounds, drafting, overhead, solving, utilisation, wallclock
from bench.pairs import Sample, alternate, share
from bench.report import Row, Table
from reasoning.budget import Usage
from reasoning.engines.scripted import Line, ScriptedEngine
from reasoning.errors import EngineUnavailable

ROOT = Path(__file__).parents[2]


def test_contenders_alternate_and_the_first_round_is_thrown_away() -> None:
    order: list[str] = []

    def contender(name: str, seconds: float):  # type: ignore[no-untyped-def]
        async def measure() -> Sample:
            order.append(name)
            return Sample(tokens=100, requests=2, seconds=seconds, cpu=0.5)

        return measure

    made = asyncio.run(alternate({"a": contender("a", 2.0), "b": contender("b", 1.0)}, 4))
    assert "".join(order) == "ab" + "ba" + "ab" + "ba" + "ab"
    assert [len(samples) for samples in made.values()] == [4, 4]
    ratio = share(made["a"], made["b"])
    assert (ratio.low, ratio.value, ratio.high) == (0.5, 0.5, 0.5)
    assert made["a"][0].rate == 50 and made["a"][0].cpu_ms == 250

    order.clear()
    warm = {name: contender(name, 1.0) for name in "ab"}
    made = asyncio.run(alternate(warm, 2, warm_ups=0))
    assert "".join(order) == "ba" + "ab"
    assert [len(samples) for samples in made.values()] == [2, 2]


@pytest.mark.parametrize("stopped_at", [4, 7])
def test_what_was_measured_is_not_lost_with_ctrl_c(stopped_at: int) -> None:
    """Of rounds of two, the first is thrown away, and the one that Ctrl-C cuts is not whole."""
    # A shell's background jobs ignore it.
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    measured = 0

    async def measure() -> Sample:
        nonlocal measured
        measured += 1
        if measured > stopped_at:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(10)
        return Sample(tokens=1, requests=1, seconds=1.0, cpu=0.0)

    try:
        if stopped_at == 4:  # one whole round is no comparison
            with pytest.raises(KeyboardInterrupt):
                asyncio.run(alternate({"a": measure, "b": measure}, 9))
        else:
            made = asyncio.run(alternate({"a": measure, "b": measure}, 9))
            assert [len(samples) for samples in made.values()] == [2, 2]
    finally:
        signal.signal(signal.SIGINT, kept)


def test_nor_with_a_contender_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    measured = 0

    async def measure() -> Sample:
        nonlocal measured
        measured += 1
        if measured > 7:
            raise ConnectionError("the server is gone")
        return Sample(tokens=1, requests=1, seconds=1.0, cpu=0.0)

    made = asyncio.run(alternate({"a": measure, "b": measure}, 9))
    assert [len(samples) for samples in made.values()] == [2, 2]
    assert (
        "ended after 2 of 9 rounds: ConnectionError('the server is gone')"
        in capsys.readouterr().err
    )
    with pytest.raises(ConnectionError):
        asyncio.run(alternate({"a": measure}, 9))


def test_time_is_shared_out_once() -> None:
    found = bounds.shares(
        [
            ("aten::linear", 1, 0, 30),  # calls the product within
            ("aten::mm", 1, 5, 25),
            ("aten::scaled_dot_product_attention", 1, 40, 60),
            ("aten::_scaled_dot_product_flash_attention_for_cpu", 1, 42, 58),
            ("aten::mul", 2, 60, 80),
        ],
        wall=100.0,
    )
    assert found == pytest.approx(
        {
            "matrix products": 0.2,
            "attention": 0.2,
            "other operations": 0.3,
            "Python and waiting": 0.3,
        }
    )


def test_a_table_goes_to_files_and_shows_its_notes(tmp_path: Path) -> None:
    table = Table("t", "A title", ("what", "value"), notes=["not measured: no GPU"])
    table.add(Row(("x", "1.00"), {"samples": [Sample(1, 1, 1.0, 1.0)]}))
    table.write(tmp_path)
    text = (tmp_path / "t.md").read_text()
    assert text.startswith("A title, 1 alternating rounds:")
    assert "| x | 1.00 |" in text and "no GPU" in text
    stored = json.loads((tmp_path / "t.json").read_text())
    assert stored["header"]["hardware"]["cores"] and stored["table"]["rows"][0]["data"]


@pytest.mark.parametrize(
    "parts", [("transport",), ("imports",), ("overhead", "utilisation", "wallclock")]
)
def test_it_runs_and_writes_into_a_document(tmp_path: Path, parts: tuple[str, ...]) -> None:
    names = [{"transport": "transport-stub"}.get(part, part) for part in parts]
    document = tmp_path / "README.md"
    markers = [f"<!-- table:bench-{name} -->\n<!-- /table:bench-{name} -->" for name in names]
    document.write_text("\n".join(markers))
    command = [sys.executable, "-m", "bench", *parts, "--quick", "--pairs", "2"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--into", str(document)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert document.read_text().count("goal") == len(parts)


def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "transprot"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "known are imports, transport" in done.stderr


# A trace with a loop, thoughts that say "wait" and an answer, for whoever looks for them.
TRACE = "3+4=7 : 7 9\nwait 3 4 9\nanswer 3+4+9\n" * 9 + "answer 3+4\n"


def writer() -> ScriptedEngine:
    return ScriptedEngine(script=(TRACE, "1+2=3 : 3\nanswer 1+2\n", "7\n" * 100))


def test_policies_that_never_act_write_the_chains_of_plain_streaming() -> None:
    table = asyncio.run(overhead.run([writer()], pairs=1, concurrency=4, waves=2))
    assert [row.cells[4] for row in table.rows[1:]] == ["8 of 8"] * 2
    spent = [sample.tokens for row in table.rows for sample in row.data["samples"]]
    assert len(set(spent)) == 1 and len(TRACE) <= spent[0]


def test_a_policy_that_acts_is_not_measured() -> None:
    async def main() -> None:
        policy = {"name": "budget_forcing", "max_thinking": 10}
        configuration = solving.configuration("single", writer(), chain_policy=policy)
        async with solving.runner(2) as runner:
            await overhead.Writing(runner, configuration, solving.dev(2))()

    with pytest.raises(RuntimeError, match="acted on problem"):
        asyncio.run(main())


def test_an_engine_that_does_not_start_is_a_note() -> None:
    class Absent(ScriptedEngine):
        async def start(self) -> None:
            raise EngineUnavailable("there is no GPU")

    table = asyncio.run(overhead.run([Absent("x")], 1, 1, 1))
    assert (table.rows, table.notes) == ([], ["scripted/x did not run here: there is no GPU"])


def test_utilisation_counts_while_all_problems_are_in_flight() -> None:
    def script(prompt: str, key: int) -> Line:
        return Line(TRACE[: 40 * (1 + sum(map(ord, prompt)) % 7)])  # problems end one by one

    policy, prm = ScriptedEngine(script=script), ScriptedEngine("prm", rewards=lambda text: 0.5)
    table = asyncio.run(utilisation.run(policy, prm, rounds=1, concurrency=2, waves=3))
    found = [row.data["samples"][0] for row in table.rows]
    for sample in found:
        assert sample.requests == 6 and 0 <= sample.right <= 6
        assert 0 < sample.tokens - sample.scored <= sample.usage.tokens
        assert 0 < sample.scored <= sample.usage.verifier_prefill
    # Best-of-N's last problem decodes on with none beside it.
    assert found[0].tokens - found[0].scored < found[0].usage.tokens


def test_problems_a_minute_are_the_policys_rate_over_its_tokens_a_problem() -> None:
    sample = utilisation.Busy(500, 5, 10.0, 1.0, 100, Usage(tokens=1000), 0)
    assert sample.problems_a_minute == 60 * (500 - 100) / 10 / 200


def test_searches_stay_within_the_tokens_of_as_many_mean_chains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, means = wallclock.strategies, []

    def strategies(n: int, chain_tokens: int) -> Any:
        means.append(chain_tokens)
        return made(n, chain_tokens)

    monkeypatch.setattr(wallclock, "strategies", strategies)
    policy = ScriptedEngine(script=("1+2=3 : 3\n" * 9 + "answer 1+2\n",))
    prm = ScriptedEngine("prm", rewards=lambda text: len(text) % 7 / 7)
    table = asyncio.run(wallclock.run(policy, prm, rounds=1, scale=1 / 64, problems=3))
    chains, *searches = (row.data["samples"][0] for row in table.rows)
    assert [3 * 4 * mean for mean in means] == [chains.tokens]
    assert all(0 < search.tokens <= chains.tokens for search in searches)
    assert [row.cells[-1] for row in table.rows] == ["", "measured at 4", "measured at 4"]


def test_a_scale_is_a_number_of_chains_that_beams_divide() -> None:
    assert [wallclock.chains(scale) for scale in (1, 1 / 8, 0.1, 0)] == [256, 32, 24, 4]


def test_cache_hits_are_a_share_of_what_was_read() -> None:
    assert (wallclock.hits(3, 1), wallclock.hits(0, 0)) == ("75%", "-")


def test_drafting_stands_beside_plain_decoding_and_the_pairs_own_ratio() -> None:
    policy, draft = writer(), ScriptedEngine("draft", script=("3+4=7 : 7 9\nanswer 3+4\n",))
    table = asyncio.run(drafting.run(policy, draft, rounds=2, problems=2, max_tokens=64))
    plain, *drafted = table.rows
    assert plain.cells[4] == "1" and plain.cells[3] == "0" and plain.data["samples"][0].tokens > 0
    for row in drafted:
        roles = row.data["samples"][0].roles
        assert roles["draft"].tokens > 0
        assert row.cells[5] == plain.cells[5]
