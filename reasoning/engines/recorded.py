"""recorded/<file>: replays recorded samples, so that experiments on real transcripts need no model.

A line of the JSONL file (.gz too) is one sample of one problem. Draw d of a prompt in replicate r
is recorded sample r + d (both from 0), whole, or in slices that continue it: which sample a chain
is never depends on what was asked before. Seeds that are n apart share no sample of N = n. What a
recording cannot answer (another continuation, a score, a log-probability) is a missing capability.

A recorded chain can be cut, not changed. With `answers: stated`, what is asked behind a cut (a
text put into the chain, a probe) is answered with the last answer that the recording states before
the cut, boxed: not what the model would have said, but what it had come to.

Tokens are characters (ids are code points): recordings hold text, and no token ids. A stream
hands over some characters at a time, as if they were decoded in that time, so that a reader who
stops it does not pay for the whole recording.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

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
from reasoning.naming import check_settings, explain
from reasoning.stated import stated

DATA = "REASONING_DATA"  # the folder in which relative paths are looked for
PACE = 64  # characters that a stream hands over at a time
_BOX = "\\boxed{"


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

    file: Path
    id: str = "id"
    text: str = "problem"

    @field_validator("file")
    @classmethod
    def _there(cls, file: Path) -> Path:
        return _found(file)


class RecordedEngine(Engine):
    """Replays recorded samples of a data file: experiments without a model.

    columns, prompts: see `Columns` and `Prompts`.

    A relative path that leads nowhere is looked for in the folder REASONING_DATA.
    answers: `stated` to answer what is asked behind a cut; None to refuse it.
    """

    capabilities = Capabilities(
        logprobs=False,
        score=False,
        choose=False,
        continue_turn=True,
        token_keyed=True,
        one_prefill=True,
    )

    def __init__(
        self,
        model: str,
        *,
        columns: dict[str, Any] | None = None,
        prompts: dict[str, Any] | None = None,
        answers: Literal["stated"] | None = None,
        context_length: int = 1 << 24,
    ) -> None:
        self.name = f"recorded/{model}"
        if answers not in (None, "stated"):
            raise ConfigError(f"{self.name}: answers {answers!r} must be `stated`, or left out")
        self._answers = answers
        self._path = _found(model)
        check_settings(f"{self.name}, columns", Columns, columns or {})
        check_settings(f"{self.name}, prompts", Prompts, prompts or {})
        try:
            self._columns = Columns(**(columns or {}))
            self._prompts = Prompts(**prompts) if prompts else None
        except ValidationError as error:
            raise ConfigError(f"{self.name}: {explain(error)}") from None
        self.context_length = context_length
        self.tokenizer: CharacterTokenizer = CharacterTokenizer()
        self._samples: dict[str, list[str]] = {}  # by prompt text
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
            "answers": self._answers,
            "numbers": "replicate + draw",
        }

    async def counters(self) -> dict[str, float]:
        return {"new": self._new, "prefill": 0, "cached": 0}

    async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
        self.check(request.sampling)
        ids = request.prompt_ids
        prompt = self.tokenizer.decode(ids[: len(ids) - request.position]).rstrip("\n")
        written = self.tokenizer.decode(ids[len(ids) - request.position :])
        completions = []
        for index in range(request.n):
            text = self._sample(prompt, request.streams[index].number)
            if not text.startswith(written):
                text = written + self._answer(text, written, index)
            completion = self._cut(text[len(written) :], request)
            if sink is not None:
                completion = await self._played(completion, index, sink)
            completions.append(completion)
        new = sum(len(c.ids) for c in completions)
        self._new += new
        return SampleReply(tuple(completions), EngineUsage(new=new))

    def _sample(self, prompt: str, number: int) -> str:
        samples = self._recorded(prompt)
        if not 0 <= number < len(samples):
            raise CapabilityError(
                f"{self.name}: sample {number} (seed plus draw, from 0) was asked for of "
                f"{prompt[:60]!r}, which has {len(samples)} recorded samples; use lower seeds, or "
                f"fewer chains"
            )
        return samples[number]

    def _recorded(self, prompt: str) -> list[str]:
        """The samples of a prompt; a system message may stand in lines before it."""
        asked = prompt
        while asked not in self._samples:
            _, more, asked = asked.partition("\n")
            if not more:
                raise EngineReplyError(
                    f"{self.name} holds no sample of {prompt[:60]!r}; it has "
                    f"{len(self._samples)} problems. Check `columns` and `prompts`"
                )
        return self._samples[asked]

    def _answer(self, text: str, written: str, index: int) -> str:
        """What is said behind a text that was put into sample `index`."""
        if self._answers is None:
            raise CapabilityError(
                f"{self.name}: a recorded chain can be cut, not changed; what was asked to be "
                f"continued is not how sample {index} of this problem begins. With "
                f"`answers: stated` it is answered from what the sample states before the cut"
            )
        cut = _shared(text, written)
        answer = stated(text[:cut]) or ""
        _, box, begun = written[cut:].rpartition(_BOX)
        if not box:
            return f"{_BOX}{answer}}}" if answer else ""
        if not answer.startswith(begun):
            return ""  # the box is closed, or its content is not ours
        return answer[len(begun) :] + "}"

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

    async def _played(self, completion: Completion, index: int, sink: Sink) -> Completion:
        for start in range(0, len(completion.ids), PACE):
            ids = completion.ids[start : start + PACE]
            if sink(index, ids, self.tokenizer.decode(ids), ()):
                ids = completion.ids[: start + PACE]
                return Completion(ids, self.tokenizer.decode(ids), "abort")
            await asyncio.sleep(0)
        return completion

    def _read_prompts(self) -> dict[str, str]:
        if self._prompts is None:
            return {}
        named = self._prompts
        return {
            str(self._field(line, named.id, number)): str(self._field(line, named.text, number))
            for number, line in _lines(named.file)
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


def _found(name: str | Path) -> Path:
    """The file of that name, as it stands or in the data folder. Raises DataError without one."""
    path = Path(name).expanduser()
    folder = os.environ.get(DATA)
    hint = ""
    if not path.is_file() and not path.is_absolute():
        path = Path(folder or "").expanduser() / path
        hint = f"; is {DATA} the right folder?" if folder else f"; set {DATA} to the folder of it"
    if not path.is_file():
        raise DataError(f"recorded: there is no file {path}{hint}")
    return path


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common from their start."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, json.loads(line)
            except ValueError:
                raise DataError(f"{path}:{number} is not JSON") from None
