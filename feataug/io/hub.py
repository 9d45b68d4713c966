"""Weights in a folder or on the hub: safetensors alone, all of them or an error."""

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
from feataug.errors import CheckpointError, FeatAugError, message
from feataug.io.inference_file import FILE, read_settings
from feataug.io.model_card import MARK, check_facts, inference_text, known_facts, local_name, model_card, plain

# In config.json, beside the arguments of the class: what is known of the model, and the size that it was trained on.
_CARD, _SIZE = "card", "trained_size"


class HubModel(PyTorchModelHubMixin):
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    Attributes:
        card: What is known of the model, for its card: saved with it, and loaded.

    Source:
        huggingface_hub's mixin. Ours: weights that are missing or do not fit are an error, and pickled ones are refused; the card.
    """

    card: Mapping[str, Any] = MappingProxyType({})

    def card_text(self, name: str) -> str:
        """The part of the card that says what the model is, and how ``name`` is loaded and used; for classes of one's own."""
        return f"# {type(self).__name__}\n\nIt is loaded by `{type(self).__name__}.from_pretrained`, from {plain(name)}.\n"

    def save_pretrained(self, save_directory: str | Path, *, card: Mapping[str, Any] | None = None, **kwargs: Any) -> str | None:
        """Save weights, settings and a model card, ``README.md``.

        Args:
            save_directory: The folder. A card of ours that is there is written anew; one of your own stays. ``inference.json`` is removed,
                since it was fitted to the weights that were there: ``Inference.save`` comes after this.
            card: What you know of the model, beside what training found out: ``data`` and ``data_license`` (texts), ``classes`` (names),
                ``images`` (how many training saw), ``recognition`` (real, synthetic, ratio, diversity), ``teaching``
                (``report.teaching_summary``), ``quality`` (what ``feataug.feature_quality`` returns), ``measures`` (pixel_acc, class_acc,
                miou, fw_iou), ``license`` (of the weights). It is kept in ``config.json``, for later cards.
            kwargs: As huggingface_hub's mixin takes them: ``push_to_hub``, ``repo_id`` and so on.

        Raises:
            ConfigError: the card says something that a card cannot say.
        """
        self._learn(card)
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
            config |= {_CARD: dict(self.card)} if self.card else {}
            config |= {_SIZE: list(size)} if (size := noted_size(self)) is not None and self._not_arguments() else {}
        kwargs["model_card_kwargs"] = {"name": name} | (kwargs.get("model_card_kwargs") or {})
        return super().save_pretrained(save_directory, config=config, **kwargs)

    def push_to_hub(self, repo_id: str, *, card: Mapping[str, Any] | None = None, **kwargs: Any) -> str:
        """Upload weights, settings and a model card.

        Args:
            repo_id: Where to, such as ``"user/name"``.
            card: As for ``save_pretrained``.
            kwargs: As huggingface_hub's mixin takes them: ``private``, ``token``, ``branch`` and so on.

        Raises:
            ConfigError: the card says something that a card cannot say.
        """
        self._learn(card)
        kwargs["model_card_kwargs"] = {"name": repo_id} | (kwargs.get("model_card_kwargs") or {})
        return super().push_to_hub(repo_id, **kwargs)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card; ``name`` is how its code calls the model: a folder, or an id of the hub. ``inference``: settings of ``inference.json``."""
        name = kwargs.get("name", "path/or/hub-id")
        text = self.card_text(name)
        if settings := kwargs.get("inference"):
            text += "\n" + inference_text(name, settings)
        return model_card(text, self.card, self._hub_mixin_info.model_card_data)

    def renew_card(self, folder: str | Path) -> None:
        """Write the card in a folder again, if it is ours, with what its ``inference.json`` says; the weights are not touched."""
        readme = Path(folder) / "README.md"
        if is_main() and _is_ours(readme):
            settings = read_settings(folder) if (Path(folder) / FILE).is_file() else None
            self.generate_model_card(name=local_name(folder), inference=settings).save(readme)

    @classmethod
    def _not_arguments(cls) -> tuple[str, ...]:
        """The key of the trained size, unless a class of one's own has an argument of that name."""
        return () if _SIZE in cls._hub_mixin_init_parameters else (_SIZE,)

    def _learn(self, card: Mapping[str, Any] | None) -> None:
        if card is not None:
            self.card = dict(self.card) | check_facts(type(self).__name__, card, getattr(self, "num_classes", None))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load what ``save_pretrained`` left in a folder, or a model of the hub.

        Args:
            pretrained_model_name_or_path: The folder, or the hub's id, such as ``"user/name"``.
            kwargs: As huggingface_hub's mixin takes them: ``revision``, ``token``, ``local_files_only`` and so on.

        Raises:
            CheckpointError: there is no such model, or its weights are not those that its settings call for.
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
                message(
                    f"{cls.__name__}: a model cannot be loaded.",
                    given=f"{name} ({type(error).__name__}: {text})",
                    needed="a folder that save_pretrained left, with config.json and model.safetensors, or a hub id",
                )
            ) from error

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, config: Any = None, **kwargs: Any
    ) -> Self:
        # That ``config`` is among the arguments makes the mixin pass the whole of config.json.
        facts = known_facts((config or {}).get(_CARD))
        size = _trained_size((config or {}).get(_SIZE)) if cls._not_arguments() else None
        # The mixin hands them to classes that take any keyword.
        for name in (_CARD, *cls._not_arguments()):
            kwargs.pop(name, None)
        if not os.path.isdir(model_id):
            model = super()._from_pretrained(model_id=model_id, map_location=map_location, strict=strict, **kwargs)
        else:
            for name in ("revision", "cache_dir", "force_download", "local_files_only", "token"):
                kwargs.pop(name)
            # As the mixin does it, without a line on the standard output.
            file = os.path.join(model_id, constants.SAFETENSORS_SINGLE_FILE)
            model = cls._load_as_safetensor(cls(**kwargs), file, map_location, strict)
        model.card = facts
        note_size(model, size)
        return model

    @classmethod
    def _load_as_pickle(cls, model: Any, model_file: str, map_location: str, strict: bool) -> NoReturn:
        raise CheckpointError(
            message(f"{cls.__name__}: the model's weights are pickled.", given=model_file, needed=constants.SAFETENSORS_SINGLE_FILE)
        )


def _is_ours(readme: Path) -> bool:
    return readme.is_file() and readme.read_text(errors="replace").rstrip().endswith(MARK)


def _trained_size(value: Any) -> tuple[int, int] | None:
    """Rows and columns from a file that anybody may have written; ``ValueError`` if it holds something else."""
    if value is None:
        return None
    good = isinstance(value, list) and len(value) == 2
    if not good or not all(isinstance(side, int) and not isinstance(side, bool) and 0 < side < 2**31 for side in value):
        raise ValueError(f"{_SIZE} in config.json is no size, but {value!r}"[:200])
    return value[0], value[1]
