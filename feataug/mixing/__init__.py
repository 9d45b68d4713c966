"""Batches of real and synthetic features, and the loss on the mixture."""
