"""A step's batch in V shards: equal parts, each with a forward and a backward pass of its own; the
mean of their gradients is the step's. Every rank computes V / n consecutive ones.

No bit of a result depends on the number of ranks n, for V is a setting of the run and n is not:

* Shard v of step s draws as step s V + v of a run of such small batches does, so it sees the images
  and crops that the whole batch has there, with masks of its own.
* Gradients are added in float32 in a binary tree over the shards: n, a power of two as V is, only
  says which of its branches are computed where. One division by V ends it; clipping, decay and
  update run alike on every rank.
* Behind the gradient stand, in the same exchange: which shards are finite, so that all latch or
  none; what signals ask of any rank, so that all stop behind the same step; and the statistics of
  batch normalisation, a slot a shard, which become running ones in the shards' order.
* Each shard has its own sums of losses, and they are added in the shards' order.

Read next: tests/run/test_ranks.py.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

from engine.cli.command import Signals
from engine.data.feed import Feed, read_clock, write_clock
from engine.diagnosis import NOWHERE, first_not_finite
from engine.errors import RunError
from engine.layers import BatchNorm
from engine.plan import ALIGN
from engine.run.ranks import Alone
from kernels.clock import CORRECT_SUM, FINITE, FIRST, LOSS_SUM, RATE, SEEN, STEP, new_clock

SUMS = [LOSS_SUM, CORRECT_SUM, SEEN]
LOOK = 16  # steps of a GPU that are queued before anybody asks what was heard


def padded(size: int, unit: int = ALIGN) -> int:
    return -(-size // unit) * unit


class Shards:
    """The `count` shards of a net's steps, of which this rank computes its own; the net has the
    batch of one. count: a power of two, and a multiple of the ranks. One shard is the batch itself:
    nothing is added then, and nothing copied.

    net.clock is the run's, but for the sums, which are the shards'; within `parts` the shard's."""

    def __init__(self, net, count: int, ranks: Alone):
        self.net, self.count, self.ranks = net, count, ranks
        if count == 1:
            return
        own = count // ranks.size
        self.own = range(ranks.rank * own, (ranks.rank + 1) * own)
        self.layers = [one for one in net.chain.leaves() if isinstance(one, BatchNorm)]
        self.layers = [layer for layer in self.layers if not layer.frozen]
        ops, self.size = net.ops, net.gradients.size
        slot = 0  # elements of all layers' statistics
        self.places: list[tuple[BatchNorm, int, int]] = []
        for layer in self.layers:
            layer.deferred, width = True, padded(layer.mean.size)
            self.places.append((layer, slot, slot + width))
            slot += 2 * width
        self.slot, begin = slot, self.size + padded(2 + count)
        everything = padded(begin + count * slot, ALIGN * count)
        self.flat = ops.zeros((everything,), net.dtype)
        self.total, self.heard = self.flat[: self.size], self.flat[self.size :][:2]
        self.finite, self.statistics = self.flat[self.size + 2 :][:count], self.flat[begin:]
        self.levels = [ops.zeros((self.size,), net.dtype) for _ in range(own.bit_length() - 2)]
        self.levels.append(self.total)
        self.asked = ops.zeros((2,), net.dtype)
        self.main, self.still, self.one = (ops.asarray(new_clock()) for _ in range(3))
        self.clocks = ops.zeros((own, len(new_clock())), np.float64)
        self.every = 1 if isinstance(self.clocks, np.ndarray) else LOOK
        self.steps = 0  # heard since the last look

    def start(self, feed: Feed, past, first: int, end: int, table: np.ndarray):
        """Upload what steps first .. end - 1 need -> the rates on the device. past: the run's
        Progress, whose sums they go on with."""
        clock = past.clock
        if self.count == 1:
            return feed.start(clock, first, end, table)
        rates = feed.start(clock.copy(), first * self.count, end * self.count, table)
        clock[STEP], clock[FIRST], clock[RATE] = first, first, table[0]
        write_clock(self.net, clock)
        rows = np.tile(clock, (len(self.own), 1))
        rows[:, STEP] = first * self.count + np.array(self.own)
        rows[:, FIRST] = first * self.count
        rows[:, SUMS] = past.sums[self.own.start : self.own.stop]
        self.clocks[...] = self.net.ops.asarray(rows)
        self.rates = rates
        return rates

    def parts(self) -> Iterator[None]:
        """Comes once for each own shard, for its forward and backward pass; behind the last one the
        net has the gradient of the whole batch."""
        if self.count == 1:
            yield
            return
        net = self.net
        self.main[...] = net.clock
        self.flat[self.size :] = 0
        self.heard[...] = self.asked
        for number, shard in enumerate(self.own):
            clock = self.clocks[number]
            net.clock[...] = clock
            yield
            clock[...] = net.clock
            self.finite[shard : shard + 1] = clock[FINITE : FINITE + 1]
            for layer, mean, rstd in self.places:
                slot, size = self.statistics[shard * self.slot :], layer.mean.size
                self.add(layer.mean, slot[mean:][:size])
                self.add(layer.rstd, slot[rstd:][:size])
            self.fold(number)
            for _ in range(self.count):
                net.ops.advance(clock, self.rates)
        self.combine()

    def add(self, value, total) -> None:
        """total += value, whatever is latched."""
        self.net.ops.accumulate(value, total, 1.0, False, self.still)

    def fold(self, number: int) -> None:
        """Take up the gradient of own shard `number`: a right child completes its parent, which is
        its own parent's left or right child."""
        value = self.net.gradients
        for level, total in enumerate(self.levels):
            left = not number >> level & 1
            if left and value.dtype == total.dtype:
                total[...] = value
            else:
                if left:
                    total[...] = 0
                self.add(value, total)
            if left:
                break
            value = total

    def combine(self) -> None:
        net, ops = self.net, self.net.ops
        self.ranks.exchange(ops, self.flat, self.add)
        net.clock[...] = self.main
        for shard in range(self.count):
            self.one[FINITE : FINITE + 1] = self.finite[shard : shard + 1]
            ops.latch(self.one, net.clock)
            slot = self.statistics[shard * self.slot :]
            for layer, mean, rstd in self.places:
                size = layer.mean.size
                layer.track(slot[mean:][:size], slot[rstd:][:size])
        self.total *= 1 / self.count
        net.gradients[...] = 0  # ... and total + 0, rounded where they are bfloat16
        ops.accumulate(net.gradients, self.total, 1.0, True, self.still)

    def hear(self, asked: Signals) -> tuple[bool, bool, bool]:
        """Behind a step -> whether any rank was asked to stop, whether to save, and whether the run
        is finite: the same on every rank. Of a device that would have to be waited for it is known
        every LOOK steps; between them nobody stops."""
        if self.ranks.size == 1:
            return asked.stop(), asked.save, True
        self.steps = (self.steps + 1) % self.every
        if self.steps:
            return False, False, True
        stop, save = self.net.ops.tohost(self.heard) > 0
        if stop:
            asked.number = self.ranks.agree(asked.number)
        self.asked[0], self.asked[1] = float(asked.stop()), float(asked.save and not save)
        asked.save = bool(save)
        return bool(stop), bool(save), bool(read_clock(self.net)[FINITE])

    def look(self) -> np.ndarray:
        """The run's clock, with the sums of this rank's shards: no other is asked."""
        clock = read_clock(self.net)
        if self.count > 1:
            clock[SUMS] = self.net.ops.tohost(self.clocks)[:, SUMS].sum(axis=0)
        return clock

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """The run's clock with the sums of all shards, and these (V, 3)."""
        clock = read_clock(self.net)
        if self.count == 1:
            return clock, clock[None, SUMS]
        own = self.net.ops.tohost(self.clocks)[:, SUMS]
        sums = np.concatenate(self.ranks.gather(own))
        clock[SUMS] = sum(sums)
        return clock, sums

    def first_not_finite(self, feed: Feed) -> str:
        """Of the step that is latched, what engine/diagnosis.py finds in the first shard where it
        finds something."""
        net = self.net
        if self.count == 1:
            return first_not_finite(net, feed)
        main, found = read_clock(net), []
        for clock, shard in zip(self.net.ops.tohost(self.clocks), self.own, strict=True):
            clock[STEP], clock[FINITE] = main[STEP] * self.count + shard, 0
            write_clock(net, clock)
            found.append(first_not_finite(net, feed))
        write_clock(net, main)
        everywhere = [text for texts in self.ranks.gather(found) for text in texts]
        where = [(text, shard) for shard, text in enumerate(everywhere) if text != NOWHERE]
        return "{} of shard {}".format(*where[0]) if where else NOWHERE

    def need_equal(self, step: int) -> None:
        """RunError that names a rank whose weights differ from the first's: a broken machine."""
        if self.ranks.size > 1:
            arrays = [self.net.weights, *self.net.named_state().values()]
            host = b"".join(self.net.ops.tohost(array).tobytes() for array in arrays)
            first, *others = self.ranks.gather(hashlib.sha256(host).digest()[:8])
            for rank, other in enumerate(others, 1):
                if other != first:
                    raise RunError(
                        f"process {rank} has other weights than process 0 at step {step}: one of "
                        "their machines computes wrong; go on without it by --resume"
                    )
