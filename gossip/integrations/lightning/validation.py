"""The mean of all ranks around each validation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from lightning.pytorch import Callback, LightningModule, Trainer


class AroundValidation(Callback):
    """The first callback: others see the mean, swap it for an average of their own, and save after it is left.

    Args:
        evaluate: returns a context in which the module is to be validated.
        settle: lands everything in flight.
    """

    def __init__(self, evaluate: Callable[[], AbstractContextManager[None]], settle: Callable[[], None]) -> None:
        self._evaluate, self._settle, self._inside = evaluate, settle, ExitStack()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._inside.enter_context(self._evaluate())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._inside.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._inside.close()  # each rank leaves by itself

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._settle()  # WeightAveraging writes parameters next
