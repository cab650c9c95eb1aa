"""Trains the Countdown policy and draft from scratch, on the train split only.

    python -m reasoning.evals.countdown.train_policy --size policy --minutes 45 --out FOLDER

Loss on the trace only, batches bucketed by length, bf16 autocast where the processor computes in
bf16. Stops after the minutes; resumes from FOLDER/checkpoint.pt.

The letter that begins `wait` or `answer` weighs more (--decision-weight): it says whether the
number that is left is the target, one comparison in forty characters, and a small model that is
trained on all characters alike takes very long to learn it. Its accuracy is logged as `decided`.
Steps are small for the same reason: to learn a comparison takes steps, not tokens. With 8,192
tokens a step it was not learned in hours, with 2,048 in minutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from reasoning.evals.countdown import data, manifest, tokenizer, training

SIZES: dict[str, dict[str, Any]] = {
    "policy": {"hidden_size": 256, "layers": 4, "heads": 4, "kv_heads": 2, "mlp": 768, "lr": 1e-3},
    "draft": {"hidden_size": 128, "layers": 3, "heads": 2, "kv_heads": 1, "mlp": 384, "lr": 2e-3},
}
# ids with EOS, and the length of the prompt among them.
Example = tuple[list[int], int]
NEWLINE, WAIT, ANSWER = (2 + tokenizer.CHARACTERS.index(c) for c in "\nwa")


def config(size: str) -> Qwen3Config:
    shape = SIZES[size]
    return Qwen3Config(
        vocab_size=64,
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["mlp"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        use_cache=True,
    )


def encode(pairs: list[tuple[str, str]]) -> list[Example]:
    """Each (question, trace) as ids."""
    ids = {c: i + 2 for i, c in enumerate(tokenizer.CHARACTERS)}
    return [([ids[c] for c in p + t] + [1], len(p)) for p, t in pairs]


def batches(
    examples: list[Example], tokens_a_step: int, rng: random.Random
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch of (ids, labels), each at most `tokens_a_step` tokens of similar lengths."""
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i][0]), rng.random()))
    groups: list[list[int]] = [[]]
    for i in order:
        if (len(groups[-1]) + 1) * len(examples[i][0]) > tokens_a_step and groups[-1]:
            groups.append([])
        groups[-1].append(i)
    rng.shuffle(groups)
    made = []
    for group in groups:
        width = max(len(examples[i][0]) for i in group)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        labels = torch.full((len(group), width), -100)
        for row, i in enumerate(group):
            tokens, start = examples[i]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, start : len(tokens)] = ids[row, start : len(tokens)]
        made.append((ids, labels))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="policy")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--traces", type=int, default=240_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--lr", type=float, help="peak learning rate; default: the size's")
    parser.add_argument("--start", type=Path, help="a checkpoint to start from, not at random")
    parser.add_argument("--tokens-a-step", type=int, default=2048)
    parser.add_argument("--decision-weight", type=float, default=4.0)
    parser.add_argument("--insight", type=float, nargs=2, default=data.Manner.insight)
    parser.add_argument("--patience", type=int, nargs=2, default=data.Manner.patience)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    manner = data.Manner(tuple(args.insight), tuple(args.patience))
    cache = args.out / "traces.json"
    if cache.exists():
        pairs = [tuple(pair) for pair in json.loads(cache.read_text())]
    else:
        pairs = data.parallel("train", args.traces, args.seed, args.processes, manner)
        cache.write_text(json.dumps(pairs))
    train(args, encode(pairs))


def train(args: argparse.Namespace, examples: list[Example]) -> None:
    torch.manual_seed(args.seed)
    device = training.device()
    shape = config(args.size)
    shape._attn_implementation = training.ATTENTION[device]
    model = Qwen3ForCausalLM(shape).to(device)
    if args.start is not None:
        model.load_state_dict(Qwen3ForCausalLM.from_pretrained(args.start).float().state_dict())
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {len(examples):,} traces", flush=True)
    peak = args.lr or SIZES[args.size]["lr"]
    course = training.Training(model, peak, args.minutes, args.out / "checkpoint.pt")
    half = training.computes_in_bf16(device)
    running, decided, fresh = 0.0, 0.0, 1.0
    for ids, labels in course.batches(
        lambda rng: batches(examples, args.tokens_a_step, rng), args.seed
    ):
        ids, labels = ids.to(device), labels.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            logits = model(input_ids=ids).logits
        loss, accuracy = objective(logits, ids, labels, args.decision_weight)
        course.step(loss)
        running += fresh * (loss.item() - running)
        decided += fresh * (accuracy - decided)
        fresh = 0.02
        if course.steps % 50 == 0:
            print(
                f"{course.steps} {course.spent / 60:.1f}min loss {running:.4f} "
                f"decided {decided:.3f}",
                flush=True,
            )
    finish(args, model, course)


def objective(
    logits: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor, decision_weight: float
) -> tuple[torch.Tensor, float]:
    """Weighted cross-entropy, and the accuracy at decisions (of `wait` against `answer`).

    logits: (batch, length, vocabulary); ids and labels: (batch, length), -100 without loss.
    """
    logits, before, targets = logits[:, :-1].float(), ids[:, :-1], labels[:, 1:]
    decides = (before == NEWLINE) & ((targets == WAIT) | (targets == ANSWER))
    losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=-100)
    weight = (targets != -100) * (1.0 + (decision_weight - 1.0) * decides)
    right = (logits.argmax(-1) == targets)[decides].float()
    return (losses * weight).sum() / weight.sum(), right.mean().item() if len(right) else 0.0


def finish(args: argparse.Namespace, model: Qwen3ForCausalLM, course: training.Training) -> None:
    """Weights (bf16 safetensors), config and tokenizer as AutoModel reads them, and a manifest."""
    before = {"started_from": manifest.read(args.start)} if args.start else {}
    model.to("cpu", torch.bfloat16).save_pretrained(str(args.out))
    tokenizer.save(args.out)
    manifest.write(
        args.out,
        command="python -m reasoning.evals.countdown.train_policy " + " ".join(sys.argv[1:]),
        seed=args.seed,
        split="train",
        minutes=course.spent / 60,
        training={"steps": course.steps, "traces": args.traces},
        hardware=f"{platform.machine()}, {torch.get_num_threads()} threads, {training.device()}",
        **before,
    )
    print(f"done after {course.steps} steps, {course.spent / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
