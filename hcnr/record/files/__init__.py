"""What JSON files hold: a class for every part, by which it is written, read and shown."""
