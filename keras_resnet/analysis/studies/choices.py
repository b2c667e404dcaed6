"""Choices of the studies for the command line. Importing it imports no Keras."""

from __future__ import annotations

from typing import Literal

Method = Literal["grad_cam", "grad_cam_pp", "integrated_gradients", "occlusion"]
