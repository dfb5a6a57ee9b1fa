"""Drills: rehearsed disasters, played by the real commands in a sandbox."""
