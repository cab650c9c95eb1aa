"""Against a server that presents itself as vLLM: token ids end to end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from reasoning.engines.base import EngineUsage, Stream, TokenLogprob
from reasoning.errors import CapabilityError, ConfigError, EngineReplyError, PromptError
from tests.engines.openai.asking import ask
from tests.engines.openai.conftest import MakeEngine
from tests.engines.stub_server import EOS, ByteIds, Stub


async def test_one_request_holds_all_continuations(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    reply = await engine.sample(ask(5))
    (body,) = stub.bodies
    assert (body["n"], body["prompt"]) == (5, list(b"2+2"))
    assert len(reply.completions) == 5
    assert all(c.ids[-1] == EOS and c.finish == "stop" for c in reply.completions)
    assert all(c.text == ByteIds().decode(c.ids) for c in reply.completions)
    new = sum(len(c.ids) for c in reply.completions)
    assert reply.usage == EngineUsage(prefill=3, new=new)
    assert engine.usage_mismatches == 0


async def test_the_same_request_gives_the_same_chains(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    first, again, other = await asyncio.gather(
        engine.sample(ask(3)), engine.sample(ask(3)), engine.sample(ask(3, first=5))
    )
    assert first.completions == again.completions != other.completions


async def test_a_continued_chain_does_not_see_its_first_luck_again(
    stub: Stub, connect: MakeEngine
) -> None:
    engine = await connect(stub)
    await engine.sample(ask())
    await engine.sample(replace(ask(), position=3))
    assert stub.bodies[0]["seed"] != stub.bodies[1]["seed"]
    assert all(0 <= body["seed"] < 1 << 62 for body in stub.bodies)


async def test_seeding_by_stream_makes_a_chain_a_function_of_its_stream(
    stub: Stub, connect: MakeEngine
) -> None:
    engine = await connect(stub, seeding="stream")
    request = ask(3)
    together = await engine.sample(request)
    alone = [await engine.sample(replace(request, streams=(s,))) for s in request.streams]
    assert together.completions == tuple(reply.completions[0] for reply in alone)
    assert together.usage.prefill == 3 * 3  # three requests of three tokens
    pieces: dict[int, list[int]] = {}
    await engine.sample(request, lambda index, ids, *_: pieces.setdefault(index, []).extend(ids))
    assert [tuple(pieces[i]) for i in range(3)] == [c.ids for c in together.completions]


async def test_sampling_parameters_are_sent_even_where_they_are_defaults(
    stub: Stub, connect: MakeEngine
) -> None:
    engine = await connect(stub)
    await engine.sample(replace(ask(), priority=3))
    plain = stub.bodies[-1]
    assert plain["temperature"] == plain["top_p"] == plain["repetition_penalty"] == 1.0
    assert plain["top_k"] == plain["min_p"] == 0
    assert plain["priority"] == 3
    await engine.sample(
        ask(
            temperature=0.0, stop=("\n",), include_stop=False, stop_ids=(9,), min_tokens=2,
            ignore_eos=True, allowed_ids=(97, 98), top_k=7, min_p=0.25,
        )
    )  # fmt: skip
    rich = stub.bodies[-1]
    assert rich["stop"] == ["\n"] and rich["include_stop_str_in_output"] is False
    assert (rich["stop_token_ids"], rich["allowed_token_ids"]) == ([9], [97, 98])
    assert (rich["min_tokens"], rich["ignore_eos"], rich["top_k"]) == (2, True, 7)
    assert "seed" not in rich, "greedy decoding takes no seed"


async def test_a_stream_puts_together_what_one_reply_says(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    whole = await engine.sample(ask(4, logprobs=2))
    told: list[tuple[int, tuple[int, ...], str, tuple[TokenLogprob, ...]]] = []

    def sink(index: int, ids: Sequence[int], text: str, values: Sequence[TokenLogprob]) -> None:
        told.append((index, tuple(ids), text, tuple(values)))

    for size in (0, 1, 7, 50):
        stub.chunk_bytes = size
        told.clear()
        assert await engine.sample(ask(4, logprobs=2), sink) == whole
        for index, completion in enumerate(whole.completions):
            mine = [news for i, *news in told if i == index]
            assert sum((ids for ids, _, _ in mine), ()) == completion.ids
            assert "".join(text for _, text, _ in mine) == completion.text
            assert sum((values for _, _, values in mine), ()) == completion.logprobs
        assert len(told) == sum(len(c.ids) for c in whole.completions)


async def test_a_sink_stops_continuations_and_the_last_one_disconnects(
    stub: Stub, connect: MakeEngine
) -> None:
    engine = await connect(stub)
    stub.token_seconds = 0.01
    seen = [0, 0]

    def sink(index: int, ids: Sequence[int], text: str, _: object) -> bool:
        seen[index] += len(ids)
        return seen[index] == 2 + index

    request = ask(2, max_tokens=200, ignore_eos=True)
    reply = await engine.sample(request, sink)
    assert [len(c.ids) for c in reply.completions] == [2, 3]
    assert [c.finish for c in reply.completions] == ["abort", "abort"]
    assert reply.usage.new == 5
    assert reply.usage.abandoned == 1  # the first one's third token
    await disconnected(stub)


async def disconnected(stub: Stub, count: int = 1) -> None:
    for _ in range(200):
        if stub.disconnects >= count and not stub.open:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the server did not see a disconnect")


@pytest.mark.parametrize("streamed", [False, True])
async def test_cancelling_disconnects(stub: Stub, connect: MakeEngine, streamed: bool) -> None:
    engine = await connect(stub)
    stub.token_seconds = 0.05
    got: list[int] = []
    sink = (lambda _, ids, *more: got.extend(ids)) if streamed else None
    task = asyncio.ensure_future(engine.sample(ask(max_tokens=400, ignore_eos=True), sink))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await disconnected(stub)
    assert bool(got) == streamed
    assert engine._sender.gate.open == 0


async def test_an_exception_of_a_sink_comes_out_and_disconnects(
    stub: Stub, connect: MakeEngine
) -> None:
    engine = await connect(stub)
    stub.token_seconds = 0.02

    def sink(index: int, ids: Sequence[int], text: str, _: object) -> None:
        raise ValueError("of the caller")

    with pytest.raises(ValueError, match="of the caller"):
        await engine.sample(ask(ignore_eos=True), sink)
    await disconnected(stub)


async def test_logprobs_by_token_id(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    (completion,) = (await engine.sample(ask(logprobs=2))).completions
    assert completion.logprobs is not None
    assert len(completion.logprobs) == len(completion.ids)
    first = completion.logprobs[0]
    assert first.logprob == -1.0
    assert first.top == {completion.ids[0]: -1.0, 65: -2.0}
    (bare,) = (await engine.sample(ask(logprobs=0))).completions
    assert bare.logprobs is not None and bare.logprobs[0].top == {}
    (none,) = (await engine.sample(ask())).completions
    assert none.logprobs is None


async def test_scores_are_of_the_continuation_and_cost_the_whole_length(
    stub: Stub, connect: MakeEngine
) -> None:
    engine = await connect(stub)
    reply = await engine.score(list(b"2+2="), list(b"4!"), top=1)
    assert len(reply.scores) == 2
    assert [s.logprob for s in reply.scores] == [-0.5, -0.5]
    assert reply.scores[0].top == {ord("4"): -0.5}
    assert reply.usage == EngineUsage(prefill=6, cached=0, new=1)
    with pytest.raises(PromptError):
        await engine.score([], [1])


async def test_choosing_renormalises_over_the_options(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    reply = await engine.choose(list(b"ok?"), [89, 78])
    assert stub.bodies[-1]["logprob_token_ids"] == [89, 78]
    mass = math.exp(-1) + math.exp(-2)
    assert reply.mass == pytest.approx(mass)
    assert reply.probabilities == pytest.approx([math.exp(-1) / mass, math.exp(-2) / mass])
    assert reply.usage == EngineUsage(prefill=3, new=1)


async def test_lying_usage_is_counted_and_not_believed(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    stub.lie = lambda reply: reply["usage"].update(completion_tokens=1, prompt_tokens=10**9)
    reply = await engine.sample(ask(2))
    assert reply.usage.new == sum(len(c.ids) for c in reply.completions)
    assert reply.usage.prefill == 3
    assert engine.usage_mismatches == 1
    stub.lie = lambda reply: reply.update(usage={"prompt_tokens_details": {"cached_tokens": 99}})
    assert (await engine.sample(ask())).usage.cached == 3


def choices(change: Any) -> Any:
    def lie(reply: dict[str, Any]) -> None:
        for choice in reply["choices"]:
            change(choice)

    return lie


WRONG = {
    "fewer choices": lambda reply: reply["choices"].pop(),
    "no choices": lambda reply: reply.pop("choices"),
    "choice twice": choices(lambda c: c.update(index=0)),
    "odd index": choices(lambda c: c.update(index=7)),
    "no ids": choices(lambda c: c.pop("token_ids")),
    "ids outside": choices(lambda c: c.update(token_ids=[10**6])),
    "negative ids": choices(lambda c: c.update(token_ids=[-1])),
    "ids as text": choices(lambda c: c.update(token_ids=["1"])),
    "ids as floats": choices(lambda c: c.update(token_ids=[1.0])),
    "ids as booleans": choices(lambda c: c.update(token_ids=[True])),
    "too many ids": choices(lambda c: c.update(token_ids=[97] * 65)),
    "endless text": choices(lambda c: c.update(text="x" * 10**6)),
    "another text": choices(lambda c: c.update(text="something else")),
    "no text": choices(lambda c: c.update(text=None)),
    "wrong finish": choices(lambda c: c.update(finish_reason="bored")),
    "no finish": choices(lambda c: c.update(finish_reason=None)),
    "NaN": choices(lambda c: c["logprobs"]["token_logprobs"].__setitem__(0, math.nan)),
    "above zero": choices(lambda c: c["logprobs"]["token_logprobs"].__setitem__(0, 2.5)),
    "too few logprobs": choices(lambda c: c["logprobs"]["token_logprobs"].pop()),
    "null logprobs": choices(lambda c: c.update(logprobs=None)),
    "odd choice": lambda reply: reply["choices"].__setitem__(0, 5),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_cannot_be_right_is_asked_once_more_and_raised(
    stub: Stub, connect: MakeEngine, wrong: str
) -> None:
    engine = await connect(stub)
    stub.lie = WRONG[wrong]
    with pytest.raises(EngineReplyError, match=r"/v1/completions answered what cannot be right"):
        await engine.sample(ask(2, logprobs=0))
    assert len(stub.bodies) == 2
    stub.lie = None
    assert len((await engine.sample(ask(2, logprobs=0))).completions) == 2


async def test_a_stream_of_fewer_choices_than_asked(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    stub.lie = lambda event: event.update(choices=[c for c in event["choices"] if c["index"] != 1])
    with pytest.raises(EngineReplyError, match=r"2 choices where 3 were asked for.*seeding"):
        await engine.sample(ask(3), lambda *_: None)


async def test_a_server_that_ignores_n_is_asked_one_by_one(stub: Stub, connect: MakeEngine) -> None:
    def only_one(reply: dict[str, Any]) -> None:
        reply["choices"] = reply["choices"][:1]

    stub.lie = only_one
    engine = await connect(stub)
    with pytest.raises(EngineReplyError, match=r"1 choices where 3 were asked for.*seeding"):
        await engine.sample(ask(3))
    engine = await connect(stub, seeding="stream")
    assert len((await engine.sample(ask(3))).completions) == 3


async def test_texts_are_compared_with_ids_now_and_then(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    for _ in range(20):
        await engine.sample(ask())
    stub.lie = choices(lambda c: c.update(text="something else"))
    with pytest.raises(EngineReplyError, match=r"'something else' is not that of its token ids"):
        for _ in range(200):
            await engine.sample(ask())


WRONG_SCORES = {
    "no scores": choices(lambda c: c.pop("prompt_logprobs")),
    "too few": choices(lambda c: c["prompt_logprobs"].pop()),
    "no number": choices(lambda c: c["prompt_logprobs"].__setitem__(-1, {"33": {"logprob": "x"}})),
    "another token": choices(lambda c: c["prompt_logprobs"].__setitem__(-1, {"9": {"logprob": 0}})),
    "NaN": choices(lambda c: c["prompt_logprobs"][-1]["33"].update(logprob=math.nan)),
}


@pytest.mark.parametrize("wrong", WRONG_SCORES)
async def test_scores_that_cannot_be_right(stub: Stub, connect: MakeEngine, wrong: str) -> None:
    engine = await connect(stub)
    stub.lie = WRONG_SCORES[wrong]
    with pytest.raises(EngineReplyError, match=r"cannot be right: .*prompt_logprobs"):
        await engine.score(list(b"2+2="), list(b"4!"))


@pytest.mark.parametrize(
    "lie",
    [
        choices(lambda c: c.update(logprobs=None)),
        choices(lambda c: c["logprobs"]["top_logprobs"][0].pop("token_id:78")),
        choices(lambda c: c["logprobs"]["top_logprobs"][0].update({"token_id:78": math.nan})),
        choices(lambda c: c["logprobs"]["top_logprobs"].clear()),
    ],
)
async def test_choices_that_cannot_be_right(stub: Stub, connect: MakeEngine, lie: Any) -> None:
    engine = await connect(stub)
    stub.lie = lie
    with pytest.raises(EngineReplyError, match=r"cannot be right: .*options"):
        await engine.choose(list(b"ok?"), [89, 78])


async def test_what_cannot_be_asked(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    for refused, asked in (
        (PromptError, engine.sample(replace(ask(), prompt_ids=()))),
        (PromptError, engine.sample(replace(ask(), prompt_ids=(10**6,)))),
        (PromptError, engine.sample(replace(ask(), prompt_ids=(65,) * 512))),
        (ConfigError, engine.sample(replace(ask(), max_tokens=0))),
        (ConfigError, engine.choose([65], [])),
        (ConfigError, engine.choose([65], [10**6])),
    ):
        with pytest.raises(refused):
            await asked
    assert not stub.bodies
    await engine.sample(ask(max_tokens=10**6))
    assert stub.bodies[-1]["max_tokens"] == 512 - 3, "no more than the context holds"


async def test_rewards_of_a_pooling_model(stub: Stub, connect: MakeEngine) -> None:
    stub.rewards = True
    engine = await connect(stub)
    assert engine.capabilities.pool and not engine.capabilities.sample
    reply = await engine.pool([64, 128, 192], [0, 2])
    assert reply.values == pytest.approx([1 / (1 + math.exp(-x)) for x in (0.25, 0.75)])
    assert reply.usage == EngineUsage(prefill=3)
    assert (await engine.pool([64], [])).values == ()
    with pytest.raises(CapabilityError, match="reward model"):
        await engine.sample(ask())
    for lie in (
        lambda reply: reply["data"][0]["data"].pop(),
        lambda reply: reply["data"].clear(),
        lambda reply: reply["data"][0]["data"].__setitem__(0, [math.nan]),
        lambda reply: reply["data"][0]["data"].__setitem__(0, [math.inf]),
        lambda reply: reply["data"][0]["data"].__setitem__(0, ["high"]),
    ):
        stub.lie = lie
        with pytest.raises(EngineReplyError, match="scores"):
            await engine.pool([64, 128, 192], [0, 2])


async def test_counters_are_the_servers_since_the_start(stub: Stub, connect: MakeEngine) -> None:
    stub.totals["generation_tokens"] = 500
    engine = await connect(stub)
    assert await engine.counters() == {"new": 0, "prefill": 0, "cached": 0}
    reply = await engine.sample(ask(3))
    assert (await engine.counters())["new"] == reply.usage.new
    assert (await engine.counters())["prefill"] == reply.usage.prefill


async def test_a_policy_has_no_reward_head(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    with pytest.raises(CapabilityError):
        await engine.pool([1, 2], [1])


async def test_more_than_the_streams_key_is_not_needed(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    reply = await engine.sample(replace(ask(), streams=(Stream((1 << 63) - 1),)))
    assert len(reply.completions) == 1
