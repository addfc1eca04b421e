"""Which of several models is the best, and whether it is good enough, from their scores."""
