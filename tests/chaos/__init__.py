"""Faults from a seeded schedule against the whole topology under load, and the proof that nothing was lost."""
