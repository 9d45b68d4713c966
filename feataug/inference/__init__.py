"""Predict whole images, and measure a model on labelled ones."""

from feataug.inference.inference import Inference

__all__ = ["Inference"]
