"""Accuracy of this tuning loop beside TRL's: one batch's loss and gradient, and the dev loss after a pass."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from trl_peer import WITHOUT_CHECKPOINTING, Job, Side, quiet, trl_trainer

METIER = Side("metier")
PASS_LR = 1e-3
"""Constant learning rate of the passes that are compared."""


def one_pass(job: Job, side: Side, conn: Connection, *, lr: float) -> None:
    """One pass at a constant learning rate; the adapter is written to `<out>/<side>`."""
    quiet()
    import torch

    torch.set_num_threads(job.threads)
    out_dir = Path(job.out_dir) / side.name
    rows = job.rows()
    if side.name == METIER.name:
        from metier.engine import Linear, export_adapter, forward_backward, load, make_batch, optim_step

        handle = load(Path(job.model_dir), adapter=Path(job.adapter_dir), threads=job.threads)
        for step in side.steps([len(row.tokens) for row in rows]):
            forward_backward(handle, make_batch([rows[i] for i in step]), Linear()).result()
            optim_step(handle, lr=lr).result()
        export_adapter(handle, out_dir)
    else:
        trainer = trl_trainer(
            job, side, on_loaded=lambda: None, num_train_epochs=1, learning_rate=lr, lr_scheduler_type="constant"
        )
        trainer.train()
        trainer.model.save_pretrained(str(out_dir))
    conn.send(True)


def compare_passes(job: Job, best: Side, *, seeds: int, num_rows: int, num_dev: int) -> dict[str, Any]:
    """Dev loss after one pass on both sides: same rows, order, adapter, learning rate and rows a step."""
    import torch

    from metier.engine import close, load, logprobs, make_batch

    rows = job.rows()
    if len(rows) < num_rows + num_dev:
        return {}
    dev = make_batch(rows[-num_dev:])
    peer = replace(best, name="trl", rows_a_step=METIER.rows_a_step, grouped=False)
    losses: dict[str, list[float]] = {METIER.name: [], peer.name: []}
    for seed in range(seeds):
        order = torch.randperm(len(rows) - num_dev, generator=torch.Generator().manual_seed(seed))[:num_rows]
        rows_path = Path(job.out_dir) / f"pass_{seed}.jsonl"
        rows_path.write_text("".join(json.dumps(asdict(rows[int(i)])) + "\n" for i in order))
        for side in (METIER, peer):
            this = replace(job, rows_path=str(rows_path), out_dir=str(Path(job.out_dir) / f"seed_{seed}"))
            Path(this.out_dir).mkdir(exist_ok=True)
            in_process(one_pass, this, side, lr=PASS_LR)
            handle = load(Path(job.model_dir), adapter=Path(this.out_dir) / side.name, dtype="fp32")
            logp_T = logprobs(handle, dev).result()
            close(handle)
            losses[side.name].append(-float((logp_T * dev.weight_T).sum() / dev.weight_T.sum()))
            print(f"pass {seed} {side.name}: dev loss {losses[side.name][-1]:.4f}", file=sys.stderr)
    ratios = [a / b for a, b in zip(losses[METIER.name], losses[peer.name], strict=True)]
    return {"dev_loss_after_a_pass": losses, "dev_loss_ratio": ratios, "pass_rows": num_rows, "dev_rows": num_dev}


def in_process(target: Callable[..., None], job: Job, side: Side, **options: Any) -> Any:
    """What a side sends, run in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(job, side, there), kwargs=options)
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


def gradients(job: Job, side: Side, conn: Connection, *, dtype: str) -> None:
    """Loss and adapter gradient of the first batch, by PEFT's names, written beside the rows."""
    quiet()
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(job.threads)
    if side.name == METIER.name:
        from metier.engine import Linear, forward_backward, load, make_batch
        from metier.engine.peft_files import tensor_name

        adapter_dir, batch = Path(job.adapter_dir), make_batch(job.rows()[: side.rows_a_step])
        handle = load(Path(job.model_dir), adapter=adapter_dir, dtype=dtype, threads=job.threads)  # type: ignore[arg-type]  # bf16 or fp32
        loss = forward_backward(handle, batch, Linear()).result().loss_nats
        assert handle.adapter is not None and handle.trainer is not None
        grads: dict[str, torch.Tensor] = {}
        for worker in handle.trainer.grads:
            for offset, layer in enumerate(worker.views):
                for name, pair in layer.items():
                    for letter, grad in zip("AB", pair, strict=True):
                        key = tensor_name(handle.adapter.first_layer + offset, name, letter)
                        grads[key] = grads[key] + grad if key in grads else grad.clone()
    else:
        options = {"dtype": torch.float32, "bf16": False} if dtype == "fp32" else {}
        trainer = trl_trainer(job, side, on_loaded=lambda: None, **options)
        inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        with trainer.compute_loss_context_manager():
            value = trainer.compute_loss(trainer.model, inputs)
        value.backward()
        loss = float(value.detach())
        named = trainer.model.named_parameters()
        grads = {name.replace(".default", ""): p.grad.float() for name, p in named if p.grad is not None}
    save_file(grads, str(Path(job.out_dir) / f"{side.name}_{dtype}.safetensors"))
    conn.send(loss)


def compare_gradients(job: Job) -> dict[str, float]:
    """Errors of loss and gradient against TRL in fp32."""
    import torch
    from safetensors.torch import load_file

    peer = WITHOUT_CHECKPOINTING
    loss, flat = {}, {}
    for side in (peer, METIER):
        for dtype in ("fp32", "bf16"):
            loss[side.name, dtype] = in_process(gradients, job, side, dtype=dtype)
            grads = load_file(Path(job.out_dir) / f"{side.name}_{dtype}.safetensors")
            flat[side.name, dtype] = torch.cat([grads[name].flatten().double() for name in sorted(grads)])
    true, true_loss = flat[peer.name, "fp32"], loss[peer.name, "fp32"]
    error = {key: float((grad - true).norm() / true.norm()) for key, grad in flat.items()}
    return {
        "loss_trl_fp32": true_loss,
        "fp32_loss_error": abs(loss["metier", "fp32"] / true_loss - 1),
        "fp32_grad_error": error["metier", "fp32"],
        "bf16_loss_error": abs(loss["metier", "bf16"] / true_loss - 1),
        "bf16_loss_error_trl": abs(loss[peer.name, "bf16"] / true_loss - 1),
        "bf16_grad_error": error["metier", "bf16"],
        "bf16_grad_error_trl": error[peer.name, "bf16"],
        "bf16_error_ratio": error["metier", "bf16"] / error[peer.name, "bf16"],
    }
