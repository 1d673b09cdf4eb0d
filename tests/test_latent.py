import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from randomz.latent import probe_accuracy


@pytest.mark.parametrize("probe", [KNeighborsClassifier(), LogisticRegression(max_iter=300)])
def test_a_probe_of_codes_that_are_the_labels_is_always_right(probe):
    labels = torch.arange(200) % 10
    codes = torch.nn.functional.one_hot(labels).numpy() + 0.0
    assert probe_accuracy(probe, codes, labels, codes[:50], labels[:50]) == 1
    assert probe_accuracy(probe, codes, labels, codes[:50], labels[1:51]) == 0
