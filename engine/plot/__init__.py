"""Pictures of trained runs, for people: the command `python -m engine.plot RUN…`.

Read next: engine/plot/__main__.py.
"""
