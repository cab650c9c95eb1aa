"""The trainers: a stopped training goes on where it was, and what they write can be used."""

import functools
import itertools
import random
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from reasoning.evals.countdown import data, manifest, train_policy, training


class Course:
    """A regression whose every batch takes `seconds`; a checkpoint after each."""

    def __init__(self, checkpoint: Path, seconds: float = 200.0) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Linear(3, 1)
        self.now = 1000.0
        self.seconds = seconds
        self.training = training.Training(self.model, 0.1, 50, checkpoint, lambda: self.now)

    def run(self, stop_after: int | None = None) -> list[int]:
        """The batches it saw."""
        seen = []
        for batch in self.training.batches(lambda rng: rng.sample(range(6), 6), seed=1):
            inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(batch))
            self.now += self.seconds
            seen.append(batch)
            self.training.step((self.model(inputs) - inputs.sum(1, keepdim=True)).square().mean())
            if len(seen) == stop_after:
                break
        return seen


@pytest.mark.parametrize("stopped", [1, 6, 8])
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path, stopped: int) -> None:
    whole = Course(tmp_path / "whole.pt")
    seen = whole.run()
    assert len(seen) == 15  # 50 minutes of 200 seconds
    first = Course(tmp_path / "parts.pt")
    before = first.run(stop_after=stopped)
    rest = Course(tmp_path / "parts.pt")
    assert before + rest.run() == seen
    assert rest.training.steps == 15
    for one, other in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_policy_trainer_writes_a_model_that_has_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train_policy", "--size", "draft", "--out", str(tmp_path), "--traces", "400"]
    command += ["--minutes", "1", "--processes", "1", "--seed", "7", "--tokens-a-step", "512"]
    monkeypatch.setattr(sys, "argv", command)
    ticks = itertools.count(0.0, 0.25)  # some 80 steps of three looks at the clock
    course = functools.partial(training.Training, clock=lambda: next(ticks))
    monkeypatch.setattr(training, "Training", course)
    train_policy.main()
    facts = manifest.read(tmp_path)
    assert facts["sha256"] == manifest.weights_hash(tmp_path)
    assert facts["training"]["steps"] > 60 and facts["seed"] == 7
    held = train_policy.encode(list(data.parallel("dev", 32, 1, 1, data.Manner())))
    ((ids, labels), *_) = train_policy.batches(held, 2048, random.Random(0))

    def loss(model: Qwen3ForCausalLM) -> float:
        with torch.inference_mode():
            return train_policy.objective(model(input_ids=ids).logits, ids, labels, 1.0)[0].item()

    torch.manual_seed(0)
    untrained = loss(Qwen3ForCausalLM(train_policy.config("draft")))
    assert loss(Qwen3ForCausalLM.from_pretrained(tmp_path).float()) < untrained - 0.5
