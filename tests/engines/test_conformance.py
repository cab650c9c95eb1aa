"""One suite for every engine that samples from a model: the promises of the engine seam.

vLLM (its CPU build where there is no GPU) is started once in process and once as a server.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from reasoning.engines.base import Engine, SampleRequest, Sampling, Stream
from reasoning.errors import CapabilityError, ConfigError, PromptError
from tests import vllm_warnings

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    vllm_warnings.ignored,
]

POLICY = "countdown-policy"
AT_ONCE = 8  # chains that engines decode at once here: few, so that others wait
PROMPTS = ("14 17 75 10 = 50", "3 7 25 50 = 79", "99 98 2 1 = 10")


def _without_vllm() -> str | None:
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        if os.environ.get("REASONING_REQUIRE_VLLM"):
            raise
        return f"vLLM is not installed ({error.name})"
    return None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local() -> AsyncIterator[Engine]:
    """What the others are compared with."""
    pytest.importorskip("torch")
    from reasoning.engines.local import LocalEngine

    async with LocalEngine(POLICY, threads=1, max_batch=AT_ONCE) as engine:
        yield engine


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[
        "local",
        pytest.param("vllm", marks=pytest.mark.vllm),
        pytest.param("openai", marks=pytest.mark.vllm),
    ],
)
async def engine(
    request: pytest.FixtureRequest, local: Engine, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Engine]:
    """One after the other, so that one vLLM runs at a time."""
    if request.param == "local":
        yield local
        return
    reason = _without_vllm()
    if reason:
        pytest.skip(reason)
    if request.param == "vllm":
        from reasoning.engines.vllm import VLLMEngine

        async with VLLMEngine(
            POLICY, dtype="float32", max_model_len=1024, max_num_seqs=AT_ONCE
        ) as started:
            yield started
        return
    from reasoning.engines.openai import OpenAIEngine
    from reasoning.engines.vllm.server import CPU_ARGUMENTS, serving

    settings = ("--dtype=float32", "--max-model-len=1024", f"--max-num-seqs={AT_ONCE}")
    log = tmp_path_factory.mktemp("server") / "vllm.log"
    with serving(POLICY, *settings, *CPU_ARGUMENTS, log=log) as base_url:
        async with OpenAIEngine("", base_url=base_url, seeding="stream") as started:
            yield started


def prompt(engine: Engine, text: str = PROMPTS[0]) -> tuple[int, ...]:
    return tuple(engine.tokenizer.render([{"role": "user", "content": text}]))


def ask(ids: tuple[int, ...], keys: range, tokens: int, **sampling: object) -> SampleRequest:
    made = Sampling(**sampling)  # type: ignore[arg-type]
    return SampleRequest(ids, tokens, made, tuple(Stream(key) for key in keys))


@pytest.mark.parametrize("text", PROMPTS)
async def test_greedy_chains_agree(local: Engine, engine: Engine, text: str) -> None:
    request = ask(prompt(engine, text), range(1), 48, temperature=0, logprobs=2)
    (mine,) = (await local.sample(request)).completions
    (other,) = (await engine.sample(request)).completions
    assert mine.ids == other.ids and mine.text == other.text
    assert mine.logprobs is not None and other.logprobs is not None
    for one, two in zip(mine.logprobs, other.logprobs, strict=True):
        assert one.logprob == pytest.approx(two.logprob, abs=1e-3)
        assert one.top.keys() == two.top.keys()


async def test_scores_and_choices_agree(local: Engine, engine: Engine) -> None:
    ids = prompt(engine)
    chain = tuple(engine.tokenizer.encode("75-10=65 : 14 17 65\n"))
    scores = [(await one.score(ids, chain)).scores for one in (local, engine)]
    for mine, other in zip(*scores, strict=True):
        assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)
    options = engine.tokenizer.encode("0123456789")
    mine, other = [await one.choose(ids, options) for one in (local, engine)]
    assert mine.probabilities == pytest.approx(other.probabilities, abs=1e-3)
    assert mine.mass == pytest.approx(other.mass, abs=1e-3)


async def test_a_chain_is_a_function_of_its_stream(engine: Engine) -> None:
    ids = prompt(engine)
    together = (await engine.sample(ask(ids, range(4), 40))).completions
    assert len({c.ids for c in together}) > 1
    for key in (2, 0):
        (alone,) = (await engine.sample(ask(ids, range(key, key + 1), 40))).completions
        assert alone == together[key]


async def test_forced_tokens_are_the_longer_prefix(engine: Engine) -> None:
    """What is decoded behind them has the probabilities that a pass over the whole gives it; and
    forcing what the model wrote anyhow changes nothing."""
    ids = prompt(engine)
    request = ask(ids, range(1), 24, temperature=0, logprobs=0, ignore_eos=True)
    (whole,) = (await engine.sample(request)).completions
    behind = replace(request, prompt_ids=ids + whole.ids[:9], position=9, max_tokens=15)
    assert (await engine.sample(behind)).completions[0].ids == whole.ids[9:]
    prefix = ids + whole.ids[:5] + tuple(engine.tokenizer.encode("10+14=24"))
    behind = replace(request, prompt_ids=prefix, position=len(prefix) - len(ids))
    (forced,) = (await engine.sample(behind)).completions
    assert forced.ids[:8] != whole.ids[5:13] and forced.logprobs is not None
    scores = (await engine.score(prefix, forced.ids)).scores
    for drawn, scored in zip(forced.logprobs, scores, strict=True):
        assert drawn.logprob == pytest.approx(scored.logprob, abs=1e-3)


async def test_stops(engine: Engine) -> None:
    ids = prompt(engine)
    newline = engine.tokenizer.encode("\n")[0]
    (by_text,) = (await engine.sample(ask(ids, range(1), 60, stop=("\n",)))).completions
    assert by_text.finish == "stop" and by_text.stop_reason == "\n"
    assert by_text.text.endswith("\n") and by_text.ids[-1] == newline
    (by_id,) = (await engine.sample(ask(ids, range(1), 60, stop_ids=(newline,)))).completions
    assert by_id.ids == by_text.ids and by_id.stop_reason == newline
    assert by_id.text == by_text.text
    (bare,) = (
        await engine.sample(ask(ids, range(1), 60, stop=("\n",), include_stop=False))
    ).completions
    assert bare.ids == by_text.ids and bare.text + "\n" == by_text.text
    (short,) = (await engine.sample(ask(ids, range(1), 3, ignore_eos=True))).completions
    assert short.finish == "length" and len(short.ids) == 3
    request = ask(ids, range(1), 40, stop_ids=(newline,), min_tokens=25)
    (late,) = (await engine.sample(request)).completions
    assert newline not in late.ids[:24]


async def test_the_nth_stop_is_where_so_many_asks_end(engine: Engine) -> None:
    ids = prompt(engine)
    nth = ask(ids, range(7, 11), 60, nth_stop=("\n", 3))
    if not engine.capabilities.nth_stop:
        with pytest.raises(CapabilityError, match=r"needs nth_stop, which engine"):
            await engine.sample(nth)
        return
    counted = (await engine.sample(nth)).completions
    for stream, whole in zip(nth.streams, counted, strict=True):
        written: tuple[int, ...] = ()
        for _ in range(3):
            one = SampleRequest(
                (*ids, *written), 60, Sampling(stop=("\n",)), (stream,), position=len(written)
            )
            (piece,) = (await engine.sample(one)).completions
            written += piece.ids
        assert whole.ids == written
        assert (
            (whole.finish, whole.stop_reason) == ("stop", "\n") == (piece.finish, piece.stop_reason)
        )
    other = replace(nth, sampling=replace(nth.sampling, stop=("=",), include_stop=False))
    for cut in (await engine.sample(other)).completions:
        assert cut.stop_reason == "=" and "\n" not in cut.text and not cut.text.endswith("=")


async def test_usage_is_what_the_engine_counted(engine: Engine) -> None:
    before = await engine.counters()
    ids = prompt(engine, "8 9 10 11 = 38")
    reply = await engine.sample(ask(ids, range(4), 30))
    assert reply.usage.new == sum(len(c.ids) for c in reply.completions)
    readings = 1 if engine.capabilities.one_prefill else 4
    assert reply.usage.prefill + reply.usage.cached == readings * len(ids)
    await asyncio.sleep(0.2)  # vLLM counts a step after it has answered
    after = await engine.counters()
    spent = {name: after[name] - before[name] for name in after}
    assert spent == {
        "new": reply.usage.new,
        "prefill": reply.usage.prefill,
        "cached": reply.usage.cached,
    }


async def test_continuations_in_one_http_request(engine: Engine) -> None:
    """The server engine's own way: n in one request. Each token received was decoded."""
    from reasoning.engines.openai import OpenAIEngine

    if not isinstance(engine, OpenAIEngine):
        pytest.skip("not over HTTP")
    async with OpenAIEngine("", base_url=engine.base_url) as grouped:
        before = (await grouped.counters())["new"]
        request = ask(prompt(grouped), range(6), 50)
        reply = await grouped.sample(request)
        await asyncio.sleep(0.2)
        after = (await grouped.counters())["new"]
        again = await grouped.sample(request)
    assert after - before == reply.usage.new == sum(len(c.ids) for c in reply.completions)
    assert len({c.ids for c in reply.completions}) > 1
    assert again.completions == reply.completions


async def test_a_sink_sees_all_tokens_and_may_stop(engine: Engine) -> None:
    ids = prompt(engine)
    seen: dict[int, list[int]] = {0: [], 1: []}
    told: dict[int, list[object]] = {0: [], 1: []}

    def sink(index: int, new: object, text: str, logprobs: object) -> bool:
        seen[index].extend(new)  # type: ignore[call-overload]
        told[index].extend(logprobs)  # type: ignore[call-overload]
        return index == 1 and len(seen[1]) >= 5

    reply = await engine.sample(ask(ids, range(2), 40, ignore_eos=True, logprobs=2), sink)
    assert [list(c.ids) for c in reply.completions] == [seen[0], seen[1]]
    assert [list(c.logprobs or ()) for c in reply.completions] == [told[0], told[1]]
    assert all(len(value.top) == 2 for value in told[0] + told[1])  # type: ignore[attr-defined]
    assert [c.finish for c in reply.completions] == ["length", "abort"]


async def test_the_urgent_overtakes_what_waits(engine: Engine) -> None:
    ids = prompt(engine)
    ended: list[int] = []

    async def write(key: int, priority: int) -> None:
        request = ask(ids, range(key, key + 1), 100, ignore_eos=True)
        await engine.sample(replace(request, priority=priority))
        ended.append(key)

    async with asyncio.TaskGroup() as group:
        for key in range(4 * AT_ONCE):
            group.create_task(write(key, 5))
        await asyncio.sleep(0.1)
        group.create_task(write(1000, 0))
    assert ended.index(1000) < 3 * AT_ONCE


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_cancelled_request_ends_in_the_engine(engine: Engine, streamed: bool) -> None:
    """By the engine's own count of tokens: vLLM's metrics, also over HTTP."""
    ids = prompt(engine)
    received: list[int] = []

    def sink(index: int, new: object, text: str, _: object) -> None:
        received.extend(new)  # type: ignore[arg-type]

    before = (await engine.counters())["new"]
    # So much that even a starved client is back before it is all decoded.
    request = ask(ids, range(48), 900, ignore_eos=True)
    task = asyncio.create_task(engine.sample(request, sink if streamed else None))
    begun = (await engine.counters())["new"]
    while begun < before + 10 or (streamed and len(received) < 10):
        await asyncio.sleep(0.01)
        begun = (await engine.counters())["new"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.5)
    settled = (await engine.counters())["new"]
    await asyncio.sleep(0.3)
    assert (await engine.counters())["new"] == settled
    assert len(received) <= settled - before < 48 * 900


async def test_a_chain_ends_with_the_context(engine: Engine) -> None:
    ids = prompt(engine)
    long = (ids * engine.context_length)[: engine.context_length - 5]
    (chain,) = (await engine.sample(ask(long, range(1), 100, ignore_eos=True))).completions
    assert len(chain.ids) == 5 and chain.finish == "length"


async def test_what_cannot_be_asked(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        await engine.sample(ask(prompt(engine), range(1), 0))
    with pytest.raises(PromptError, match="empty"):
        await engine.sample(ask((), range(1), 1))
    with pytest.raises(PromptError, match="outside"):
        await engine.sample(ask((99_999,), range(1), 1))
    with pytest.raises(PromptError, match="context"):
        await engine.sample(ask((3,) * 5000, range(1), 1))


@pytest.mark.vllm
async def test_an_argument_that_vllm_does_not_have_is_told_before_it_starts() -> None:
    reason = _without_vllm()
    if reason:
        pytest.skip(reason)
    from reasoning.engines.vllm import VLLMEngine

    with pytest.raises(ConfigError, match="`max_model_length`: did you mean max_model_len"):
        await VLLMEngine(POLICY, max_model_length=1024).start()
