"""The benchmarks run, and say what they measured. How fast anything is is not a test's business."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import bounds
from bench.pairs import Sample, alternate, share
from bench.report import Row, Table

ROOT = Path(__file__).parents[2]


def test_contenders_alternate_and_the_first_round_is_thrown_away() -> None:
    order: list[str] = []

    def contender(name: str, seconds: float):  # type: ignore[no-untyped-def]
        async def measure() -> Sample:
            order.append(name)
            return Sample(tokens=100, requests=2, seconds=seconds, cpu=0.5)

        return measure

    made = asyncio.run(alternate({"a": contender("a", 2.0), "b": contender("b", 1.0)}, 4))
    assert "".join(order) == "ab" + "ba" + "ab" + "ba" + "ab"
    assert [len(samples) for samples in made.values()] == [4, 4]
    ratio = share(made["a"], made["b"])
    assert (ratio.low, ratio.value, ratio.high) == (0.5, 0.5, 0.5)
    assert made["a"][0].rate == 50 and made["a"][0].cpu_ms == 250


def test_time_is_shared_out_once() -> None:
    found = bounds.shares(
        [
            ("aten::linear", 1, 0, 30),  # calls the product within
            ("aten::mm", 1, 5, 25),
            ("aten::scaled_dot_product_attention", 1, 40, 60),
            ("aten::_scaled_dot_product_flash_attention_for_cpu", 1, 42, 58),
            ("aten::mul", 2, 60, 80),
        ],
        wall=100.0,
    )
    assert found == pytest.approx(
        {
            "matrix products": 0.2,
            "attention": 0.2,
            "other operations": 0.3,
            "Python and waiting": 0.3,
        }
    )


def test_a_table_goes_to_files_and_shows_its_notes(tmp_path: Path) -> None:
    table = Table("t", "A title", ("what", "value"), notes=["not measured: no GPU"])
    table.add(Row(("x", "1.00"), {"samples": [Sample(1, 1, 1.0, 1.0)]}))
    table.write(tmp_path)
    text = (tmp_path / "t.md").read_text()
    assert "| x | 1.00 |" in text and "no GPU" in text
    stored = json.loads((tmp_path / "t.json").read_text())
    assert stored["header"]["hardware"]["cores"] and stored["table"]["rows"][0]["data"]


@pytest.mark.parametrize("parts", [("transport",), ("imports",)])
def test_it_runs_and_writes_into_a_document(tmp_path: Path, parts: tuple[str, ...]) -> None:
    names = {"transport": "transport-stub", "imports": "imports"}
    document = tmp_path / "README.md"
    markers = [f"<!-- table:bench-{names[p]} -->\n<!-- /table:bench-{names[p]} -->" for p in parts]
    document.write_text("\n".join(markers))
    command = [sys.executable, "-m", "bench", *parts, "--quick", "--pairs", "2"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--into", str(document)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "goal" in document.read_text()


def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "transprot"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "known are imports, transport" in done.stderr
