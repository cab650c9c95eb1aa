"""Monte Carlo tree search over steps, as in Bag of Tricks (arXiv 2502.07191), after AlphaZero.

A simulation walks down from the current state by PUCT to a leaf, expands it by n continuations,
and backs up what they are worth. After `simulations` of them the search moves to the most
visited child, until that is complete.

| reward | what a state is worth |
|---|---|
| process | the process reward of the partial solution; all new children are scored and backed up |
| rollout | the mean verifier score of rollouts from it; one child a simulation |
| self_consistent | the share of this search's solutions that give the answer of its rollout |

`self_consistent` follows rStar (arXiv 2408.06195), whose terminal states are rewarded by the
confidence of self-consistency voting; that the share is taken over the solutions found so far is
this implementation's reading. It asks no verifier.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

from pydantic import Field

from reasoning.context import Context
from reasoning.strategies.steps import Ask, Path, Select, Step, Steps, Stepwise
from reasoning.strategy import Outcome


def puct(
    total: float,
    visits: int,
    parent_visits: int,
    *,
    c_init: float = 1.25,
    c_base: float = 19652.0,
) -> float:
    """The mean value of a child and what exploring it may bring (a uniform prior of 1)."""
    exploration = c_init + math.log((parent_visits + c_base + 1) / c_base)
    return total / (visits + 1e-6) + exploration * math.sqrt(parent_visits) / (1 + visits)


class MCTS(Stepwise):
    """Monte-Carlo tree search over steps by PUCT, then a move to the most visited child.

    n: continuations of an expanded state. simulations: before each move.

    commit: move to the most visited child, or else end after the simulations.
    max_depth: a state so deep is finished in one ask. rollouts: of a state, where it is valued by
    them. c_init, c_base: PUCT's constants.
    select: how the solutions found decide, on the way or at the end of a rollout. None: `best`,
    or `majority` for the self-consistent reward.
    """

    n: int = Field(default=4, ge=1)
    simulations: int = Field(default=5, ge=1)
    commit: bool = True
    max_depth: int = Field(default=8, ge=1)
    reward: Literal["process", "rollout", "self_consistent"] = "process"
    rollouts: int = Field(default=1, ge=1)
    c_init: float = Field(default=1.25, ge=0.0)
    c_base: float = Field(default=19652.0, gt=0.0)
    select: Select | None = None

    def verifier_roles(self) -> tuple[str, ...]:
        return () if self.reward == "self_consistent" else (self.role,)

    async def solve(self, ctx: Context) -> Outcome:
        search = _Search(self, ctx)
        try:
            async with search.steps.reserving():
                await search.run()
            return await search.conclude()
        finally:
            ctx.trace.add("tree", ctx.path, nodes=[node.row() for node in search.nodes])


class _Node:
    """A state: its visits, and the sum of the values backed up through it."""

    def __init__(self, id: int, parent: _Node | None, step: Step) -> None:
        self.id = id
        self.parent = parent
        self.step = step
        self.depth: int = parent.depth + 1 if parent else 0
        self.children: list[_Node] | None = None  # None: not expanded
        self.visits = 0
        self.total = 0.0
        self.score: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing can be added: it is complete, or all it led to was empty."""
        return self.step.complete or self.children == []

    def row(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "parent": self.parent.id if self.parent else None,
            "depth": self.depth,
            "visits": self.visits,
            "value": self.total / self.visits if self.visits else None,
            "score": self.score,
            "complete": self.step.complete,
            "tokens": self.step.tokens,
            "text": self.step.text,
        }


class _Search:
    """The search of one problem."""

    def __init__(self, settings: MCTS, ctx: Context) -> None:
        self.settings = settings
        self.ctx = ctx
        self.steps: Steps = settings.steps(ctx)
        self.nodes: list[_Node] = []
        self.root = self._born(None, Step(ctx.prompt, "", 0, complete=False, answer=None))
        self.solutions: list[Path] = []
        self.votes: Counter[str] = Counter()
        self.simulations = 0

    async def run(self) -> None:
        while not self.root.over:
            for _ in range(self.settings.simulations):
                if not await self._simulate():
                    self.ctx.note_cut("budget")
                    return
                self.simulations += 1
            if not self.settings.commit or not self.root.children:
                return
            self.root = _most_visited(self.root.children)
            if not self.solutions:
                self.ctx.offer(self.root.step.chain)

    async def conclude(self) -> Outcome:
        """The solution chosen; without an answer the most visited path, finished."""
        node = self.nodes[0]
        while node.children:
            node = _most_visited(node.children)
        rated = self.settings.reward == "process" and node.score is not None
        visited = Path(node.step, node.score or 0.0, rated)
        counts = {"simulations": self.simulations, "solutions": len(self.solutions)}
        return await self.steps.conclude(self.solutions, visited, self._select, **counts)

    # One simulation.

    async def _simulate(self) -> bool:
        """Select, expand, evaluate, back up. False when the budget does not fit it."""
        node = self.root
        while node.children:
            node = max(node.children, key=self._puct)  # the first of equals
        by_process = self.settings.reward == "process"
        if not node.over and (by_process or node.visits or node.parent is None):
            if not await self._expand(node):
                return False
            if by_process:
                return await self._score(node) if node.children else self._back_up(node, 0.0)
            node = node.children[0] if node.children else node
        if node.over and (by_process or not node.step.complete):
            return self._back_up(node, node.score or 0.0)
        return await self._roll_out(node)

    def _puct(self, child: _Node) -> float:
        assert child.parent is not None
        return puct(
            child.total,
            child.visits,
            child.parent.visits,
            c_init=self.settings.c_init,
            c_base=self.settings.c_base,
        )

    async def _expand(self, node: _Node) -> bool:
        scored = self.settings.reward == "process"
        if node.depth >= self.settings.max_depth:
            rest = self.steps.rest(node.step.chain)
            if not self.steps.fit([node.step.chain], 1, each=rest, scored=scored)[0]:
                return False
            ask = Ask(f"node-{node.id}", node.step.chain, until="answer")
        else:
            fitting, n = self.steps.fit([node.step.chain], self.settings.n, scored=scored)
            if not fitting:
                return False
            ask = Ask(f"node-{node.id}", node.step.chain, n)
        (chains,) = await self.steps.write([ask])
        found = self.steps.distinct(self.steps.read_all(node.step.chain, chains))
        if chains:
            node.children = [self._born(node, step) for step in found if not step.empty]
        return bool(chains)

    async def _score(self, node: _Node) -> bool:
        """Process rewards of new children, each backed up."""
        assert node.children
        scores = await self.steps.score([child.step.chain for child in node.children])
        for child, score in zip(node.children, scores, strict=True):
            child.score = score
            self._back_up(child, score)
            if child.step.complete:
                self._solved(Path(child.step, score))
        return True

    async def _roll_out(self, node: _Node) -> bool:
        """Value a state by its rollouts; a complete one by itself."""
        if node.score is not None and node.step.complete:
            return self._back_up(node, self._value([Path(node.step, node.score)]))
        scored = self.settings.reward == "rollout"
        ends = [node.step]
        if not node.step.complete:
            # Draws that no child takes: a rollout is no copy of the path through a child.
            first, most = self.settings.n, self.settings.rollouts
            prefixes = [node.step.chain.drawn(first + index) for index in range(most)]
            fitting, _ = self.steps.fit(prefixes, 1, scored=scored)
            written = await self.steps.write(
                [
                    Ask(f"rollout-{node.id}.{index}", prefix, until="answer")
                    for index, prefix in enumerate(prefixes[:fitting])
                ]
            )
            ends = [self.steps.read(node.step.chain, c) for chains in written for c in chains]
        if not ends or (scored and not self.steps.scorable([end.chain for end in ends])):
            return False
        scores = [0.0] * len(ends)
        if scored:
            scores = await self.steps.score([end.chain for end in ends])
        found = [Path(end, score, scored) for end, score in zip(ends, scores, strict=True)]
        for path in found:
            self._solved(path)
        node.score = sum(scores) / len(scores)
        return self._back_up(node, self._value(found))

    def _value(self, found: list[Path]) -> float:
        """The mean worth of solutions."""
        if self.settings.reward == "self_consistent":
            return sum(self._share(path.step) for path in found) / len(found)
        return sum(path.score for path in found) / len(found)

    def _share(self, end: Step) -> float:
        if end.answer is None:
            return 0.0
        return self.votes[self.ctx.problem.canonical(end.answer)] / len(self.solutions)

    def _back_up(self, node: _Node | None, value: float) -> bool:
        while node is not None:
            node.visits += 1
            node.total += value
            node = node.parent
        return True

    # What was found.

    def _born(self, parent: _Node | None, step: Step) -> _Node:
        node = _Node(len(self.nodes), parent, step)
        self.nodes.append(node)
        return node

    def _solved(self, path: Path) -> None:
        self.solutions.append(path)
        best = self.steps.choose(self.solutions, self._select)
        if best is path:
            self.steps.offer(path)
        if path.step.answer is not None:
            self.steps.release()
            self.votes[self.ctx.problem.canonical(path.step.answer)] += 1

    @property
    def _select(self) -> Select:
        by_votes = self.settings.reward == "self_consistent"
        return self.settings.select or ("majority" if by_votes else "best")


def _most_visited(nodes: list[_Node]) -> _Node:
    """Ties go to the greater value, then to the first."""
    return max(nodes, key=lambda node: (node.visits, node.total))
