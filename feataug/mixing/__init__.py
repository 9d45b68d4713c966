"""Extend a batch of real features by synthetic samples, and the loss on the mixture."""
