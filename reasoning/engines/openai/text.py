"""Requests and replies in text: /v1/completions and /v1/chat/completions of any server.

What plain servers do not tell (which stop string ended a text, or whether the model did) decides
whether a chain is finished. So stop strings are matched here, on a stream that is left when all
continuations have ended; vLLM tells, and matches them itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reasoning.engines.base import (
    Completion,
    EngineUsage,
    Finish,
    SampleReply,
    SampleRequest,
    Sampling,
)
from reasoning.engines.openai import standin, token_ids
from reasoning.engines.openai.assembly import Assembly, Delta
from reasoning.engines.openai.faults import Malformed
from reasoning.engines.openai.token_ids import FINISHES
from reasoning.errors import CapabilityError


class Text:
    """Makes bodies and reads replies for one model.

    chat: which of the two endpoints. vllm: the server takes vLLM's parameters.
    """

    def __init__(self, model: str, tokenizer: standin.ByteTokenizer, *, chat: bool, vllm: bool):
        self.path = "/chat/completions" if chat else "/completions"
        # Some servers take only the newer name; `renamed` switches when one says so.
        self.cap_name = "max_tokens"
        self.usage_mismatches = 0
        self._model = model
        self._tokenizer = tokenizer
        self._chat = chat
        self._vllm = vllm

    def renamed(self, refusal: str) -> bool:
        """Whether a refusal asks for another name of the cap, which is used from now on."""
        if self.cap_name == "max_tokens" and "max_completion_tokens" in refusal:
            self.cap_name = "max_completion_tokens"
            return True
        return False

    def must_stream(self, request: SampleRequest) -> bool:
        return bool(request.sampling.stop) and not self._vllm

    # Bodies.

    def sample_body(self, request: SampleRequest, stream: bool) -> bytes:
        """Raises CapabilityError for parameters that the server does not know."""
        sampling = request.sampling
        self._refuse(sampling)
        body: dict[str, Any] = {
            "model": self._model,
            self.cap_name: request.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if request.n > 1:
            body["n"] = request.n
        if self._vllm:
            body |= self._vllm_fields(request)
        elif sampling.temperature > 0:
            body["seed"] = token_ids.seed(request) & 0x7FFFFFFF
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self._chat:
            body |= self._conversation(request)
        else:
            body["prompt"] = self._tokenizer.decode(request.prompt_ids)
        return json.dumps(body).encode()

    def health_body(self) -> bytes:
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": "."}]}
        body = {"model": self._model, self.cap_name: 1} | (asked if self._chat else {"prompt": "."})
        return json.dumps(body).encode()

    def _conversation(self, request: SampleRequest) -> dict[str, Any]:
        messages = standin.messages(request.prompt_ids)
        if messages[-1]["role"] != "assistant":
            return {"messages": messages}
        if not messages[-1]["content"]:
            return {"messages": messages[:-1]}
        if not self._vllm:
            raise CapabilityError(
                "a plain chat server cannot continue an assistant's turn; serve the model with "
                "vLLM, or use flavour: completions"
            )
        return {
            "messages": messages,
            "add_generation_prompt": False,
            "continue_final_message": True,
        }

    def _vllm_fields(self, request: SampleRequest) -> dict[str, Any]:
        sampling = request.sampling
        fields: dict[str, Any] = {
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": 1.0,
            "min_tokens": sampling.min_tokens,
            "ignore_eos": sampling.ignore_eos,
        }
        if sampling.temperature > 0:
            fields["seed"] = token_ids.seed(request)
        if request.priority:
            fields["priority"] = request.priority
        if sampling.stop:
            fields |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
        return fields

    def _refuse(self, sampling: Sampling) -> None:
        unknown = [name for name in ("stop_ids", "allowed_ids") if getattr(sampling, name)]
        if sampling.logprobs is not None:
            unknown.append("logprobs")
        if not self._vllm:
            unknown += [
                name
                for name in ("top_k", "min_p", "min_tokens", "ignore_eos")
                if getattr(sampling, name)
            ]
        if unknown:
            raise CapabilityError(
                f"this server is spoken to in text and cannot do {', '.join(unknown)}; "
                f"serve the model with vLLM and give its `tokenizer`"
            )

    # Replies.

    def read(self, payload: Any, request: SampleRequest) -> SampleReply:
        """Raises Malformed."""
        choices = token_ids.choices(payload, request.n)
        cutter = Cutter(request)
        found: list[Completion | None] = [None] * request.n
        for choice in choices:
            index, text, finish, reason = self._choice(choice, "message")
            if finish is None:
                raise Malformed("a choice without a finish_reason")
            if not 0 <= index < request.n or found[index] is not None:
                raise Malformed(f"choice {index} twice, or not asked for")
            delta = cutter.cut(index, text, finish, reason)
            assert delta.finish is not None
            done = Completion(tuple(delta.ids), delta.text, delta.finish, delta.stop_reason)
            found[index] = _trimmed(done, request.sampling)
        completions = tuple(c for c in found if c is not None)
        new = sum(len(c.ids) for c in completions)
        return SampleReply(completions, self.usage(payload.get("usage"), request, new))

    def reading(self, request: SampleRequest) -> Callable[[Any], list[Delta]]:
        """A function from one event of a stream to what it says. Raises Malformed."""
        cutter = Cutter(request)

        def read(event: Any) -> list[Delta]:
            choices = event.get("choices")
            if type(choices) is not list:
                raise Malformed("an event without choices")
            return [cutter.cut(*self._choice(choice, "delta")) for choice in choices]

        return read

    def streamed(
        self,
        completions: tuple[Completion, ...],
        said: Any,
        request: SampleRequest,
        assembly: Assembly,
    ) -> SampleReply:
        """The reply of a stream that was read to its end, or left. said: its usage field."""
        usage = self.usage(said, request, assembly.pieces)
        return SampleReply(tuple(_trimmed(c, request.sampling) for c in completions), usage)

    def _choice(
        self, choice: Any, message: str
    ) -> tuple[int, str, Finish | None, str | int | None]:
        try:
            text = (choice[message].get("content") if self._chat else choice["text"]) or ""
            index, finish = choice.get("index", 0), choice.get("finish_reason")
            reason = choice.get("stop_reason")
        except (KeyError, TypeError, AttributeError):
            raise Malformed("a choice without text") from None
        if type(text) is not str or type(index) is not int:
            raise Malformed("index or text of another type")
        if finish is not None and finish not in FINISHES:
            raise Malformed(f"finish_reason {finish!r}")
        return index, text, FINISHES.get(finish), reason

    def usage(self, said: Any, request: SampleRequest, new: int) -> EngineUsage:
        """What the server says it did, in its tokens.

        new: what was received (bytes, or pieces of a stream): used where it says nothing, or what
        cannot be.
        """
        prompt = len(request.prompt_ids)
        said = said if type(said) is dict else {}
        asked, decoded = said.get("prompt_tokens"), said.get("completion_tokens")
        most = request.n * request.max_tokens
        if type(asked) is not int or asked < 0:
            asked = prompt
        if type(decoded) is not int or not 0 <= decoded <= most:
            self.usage_mismatches += decoded is not None
            decoded = min(new, most)
        details = said.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if type(details) is dict else 0
        cached = min(max(cached, 0), asked) if type(cached) is int else 0
        return EngineUsage(prefill=asked - cached, cached=cached, new=decoded)


def _trimmed(completion: Completion, sampling: Sampling) -> Completion:
    """Without its stop string, where that is asked for (the ids keep it)."""
    stop = completion.stop_reason
    if sampling.include_stop or not isinstance(stop, str):
        return completion
    return replace(completion, text=completion.text.removesuffix(stop))


class Cutter:
    """Ends each continuation at its first stop string, or at its cap in bytes."""

    def __init__(self, request: SampleRequest) -> None:
        self._sampling = request.sampling
        self._cap = request.max_tokens
        self._texts = [""] * request.n
        self._sizes = [0] * request.n
        self._longest = max((len(stop) for stop in request.sampling.stop), default=0)

    def cut(self, index: int, text: str, finish: Finish | None, reason: str | int | None) -> Delta:
        """The delta of a piece of text. Raises Malformed for an index that was not asked for."""
        if not 0 <= index < len(self._texts):
            raise Malformed(f"choice {index} of {len(self._texts)}")
        before = self._texts[index]
        whole = before + text
        early = False
        end, stop = self._first_stop(whole, max(0, len(before) - self._longest + 1))
        if stop is not None:
            early, finish, reason = finish is None, "stop", stop
            text = whole[len(before) : end]
        ids = text.encode("utf-8", "surrogatepass")
        room = self._cap - self._sizes[index]
        if len(ids) > room:
            early, finish, reason, stop = finish is None, "length", None, None
            text = ids[:room].decode("utf-8", "ignore")
            ids = ids[:room]
        self._texts[index] = before + text
        self._sizes[index] += len(ids)
        return Delta(index, list(ids), text, None, finish, reason, early)

    def _first_stop(self, text: str, start: int) -> tuple[int, str | None]:
        found = [
            (place + len(stop), stop)
            for stop in self._sampling.stop
            if (place := text.find(stop, start)) >= 0
        ]
        return min(found, default=(0, None), key=lambda pair: pair[0])
