"""Servers spoken to in text: plain completions and chat, and vLLM without a tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.engines.openai import standin
from reasoning.errors import CapabilityError, EngineReplyError, PromptError
from tests.engines import stub_server
from tests.engines.openai.asking import chat
from tests.engines.openai.conftest import MakeEngine
from tests.engines.stub_server import Stub

ROLES = st.sampled_from(["system", "user", "assistant"])
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": ROLES, "content": st.text()}), min_size=1, max_size=5
)


@given(MESSAGES, st.text())
def test_framing_is_reversible(messages: list[dict[str, str]], written: str) -> None:
    tokenizer = standin.ByteTokenizer(chat=True)
    ids = tokenizer.render(messages)
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    back = standin.messages([*ids, *tokenizer.encode(written)])
    if messages[-1]["role"] == "assistant":
        *before, last = messages
        assert back == [*before, {"role": "assistant", "content": last["content"] + written}]
    else:
        assert back == [*messages, {"role": "assistant", "content": written}]


@given(st.text())
def test_the_stand_in_is_exact(text: str) -> None:
    tokenizer = standin.ByteTokenizer(chat=False)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_that_are_no_messages() -> None:
    for ids in ([], [65], [standin.MESSAGE, 65], [standin.MESSAGE, 65, standin.CONTENT, 258, 66]):
        with pytest.raises(PromptError):
            standin.messages(ids)


async def test_auto_prefers_chat_and_falls_back_to_completions(
    plain: Stub, connect: MakeEngine
) -> None:
    assert (await connect(plain)).identity()["speaks"] == "/chat/completions"
    plain.endpoints = {"completions"}
    engine = await connect(plain)
    assert engine.identity()["speaks"] == "/completions"
    assert engine.capabilities.continue_turn and not engine.capabilities.token_ids


async def test_chat(plain: Stub, connect: MakeEngine) -> None:
    plain.texts = ["hello wörld 🙂", "bye"]
    engine = await connect(plain)
    capabilities = engine.capabilities
    assert capabilities.sample and capabilities.stream
    assert not (capabilities.token_ids or capabilities.continue_turn or capabilities.score)
    reply = await engine.sample(chat(engine, 2))
    (body,) = plain.bodies
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert body["n"] == 2
    assert [c.text for c in reply.completions] == plain.texts
    assert reply.completions[0].ids == tuple(plain.texts[0].encode())
    assert reply.usage.new == sum(-(-len(text) // 3) for text in plain.texts)  # the server's tokens
    assert reply.usage.prefill == 7
    with pytest.raises(CapabilityError, match="cannot score"):
        await engine.score([1], [2])


@pytest.mark.parametrize("size", [0, 1, 2, 3, 11])
async def test_characters_cut_over_chunks(plain: Stub, connect: MakeEngine, size: int) -> None:
    plain.texts = ["añ🙂本語 ok", "ÿ"]
    plain.chunk_bytes = size
    engine = await connect(plain)
    told: list[list[int]] = [[], []]
    reply = await engine.sample(chat(engine, 2), lambda i, ids, *_: told[i].extend(ids))
    assert [c.text for c in reply.completions] == plain.texts
    assert [bytes(ids).decode() for ids in told] == plain.texts


@pytest.mark.parametrize("include", [True, False])
async def test_a_plain_servers_stop_strings_are_matched_here(
    plain: Stub, connect: MakeEngine, include: bool
) -> None:
    """Such a server would not say whether the model ended the text or the string did."""
    plain.texts = ["one\n\ntwo\n\nthree" + " and more" * 200, "only one"]
    plain.token_seconds = 0.001
    engine = await connect(plain)
    request = chat(engine, 2, max_tokens=4000, stop=("\n\n", "zzz"), include_stop=include)
    first, second = (await engine.sample(request)).completions
    assert "stop" not in plain.bodies[0]
    assert (first.finish, first.stop_reason) == ("stop", "\n\n")
    assert first.text == ("one\n\n" if include else "one")
    assert first.ids == tuple(b"one\n\n")
    assert (second.text, second.finish, second.stop_reason) == ("only one", "stop", None)
    for _ in range(100):
        await asyncio.sleep(0.01)
        if plain.disconnects:
            break
    assert plain.disconnects == 1, "nobody decodes what is cut off"


async def test_no_more_bytes_than_the_cap(plain: Stub, connect: MakeEngine) -> None:
    plain.texts = ["ééééé"]
    engine = await connect(plain)
    for sink in (None, lambda *_: None):
        (completion,) = (await engine.sample(chat(engine, max_tokens=5), sink)).completions
        assert (len(completion.ids), completion.finish, completion.text) == (5, "length", "éé")


async def test_what_a_plain_server_cannot_do_is_refused(plain: Stub, connect: MakeEngine) -> None:
    engine = await connect(plain)
    for sampling in ({"top_k": 5}, {"min_p": 0.1}, {"stop_ids": (1,)}, {"logprobs": 0}):
        (name,) = sampling
        with pytest.raises(CapabilityError, match=name):
            await engine.sample(chat(engine, **sampling))
    assert not plain.bodies


async def test_a_plain_chat_server_cannot_continue_a_turn(plain: Stub, connect: MakeEngine) -> None:
    engine = await connect(plain)
    request = chat(engine)
    longer = type(request)(
        (*request.prompt_ids, *b"so"), 9, request.sampling, request.streams, position=2
    )
    with pytest.raises(CapabilityError, match="continue"):
        await engine.sample(longer)


async def test_vllm_without_a_tokenizer_continues_turns(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub, flavour="chat")
    assert engine.capabilities.continue_turn and engine.capabilities.seeds
    request = chat(engine, top_k=3, stop=("x",))
    longer = type(request)(
        (*request.prompt_ids, *b"so"), 9, request.sampling, request.streams, position=2
    )
    await engine.sample(longer)
    (body,) = stub.bodies
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False
    assert body["messages"][-1] == {"role": "assistant", "content": "so"}
    assert (body["top_k"], body["stop"]) == (3, ["x"])
    assert not body.get("stream")


async def test_completions_continue_text(plain: Stub, connect: MakeEngine) -> None:
    engine = await connect(plain, flavour="completions")
    reply = await engine.sample(chat(engine))
    assert plain.bodies[0]["prompt"] == "hi\n"
    assert reply.completions[0].text == "hello world"


async def test_the_newer_name_of_the_cap(plain: Stub, connect: MakeEngine) -> None:
    engine = await connect(plain)
    message = "Unsupported parameter: use 'max_completion_tokens' instead."
    plain.plan = [stub_server.status(400, message)]
    await engine.sample(chat(engine))
    assert "max_tokens" not in plain.bodies[-1]
    assert plain.bodies[-1]["max_completion_tokens"] == 64
    await engine.sample(chat(engine))
    assert len(plain.bodies) == 3


@pytest.mark.parametrize("said", [None, {"completion_tokens": 10**9}, {"completion_tokens": "7"}])
async def test_usage_that_is_missing_or_cannot_be(
    plain: Stub, connect: MakeEngine, caplog: pytest.LogCaptureFixture, said: Any
) -> None:
    engine = await connect(plain)
    plain.lie = lambda reply: reply.update(usage=said)
    for _ in range(2):
        usage = (await engine.sample(chat(engine))).usage
        assert 0 < usage.new <= 64
    assert engine.usage_mismatches == 2 * (said is not None)
    told = [r.getMessage() for r in caplog.records if r.name.startswith("reasoning")]
    assert len(told) == (said is not None)  # once for all
    assert all("openai/m" in line and "other token counts" in line for line in told)


@pytest.mark.parametrize(
    "lie",
    [
        lambda reply: reply["choices"].pop(),
        lambda reply: reply["choices"][0].pop("message"),
        lambda reply: reply["choices"][0].update(finish_reason="content_filter"),
        lambda reply: reply["choices"][0].update(finish_reason=None),
        lambda reply: reply["choices"][0].update(index=3),
        lambda reply: reply["choices"][0]["message"].update(content=5),
    ],
)
async def test_text_replies_that_cannot_be_right(
    plain: Stub, connect: MakeEngine, lie: Any
) -> None:
    engine = await connect(plain)
    plain.lie = lie
    with pytest.raises(EngineReplyError, match="cannot be right"):
        await engine.sample(chat(engine))


async def test_a_sink_stops_a_text(plain: Stub, connect: MakeEngine) -> None:
    plain.texts = ["abc" * 100]
    plain.token_seconds = 0.005
    engine = await connect(plain)
    got: list[str] = []

    def sink(index: int, ids: Sequence[int], text: str, _: object) -> bool:
        got.append(text)
        return len(got) == 4

    (completion,) = (await engine.sample(chat(engine, max_tokens=400), sink)).completions
    assert (completion.text, completion.finish) == ("abc" * 4, "abort")
