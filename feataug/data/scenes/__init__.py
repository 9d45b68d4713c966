"""Street-like scenes drawn on the spot."""

from feataug.data.scenes.dataset import Scenes

__all__ = ["Scenes"]
