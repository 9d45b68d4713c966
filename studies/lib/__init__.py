"""What several studies share: set-ups, the base model and generator of a data set, job queue, cached batches."""
