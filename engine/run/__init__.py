"""What a run leaves behind, and what keeps it safe.

Read next: engine/run/session.py.
"""
