"""What the user types and sees.

Read next: engine/cli/command.py.
"""
