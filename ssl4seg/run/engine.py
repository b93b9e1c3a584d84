"""The training loop: step, log, validate, keep the best, resume. It knows methods only by their contract."""

import logging
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.optim import Optimizer

from ssl4seg import checkpoint
from ssl4seg.errors import Interrupted, UserError
from ssl4seg.feed.batches import Batches
from ssl4seg.methods.base import Method
from ssl4seg.processes import all_sum, rank, share_first, world_size
from ssl4seg.run.collapse import Collapse
from ssl4seg.run.folder import RunFolder
from ssl4seg.run.precise_bn import precise
from ssl4seg.run.record import Record
from ssl4seg.run.schedules import Schedule
from ssl4seg.scoring.pictures import Picture
from ssl4seg.scoring.selection import Selection
from ssl4seg.scoring.tables import Table
from ssl4seg.seeding import seed_of
from ssl4seg.types import Losses, Progress

log = logging.getLogger("ssl4seg")

Validate = Callable[[], tuple[Table, Mapping[str, Picture]]]
"""Returns the scores of the val cases by `Method.predict` in evaluation mode, and overlays."""


STATE = (
    *("method", "step", "best", "chosen", "optimizers"),
    *("precision", "scaler", "step_seconds", "seconds"),
)
"""The entries of last.pt from which a training goes on."""


Diagnose = Callable[[Method, Progress], Mapping[str, float]]
"""Returns the scores of the method's pseudo-labels, by name."""


BeforeStep = Callable[[int], None]
"""Called before each step with its number within the stage; freezes and thaws parameters."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The budget of the training, and the keys of conf/engine that the loop needs."""

    total: int
    eval_every: int
    accumulate: int
    clip_norm: float | None
    log_every: int
    seed: int
    precise_bn: int = 0
    """Batches from which the batch norms' statistics are taken anew before each validation."""


class Engine:
    """Trains `method` for `plan.total` steps, going on from the folder's last checkpoint if there is one.

    Args:
        optimizers: one for each of the method's phases.
        selection: decides which of two validations is better.
        schedule: factor by which every optimiser's own learning rate is multiplied.
        folder: None in all processes but the first.
        diagnose: called after each validation; it changes nothing that training depends on.
        collapse: watches its scores.
        before_step: called before each step.
    """

    def __init__(
        self,
        *,
        fabric: Fabric,
        method: Method,
        optimizers: Mapping[str, Optimizer],
        schedule: Schedule,
        batches: Batches,
        validate: Validate,
        selection: Selection,
        plan: Plan,
        folder: RunFolder | None,
        diagnose: Diagnose = lambda method, progress: {},
        collapse: Collapse | None = None,
        before_step: BeforeStep = lambda step: None,
    ) -> None:
        self.diagnose, self.before_step = diagnose, before_step
        self.collapse = collapse or Collapse((), ())
        self.fabric, self.method, self.schedule, self.batches = fabric, method, schedule, batches
        self.validate_cases, self.selection, self.plan, self.folder = validate, selection, plan, folder
        self.base_lr = {phase: [g["lr"] for g in opt.param_groups] for phase, opt in optimizers.items()}
        self.model, *wrapped = _as_tuple(fabric.setup(method, *optimizers.values()))
        self.optimizers = dict(zip(optimizers, wrapped, strict=True))
        self.step = 0
        self.chosen: torch.Tensor | None = None
        self.best: dict[str, Any] = {}
        self.first_bad = torch.full((), math.inf, device=fabric.device)
        self.step_seconds: list[float] = []
        self._clock: tuple[int, float] | None = None
        self._start = time.perf_counter()

    # -- the loop -----------------------------------------------------------------------------------------------------

    def fit(self, record: Record) -> None:
        """Train to the end of the plan."""
        plan = self.plan
        with _asked_to_stop() as stop:
            while self.step < plan.total:
                losses = self.train_step()
                self.step += 1
                record.advance()
                ending = self.step == plan.total
                logging_now = self.step % plan.log_every == 0 or ending
                if logging_now:
                    self.log_scalars(record, losses)
                if self.step % plan.eval_every == 0 or ending:
                    self.validate(record)
                    self.save()
                    self._clock = (self.step, time.perf_counter())
                if self._agreed(stop, logging_now) and not ending:
                    self.check_finite(weights=True)
                    self.save()
                    raise Interrupted
        if not self.best:  # best.pt was lost after the last validation
            self.validate(record)
            self.save()

    def train_step(self) -> Losses:
        """Make one optimiser step for every phase; return the losses of all phases, detached."""
        plan, progress = self.plan, Progress(self.step, self.plan.total)
        self.method.train()
        stage, within = self.method.stage(progress)
        if stage and not within.step:
            self.begin_stage(stage)
        self.before_step(within.step)
        factor = self.schedule(within)
        batches = [self.batches(self.step * plan.accumulate + part) for part in range(plan.accumulate)]
        step_losses: Losses = {}
        for phase, optimizer in self.optimizers.items():
            for group, lr in zip(optimizer.param_groups, self.base_lr[phase], strict=True):
                group["lr"] = lr * factor
            with self._only(phase):
                for part, batch in enumerate(batches):
                    self._seed(phase, part)
                    with self.fabric.no_backward_sync(self.model, enabled=part < plan.accumulate - 1):
                        losses: Losses = self.model(phase, batch, progress)
                        self.fabric.backward(torch.stack(list(losses.values())).sum() / plan.accumulate)
                    for name, value in losses.items():
                        step_losses[name] = step_losses.get(name, 0) + value.detach() / plan.accumulate
                if plan.clip_norm is not None:
                    # `check_finite` looks for what is not finite; here it would wait for the device in every step.
                    self.fabric.clip_gradients(self.model, optimizer, max_norm=plan.clip_norm, error_if_nonfinite=False)
                optimizer.step()
                optimizer.zero_grad()
        self.method.after_step(progress)
        finite = torch.stack(list(step_losses.values())).isfinite().all()
        self.first_bad = torch.where(finite, self.first_bad, self.first_bad.clamp(max=self.step + 1))
        return step_losses

    def begin_stage(self, stage: int) -> None:
        """Move the method to another stage: equal buffers in all processes, optimisers without state."""
        self.same_buffers()
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        torch.manual_seed(seed_of(self.plan.seed, "stage", stage))
        self.chosen = self.method.begin_stage(stage, self.batches.plain())
        self.batches.restrict(self.chosen)

    def _seed(self, phase: str, part: int) -> None:
        """Seed dropout and noise by phase, step, part and process, so that a resumed run draws the same."""
        torch.manual_seed(seed_of(self.plan.seed, phase, self.step, part, rank()))

    @contextmanager
    def _only(self, phase: str) -> Iterator[None]:
        """Let only this phase's parameters get gradients; with a single phase there is nothing to do."""
        if len(self.method.phases) == 1:
            yield
            return
        own = set(self.method.parameters_of(phase))
        others = [p for p in self.method.parameters() if p.requires_grad and p not in own]
        for p in others:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in others:
                p.requires_grad_(True)

    def _agreed(self, stop: list[int], now: bool) -> bool:
        """Whether to stop. All processes must stop after the same step, so they ask each other when they log."""
        if world_size() == 1:
            return bool(stop)
        if not now:
            return False
        return bool(all_sum(torch.tensor(len(stop), device=self.fabric.device)).item())

    # -- logging and checks -------------------------------------------------------------------------------------------

    def log_scalars(self, record: Record, losses: Losses) -> None:
        """Log losses, learning rate and weights. Between validations the loop waits for the device only here."""
        self.check_finite()
        progress = Progress(self.step - 1, self.plan.total)
        values = {name: float(value) for name, value in losses.items()}
        lr = next(iter(self.optimizers.values())).param_groups[0]["lr"]
        scalars = {"loss": sum(values.values()), **values, "lr": lr, **self.method.weights(progress)}
        now = time.perf_counter()
        if self._clock and self._clock[0] < self.step:
            step, then = self._clock
            self.step_seconds.append((now - then) / (self.step - step))
        self._clock = (self.step, now)
        record.scalars(self.step, scalars, self.images_per_second)

    def check_finite(self, *, weights: bool = False) -> None:
        """Raise a UserError if a loss became NaN or infinite since the start, or, with `weights`, if a weight is."""
        subject, bad_step = "the loss", float(self.first_bad)
        if weights and bad_step == math.inf and not _finite(self.method.state_dict()):
            subject, bad_step = "a weight", self.step
        if bad_step < math.inf:
            last = self.folder.last if self.folder and self.folder.last.exists() else None
            saved = f"; {last} is the last good checkpoint" if last else ""
            raise UserError(
                f"{subject} became NaN or infinite at step {bad_step:.0f} of {self.plan.total}{saved}. "
                "Lower optimizer.lr, set engine.clip_norm=1, or use precision=32"
            )

    @property
    def seconds_per_step(self) -> float:
        """Median over the run without its first steps, up to the first log; NaN before any step is timed."""
        return statistics.median(self.step_seconds) if self.step_seconds else math.nan

    @property
    def seconds(self) -> float:
        """Wall time of the run: steps, validations, test; a killed process counts up to its last checkpoint."""
        return time.perf_counter() - self._start

    @property
    def images_per_second(self) -> float:
        """Labelled and unlabelled images of all processes, in a second; NaN before any step is timed."""
        images = sum(self.batches.sizes) * self.plan.accumulate * world_size()
        return images / self.seconds_per_step

    # -- validation and checkpoints -----------------------------------------------------------------------------------

    def validate(self, record: Record) -> None:
        """Score the val cases, if there are any; a better score by `selection` makes this the best model."""
        self.same_buffers()
        self.check_finite(weights=True)
        pseudo = self.diagnose(self.method, Progress(self.step - 1, self.plan.total))
        with self.predicting():
            table, pictures = self.validate_cases()
            summary = table.summary()
            headline = table.headline(summary) if table.rows else None
            record.scores("val", self.step, summary, pictures, headline)
            record.pseudo_labels(self.step, pseudo)
            better = not self.best or self.selection.better(summary, self.best["val"])
            chosen = "" if self.selection.is_main(table) else f", {self.selection.printed(summary)}"
            mark = " (best)" if better and not self.selection.last else ""
            log.info(f"step {self.step}: val {headline}{chosen}{mark}" if table.rows else f"step {self.step}: saved")
            if self.folder:
                self.collapse.watch(self.step, self.plan.total, pseudo, self.method.remedy(self.plan.total))
            if better:
                self.best = {"step": self.step, "val": summary, "pseudo_labels": dict(pseudo)}
                if self.folder:
                    table.write_csv(self.folder.path / "cases_val.csv")
                    checkpoint.save(self.model_state() | self.best, self.folder.best)

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """The method as it is validated and kept: with precise batch norms, if the plan says so."""
        if not self.plan.precise_bn:
            yield
            return
        images = (self.batches.weak_views(step) for step in range(self.plan.precise_bn))
        with precise(self.method, images, self.fabric.autocast):
            yield

    def same_buffers(self) -> None:
        """Give every process the buffers of the first one, such as batch-norm statistics."""
        share_first(self.method.buffers())

    def model_state(self) -> dict[str, Any]:
        """The part of a checkpoint that prediction needs; `predictor` is the prefix of the network that predicts."""
        names = {id(module): name for name, module in self.method.named_modules()}
        network = getattr(self.method.predictor, "network", self.method.predictor)
        return {"format": 1, "method": self.method.state_dict(), "predictor": names[id(network)]}

    def checkpoint_bytes(self) -> tuple[int, int]:
        """About the sizes of best.pt and last.pt: the method's, and with it the moments that its optimisers keep."""
        best = sum(value.nbytes for value in self.method.state_dict().values() if isinstance(value, torch.Tensor))
        groups = [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]
        moments = sum(p.nbytes * (2 if "betas" in g else bool(g.get("momentum"))) for g in groups for p in g["params"])
        return best, best + moments

    def save(self) -> None:
        """Write last.pt, with everything that the next step depends on."""
        if not self.folder:
            return
        state = self.model_state() | {
            "step": self.step,
            "best": self.best,
            "chosen": self.chosen,
            "optimizers": {phase: optimizer.state_dict() for phase, optimizer in self.optimizers.items()},
            "precision": self.fabric.strategy.precision.precision,
            "scaler": self.fabric.strategy.precision.state_dict(),
            "step_seconds": self.step_seconds,
            "seconds": self.seconds,
            "collapse": self.collapse.state,
        }
        checkpoint.save(state, self.folder.last)

    def resume(self, state: Mapping[str, Any], source: Any) -> None:
        """Continue from the state that `save` wrote.

        Raises:
            UserError: the state is another one, or its weights are not finite.
        """
        if missing := [key for key in STATE if key not in state]:
            raise UserError(
                f"{source}: lacks {', '.join(missing)}; it is not the last.pt of a training, but perhaps a copy of "
                "best.pt. Put the right file back, or remove it to train from the start"
            )
        if not _finite(state["method"]):
            raise UserError(
                f"{source}: holds weights that are NaN or infinite, from which no training goes on; "
                "remove it to train from the start"
            )
        if state["precision"] != (now := self.fabric.strategy.precision.precision):
            raise UserError(
                f"{source}: was trained with precision {state['precision']}, but this run would go on with {now}; "
                f"set precision={state['precision'].removesuffix('-true')}"
            )
        checkpoint.load_into(self.method, state["method"], source)
        for phase, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][phase])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.step, self.best, self.step_seconds = state["step"], state["best"], state["step_seconds"]
        self.chosen, self._start = state["chosen"], time.perf_counter() - state["seconds"]
        self.collapse.state = state.get("collapse", {})  # last.pt of earlier versions has none
        self.batches.restrict(self.chosen)


def _finite(state: Mapping[str, Any]) -> bool:
    """Whether no number of a state dict is NaN or infinite."""
    return all(bool(value.isfinite().all()) for value in state.values() if isinstance(value, torch.Tensor))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that no step is cut in half; a second signal stops at once."""
    asked: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        log.info("stopping after this step (a second signal stops at once) ...")

    try:
        previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread may handle signals
        previous = {}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
