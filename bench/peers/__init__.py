"""The peers that the benches compare with."""
