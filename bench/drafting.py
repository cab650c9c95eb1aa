"""How long chain policies with a draft take beside plain decoding by the target: the wall clock.

The pair's t_draft/t_target stands in every row: how long a token takes that is decoded alone, by
the draft and by the target. Models as small as the shipped ones are bound by overhead, so that it
is near 1, and there is little for a draft to win; `reasoning.evals.roofline` predicts a real pair.
"""

from __future__ import annotations

import time
from itertools import count
from statistics import fmean

from bench import solving
from bench.pairs import Measure, Sample, alternate, longer
from bench.report import Row, Table, shown
from bench.solving import Again, Solved
from reasoning.engines.base import Engine, SampleRequest, Sampling, Stream
from reasoning.evals.statistics import Estimate
from reasoning.naming import Spec

STRATEGY = {"name": "majority", "n": 4}
PLAIN = "plain"
_SPEC_REASON = {"name": "spec_reason", "threshold": 7.0, "step_tokens": 64}
_ATTS = {"rho": 0.25, "draft_tokens": 32, "target_tokens": 32, "turns": 20}
POLICIES: dict[str, Spec] = {
    PLAIN: "plain",
    "spec_reason(7)": _SPEC_REASON,
    "spec_reason(7), two first by the policy": _SPEC_REASON | {"first_n_base": 2},
    "atts(0.25)": _ATTS | {"name": "atts"},
    "atts_sync(0.25)": _ATTS | {"name": "atts_sync"},
}
ALONE = 128  # tokens of a chain that is decoded alone


def alone(engine: Engine) -> Measure:
    """One chain at a time: seconds of its tokens."""
    (problem,) = solving.dev(1)
    ids = tuple(engine.tokenizer.render(list(problem.messages)))
    streams = count()

    async def measure() -> Sample:
        request = SampleRequest(ids, ALONE, Sampling(ignore_eos=True), (Stream(next(streams)),))
        began, cpu = time.perf_counter(), time.process_time()
        await engine.sample(request)
        return Sample(ALONE, 1, time.perf_counter() - began, time.process_time() - cpu)

    return measure


async def run(policy: Engine, draft: Engine, rounds: int, problems: int, max_tokens: int) -> Table:
    table = Table(
        "drafting",
        f"Chain policies with a draft against plain decoding, {policy.name} with {draft.name}, "
        f"{STRATEGY['n']} chains of at most {max_tokens} tokens a problem, {problems} problems at "
        "once",
        (
            "chain policy",
            "seconds",
            "target tokens",
            "draft tokens",
            "seconds / plain [95 %]",
            "t_draft / t_target [95 %]",
        ),
    )
    contenders: dict[str, Again] = {}
    async with solving.runner(problems) as runner:
        for name, chain_policy in POLICIES.items():
            configuration = solving.configuration(
                STRATEGY, policy, draft=draft, chain_policy=chain_policy, max_tokens=max_tokens
            )
            await runner.bind(configuration)
            contenders[name] = Again(runner, configuration, solving.dev(problems), cold=False)
        lone = await alternate({"draft": alone(draft), "target": alone(policy)}, rounds)
        found = await alternate(contenders, rounds)
    pair = longer(lone["draft"], lone["target"])
    for name, samples in found.items():
        table.add(_row(name, samples, found[PLAIN], pair))
    return table


def _row(name: str, samples: list[Solved], plain: list[Solved], pair: Estimate) -> Row:
    cells = (
        name,
        f"{fmean(s.seconds for s in samples):.1f}",
        *(
            f"{fmean(s.roles[role].tokens if role in s.roles else 0 for s in samples):,.0f}"
            for role in ("policy", "draft")
        ),
        "1" if name == PLAIN else shown(longer(samples, plain)),
        shown(pair),
    )
    return Row(cells, {"samples": samples})
