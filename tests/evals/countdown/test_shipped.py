"""The shipped checkpoints: standard format, true manifests, rewards that know right from wrong."""

import asyncio
import itertools
import random
from pathlib import Path

import pytest

from reasoning.engines import weights
from reasoning.evals.countdown import manifest, tokenizer
from reasoning.evals.countdown.problems import problems
from reasoning.evals.countdown.rollouts import Rollout, Verdict, judged, pass_at, right, roll
from reasoning.evals.countdown.solver import reachable
from reasoning.evals.countdown.traces import parse_line, prompt, write
from reasoning.evals.countdown.train_prm import Chances, auroc, example

SHIPPED = sorted(folder.name for folder in weights.SHIPPED.iterdir() if folder.is_dir())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_manifest_describes_the_file_beside_it(name: str) -> None:
    folder = weights.resolve(name)
    facts = manifest.read(folder)
    assert facts["sha256"] == manifest.weights_hash(folder)
    assert facts["split"] == "train" and facts["minutes"] > 0 and facts["hardware"]
    assert facts["command"].startswith("python -m reasoning.evals.countdown.train_")
    assert facts["measured"]["split"] in ("dev", "calibrate")
    assert (folder / "model.safetensors").stat().st_size < 10_000_000


@pytest.mark.parametrize("name", SHIPPED)
def test_transformers_loads_them_as_they_are(name: str) -> None:
    from transformers import AutoConfig, AutoTokenizer

    folder = weights.resolve(name)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).model_type == "qwen3"
    text = "14 17 75 10 = 50\n75-10=65 : 14 17 65\nwait 14 17 75 10\nanswer (1*2)/(3+4)\n"
    ids = loaded.encode(text)
    assert len(ids) == len(text) and loaded.decode(ids) == text
    # Text is never tokenised in another way for being cut elsewhere.
    for cut in range(len(text)):
        assert loaded.encode(text[:cut]) + loaded.encode(text[cut:]) == ids
    message = [{"role": "user", "content": "1 2 3 = 6"}]
    rendered = loaded.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert rendered == "1 2 3 = 6\n"


def test_the_tokenizer_is_the_one_the_code_builds(tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for name in SHIPPED:
        for file in ("tokenizer.json", "chat_template.jinja"):
            assert (weights.resolve(name) / file).read_text() == (tmp_path / file).read_text()


@pytest.fixture(scope="module")
def rollouts() -> list[Rollout]:
    """Eight of each of 24 dev problems, at temperature 1."""
    from reasoning.engines.local import LocalEngine

    async def drawn() -> list[Rollout]:
        async with LocalEngine("countdown-policy") as engine:
            return await roll(engine, problems("dev", 24, 4), 8, max_tokens=640, seed=3)

    return asyncio.run(drawn())


def test_extra_compute_matters_to_the_policy(rollouts: list[Rollout]) -> None:
    """A sample of what the manifest says, drawn anew: pass@8 well above pass@1."""
    assert all(r.right == right(r.problem, r.text) for r in rollouts)
    found = pass_at(rollouts, (1, 8))
    assert 0 < found[1] < 0.7 and found[8] > 1.5 * found[1]


def test_lines_are_judged_by_the_solver() -> None:
    rng = random.Random(0)
    for problem in itertools.islice(problems("dev", 30, 4), 30):
        text = write(problem, rng, insight=0.5, patience=2)
        verdicts = judged(problem, text)
        assert len(verdicts) == len(text.splitlines()) and verdicts[-1] == Verdict(0, 1.0)
        for line, verdict in zip(text.splitlines()[:-1], verdicts, strict=False):
            parsed = parse_line(line)
            assert parsed is not None and verdict.left == len(parsed.state)
            assert (verdict.worth > 0) == reachable(parsed.state, problem.target)
        # A line of false arithmetic, and all that builds on it, is worth nothing.
        numbers = problem.numbers
        false = f"{numbers[0]}+{numbers[1]}={numbers[0] + numbers[1] + 1} : 1 2 3\n1+2=3 : 3 3\n"
        assert judged(problem, false) == (Verdict(3, 0.0), Verdict(2, 0.0))


def test_auroc_by_ranks() -> None:
    assert auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert auroc([0.5] * 4, [True, False, True, False]) == 0.5
    assert auroc([0.5], [True]) != auroc([0.5], [True])  # NaN: one class only


async def test_the_reward_knows_a_right_answer_line(rollouts: list[Rollout]) -> None:
    """What the outcome part of the head is for: the check of the last line, learned."""
    from reasoning.engines.local import LocalEngine

    answered = [r for r in rollouts if r.verdicts and r.verdicts[-1].left == 0]
    made = [(r, e) for r in answered if (e := example(r, Chances([]))) is not None]
    async with LocalEngine("countdown-prm") as engine:
        replies = await asyncio.gather(*(engine.pool(e[0], [e[1][-1][0]]) for _, e in made))
    area = auroc([reply.values[0] for reply in replies], [r.right for r, _ in made])
    assert area > 0.65, area


def test_prompts_are_what_the_models_were_trained_on() -> None:
    problem = next(problems("test", 1, 4))
    from reasoning.evals.tasks import Countdown

    (asked,) = Countdown(split="test", numbers=4).problems(1)
    assert asked.messages[-1]["content"] == prompt(problem.numbers, problem.target)
