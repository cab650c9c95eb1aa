"""Seconds that a finished run would take with a draft and a target of real sizes: predicted.

    python -m reasoning.evals.roofline runs/countdown-spec-reason --baseline single

A tiny pair is bound by overhead, so that its own wall clock says nothing of a real one. Here each
problem's own work (tokens decoded, tokens prefilled, requests, by role) is priced by roofline
(`reasoning.costs.roofline`) with the shapes of a named pair on named hardware. What is carried over
is how often the draft was accepted and how much was read again; a real pair has other rates.

A request takes one pass over what it prefills, and one pass a token it decodes; so a request that
decodes is charged one pass too many, the same for every policy. Chains of one problem are taken to
run alone, one after the other: with more chains in a batch a pass costs each of them less. What
verifiers read is one pass of the model `--verifier` each, on the same devices.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reasoning.cli import end_with
from reasoning.costs.kinetics import HARDWARE, ModelShape
from reasoning.costs.roofline import Roofline
from reasoning.errors import ConfigError
from reasoning.evals import markdown, records
from reasoning.evals import table as tables
from reasoning.evals.table import Row

COSTS = ("seconds", "policy.tokens", "draft.tokens", "verifier_passes")
# What `ModelShape` needs of published models, from their config.json.
SHAPES: dict[str, dict[str, Any]] = {
    "QwQ-32B": {
        "hidden_size": 5120,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "intermediate_size": 27648,
        "vocab_size": 152064,
    },
    "DeepSeek-R1-Distill-Qwen-7B": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
    },
    "DeepSeek-R1-Distill-Qwen-1.5B": {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
        "vocab_size": 151936,
    },
    "Qwen2.5-Math-PRM-7B": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 3586,  # its head is a layer of 3584 and two labels, in place of a vocabulary
    },
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Target and draft, in the roles `policy` and `draft`, and the verifier, in all others; on the
    same devices."""

    target: Roofline
    draft: Roofline
    verifier: Roofline

    @classmethod
    def named(
        cls,
        target: str,
        draft: str,
        hardware: str,
        devices: int = 1,
        verifier: str = "Qwen2.5-Math-PRM-7B",
    ) -> Pair:
        """Raises ConfigError for a model or hardware that is not known."""
        models = (target, draft, verifier)
        asked = [(model, list(SHAPES)) for model in models]
        for name, known in (*asked, (hardware, list(HARDWARE))):
            if name not in known:
                raise ConfigError(f"{name!r} is not known; known are {', '.join(known)}")
        return cls(
            *(Roofline(ModelShape.from_config(SHAPES[n]), hardware, devices) for n in models)
        )

    @property
    def token_ratio(self) -> float:
        """t_draft / t_target: of the seconds to decode a token after a short context."""
        return self.draft.seconds(1, 0) / self.target.seconds(1, 0)

    def seconds(self, roles: Mapping[str, Mapping[str, float]]) -> float:
        """Of a problem's work, by role as in a result record."""
        models = {"policy": self.target, "draft": self.draft}
        own = ("asks", "tokens", "prefill", "cached")
        passes = ("verifier_passes", "verifier_tokens", "verifier_prefill", "verifier_cached")
        return sum(
            _seconds(models.get(role, self.verifier), *(usage.get(name, 0) for name in names))
            for role, usage in roles.items()
            for names in (own, passes)
        )


def _seconds(model: Roofline, asks: float, tokens: float, prefill: float, cached: float) -> float:
    if not asks:
        return 0.0
    tokens, prefill, cached = tokens / asks, prefill / asks, cached / asks
    context = cached + prefill
    decoding = tokens * model.seconds(1, context + tokens / 2)
    return asks * (model.seconds(prefill, cached) + decoding)


def rows(found: Iterable[Mapping[str, Any]], pair: Pair, baseline: str) -> list[Row]:
    """The rows of the records' table, with predicted seconds in place of measured ones.

    Raises ConfigError without the baseline.
    """
    priced = ({**record, "seconds": pair.seconds(record["roles"])} for record in found)
    return tables.rows(priced, baseline=baseline, costs=COSTS)


def table(made: Sequence[Row], title: str) -> Table:
    drawn = Table(title=Text(title))
    amounts = ("target tokens", "draft tokens", "verifier passes")
    for name in ("strategy", "n", *amounts, "predicted s", "ratio [95 %]"):
        drawn.add_column(Text(name), justify="left" if name == "strategy" else "right")
    for row in made:
        spent = [len(row.scores), *(row.cost(name) for name in COSTS[1:])]
        shown = tables.ratio(row.ratios["seconds"]) if row.ratios else "1"
        texts = [tables.printable(row.label), *(f"{amount:,.0f}" for amount in spent)]
        drawn.add_row(*map(Text, (*texts, f"{row.cost('seconds'):.3g}", shown)))
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--baseline", required=True, help="label of the row to compare with")
    parser.add_argument("--target", default="QwQ-32B", help=", ".join(SHAPES))
    parser.add_argument("--draft", default="DeepSeek-R1-Distill-Qwen-1.5B")
    parser.add_argument("--verifier", default="Qwen2.5-Math-PRM-7B")
    parser.add_argument("--hardware", default="H100-SXM", help=", ".join(HARDWARE))
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--into", type=Path, help="a Markdown file with markers `roofline`")
    given = parser.parse_args(arguments)
    pair = Pair.named(given.target, given.draft, given.hardware, given.devices, given.verifier)
    title = (
        f"predicted by roofline: {given.target} with {given.draft}, verified by {given.verifier}, "
        f"on {given.devices} x {given.hardware}, t_draft/t_target = {pair.token_ratio:.3f}"
    )
    drawn = table(rows(records.current(given.runs), pair, given.baseline), title)
    Console().print(drawn)
    if given.into:
        markdown.place(given.into, "roofline", drawn, "reasoning.evals.roofline")


if __name__ == "__main__":
    end_with(main)
