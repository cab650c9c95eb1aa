"""recorded/<file>: replays recorded samples, so that experiments on real transcripts need no model.

A line of the JSONL file (.gz too) is one sample of one problem. The n-th chain that is drawn for a
problem is its n-th recorded sample, whole, or in slices that continue it. What a recording cannot
answer (another continuation, a score, a log-probability) is a missing capability.

Tokens are characters (ids are code points): recordings hold text, and no token ids.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from reasoning.engines.base import (
    Capabilities,
    Completion,
    Engine,
    EngineUsage,
    Finish,
    SampleReply,
    SampleRequest,
    Sink,
)
from reasoning.engines.characters import EOS, CharacterTokenizer
from reasoning.engines.weights import file_hash
from reasoning.errors import CapabilityError, ConfigError, DataError, EngineReplyError


class Columns(BaseModel):
    """Which fields of a line hold what. text: a string, or a list of parts with `part` each.

    prompts: a file with the problems' texts, and its columns, where the recording has only ids.
    """

    model_config = ConfigDict(extra="forbid")

    problem: str = "problem"
    sample: str | None = "sample"
    text: str = "text"
    part: str | None = None


class Prompts(BaseModel):
    """A file that gives the prompt of each problem id."""

    model_config = ConfigDict(extra="forbid")

    file: str
    id: str = "id"
    text: str = "problem"


class RecordedEngine(Engine):
    """Plays a recording. columns, prompts: see `Columns` and `Prompts`."""

    capabilities = Capabilities(
        logprobs=False, score=False, choose=False, continue_turn=True, token_keyed=True
    )

    def __init__(
        self,
        model: str,
        *,
        columns: dict[str, Any] | None = None,
        prompts: dict[str, Any] | None = None,
        context_length: int = 1 << 24,
    ) -> None:
        self.name = f"recorded/{model}"
        self._path = Path(model).expanduser()
        try:
            self._columns = Columns(**(columns or {}))
            self._prompts = Prompts(**prompts) if prompts else None
        except ValidationError as error:
            from reasoning.naming import explain

            raise ConfigError(f"{self.name}: {explain(error)}") from None
        for path in (self._path, *([Path(self._prompts.file)] if self._prompts else [])):
            if not path.is_file():
                raise DataError(f"{self.name}: there is no file {path}")
        self.context_length = context_length
        self.tokenizer: CharacterTokenizer = CharacterTokenizer()
        self._samples: dict[str, list[str]] = {}  # by prompt text
        self._drawn: dict[str, dict[int, int]] = {}  # by prompt text: stream key to sample
        self._new = 0

    async def start(self) -> None:
        if self._samples:
            return
        texts = self._read_prompts()
        found: dict[str, list[tuple[Any, str]]] = {}
        for number, line in _lines(self._path):
            problem = str(self._field(line, self._columns.problem, number))
            order = self._field(line, self._columns.sample, number) if self._columns.sample else 0
            found.setdefault(texts.get(problem, problem), []).append(
                (order, self._text(line, number))
            )
        for prompt, samples in found.items():
            self._samples[prompt] = [text for _, text in sorted(samples, key=lambda s: s[0])]

    async def close(self) -> None:
        return None

    def identity(self) -> dict[str, Any]:
        return {
            "engine": "recorded",
            "file": file_hash(self._path),
            "columns": self._columns.model_dump(),
        }

    async def counters(self) -> dict[str, float]:
        return {"new": self._new, "prefill": 0, "cached": 0}

    async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
        ids = request.prompt_ids
        prompt = self.tokenizer.decode(ids[: len(ids) - request.position]).rstrip("\n")
        written = self.tokenizer.decode(ids[len(ids) - request.position :])
        completions = []
        for index in range(request.n):
            text = self._sample(prompt, request.streams[index].key)
            if not text.startswith(written):
                raise CapabilityError(
                    f"{self.name}: a recorded chain can be cut, not changed; what was asked to be "
                    f"continued is not how sample {index} of this problem begins"
                )
            completion = self._cut(text[len(written) :], request)
            if sink is not None:
                completion = self._played(completion, index, sink)
            completions.append(completion)
        new = sum(len(c.ids) for c in completions)
        self._new += new
        return SampleReply(tuple(completions), EngineUsage(new=new))

    def _sample(self, prompt: str, key: int) -> str:
        samples = self._samples.get(prompt)
        if samples is None:
            raise EngineReplyError(
                f"{self.name} holds no sample of {prompt[:60]!r}; it has {len(self._samples)} "
                f"problems. Check `columns` and `prompts`"
            )
        drawn = self._drawn.setdefault(prompt, {})
        number = drawn.setdefault(key, len(drawn))
        if number >= len(samples):
            raise CapabilityError(
                f"{self.name}: {number + 1} chains were drawn of {prompt[:60]!r}, which has "
                f"{len(samples)} recorded samples; ask for no more"
            )
        return samples[number]

    def _cut(self, text: str, request: SampleRequest) -> Completion:
        ends = [
            (text.index(stop) + len(stop), stop) for stop in request.sampling.stop if stop in text
        ]
        whole = [*self.tokenizer.encode(text), EOS]
        finish: Finish = "stop"
        reason: str | int | None = EOS
        if ends:
            end, reason = min(ends)
            whole = whole[:end]
        if len(whole) > request.max_tokens:
            whole, finish, reason = whole[: request.max_tokens], "length", None
        return Completion(tuple(whole), self.tokenizer.decode(whole), finish, reason)

    def _played(self, completion: Completion, index: int, sink: Sink) -> Completion:
        for place, token in enumerate(completion.ids, 1):
            if sink(index, [token], self.tokenizer.decode([token]), ()):
                ids = completion.ids[:place]
                return Completion(ids, self.tokenizer.decode(ids), "abort")
        return completion

    def _read_prompts(self) -> dict[str, str]:
        if self._prompts is None:
            return {}
        named = self._prompts
        return {
            str(self._field(line, named.id, number)): str(self._field(line, named.text, number))
            for number, line in _lines(Path(named.file))
        }

    def _text(self, line: dict[str, Any], number: int) -> str:
        value = self._field(line, self._columns.text, number)
        if self._columns.part is None:
            return str(value)
        if not isinstance(value, list):
            raise DataError(f"{self._path}:{number}: `{self._columns.text}` is not a list")
        return "".join(str(self._field(part, self._columns.part, number)) for part in value)

    def _field(self, line: dict[str, Any], name: str, number: int) -> Any:
        try:
            return line[name]
        except (KeyError, TypeError):
            raise DataError(f"{self._path}:{number} has no field {name!r}; set `columns`") from None


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, json.loads(line)
            except ValueError:
                raise DataError(f"{path}:{number} is not JSON") from None
