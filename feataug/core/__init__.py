"""What every other folder uses: checks, specs, seeds, modes of models, and what identifies a run."""
