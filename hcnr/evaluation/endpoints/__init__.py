"""Models that an OpenAI-compatible server answers for."""
