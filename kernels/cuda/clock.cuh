// The places of kernels/clock.py: every scalar that changes from step to step. Kernels read and
// advance them, so that a captured step need not be told them.
//
// Read next: optimizer.cu.
#pragma once

enum Clock { STEP, FIRST, RATE, CLIP, FINITE, LOSS, NORM, LOSS_SUM, CORRECT_SUM, SEEN };
