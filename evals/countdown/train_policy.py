"""Trains the Countdown policy and draft from scratch, on the train split only.

    python -m reasoning.evals.countdown.train_policy --size policy --minutes 45 --out FOLDER

Loss on the trace only, AdamW, linear warm-up and cosine over the given minutes, batches bucketed
by length, bf16 autocast where the processor computes in bf16. Stops after the minutes; resumes
from FOLDER/checkpoint.pt.

The letter that begins `wait` or `answer` can weigh more (--decision-weight): it says whether the
number that is left is the target, one comparison in forty characters, and a small model that is
trained on all characters alike takes very long to learn it. Its accuracy is logged as `decided`.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from reasoning.evals.countdown import data, tokenizer

SIZES: dict[str, dict[str, Any]] = {
    "policy": {"hidden_size": 256, "layers": 4, "heads": 4, "kv_heads": 2, "mlp": 768, "lr": 2e-3},
    "draft": {"hidden_size": 128, "layers": 3, "heads": 2, "kv_heads": 1, "mlp": 384, "lr": 3e-3},
}
NEWLINE, WAIT, ANSWER = (2 + tokenizer.CHARACTERS.index(c) for c in "\nwa")
# On a CPU the backward pass of fused attention is half again slower at these lengths.
ATTENTION = {"cpu": "eager", "cuda": "sdpa"}


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


def computes_in_bf16(device: str) -> bool:
    """Whether bf16 is fast here; a processor without it takes ten times longer than in fp32."""
    return device == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())


def encode(pairs: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """(ids with EOS, length of the prompt) of each pair."""
    ids = {c: i + 2 for i, c in enumerate(tokenizer.CHARACTERS)}
    return [([ids[c] for c in p + t] + [1], len(p)) for p, t in pairs]


def batches(
    examples: list[tuple[list[int], int]], tokens_a_step: int, rng: random.Random
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
    parser.add_argument("--tokens-a-step", type=int, default=8192)
    parser.add_argument("--decision-weight", type=float, default=1.0)
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


def train(args: argparse.Namespace, examples: list[tuple[list[int], int]]) -> None:
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = computes_in_bf16(device)
    shape = config(args.size)
    shape._attn_implementation = ATTENTION[device]
    model = Qwen3ForCausalLM(shape).to(device)
    if args.start is not None:
        model.load_state_dict(Qwen3ForCausalLM.from_pretrained(args.start).float().state_dict())
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {len(examples):,} traces", flush=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), args.lr or SIZES[args.size]["lr"], betas=(0.9, 0.98), weight_decay=0.01
    )
    checkpoint = args.out / "checkpoint.pt"
    step, spent, epoch, tokens = 0, 0.0, 0, 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent, epoch, tokens = (state[k] for k in ("step", "spent", "epoch", "tokens"))
    began, saved = time.monotonic() - spent, time.monotonic()
    running, decided = 0.0, 0.0
    while True:
        made = batches(examples, args.tokens_a_step, random.Random(f"{args.seed}/{epoch}"))
        for ids, labels in made[step - epoch * len(made) :]:  # where a resumed run had come to
            spent = time.monotonic() - began
            progress = spent / (args.minutes * 60)
            if progress >= 1:
                finish(args, model, step, tokens, spent)
                return
            peak = args.lr or SIZES[args.size]["lr"]
            rate = peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * _cosine(progress))
            for group in optimizer.param_groups:
                group["lr"] = rate
            ids, labels = ids.to(device), labels.to(device)
            with torch.autocast(device, torch.bfloat16, enabled=half):
                logits = model(input_ids=ids).logits
            loss, accuracy = objective(logits, ids, labels, args.decision_weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step, tokens = step + 1, tokens + ids.numel()
            fresh = 1.0 if step == 1 else 0.02
            running += fresh * (loss.item() - running)
            decided += fresh * (accuracy - decided)
            if step % 50 == 0:
                print(
                    f"{step} {spent / 60:.1f}min loss {running:.4f} decided {decided:.3f} "
                    f"{tokens / spent:.0f}tok/s",
                    flush=True,
                )
            if time.monotonic() - saved > 180:
                saved = time.monotonic()
                torch.save(
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": step,
                        "spent": spent,
                        "epoch": epoch,
                        "tokens": tokens,
                    },
                    checkpoint,
                )
                export(model, args.out)
        epoch += 1


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


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def export(model: torch.nn.Module, folder: Path) -> None:
    """Weights (bf16 safetensors), config and tokenizer, as AutoModel reads them."""
    import copy

    saved = copy.deepcopy(model).to("cpu", torch.bfloat16)
    saved.save_pretrained(str(folder), safe_serialization=True)  # type: ignore[operator]
    tokenizer.save(folder)


def finish(
    args: argparse.Namespace, model: torch.nn.Module, step: int, tokens: int, spent: float
) -> None:
    from reasoning.evals.countdown import manifest

    export(model, args.out)
    before = {"started_from": manifest.read(args.start)} if args.start else {}
    manifest.write(
        args.out,
        command="python -m reasoning.evals.countdown.train_policy " + " ".join(sys.argv[1:]),
        seed=args.seed,
        split="train",
        minutes=spent / 60,
        training={"steps": step, "tokens": tokens, "traces": args.traces},
        hardware=f"{platform.machine()}, {torch.get_num_threads()} threads, "
        + ("cuda" if torch.cuda.is_available() else "cpu"),
        **before,
    )
    print(f"done after {step} steps, {tokens:,} tokens, {spent / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
