import contextlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from synthetic import blobs, tiny_model, tiny_params

from randomz.batches import binarised, epoch_order, in_chunks, pixels
from randomz.evaluation import as_bytes
from randomz.finite import NonFiniteLossError
from randomz.models import load_kind
from randomz.resume import Checkpoints
from randomz.schedule import triangle
from randomz.seeding import generator
from randomz.trainer import Data, build_seeded, fit, mean_terms

KINDS = ("ae", "vae", "vqvae")

# The mean total of each of 20 steps, nats per image. A refactor leaves them; a change that means to move them prints
# new ones with `python -m pytest tests/test_trainer.py -k golden -s`. See `curve` for what is trained.
GOLDEN = {
    "ae": [
        543.343,
        540.5776,
        534.541,
        520.7812,
        503.4895,
        488.2222,
        469.2102,
        442.6046,
        428.4432,
        403.6784,
        387.3848,
        374.0836,
        358.7769,
        340.429,
        335.4541,
        318.9896,
        315.294,
        312.0365,
        308.1164,
        298.8459,
    ],
    "vae": [
        551.9976,
        551.7444,
        551.874,
        542.2925,
        543.1137,
        534.1456,
        528.5914,
        523.0666,
        517.7018,
        509.4208,
        503.1458,
        497.4405,
        481.7895,
        467.8159,
        463.7239,
        449.7191,
        441.4701,
        437.8856,
        428.5667,
        427.8934,
    ],
    "vqvae": [
        543.9135,
        542.2699,
        539.4419,
        535.0053,
        529.8784,
        523.472,
        516.693,
        508.5991,
        497.4868,
        484.8082,
        448.4379,
        437.1995,
        420.7366,
        405.715,
        399.5108,
        378.9898,
        373.1366,
        368.9275,
        368.7484,
        356.0281,
    ],
}


@pytest.fixture(scope="module")
def data():
    return Data(train=blobs(100, 1), validation=blobs(30, 2))


def train(name, data, seed=0, between=None, binarise=False, **changes):
    """A model after two epochs of ten steps, with its rows of history; `between` is called after each epoch."""
    model, loss = tiny_model(name, seed, **changes)
    rows = []
    for row in fit(model, loss, data, tiny_params(train={"binarise": binarise}).train, seed):
        rows.append(row)
        if between:
            between(model, loss)
    return model, rows


def curve(name, data):
    """The mean total of every training step."""
    model, loss = tiny_model(name)
    totals = []

    def recorded(model, output, x):
        terms = loss(model, output, x)
        if model.training:
            totals.append(float(terms.total.detach().mean()))
        return terms

    list(fit(model, recorded, data, tiny_params().train, 0))
    return totals


def assert_same_weights(a, b):
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name


@pytest.mark.parametrize("name", KINDS)
def test_golden_loss_curve(name, data):
    totals = curve(name, data)
    print(f'\n    "{name}": {[round(total, 4) for total in totals]},')  # noqa: T201 (seen with -s)
    assert totals == pytest.approx(GOLDEN[name], rel=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(name, data):
    (first, rows), (second, again), (other, _) = train(name, data), train(name, data), train(name, data, seed=1)
    assert_same_weights(first, second)
    assert rows == again
    assert not torch.equal(first.encoder.stack[0].weight, other.encoder.stack[0].weight)


@pytest.mark.parametrize("name", KINDS)
def test_training_neither_hears_nor_moves_the_global_stream(name, data):
    torch.manual_seed(1)
    first, _ = train(name, data)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, _ = train(name, data)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_weights(first, second)


@pytest.mark.parametrize("name", KINDS)
def test_initial_weights_are_a_function_of_the_seed_alone(name):
    torch.manual_seed(1)
    first, _ = tiny_model(name, 3)
    torch.manual_seed(2)
    second, _ = tiny_model(name, 3)
    other, _ = tiny_model(name, 4)
    assert_same_weights(first, second)
    assert not torch.equal(first.encoder.stack[0].weight, other.encoder.stack[0].weight)


def test_models_that_threads_build_at_the_same_time_get_their_own_weights():
    params = tiny_params()
    meeting = threading.Barrier(2, timeout=0.2)

    def build():
        torch.randn(5)
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait()  # for the other thread, which must not come here before this one has left
        return load_kind("ae").build(params.model("ae"), params.network)

    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda seed: build_seeded(build, seed), (0, 1)))
    for seed, model in enumerate(together):
        assert_same_weights(model, build_seeded(build, seed))


@pytest.mark.parametrize("name", KINDS)
def test_looking_at_a_model_between_epochs_does_not_change_its_training(name, data):
    def look(model, loss):
        model.eval()
        torch.randn(7)
        mean_terms(model, loss, data.train, 5)
        with torch.no_grad():
            codes = model.encode(pixels(data.train.images), generator("test_trainer look"))
            as_bytes(model.decode(model.between(codes, codes.flip(0), 0.5)))

    (plain, rows), (watched, again) = train(name, data), train(name, data, between=look)
    assert_same_weights(plain, watched)
    assert rows == again


TERMS = {
    "ae": ["total", "reconstruction"],
    "vae": ["total", "reconstruction", "kl"],
    "vqvae": ["total", "reconstruction", "codebook", "commitment"],
}
DIAGNOSTICS = {"ae": [], "vae": [], "vqvae": ["dead_codes", "running_perplexity"]}


@pytest.mark.parametrize("name", KINDS)
def test_a_row_an_epoch_with_every_term(name, data):
    _, rows = train(name, data, seed=6)
    columns = [f"{split}_{term}" for split in ("train", "validation") for term in TERMS[name]]
    for row in rows:
        assert list(row) == ["seed", "epoch", "learning_rate", *columns, *DIAGNOSTICS[name]]
    assert [(row["seed"], row["epoch"]) for row in rows] == [(6, 1), (6, 2)]
    config = tiny_params().train
    assert [row["learning_rate"] for row in rows] == [
        triangle(step, 20, config.learning_rate, config.warmup) for step in (9, 19)
    ]


def test_a_row_holds_the_means_over_the_steps_and_over_the_validation_split(data):
    steps = curve("vae", data)
    model, rows = train("vae", data)
    assert [row["train_total"] for row in rows] == pytest.approx([sum(steps[:10]) / 10, sum(steps[10:]) / 10])
    _, loss = tiny_model("vae")
    validation = mean_terms(model, loss, data.validation, 0)
    assert {f"validation_{term}": value for term, value in validation.items()}.items() <= rows[-1].items()


def test_mean_terms_are_over_images_whatever_the_chunks(data, monkeypatch):
    model, loss = tiny_model("ae")
    x = pixels(data.train.images)
    with torch.no_grad():
        expected = float(loss(model, model(x, generator("test_trainer")), x).total.mean())
    assert mean_terms(model, loss, data.train, 0)["total"] == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr("randomz.trainer.in_chunks", lambda images: in_chunks(images, 33))
    assert mean_terms(model, loss, data.train, 0)["total"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_training_lowers_the_loss_on_validation_images(name, data):
    model, loss = tiny_model(name)
    before = mean_terms(model, loss, data.validation, 0)["total"]
    _, rows = train(name, data)
    assert rows[1]["validation_total"] < rows[0]["validation_total"] < before


def breaking(loss, step):
    """The loss function with NaN for the total of one step of training, counted from 1."""
    steps = []

    def broken(model, output, x):
        terms = loss(model, output, x)
        steps.append(model.training)
        if model.training and sum(steps) == step:
            terms.total.data.fill_(math.nan)
        return terms

    return broken


def test_a_loss_that_is_not_finite_stops_the_training_by_name(data):
    model, loss = tiny_model("vae")
    epochs = fit(model, breaking(loss, 15), data, tiny_params().train, 8)
    next(epochs)
    with pytest.raises(NonFiniteLossError, match=r"^epoch 2, step 15: train_total = nan; a finite loss is accepted$"):
        next(epochs)


def test_a_validation_loss_that_is_not_finite_is_not_kept(data, tmp_path):
    model, loss = tiny_model("ae")

    def broken(model, output, x):
        terms = loss(model, output, x)
        if not model.training:
            terms.reconstruction.fill_(math.inf)
        return terms

    with pytest.raises(NonFiniteLossError, match=r"^after epoch 1: validation_total = inf, validation_reconstruction"):
        list(fit(model, broken, data, tiny_params().train, 0, Checkpoints(tmp_path)))
    assert Checkpoints(tmp_path).load() is None


def test_a_learning_rate_out_of_all_bounds_is_such_a_loss(data):
    model, loss = tiny_model("vae")
    config = tiny_params(train={"learning_rate": 1e9}).train
    with pytest.raises(NonFiniteLossError, match=r"^epoch 1, step \d+: train_total = "):
        list(fit(model, loss, data, config, 0))


FOUR_EPOCHS = tiny_params(train={"epochs": 4}).train


def train_on(name, data, folder, epochs, config=FOUR_EPOCHS, **changes):
    """A new model that goes on from the checkpoints in the folder up to this epoch, and its rows."""
    model, loss = tiny_model(name, 5, **changes)
    rows = []
    for row in fit(model, loss, data, config, 5, Checkpoints(folder)):
        rows.append(row)
        if len(rows) == epochs:
            break
    return model, rows


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in KINDS),
        ("vae", {"likelihood": "gaussian", "sigma": "calibrated"}),
        ("vqvae", {"codebook": "gradient"}),
    ],
)
@pytest.mark.parametrize("stops", [(1,), (3,), (2, 3), (4,)])
def test_a_fit_that_is_stopped_and_goes_on_gives_the_same_bits(name, changes, stops, data, tmp_path):
    whole, expected = train_on(name, data, tmp_path / "whole", 4, **changes)
    for epochs in stops:
        _, before = train_on(name, data, tmp_path / "stopped", epochs, **changes)
        assert before == expected[:epochs]
    resumed, rows = train_on(name, data, tmp_path / "stopped", 4, **changes)
    assert_same_weights(whole, resumed)
    assert rows == expected
    files = [sorted((tmp_path / folder).iterdir()) for folder in ("whole", "stopped")]
    assert [file.name for file in files[0]] == [file.name for file in files[1]]  # a name has the hash of the state


def test_pixels_that_are_drawn_go_on_too(data, tmp_path):
    config = tiny_params(train={"epochs": 4, "binarise": True}).train
    whole, expected = train_on("vqvae", data, tmp_path / "whole", 4, config)
    train_on("vqvae", data, tmp_path / "stopped", 2, config)
    resumed, rows = train_on("vqvae", data, tmp_path / "stopped", 4, config)
    assert_same_weights(whole, resumed)
    assert rows == expected


def test_checkpoints_change_nothing(data, tmp_path):
    plain, rows = train("vqvae", data)
    model, loss = tiny_model("vqvae")
    assert list(fit(model, loss, data, tiny_params().train, 0, Checkpoints(tmp_path))) == rows
    assert_same_weights(plain, model)


def test_a_fit_goes_on_from_where_it_stood_and_not_from_the_start(data, tmp_path):
    train_on("ae", data, tmp_path, 3)
    model, loss = tiny_model("ae", 5)
    steps = []

    def counted(model, output, x):
        steps.append(model.training)
        return loss(model, output, x)

    assert len(list(fit(model, counted, data, FOUR_EPOCHS, 5, Checkpoints(tmp_path)))) == 4
    assert sum(steps) == 10  # of 40


def test_a_loss_that_is_not_finite_leaves_the_epoch_before(data, tmp_path):
    model, loss = tiny_model("vae", 5)
    with pytest.raises(NonFiniteLossError, match=r"^epoch 3, step 21: "):
        list(fit(model, breaking(loss, 21), data, FOUR_EPOCHS, 5, Checkpoints(tmp_path)))
    whole, expected = train_on("vae", data, tmp_path / "whole", 4)
    assert Checkpoints(tmp_path).load().rows == expected[:2]
    resumed, rows = train_on("vae", data, tmp_path, 4)
    assert_same_weights(whole, resumed)
    assert rows == expected


def test_binarised_pixels_are_white_as_often_as_they_are_grey():
    images = torch.arange(256, dtype=torch.uint8).repeat(4, 1)[:, :196].reshape(1, 28, 28).repeat(4000, 1, 1)
    images[2000:] += 60  # both halves together hold every grey level
    drawn = binarised(images, generator("test_trainer binarised"))
    assert drawn.dtype == torch.uint8
    assert drawn.unique().tolist() == [0, 255]
    assert bool((drawn[images == 0] == 0).all())
    assert bool((drawn[images == 255] == 255).all())
    for level in range(256):
        white = (drawn[images == level] == 255).double()
        share = level / 255
        assert abs(float(white.mean()) - share) <= 5 * math.sqrt(share * (1 - share) / len(white)), level


def test_a_binarisation_repeats_with_its_stream_and_pixels_are_drawn_apart():
    grey = torch.full((2, 28, 28), 128, dtype=torch.uint8)
    first, again, other = (binarised(grey, generator("test_trainer binarised", key)) for key in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("name", KINDS)
def test_binarised_training_sees_black_and_white_and_draws_anew(name, data, monkeypatch):
    model, loss = tiny_model(name)
    first, seen = [], {True: [], False: []}

    def recorded(model, output, x):
        seen[model.training].append(x)
        return loss(model, output, x)

    monkeypatch.setattr(model, "start", lambda x, _: first.append(x))
    list(fit(model, recorded, data, tiny_params(train={"binarise": True}).train, 0))
    for x in (*first, *seen[True], *seen[False]):
        assert x.unique().tolist() == [0, 1]
    validation, again = seen[False]
    assert torch.equal(validation, again)
    assert torch.equal(validation, pixels(binarised(data.validation.images, generator("binarise validation"))))
    # The same images, in another order, with other draws of their pixels.
    epochs = [torch.cat(seen[True][:10]), torch.cat(seen[True][10:])]
    placed = [x[epoch_order(100, 10, 0, epoch).flatten().argsort()] for epoch, x in enumerate(epochs)]
    assert 0.01 < float((placed[0] != placed[1]).double().mean()) < 0.2
    assert float((placed[0].mean() - pixels(data.train.images).mean()).abs()) < 0.01


@pytest.mark.parametrize("name", KINDS)
def test_binarised_training_repeats_by_its_seed(name, data):
    (first, rows), (second, again) = train(name, data, binarise=True), train(name, data, binarise=True)
    grey, _ = train(name, data)
    assert_same_weights(first, second)
    assert rows == again
    assert not torch.equal(first.encoder.stack[-1].weight, grey.encoder.stack[-1].weight)


def test_binarising_leaves_the_stream_of_noise_alone(data, monkeypatch):
    drawn = []
    monkeypatch.setattr("randomz.trainer.generator", lambda *keys: drawn.append(keys) or generator(*keys))
    for binarise in (False, True):
        train("vae", data, binarise=binarise)
    assert drawn.count(("noise", 0, 7)) == 2
    assert len({keys for keys in drawn if keys[0] == "binarise"}) == 20


def test_an_epoch_is_a_permutation_of_its_own():
    order = epoch_order(60, 10, seed=0, epoch=0)
    assert order.shape == (6, 10)
    assert sorted(order.flatten().tolist()) == list(range(60))
    assert torch.equal(order, epoch_order(60, 10, seed=0, epoch=0))
    for seed, epoch in ((0, 1), (1, 0)):
        assert not torch.equal(order, epoch_order(60, 10, seed=seed, epoch=epoch))


def test_images_that_fill_no_batch_sit_an_epoch_out_in_turn():
    orders = [epoch_order(25, 10, seed=0, epoch=epoch) for epoch in range(8)]
    for order in orders:
        assert order.shape == (2, 10)
        assert len(order.unique()) == 20
    assert len(torch.cat(orders).unique()) == 25
