"""Cut a model in two at a layer, and run either half."""
