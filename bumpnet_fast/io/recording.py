"""Record a training: the bumps at some of its iterations, for an animation.

A recording is a callback of a solver.  It keeps a bounded number of frames for any length of the run.  It can also
keep them in a file, so that a resumed run continues the recording.
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
from ..core.maps import Maps
from ..nets.bumpnet import BumpNet
from ..solvers import Progress

#: Format of the files.
VERSION = 1
#: Type of the file, for :func:`bumpnet_fast.core.files.read`.
KIND = {"record": (VERSION, ("frames", "stride", "calls"))}
#: Default largest number of frames.
MOST = 100
#: Seconds between two writes.
EVERY = 10.0


@dataclass(frozen=True, eq=False)
class Frame:
    """The bumps at one moment of a training.

    Attributes
    ----------
    iteration, seconds, loss
        Position in the run.
    rows, frame, domain, tied
        Arguments of :meth:`BumpNet.from_rows` for the net.
    maps : Tensor or None
        The maps of the net's coordinates, as :meth:`Maps.to_tensor` gives them.
    """

    iteration: int
    seconds: float
    loss: float
    rows: Tensor
    frame: Tensor
    domain: Tensor
    tied: bool
    maps: Tensor | None = None

    @property
    def net(self) -> BumpNet:
        """The net at that moment."""
        maps = None if self.maps is None else Maps.from_tensor(self.maps)
        return BumpNet.from_rows(self.rows, self.frame, self.domain, self.tied, maps=maps)


class Recording:
    """Records the bumps during a training: ``solve(problem, net, callback=Recording())``.

    At first every iteration is kept.  At :data:`MOST` frames every other frame is dropped, and from then on only every
    other iteration is kept, and so on.  So at least half of that number of frames is spread evenly over the run, and
    the memory is bounded.  Rows that are not finite are omitted.

    Parameters
    ----------
    path : str or path, optional
        File for the frames.  Frames in an existing file are continued, except for those after the iteration where the
        run is resumed.
    callback : callable, optional
        Another callback to call.
    most : int
        Largest number of frames, at least 2.

    Attributes
    ----------
    frames : list of Frame
        The frames, in order.

    Raises
    ------
    CheckpointError
        If the file exists and is not a recording, or is damaged.

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
        """Drop frames that a killed run recorded after the state that it continues from.

        A frame of the same iteration stays if it is of another solve: with other bumps, or in another window.
        """
        net = progress.net()
        if not isinstance(net, BumpNet):  # a net of patches is not recorded
            return
        while self.frames and (last := self.frames[-1]).iteration >= progress.iteration:
            same = last.rows.shape == net.rows.shape and torch.equal(last.domain, net.domain.cpu())
            if last.iteration == progress.iteration and not same:
                break
            self.frames.pop()

    def _keep(self, progress: Progress) -> None:
        net = progress.net()
        if not isinstance(net, BumpNet):
            return
        if not bool(torch.isfinite(net.rows).all()):  # a run that diverged: there is nothing to draw
            return
        tensors = {name: getattr(net, name).detach().cpu() for name in ("rows", "frame", "domain")}
        place = progress.iteration, progress.seconds, progress.loss
        maps = None if net.maps is None else net.maps.to_tensor()
        self.frames.append(Frame(*place, **tensors, tied=net.tied, maps=maps))
        if len(self.frames) > self.most:
            self.frames, self._stride = self.frames[::2], 2 * self._stride
        if time.monotonic() - self._written >= EVERY:
            self.flush()

    def flush(self) -> None:
        """Write the frames to the file, if there is one; atomic."""
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
    """The frames in the content of a file; CheckpointError if there are none."""
    with damaged(path):
        names = [field.name for field in fields(Frame)]
        frames = [Frame(**{name: frame[name] for name in names if name in frame}) for frame in content["frames"]]
        if not all(torch.equal(frame.net.domain, frame.domain) for frame in frames):
            raise ValueError("the domain of a frame is not that of its net")
        return frames


__all__ = ["EVERY", "KIND", "MOST", "Frame", "Recording", "frames_of"]
