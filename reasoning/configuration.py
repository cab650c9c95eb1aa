"""Configuration: one way of solving problems, bound to models, with a content hash."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from reasoning.branch import Bindings
from reasoning.budget import Budget
from reasoning.costs.kinetics import CostModel, ModelShape
from reasoning.engines.base import Engine, Sampling
from reasoning.errors import CapabilityError, ConfigError, UnknownName
from reasoning.journal import digest
from reasoning.prompts import check_kind
from reasoning.registry import KINDS
from reasoning.session import Session

if TYPE_CHECKING:
    from reasoning.strategy import ChainPolicy, Settings, Strategy, Verifier

# Where a word begins inside a class's name.
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def cost_model(engine: Engine, **prices: float) -> CostModel:
    """What a model's work costs: its shape where its config says it, and `prices` of CostModel."""
    config = engine.model_config()
    return CostModel(shape=ModelShape.from_config(config) if config else None, **prices)


def _word(thing: Settings) -> str:
    """The class's name: BestOfN is best_of_n, TrimR trim_r. Hashes have it, so that what was paid
    for is found again."""
    return _HUMP.sub("_", type(thing).__name__).lower()


def name_of(thing: Settings) -> str:
    """The registry name; of what has none, the class's name as a word."""
    names = (registry.name(type(thing)) for registry in KINDS.values())
    return next((name for name in names if name is not None), _word(thing))


def _who(strategy: Strategy) -> str:
    return f"strategy {name_of(strategy)}"


def described(thing: Settings, named: Callable[[Settings], str] = _word) -> dict[str, Any]:
    return {"name": named(thing), **thing.model_dump(mode="json")}


@dataclass(frozen=True)
class Configuration:
    """A strategy with its chain policy, engines and verifiers by role, sampling and budget.

    verifiers: by role, each with the role of the model that serves it (None: no model).
    max_tokens: cap for one chain. seed: of the random streams; replicates add to it.
    round_size: problems in a round, where what earlier rounds learned is read (shared_state.py).
    prompt: the kind of prompt (prompts.KINDS).
    """

    strategy: Strategy
    policy: ChainPolicy
    engines: dict[str, Engine]
    verifiers: dict[str, tuple[Verifier, str | None]] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    budget: Budget = field(default_factory=Budget)
    costs: dict[str, CostModel] = field(default_factory=dict)
    seed: int = 0
    label: str = ""
    round_size: int = 32
    prompt: str = "standard"

    def check(self) -> None:
        """Raise what would go wrong later, before anything is loaded or spent."""
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens={self.max_tokens} must be at least 1, or left out")
        if self.round_size < 1:
            raise ConfigError(f"a round of {self.round_size} problems is none; use 1 or more")
        check_kind(self.prompt)
        who, writer = _who(self.strategy), f"chain policy {name_of(self.policy)}"
        for strategy in self.strategy.alternatives():
            self._check_unit(strategy, writer)
        for role in ("policy", *self.policy.roles()):
            if role not in self.engines:
                asker = who if role == "policy" else writer
                raise UnknownName(f"{asker} needs a model in role {role!r}; add it under `models`")
        for role in self.verifier_roles:
            if role not in self.verifiers:
                known = ", ".join(self.verifiers) or "none"
                asker = who if role in self.strategy.verifier_roles() else writer
                raise UnknownName(
                    f"{asker} needs a verifier in role {role!r} (bound are: {known}); "
                    f"add it under `verifiers`"
                )
        for role, (verifier, model) in self.verifiers.items():
            if verifier.needs and (model is None or model not in self.engines):
                raise UnknownName(
                    f"verifier {name_of(verifier)} in role {role!r} needs a model; set its "
                    f"`model` to one of the roles under `models` ({', '.join(self.engines)})"
                )
        for strategy in self.strategy.alternatives():
            self._check_aggregate(strategy)
        self._check_settings(started=False)
        self._check_caps()

    def _check_unit(self, strategy: Strategy, writer: str) -> None:
        """Refuse a strategy that reads of chains what the chain policy does not give."""
        if strategy.unit not in self.policy.units:
            raise CapabilityError(
                f"{_who(strategy)} asks for whole {strategy.unit}s, which {writer} cannot write "
                f"(it writes {', '.join(self.policy.units)})"
            )
        if "logprobs" in strategy.needs and self.policy.logprobs != "kept":
            raise CapabilityError(
                f"{_who(strategy)} reads the log-probabilities of every token, which {writer} does "
                f"not keep; use chain policy plain"
            )

    def _check_aggregate(self, strategy: Strategy) -> None:
        if getattr(strategy, "aggregate", None) != "model":
            return
        for role in strategy.verifier_roles():
            if not self.verifiers[role][0].single:
                raise ConfigError(
                    f"{_who(strategy)}: aggregation model takes one score of a whole chain, and "
                    f"the verifier in role {role!r} gives one a step; set it to `read: model`"
                )

    def _check_settings(self, *, started: bool) -> None:
        for engine in self.engines.values():
            engine.check(self.sampling)
        for strategy in self.strategy.alternatives():
            strategy.check(self.engines, self.sampling, started=started)
        self.policy.check(self.engines, self.sampling, started=started)

    def _check_caps(self) -> None:
        """Refuse a cap on what cannot be counted: it would never be reached."""
        costs = [self.costs.get(role) or CostModel() for role in self.engines]
        if self.budget.money is not None and not any(cost.priced for cost in costs):
            raise ConfigError(
                "a budget of money needs `prices` in a recipe, `costs` of a Solver, by role of the "
                "model"
            )
        if self.budget.flops is None and self.budget.eflops is None:
            return
        for role, cost in zip(self.engines, costs, strict=True):
            if cost.shape is None:
                raise ConfigError(
                    f"a budget of FLOPs needs the shape of each model, which role {role!r} does "
                    f"not say; cap tokens instead"
                )

    def check_engines(self) -> None:
        """Raise CapabilityError when a started engine lacks what it is used for."""
        policy = self.engines["policy"]
        for who, needs in (
            *((_who(strategy), strategy.needs) for strategy in self.strategy.alternatives()),
            (f"chain policy {name_of(self.policy)}", self.policy.needs),
        ):
            policy.capabilities.require(needs, engine=policy.name, who=who)
        if self.sampling.logprobs is not None:
            policy.capabilities.require(
                ("logprobs",), engine=policy.name, who="a recipe with `logprobs`"
            )
        for verifier, model in self.verifiers.values():
            if model is not None:
                engine = self.engines[model]
                engine.capabilities.require(
                    verifier.needs, engine=engine.name, who=f"verifier {name_of(verifier)}"
                )
        self._check_settings(started=True)

    def round_of(self, place: int) -> int:
        """The round of the problem at `place` in its task's order."""
        return place // self.round_size if self.policy.learns() else 0

    @property
    def verifier_roles(self) -> tuple[str, ...]:
        """Roles in which the strategy or the chain policy asks a verifier."""
        return (*self.strategy.verifier_roles(), *self.policy.verifier_roles())

    @property
    def oracle(self) -> bool:
        """Whether a verifier that is used knows the truth."""
        used = (self.verifiers[role][0] for role in self.verifier_roles if role in self.verifiers)
        return any(verifier.oracle for verifier in used)

    def describe(self, named: Callable[[Settings], str] = name_of) -> dict[str, Any]:
        """Everything that decides the results, but the models' content, as JSON values."""
        return {
            "strategy": described(self.strategy, named),
            "chain_policy": described(self.policy, named),
            "verifiers": {
                role: {**described(verifier, named), "model": model}
                for role, (verifier, model) in self.verifiers.items()
                if role in self.verifier_roles
            },
            "models": {role: engine.name for role, engine in self.engines.items()},
            "sampling": self.sampling.described(),
            "max_tokens": self.max_tokens,
            "budget": asdict(self.budget),
            "seed": self.seed,
            **({"round_size": self.round_size} if self.policy.learns() else {}),
            **({"prompt": self.prompt} if self.prompt != "standard" else {}),
        }

    def bind(self, session: Session) -> Bindings:
        """Bindings for contexts. The engines must be started."""
        weights = {role: session.identity(engine) for role, engine in self.engines.items()}
        verifiers = {
            role: (verifier, self.engines[model] if model is not None else None)
            for role, (verifier, model) in self.verifiers.items()
        }
        costs = dict(self.costs)
        for role, (_, model) in self.verifiers.items():
            if model in costs:
                costs.setdefault(role, costs[model])
        return Bindings(
            engines=self.engines,
            verifiers=verifiers,
            policy=self.policy,
            sampling=self.sampling,
            max_tokens=self.max_tokens,
            costs=costs,
            seed=self.seed,
            identity=digest(self.describe(_word), weights)[:16],
        )
