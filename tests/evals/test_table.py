"""Tables and plots of result records."""

from __future__ import annotations

import dataclasses
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reasoning import Problem, Solver
from reasoning.engines.scripted import ScriptedEngine
from reasoning.errors import ConfigError, DataError
from reasoning.evals import records
from reasoning.evals.curves import of_rows, reach_ratio, shared_questions
from reasoning.evals.grading import Grade
from reasoning.evals.markdown import escaped, place, render, replace
from reasoning.evals.plot import _lines as joined
from reasoning.evals.plot import plot
from reasoning.evals.table import cells, header, percent, rich_table, rows, totals

QUESTIONS = 60
COMMANDS = {"demo": "reasoning run recipes/demo.yaml"}


def record(**changes: Any) -> dict[str, Any]:
    return {
        "run": "demo",
        "configuration": "aaaa1111",
        "label": "single",
        "strategy": "single",
        "settings": {"name": "single"},
        "budget": "unlimited",
        "oracle": False,
        "task": "countdown",
        "split": "test",
        "problem": "p0",
        "replicate": 0,
        "status": "ok",
        "grade": "correct",
        "usage": {"tokens": 100, "verifier_passes": 0},
        "seconds": 0.5,
        **changes,
    }


def sweep(seed: int = 0) -> Iterator[dict[str, Any]]:
    """Two strategies over n, on shared questions of different difficulty, two replicates."""
    dice = random.Random(seed)
    hard = [dice.random() for _ in range(QUESTIONS)]
    for strategy, oracle, gain in (
        ("majority", False, 0.5),
        ("best_of_n", False, 0.8),
        ("first_verified", True, 1.5),
    ):
        for n in (1, 4, 16, 64):
            for question, difficulty in enumerate(hard):
                for replicate in (0, 1):
                    chance = 1 - difficulty ** (1 + gain * math.log2(n) / 2)
                    yield record(
                        configuration=f"{strategy}-{n}",
                        label=f"{strategy}(n={n})",
                        strategy=strategy,
                        oracle=oracle,
                        problem=f"p{question}",
                        replicate=replicate,
                        grade="correct" if dice.random() < chance else "wrong",
                        usage={"tokens": n * dice.randint(80, 160), "verifier_passes": n},
                        seconds=n * 0.01,
                    )


def test_a_row_averages_replicates_and_counts_every_grade() -> None:
    grades = ["correct", "wrong", "ungradable", "failed", "correct", "correct"]
    found = [
        record(problem=f"p{i // 2}", replicate=i % 2, grade=g, usage={"tokens": 10 * i})
        for i, g in enumerate(grades)
    ]
    (row,) = rows(found, replicates=200)
    assert row.scores == {"p0": 0.5, "p1": 0.0, "p2": 1.0}
    assert row.value.value == pytest.approx(0.5)
    assert row.cost("tokens") == 25.0 and row.cost("seconds") == 0.5
    assert totals([row]) == (
        "expected 6 = 3 correct + 1 wrong + 1 ungradable + 1 failed + 0 skipped"
    )
    assert row.expected == 6 and row.measure == "accuracy"


def test_rows_say_which_were_racing() -> None:
    """Of all their answers one is enough. Records of before they said so count as ordered."""
    found = [record(), record(problem="p1", racing=True), record(configuration="b", label="other")]
    made = rows([*found, record(configuration="b", label="other", problem="p1")], replicates=50)
    place = header(made).index("measure")
    assert [cells(row, made)[place] for row in made] == ["accuracy, racing", "accuracy"]


@pytest.mark.parametrize(("strategy", "racing"), [("first_verified", True), ("majority", False)])
def test_a_record_says_whether_its_answer_was_racing(strategy: str, racing: bool) -> None:
    problem = Problem("p", ({"role": "user", "content": "q"},), check=lambda answer: answer == "b")
    engine = ScriptedEngine(script=["b"])
    solver = Solver({"policy": engine}, strategy=strategy, verifiers={"verifier": "check"})
    solution = solver.solve(problem)
    made = records.record("r", "c", solver._configuration, problem, 0, solution, Grade("correct"))
    assert made["racing"] == racing


def test_what_others_tried_and_it_did_not_is_skipped() -> None:
    found = [record(problem=f"p{i}") for i in range(3)]
    found.append(record(configuration="bbbb", label="other"))
    found.append(record(configuration="bbbb", label="other", problem="p1", grade="skipped"))
    _, other = rows(found, replicates=50)
    assert other.counts["skipped"] == 2 and other.expected == 3
    assert set(other.scores) == {"p0"}


def test_a_record_written_twice_counts_once() -> None:
    (row,) = rows([record(), record(grade="wrong")], replicates=50)
    assert row.expected == 1 and row.value.value == 1.0


def test_all_right_is_not_certain() -> None:
    (row,) = rows([record(problem=f"p{i}") for i in range(20)], replicates=50)
    assert row.value.value == row.value.high == 1.0
    assert 0.8 < row.value.low < 0.9


def test_differences_are_paired_with_the_baseline() -> None:
    made = rows(sweep(), baseline="majority(n=1)", replicates=500)
    base = next(row for row in made if row.label == "majority(n=1)")
    other = next(row for row in made if row.label == "best_of_n(n=16)")
    assert base.difference is None
    assert other.difference is not None
    assert other.difference.value == pytest.approx(other.value.value - base.value.value)
    assert other.difference.low < other.difference.value < other.difference.high
    assert other.ratios["tokens"].value == pytest.approx(other.cost("tokens") / base.cost("tokens"))


def test_a_baseline_of_the_same_budget_is_taken() -> None:
    found = []
    for budget, grade in (("tokens=100", "wrong"), ("tokens=200", "correct")):
        for label in ("single", "majority"):
            for question in range(4):
                found.append(
                    record(
                        configuration=f"{label}/{budget}",
                        label=label,
                        budget=budget,
                        problem=f"p{question}",
                        grade=grade,
                    )
                )
    made = rows(found, baseline="single", replicates=50)
    assert header(made)[1] == "budget" and "tokens=200" in shown(rich_table(made))
    for row in made:
        if row.label == "majority":
            assert row.difference is not None and row.difference.value == 0.0
    with pytest.raises(ConfigError, match="no row 'beam'"):
        rows(found, baseline="beam", replicates=50)
    odd = record(configuration="odd", label="odd", budget="tokens=300")
    with pytest.raises(ConfigError, match="configuration hash"):
        rows([*found, odd], baseline="single", replicates=50)
    apart = record(configuration="odd", label="odd", problem="elsewhere")
    with pytest.raises(ConfigError, match="no question in common"):
        rows([record(), apart], baseline="single", replicates=50)


def test_curves_of_rows_share_their_questions() -> None:
    made = rows(sweep(), replicates=50)
    ours = [row for row in made if row.strategy == "best_of_n"]
    theirs = [row for row in made if row.strategy == "majority"]
    ids = shared_questions(ours + theirs)
    assert len(ids) == QUESTIONS
    mine, other = (of_rows(x, questions=ids, replicates=200) for x in (ours, theirs))
    assert mine.cost.tolist() == pytest.approx([row.cost("tokens") for row in ours])
    assert mine.accuracy.tolist() == pytest.approx([row.value.value for row in ours])
    assert reach_ratio(mine, other, 0.6, between="log").value > 0
    with pytest.raises(ConfigError, match="'money'"):
        of_rows(ours, "money")
    with pytest.raises(ConfigError, match="no question"):
        of_rows([])


@pytest.mark.parametrize(
    "bad", [{"grade": "maybe"}, {"problem": None}, {"usage": {"tokens": "many"}}]
)
def test_a_malformed_record_is_named(bad: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="record 2"):
        rows([record(), record(**bad)], replicates=50)


def test_nothing_tried_has_no_value() -> None:
    (row,) = rows([record(grade="skipped")], replicates=50)
    assert math.isnan(row.value.value) and math.isnan(row.cost("tokens"))
    assert "nan" in percent(row.value)


def shown(table: Any) -> str:
    out = StringIO()
    Console(file=out, width=240, color_system=None).print(table)
    return out.getvalue()


def test_the_terminal_table_shows_labels_and_reads_no_markup() -> None:
    made = rows(sweep(), baseline="majority(n=1)", replicates=200)
    text = shown(rich_table(made, title="[red]demo[/red]"))
    assert "[red]demo[/red]" in text
    assert "coverage" in text and "accuracy" in text and "baseline" in text
    assert f"expected {12 * 2 * QUESTIONS:,} = " in text
    assert "\x1b" not in shown(rich_table(rows([record(label="\x1b[31m")], replicates=50)))
    evil = "[link=http://x]a[/link]"
    assert evil in shown(rich_table(rows([record(label=evil)], replicates=50)))


def test_in_a_narrow_terminal_numbers_stay_whole() -> None:
    made = rows(sweep(), replicates=200)
    out = StringIO()
    Console(file=out, width=80, color_system=None).print(rich_table(made))
    text = out.getvalue()
    assert "countdown test, n = 60" in text  # said once, as all rows share it
    for row in made:
        value, interval = percent(row.value).split(" ", 1)
        assert value in text and interval in text and f"{row.cost('tokens'):,.0f}" in text
    assert max(map(len, text.splitlines())) <= 80
    alone = shown(rich_table(made[:1]))
    assert "majority(n=1)" in alone and "countdown test, n = 60, accuracy" in alone


def test_markdown_rows_carry_their_command() -> None:
    made = rows(sweep(), baseline="majority(n=1)", replicates=200)
    lines = render(made, COMMANDS).splitlines()
    columns = len(header(made))
    assert all(len(re.split(r"(?<!\\)\|", line)) == columns + 2 for line in lines[:14])
    assert "; expected 1,440 = " in lines[-1]
    assert lines[-1].endswith("Each row: `reasoning run recipes/demo.yaml`")
    other = [dataclasses.replace(row, run="other") for row in made[:2]]
    both = render([*made, *other], {**COMMANDS, "other": "reasoning run o.yaml"}).splitlines()
    assert all("`reasoning run recipes/demo.yaml`" in line for line in both[2:14])
    assert all("`reasoning run o.yaml`" in line for line in both[14:16])
    assert "Each row" not in both[-1]
    with pytest.raises(ConfigError, match="no command is given for run demo"):
        render(made, {})


def test_markdown_shows_what_a_label_says() -> None:
    label = "a|b <script>`x`"
    text = render(rows([record(label=label)], replicates=50), {"demo": "run `a` | b"})
    assert "<script>" not in text.replace(r"\<script\>", "")
    assert escaped(label) == r"a\|b \<script\>\`x\`"
    assert r"`run 'a' \| b`" in text


def test_a_document_is_changed_between_its_markers_only(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# A\n<!-- table:one -->\nold\n<!-- /table:one -->\nend — ü\n")
    page.chmod(0o640)
    assert replace(page, "one", "| new |\n")
    expected = "# A\n<!-- table:one -->\n| new |\n<!-- /table:one -->\nend — ü\n"
    assert page.read_text() == expected
    assert not replace(page, "one", "| new |")
    assert page.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_document_without_its_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    start, end = "<!-- table:one -->", "<!-- /table:one -->"
    for text in ("", start, f"{start}{start}{end}", f"{end}{start}"):
        page.write_text(text)
        with pytest.raises(DataError):
            replace(page, "one", "new")
        assert page.read_text() == text
    page.write_text(start + end)
    with pytest.raises(ConfigError):
        replace(page, "one", start)
    with pytest.raises(ConfigError, match="name"):
        replace(page, "a b", "new")
    with pytest.raises(DataError):
        replace(tmp_path / "missing.md", "one", "new")


def test_plots_are_written_and_repeat(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = rows(sweep(), replicates=500)
    plot(made, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    for name in ("a.svg", "b.svg"):
        plot(made, tmp_path / name, title="a $\\bad{ title")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    ElementTree.fromstring(text)
    assert "new tokens per question" in text and "coverage: with an oracle" in text


def test_a_line_joins_what_differs_in_one_number_or_in_the_budget() -> None:
    def lines(*named: tuple[str, str]) -> list[tuple[str, int]]:
        made = rows(
            [
                record(configuration=f"c{place}", label=label, strategy="majority", budget=budget)
                for place, (label, budget) in enumerate(named)
            ],
            replicates=50,
        )
        return [(line.name, len(line.rows)) for line in joined(made)]

    one, two = "tokens=100", "tokens=200"
    assert lines(("majority(n=16)", one), ("majority(n=4)", one)) == [("majority(n=4, 16)", 2)]
    assert lines(("majority(n=4)", one), ("majority(n=4)", two)) == [("majority(n=4)", 2)]
    both = [(f"majority(n={n})", budget) for n in (4, 16) for budget in (one, two)]
    assert lines(*both) == [("majority(n=4)", 2), ("majority(n=16)", 2)]
    assert lines(("m(n=4)", one), ("m(n=4) + trimr", one)) == [("m(n=4)", 1), ("m(n=4) + trimr", 1)]
    assert lines(("a(k=3, m=2)", one), ("a(k=6, m=4)", one)) == [
        ("a(k=3, m=2)", 1),
        ("a(k=6, m=4)", 1),
    ]


def test_what_cannot_be_plotted_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = rows([record()], replicates=50)
    with pytest.raises(ConfigError, match="png or "):
        plot(made, tmp_path / "a.gif")
    with pytest.raises(ConfigError, match="nothing to plot"):
        plot(made, tmp_path / "a.png", cost="verifier_passes")
    with pytest.raises(ConfigError, match="one split"):
        plot(rows([record(), record(split="dev")], replicates=50), tmp_path / "a.png")
    with pytest.raises(ConfigError, match="cannot be written"):
        plot(made, tmp_path / "missing" / "a.png")
    plot(made, tmp_path / "one.png")  # a single point has no decade


def test_a_terminal_table_becomes_a_markdown_grid(tmp_path: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text("of |runs|"), caption="two rows")
    drawn.add_column("label", justify="left")
    drawn.add_column("%", justify="right")
    drawn.add_row(Text("[bold]a*"), "1.0")
    drawn.add_row("b", Text("2.0"))
    document = tmp_path / "README.md"
    document.write_text("<!-- table:x -->\n<!-- /table:x -->\n")
    place(document, "x", drawn, "reasoning.evals.x")
    lines = document.read_text().splitlines()
    assert lines[1:6] == [
        r"of \|runs\|:",
        "",
        "| label | % |",
        "|---|---:|",
        r"| \[bold\]a\* | 1.0 |",
    ]
    assert lines[6:10] == ["| b | 2.0 |", "", "two rows", ""]
    assert lines[10].startswith("`python -m reasoning.evals.x")


def test_budgets_of_one_label_stand_in_ascending_order() -> None:
    runs = [
        record(label=label, budget=f"tokens={tokens}", configuration=f"{label}-{tokens}")
        for tokens in (1750, 440, 10500)
        for label in ("b", "a")
    ]
    found = [(row.label, row.budget) for row in rows(runs, replicates=50)]
    budgets = [f"tokens={tokens}" for tokens in (440, 1750, 10500)]
    assert found == [(label, budget) for label in ("b", "a") for budget in budgets]
