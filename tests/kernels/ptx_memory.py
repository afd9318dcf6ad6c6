"""Memory for the PTX interpreter: buffers with gaps between them, watched by all who use it."""

from __future__ import annotations

import numpy as np

#: A NaN in float32, twice in a row, and in float64.
POISON = 0x7FF8DEAD
_GAP = 4096


class Fault(RuntimeError):
    """A mistake of the program that is executed."""


class Memory:
    """Buffers with gaps between them; knows who used which place since the last barrier."""

    def __init__(self, start: int):
        self.start, self.buffers, self.size = start, [], _GAP

    def add(self, size: int, phase: int = 0) -> int:
        """Room for a buffer at an address that is ``phase`` past a multiple of 256."""
        at = -(-self.size // 256) * 256 + phase % 256
        self.buffers.append((at, size))
        self.size = at + size + _GAP
        return self.start + at

    def close(self):
        """All buffers are there: poison everywhere."""
        self.bytes = np.full(-(-self.size // 8) * 2, POISON, np.uint32).view(np.uint8)
        self.valid = np.zeros(len(self.bytes), bool)
        for at, size in self.buffers:
            self.valid[at : at + size] = True
        self.writer, self.reader = (np.full(len(self.bytes) // 4, -1) for _ in range(2))

    def _places(self, addresses, size):
        at = addresses - self.start
        inside = (at >= 0) & (at < len(self.bytes) - size)
        inside[inside] = self.valid[at[inside]] & self.valid[at[inside] + size - 1]
        if not inside.all():
            wrong = at[~inside][0]
            begin, length = min(self.buffers, key=lambda b: max(b[0] - wrong, wrong - b[0] - b[1] + 1))
            index = self.buffers.index((begin, length))
            raise Fault(f"out of bounds: byte {wrong - begin} of buffer {index}, which has {length}")
        if (at % size).any():
            raise Fault(f"misaligned: {size} bytes at byte {at[at % size > 0][0]}")
        return at[:, None] + np.arange(size), at[:, None] // 4 + np.arange(max(size // 4, 1))

    def _others(self, users, words, agents, where=True):
        return ((users[words] != -1) & (users[words] != agents) & where).any()

    def load(self, addresses, agents, size):
        """[threads, size] bytes."""
        places, words = self._places(addresses, size)
        agents = agents[:, None]
        if self._others(self.writer, words, agents):
            raise Fault("race: loads what another thread stores")
        before = self.reader[words]
        self.reader[words] = np.where((before == -1) | (before == agents), agents, -2)
        self.reader[words[self.reader[words] != agents]] = -2  # several
        return self.bytes[places]

    def store(self, addresses, agents, values):
        """Several may store the same number: Triton lets them."""
        places, words = self._places(addresses, values.shape[1])
        agents = agents[:, None]
        changes = (self.bytes[places] != values).reshape(*words.shape, -1).any(2)
        if self._others(self.writer, words, agents, changes):
            raise Fault("race: stores where another thread stores")
        if self._others(self.reader, words, agents, changes):
            raise Fault("race: stores what another thread loads")
        self.bytes[places] = values
        if (self.bytes[places] != values).any():
            raise Fault("race: one instruction stores two numbers at one place")
        self.writer[words] = agents

    def barrier(self, first, last):
        """What was used from byte ``first`` to ``last`` may be used by others now."""
        self.writer[first // 4 : last // 4], self.reader[first // 4 : last // 4] = -1, -1
