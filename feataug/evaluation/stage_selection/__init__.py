"""Compare the layers at which a model can be cut."""
