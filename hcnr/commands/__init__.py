"""Commands that are too long for `hcnr.cli`, one per file."""
