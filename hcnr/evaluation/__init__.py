"""Asking models and judging what they say."""
