"""The figures of the paper (arXiv 2511.12991) on a pair of the real trial."""
