"""Fine-tuning, with or without a teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from graphopt.backends import to_torch, update_from
from graphopt.errors import DataError, OptionError, PassError
from graphopt.ir import Graph
from graphopt.passes.train.losses import classification, distillation
from graphopt.passes.train.zeros import SPARSE, hold_zeros
from graphopt.pipeline import Batch, Changes, Context, Contract, Pass, register
from graphopt.runtime.calls import call_flat

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Hooks:
    """What happens while a network trains, beside following the gradient of its loss."""

    def penalty(self, done: float) -> torch.Tensor:
        """A scalar that is added to the loss of a batch; `done` says how far training is, from 0 to 1."""
        return torch.zeros(())

    def epoch_ended(self, last: bool) -> None:
        """Called after each pass over the data; `last` says that none follows."""


@register("finetune")
@dataclass(frozen=True)
class Finetune(Pass):
    """Train the graph's weights on the run's data and take them back.

    With a teacher the loss is ``alpha * CE(student, labels) + (1 - alpha) * T^2 * KL(teacher || student)``; the teacher
    comes from Python: ``optimize(graph, "finetune{alpha=0.3}", data, teacher=module)``, a module or a graph. Without
    labels a teacher alone is enough (alpha = 0). Another loss of (output, labels) is given as ``loss=function``.
    Fake-quantized graphs train through the quantization (QAT).

    Attributes:
        epochs: passes over the data.
        lr: peak learning rate; it follows a cosine from there to zero.
        optimizer: "adamw" or "sgd" (with momentum 0.9).
        weight_decay: decoupled weight decay.
        alpha: weight of the labels when there is a teacher, from 0 to 1.
        temperature: softens the teacher's and the student's probabilities.
        output: number of the graph output that holds the logits.
        clip: largest norm of the gradient; 0 does not clip.
        keep_zeros: weights of layers that are zero stay zero; those that sparsify made zero in this run always do.
    """

    contract: ClassVar[Contract] = Contract.TRAINED
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    takes: ClassVar[frozenset[str]] = frozenset({"loss", "teacher"})

    epochs: int = 10
    lr: float = 1e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-4
    alpha: float = 0.5
    temperature: float = 4.0
    output: int = 0
    clip: float = 1.0
    keep_zeros: bool = False

    def __post_init__(self) -> None:
        for name, good, hint in (
            ("epochs", self.epochs >= 0, "0 or more"),
            ("lr", 0 < self.lr < math.inf, "more than 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("alpha", 0 <= self.alpha <= 1, "from 0 to 1"),
            ("temperature", 0 < self.temperature < math.inf, "more than 0"),
            ("output", self.output >= 0, "0 or more"),
            ("clip", self.clip >= 0, "0 or more"),
        ):
            if not good:
                shown = name.replace("_", "-")
                raise OptionError(
                    f"{shown} is {getattr(self, name)}", where=f"finetune{{{shown}}}", hint=f"give {hint}"
                )

    def run(self, graph: Graph, context: Context) -> Changes:
        if self.epochs == 0:
            return Changes(False)
        if self.output >= len(graph.outputs):
            raise OptionError(
                f"there is no output {self.output}", where="finetune{output}",
                hint=f"count from 0: {', '.join(graph.output_names)}",
            )  # fmt: skip
        student = to_torch(graph)
        trainable = [p for p in student.parameters() if p.requires_grad]
        if not trainable:
            raise PassError("no parameter is trainable", where=self.name, hint="set requires_grad before capturing")
        devices = list(range(torch.cuda.device_count()))
        with torch.random.fork_rng(devices=devices), torch.enable_grad(), _teaching(context) as teacher:
            torch.manual_seed(context.seed)
            losses = self._train(student, trainable, graph, context, teacher)
        student.eval()
        update_from(graph, student)
        change = f"{losses[0]:.4f} -> {losses[-1]:.4f} over {self.epochs} epochs"
        note = f"loss {change if self.epochs > 1 else f'{losses[0]:.4f} in the one epoch'}"
        return Changes(True, counts={"epochs": self.epochs}, notes=(note,), details={"losses": losses})

    def _train(
        self, student: nn.Module, trainable: list[nn.Parameter], graph: Graph, context: Context, teacher: Teacher | None
    ) -> list[float]:
        device = _device()
        student.to(device).train()
        optimizer = self._optimizer(trainable)
        if self.keep_zeros or SPARSE in context.options:
            hold_zeros(optimizer, student, graph, None if self.keep_zeros else context.options[SPARSE])
        hooks = self._hooks(student, graph, context)
        batches = sum(1 for _ in context.data)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * batches)
        means = []
        for epoch in context.progress(range(self.epochs), "fine-tuning", self.epochs):
            total = 0.0
            for number, batch in enumerate(context.data, epoch * batches):
                loss = self._loss(student, graph, _moved(batch, device), teacher, context)
                optimizer.zero_grad(set_to_none=True)
                (loss + hooks.penalty(number / (self.epochs * batches))).backward()  # type: ignore[no-untyped-call]
                if self.clip > 0:
                    torch.nn.utils.clip_grad_norm_(trainable, self.clip)
                optimizer.step()
                schedule.step()
                total += float(loss.detach())
                if not math.isfinite(total):
                    raise PassError(f"the loss is {total} in epoch {epoch}", where=self.name, hint="lower lr, or clip")
            means.append(total / batches)
            hooks.epoch_ended(last=epoch == self.epochs - 1)
        student.to("cpu")
        return means

    def _hooks(self, student: nn.Module, graph: Graph, context: Context) -> Hooks:
        """What else happens while `student` trains; a pass that extends this one says more."""
        return Hooks()

    def _optimizer(self, trainable: list[nn.Parameter]) -> torch.optim.Optimizer:
        if self.optimizer == "sgd":
            return torch.optim.SGD(trainable, self.lr, momentum=0.9, weight_decay=self.weight_decay)
        return torch.optim.AdamW(trainable, self.lr, weight_decay=self.weight_decay)

    def _loss(
        self, student: nn.Module, graph: Graph, batch: Batch, teacher: Teacher | None, context: Context
    ) -> torch.Tensor:
        rule = _rule(context)
        logits = call_flat(student, graph, batch.inputs)[self.output]
        if teacher is None:
            if batch.labels is None:
                raise DataError("fine-tuning needs labels or a teacher", where=self.name, hint="give (inputs, labels)")
            return rule(logits, batch.labels)
        with torch.no_grad():
            soft = call_flat(teacher.module, teacher.graph or graph, batch.inputs)[self.output]
        if soft.shape != logits.shape:
            raise DataError(
                f"the teacher gives {list(soft.shape)} and the student {list(logits.shape)}", where=self.name,
                hint="take a teacher for the same task",
            )  # fmt: skip
        kl = distillation(logits, soft, self.temperature)
        if batch.labels is None:
            return kl
        return self.alpha * rule(logits, batch.labels) + (1 - self.alpha) * kl


@dataclass(frozen=True)
class Teacher:
    """A module that knows better; `graph` says how it is called where that is not as the student is."""

    module: nn.Module
    graph: Graph | None = None


@contextmanager
def _teaching(context: Context) -> Iterator[Teacher | None]:
    """The run's teacher, made ready; the caller's module has its modes back afterwards."""
    given = context.options.get("teacher")
    if given is None:
        yield None
        return
    if not isinstance(given, (nn.Module, Graph)):
        raise OptionError(f"the teacher is a {type(given).__name__}", where="teacher", hint="give a module or a graph")
    module = to_torch(given) if isinstance(given, Graph) else given
    modes = {each: each.training for each in module.modules()}
    home = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    module.to(_device()).eval()
    try:
        yield Teacher(module, given if isinstance(given, Graph) else None)
    finally:
        module.to(home)
        for each, training in modes.items():
            each.training = training


def _rule(context: Context) -> Loss:
    """The loss of (output, labels), whose mistakes are told as the user's where it is the user's."""
    given = context.options.get("loss")
    if given is None:
        return classification
    if not callable(given):
        raise OptionError(f"the loss is {given!r}", where="loss", hint="give a function of (output, labels)")

    def rule(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        try:
            found: object = given(output, labels)
        except Exception as error:  # the user's own function
            raise OptionError(f"the loss raised {type(error).__name__}: {error}", where="loss") from error
        if not isinstance(found, torch.Tensor) or found.numel() != 1:
            kind = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise OptionError(f"the loss returned {kind}", where="loss", hint="return a tensor of one number")
        return found

    return rule


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _moved(batch: Batch, device: torch.device) -> Batch:
    labels = None if batch.labels is None else batch.labels.to(device)
    return Batch(tuple(tensor.to(device) for tensor in batch.inputs), labels)
