"""`measure` and `restore`: the one place that knows the order of the stages."""
