"""A*-decoding: best-first search over partial solutions (Chatziveroglou 2025, arXiv 2505.13672).

A state s is a partial solution; an action draws k continuations of it, a step each; a process
reward model gives r(s) in [0, 1]. One open set holds all states of a problem, the lowest
f(s) = g(s) + h(s) is expanded next, h(s) = 1 - r(s), and g(s) sums the edge costs on the way.

The exact edge cost of the paper, its k, and whether siblings left behind stay in the open set
are unverified: the cost is a setting (`drop` by default), and here they stay. As h is not 0 at a
goal, no cost gives A*'s guarantees: this is best-first search with path costs.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.strategies.steps import Ask, Path, Step, Steps, Stepwise
from reasoning.strategy import Outcome

State = Literal["open", "closed", "goal", "dead"]

# Rewards are rounded to multiples of this: sums of them are exact, so that ties are ties.
GRAIN = 2.0**-32


class EdgeCost(StrEnum):
    """The cost of a step from reward r to r', and f at the end of a path r_0, ..., r_t.

    drop: max(0, r - r'): setbacks cost. 1 - r_0 + 2 * drops - rises.
    zero: 0, greedy on the reward. 1 - r_t.
    signed: r - r', which telescopes: the order of `zero`. 1 + r_0 - 2 r_t.
    abs: |r - r'|: f never falls along a path. 1 - r_0 + 2 * drops.
    cum: 1 - r': depth costs, which drifts to breadth-first. sum of (1 - r_i) + 1 - r_t.
    const: `length_cost` a step. length_cost * depth + 1 - r_t.
    """

    drop = "drop"
    zero = "zero"
    signed = "signed"
    abs = "abs"
    cum = "cum"
    const = "const"


def edge_cost(kind: EdgeCost, before: float, after: float, length_cost: float = 0.0) -> float:
    """The cost of a step between rewards `before` and `after`, each in [0, 1]."""
    match kind:
        case EdgeCost.drop:
            return max(0.0, before - after)
        case EdgeCost.zero:
            return 0.0
        case EdgeCost.signed:
            return before - after
        case EdgeCost.abs:
            return abs(before - after)
        case EdgeCost.cum:
            return 1.0 - after
        case EdgeCost.const:
            return length_cost


class AStar(Stepwise):
    """Best-first search over partial solutions: one open set, f = g + h, h = 1 - reward.

    k: continuations drawn of an expanded state. expand_batch: states expanded at once.

    root_reward: r of the bare prompt, which most reward models cannot score.
    goal_mode: `first` ends at the first goal that is expanded (has the lowest f); `collect_m`
    goes on to m of them and lets `select` choose. A goal without an answer is no goal.
    max_depth: a path of so many steps is finished in one ask, or dropped (`at_max_depth`).
    max_expansions: None for as many as the budget allows.
    speculate: how many new states are expanded while their rewards are on the way, taken in the
    order they would have if they were as good as their parent. It saves waiting and changes no
    result but through the budget: what is never used is charged all the same.
    """

    k: int = Field(default=4, ge=1)
    edge_cost: EdgeCost = EdgeCost.drop
    length_cost: float = Field(default=0.1, gt=0.0)
    root_reward: float = Field(default=0.5, ge=0.0, le=1.0)
    goal_mode: Literal["first", "collect_m"] = "first"
    m: int = Field(default=4, ge=1)
    select: Literal["best", "weighted"] = "best"
    expand_batch: int = Field(default=1, ge=1)
    max_expansions: int | None = Field(default=None, ge=0)
    max_depth: int = Field(default=40, ge=1)
    at_max_depth: Literal["finish", "dead"] = "finish"
    speculate: int = Field(default=0, ge=0)

    async def solve(self, ctx: Context) -> Outcome:
        search = _Search(self, ctx)
        try:
            async with search.steps.reserving():
                await search.run()
            return await search.conclude()
        finally:
            # Also when the clock or Ctrl-C ends it.
            ctx.trace.add("tree", ctx.path, nodes=[node.row() for node in search.nodes])


@dataclass(slots=True, eq=False)
class Node:
    """A state of the search. rated: r is its own reward, not its parent's."""

    id: int
    parent: Node | None
    step: Step
    depth: int
    r: float
    g: float = 0.0
    state: State = "open"
    rated: bool = False

    @property
    def chain(self) -> Chain:
        return self.step.chain

    @property
    def path(self) -> Path:
        return Path(self.step, self.r, self.rated)

    @property
    def h(self) -> float:
        return 1.0 - self.r

    @property
    def f(self) -> float:
        return self.g + self.h

    @property
    def key(self) -> tuple[float, int, float, int]:
        """Where the node stands in the open set: ties go to the deeper, the better, the older."""
        return self.f, -self.depth, -self.r, self.id

    def row(self) -> dict[str, Any]:
        """The node as the trace keeps it (JSON values)."""
        return {
            "id": self.id,
            "parent": self.parent.id if self.parent else None,
            "depth": self.depth,
            "g": self.g,
            "h": self.h,
            "f": self.f,
            "r": self.r,
            "tokens": self.step.tokens,
            "state": self.state,
            "complete": self.step.complete,
            "copies": self.step.copies,
            "spent": self.step.spent,
            "text": self.step.text,
        }


class _Search:
    """The search of one problem."""

    def __init__(self, settings: AStar, ctx: Context) -> None:
        self.settings = settings
        self.ctx = ctx
        self.steps: Steps = settings.steps(ctx)
        root = Step(ctx.prompt, "", 0, complete=False, answer=None)
        self.nodes = [Node(0, None, root, 0, _rounded(settings.root_reward))]
        self.open = [(self.nodes[0].key, self.nodes[0])]
        self.goals: list[Node] = []
        self.expansions = 0
        self.ahead: dict[int, list[Chain]] = {}  # continuations of states not expanded yet
        self.unused = 0  # tokens of those
        self.offered: Node | None = None

    async def run(self) -> None:
        """Expand the lowest f first, until the goals are reached or something has run out."""
        while self.open and not self._reached():
            batch = self._lowest()
            if batch:
                kept, k = self._fitting(batch)
                for node in batch[kept:]:
                    self._push(node)
                if not kept:
                    if not self._spent_expansions():
                        self.ctx.note_cut("budget")
                    return
                if not await self._expand(batch[:kept], k):
                    return
                self._offer()

    async def conclude(self) -> Outcome:
        """The goal chosen; without one the best open state, finished with the reserve."""
        paths = [node.path for node in self._complete()]
        if not any(path.step.answer is not None for path in paths):
            paths += await self._finished()
        if not paths:
            return self.ctx.offer(self.nodes[0].chain, **self._meta())
        best = self.steps.choose(paths, self.settings.select)
        return self.steps.offer(best, path_tokens=len(best.chain.ids), **self._meta())

    # One round.

    def _lowest(self) -> list[Node]:
        """The next states to expand, taken from the open set; goals on the way are collected.

        Ends before a goal when there is something to expand: what has a lower f goes first. A
        state at the greatest depth is expanded alone, as its continuation is long.
        """
        batch: list[Node] = []
        while self.open and len(batch) < self.settings.expand_batch and not self._reached():
            node = self.open[0][1]
            last = node.depth >= self.settings.max_depth
            if batch and (node.step.complete or last):
                break
            heapq.heappop(self.open)
            if node.step.complete:
                node.state = "goal"
                self.goals.append(node)
            elif last and self.settings.at_max_depth == "dead":
                node.state = "dead"
            else:
                batch.append(node)
                if last:
                    break
        return batch

    def _fitting(self, batch: Sequence[Node]) -> tuple[int, int]:
        """How many of `batch` the budget lets expand, and how wide."""
        most = len(batch)
        if self.settings.max_expansions is not None:
            most = min(most, self.settings.max_expansions - self.expansions)
        if batch[0].depth >= self.settings.max_depth:
            chain = batch[0].chain
            return self.steps.fit([chain][:most], 1, each=self.steps.rest(chain))
        chains = [node.chain for node in batch[:most]]
        fresh = [node.id not in self.ahead for node in batch[:most]]
        return self.steps.fit(chains, self.settings.k, fresh=fresh)

    async def _expand(self, batch: Sequence[Node], k: int) -> bool:
        """Continue the states, score what is new, put it into the open set. False: no budget."""
        fresh = [node for node in batch if node.id not in self.ahead]
        written = await self.steps.write([self._ask(node, k) for node in fresh]) if fresh else []
        found = {node.id: chains for node, chains in zip(fresh, written, strict=True)}
        born: list[Node] = []
        for node in batch:
            chains = found.get(node.id) or self._from_ahead(node, k)
            if not chains:
                self._push(node)  # the budget refused it
                continue
            node.state = "closed"
            self.expansions += 1
            steps = self.steps.distinct(self.steps.read_all(node.chain, chains))
            born += [self._born(node, step) for step in steps]
        scorable = [node for node in born if node.state == "open"]
        try:
            await self._reward(scorable, k)
        finally:  # also where the budget refuses it: with their parents' rewards
            for node in scorable:
                self._push(node)
        return all(node.state == "closed" for node in batch)

    def _born(self, parent: Node, step: Step) -> Node:
        """A new state, with its parent's reward until its own is known."""
        node = Node(len(self.nodes), parent, step, parent.depth + 1, parent.r, parent.g)
        node.state = "dead" if step.empty else "open"
        if step.answer is not None:
            self.steps.release()
        self.nodes.append(node)
        return node

    async def _reward(self, nodes: Sequence[Node], k: int) -> None:
        """Score new states in one batch; write some of them on meanwhile, if so set."""
        if not nodes:
            return
        likely = [n for n in nodes if not n.step.complete and n.depth < self.settings.max_depth]
        guessed = sorted(likely, key=lambda node: node.key)[: self.settings.speculate]
        afforded, width = self.steps.fit([node.chain for node in guessed], k)
        guessed = guessed[:afforded]
        scores, written = await self.steps.score_and_write(
            [node.chain for node in nodes], [self._ask(node, width) for node in guessed]
        )
        for node, chains in zip(guessed, written, strict=True):
            if chains:
                self.ahead[node.id] = chains
                self.unused += _new(node, chains)
        for node, score in zip(nodes, scores, strict=True):
            assert node.parent is not None
            node.r, node.rated = _rounded(score), True
            cost = edge_cost(
                self.settings.edge_cost,
                node.parent.r,
                node.r,
                _rounded(self.settings.length_cost),
            )
            node.g = node.parent.g + cost

    def _from_ahead(self, node: Node, k: int) -> list[Chain]:
        chains = self.ahead.pop(node.id, [])[:k]
        self.unused -= _new(node, chains)
        return chains

    def _ask(self, node: Node, k: int) -> Ask:
        if node.depth >= self.settings.max_depth:
            return Ask(f"node-{node.id}", node.chain, until="answer")
        return Ask(f"node-{node.id}", node.chain, k)

    def _push(self, node: Node) -> None:
        heapq.heappush(self.open, (node.key, node))

    # The end.

    def _reached(self) -> bool:
        wanted = 1 if self.settings.goal_mode == "first" else self.settings.m
        return sum(goal.step.answer is not None for goal in self.goals) >= wanted

    def _spent_expansions(self) -> bool:
        most = self.settings.max_expansions
        return most is not None and self.expansions >= most

    def _complete(self) -> list[Node]:
        """Goals as they were reached. The open set's complete states follow when it ended early;
        in mode `first` the one with the lowest f stands for all."""
        waiting = [] if self._reached() else [n for _, n in sorted(self.open) if n.step.complete]
        found = [*self.goals, *waiting]
        answered = [node for node in found if node.step.answer is not None]
        return answered[:1] if answered and self.settings.goal_mode == "first" else found

    async def _finished(self) -> list[Path]:
        """The best state that can go on, written to its end.

        Where every continuation was empty, that is the first of those of the best state.
        """
        waiting = [node for _, node in sorted(self.open) if not node.step.complete]
        rejected = [node for node in self.nodes if node.state == "dead" and node.step.empty]
        for node in waiting or sorted(rejected, key=lambda node: node.key)[:1]:
            path = await self.steps.finish(node.path, f"finish-{node.id}")
            if path.chain is not node.chain:
                if node.state == "open":
                    node.state = "closed"
                end = self._born(node, path.step)
                end.state = "goal" if end.step.complete else "open"
            return [path]
        return []

    def _offer(self) -> None:
        """Name the best so far, when it has changed."""
        complete = [node for node in self._complete() if node.step.answer is not None]
        if not complete and not self.open:
            return
        best = complete[0] if complete else min(self.open)[1]
        if best is not self.offered:
            self.offered = best
            self.steps.offer(best.path)

    def _meta(self) -> dict[str, Any]:
        scored = self.steps.passes
        meta = {"expansions": self.expansions, "scored": scored, **self.steps.counters()}
        return meta | ({"unused_tokens": self.unused} if self.unused else {})


def _rounded(reward: float) -> float:
    return round(reward / GRAIN) * GRAIN


def _new(node: Node, chains: Sequence[Chain]) -> int:
    return sum(len(chain.ids) - len(node.chain.ids) for chain in chains)
