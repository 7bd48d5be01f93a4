"""Lookup and sweep joined: a config that is known, or else one that is guessed or tuned for."""
