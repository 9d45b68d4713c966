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

from feataug.cards import MARK, check_facts, known_facts, local_name, model_card, plain
from feataug.errors import CheckpointError, FeatAugError, message


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
            save_directory: The folder. A card of ours that is there is written anew; one of your own stays.
            card: What you know of the model, beside what training found out: ``data`` and ``data_license`` (texts), ``classes`` (names),
                ``images`` (how many training saw), ``recognition`` (real, synthetic, ratio, diversity), ``teaching``
                (``report.teaching_summary``), ``measures`` (pixel_acc, class_acc, miou, fw_iou), ``license`` (of the weights). It is kept
                in ``config.json``, for later cards.
            kwargs: As huggingface_hub's mixin takes them: ``push_to_hub``, ``repo_id`` and so on.

        Raises:
            ConfigError: the card says something that a card cannot say.
        """
        self._learn(card)
        readme = Path(save_directory) / "README.md"
        if readme.is_file() and readme.read_text(errors="replace").rstrip().endswith(MARK):
            readme.unlink()
        name = local_name(save_directory)
        if kwargs.get("push_to_hub"):
            name = kwargs.get("repo_id") or Path(save_directory).name
        config = kwargs.pop("config", None) or self._hub_mixin_config
        if isinstance(config, dict):
            config = {key: value for key, value in config.items() if key != "card"}
            config |= {"card": dict(self.card)} if self.card else {}
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
        """The card; ``name`` is how its code calls the model: a folder, or an id of the hub."""
        name = kwargs.get("name", "path/or/hub-id")
        return model_card(self.card_text(name), self.card, self._hub_mixin_info.model_card_data)

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
        facts = known_facts((config or {}).get("card"))
        # The mixin hands it to classes that take any keyword.
        kwargs.pop("card", None)
        if not os.path.isdir(model_id):
            model = super()._from_pretrained(model_id=model_id, map_location=map_location, strict=strict, **kwargs)
        else:
            for name in ("revision", "cache_dir", "force_download", "local_files_only", "token"):
                kwargs.pop(name)
            # As the mixin does it, without a line on the standard output.
            file = os.path.join(model_id, constants.SAFETENSORS_SINGLE_FILE)
            model = cls._load_as_safetensor(cls(**kwargs), file, map_location, strict)
        model.card = facts
        return model

    @classmethod
    def _load_as_pickle(cls, model: Any, model_file: str, map_location: str, strict: bool) -> NoReturn:
        raise CheckpointError(
            message(f"{cls.__name__}: the model's weights are pickled.", given=model_file, needed=constants.SAFETENSORS_SINGLE_FILE)
        )
