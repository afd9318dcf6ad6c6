"""The record of a training: the bumps at some of its iterations, for an animation.

A record is the callback of a solver.  It keeps a bounded number of frames, whatever the run's length, and
can keep them in a file, too, so that a run that is resumed goes on with them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.files import atomic, damaged, read
from ..nets.bumpnet import BumpNet
from ..solvers import Progress

#: Format of the files.
VERSION = 1
#: What :func:`bumpnet_fast.core.files.read` is to expect of them.
KIND = {"record": (VERSION, ("frames", "stride", "calls"))}
#: Most frames of a record.
MOST = 100
#: Seconds between two writes.
EVERY = 10.0


@dataclass(frozen=True, eq=False)
class Frame:
    """The bumps at one moment of a training.

    Attributes
    ----------
    iteration, seconds, loss
        Where the run was.
    rows, frame, domain, tied
        What :meth:`BumpNet.from_rows` makes the net of.
    """

    iteration: int
    seconds: float
    loss: float
    rows: Tensor
    frame: Tensor
    domain: Tensor
    tied: bool

    @property
    def net(self) -> BumpNet:
        """The bumps as they were."""
        return BumpNet.from_rows(self.rows, self.frame, self.domain, self.tied)


class Recording:
    """Keeps the bumps while they are trained: ``solve(problem, net, callback=Recording())``.

    Every iteration is kept at first; when there are :data:`MOST`, every other frame goes, and from then on only every
    other iteration is kept, and so on.  So at least half as many frames are evenly spread over the run, and the memory
    is bounded by so many copies of the parameters.  Rows that are not finite are left out.

    Parameters
    ----------
    path : str or path, optional
        File to keep the frames in; those that are there already go on, but for what comes after the iteration where a
        resumption sets in.
    callback : callable, optional
        What else is to be called.
    most : int
        Most frames, at least 2.

    Attributes
    ----------
    frames : list of Frame
        In order.

    Raises
    ------
    CheckpointError
        If the file is there and is no record, or is damaged.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> from bumpnet_fast.solvers import prune
    >>> problem, recording = problems.get("poisson"), Recording()
    >>> solution = prune(problem, BumpNet(2, (3, 3), problem.domain), 8, iterations=2, callback=recording)
    >>> [(frame.iteration, len(frame.rows)) for frame in recording.frames]
    [(0, 9), (1, 9), (2, 9), (2, 8), (3, 8), (4, 8)]
    """

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        callback: Callable[[Progress], Any] | None = None,
        most: int = MOST,
    ):
        if not isinstance(most, int) or isinstance(most, bool) or most < 2:
            raise ValueError(f"most must be an integer of at least 2, got {most!r}")
        self.path, self.callback, self.most = path, callback, most
        self.frames, self._stride, self._calls, self._begun = [], 1, 0, False
        if path is not None and Path(path).exists():
            content = read(path, KIND)
            self.frames = frames_of(path, content)
            with damaged(path):
                self._stride, self._calls = int(content["stride"]), int(content["calls"])
        self._written = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Keep the bumps of this iteration, if it is its turn."""
        if not self._begun and self.frames and progress.net is not None:
            self._drop_from(progress)
        self._begun = True
        self._calls += 1
        if (self._calls - 1) % self._stride == 0 and progress.net is not None:
            self._keep(progress)
        if self.callback is not None:
            self.callback(progress)

    def _drop_from(self, progress: Progress) -> None:
        """Drop what a run that was killed had recorded after the state that it goes on from.

        Of the same iteration a frame stays if it is of another solve: with other bumps, or in another window.
        """
        net = progress.net()
        while self.frames and (last := self.frames[-1]).iteration >= progress.iteration:
            same = last.rows.shape == net.rows.shape and torch.equal(last.domain, net.domain.cpu())
            if last.iteration == progress.iteration and not same:
                break
            self.frames.pop()

    def _keep(self, progress: Progress) -> None:
        net = progress.net()
        if not bool(torch.isfinite(net.rows).all()):  # of a run that diverged: there is nothing to draw
            return
        tensors = {name: getattr(net, name).detach().cpu() for name in ("rows", "frame", "domain")}
        place = progress.iteration, progress.seconds, progress.loss
        self.frames.append(Frame(*place, **tensors, tied=net.tied))
        if len(self.frames) > self.most:
            self.frames, self._stride = self.frames[::2], 2 * self._stride
        if time.monotonic() - self._written >= EVERY:
            self.flush()

    def flush(self) -> None:
        """Write the frames to the file, if there is one, all or nothing."""
        self._written = time.monotonic()
        if self.path is not None and self.frames:
            place = {"stride": self._stride, "calls": self._calls}
            content = {"kind": "record", "version": VERSION, "frames": [vars(frame) for frame in self.frames]}
            with atomic(self.path) as file:
                torch.save(content | place, file)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_) -> None:
        """Write the frames, however the run ended."""
        self.flush()


def frames_of(path: str | os.PathLike, content: dict[str, Any]) -> list[Frame]:
    """The frames in the content of a file; CheckpointError if they are none."""
    with damaged(path):
        names = [field.name for field in fields(Frame)]
        frames = [Frame(**{name: frame[name] for name in names}) for frame in content["frames"]]
        if not all(torch.equal(frame.net.domain, frame.domain) for frame in frames):
            raise ValueError("the domain of a frame is not that of its net")
        return frames


__all__ = ["EVERY", "KIND", "MOST", "Frame", "Recording", "frames_of"]
