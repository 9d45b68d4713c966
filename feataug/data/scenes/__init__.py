"""Street-like scenes, drawn by code."""

from feataug.data.scenes.dataset import Scenes

__all__ = ["Scenes"]
