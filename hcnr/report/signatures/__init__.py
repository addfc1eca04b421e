"""Signs that a repair went wrong, and what to do about each."""
