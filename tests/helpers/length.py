"""Tests that are cut short, unless pytest is given --full.

Read next: tests/conftest.py, which sets it.
"""

full = False


def often(short, long):
    """How many times a test tries, or what: `long` with --full, else `short`."""
    return long if full else short
