"""The engine seam: what a model can be asked, in token ids end to end.

An engine is given requests by the context and knows nothing above itself. It may batch requests
of all live problems together. Three promises hold for every engine and are tested by one
conformance suite:

- a chain is a function of (weights, prompt ids, sampling, stream): on engines whose capability
  `token_keyed` is true, also when it is decoded in many requests, because token `t` of a chain
  uses the random number at counter `t` of its stream;
- cancelling the awaiting task aborts the request in the engine; what had been decoded has been
  handed to the request's `sink`;
- `usage` counts what the engine did, not what was asked for.

Tokens are forced by leaving a request and asking again with the longer prefix, which every engine
can: no request takes new tokens while it runs.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from reasoning.errors import CapabilityError, ConfigError, PromptError

if TYPE_CHECKING:
    from reasoning.engines.groups import GroupManager, GroupRequest

Finish = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; a strategy's needs are checked against it before anything is spent."""

    sample: bool = True
    stream: bool = True  # hands over tokens while they are decoded
    token_ids: bool = True  # prompts and replies as ids, not only text
    logprobs: bool = True  # log-probabilities of sampled tokens
    score: bool = True  # log-probabilities of given tokens
    choose: bool = True  # probabilities of one-token options
    pool: bool = False  # per-token scores of a reward head
    embed: bool = False  # mean hidden states of given tokens
    token_keyed: bool = False  # sliced decoding gives the same chain as one request
    seeds: bool = True  # same stream, same chain
    one_prefill: bool = False  # reads a prompt once for all its continuations; else for each
    continue_turn: bool = True  # can continue an open assistant turn
    nth_stop: bool = False  # ends a chain where a string is completed for the n-th time
    together: bool = False  # groups over one shared KV cache

    def require(self, needs: Sequence[str], *, engine: str, who: str) -> None:
        """Raise CapabilityError unless every capability named in `needs` is there."""
        missing = [name for name in needs if not getattr(self, name)]
        if missing:
            raise CapabilityError(
                f"{who} needs {', '.join(missing)}, which engine {engine} does not have; "
                f"use an engine that does (`reasoning ls engine` shows who can what)"
            )


# What a model with a reward head in place of its vocabulary can be asked.
REWARDS_ONLY = Capabilities(
    sample=False, stream=False, logprobs=False, score=False, choose=False, pool=True
)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters, as vLLM defines them. temperature 0 is greedy.

    `stop` strings end a chain right after the token that completes one; with `include_stop` the
    text keeps the string (the ids always do). `stop_ids` end it at that token, kept in the ids.
    `nth_stop` is one more stop string, which ends a chain when it is completed for the n-th time:
    what n asks with it in `stop` would write, for engines that can count.
    `logprobs` asks for the sampled token's log-probability (0) and the top k besides (k > 0);
    values are of the raw model, before temperature and truncation.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    nth_stop: tuple[str, int] | None = None
    include_stop: bool = True
    ignore_eos: bool = False
    logprobs: int | None = None
    allowed_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, fits, range_ in (
            ("temperature", 0 <= self.temperature < math.inf, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("min_p", 0 <= self.min_p <= 1, "in [0, 1]"),
            ("min_tokens", self.min_tokens >= 0, "0 or more"),
            ("logprobs", (self.logprobs or 0) >= 0, "0 or more"),
            ("stop", all(self.stop), "a list of strings that are not empty"),
            ("nth_stop", _counts(self.nth_stop), "a string, and how often: at least once"),
        ):
            if not fits:
                raise ConfigError(f"sampling {name}={getattr(self, name)!r} must be {range_}")

    def described(self) -> dict[str, Any]:
        """The parameters as JSON values, for content hashes: those of before `nth_stop` hold."""
        values = asdict(self)
        if self.nth_stop is None:
            del values["nth_stop"]
        return values


def _counts(nth_stop: tuple[str, int] | None) -> bool:
    return nth_stop is None or (nth_stop[0] != "" and nth_stop[1] >= 1)


@dataclass(frozen=True, slots=True)
class Stream:
    """The random stream of one chain: a 63-bit key; the counter is the chain's token index.

    number: which chain of its prompt it is, counted over draws and replicates; for engines that
    have the chains already.
    """

    key: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """n continuations of one prompt.

    streams: one for each continuation (its length is n).
    position: the chain's token index of the first new token (0 where the prompt ends); token `t`
        of the reply uses counter `position + t`. Forced tokens count.
    max_tokens: cap for each continuation; stops and EOS end it earlier.
    priority: lower goes first where the engine has priorities. For whoever asks an engine by
        itself; a context leaves it at 0: no ask of its problems is worth more than another.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    streams: tuple[Stream, ...]
    position: int = 0
    priority: int = 0

    @property
    def n(self) -> int:
        return len(self.streams)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of the token at one position, and of the alternatives asked for, by id."""

    logprob: float
    top: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """One continuation. `ids` are the new tokens only (EOS and stop tokens included)."""

    ids: tuple[int, ...]
    text: str
    finish: Finish
    stop_reason: str | int | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """What one request really cost. `prefill + cached` is the prompt's length, as often as the
    engine read it: once where it shares it between the n continuations, else n times."""

    prefill: int = 0  # prompt tokens computed
    cached: int = 0  # prompt tokens read from a prefix cache
    new: int = 0  # tokens decoded
    abandoned: int = 0  # decoded but never received, after a cancellation

    def __add__(self, other: EngineUsage) -> EngineUsage:
        return EngineUsage(
            self.prefill + other.prefill,
            self.cached + other.cached,
            self.new + other.new,
            self.abandoned + other.abandoned,
        )


@dataclass(frozen=True, slots=True)
class SampleReply:
    """The continuations, in the order of the request's streams."""

    completions: tuple[Completion, ...]
    usage: EngineUsage


@dataclass(frozen=True, slots=True)
class ScoreReply:
    """scores: one TokenLogprob for each continuation token, in order."""

    scores: tuple[TokenLogprob, ...]
    usage: EngineUsage


@dataclass(frozen=True, slots=True)
class ChooseReply:
    """probabilities: one for each option, renormalised over the options; `mass` is their total."""

    probabilities: tuple[float, ...]
    mass: float
    usage: EngineUsage


@dataclass(frozen=True, slots=True)
class PoolReply:
    """values: the reward head's activated output (see `reward`) at each asked position."""

    values: tuple[float, ...]
    usage: EngineUsage


def reward(logits: Sequence[float]) -> float:
    """A reward head's output in [0, 1]: the last label's, of one by sigmoid, of more by softmax."""
    labels = [0.0, *logits] if len(logits) == 1 else logits
    highest = max(labels)
    shares = [math.exp(label - highest) for label in labels]
    return shares[-1] / sum(shares)


@dataclass(frozen=True, slots=True)
class EmbedReply:
    """values: the last layer's hidden state (after its norm), averaged over the asked tokens."""

    values: tuple[float, ...]
    usage: EngineUsage


class Sink(Protocol):
    """Takes the new tokens of continuation `index` as they arrive.

    logprobs: one for each of `ids` where the request asks for log-probabilities, else none.
    Returns True to stop that continuation: it ends with finish "abort" and keeps what was handed
    over.
    """

    def __call__(
        self, index: int, ids: Sequence[int], text: str, logprobs: Sequence[TokenLogprob], /
    ) -> bool | None: ...


class Tokenizer(Protocol):
    """What the core needs of a tokenizer."""

    eos_id: int | None
    vocab_size: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def render(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Messages through the chat template (or base format), ready for the assistant's text."""
        ...


class Engine(abc.ABC):
    """A model that can be asked. Constructed cheaply; `start` loads it; `close` frees it.

    Constructors take (model: str, **arguments) where `model` is what follows the engine's name in
    a model string, and raise ConfigError for an unknown argument.
    """

    name: str  # the model string, e.g. "local/countdown-policy"
    capabilities: Capabilities
    context_length: int
    tokenizer: Tokenizer

    @abc.abstractmethod
    async def start(self) -> None:
        """Load the model. Raises ModelError or EngineUnavailable. Idempotent."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Abort what is open and free the model. Idempotent."""

    @abc.abstractmethod
    async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
        """Draw the continuations. With a sink, tokens are handed over as they are decoded."""

    async def score(
        self, prefix_ids: Sequence[int], continuation_ids: Sequence[int], top: int = 0
    ) -> ScoreReply:
        """Log-probabilities of `continuation_ids` after `prefix_ids`, without decoding."""
        raise CapabilityError(f"engine {self.name} cannot score given tokens")

    async def choose(self, prefix_ids: Sequence[int], option_ids: Sequence[int]) -> ChooseReply:
        """Probabilities of one-token options after `prefix_ids`, without decoding."""
        raise CapabilityError(f"engine {self.name} cannot choose between tokens")

    async def pool(self, ids: Sequence[int], positions: Sequence[int]) -> PoolReply:
        """The reward head's output at `positions` (indices into ids, ascending)."""
        raise CapabilityError(f"engine {self.name} has no reward head")

    async def embed(self, ids: Sequence[int], first: int) -> EmbedReply:
        """The mean hidden state of the tokens from index `first` to the end of `ids`."""
        raise CapabilityError(f"engine {self.name} cannot embed tokens")

    def together(self, request: GroupRequest) -> GroupManager:
        """A group over one shared KV cache; leaving the block ends it (see groups.py)."""
        raise CapabilityError(f"engine {self.name} cannot decode a group over one shared KV cache")

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the output besides the request: weights hash, dtype, engine and version.

        Goes into content hashes and run headers; holds no secret.
        """

    def check(self, sampling: Sampling) -> None:
        """Raise CapabilityError for sampling that this engine cannot do, or is known to do wrongly.
        Also asked before it is started."""
        if sampling.nth_stop is not None:
            self.capabilities.require(("nth_stop",), engine=self.name, who="sampling")

    def model_config(self) -> dict[str, Any] | None:
        """The model's config.json, for the cost model; None when it is not at hand."""
        return None

    async def counters(self) -> dict[str, float]:
        """The engine's own token totals since start: `new`, `prefill`, `cached`. {} if unknown."""
        return {}

    def room(self, ids: Sequence[int], vocabulary: int, spare: int = 1) -> int:
        """Tokens that fit behind `ids`. Raises PromptError for ids that cannot be asked: none,
        outside the vocabulary, or so many that less than `spare` tokens of the context are left.
        """
        if not ids:
            raise PromptError(f"{self.name}: the prompt is empty")
        if min(ids) < 0 or max(ids) >= vocabulary:
            raise PromptError(f"{self.name}: the prompt holds ids outside 0..{vocabulary - 1}")
        room = self.context_length - len(ids)
        if room < spare:
            raise PromptError(
                f"{self.name}: {len(ids)} tokens do not fit the context of {self.context_length}"
            )
        return room

    async def __aenter__(self) -> Engine:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
