"""The clock: every scalar that changes from step to step, in one small array on the device.

A captured CUDA graph replays its launches with the arguments it was captured with, so a step number
or a learning rate can't be one of them; it lives in this array, on every device alike, where
kernels read and advance it. The host uploads the tables of a run of steps (rates, order), starts
them at ``FIRST`` and reads the sums back when it wants metrics.

Read next: kernels/philox.py, the other thing that is the same on every device.
"""

import numpy as np

STEP = 0  # step of the run: the number of updates made so far
FIRST = 1  # the step at which the uploaded tables (order, rates) start
RATE = 2  # learning rate of this step
CLIP = 3  # factor on the gradient that `clip` found
FINITE = 4  # 1.0 good; 0.0 latched: no update is made and STEP stays where it is
LOSS = 5  # mean loss of this batch
NORM = 6  # 2-norm of this step's whole gradient, before clipping
LOSS_SUM = 7  # sum of the images' losses since the host last zeroed it
CORRECT_SUM = 8  # images classified correctly, likewise
SEEN = 9  # images counted, likewise
TRIAL = 10  # 1 + the step where training stands, while STEP numbers batches that only try; else 0
SIZE = 16


def new_clock() -> np.ndarray:
    """(SIZE,) float64 at step 0: nothing latched, nothing clipped."""
    clock = np.zeros(SIZE, np.float64)
    clock[CLIP] = clock[FINITE] = 1.0
    return clock
