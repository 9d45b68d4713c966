"""Weights in a folder or on the hub: safetensors alone, all of them or an error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn, Self

from huggingface_hub import PyTorchModelHubMixin, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from feataug.errors import CheckpointError, FeatAugError, message


class HubModel(PyTorchModelHubMixin):
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    Source:
        huggingface_hub's mixin. Ours: weights that are missing or do not fit are an error, and pickled ones are refused.
    """

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
        except (OSError, SafetensorError, RuntimeError, TypeError, ValueError, KeyError) as error:
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
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, **kwargs: Any) -> Self:
        if not os.path.isdir(model_id):
            return super()._from_pretrained(model_id=model_id, map_location=map_location, strict=strict, **kwargs)
        for name in ("revision", "cache_dir", "force_download", "local_files_only", "token"):
            kwargs.pop(name)
        # As the mixin does it, without a line on the standard output.
        return cls._load_as_safetensor(
            cls(**kwargs), os.path.join(model_id, constants.SAFETENSORS_SINGLE_FILE), map_location, strict
        )

    @classmethod
    def _load_as_pickle(cls, model: Any, model_file: str, map_location: str, strict: bool) -> NoReturn:
        raise CheckpointError(
            message(f"{cls.__name__}: the model's weights are pickled.", given=model_file, needed=constants.SAFETENSORS_SINGLE_FILE)
        )
