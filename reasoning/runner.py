"""Runner: keeps many problems in flight and turns whatever ends one into a Solution."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from reasoning.branch import Bindings
from reasoning.budget import Ledger
from reasoning.configuration import Configuration
from reasoning.context import Context
from reasoning.errors import (
    BudgetBreach,
    JournalError,
    ReasoningError,
    Stopped,
    first_error,
)
from reasoning.journal import Journal
from reasoning.outcomes import Outcome
from reasoning.problem import Problem, Solution, Status
from reasoning.prompts import instructed
from reasoning.replies import ReplyStore
from reasoning.session import Session
from reasoning.shared_state import SharedState, evidence

# Errors that say the run itself is wrong, not the problem it met.
_FATAL = (BudgetBreach, JournalError)


@dataclass(frozen=True, slots=True)
class Job:
    """A problem to be solved under a configuration. replicate: independent repetition.

    round: it reads what jobs of the same configuration and replicate in earlier rounds contributed.
    """

    problem: Problem
    configuration: Configuration
    replicate: int = 0
    round: int = 0


class Runner:
    """Solves jobs over one session. in_flight: problems worked on at once."""

    def __init__(
        self,
        session: Session,
        *,
        journal: Journal | None = None,
        store: ReplyStore | None = None,
        ledger: Ledger | None = None,
        in_flight: int = 256,
    ) -> None:
        self.session = session
        self.journal = Journal() if journal is None else journal
        self.store = ReplyStore() if store is None else store
        self.ledger = Ledger("run") if ledger is None else ledger
        self.in_flight = in_flight
        self.shared = SharedState(self.journal)
        self._bindings: dict[int, tuple[Configuration, Bindings]] = {}

    async def bind(self, configuration: Configuration) -> Bindings:
        """Check a configuration, load its engines, bind it. Spends nothing."""
        known = self._bindings.get(id(configuration))
        if known is not None:
            return known[1]
        configuration.check()
        await self.session.start(list(configuration.engines.values()))
        configuration.check_engines()
        bindings = configuration.bind(self.session)
        self._bindings[id(configuration)] = (configuration, bindings)
        return bindings

    async def solve(self, job: Job, *, reraise: bool = False, streaming: bool = False) -> Solution:
        """One job. An error of the problem becomes status `failed` (or is raised, on request).

        streaming: chains are received as they are written, so that an interruption keeps them; a
        problem with a deadline streams in any case.
        """
        bindings = await self.bind(job.configuration)
        loop = asyncio.get_running_loop()
        began = loop.time()
        seconds = job.configuration.budget.seconds
        ctx = Context(
            instructed(job.problem, job.configuration.prompt),
            bindings,
            session=self.session,
            journal=self.journal,
            store=self.store,
            # A cap of the problem's own, under the run's; not a share set aside of it.
            ledger=Ledger(job.problem.id, job.configuration.budget, self.ledger, share=False),
            replicate=job.replicate,
            deadline=None if seconds is None else began + seconds,
            shared=self.shared,
            round_=job.round,
            streaming=streaming,
        )
        status: Status = "ok"
        error: str | None = None
        outcome = Outcome(None, "")
        try:
            outcome = await job.configuration.strategy.solve(ctx)
            status = ctx.cut or "ok"  # type: ignore[assignment]
        except Stopped as stopped:
            status = stopped.status  # type: ignore[assignment]
            outcome = ctx.best or outcome
            error = None if ctx.best else str(stopped)
        except _FATAL:
            raise
        except ReasoningError as failure:
            if reraise:
                raise
            status, error = "failed", f"{type(failure).__name__}: {failure}"
            outcome = ctx.best or outcome
        except Exception as failure:
            if reraise:
                raise
            status, error = "failed", f"bug: {type(failure).__name__}: {failure}"
            outcome = ctx.best or outcome
        if status not in ("failed", "group_aborted", "interrupted"):
            given = evidence(ctx.trace)
            self.shared.add(bindings.identity, job.replicate, job.round, job.problem.id, given)
        return Solution(
            problem=job.problem.id,
            answer=outcome.answer,
            text=outcome.text,
            status=status,
            usage=ctx.ledger.total,
            trace=ctx.trace,
            seconds=loop.time() - began,
            error=error,
            meta=outcome.meta,
            roles=dict(ctx.ledger.by_role),
            racing=job.configuration.strategy.racing or ctx.raced,
        )

    async def solve_all(
        self, lanes: Iterable[Sequence[Job]]
    ) -> AsyncIterator[tuple[Job, Solution]]:
        """Solutions as they are done. After a halt no new job starts.

        A lane's jobs are solved one after the other, so that what one drew the next finds in the
        reply store; `in_flight` lanes run at once. A lane whose jobs are of another round than
        those before it starts when all of those are done.
        """
        done: asyncio.Queue[tuple[Job, Solution] | None] = asyncio.Queue()

        async def work(waiting: Iterator[Sequence[Job]]) -> None:
            for lane in waiting:
                for job in lane:
                    if self.session.halted:
                        return
                    done.put_nowait((job, await self.solve(job)))

        async def work_all() -> None:
            try:
                for _, together in itertools.groupby(lanes, key=_round):
                    waiting = iter(together)
                    async with asyncio.TaskGroup() as group:
                        for _ in range(self.in_flight):
                            group.create_task(work(waiting))
            finally:
                done.put_nowait(None)

        running = asyncio.ensure_future(work_all())
        try:
            while (item := await done.get()) is not None:
                yield item
            await running
        except BaseExceptionGroup as failed:
            raise first_error(failed) from None
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _round(lane: Sequence[Job]) -> int:
    return max(job.round for job in lane)


@contextlib.contextmanager
def interruptible(session: Session) -> Iterator[None]:
    """Ctrl-C halts the session in order; a second one kills as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def halt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        session.halt()

    loop.add_signal_handler(signal.SIGINT, halt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
