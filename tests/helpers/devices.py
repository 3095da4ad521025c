"""DEVICES: the operations of each device that works on this machine, numpy always among them; and
MISSING: the reason for each that does not.

Read next: tests/helpers/tolerances.py.
"""

from kernels import DeviceError, ops_for


def _devices():
    working, missing = [], []
    for name in ("numpy", "cpu"):
        try:
            working.append(ops_for(name))
        except DeviceError as error:
            missing.append(str(error))
    return working, missing


DEVICES, MISSING = _devices()
