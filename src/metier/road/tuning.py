"""The tuning run of the road: its stage, its adapter, and the model it registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.arms import Replier
from metier.arms.replier import with_instruction
from metier.core.errors import DataError, ModelError, StoreError
from metier.core.folders import read_json, write_json
from metier.core.hashing import file_sha256, value_hash
from metier.core.rows import Row
from metier.core.seeds import derived_seed
from metier.core.tune_config import TuneConfig
from metier.road.cut import Parts
from metier.road.described import described_tuning
from metier.road.layout import fix_layout, layout_of
from metier.road.mining import Start, rendered_pairs
from metier.road.plan import Plan, chosen_rows
from metier.road.rendered import Rendered, instruction_text, render_parts
from metier.road.session import Session, max_reply_tokens
from metier.road.workspace import Stage, note_peak

if TYPE_CHECKING:
    from metier.engine import Handle
    from metier.tune import Options, Progress, TuneResult

__all__ = ["Tuning", "chosen_search", "search_path"]

TUNE_VERSION = 4
RUN_NAME = "run"
PROBE_ROWS = 8
SAME_LOGPROB = 1e-5
"""Log-probabilities closer than this, in nats, are the same one: rounding of fp32 products is a tenth of it."""


def search_path(session: Session) -> Path:
    """Where the search of this plan is, and with it of the rows, the base and the settings of the tuning."""
    return session.workspace.root / f"search-{session.stages['plan'].hash[:16]}.json"


def chosen_search(session: Session) -> dict[str, Any]:  # Any: JSON values
    """The stored search of exactly this plan: the learning rate chosen on dev and the trials; 0 and none without."""
    path = search_path(session)
    return dict(read_json(path)) if path.exists() else {"lr": 0.0, "trials": []}


class Tuning:
    """One tuning run by the plan; `load` is what the tuned arm calls."""

    def __init__(self, session: Session, parts: Parts, plan: Plan) -> None:
        self.session, self.parts, self.plan = session, parts, plan

    @cached_property
    def rendered(self) -> Rendered:
        """Train and dev rows as tokens, the plan's share of the train rows."""
        rendered = render_parts(self.session, self.parts)
        seed = self.session.config.project.seed
        order = chosen_rows(len(rendered.train), self.plan.num_train_rows, seed=seed)
        return replace(rendered, train=[rendered.train[i] for i in order])

    @property
    def likeness(self) -> str:
        """Hash of what makes a tuning but its rows: base, objective, settings, and how replies are graded."""
        session = self.session
        graded = {name: session.question[name] for name in ("metric", "convention", "code")}
        made = {"objective": session.config.tune.objective, "tune": asdict(self.sft_config), "graded": graded}
        return value_hash({**made, "base": session.base.function_sha256, "template": session.base.template_sha256})

    @cached_property
    def stage(self) -> Stage:
        """The last finished stage of the objective; a killed run goes on at its last checkpoint."""
        return self.sft_stage if self.session.config.tune.objective == "sft" else self.dpo_stage

    @property
    def inputs(self) -> dict[str, str]:
        """What every tuning of this plan rests on."""
        base = self.session.base
        plan = self.session.stages["plan"].hash
        return {
            "split": self.parts.stage_hash,
            "base": base.function_sha256,
            "template": base.template_sha256,
            "plan": plan,
        }

    @cached_property
    def sft_stage(self) -> Stage:
        """The finished stage of the gold replies: the adapter of the best dev loss."""
        from metier.tune import tune

        session = self.session
        fix_layout(session, layout_of(session))  # a later rehearsal makes no other model of this run
        config = self.sft_config
        seed = derived_seed(session.config.project.seed, "tune")

        def work(stage_dir: Path) -> None:
            result = tune(
                self.rendered.train,
                self.rendered.dev,
                config,
                base=session.base,
                out_dir=stage_dir / RUN_NAME,
                seed=seed,
                options=self.options(stage_dir),
            )
            write_json(stage_dir / "facts.json", self._facts(result))

        return session.stage(
            "tune",
            version=TUNE_VERSION,
            inputs=self.inputs,
            config={"tune": asdict(config), "seed": seed, "num_train_rows": self.plan.num_train_rows},
            work=work,
            resumable=True,
            processes=config.processes,
        )

    @cached_property
    def dpo_stage(self) -> Stage:
        """The finished stage of the pairs: it goes on from the adapter of the gold replies."""
        from metier.tune import tune_pairs

        session, earlier = self.session, self.sft_facts
        # Where no rate of its own is set, that of dpo is a tenth of what sft really had.
        has_rate = session.config.tune.dpo is not None and session.config.tune.dpo.lr > 0
        config = replace(self._config, passes=0.0, lr=0.0 if has_rate else earlier["lr"])
        sft = Start(self.sft_stage.hash, self.sft_stage.dir / RUN_NAME / earlier["tuned_dir"], self.rendered)
        pairs = rendered_pairs(session, self.parts, sft)
        seed = derived_seed(session.config.project.seed, "tune")

        def work(stage_dir: Path) -> None:
            result = tune_pairs(
                pairs.train,
                pairs.dev,
                config,
                base=session.base,
                out_dir=stage_dir / RUN_NAME,
                seed=seed,
                options=replace(self.options(stage_dir), start=sft.adapter_dir),
            )
            counted = {**pairs.counts, "train": len(pairs.train), "dev": len(pairs.dev)}
            counts = {"pairs": counted, "sft_seconds": earlier["seconds"]}
            write_json(stage_dir / "facts.json", {**self._facts(result), **counts})

        mined = session.stages.get("pairs")
        return session.stage(
            "tune-dpo",
            version=TUNE_VERSION,
            inputs={"sft": sft.stage_hash, "pairs": mined.hash if mined else ""},
            config={"tune": asdict(config), "seed": seed},
            work=work,
            resumable=True,
            processes=config.processes,
        )

    @property
    def plain_config(self) -> TuneConfig:
        """The settings with what the plan chose."""
        session, plan = self.session, self.plan
        chosen = {"passes": plan.passes, "depth": plan.depth, "product_dtype": session.wanted_dtype}
        return replace(session.config.tune, **chosen, layout=layout_of(session).name)  # type: ignore[arg-type]  # names and values from the line above

    @property
    def _config(self) -> TuneConfig:
        """The settings with what the plan chose, and the learning rate of a search of exactly this plan."""
        lr = self.session.config.tune.lr or float(chosen_search(self.session)["lr"])
        return replace(self.plain_config, lr=lr)

    @property
    def sft_config(self) -> TuneConfig:
        """The settings of the gold replies."""
        return replace(self._config, objective="sft", dpo=None)

    def options(self, stage_dir: Path, *, tells: bool = True) -> Options:
        """How the stages are done; the states of rows are kept for all of them. `tells` their steps as progress."""
        from metier.tune import Options

        def tell(now: Progress) -> None:
            if tells:
                self._tell(now, stage_dir)

        return Options(
            on_progress=tell,
            say=self.session.progress.say,
            trunk_dir=self.session.workspace.trunk_dir,
            layout_why=layout_of(self.session).reason,
        )

    def _tell(self, now: Progress, stage_dir: Path) -> None:
        """Steps of sft are the first half of a dpo run."""
        if now.dev_loss_nats is not None:
            note_peak(stage_dir)
        done = now.step / now.num_steps
        if self.session.config.tune.objective == "dpo":
            done = (done + ("sft_stage" in self.__dict__)) / 2  # a cached property stands there once it is finished
        self.session.progress.advance(done)

    def _facts(self, result: TuneResult) -> dict[str, Any]:  # Any: JSON values
        """What a stage records beside its adapter."""
        return {
            "template_sha256": self.session.base.template_sha256,
            "base_sha256": self.session.base.base_sha256,
            "row_ids": [row.row_id for row in self.rendered.train],
            "max_reply_tokens": max_reply_tokens(self.rendered.golds),
            "dev_curve": [{"step": step, "dev_loss_nats": loss} for step, loss in result.dev_curve],
            "tuned_dir": result.adapter_dir.name,
            "best_step": result.best_step,
            "num_steps": result.num_steps,
            "last_step": result.last_step,
            "num_tokens": result.num_tokens,
            "seconds": result.seconds,
            "lr": result.lr,
            "step_tokens": result.step_tokens,
            "execution": result.execution.as_json(),
        }

    def run(self) -> None:
        """Tune now, unless it is done."""
        if not self.stage.dir.exists():
            raise StoreError(f"{self.stage.dir}: gone right after it was written; check the disk and run again.")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the stage recorded beside the adapter."""
        stored: dict[str, Any] = read_json(self.stage.dir / "facts.json")
        return stored

    @cached_property
    def sft_facts(self) -> dict[str, Any]:
        """What the stage of the gold replies recorded."""
        stored: dict[str, Any] = read_json(self.sft_stage.dir / "facts.json")
        return stored

    @property
    def adapter_dir(self) -> Path:
        """The folder of the kept checkpoint: PEFT files, or a whole model under method full."""
        return self.stage.dir / RUN_NAME / str(self.facts["tuned_dir"])

    @property
    def minutes(self) -> float:
        """Minutes of steps and dev scores, over all resumptions and objectives, and of mining the pairs."""
        seconds = float(self.facts["seconds"] + self.facts.get("sft_seconds", 0.0))
        mined = self.session.stages.get("pairs")  # there once the facts above were read
        return (seconds + (mined.seconds if mined else 0.0)) / 60

    @property
    def dev_curve(self) -> tuple[dict[str, float], ...]:
        """Dev loss over the steps."""
        return tuple(self.facts["dev_curve"])

    def load(self) -> Replier:
        """Base and adapter, ready to reply; tunes first unless that is done.

        Raises:
            ModelError: the template is not the one the adapter was tuned with, or the adapter changes nothing.
        """
        tuned_with = self.facts["template_sha256"]
        if tuned_with != self.session.base.template_sha256 or tuned_with != self.session.renderer.template_sha256:
            raise ModelError(
                f"{self.adapter_dir}: tuned with chat template {tuned_with[:12]}, but replies would be prompted with "
                f"{self.session.renderer.template_sha256[:12]}. Restore the template, or tune again."
            )
        handle = self.session.tuned_handle(self.adapter_dir)
        self._assert_in_use(handle)
        return Replier(handle, self.session.renderer, self.facts["max_reply_tokens"])

    def _assert_in_use(self, handle: Handle) -> None:
        """Compare the first token after some dev prompts with the base's: same prompts, so only the adapter differs.

        Raises:
            ModelError: neither the token nor its probability differs after any of them.
        """
        session, rows = self.session, self.parts.dev[:PROBE_ROWS]
        tuned_arm = next(arm for arm in session.config.arm if arm.kind == "tuned")
        talks = [with_instruction(row, instruction_text(tuned_arm, session.wordings)) for row in rows]
        ours, bases = (Replier(each, session.renderer, 1).reply(rows, talks) for each in (handle, session.handle))
        for our, base in zip(ours, bases, strict=True):
            if our.text != base.text or abs((our.logprob or 0.0) - (base.logprob or 0.0)) > SAME_LOGPROB:
                return
        raise ModelError(
            f"{self.adapter_dir}: after {len(rows)} dev prompts the tuned model gives the base's token with the "
            "base's probability; the adapter is not in use or changes nothing. Delete "
            f"{self.stage.dir} to tune again; if it comes back, raise tune.lr or tune.passes."
        )

    def assert_unseen(self, holdout: Sequence[Row]) -> None:
        """Refuse a hold-out of which the model has seen a row.

        Raises:
            DataError: a trained row stands in the hold-out.
        """
        seen = set(self.facts["row_ids"]) & {row.row_id for row in holdout}
        if seen:
            raise DataError(
                f"{len(seen)} rows of the hold-out were trained on (row {min(seen)}); the look shows nothing. "
                "Split again."
            )

    def register(self, parts: Parts) -> dict[str, Any]:  # Any: JSON values
        """Register the adapter as a release candidate; returns its identity for the report.

        Under dpo the adapter of the gold replies is registered too, as what this one went on from: it saw
        the same rows.
        """
        from metier.engine import tuned_file
        from metier.ledger import record_parent

        session, base, settings = self.session, self.session.base, self.session.config.tune
        adapter_sha = file_sha256(tuned_file(self.adapter_dir))
        model_id = self._registered(parts, settings, adapter_sha)
        if settings.objective == "dpo":
            sft_dir = self.sft_stage.dir / RUN_NAME / self.sft_facts["tuned_dir"]
            sft = replace(settings, objective="sft", dpo=None)
            record_parent(session.ledger, model_id, self._registered(parts, sft, file_sha256(tuned_file(sft_dir))))
        return {
            "id": model_id,
            "base": base.name,
            "base_sha256": base.base_sha256,
            "function_sha256": base.function_sha256,
            "adapter_sha256": adapter_sha,
            "template_sha256": base.template_sha256,
            "tokenizer_sha256": base.tokenizer_sha256,
            "adapter_path": str(self.adapter_dir.relative_to(session.project_dir)),
            "dtype": session.dtype,
            "max_reply_tokens": self.facts["max_reply_tokens"],
            "method": session.config.tune.method,
            **described_tuning(
                replace(session.config.tune, passes=self.plan.passes, depth=self.plan.depth),
                sft=self.sft_facts,
                last=self.facts,
                trials=chosen_search(session)["trials"],
                num_train_rows=self.plan.num_train_rows,
            ),
            "state": "candidate",
        }

    def _registered(self, parts: Parts, settings: TuneConfig, adapter_sha: str) -> str:
        """The id of a model tuned with these settings, registered with the rows it saw."""
        from metier.ledger import ModelIdentity, record_training, register_model

        session, base = self.session, self.session.base
        seed = derived_seed(session.config.project.seed, "tune")
        identity = ModelIdentity(
            base_sha=base.base_sha256,
            adapter_sha=adapter_sha,
            template_sha=base.template_sha256,
            tokenizer_sha=base.tokenizer_sha256,
            dataset=parts.dataset_version,
            config_hash=value_hash({**asdict(settings), "passes": self.plan.passes, "depth": self.plan.depth}),
            seed=seed,
        )
        model_id = register_model(session.ledger, identity).model_id
        fraction = len(set(self.facts["row_ids"])) / max(1, len(parts.train))
        record_training(session.ledger, model_id, dataset_version=parts.dataset_version, fraction=fraction, seed=seed)
        return model_id
