"""The public calls: thin, typed, documented."""
