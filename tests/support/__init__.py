"""What several test files share: forked scripts, guards of the repository, model zoos, planted faults."""
