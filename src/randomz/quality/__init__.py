"""How good are images: pure functions from tensors to figures, on the device of their inputs."""
