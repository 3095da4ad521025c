"""The peers that the benches compare with.

Read next: bench/peers/torch_nets.py.
"""
