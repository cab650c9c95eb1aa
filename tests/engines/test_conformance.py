"""One suite for every engine that samples from a model: the promises of the engine seam.

vLLM (its CPU build where there is no GPU) is started once for the module: it binds a core.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from reasoning.engines.base import Engine, SampleRequest, Sampling, Stream
from reasoning.errors import PromptError

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.vllm,
    # vLLM and the torch it brings warn of their own future, and leave sockets to the collector.
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",
        "ignore::FutureWarning",
        "ignore::ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    ),
]

POLICY = "countdown-policy"
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
async def engines() -> AsyncIterator[dict[str, Engine]]:
    reason = _without_vllm()
    if reason:
        pytest.skip(reason)
    from reasoning.engines.local import LocalEngine
    from reasoning.engines.vllm import VLLMEngine

    started: dict[str, Engine] = {
        "local": LocalEngine(POLICY, threads=1),
        "vllm": VLLMEngine(POLICY, dtype="float32", max_model_len=1024),
    }
    for engine in started.values():
        await engine.start()
    yield started
    for engine in started.values():
        await engine.close()


@pytest.fixture(params=["local", "vllm"])
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    return engines[request.param]


def prompt(engine: Engine, text: str = PROMPTS[0]) -> tuple[int, ...]:
    return tuple(engine.tokenizer.render([{"role": "user", "content": text}]))


def ask(ids: tuple[int, ...], keys: range, tokens: int, **sampling: object) -> SampleRequest:
    made = Sampling(**sampling)  # type: ignore[arg-type]
    return SampleRequest(ids, tokens, made, tuple(Stream(key) for key in keys))


@pytest.mark.parametrize("text", PROMPTS)
async def test_greedy_chains_agree(engines: dict[str, Engine], text: str) -> None:
    replies = {}
    for name, engine in engines.items():
        request = ask(prompt(engine, text), range(1), 48, temperature=0, logprobs=2)
        replies[name] = (await engine.sample(request)).completions[0]
    local, vllm = replies["local"], replies["vllm"]
    assert local.ids == vllm.ids and local.text == vllm.text
    assert local.logprobs is not None and vllm.logprobs is not None
    for mine, other in zip(local.logprobs, vllm.logprobs, strict=True):
        assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert mine.top.keys() == other.top.keys()


async def test_scores_and_choices_agree(engines: dict[str, Engine]) -> None:
    ids = prompt(engines["local"])
    chain = tuple(engines["local"].tokenizer.encode("75-10=65 : 14 17 65\n"))
    scores = [(await engine.score(ids, chain)).scores for engine in engines.values()]
    for mine, other in zip(*scores, strict=True):
        assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)
    options = engines["local"].tokenizer.encode("0123456789")
    chosen = [await engine.choose(ids, options) for engine in engines.values()]
    assert chosen[0].probabilities == pytest.approx(chosen[1].probabilities, abs=1e-3)
    assert chosen[0].mass == pytest.approx(chosen[1].mass, abs=1e-3)


async def test_a_chain_is_a_function_of_its_stream(engine: Engine) -> None:
    ids = prompt(engine)
    together = (await engine.sample(ask(ids, range(4), 40))).completions
    assert len({c.ids for c in together}) > 1
    for key in (2, 0):
        (alone,) = (await engine.sample(ask(ids, range(key, key + 1), 40))).completions
        assert alone == together[key]


async def test_stops(engine: Engine) -> None:
    ids = prompt(engine)
    newline = engine.tokenizer.encode("\n")[0]
    (by_text,) = (await engine.sample(ask(ids, range(1), 60, stop=("\n",)))).completions
    assert by_text.finish == "stop" and by_text.stop_reason == "\n"
    assert by_text.text.endswith("\n") and by_text.ids[-1] == newline
    (by_id,) = (await engine.sample(ask(ids, range(1), 60, stop_ids=(newline,)))).completions
    assert by_id.ids == by_text.ids and by_id.stop_reason == newline
    (short,) = (await engine.sample(ask(ids, range(1), 3, ignore_eos=True))).completions
    assert short.finish == "length" and len(short.ids) == 3
    request = ask(ids, range(1), 40, stop_ids=(newline,), min_tokens=25)
    (late,) = (await engine.sample(request)).completions
    assert newline not in late.ids[:24]


async def test_usage_is_what_the_engine_counted(engine: Engine) -> None:
    before = await engine.counters()
    ids = prompt(engine, "8 9 10 11 = 38")
    reply = await engine.sample(ask(ids, range(4), 30))
    assert reply.usage.new == sum(len(c.ids) for c in reply.completions)
    await asyncio.sleep(0.2)  # vLLM counts a step after it has answered
    after = await engine.counters()
    spent = {name: after[name] - before[name] for name in after}
    assert spent == {
        "new": reply.usage.new,
        "prefill": reply.usage.prefill,
        "cached": reply.usage.cached,
    }


async def test_a_sink_sees_all_tokens_and_may_stop(engine: Engine) -> None:
    ids = prompt(engine)
    seen: dict[int, list[int]] = {0: [], 1: []}

    def sink(index: int, new: object, text: str) -> bool:
        seen[index].extend(new)  # type: ignore[call-overload]
        return index == 1 and len(seen[1]) >= 5

    reply = await engine.sample(ask(ids, range(2), 40, ignore_eos=True), sink)
    assert [list(c.ids) for c in reply.completions] == [seen[0], seen[1]]
    assert [c.finish for c in reply.completions] == ["length", "abort"]


async def test_a_cancelled_request_ends_in_the_engine(engine: Engine) -> None:
    ids = prompt(engine)
    received: list[int] = []
    enough = asyncio.Event()

    def sink(index: int, new: object, text: str) -> None:
        received.extend(new)  # type: ignore[arg-type]
        if len(received) >= 10:
            enough.set()

    before = (await engine.counters())["new"]
    task = asyncio.create_task(engine.sample(ask(ids, range(2), 900, ignore_eos=True), sink))
    await enough.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.5)
    settled = (await engine.counters())["new"]
    await asyncio.sleep(0.3)
    assert (await engine.counters())["new"] == settled
    assert len(received) <= settled - before < 2 * 900


async def test_what_cannot_be_asked(engine: Engine) -> None:
    with pytest.raises(PromptError, match="empty"):
        await engine.sample(ask((), range(1), 1))
    with pytest.raises(PromptError, match="outside"):
        await engine.sample(ask((99_999,), range(1), 1))
    with pytest.raises(PromptError, match="context"):
        await engine.sample(ask((3,) * 5000, range(1), 1))
