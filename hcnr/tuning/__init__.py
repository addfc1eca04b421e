"""A short supervised fine-tuning on the samples of a repair, to compare a repair with."""
