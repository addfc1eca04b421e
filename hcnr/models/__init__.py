"""Where models come from, beside checkpoint directories."""
