"""The embedded engine against Transformers, and its promises about chains and usage."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")

from reasoning.engines.base import SampleRequest, Sampling, Stream  # noqa: E402
from reasoning.engines.local import LocalEngine  # noqa: E402
from reasoning.engines.local.decoder import Decoder  # noqa: E402
from reasoning.engines.local.scheduler import WITHOUT_PREFILL  # noqa: E402
from reasoning.engines.local.slots import Rows  # noqa: E402
from reasoning.errors import (  # noqa: E402
    CapabilityError,
    ConfigError,
    EngineUnavailable,
    ModelError,
    PromptError,
)

SHIPPED = Path(__file__).parents[3] / "reasoning" / "models"
POLICY = "countdown-policy"
GREEDY = Sampling(temperature=0, logprobs=3)


@pytest.fixture
async def engine() -> AsyncIterator[LocalEngine]:
    async with LocalEngine(POLICY, threads=1) as engine:
        yield engine  # type: ignore[misc]


def prompt(engine: LocalEngine, text: str = "14 17 75 10 = 50") -> tuple[int, ...]:
    return tuple(engine.tokenizer.render([{"role": "user", "content": text}]))


def ask(ids: tuple[int, ...], keys: range, tokens: int, **sampling: object) -> SampleRequest:
    made = Sampling(**sampling)  # type: ignore[arg-type]
    return SampleRequest(ids, tokens, made, tuple(Stream(key) for key in keys))


async def test_greedy_tokens_and_logprobs_are_those_of_transformers(engine: LocalEngine) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(SHIPPED / POLICY, dtype=torch.float32)
    for text in ("14 17 75 10 = 50", "3 7 25 = 100", "99 98 2 1 = 10"):
        ids = prompt(engine, text)
        reply = await engine.sample(SampleRequest(ids, 48, GREEDY, (Stream(0),)))
        (chain,) = reply.completions
        with torch.inference_mode():
            logits = reference(torch.tensor([ids + chain.ids])).logits[0].float()
        values = torch.log_softmax(logits, -1)
        assert chain.logprobs is not None
        for offset, (token, logprob) in enumerate(zip(chain.ids, chain.logprobs, strict=True)):
            row = values[len(ids) - 1 + offset]
            assert token == int(row.argmax())
            assert logprob.logprob == pytest.approx(float(row[token]), abs=1e-4)
            assert list(logprob.top) == row.topk(3).indices.tolist()


async def test_a_chain_in_slices_is_the_chain_in_one(engine: LocalEngine) -> None:
    ids = prompt(engine)
    (whole,) = (await engine.sample(ask(ids, range(7, 8), 60))).completions
    sliced: tuple[int, ...] = ()
    while len(sliced) < len(whole.ids):
        request = SampleRequest(ids + sliced, 7, Sampling(), (Stream(7),), position=len(sliced))
        reply = await engine.sample(request)
        sliced += reply.completions[0].ids
    assert sliced[: len(whole.ids)] == whole.ids


async def test_a_chain_does_not_depend_on_its_batch(engine: LocalEngine) -> None:
    ids = prompt(engine)
    alone = await engine.sample(ask(ids, range(3, 4), 60))
    together, _ = await asyncio.gather(
        engine.sample(ask(ids, range(0, 9), 60)),
        engine.sample(ask(prompt(engine, "5 6 7 = 42"), range(50, 70), 90)),
    )
    assert together.completions[3] == alone.completions[0]


async def test_usage_is_what_the_engine_counted(engine: LocalEngine) -> None:
    ids = prompt(engine)
    reply = await engine.sample(ask(ids, range(5), 40))
    counters = await engine.counters()
    assert counters["new"] == reply.usage.new == sum(len(c.ids) for c in reply.completions)
    assert (
        (reply.usage.prefill, reply.usage.cached)
        == (len(ids), 0)
        == (
            counters["prefill"],
            counters["cached"],
        )
    )
    longest = max(reply.completions, key=lambda c: len(c.ids))
    again = await engine.sample(ask(ids + longest.ids[:-1], range(1), 1))
    # All but the last token, whose output is wanted, comes from the cache.
    assert again.usage.prefill == 1 and again.usage.cached == len(ids + longest.ids) - 2


@pytest.mark.parametrize("n", [1, WITHOUT_PREFILL, WITHOUT_PREFILL + 1])
async def test_what_goes_on_from_a_cached_path_is_what_a_cold_engine_writes(n: int) -> None:
    async with (
        LocalEngine(POLICY, threads=1) as cold,
        LocalEngine(POLICY, max_batch=3, threads=1) as warm,
    ):
        start = prompt(warm)  # type: ignore[arg-type]
        (path,) = (await warm.sample(ask(start, range(1), 24))).completions
        request = ask(start + path.ids, range(n), 20, logprobs=2)
        found, right = await warm.sample(request), await cold.sample(request)
    assert (found.usage.prefill, found.usage.cached) == (1, len(request.prompt_ids) - 1)
    assert right.usage.prefill == len(request.prompt_ids)
    for one, other in zip(found.completions, right.completions, strict=True):
        assert (one.ids, one.text, one.finish) == (other.ids, other.text, other.finish)
        for a, b in zip(one.logprobs or (), other.logprobs or (), strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


async def test_more_chains_than_rows_wait_their_turn() -> None:
    async with LocalEngine(POLICY, max_batch=4, threads=1) as small:
        ids = prompt(small)  # type: ignore[arg-type]
        many = await small.sample(ask(ids, range(11), 30))
    async with LocalEngine(POLICY, threads=1) as large:
        assert (await large.sample(ask(ids, range(11), 30))).completions == many.completions


async def test_stops(engine: LocalEngine) -> None:
    ids = prompt(engine)
    (line,) = (await engine.sample(ask(ids, range(1), 60, stop=("\n",)))).completions
    assert line.finish == "stop" and line.text.endswith("\n") and line.text.count("\n") == 1
    newline = engine.tokenizer.encode("\n")[0]
    (by_id,) = (await engine.sample(ask(ids, range(1), 60, stop_ids=(newline,)))).completions
    assert by_id.ids == line.ids and by_id.stop_reason == newline
    (banned,) = (
        await engine.sample(ask(ids, range(1), 60, stop_ids=(newline,), min_tokens=30))
    ).completions
    assert newline not in banned.ids[:30]
    (bare,) = (
        await engine.sample(ask(ids, range(1), 60, stop=("\n",), include_stop=False))
    ).completions
    assert bare.text == line.text[:-1] and bare.ids == line.ids


async def test_sampling_follows_the_distribution(engine: LocalEngine) -> None:
    ids = prompt(engine)
    options = list(range(64))
    chances = (await engine.choose(ids, options)).probabilities
    drawn = await engine.sample(ask(ids, range(3000), 1))
    counts = [0] * 64
    for completion in drawn.completions:
        counts[completion.ids[0]] += 1
    for option, chance in enumerate(chances):
        spread = (chance * (1 - chance) / 3000) ** 0.5
        assert counts[option] / 3000 == pytest.approx(chance, abs=5 * spread + 1e-3)
    best = max(options, key=lambda option: chances[option])
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"allowed_ids": (best,)}):
        reply = await engine.sample(ask(ids, range(20), 1, **narrow))
        assert {c.ids[0] for c in reply.completions} == {best}


async def test_scores_are_the_logprobs_of_sampling(engine: LocalEngine) -> None:
    ids = prompt(engine)
    (chain,) = (await engine.sample(ask(ids, range(1), 30, logprobs=0))).completions
    reply = await engine.score(ids, chain.ids)
    assert chain.logprobs is not None
    for scored, sampled in zip(reply.scores, chain.logprobs, strict=True):
        assert scored.logprob == pytest.approx(sampled.logprob, abs=1e-4)


async def test_a_sink_sees_every_token_and_may_stop(engine: LocalEngine) -> None:
    ids = prompt(engine)
    seen: list[int] = []
    texts: list[str] = []
    values: list[object] = []

    def sink(index: int, new: object, text: str, logprobs: object) -> bool:
        seen.extend(new)  # type: ignore[arg-type]
        texts.append(text)
        values.extend(logprobs)  # type: ignore[arg-type]
        return len(seen) == 6

    reply = await engine.sample(ask(ids, range(1), 200, ignore_eos=True, logprobs=3), sink)
    (chain,) = reply.completions
    assert chain.logprobs == tuple(values) and all(len(v.top) == 3 for v in chain.logprobs)
    assert chain.finish == "abort" and list(chain.ids) == seen and len(seen) == 6
    assert "".join(texts) == chain.text
    counters = await engine.counters()
    assert counters["new"] == reply.usage.new + reply.usage.abandoned


async def test_cancelling_frees_the_rows(engine: LocalEngine) -> None:
    ids = prompt(engine)
    task = asyncio.create_task(engine.sample(ask(ids, range(8), 3000, ignore_eos=True)))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.sample(ask(ids, range(1), 2))
    counted = (await engine.counters())["new"]
    await asyncio.sleep(0.1)
    assert (await engine.counters())["new"] == counted < 8 * 3000


async def test_closing_fails_what_is_open() -> None:
    engine = LocalEngine(POLICY, threads=1)
    with pytest.raises(EngineUnavailable, match="not started"):
        await engine.sample(ask((3,), range(1), 1))
    await engine.start()
    task = asyncio.create_task(engine.sample(ask((3,), range(1), 3000, ignore_eos=True)))
    await asyncio.sleep(0.1)
    await engine.close()
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await task


@pytest.mark.parametrize("fails", ["prefill", "decode"])
async def test_an_engine_that_dies_leaves_no_ask_waiting(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, prefills = Decoder.forward, 0

    def forward(self: Decoder, ids: Any, parts: list[Rows]) -> Any:
        nonlocal prefills
        decoding = all(rows.width == 1 for rows in parts)
        prefills += not decoding
        if prefills == 2 and decoding == (fails == "decode"):
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, ids, parts)

    monkeypatch.setattr(Decoder, "forward", forward)
    async with LocalEngine(POLICY, threads=1) as engine:
        first, second = prompt(engine), prompt(engine, "5 6 7 = 42")  # type: ignore[arg-type]
        begun = asyncio.Event()
        chain = asyncio.create_task(
            engine.sample(ask(first, range(1), 90), lambda *_: bool(begun.set()))
        )
        await begun.wait()
        later = (
            engine.sample(ask(second, range(1), 1)),
            engine.sample(ask(second, range(8), 30)),
            engine.score(first, second),
        )
        asks: list[asyncio.Task[Any]] = [chain, *map(asyncio.create_task, later)]
        _, waiting = await asyncio.wait(asks, timeout=20)
        assert not waiting
        errors = [ask.exception() for ask in asks]
        # What was whole before the failure is handed over; whether the score was is a matter of
        # which pass it came into.
        assert [error is None for error in errors[:3]] == [False, fails == "decode", False]
        assert all(isinstance(e, EngineUnavailable) for e in errors if e is not None)
        with pytest.raises(EngineUnavailable, match="out of memory"):
            await engine.sample(ask(first, range(1), 4))
        prefills = 3
        await engine.start()
        assert (await engine.sample(ask(first, range(1), 4))).usage.new == 4


async def test_what_cannot_be_asked(engine: LocalEngine) -> None:
    with pytest.raises(PromptError, match="outside"):
        await engine.sample(ask((99999,), range(1), 1))
    with pytest.raises(PromptError, match="context"):
        await engine.sample(ask((3,) * 5000, range(1), 1))
    with pytest.raises(ConfigError, match="max_tokens"):
        await engine.sample(ask((3,), range(1), 0))
    with pytest.raises(CapabilityError, match="pool"):
        await engine.pool((3,), (0,))
    with pytest.raises(PromptError, match="vocabulary"):
        prompt(engine, "Ünïcödé")


def test_folders_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        LocalEngine("nowhere/at-all")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        LocalEngine(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="pickled"):
        LocalEngine(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="tokenizer"):
        LocalEngine(str(tmp_path))
    with pytest.raises(ConfigError, match="dtype"):
        LocalEngine(POLICY, dtype="int3")


async def test_requests_are_answered_in_the_order_they_were_asked(engine: LocalEngine) -> None:
    answered: list[int] = []

    async def one(number: int, text: str) -> None:
        await engine.sample(ask(prompt(engine, text), range(number, number + 1), 5))
        answered.append(number)

    # Prompts of other lengths are prefilled in one pass, and their chains end in one step.
    texts = ("14 17 75 10 25 = 50", "5 6 7 = 42", "14 17 75 10 25 = 51", "99 98 2 1 = 10")
    await asyncio.gather(*(one(number, text) for number, text in enumerate(texts)))
    assert answered == [0, 1, 2, 3]
