"""Every causal language model of transformers that a tiny configuration builds: exact, or refused."""
