"""Shapes and types of the library are checked in every test; what is small and synthetic comes from `synthetic`."""

import jaxtyping
import pytest
import torch

jaxtyping.install_import_hook("randomz", "typecheck.check")  # before anything imports randomz

import synthetic  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_params():
    """`tiny_params(**changes)`: validated params with every value small, and these sections' keys changed."""
    return synthetic.tiny_params


@pytest.fixture(scope="session")
def tiny_split():
    """A hundred blobs, ten of each class; tests must not write into it."""
    return synthetic.blobs(100, 0)


@pytest.fixture(scope="session")
def tiny_judge():
    """A judge that tells blobs apart."""
    return synthetic.tiny_judge()


@pytest.fixture(scope="session")
def tiny_yardstick(tiny_judge):
    """The yardstick of 1,000 training blobs, 300 of validation and 500 of test."""
    return synthetic.tiny_yardstick(tiny_judge)
