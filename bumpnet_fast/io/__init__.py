"""Files: saved results, states of runs, recordings, and exports."""

from .recording import Recording
from .resuming import resume
from .saved import load, save
from .vtk import write_vtk

__all__ = ["Recording", "load", "resume", "save", "write_vtk"]
