"""OpenAIEngine: a model behind an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from reasoning.engines import weights
from reasoning.engines.base import (
    ChooseReply,
    Engine,
    EngineUsage,
    PoolReply,
    SampleReply,
    SampleRequest,
    ScoreReply,
    Sink,
    Tokenizer,
)
from reasoning.engines.openai import discovery, faults, meeting, pooling, settings
from reasoning.engines.openai.assembly import Assembly, EventReader, miscounted, parsed
from reasoning.engines.openai.faults import Fault
from reasoning.engines.openai.gate import Gate
from reasoning.engines.openai.sending import Backoff, Circuit, Retries, Sender
from reasoning.engines.openai.standin import ByteTokenizer
from reasoning.engines.openai.text import Text
from reasoning.engines.openai.token_ids import TokenIds
from reasoning.engines.openai.transport import Timeouts, Transport
from reasoning.errors import (
    CapabilityError,
    ConfigError,
    EngineReplyError,
    EngineUnavailable,
    PromptError,
    ReasoningError,
)

T = TypeVar("T")
_log = logging.getLogger(__name__)

MAX_OPTIONS = 128  # vLLM's cap for log-probabilities of chosen ids


class OpenAIEngine(Engine):
    """`openai/<model>`; see Settings for the arguments. An empty model name means the only one.

    Capabilities are known once it has started. Against vLLM with a tokenizer: token ids end to end.
    Otherwise text, behind a byte-level stand-in tokenizer (standin.py).
    """

    def __init__(self, model: str = "", **arguments: Any) -> None:
        self.settings = settings.read(arguments)
        self.base_url = settings.base_url(self.settings)
        self.name = f"openai/{model}"
        self.capabilities = meeting.NOTHING
        self.context_length = self.settings.context_length or meeting.DEFAULT_CONTEXT
        self.tokenizer: Tokenizer = ByteTokenizer(chat=self.settings.flavour != "completions")
        self._model = model
        self._server: discovery.Server | None = None
        self._pooling: pooling.Way = "tokens"  # how a reward model's server scores
        self._dialect: TokenIds | Text | None = None
        self._transport: Transport | None = None
        self._sender: Sender | None = None
        self._starting = asyncio.Lock()
        self._baseline: dict[str, float] = {}
        self._probed = EngineUsage()
        self._warned = False

    def __repr__(self) -> str:
        return f"OpenAIEngine({self._model!r}, base_url={self.base_url!r})"

    # Starting and closing.

    async def start(self) -> None:
        """Find out what answers. On a started engine: wait until its server is up again."""
        async with self._starting:
            try:
                if self._sender is not None:
                    await self._sender.circuit.wait()
                else:
                    await self._started()
                return
            except Fault as caught:
                fault = caught
            raise self._error(fault)

    async def _started(self) -> None:
        given = self.settings
        timeouts = Timeouts(
            given.connect_timeout, given.first_byte_timeout, given.idle_timeout, given.total_timeout
        )
        key = settings.api_key(given)
        self._transport = Transport(self.base_url, key, timeouts, given.max_reply_bytes)
        await self._transport.open()
        try:
            met = await meeting.meet(self._transport, given, self._model)
        except BaseException:
            await self._transport.close()
            raise
        self._server, self._dialect = met.server, met.dialect
        self.tokenizer = met.tokenizer
        one_prefill = given.seeding == "group"
        self.capabilities = replace(met.capabilities, one_prefill=one_prefill)
        self._pooling = met.pooling or "tokens"
        self.context_length = met.context_length
        backoff = Backoff(given.backoff, given.retry_after_cap)
        capacity = given.max_concurrency if given.retry_budget is None else given.retry_budget
        self._sender = Sender(
            Gate(given.max_concurrency),
            Retries(capacity),
            Circuit(self._probe, given.recovery_seconds, backoff),
            backoff,
            given.attempts,
        )
        self._baseline = await self.counters()
        self._probed = EngineUsage()

    async def close(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            await sender.circuit.close()
        if self._transport is not None:
            await self._transport.close()

    async def _probe(self) -> None:
        """One token, to see whether the server is up. Raises Fault."""
        dialect = self._spoken()
        self._probed += EngineUsage(prefill=1, new=1)
        await self._wire().post(dialect.path, dialect.health_body(), bytes, meeting.PROBE_SECONDS)

    # Asking.

    async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
        """See Engine.sample. A sink's continuations come over server-sent events."""
        if not self.capabilities.sample and self._sender is not None:
            raise CapabilityError(f"{self.name} is served as a reward model and cannot sample")
        if request.max_tokens < 1:
            raise ConfigError(f"max_tokens={request.max_tokens} must be at least 1")
        self.check(request.sampling)
        room = self._fits(request.prompt_ids)
        if request.max_tokens > room:
            request = replace(request, max_tokens=room)
        if self.settings.seeding == "stream" and request.n > 1:
            return await self._apart(request, sink)
        try:
            return await self._together(request, sink)
        except EngineReplyError as refused:
            dialect = self._spoken()
            if not isinstance(dialect, Text) or not dialect.renamed(str(refused)):
                raise
        return await self._together(request, sink)

    async def _together(self, request: SampleRequest, sink: Sink | None) -> SampleReply:
        """All continuations in one request."""
        dialect = self._spoken()
        if sink is None and not dialect.must_stream(request):
            body = dialect.sample_body(request, False)
            read = partial(dialect.read, request=request)
            return await self._ask(dialect.path, body, read, request.priority)
        body = dialect.sample_body(request, True)
        assembly = Assembly(request, sink)
        return await self._send(
            lambda: self._streamed(dialect, body, request, assembly), request.priority
        )

    async def _streamed(
        self, dialect: TokenIds | Text, body: bytes, request: SampleRequest, assembly: Assembly
    ) -> SampleReply:
        assembly.restart()
        events = EventReader()
        read = dialect.reading(request)
        said: Any = None

        def feed(chunk: bytes) -> bool:
            nonlocal said
            for event in events.feed(chunk):
                if "error" in event:
                    raise self._error_event(event)
                for delta in read(event):
                    assembly.add(delta)
                said = event.get("usage") or said
            if events.finished and not assembly.ended:
                raise miscounted(len(assembly.completions()), request.n)
            # Otherwise until the end: the usage comes last, and the connection is kept.
            return assembly.ended and assembly.cut

        wire = self._wire()
        await wire.stream(dialect.path, body, feed)
        if not assembly.ended and events.head.startswith(b"{"):
            raise EngineReplyError(  # no Fault: sent again, it would be decoded and paid for again
                f"{wire.url(dialect.path)} ignores `stream: true` and answered with one plain body "
                f"({wire.words(events.head)}); use a server that streams, as vLLM does. No "
                f"stream is needed by a recipe or `solve_many` without deadlines, stop strings and "
                f"strategies or chain policies that watch chains as they are written"
            )
        if not assembly.ended:
            raise Fault("reset", f"{wire.url(dialect.path)}: the stream ended too early")
        return dialect.streamed(assembly.completions(), said, request, assembly)

    def _error_event(self, event: dict[str, Any]) -> Fault:
        """A stream can fail after its 200."""
        error = event["error"] if isinstance(event["error"], dict) else {}
        code = error.get("code")
        return Fault(
            "status",
            f"{self._wire().url(self._spoken().path)} reported an error in its stream",
            status=code if type(code) is int else 500,
            text=self._wire().words(str(error.get("message", ""))),
        )

    async def _apart(self, request: SampleRequest, sink: Sink | None) -> SampleReply:
        """One request for each stream."""

        def one(index: int) -> Awaitable[SampleReply]:
            single = replace(request, streams=(request.streams[index],))
            told: Sink | None = None
            if sink is not None:
                told = lambda _, *news: sink(index, *news)  # noqa: E731
            return self.sample(single, told)

        tasks = [asyncio.ensure_future(one(index)) for index in range(request.n)]
        try:
            replies = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        completions = tuple(c for reply in replies for c in reply.completions)
        return SampleReply(completions, sum((reply.usage for reply in replies), EngineUsage()))

    async def score(
        self, prefix_ids: Sequence[int], continuation_ids: Sequence[int], top: int = 0
    ) -> ScoreReply:
        dialect = self._ids("score")
        if not prefix_ids:
            raise PromptError("scores need at least one token before the continuation")
        ids = [*prefix_ids, *continuation_ids]
        self._fits(ids)
        read = partial(dialect.read_score, ids=ids, prefix=len(prefix_ids), top=top)
        return await self._ask(dialect.path, dialect.score_body(ids, top), read)

    async def choose(self, prefix_ids: Sequence[int], option_ids: Sequence[int]) -> ChooseReply:
        dialect = self._ids("choose")
        if not 1 <= len(option_ids) <= MAX_OPTIONS:
            raise ConfigError(f"{len(option_ids)} options; vLLM tells 1 to {MAX_OPTIONS} at once")
        self._fits(prefix_ids)
        if min(option_ids) < 0 or max(option_ids) >= dialect.vocabulary:
            raise ConfigError(f"options outside the vocabulary of {dialect.vocabulary}")
        read = partial(dialect.read_choice, prefix=len(prefix_ids), options=option_ids)
        return await self._ask(dialect.path, dialect.choose_body(prefix_ids, option_ids), read)

    async def pool(self, ids: Sequence[int], positions: Sequence[int]) -> PoolReply:
        if not self.capabilities.pool:
            return await super().pool(ids, positions)
        assert self._server is not None
        if not positions:
            return PoolReply((), EngineUsage())
        self._fits(ids, spare=0)
        if self._pooling == "last" and list(positions) != [len(ids) - 1]:
            raise CapabilityError(
                f"{self.name} is served to score the last token only, and {len(positions)} "
                f"positions were asked for; set the verifier to `read: last`, or serve the model "
                f"without `--pooler-config` of task classify"
            )
        read = pooling.reading(self._pooling)
        body = pooling.body(self._server.model, ids, self._pooling)
        return await self._ask(pooling.PATH, body, lambda said: read(said, len(ids), positions))

    def _fits(self, ids: Sequence[int], spare: int = 1) -> int:
        """Tokens that fit behind `ids`. Raises PromptError for what the server would refuse."""
        dialect = self._spoken()
        size = dialect.vocabulary if isinstance(dialect, TokenIds) else self.tokenizer.vocab_size
        return self.room(ids, size, spare)

    def _ids(self, what: str) -> TokenIds:
        dialect = self._spoken()
        if not isinstance(dialect, TokenIds) or not getattr(self.capabilities, what):
            raise CapabilityError(
                f"{self.name} cannot {what}: its server is not spoken to in token ids; serve it "
                f"with vLLM and give its `tokenizer`"
            )
        return dialect

    async def _ask(self, path: str, body: bytes, read: Callable[[Any], T], priority: int = 0) -> T:
        """What `read` makes of the JSON object that a request is answered with."""
        wire = self._wire()
        return await self._send(
            lambda: wire.post(path, body, lambda reply: read(parsed(reply))), priority
        )

    async def _send(self, attempt: Callable[[], Awaitable[T]], priority: int) -> T:
        sender = self._live()
        try:
            reply = await sender.send(attempt, priority)
        except Fault as caught:
            fault = caught
        else:
            self._warn()
            return reply
        raise self._error(fault)

    def _warn(self) -> None:
        """Say once that the server's usage is not what was received."""
        if self.usage_mismatches and not self._warned:
            self._warned = True
            _log.warning(
                "%s at %s reports other token counts than it was sent and sent back; they are "
                "not believed, and what it bills may differ from what is charged here",
                self.name,
                self.base_url,
            )

    def _error(self, fault: Fault) -> ReasoningError:
        """The public error for a fault. Raised after its handler: nothing is chained to it."""
        served = list(self._server.served) if self._server is not None else []
        variable = self.settings.api_key_env
        return faults.error(fault, key_variable=variable, model=self._model, served=served)

    # About itself.

    def identity(self) -> dict[str, Any]:
        """Needs a started engine for all but the names."""
        server = self._server
        known: dict[str, Any] = {
            "engine": "openai",
            "base_url": self.base_url,
            "model": self._model,
            "seeding": self.settings.seeding,
        }
        if server is not None:
            known |= {
                "model": server.model,
                "server": "vllm" if server.vllm else "openai-compatible",
                "version": server.version,
                "root": server.root,
                "speaks": "ids" if isinstance(self._dialect, TokenIds) else self._spoken().path,
            }
            if server.folder is not None:
                known["weights"] = weights.content_hash(server.folder)
        return known

    def model_config(self) -> dict[str, Any] | None:
        folder = self._server.folder if self._server is not None else None
        return weights.config(folder) if folder is not None else None

    @property
    def usage_mismatches(self) -> int:
        """Replies whose usage field did not agree with the ids received."""
        return self._dialect.usage_mismatches if self._dialect is not None else 0

    async def counters(self) -> dict[str, float]:
        """vLLM's own totals since `start`, without what this engine's probes took."""
        if self._server is None or not self._server.vllm:
            return {}
        try:
            page = await self._wire().get("//metrics", lambda said: said.decode("utf-8", "replace"))
        except Fault:
            return {}
        totals = discovery.read_metrics(page, self._server.model)
        since = {name: value - self._baseline.get(name, 0.0) for name, value in totals.items()}
        since["new"] -= self._probed.new
        since["prefill"] -= self._probed.prefill
        return since

    def _wire(self) -> Transport:
        if self._transport is None:
            raise Fault("connect", f"{self.base_url}: the engine has not been started")
        return self._transport

    def _live(self) -> Sender:
        if self._sender is None:
            raise EngineUnavailable(f"{self.name} is not started; call start() first")
        return self._sender

    def _spoken(self) -> TokenIds | Text:
        if self._dialect is None:
            raise EngineUnavailable(f"{self.name} is not started; call start() first")
        return self._dialect
