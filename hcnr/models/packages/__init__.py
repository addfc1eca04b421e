"""Models out of packages and GGUF files, made into checkpoint directories."""
