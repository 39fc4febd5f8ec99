"""Bad versions are made here, of a model or of a prompt."""
