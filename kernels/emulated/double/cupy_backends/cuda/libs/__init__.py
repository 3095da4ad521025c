"""Its libraries.

Read next: cusolver.py.
"""
