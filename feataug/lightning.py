"""A Lightning callback that mixes synthetic features in a module's training steps."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from feataug.core.checks import check_loader, describe
from feataug.errors import ConfigError, DataError, FeatAugWarning, MissingPackageError
from feataug.training.batch_norm import measure

if TYPE_CHECKING:
    from feataug.mixing.batch import MixedBatch
    from feataug.mixing.mixer import FeatureMixer, MixPlan


def _callback() -> Any:
    """Return ``Callback`` of the Lightning package that the program uses: there are two, and a ``Trainer`` accepts only its own classes."""
    names = ["lightning.pytorch", "pytorch_lightning"]
    if names[0] not in sys.modules and names[1] in sys.modules:
        names.reverse()
    for name in names:
        try:
            return importlib.import_module(name).Callback
        except ModuleNotFoundError as error:
            if error.name not in ("lightning", names[0], names[1]):
                raise
    raise MissingPackageError(
        "feataug.lightning: Lightning is not installed.",
        given="neither lightning nor pytorch_lightning",
        needed="one of them",
        advice='pip install "feataug[lightning]", or pip install lightning.',
    )


_Callback: Any = _callback()


class MixFeatures(_Callback):
    """Mix synthetic features inside a ``training_step``; the ``Trainer`` does everything else that the mixer needs.

    Pass it to the module and to ``Trainer(callbacks=[...])``. In the training step, call the model inside ``with mixing.on(masks) as
    mixed`` and use ``mixing.loss(out, mixed)``. The callback moves the mixer to the module's device and mixes only in training steps (in
    validation ``on`` appends nothing). It saves and restores the state of future masks and noise with Lightning's checkpoints, logs
    ``feataug/num_synthetic`` and ``feataug/rejected``, and measures BatchNorm's running statistics on real images.

    The mixer stays outside of the ``LightningModule``: its generator is neither trained nor saved with the model.

    Args:
        mixer: A ``FeatureMixer``.
        cut: A cut of the module, or of a part of it, at which the mixer works.
        bn_loader: Yields real images, or tuples that start with them; a few hundred images are enough. Before every validation and after
            every epoch with training, the running statistics are measured on them, for the norms that were in training mode in the training
            steps; frozen norms stay as they are. Without it, the statistics describe real and synthetic features together, which does not
            suit evaluation (``feataug.update_bn``).

    Raises:
        MissingPackageError: at import, if Lightning is not installed.

    Source:
        Ours.
    """

    def __init__(self, mixer: FeatureMixer, cut: Any, *, bn_loader: Iterable[Any] | None = None) -> None:
        super().__init__()
        if not callable(getattr(mixer, "on", None)) or not callable(getattr(cut, "mixing", None)):
            raise ConfigError(
                "MixFeatures: a mixer and a cut are needed.",
                given=f"{type(mixer).__name__}, {type(cut).__name__}",
                needed="feataug.FeatureMixer(...), feataug.split(model, ...)",
            )
        if bn_loader is not None:
            check_loader("MixFeatures", bn_loader)
        self.mixer, self.cut, self.bn_loader = mixer, cut, bn_loader
        self._module: Any = None
        self._last: MixedBatch | None = None
        # The modes in the training steps since the last measurement.
        self._modes: dict[nn.Module, bool] = {}

    @contextmanager
    def on(self, masks: Tensor, plan: MixPlan | None = None) -> Iterator[MixedBatch]:
        """Mix at the cut, as ``FeatureMixer.on`` does. Call the model once inside, on the real images.

        Args:
            masks: ``(real, H, W)``, the masks of the real images.
            plan: A plan to replay; ``None`` draws one.

        Raises:
            ConfigError: the trainer does not have the callback.
        """
        if self._module is None:
            raise ConfigError(
                "MixFeatures: the trainer does not have this callback.",
                given="a module that mixes, and a Trainer without the callback",
                needed="Trainer(callbacks=[mixing])",
            )
        with self.mixer.on(self.cut, masks, plan) as batch:
            self._last = batch
            yield batch
        if self.mixer.training:
            self._note_modes()

    def loss(self, out: Any, batch: MixedBatch) -> Tensor:
        """Compute ``FeatureMixer.loss``, Eq. (2) and (3)."""
        return self.mixer.loss(out, batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of future masks and noise for Lightning's checkpoints."""
        return {"mixer": self.mixer.plan_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Invert ``state_dict``."""
        self.mixer.load_plan_state(state_dict["mixer"])

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check that mixer, cut and module fit together."""
        inside = set(pl_module.modules())
        if self.cut.model not in inside:
            raise ConfigError(
                "MixFeatures: the cut does not belong to the module.",
                given=f"a cut of a {type(self.cut.model).__name__}, and a {type(pl_module).__name__} without it",
                needed="a cut of the module, or of a part of it",
                advice="Split the model that the module holds, not a copy of it.",
            )
        if self.mixer in inside:
            raise ConfigError(
                "MixFeatures: the mixer is a part of the module.",
                given=f"a FeatureMixer among the modules of {type(pl_module).__name__}",
                needed="the callback alone as an attribute: self.mixing = mixing",
                advice="As a part, its frozen generator is saved in every checkpoint, and DistributedDataParallel waits for its gradients.",
            )
        self._module = pl_module
        self.mixer.eval()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Forget the module."""
        self._module = self._last = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Move the mixer to the module's device."""
        self.mixer.to(pl_module.device)
        norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in self.cut.model.modules())
        if norms and self.bn_loader is None and self.mixer.ratio:
            warnings.warn(
                "MixFeatures: BatchNorm's running statistics will describe real and synthetic features together. Pass bn_loader= with a few "
                "hundred real images to measure them on these.",
                FeatAugWarning,
                stacklevel=2,
            )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start mixing."""
        self._last = None
        self.mixer.train()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop mixing, and log the number of synthetic samples."""
        self.mixer.eval()
        if self._last is None:
            # A step that did not mix, but trained all the same.
            self._note_modes()
        if self._last is None:
            return
        pl_module.log("feataug/num_synthetic", float(self._last.num_synthetic))
        rejected = getattr(self.mixer.pixel_filter, "rejected", None)
        if rejected is not None and self._last.num_synthetic:
            pl_module.log("feataug/rejected", rejected)
        self._last = None

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure the statistics on real images, for the model that is validated and saved for its score."""
        self._measure(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the statistics also without a validation."""
        self._measure(trainer, pl_module)

    def _note_modes(self) -> None:
        """Store which modules train. By now, all hooks that freeze norms have run."""
        for module in self.cut.model.modules():
            self._modes[module] = module.training or self._modes.get(module, False)

    def _measure(self, trainer: Any, pl_module: Any) -> None:
        if self.bn_loader is None or not self._modes:
            return
        precision, move = trainer.precision_plugin, trainer.strategy.batch_to_device

        def placed() -> Iterator[Any]:
            empty = True
            for batch in check_loader("MixFeatures", self.bn_loader):  # type: ignore[arg-type]
                empty = False
                yield precision.convert_input(move(batch))
            if empty:
                raise DataError(
                    "MixFeatures: bn_loader yields nothing.",
                    given=describe(self.bn_loader),
                    needed="a loader that can be read again and again, such as a DataLoader",
                )

        # The model may be in eval mode by now. measure restores its modes and the random generators.
        with precision.forward_context():
            measure(self.cut.model, placed(), pl_module.device, self._modes, "MixFeatures")
        self._modes = {}
