"""One registry for the six kinds of extension: a name maps to a class or function.

Built-in entries are registered as import strings, so that naming a strategy never imports
another strategy, and the core never imports torch. Packages of third parties add entries through
the entry-point group `reasoning.<kind>`; they are found on first use.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from reasoning.errors import ConfigError, UnknownName

T = TypeVar("T")


class Registry:
    """Names of one kind, for objects or `module:attribute` strings imported on first use."""

    def __init__(self, kind: str, builtin: dict[str, str]) -> None:
        self.kind = kind
        self._entries: dict[str, Any] = dict(builtin)
        self._scanned = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds an entry; a name that is taken is an error."""

        def add(value: T) -> T:
            self._scan()
            if name in self._entries:
                raise ConfigError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = value
            return value

        return add

    def get(self, name: str) -> Any:
        """The object behind `name`. Raises UnknownName with the nearest names."""
        self._scan()
        if name not in self._entries:
            raise UnknownName(
                f"unknown {self.kind} {name!r}: {nearest(name, self)}known are {', '.join(self)} "
                f"(`reasoning ls {self.kind}` says more)"
            )
        value = self._entries[name]
        if isinstance(value, str):
            module, _, attribute = value.partition(":")
            value = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return value

    def name(self, kind: type) -> str | None:
        """The name of an entry, which is not imported for it; None for what is none."""
        self._scan()
        entries = kind, f"{kind.__module__}:{kind.__qualname__}"
        return next((name for name, entry in self._entries.items() if entry in entries), None)

    def __iter__(self) -> Iterator[str]:
        self._scan()
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        self._scan()
        return name in self._entries

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        # Here, because importing it takes a sixth of the time that importing the core does.
        from importlib.metadata import entry_points

        for point in entry_points(group=f"reasoning.{self.kind}"):
            if point.name in self._entries:
                raise ConfigError(
                    f"{self.kind} {point.name!r} of package "
                    f"{point.dist.name if point.dist else '?'} is already taken; rename it there"
                )
            self._entries[point.name] = point.value


def nearest(name: str, known: Iterable[str]) -> str:
    """A question after the known names that are spelled nearly so; nothing where none is."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(close)}? " if close else ""


strategies = Registry(
    "strategy",
    {
        "single": "reasoning.strategies.best_of_n:Single",
        "best_of_n": "reasoning.strategies.best_of_n:BestOfN",
        "majority": "reasoning.strategies.best_of_n:Majority",
        "weighted": "reasoning.strategies.best_of_n:Weighted",
        "auto": "reasoning.strategies.auto:Auto",
        "first_verified": "reasoning.strategies.first_verified:FirstVerified",
        "adaptive_consistency": "reasoning.strategies.adaptive:AdaptiveConsistency",
        "early_stopping": "reasoning.strategies.adaptive:EarlyStopping",
        "deep_conf": "reasoning.strategies.deepconf:DeepConf",
        "deep_conf_online": "reasoning.strategies.deepconf:DeepConfOnline",
        "particle_filtering": "reasoning.strategies.particles:ParticleFiltering",
        "entropic_particle_filtering": "reasoning.strategies.particles:EntropicParticleFiltering",
        "particle_gibbs": "reasoning.strategies.particles:ParticleGibbs",
        "sequential_revision": "reasoning.strategies.revision:SequentialRevision",
        "self_refine": "reasoning.strategies.self_refine:SelfRefine",
        "a_star": "reasoning.strategies.a_star:AStar",
        "beam": "reasoning.strategies.beam:Beam",
        "lookahead": "reasoning.strategies.beam:Lookahead",
        "dvts": "reasoning.strategies.beam:DVTS",
        "step_best_of_n": "reasoning.strategies.step_best_of_n:StepBestOfN",
        "mcts": "reasoning.strategies.mcts:MCTS",
        "rebase": "reasoning.strategies.rebase:Rebase",
        "dora": "reasoning.strategies.rebase:Dora",
    },
)
chain_policies = Registry(
    "chain_policy",
    {
        "plain": "reasoning.strategies.chains.plain:Plain",
        "spec_reason": "reasoning.strategies.chains.spec_reason:SpecReason",
        "atts": "reasoning.strategies.chains.atts:Atts",
        "atts_sync": "reasoning.strategies.chains.atts_sync:AttsSync",
        "budget_forcing": "reasoning.strategies.chains.budget_forcing:BudgetForcing",
        "trimr": "reasoning.strategies.chains.trimr:TrimR",
        "deer": "reasoning.strategies.chains.deer:DEER",
        "dynasor": "reasoning.strategies.chains.dynasor:Dynasor",
    },
)
verifiers = Registry(
    "verifier",
    {
        "check": "reasoning.verifiers.check:Check",
        "prm": "reasoning.verifiers.prm:ProcessReward",
        "math": "reasoning.verifiers.math_equal:MathCheck",
        "qwen_prm": "reasoning.verifiers.text_prm:QwenPrm",
        "math_shepherd": "reasoning.verifiers.text_prm:MathShepherd",
        "rlhflow_prm": "reasoning.verifiers.text_prm:RlhflowPrm",
        "skywork_prm": "reasoning.verifiers.text_prm:SkyworkPrm",
        "value_head": "reasoning.verifiers.text_prm:ValueHead",
        "outcome": "reasoning.verifiers.outcome:OutcomeReward",
        "judge": "reasoning.verifiers.judge:Judge",
        "self_evaluation": "reasoning.verifiers.self_evaluation:SelfEvaluation",
        "agreement": "reasoning.verifiers.agreement:Agreement",
        "random": "reasoning.verifiers.random:Random",
    },
)
engines = Registry(
    "engine",
    {
        "local": "reasoning.engines.local:LocalEngine",
        "vllm": "reasoning.engines.vllm:VLLMEngine",
        "openai": "reasoning.engines.openai:OpenAIEngine",
        "recorded": "reasoning.engines.recorded:RecordedEngine",
        "scripted": "reasoning.engines.scripted:ScriptedEngine",
    },
)
tasks = Registry(
    "task",
    {
        "countdown": "reasoning.evals.tasks:Countdown",
        "math500": "reasoning.evals.tasks:Math500",
        "gsm8k": "reasoning.evals.tasks:GSM8K",
        "aime24": "reasoning.evals.tasks:AIME24",
        "aime25": "reasoning.evals.tasks:AIME25",
        "amc23": "reasoning.evals.tasks:AMC23",
        "transcripts": "reasoning.evals.transcripts:Transcripts",
    },
)
allocators = Registry("allocator", {"fixed": "reasoning.allocation.fixed:Fixed"})

KINDS: dict[str, Registry] = {
    registry.kind: registry
    for registry in (strategies, chain_policies, verifiers, engines, tasks, allocators)
}
