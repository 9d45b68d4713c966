"""Save and load weights in a folder or on the hub: safetensors only; missing weights are an error."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, Self

from huggingface_hub import ModelCard, PyTorchModelHubMixin, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from feataug.core.crop_sizes import note_size, noted_size
from feataug.core.distributed import is_main
from feataug.errors import CheckpointError, FeatAugError
from feataug.io.card_facts import check_facts, known_facts
from feataug.io.inference_file import FILE, read_settings
from feataug.io.model_card import MARK, inference_text, local_name, model_card, plain

# Keys of config.json beside the arguments of the class: the facts of the card, and the size of the training images.
_CARD, _SIZE = "card", "trained_size"


class HubModel(PyTorchModelHubMixin):
    """Adds ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` to a module.

    Attributes:
        card: The known facts for the model card. They are saved and loaded with the model.

    Source:
        huggingface_hub's mixin. Ours: missing or misfitting weights are an error, pickled weights are refused, and the card.
    """

    card: Mapping[str, Any] = MappingProxyType({})

    def card_text(self, name: str) -> str:
        """Return the part of the card that describes the model and how to load ``name``. Subclasses override it."""
        return f"# {type(self).__name__}\n\nIt is loaded by `{type(self).__name__}.from_pretrained`, from {plain(name)}.\n"

    def save_pretrained(self, save_directory: str | Path, *, card: Mapping[str, Any] | None = None, **kwargs: Any) -> str | None:
        """Save weights, settings and a model card, ``README.md``.

        Args:
            save_directory: The folder. An old card written by feataug is replaced; your own card stays. ``inference.json`` is removed,
                since it was fitted to the previous weights: call ``Inference.save`` after this.
            card: Facts to add to those from training: ``data`` and ``data_license`` (texts), ``classes`` (names), ``images`` (how many
                training saw), ``recognition`` (real, synthetic, ratio, diversity), ``teaching`` (``io.results.teaching_summary``),
                ``quality`` (the result of ``feataug.feature_quality``), ``measures`` (pixel_acc, class_acc, miou, fw_iou), ``license``
                (of the weights). ``config.json`` keeps them for later cards.
            kwargs: Arguments of huggingface_hub's mixin: ``push_to_hub``, ``repo_id`` and so on.

        Raises:
            ConfigError: a fact is unknown or invalid.
        """
        self._add_facts(card)
        readme = Path(save_directory) / "README.md"
        if _is_ours(readme):
            readme.unlink()
        (Path(save_directory) / FILE).unlink(missing_ok=True)
        name = local_name(save_directory)
        if kwargs.get("push_to_hub"):
            name = kwargs.get("repo_id") or Path(save_directory).name
        config = kwargs.pop("config", None) or self._hub_mixin_config
        if isinstance(config, dict):
            config = {key: value for key, value in config.items() if key not in (_CARD, *self._not_arguments())}
            config |= self._changed_settings(config)
            config |= {_CARD: dict(self.card)} if self.card else {}
            config |= {_SIZE: list(size)} if (size := noted_size(self)) is not None and self._not_arguments() else {}
        kwargs["model_card_kwargs"] = {"name": name} | (kwargs.get("model_card_kwargs") or {})
        return super().save_pretrained(save_directory, config=config, **kwargs)

    def push_to_hub(self, repo_id: str, *, card: Mapping[str, Any] | None = None, **kwargs: Any) -> str:
        """Upload weights, settings and a model card.

        Args:
            repo_id: The repository, such as ``"user/name"``.
            card: As for ``save_pretrained``.
            kwargs: Arguments of huggingface_hub's mixin: ``private``, ``token``, ``branch`` and so on.

        Raises:
            ConfigError: a fact is unknown or invalid.
        """
        self._add_facts(card)
        kwargs["model_card_kwargs"] = {"name": repo_id} | (kwargs.get("model_card_kwargs") or {})
        return super().push_to_hub(repo_id, **kwargs)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Make the card. ``name`` is the folder or hub id in its code; ``inference`` are the settings of ``inference.json``."""
        name = kwargs.get("name", "path/or/hub-id")
        text = self.card_text(name)
        if settings := kwargs.get("inference"):
            text += "\n" + inference_text(name, settings)
        return model_card(text, self.card, self._hub_mixin_info.model_card_data)

    def renew_card(self, folder: str | Path) -> None:
        """Rewrite a feataug card in a folder, with the settings of its ``inference.json``. The weights are not touched."""
        readme = Path(folder) / "README.md"
        if is_main() and _is_ours(readme):
            settings = read_settings(folder) if (Path(folder) / FILE).is_file() else None
            self.generate_model_card(name=local_name(folder), inference=settings).save(readme)

    def _changed_settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that are no longer those of ``config``, with which the model was made. Subclasses override it."""
        return {}

    @classmethod
    def _not_arguments(cls) -> tuple[str, ...]:
        """Return the key of the trained size, unless a subclass has an argument of that name."""
        return () if _SIZE in cls._hub_mixin_init_parameters else (_SIZE,)

    def _add_facts(self, card: Mapping[str, Any] | None) -> None:
        if card is not None:
            self.card = dict(self.card) | check_facts(type(self).__name__, card, getattr(self, "num_classes", None))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a model from a folder written by ``save_pretrained``, or from the hub.

        Args:
            pretrained_model_name_or_path: The folder, or a hub id such as ``"user/name"``.
            kwargs: Arguments of huggingface_hub's mixin: ``revision``, ``token``, ``local_files_only`` and so on.

        Raises:
            CheckpointError: there is no such model, or its weights do not fit its settings.
        """
        name = str(pretrained_model_name_or_path)
        try:
            return super().from_pretrained(name, **kwargs)
        except FeatAugError:
            raise
        except (OSError, SafetensorError, RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
            absent = not os.path.isdir(name) and isinstance(
                error, (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError)
            )
            text = "there is no such folder, and the hub has no such model" if absent else str(error)
            raise CheckpointError(
                f"{cls.__name__}: a model cannot be loaded.",
                given=f"{name} ({type(error).__name__}: {text})",
                needed="a folder written by save_pretrained, with config.json and model.safetensors, or a hub id",
            ) from error

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, config: Any = None, **kwargs: Any
    ) -> Self:
        # Because ``config`` is among the arguments, the mixin passes all of config.json.
        facts = known_facts((config or {}).get(_CARD))
        size = _trained_size((config or {}).get(_SIZE)) if cls._not_arguments() else None
        # The mixin passes them on to classes that take any keyword.
        for name in (_CARD, *cls._not_arguments()):
            kwargs.pop(name, None)
        if not os.path.isdir(model_id):
            model = super()._from_pretrained(model_id=model_id, map_location=map_location, strict=strict, **kwargs)
        else:
            for name in ("revision", "cache_dir", "force_download", "local_files_only", "token"):
                kwargs.pop(name)
            # As the mixin does it, but without printing a line.
            file = os.path.join(model_id, constants.SAFETENSORS_SINGLE_FILE)
            model = cls._load_as_safetensor(cls(**kwargs), file, map_location, strict)
        model.card = facts
        note_size(model, size)
        return model

    @classmethod
    def _load_as_pickle(cls, model: Any, model_file: str, map_location: str, strict: bool) -> NoReturn:
        raise CheckpointError(
            f"{cls.__name__}: the model's weights are pickled.", given=model_file, needed=constants.SAFETENSORS_SINGLE_FILE
        )


def _is_ours(readme: Path) -> bool:
    return readme.is_file() and readme.read_text(errors="replace").rstrip().endswith(MARK)


def _trained_size(value: Any) -> tuple[int, int] | None:
    """Read rows and columns from a file that may come from anybody. Anything else raises ``ValueError``."""
    if value is None:
        return None
    good = isinstance(value, list) and len(value) == 2
    if not good or not all(isinstance(side, int) and not isinstance(side, bool) and 0 < side < 2**31 for side in value):
        raise ValueError(f"{_SIZE} in config.json is no size, but {value!r}"[:200])
    return value[0], value[1]
