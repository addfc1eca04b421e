"""What a run leaves behind: its report, its card, and the words and numbers that both share."""
