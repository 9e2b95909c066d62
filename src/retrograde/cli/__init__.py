"""The command `retrograde`: what the library does, from a shell.

Its help and its completion answer without loading torch: commands import what they need when they run.
"""

from retrograde.cli.app import app, main

__all__ = ["app", "main"]
