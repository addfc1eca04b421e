"""Published question sets and one's own: readers, splits, overlap, the sets of a replication."""
