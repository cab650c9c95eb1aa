"""Requests and replies in token ids: /v1/completions of vLLM.

Prompts go as ids and come back as ids (`return_token_ids`); log-probabilities are keyed by id
(`return_tokens_as_token_ids`). One request holds all n continuations: vLLM gives child i the seed
`seed + i`, so the seed is a function of the first stream and the position.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from reasoning.engines.base import (
    ChooseReply,
    Completion,
    EngineUsage,
    Finish,
    SampleReply,
    SampleRequest,
    Sampling,
    ScoreReply,
    TokenLogprob,
)
from reasoning.engines.openai.assembly import Assembly, Delta, miscounted
from reasoning.engines.openai.faults import Malformed
from reasoning.randomness import key

PATH = "/completions"
FINISHES: dict[Any, Finish] = {"stop": "stop", "length": "length"}
CHARACTERS_PER_TOKEN = 1024  # more than any token has
LOOKS, LOOK_EVERY = 8, 64  # replies whose text is compared with their ids
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ROUNDING = 1e-3  # a log-probability may be this much above 0
SEED_BITS = (1 << 62) - 1  # room for + n below the server's limit of 2**63


class TokenIds:
    """Makes bodies and reads replies for one model.

    vocabulary: ids are below it. decode: the text of ids, for a look now and then at whether a
    reply's text is that of its ids; None looks at none.
    """

    path = PATH

    def __init__(
        self, model: str, vocabulary: int, decode: Callable[[Sequence[int]], str] | None = None
    ) -> None:
        self.vocabulary = vocabulary
        self._decode = decode
        self._read = 0  # replies
        self._head = '{"model":' + json.dumps(model) + ',"return_token_ids":true,'
        self._sampling: dict[Sampling, str] = {}
        self.usage_mismatches = 0

    # Bodies. Parts that do not change are kept as JSON: at hundreds of requests a second, building
    # dictionaries is what costs.

    def sample_body(self, request: SampleRequest, stream: bool) -> bytes:
        sampling = self._sampling.get(request.sampling)
        if sampling is None:
            if len(self._sampling) > 256:
                self._sampling.clear()
            sampling = self._sampling[request.sampling] = _sampling(request.sampling)
        parts = [self._head, sampling, f',"max_tokens":{request.max_tokens},"n":{request.n}']
        if request.sampling.temperature > 0:
            # Greedy decoding takes no seed: vLLM's CPU build then has no generator to rewind.
            parts.append(f',"seed":{seed(request)}')
        if request.priority:
            parts.append(f',"priority":{request.priority}')
        if stream:
            parts.append(',"stream":true,"stream_options":{"include_usage":true}')
        parts.append(f',"prompt":[{",".join(map(str, request.prompt_ids))}]}}')
        return "".join(parts).encode()

    def score_body(self, ids: Sequence[int], top: int) -> bytes:
        return self._one_token(ids, f'"prompt_logprobs":{top},')

    def choose_body(self, ids: Sequence[int], options: Sequence[int]) -> bytes:
        listed = json.dumps(list(options))
        return self._one_token(
            ids,
            f'"logprobs":1,"logprob_token_ids":{listed},"return_tokens_as_token_ids":true,',
        )

    def health_body(self) -> bytes:
        return self._one_token((0,), "")

    def _one_token(self, ids: Sequence[int], extra: str) -> bytes:
        prompt = ",".join(map(str, ids))
        return (f'{self._head}{extra}"temperature":0,"max_tokens":1,"prompt":[{prompt}]}}').encode()

    # Replies.

    def read(self, payload: Any, request: SampleRequest) -> SampleReply:
        """Raises Malformed."""
        completions: list[Completion | None] = [None] * request.n
        new = 0
        for choice in choices(payload, request.n):
            delta = self._delta(choice, request)
            if delta.finish is None:
                raise Malformed(f"finish_reason {choice.get('finish_reason')!r}")
            if not 0 <= delta.index < request.n or completions[delta.index] is not None:
                raise Malformed(f"choice {delta.index} twice, or not asked for")
            size = len(delta.ids)
            if size > request.max_tokens:
                raise Malformed(f"{size} tokens of at most {request.max_tokens}")
            new += size
            completions[delta.index] = Completion(
                tuple(delta.ids),
                delta.text,
                delta.finish,
                delta.stop_reason,
                None if delta.logprobs is None else tuple(delta.logprobs),
            )
        done = tuple(c for c in completions if c is not None)
        self._check_text(done[0], request.sampling)
        return SampleReply(done, self.usage(payload.get("usage"), len(request.prompt_ids), new))

    def must_stream(self, request: SampleRequest) -> bool:
        return False

    def reading(self, request: SampleRequest) -> Callable[[Any], list[Delta]]:
        """A function from one event of a stream to what it says. Raises Malformed."""

        def read(event: Any) -> list[Delta]:
            said = event.get("choices")
            if type(said) is not list:
                raise Malformed("an event without choices")
            return [self._delta(choice, request) for choice in said]

        return read

    def streamed(
        self,
        completions: tuple[Completion, ...],
        said: Any,
        request: SampleRequest,
        assembly: Assembly,
    ) -> SampleReply:
        """The reply of a stream that was read to its end, or left. said: its usage field."""
        self._check_text(completions[0], request.sampling)
        kept = sum(len(completion.ids) for completion in completions)
        usage = self.usage(said, len(request.prompt_ids), kept + assembly.dropped)
        return SampleReply(
            completions,
            EngineUsage(usage.prefill, usage.cached, kept, abandoned=assembly.dropped),
        )

    def _delta(self, choice: Any, request: SampleRequest) -> Delta:
        try:
            ids, text, index = choice["token_ids"], choice["text"], choice["index"]
            finish, logprobs = choice.get("finish_reason"), choice.get("logprobs")
        except (KeyError, TypeError, AttributeError):
            raise Malformed("a choice without index, text or token_ids") from None
        if type(ids) is not list or type(text) is not str or type(index) is not int:
            raise Malformed("index, text or token_ids of another type")
        self._check_ids(ids)
        if len(text) > CHARACTERS_PER_TOKEN * (len(ids) + request.max_tokens):
            raise Malformed(f"{len(text)} characters for {len(ids)} tokens")
        if finish is not None and finish not in FINISHES:
            raise Malformed(f"finish_reason {finish!r}")
        wanted = request.sampling.logprobs
        return Delta(
            index,
            ids,
            text,
            None if wanted is None else _logprobs(logprobs, ids, wanted),
            FINISHES.get(finish),
            choice.get("stop_reason"),
        )

    def _check_ids(self, ids: list[Any]) -> None:
        if not ids:
            return
        if set(map(type, ids)) != {int}:
            raise Malformed("token ids that are no integers")
        if min(ids) < 0 or max(ids) >= self.vocabulary:
            raise Malformed(f"token ids outside the vocabulary of {self.vocabulary}")

    def _check_text(self, completion: Completion, sampling: Sampling) -> None:
        """Raise Malformed when a text is another one than its ids say. Spaces are not compared:
        tokenizers differ in those at an end. Looks at the first replies, then at some."""
        self._read += 1
        if self._decode is None or (self._read > LOOKS and self._read % LOOK_EVERY):
            return
        if completion.finish == "abort" or not sampling.include_stop:
            return  # the server may have held text back
        ours, theirs = self._decode(completion.ids), completion.text
        if REPLACEMENT in ours or REPLACEMENT in theirs:
            return  # a character was cut
        if "".join(ours.split()) != "".join(theirs.split()):
            self._read = 0  # look at the repetition too
            raise Malformed(
                f"its text {theirs[:40]!r} is not that of its token ids, {ours[:40]!r}; "
                f"give the served model's own `tokenizer`"
            )

    def usage(self, said: Any, prompt: int, new: int) -> EngineUsage:
        """What was done: by the ids received; only the cached part is taken from the server."""
        cached = 0
        if type(said) is dict:
            if said.get("completion_tokens") != new or said.get("prompt_tokens") != prompt:
                self.usage_mismatches += 1
            details = said.get("prompt_tokens_details")
            if type(details) is dict and type(details.get("cached_tokens")) is int:
                cached = min(max(details["cached_tokens"], 0), prompt)
        return EngineUsage(prefill=prompt - cached, cached=cached, new=new)

    def read_score(self, payload: Any, ids: Sequence[int], prefix: int, top: int) -> ScoreReply:
        """Log-probabilities of ids[prefix:]. Raises Malformed.

        vLLM does not read its prefix cache for them and decodes one token besides: charged.
        """
        (choice,) = choices(payload, 1)
        rows = choice.get("prompt_logprobs")
        if type(rows) is not list or len(rows) != len(ids):
            raise Malformed(f"prompt_logprobs for other than the {len(ids)} tokens asked about")
        scores = tuple(
            _scored(row, token, top) for row, token in zip(rows[prefix:], ids[prefix:], strict=True)
        )
        return ScoreReply(scores, EngineUsage(prefill=len(ids), new=1))

    def read_choice(self, payload: Any, prefix: int, options: Sequence[int]) -> ChooseReply:
        """Probabilities of the options. Raises Malformed."""
        (choice,) = choices(payload, 1)
        try:
            (row,) = choice["logprobs"]["top_logprobs"]
            values = [math.exp(_number(row[f"token_id:{option}"])) for option in options]
        except (KeyError, TypeError, ValueError):
            raise Malformed("no log-probabilities of the options asked about") from None
        mass = sum(values)
        if mass <= 0.0:
            share = 1.0 / len(options)
            return ChooseReply(
                (share,) * len(options), 0.0, self.usage(payload.get("usage"), prefix, 1)
            )
        return ChooseReply(
            tuple(value / mass for value in values),
            min(mass, 1.0),
            self.usage(payload.get("usage"), prefix, 1),
        )


def seed(request: SampleRequest) -> int:
    """The seed of a request; continuation i is drawn with seed + i.

    The position is part of it: a chain that is continued must not see its first tokens' luck again.
    """
    stream = request.streams[0].key
    return (key(stream, request.position) if request.position else stream) & SEED_BITS


def _sampling(sampling: Sampling) -> str:
    # Sent even where they are defaults: vLLM takes what is missing from the model's
    # generation_config.json.
    fields: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "include_stop_str_in_output": sampling.include_stop,
    }
    if sampling.min_tokens:
        fields["min_tokens"] = sampling.min_tokens
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if sampling.stop_ids:
        fields["stop_token_ids"] = list(sampling.stop_ids)
    if sampling.ignore_eos:
        fields["ignore_eos"] = True
    if sampling.allowed_ids:
        fields["allowed_token_ids"] = list(sampling.allowed_ids)
    if sampling.logprobs is not None:
        fields["logprobs"] = sampling.logprobs
        fields["return_tokens_as_token_ids"] = True
    return json.dumps(fields, separators=(",", ":"))[1:-1]


def choices(payload: Any, n: int) -> list[Any]:
    """The n choices of a reply. Raises Malformed."""
    found = payload.get("choices")
    if type(found) is not list or len(found) != n:
        raise miscounted(len(found) if type(found) is list else 0, n)
    if any(type(choice) is not dict for choice in found):
        raise Malformed("a choice that is no object")
    return found


def _logprobs(said: Any, ids: list[int], top: int) -> list[TokenLogprob]:
    try:
        values = said["token_logprobs"]
        tops = said["top_logprobs"]
        if len(values) != len(ids) or (top and len(tops) != len(ids)):
            raise Malformed(f"{len(values)} log-probabilities for {len(ids)} tokens")
        if not top:
            return [TokenLogprob(_number(value)) for value in values]
        return [
            TokenLogprob(_number(value), _best(row, top))
            for value, row in zip(values, tops, strict=True)
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Malformed("log-probabilities that are missing or no numbers") from None


def _best(row: dict[str, Any], top: int) -> dict[int, float]:
    """The `top` most likely of a row (the server adds the sampled one, if it is another)."""
    pairs = [(int(name.removeprefix("token_id:")), _number(value)) for name, value in row.items()]
    pairs.sort(key=lambda pair: -pair[1])
    return dict(pairs[:top])


def _scored(row: Any, token: int, top: int) -> TokenLogprob:
    try:
        own = _number(row[str(token)]["logprob"])
        others = {f"{name}": entry["logprob"] for name, entry in row.items()} if top else {}
        return TokenLogprob(own, _best(others, top))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Malformed("prompt_logprobs without the prompt's own token") from None


def _number(value: Any) -> float:
    """A log-probability. Raises ValueError for NaN and for what is above 0."""
    number = float(value)
    if not number <= ROUNDING or number == -math.inf:
        raise ValueError(value)
    return min(number, 0.0)
