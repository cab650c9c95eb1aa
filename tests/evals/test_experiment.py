"""Runs survive a kill -9 in the middle of a problem, and Ctrl-C, and say what was asked again."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasoning import cli
from reasoning.engines.scripted import Line, ScriptedEngine
from reasoning.errors import EngineError, ReasoningError
from reasoning.evals import records, table
from reasoning.recipe import Recipe
from reasoning.registry import engines

RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = """
name: scripted
task: {name: countdown, split: dev, numbers: 3, count: 6}
models:
  policy:
    model: scripted/texts
    seconds: 0.5
    script: ["answer 1+2", "answer 3*4\\n", "no idea", "answer 7-5 and so on"]
sampling: {max_tokens: 15}
strategies:
  - single
  - {name: majority, n: [3, 9]}
budgets: [{tokens: 60}, {}]
seeds: [0, 1]
in_flight: 4
"""

REAL = """
name: real
task: {name: countdown, split: dev, numbers: 3, count: 3}
models:
  policy: {model: local/countdown-policy, threads: 1}
  prm: {model: local/countdown-prm, threads: 1}
verifiers:
  verifier: {name: prm, model: prm}
sampling: {temperature: 0.6, max_tokens: 48}
strategies:
  - {name: weighted, n: 4}
  - {name: beam, n: 4, beam_width: 2, separators: 1, step_tokens: 24}
in_flight: 2
"""

# Runs the recipe; dies after so many journal records (0: never). Real engines have a thread, whose
# answers virtual time would not wait for.
SCRIPT = """
import asyncio, os, signal, sys
from pathlib import Path
from reasoning.engines.scripted import VirtualTimeLoop
from reasoning.evals import experiment
from reasoning.journal import Journal
from reasoning.recipe import Recipe

folder, deadly = Path(sys.argv[1]), int(sys.argv[2])
written = 0
append = Journal.append

def counted(self, *arguments):
    global written
    append(self, *arguments)
    written += 1
    if written == deadly:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.append = counted
recipe = Recipe.load(folder.parent / "recipe.yaml")
scripted = "scripted" in str(recipe.models)
with asyncio.Runner(loop_factory=VirtualTimeLoop if scripted else None) as runner:
    print(runner.run(experiment.run(recipe, folder)))
"""


def play(folder: Path, deadly: int = 0, recipe: str = RECIPE) -> subprocess.CompletedProcess[str]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    (folder.parent / "recipe.yaml").write_text(recipe)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(deadly)],
        capture_output=True,
        text=True,
        timeout=600,
    )


def final_table(folder: Path) -> str:
    """Rows in a fixed order: which problem ends first depends on what was repeated."""
    made = table.rows(
        sorted(records.read([folder]), key=lambda r: (r["label"], r["budget"], r["problem"])),
        costs=("tokens", "verifier_passes", "asks"),
    )
    return "\n".join(
        " | ".join(table.cells(row, made, ("tokens", "verifier_passes", "asks"))) for row in made
    )


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = tmp_path / "whole" / "run"
    done = play(whole)
    assert "expected 72 = " in done.stdout and "0 failed + 0 skipped" in done.stdout, done.stderr
    total = len((whole / "journal.jsonl").read_text().splitlines())
    for part, deadly in enumerate((1, 40, total // 3)):
        folder = tmp_path / str(part) / "run"
        killed = play(folder, deadly)
        assert killed.returncode == -signal.SIGKILL
        # A kill may tear the last line of either file.
        for name in ("journal.jsonl", records.RESULTS):
            with (folder / name).open("ab") as file:
                file.write(b'{"torn":')
        again = play(folder)
        assert again.returncode == 0, again.stderr
        assert final_table(folder) == final_table(whole)


Said = Callable[..., str]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """What a command prints; of one that fails, its error line."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["reasoning", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        assert not ended.value.code or told.err.count("\n") == 1
        return told.err if ended.value.code else told.out

    return run


@pytest.mark.parametrize("damaged", [b'{"run":"scr', b"\0\0", b"\xff", b"[1]", b'{"run": "x"}'])
def test_a_damaged_line_is_told_and_can_be_deleted(
    tmp_path: Path,
    damaged: bytes,
    monkeypatch: pytest.MonkeyPatch,
    said: Said,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = RECIPE.replace("seconds: 0.5", "seconds: 0").replace("count: 6", "count: 1")
    (tmp_path / "recipe.yaml").write_text(text)
    assert "expected 12" in said("run", "recipe.yaml")
    folder = Path("runs") / "scripted"
    results, journal = folder / records.RESULTS, (folder / "journal.jsonl").read_bytes()
    whole, lines = final_table(folder), results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join([lines[0], damaged, b"\n", *lines[2:]]))
    for command in (["table", str(folder)], ["run", "recipe.yaml"]):
        assert f"{results}:2 is not a result record; delete the line" in said(*command)
    results.write_bytes(b"".join([lines[0], *lines[2:]]))
    assert "0 skipped" in said("run", "recipe.yaml") and final_table(folder) == whole
    assert (folder / "journal.jsonl").read_bytes() == journal
    with results.open("ab") as file:
        file.write(damaged)  # as a kill leaves it
    assert "single" in said("table", str(folder)) and "0 skipped" in said("run", "recipe.yaml")
    plotted = ("table", str(folder), "--plot", "plot.svg", "--over")
    assert "plot.svg" in said(*plotted, "seconds")
    assert "seconds per question" in Path("plot.svg").read_text()
    assert "unknown cost 'minutes'" in said(*plotted, "minutes")


def test_a_table_in_a_document_names_the_command_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    monkeypatch.chdir(tmp_path)
    text = RECIPE.replace("seconds: 0.5", "seconds: 0").replace("count: 6", "count: 1")
    Path("recipe.yaml").write_text(text.replace("budgets: [{tokens: 60}, {}]", ""))
    Path("a page.md").write_text("<!-- table:x -->\n<!-- /table:x -->\n")
    said("run", "recipe.yaml")
    given = ("--baseline", "majority(n=3)", "--costs", "asks,tokens", "--name", "x")
    assert "changed" in said("table", "runs/scripted", "--into", "a page.md", *given)
    caption = Path("a page.md").read_text().splitlines()[-2]
    run, table = re.findall("`(.*?)`", caption)
    assert run == "reasoning run recipe.yaml"
    assert "a page.md is up to date" in said(*shlex.split(table)[1:])


def test_what_was_in_flight_is_listed_as_asked_again(tmp_path: Path, said: Said) -> None:
    folder = tmp_path / "run"
    play(folder, 40)
    intents: dict[str, None] = {}
    for line in (folder / "journal.jsonl").read_text().splitlines():
        record = json.loads(line)
        for key in record.get("i", ()):
            intents["/".join(map(str, key))] = None
        intents.pop("/".join(map(str, record.get("k", ()))), None)
    assert intents, "asks were in flight when the run was killed"
    recipe = folder.parent / "recipe.yaml"
    recipe.write_text(RECIPE.replace("seconds: 0.5", "seconds: 0"))
    lines = said("run", str(recipe), "--out", str(folder)).splitlines()
    listed = [
        line.removeprefix("asked again: ") for line in lines if line.startswith("asked again")
    ]
    more = [f"{len(intents) - 20:,} more"] if len(intents) > 20 else []
    assert set(listed[:20]) <= set(intents) and listed[20:] == more
    assert len(set(listed)) == min(len(intents), 21)


def test_a_killed_run_of_a_real_engine_decides_as_it_did(tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    done = play(whole, recipe=REAL)
    assert "expected 6 = " in done.stdout and "0 failed + 0 skipped" in done.stdout, done.stderr
    assert play(folder, 12, REAL).returncode == -signal.SIGKILL
    before = (folder / "journal.jsonl").read_bytes()
    assert 0 < len(replies(folder)) < len(replies(whole))
    again = play(folder, recipe=REAL)
    assert again.returncode == 0, again.stderr
    assert (folder / "journal.jsonl").read_bytes().startswith(before)
    assert replies(folder) == replies(whole)
    assert decided(folder) == decided(whole)


def replies(folder: Path) -> dict[str, Any]:
    """The journal's chains by their keys. Rewards' last digits depend on what is batched."""
    records = map(json.loads, (folder / "journal.jsonl").read_text().splitlines())
    return {
        json.dumps(record["k"]): record["r"].get("ids", "a rating")
        for record in records
        if "k" in record
    }


def decided(folder: Path) -> dict[Any, Any]:
    """What the results say, but for time, rewards, and what caches and the store gave."""
    found = {}
    for record in records.read([folder]):
        del record["seconds"], record["roles"]
        record.get("meta", {}).pop("score", None)
        record["usage"] = [record["usage"].get(name) for name in ("tokens", "verifier_passes")]
        found[record["configuration"], record["problem"]] = record
    return found


def test_ctrl_c_ends_a_run_in_order_and_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text(RECIPE.replace("seconds: 0.5", "seconds: 0.02"))
    command = [sys.executable, "-m", "reasoning.cli", "run", "slow.yaml"]
    run = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    results = tmp_path / "runs" / "scripted" / records.RESULTS
    until = time.monotonic() + 60
    while not (results.exists() and results.read_bytes().count(b"\n") > 3):
        assert time.monotonic() < until and run.poll() is None
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "skipped" in out
    assert err == "interrupted; `reasoning run slow.yaml` continues it\n"
    finished = results.read_bytes().count(b"\n")
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and "0 skipped" in again.stdout
    assert 3 < finished < results.read_bytes().count(b"\n") == 72


def test_ctrl_c_ends_solve_in_order_and_what_was_paid_for_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = 0  # Ctrl-C comes with this chain

    def script(prompt: str, key: int) -> Line:
        if engine.totals.requests == ends:
            os.kill(os.getpid(), signal.SIGINT)
        return Line(f"answer {key}", seconds=0.002)

    def said(*arguments: str) -> tuple[Any, str, str]:
        given = ["--model", "scripted/", "--strategy", "adaptive_consistency", "-n", "6"]
        question = ["solve", "Use 3, 7, 25, 50 to make 79"]
        monkeypatch.setattr(sys, "argv", ["reasoning", *question, *given, *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    engine = ScriptedEngine(script=script)
    monkeypatch.setitem(engines._entries, "scripted", lambda model: engine)
    whole = said()[1].split("spent")[0]
    asked, ends = engine.totals.requests, engine.totals.requests + 4
    assert asked >= 6
    code, out, err = said("--run", str(tmp_path))
    assert code == 130 and err == "interrupted; the same command continues it\n"
    assert "status  interrupted" in out
    ends = 0
    assert said("--run", str(tmp_path))[1].split("spent")[0] == whole
    assert engine.totals.requests == 2 * asked + 1  # the chain in flight was asked for again
    ends = engine.totals.requests + 1
    code, _, err = said()
    assert code == 130 and "--run FOLDER" in err and err.count("\n") == 1


def test_a_models_text_does_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    evil = "a\x1b[2J\x1b]0;pwn\x07\n\tb"
    line = Line(evil)
    engine = ScriptedEngine(script=lambda prompt, key: line)
    monkeypatch.setitem(engines._entries, "scripted", lambda model: engine)
    asked = ("solve", "What?", "--model", "scripted/", "--strategy", "single")
    text = evil.replace("\x1b", "\ufffd").replace("\x07", "\ufffd")
    assert said(*asked).startswith("answer  " + text.replace("\n\t", "\ufffd\ufffd") + "\n")
    first, second = text.split("\n\t")
    assert re.match(rf"{re.escape(first)}\n +{second}\n", said(*asked, "--show"))
    line = Line("x", fault=EngineError(evil))
    assert said(*asked) == f"error: {' '.join(text.split())}\n"


@pytest.mark.parametrize("terminal", ["", "1"])
def test_solve_shows_what_it_spends_on_a_terminal_only(
    terminal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = ScriptedEngine(script=lambda prompt, key: Line(f"answer {key}", seconds=0.01))
    monkeypatch.setitem(engines._entries, "scripted", lambda model: engine)
    monkeypatch.setenv("FORCE_COLOR", terminal)
    given = ["--model", "scripted/", "--strategy", "adaptive_consistency", "-n", "6"]
    monkeypatch.setattr(sys, "argv", ["reasoning", "solve", "What?", *given])
    with pytest.raises(SystemExit):
        cli.main()
    out, err = capsys.readouterr()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
    assert bool(re.search(r" [1-9]\d* tokens 0:00:0\d", plain)) == bool(terminal)
    assert "answer" in out and (terminal or not err)


def test_ls_engine_shows_who_can_what(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    monkeypatch.setattr(cli.console, "width", 400)
    lines = {line.split()[0]: line for line in said("ls", "engine").splitlines()}
    for name in ("local", "vllm"):
        writes, rewards = lines[name].split("with a reward head:")
        assert "logprobs, score, choose" in writes and "pool" in rewards and "score" not in rewards
    assert "known when that is met" in lines["openai"] and "token_keyed" in lines["scripted"]
    assert "continue_turn" in lines["recorded"] and "logprobs" not in lines["recorded"]


def test_ctrl_c_before_anything_runs_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Recipe, "load", stop)
    monkeypatch.setattr(sys, "argv", ["reasoning", "run", "x.yaml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130 and capsys.readouterr().err == "interrupted; run it again\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds: [0, 1]", "seed: 1", "unknown setting `seed`: did you mean seeds. known are name,"),
        ("seconds: 0.5", "secnds: 0.5", "engine 'scripted': .*`secnds`: did you mean seconds"),
        ("max_tokens: 15", "tokens: 15", "sampling: unknown setting `tokens`: did you mean max_to"),
        ("count: 6", "cuont: 6", "unknown setting `cuont`: did you mean count. known are split"),
        ("name: majority", "name: majorty", "did you mean majority"),
        ("n: [3, 9]", "n: [3, none]", "`n`"),
        ("tokens: 60", "tokens: .nan", "not a number"),
        ("tokens: 60", "tokens: 0", "above 0"),
        ("policy:", "plicy:", "policy"),
        ("name: countdown", "name: countup", "did you mean countdown"),
        ("in_flight: 4", "in_flight: !!python/object/apply:os.system [id]", "not plain YAML"),
        ("scripted/texts", "nothing/at/all", "unknown engine"),
        ("in_flight: 4", "hardware: abacus", "unknown hardware"),
        ("in_flight: 4", "\t", "not plain YAML"),
        ("in_flight: 4", "seeds: [2]", "`seeds` stands there 2 times"),
        ("name: scripted", "name: 2025-13-01", "not plain YAML"),
        ("in_flight: 4", "1: 2", "unknown setting `1`"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "stands there twice"),
        ("count: 6", "count: 0", "`count` must be a whole number above 0"),
        ("count: 6", "count: .nan", "`count` must be a whole number above 0"),
        ("n: [3, 9]", "n: []", "`n` is an empty list"),
        ("tokens: 60", "money: 1", "needs `prices`"),
        ("tokens: 60", "flops: 1.0e9", "the shape of each model"),
    ],
)
def test_a_bad_recipe_is_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "recipe.yaml"
    assert old in RECIPE
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(ReasoningError, match=words) as caught:
        Recipe.load(path)
    assert "\n" not in str(caught.value)
    done = subprocess.run(
        [sys.executable, "-m", "reasoning.cli", "run", str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["solve", "x", "--budget", "nan"], 2, "Invalid value for '--budget'"),
        (["solve", "x", "--nope"], 2, "--help says more"),
        (["table"], 2, "Missing argument"),
        (["solve", "Use 1, 2 to make 3", "--base-url", "http://x"], 1, "--model openai/NAME"),
        (["ls", "strategies"], 1, "unknown kind"),
        (["table", "missing"], 1, "missing"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], code: int, words: str) -> None:
    command = [sys.executable, "-m", "reasoning.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code and done.stderr.startswith("error: ")
    assert words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trimming", "missing.yaml"], "missing.yaml: No such file"),
        (["trimming", str(RECIPES / "transcripts_trimming.yaml")], "set REASONING_DATA"),
        (["atts", "report", "missing"], "missing"),
        (["makespan", "play", "missing.json"], "missing.json holds no measured times"),
        (["makespan", "measure", "--chunks", "1", "--out", "no/folder"], "no/folder"),
        (["roofline", "missing", "--baseline", "single"], "missing"),
    ],
)
def test_errors_of_other_commands_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.delenv("REASONING_DATA", raising=False)
    command = [sys.executable, "-m", f"reasoning.evals.{arguments[0]}", *arguments[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), ZeroDivisionError("x")])
def test_what_nobody_foresaw_is_one_line_too(
    raised: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path) -> None:
        raise ExceptionGroup("tasks", [raised])

    monkeypatch.setattr(Recipe, "load", fail)
    monkeypatch.setattr(sys, "argv", ["reasoning", "validate", "x.yaml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    text = capsys.readouterr().err
    assert ended.value.code == 1 and text.startswith("error: ") and text.count("\n") == 1
    assert ("a bug, ZeroDivisionError" in text) == isinstance(raised, ZeroDivisionError)
    monkeypatch.setattr(sys, "argv", ["reasoning", "validate", "x.yaml", "--debug"])
    with pytest.raises(ExceptionGroup):
        cli.main()


@pytest.mark.parametrize(
    ("settings", "words"),
    [([], "--show"), (["--budget", "1"], "raise --budget"), (["--seconds", "1e-6"], "seconds")],
)
def test_no_answer_says_why(
    settings: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [
        "solve",
        "Use 3, 7, 25, 50 to make 79",
        "--model",
        "local/countdown-draft",
        "--max-tokens",
        "5",
    ]
    monkeypatch.setattr(sys, "argv", ["reasoning", *given, "--strategy", "single", *settings])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "temperature", "most", "strategy"),
    [
        ([], None, None, None),  # Solver's own defaults
        (["--temperature", "1", "--max-tokens", "9"], 1.0, 9, None),
        (["-n", "8"], None, None, {"name": "weighted", "n": 8}),
        (
            ["--model", "local/countdown-policy", "-n", "8"],
            None,
            None,
            {"name": "majority", "n": 8},
        ),
    ],
)
def test_solve_says_only_what_it_was_told(
    given: list[str],
    temperature: float | None,
    most: int | None,
    strategy: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[str, Any] = {}

    def solver(models: Any, **settings: Any) -> None:
        made.update(settings)
        raise ReasoningError("enough")

    monkeypatch.setattr("reasoning.Solver", solver)
    monkeypatch.setattr(sys, "argv", ["reasoning", "solve", "Use 1, 2 to make 3", *given])
    with pytest.raises(SystemExit):
        cli.main()
    told = made["sampling"] and made["sampling"].temperature
    assert (told, made["max_tokens"], made["strategy"]) == (temperature, most, strategy)


def test_another_recipe_does_not_share_a_folder(tmp_path: Path) -> None:
    import asyncio

    from reasoning.evals import experiment

    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("seconds: 0.5", "seconds: 0").replace("count: 6", "count: 1"))
    asyncio.run(experiment.run(Recipe.load(path), tmp_path / "run"))
    path.write_text(path.read_text().replace("name: scripted\n", "name: other\n"))
    with pytest.raises(ReasoningError, match="another recipe"):
        asyncio.run(experiment.run(Recipe.load(path), tmp_path / "run"))
    header = json.loads((tmp_path / "run" / "run.json").read_text())
    assert header["sittings"][0]["packages"]["reasoning"]


@pytest.mark.parametrize("name", ["run.json", "recipe.json"])
@pytest.mark.parametrize("damaged", [b"", b'{"name": "scr', b"\xff\0", b"[1]"])
def test_a_header_is_never_half_written_and_a_damaged_one_is_told(
    tmp_path: Path, name: str, damaged: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    from reasoning.evals import experiment

    def play() -> str:
        return str(asyncio.run(experiment.run(Recipe.load(path), tmp_path / "run")))

    path, kept = tmp_path / "recipe.yaml", tmp_path / "run" / name
    path.write_text(RECIPE.replace("seconds: 0.5", "seconds: 0").replace("count: 6", "count: 1"))
    play()
    whole = kept.read_bytes()

    def write(path: Path, text: str, **_: str) -> None:
        path.write_bytes(text.encode()[:9])
        if name in path.name:
            raise OSError(28, "No space left on device")
        path.write_bytes(text.encode())

    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", write)
        with pytest.raises(OSError):
            play()
    assert kept.read_bytes() == whole
    kept.write_bytes(damaged)
    with pytest.raises(ReasoningError, match=f"run/{name} is damaged; delete it, and run again"):
        play()
    kept.unlink()
    assert "expected 12 = " in play() and not list((tmp_path / "run").glob(".*"))


def test_another_count_goes_on_and_counts_what_it_asks_for_another_task_does_not(
    tmp_path: Path,
) -> None:
    import asyncio

    from reasoning.evals import experiment

    path, text = tmp_path / "recipe.yaml", RECIPE.replace("seconds: 0.5", "seconds: 0")

    def play(old: str, new: str) -> str:
        assert old in text
        path.write_text(text.replace(old, new))
        return str(asyncio.run(experiment.run(Recipe.load(path), tmp_path / "run")))

    for old, new, asked in (
        ("count: 6", "count: 6", 72),
        ("count: 6", "count: 3", 36),
        ("seeds: [0, 1]", "seeds: [1]", 36),
        ("count: 6", "count: 7", 84),
    ):
        summary = play(old, new)
        assert f"expected {asked} = " in summary and summary.endswith(" + 0 skipped")
    with pytest.raises(ReasoningError, match=r"another task .*'numbers': 4") as refused:
        play("numbers: 3", "numbers: 4")
    assert "\n" not in str(refused.value)
