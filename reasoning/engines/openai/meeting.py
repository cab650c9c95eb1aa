"""Meeting a server: which dialect it is spoken to in, and what it can do then."""

from __future__ import annotations

from dataclasses import dataclass

from reasoning.engines import weights
from reasoning.engines.base import REWARDS_ONLY, Capabilities, Tokenizer
from reasoning.engines.openai import discovery, pooling
from reasoning.engines.openai.assembly import parsed
from reasoning.engines.openai.discovery import Server
from reasoning.engines.openai.faults import Fault, Malformed
from reasoning.engines.openai.settings import Settings
from reasoning.engines.openai.standin import ByteTokenizer
from reasoning.engines.openai.text import Text
from reasoning.engines.openai.token_ids import TokenIds
from reasoning.engines.openai.transport import Transport
from reasoning.errors import ConfigError, EngineUnavailable

DEFAULT_CONTEXT = 32768
PROBE_SECONDS = 30.0
PADDING = 1024  # ids that a padded embedding may have above the tokenizer's
NOTHING = Capabilities(
    sample=False,
    stream=False,
    token_ids=False,
    logprobs=False,
    score=False,
    choose=False,
    seeds=False,
    continue_turn=False,
)


@dataclass(frozen=True, slots=True)
class Met:
    """What was found out."""

    server: Server
    dialect: TokenIds | Text
    tokenizer: Tokenizer
    capabilities: Capabilities
    context_length: int
    pooling: pooling.Way | None = None


async def meet(transport: Transport, given: Settings, model: str) -> Met:
    """Raises Fault, EngineUnavailable, ModelError or ConfigError."""
    server = await discovery.discover(transport, model)
    where = transport.url("")
    if given.flavour == "vllm" and not server.vllm:
        raise EngineUnavailable(
            f"{where} does not present itself as vLLM (its model list has no max_model_len); "
            f"use flavour: completions or chat"
        )
    if server.vllm and given.flavour in ("auto", "vllm"):
        tokenizer = _tokenizer(given, server)
        if tokenizer is not None:
            return await _in_ids(transport, given, server, tokenizer)
    if given.tokenizer is not None:
        raise ConfigError(
            f"{where} is spoken to in text (flavour {given.flavour}), so `tokenizer` has no use; "
            f"leave it out, or serve the model with vLLM"
        )
    met = _in_text(given, server, chat=given.flavour != "completions")
    if given.flavour == "auto" and not await _offers(transport, met.dialect):
        met = _in_text(given, server, chat=False)
    return met


def _tokenizer(given: Settings, server: Server) -> Tokenizer | None:
    if given.tokenizer is not None and not isinstance(given.tokenizer, str):
        return given.tokenizer  # type: ignore[no-any-return]
    folder = given.tokenizer or server.folder
    if folder is None:
        return None
    # Here, so that a server spoken to in text needs no tokenizer library.
    from reasoning.engines.hf_tokenizer import HFTokenizer

    shipped = weights.SHIPPED / str(folder)
    return HFTokenizer(shipped if shipped.is_dir() else folder)


async def _in_ids(
    transport: Transport, given: Settings, server: Server, tokenizer: Tokenizer
) -> Met:
    await discovery.check_tokenizer(transport, server.model, tokenizer)
    shape = weights.config(server.folder) if server.folder is not None else {}
    said = shape.get("vocab_size")
    vocabulary = said if isinstance(said, int) else tokenizer.vocab_size + PADDING
    dialect = TokenIds(server.model, max(vocabulary, tokenizer.vocab_size), tokenizer.decode)
    capabilities = Capabilities()
    scores: pooling.Way | None = None
    try:
        in_ids = await transport.post(dialect.path, dialect.health_body(), _holds_ids)
    except Fault:
        # A server of a reward model does not decode.
        scores = await pooling.offered(transport, server.model)
        if scores is None:
            raise
        capabilities, in_ids = REWARDS_ONLY, True
    if not in_ids:
        raise EngineUnavailable(
            f"{transport.url(dialect.path)} does not return token ids although it presents itself "
            f"as vLLM {server.version}; use vLLM 0.10.2 or newer, or flavour: chat"
        )
    context = given.context_length or server.context or DEFAULT_CONTEXT
    return Met(server, dialect, tokenizer, capabilities, context, scores)


def _holds_ids(body: bytes) -> bool:
    try:
        return "token_ids" in parsed(body)["choices"][0]
    except (Malformed, KeyError, IndexError, TypeError):
        return False


def _in_text(given: Settings, server: Server, *, chat: bool) -> Met:
    tokenizer = ByteTokenizer(chat=chat)
    capabilities = Capabilities(
        token_ids=False,
        logprobs=False,
        score=False,
        choose=False,
        seeds=server.vllm,
        continue_turn=server.vllm or not chat,
    )
    return Met(
        server,
        Text(server.model, tokenizer, chat=chat, vllm=server.vllm),
        tokenizer,
        capabilities,
        given.context_length or server.context or DEFAULT_CONTEXT,
    )


async def _offers(transport: Transport, dialect: TokenIds | Text) -> bool:
    """Whether the server has the dialect's endpoint. Raises Fault for other trouble."""
    for _ in range(2):
        try:
            await transport.post(dialect.path, dialect.health_body(), bytes, PROBE_SECONDS)
        except Fault as caught:
            fault = caught
        else:
            return True
        if not (isinstance(dialect, Text) and dialect.renamed(fault.text)):
            break
    if fault.status in (404, 405, 501):
        return False
    raise fault
