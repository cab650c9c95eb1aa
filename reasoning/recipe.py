"""Recipes: an experiment as YAML. Read, checked and expanded before anything is loaded or spent.

name: countdown-best-of-n
task: {name: countdown, split: test, count: 500}
models:
  policy: local/countdown-policy
  prm: {model: local/countdown-prm, dtype: float32}
verifiers:
  verifier: {name: prm, model: prm}
sampling: {temperature: 1.0, max_tokens: 512}
strategies:
  - single
  - {name: best_of_n, n: [4, 16]}     # a list is a sweep axis
budgets: [{tokens: 4000}, {}]
seeds: [0, 1]
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reasoning.budget import Budget
from reasoning.configuration import Configuration, cost_model, described, name_of
from reasoning.costs.kinetics import HARDWARE, CostModel
from reasoning.engines.base import Engine, Sampling
from reasoning.errors import ConfigError, DataError, UnknownName
from reasoning.naming import Spec, build, check_settings, explain
from reasoning.registry import chain_policies, strategies, tasks
from reasoning.solver import engine, verifier
from reasoning.strategy import ChainPolicy

MAX_RECIPE_BYTES = 1_000_000


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_settings(cls, given: Any) -> Any:
        if isinstance(given, dict):
            check_settings(cls.__name__.removesuffix("Spec").lower(), cls, given)
        return given


class SamplingSpec(_Part):
    """Sampling parameters by vLLM's names. max_tokens caps a whole chain.

    In a recipe a list in place of a number is a sweep axis. `stop` is a list in itself.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    max_tokens: int | None = Field(default=None, ge=1)

    def sampling(self) -> Sampling:
        return Sampling(**self.model_dump(exclude={"max_tokens"}))


class BudgetSpec(_Part):
    """Caps for one problem; see Budget."""

    tokens: float | None = None
    verifier_passes: float | None = None
    flops: float | None = None
    eflops: float | None = None
    seconds: float | None = None
    money: float | None = None

    def budget(self) -> Budget:
        whole = {"tokens", "verifier_passes"}
        caps = self.model_dump(exclude_none=True)
        return Budget(**{k: int(v) if k in whole and v % 1 == 0 else v for k, v in caps.items()})


class Price(_Part):
    """Money for a million tokens."""

    prefill: float = Field(default=0.0, ge=0.0)
    cached: float = Field(default=0.0, ge=0.0)
    new: float = Field(default=0.0, ge=0.0)


class Recipe(_Part):
    """An experiment: every strategy times every chain policy, kind of prompt, sampling, budget and
    seed on a task's problems.

    chain_policy: one, or a list of them. Lists among a policy's own settings are settings. Its
    `label` is what tables call it, in place of its settings.
    prompt: a kind (`standard`, `cot`, `reflect_cot`), or a list of kinds.
    sampling: one mapping, or a list of mappings. Lists in a mapping are sweep axes; the mappings of
    a list stand side by side, so that axes can be varied one at a time.
    """

    name: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$")
    task: Spec
    models: dict[str, Spec] = Field(min_length=1)
    verifiers: dict[str, Spec] = {}
    sampling: list[SamplingSpec] = Field(default=[SamplingSpec()], min_length=1)
    prompt: str | list[str] = "standard"
    chain_policy: Spec | list[Spec] = "plain"
    strategies: list[Spec] = Field(min_length=1)
    budgets: list[BudgetSpec] = Field(default=[BudgetSpec()], min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    prices: dict[str, Price] = {}
    hardware: str | None = None
    in_flight: int = Field(default=256, ge=1)
    round_size: int = Field(default=32, ge=1)

    @field_validator("sampling", mode="before")
    @classmethod
    def _sampling_axes(cls, given: Any) -> Any:
        return list(_samplings(given)) if isinstance(given, dict | list) else given

    @field_validator("task")
    @classmethod
    def _whole_count(cls, task: Spec) -> Spec:
        count = task.get("count") if isinstance(task, dict) else None
        if count is not None and (type(count) is not int or count < 1):
            raise ValueError("`count` must be a whole number above 0, or left out for all")
        return task

    @field_validator("seeds")
    @classmethod
    def _different_seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands there twice; a replicate needs one of its own")
        return seeds

    @field_validator("hardware")
    @classmethod
    def _known_hardware(cls, name: str | None) -> str | None:
        if name is not None and name not in HARDWARE:
            raise ValueError(f"unknown hardware; known are {', '.join(HARDWARE)}")
        return name

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file. Raises ConfigError with what is wrong and where."""
        path = Path(path)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"recipe {path}: {error.strerror}") from None
        if len(raw) > MAX_RECIPE_BYTES:
            raise ConfigError(f"recipe {path} has {len(raw):,} bytes; a recipe is a short text")
        try:
            # A safe loader: a recipe is data. Tags such as !!python/object are refused.
            data = yaml.load(raw, _Loader)  # noqa: S506
        except Exception as error:  # `2025-13-01` and `!!timestamp x` are no YAMLError
            reason = " ".join(str(error).split())
            raise ConfigError(f"recipe {path} is not plain YAML: {reason}") from None
        if not isinstance(data, dict):
            raise ConfigError(f"recipe {path} must be a mapping with `name`, `task`, `models`, ...")
        try:
            recipe = cls.model_validate(data)
            recipe.configurations()
            recipe.build_task()
        except ValidationError as error:
            raise ConfigError(f"recipe {path}: {explain(error)}") from None
        except (ConfigError, DataError) as error:
            raise type(error)(f"recipe {path}: {error}") from None
        return recipe

    def build_task(self) -> Any:
        """The task object and what selects its problems."""
        spec = {"name": self.task} if isinstance(self.task, str) else dict(self.task)
        return build(tasks, {k: v for k, v in spec.items() if k not in ("count",)})

    @property
    def count(self) -> int | None:
        return self.task.get("count") if isinstance(self.task, dict) else None

    def configurations(self) -> list[Configuration]:
        """Every strategy with every chain policy and budget, checked; replicates are `seeds`.

        Engines are made (not loaded) once and shared by all configurations.
        """
        engines = {role: engine(spec) for role, spec in self.models.items()}
        checked = {role: verifier(spec) for role, spec in self.verifiers.items()}
        written = self.chain_policy if isinstance(self.chain_policy, list) else [self.chain_policy]
        if not written:
            raise ConfigError("`chain_policy` is an empty list; leave it out for plain decoding")
        policies = [_policy(spec) for spec in written]
        prompts = self.prompt if isinstance(self.prompt, list) else [self.prompt]
        if not prompts:
            raise ConfigError("`prompt` is an empty list; leave it out for the task's own")
        costs = self._costs(engines)
        found = []
        for spec, (named, policy), prompt, sampling, budget in itertools.product(
            self.expanded(), policies, prompts, self.sampling, self.budgets
        ):
            strategy = build(strategies, spec)
            label = _label(spec, name_of(strategy))
            if named:
                label += f" + {named}"
            if prompt != "standard":
                label += f", prompt={prompt}"
            label += self._varied(sampling)
            configuration = Configuration(
                strategy=strategy,
                policy=policy,
                engines=engines,
                verifiers=checked,
                sampling=sampling.sampling(),
                max_tokens=sampling.max_tokens,
                budget=budget.budget(),
                costs=costs,
                round_size=self.round_size,
                prompt=prompt,
                label=label,
            )
            configuration.check()
            # A server says what it can do when it is met, all others at once.
            if all(e.capabilities.sample or e.capabilities.pool for e in engines.values()):
                configuration.check_engines()
            found.append(configuration)
        self._check_roles(found)
        return found

    def _check_roles(self, configurations: list[Configuration]) -> None:
        """Refuse a model that nothing would ask, most often a role that is misspelled."""
        used = {"policy", *(model for _, model in configurations[0].verifiers.values())}
        for configuration in configurations:
            used.update(configuration.policy.roles())
            used.update(_strings(described(configuration.strategy)))  # as in `embedder: draft`
        for role in self.models:
            if role not in used:
                asked = ", ".join(other for other in self.models if other in used)
                raise UnknownName(
                    f"nothing uses the model in role {role!r}; the roles in use are {asked}. "
                    f"Remove it, or name it where it is meant to be used"
                )

    def expanded(self) -> Iterator[Spec]:
        """Strategy specs with every list-valued setting expanded as a sweep axis."""
        for spec in self.strategies:
            if isinstance(spec, str):
                yield spec
                continue
            axes = {
                key: value
                for key, value in spec.items()
                if isinstance(value, list) and key != "candidates"
            }
            for key, value in axes.items():
                if not value:
                    raise ConfigError(f"strategy {spec.get('name')!r}: `{key}` is an empty list")
            for values in itertools.product(*axes.values()):
                yield {**spec, **dict(zip(axes, values, strict=True))}

    def _varied(self, sampling: SamplingSpec) -> str:
        """The sampling parameters that differ within the recipe, for a label."""
        each = [spec.model_dump() for spec in self.sampling]
        return "".join(
            f", {name}={value}"
            for name, value in sampling.model_dump().items()
            if any(other[name] != value for other in each)
        )

    def _costs(self, engines: dict[str, Engine]) -> dict[str, CostModel]:
        intensity = CostModel().intensity
        if self.hardware is not None:
            peak, bandwidth = HARDWARE[self.hardware]
            intensity = peak / bandwidth
        for role in self.prices:
            if role not in engines:
                raise ConfigError(f"`prices` names role {role!r}, which `models` does not bind")
        costs = {}
        for role, model in engines.items():
            price = self.prices.get(role, Price())
            costs[role] = cost_model(
                model,
                intensity=intensity,
                prefill_price=price.prefill / 1e6,
                cached_price=price.cached / 1e6,
                token_price=price.new / 1e6,
            )
        return costs


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, times in keys.items():
            if times > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key}` stands there {times} times", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _strings(value: Any) -> Iterator[str]:
    """All strings inside JSON values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _samplings(given: dict[str, Any] | list[Any]) -> Iterator[Any]:
    """Sampling mappings with every list expanded, each once."""
    seen: list[Any] = []
    for spec in given if isinstance(given, list) else [given]:
        if not isinstance(spec, dict):
            yield spec  # for pydantic to say what is wrong with it
            continue
        axes = {k: v for k, v in spec.items() if isinstance(v, list) and k != "stop"}
        for name, values in axes.items():
            if not values:
                raise ValueError(f"{name} is an empty list; give a value, or leave it out")
        for point in itertools.product(*axes.values()):
            one = {**spec, **dict(zip(axes, point, strict=True))}
            if one not in seen:
                seen.append(one)
                yield one


def _policy(spec: Spec) -> tuple[str, ChainPolicy]:
    """What tables call a chain policy (plain decoding has no name), and the policy."""
    label = None
    if isinstance(spec, dict):
        spec = dict(spec)
        label = spec.pop("label", None)
    policy: ChainPolicy = build(chain_policies, spec)
    if label is None:
        label = "" if spec == "plain" else _label(spec, name_of(policy))
    return str(label), policy


def _label(spec: Spec, name: str) -> str:
    if isinstance(spec, str):
        return name
    settings = [f"{key}={value}" for key, value in spec.items() if key != "name"]
    return f"{spec['name']}({', '.join(settings)})" if settings else str(spec["name"])
