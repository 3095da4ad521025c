"""What a device can't do, each in one line.

Read next: cpu/__init__.py, which raises most of them.
"""


class DeviceError(ValueError):
    """A device that doesn't exist or can't be used on this machine; one line with the remedy."""


class MemoryFull(MemoryError):
    """Device `name` has no room for `needed` bytes: `free` are left."""

    def __init__(self, name: str, needed: int, free: int):
        self.name, self.needed, self.free = name, needed, free
        super().__init__(
            f"device {name}: {needed / 1e6:,.1f} MB were needed and {free / 1e6:,.1f} MB are free"
        )
