import numpy as np
from matplotlib.image import imread
from safetensors.numpy import save_file

from randomz.sheets import GAP, SCALE, draw_sheets, draw_steps, interleave, sheet, sheet_names, sheet_steps


def images(*values):
    return np.stack([np.full((28, 28), value, np.uint8) for value in values])


def centre(grid, row, column):
    place = SCALE * (GAP + 14)
    step = SCALE * (GAP + 28)
    return grid[place + row * step, place + column * step]


def test_images_stand_row_by_row_on_white():
    grid = sheet(images(10, 20, 30), columns=2)
    assert grid.shape == (SCALE * (2 * 30 + GAP), SCALE * (2 * 30 + GAP))
    assert [centre(grid, 0, 0), centre(grid, 0, 1), centre(grid, 1, 0), centre(grid, 1, 1)] == [10, 20, 30, 255]
    assert (grid[: SCALE * GAP] == 255).all()
    assert (grid == 10).sum() == (28 * SCALE) ** 2


def test_no_images_are_an_empty_sheet():
    assert (sheet(np.zeros((0, 28, 28), np.uint8), columns=3) == 255).all()


def test_a_row_of_originals_is_followed_by_their_reconstructions():
    woven = interleave(images(1, 2, 3), images(11, 12, 13), columns=2)
    assert woven[:, 0, 0].tolist() == [1, 2, 11, 12, 3, 13]


def test_every_sampler_has_its_sheet(tmp_path):
    path = tmp_path / "seed-0.safetensors"
    interpolation = np.stack([images(*range(pair, pair + 3)) for pair in (50, 100)])
    save_file(
        {
            "originals": images(10, 20),
            "reconstructions": images(11, 21),
            "interpolation": interpolation,
            "samples.gmm": images(5),
            "samples.gaussian": images(6),
            "kl_per_dimension": np.zeros(3, np.float32),
        },
        path,
    )
    names = ["reconstructions.png", "interpolation.png", "samples-gaussian.png", "samples-gmm.png"]
    assert sheet_names(path) == names
    drawn = draw_sheets(path, tmp_path / "pictures")
    assert [file.name for file in drawn] == names
    read = {file.name: np.rint(imread(file)[..., 0] * 255).astype(int) for file in drawn}
    assert centre(read["samples-gmm.png"], 0, 0) == 5
    assert centre(read["samples-gaussian.png"], 0, 0) == 6
    assert centre(read["reconstructions.png"], 1, 1) == 21
    # One row a pair, one column a step.
    assert centre(read["interpolation.png"], 1, 2) == 102


def test_snapshots_give_two_sheets_an_epoch(tmp_path):
    path = tmp_path / "seed-0.safetensors"
    tensors = {
        "originals": images(10, 20),
        "epochs": np.array([1, 3]),
        "reconstructions": np.stack([images(11, 21), images(13, 23)]),
        "samples": np.stack([images(5), images(6)]),
    }
    save_file(tensors, path)
    assert sheet_steps(path) == {"reconstructions": [1, 3], "samples": [1, 3]}
    drawn = {(name, epoch): grid for name, epoch, grid in draw_steps(path)}
    assert set(drawn) == {(name, epoch) for name in ("reconstructions", "samples") for epoch in (1, 3)}
    assert [centre(drawn["reconstructions", 3], row, 1) for row in (0, 1)] == [20, 23]
    assert [centre(drawn["samples", epoch], 0, 0) for epoch in (1, 3)] == [5, 6]
