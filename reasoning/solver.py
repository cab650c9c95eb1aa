"""Solver and solve: the Python API."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reasoning.budget import Budget, Ledger, Usage
from reasoning.configuration import Configuration, cost_model
from reasoning.costs.kinetics import CostModel
from reasoning.engines.base import Engine, Sampling
from reasoning.errors import ConfigError
from reasoning.evals.math_answers import canonical, conclusion
from reasoning.header import note_sitting
from reasoning.journal import Journal, digest
from reasoning.naming import Spec, build, check_settings
from reasoning.problem import Problem, Solution
from reasoning.registry import chain_policies, engines, strategies, tasks, verifiers
from reasoning.replies import ReplyStore
from reasoning.runner import Job, Runner, interruptible
from reasoning.session import Session

if TYPE_CHECKING:
    from reasoning.strategy import ChainPolicy, Strategy, Verifier

T = TypeVar("T")

# The models and the verifier that answer when none is given.
SHIPPED_MODELS = {"policy": "local/countdown-policy", "prm": "local/countdown-prm"}
SHIPPED_VERIFIERS = {"verifier": {"name": "prm", "model": "prm"}}
# How they are asked where nothing is said; chosen on dev.
SHIPPED_STRATEGY = "weighted"
SHIPPED_SAMPLING = Sampling(temperature=0.6)
SHIPPED_MAX_TOKENS = 640


class Solver:
    """Solves problems with models by role. Use as `async with`, or call the sync methods.

    models: a model string for the policy, or a mapping of roles to model strings, to mappings
    with `model` and engine arguments, or to engines. None: the shipped Countdown models, which are
    asked as the recipes do where nothing else is said.
    strategy: None is best-of-N where there is a verifier, majority voting where there is none.
    verifiers: by role, specs with `name`, `model` (the role that serves it) and settings.
    round_size: problems that do not learn from each other, where a chain policy learns at all.
    run: a folder that keeps header (run.json), journal and replies, so that what was paid for is
    never lost.
    """

    def __init__(
        self,
        models: str | Mapping[str, Any] | None = None,
        *,
        strategy: Spec | Strategy | None = None,
        chain_policy: Spec | ChainPolicy = "plain",
        verifiers: Mapping[str, Spec] | None = None,
        budget: Budget | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        costs: Mapping[str, CostModel] | None = None,
        seed: int = 0,
        run: str | Path | None = None,
        in_flight: int = 256,
        round_size: int = 32,
    ) -> None:
        self.shipped = models is None
        if models is None:
            models = SHIPPED_MODELS
            if verifiers is None:
                verifiers, strategy = SHIPPED_VERIFIERS, strategy or SHIPPED_STRATEGY
            sampling = sampling or SHIPPED_SAMPLING
            max_tokens = SHIPPED_MAX_TOKENS if max_tokens is None else max_tokens
        elif isinstance(models, str):
            models = {"policy": models}
        elif not isinstance(models, Mapping):
            raise ConfigError(
                f"models={models!r}: give a model string, such as 'local/path', or a mapping of "
                f"roles to models"
            )
        if strategy is None:
            strategy = "best_of_n" if verifiers else "majority"
        if not isinstance(budget, Budget | None):
            raise ConfigError(f"budget={budget!r}: give a Budget, such as Budget(tokens=4000)")
        self._models = models
        bound = {role: engine(spec) for role, spec in models.items()}
        self._configuration = Configuration(
            strategy=build(strategies, strategy),
            policy=build(chain_policies, chain_policy),
            engines=bound,
            verifiers={role: verifier(spec) for role, spec in (verifiers or {}).items()},
            sampling=sampling or Sampling(),
            max_tokens=max_tokens,
            budget=budget or Budget(),
            costs={role: cost_model(model) for role, model in bound.items()} | dict(costs or {}),
            seed=seed,
            round_size=round_size,
        )
        self._configuration.check()
        self._folder = Path(run) if run is not None else None
        self._in_flight = in_flight
        self._noted = False  # whether the folder's header tells of this solver
        self._ledger = Ledger("run")
        self._runner: Runner | None = None
        self._entered = 0  # the models stay loaded until the outermost `async with` ends

    @property
    def spent(self) -> Usage:
        """What all problems so far have cost, those in work as far as it is booked."""
        return self._ledger.total

    async def __aenter__(self) -> Solver:
        self._entered += 1
        if self._runner is None:
            folder = self._folder
            self._runner = Runner(
                Session(),
                journal=Journal(folder / "journal.jsonl" if folder else None),
                store=ReplyStore(folder / "replies.sqlite" if folder else None),
                ledger=self._ledger,
                in_flight=self._in_flight,
            )
            try:
                await self._runner.bind(self._configuration)
                if folder is not None and not self._noted:
                    note_sitting(folder, self._configuration.engines, self._models)
                    self._noted = True
            except BaseException:
                await self.__aexit__()
                raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._entered -= 1
        if self._entered:
            return
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.journal.close()
            runner.store.close()
            await runner.session.close()

    async def asolve(self, problem: str | Problem) -> Solution:
        """Solve one problem. Raises what made it fail. Ctrl-C ends it with the best answer so far,
        chains that are half written included."""
        problem = self._problem(problem)
        async with self as solver:
            assert solver._runner is not None
            with interruptible(solver._runner.session):
                job = Job(problem, self._configuration)
                return await solver._runner.solve(job, reraise=True, streaming=True)

    async def asolve_many(self, problems: Iterable[str | Problem]) -> AsyncIterator[Solution]:
        """Solutions as they are done. One that fails has status `failed` and an error."""
        configuration = self._configuration
        lanes = (
            [Job(self._problem(problem), configuration, round=configuration.round_of(place))]
            for place, problem in enumerate(problems)
        )
        async with self as solver:
            assert solver._runner is not None
            with interruptible(solver._runner.session):
                async for _, solution in solver._runner.solve_all(lanes):
                    yield solution

    def solve(self, problem: str | Problem) -> Solution:
        """`asolve`, for code that is not async (also inside a notebook's running loop)."""
        return run_sync(self.asolve(problem))

    def solve_many(self, problems: Iterable[str | Problem]) -> list[Solution]:
        """`asolve_many` in a list, in the order of the problems."""

        async def collect() -> list[Solution]:
            order = [self._problem(problem) for problem in problems]
            done = {s.problem: s async for s in self.asolve_many(order)}
            return [done[problem.id] for problem in order if problem.id in done]

        return run_sync(collect())

    def _problem(self, problem: str | Problem) -> Problem:
        if isinstance(problem, Problem):
            return problem
        if not isinstance(problem, str):
            raise ConfigError(f"{problem!r} is no problem: give its text, or a reasoning.Problem")
        recognised = recognise(problem)
        if recognised is not None:
            return recognised
        if self.shipped:
            raise ConfigError(
                "the shipped model solves Countdown only, for example 'Use 3, 7, 25, 50 to make "
                f"79'; it cannot answer {problem[:60]!r}. Give another model, for example "
                "models='openai/gpt-4o-mini'"
            )
        return question(problem)


def solve(problem: str | Problem, **settings: Any) -> Solution:
    """Solve one problem: `solve("Use 3, 7, 25, 50 to make 79", budget=Budget(tokens=4000))`.

    Settings are those of `Solver`.
    """
    return Solver(**settings).solve(problem)


def recognise(text: str) -> Problem | None:
    """The problem that a task reads in free text, with its check; None when no task does."""
    for name in tasks:
        found: Problem | None = tasks.get(name)().recognise(text)
        if found is not None:
            return found
    return None


def question(text: str) -> Problem:
    """A question that is no task's. Votes compare what a solution concludes, not its wording."""
    return Problem(
        # The key of journal and results: another text is another problem.
        id=f"question-{digest(text)[:12]}",
        messages=({"role": "user", "content": text},),
        extract=conclusion,
        canonical=canonical,
    )


def engine(spec: Any) -> Engine:
    """An engine from a model string, or from a mapping with `model` and engine arguments."""
    if isinstance(spec, Engine):
        return spec
    settings = {"model": spec} if isinstance(spec, str) else dict(spec)
    model = settings.pop("model", None)
    if not isinstance(model, str) or "/" not in model:
        raise ConfigError(
            f"model {model!r} must look like engine/model, for example local/countdown-policy "
            f"or openai/gpt-4o-mini; engines are {', '.join(engines)}"
        )
    kind, _, name = model.partition("/")
    try:
        make = engines.get(kind)
        check_settings(f"engine {kind!r}", make, settings)
        made: Engine = make(name, **settings)
    except ImportError as missing:
        raise ConfigError(
            f"engine {kind!r} needs a package that is not installed ({missing.name}); "
            f"run `pip install reasoning[{kind}]`"
        ) from None
    except TypeError as error:
        raise ConfigError(f"engine {kind!r}: {error}") from None
    return made


def verifier(spec: Any) -> tuple[Verifier, str | None]:
    """A verifier and the role of the model that serves it."""
    if not isinstance(spec, dict):
        return build(verifiers, spec), None
    settings = dict(spec)
    model = settings.pop("model", None)
    return build(verifiers, settings), model


def run_sync(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; in a thread of its own where a loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main)
    result: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            result.append(asyncio.run(main))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]
