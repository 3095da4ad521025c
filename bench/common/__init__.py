"""What the benches share.

Read next: bench/common/contest.py.
"""
