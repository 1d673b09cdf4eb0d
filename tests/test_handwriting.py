import numpy as np
import pytest
from PIL import Image, ImageDraw
from synthetic import blobs

from randomz.handwriting import BOX, PictureError, prepare_digit, read_digit


def drawn(size=(90, 120), box=(30, 20, 55, 100), ink=255, paper=0):
    "A filled ellipse: no digit, and yet something with ink, a box and a centre."
    picture = Image.new("L", size, paper)
    ImageDraw.Draw(picture).ellipse(box, fill=ink)
    return picture


def levels(picture):
    return np.asarray(picture, np.float32)


def box_of(digit):
    rows, columns = np.flatnonzero(digit.any(1)), np.flatnonzero(digit.any(0))
    return rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def centre_of(digit):
    place, mass = np.arange(28), digit.astype(float)
    return (mass.sum(1) @ place / mass.sum(), mass.sum(0) @ place / mass.sum())


def saved(tmp_path, picture, name="a.png", **options):
    picture.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((30, 20, 55, 100), (20, 6)),
        ((5, 40, 85, 65), (6, 20)),
        ((20, 20, 60, 60), (20, 20)),
        ((40, 10, 40, 90), (20, 1)),
    ],
)
def test_the_longer_side_fills_the_box_and_proportions_stay(box, expected):
    assert BOX == 20
    assert box_of(prepare_digit(levels(drawn(box=box)))) == expected


@pytest.mark.parametrize("box", [(30, 20, 55, 100), (0, 0, 40, 50), (49, 69, 89, 119)])
def test_the_centre_of_mass_stands_in_the_middle_wherever_the_ink_was(box):
    assert centre_of(prepare_digit(levels(drawn(box=box)))) == pytest.approx((14, 14), abs=0.51)


def test_an_uneven_digit_is_centred_by_its_mass_not_by_its_box():
    picture = drawn(box=(40, 20, 44, 100))  # a stem with a heavy foot
    ImageDraw.Draw(picture).rectangle((30, 85, 60, 100), fill=255)
    digit = prepare_digit(levels(picture))
    assert centre_of(digit) == pytest.approx((14, 14), abs=0.51)
    assert np.flatnonzero(digit.any(1))[0] < 4  # the box itself would begin there


def test_a_digit_stays_inside_however_heavy_its_edge():
    picture = Image.new("L", (200, 200), 0)
    ImageDraw.Draw(picture).line((10, 100, 190, 100), fill=40)
    ImageDraw.Draw(picture).rectangle((175, 60, 190, 140), fill=255)
    digit = prepare_digit(levels(picture))
    assert digit[:, :20].sum() == digit.sum()  # its mass would stand in the middle from -3 on
    assert digit[:, 0].any()
    assert centre_of(digit)[1] > 14.5


def test_digits_of_the_form_already_hardly_change():
    for image in blobs(10, 0).images.numpy():
        first = prepare_digit(image.astype(np.float32))
        again = prepare_digit(first.astype(np.float32))
        assert np.abs(first.astype(int) - again).mean() < 2


def test_dark_ink_on_light_paper_is_turned_round_and_the_word_of_the_caller_counts():
    light = prepare_digit(levels(drawn()))
    dark = levels(drawn(ink=0, paper=255))
    assert (prepare_digit(dark) == light).all()
    assert (prepare_digit(dark, invert=True) == light).all()
    with pytest.raises(ValueError, match="no ink was found"):  # nothing is lighter than white
        prepare_digit(dark, invert=False)
    with pytest.raises(ValueError, match="no ink was found"):
        prepare_digit(levels(drawn()), invert=True)


def test_of_two_inks_the_caller_chooses():
    picture = drawn(size=(100, 100), box=(40, 10, 44, 90), ink=255, paper=100)
    ImageDraw.Draw(picture).rectangle((10, 80, 90, 84), fill=0)
    assert box_of(prepare_digit(levels(picture), invert=False)) == (20, 1)
    assert box_of(prepare_digit(levels(picture), invert=True)) == (1, 20)
    assert box_of(prepare_digit(levels(picture))) == (20, 1)  # 255 is further from the paper than 0


def test_faint_ink_becomes_full_and_uneven_paper_black():
    noise = np.random.default_rng(0).normal(scale=4, size=(120, 90)).astype(np.float32)
    faint = levels(drawn(ink=90, paper=200)) + noise
    clean, found = prepare_digit(levels(drawn())).astype(int), prepare_digit(faint).astype(int)
    assert found.max() == 255
    assert box_of(found) == box_of(clean)
    assert np.abs(found - clean).mean() < 10
    assert (found[clean == 0] == 0).mean() > 0.98


def test_dust_is_no_part_of_the_digit_and_a_stroke_apart_is():
    clean = drawn()
    dusty = clean.copy()
    dusty.putpixel((80, 5), 255)
    assert (prepare_digit(levels(dusty)) == prepare_digit(levels(clean))).all()
    ImageDraw.Draw(clean).rectangle((65, 20, 75, 30), fill=255)
    assert box_of(prepare_digit(levels(clean))) == (20, 11)


def test_a_thin_stroke_does_not_fade():
    picture = Image.new("L", (1000, 1000), 255)
    ImageDraw.Draw(picture).line((500, 100, 500, 900), fill=0, width=4)
    assert prepare_digit(levels(picture)).max() == 255


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P", "CMYK", "I;16", "I", "F"])
def test_every_mode_of_a_picture_gives_the_same_digit(tmp_path, mode):
    picture = drawn(ink=0, paper=255)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture, np.uint16) * 257)
    elif mode == "F":
        picture = Image.fromarray(np.asarray(picture, np.float32) / 255)
    else:
        picture = picture.convert(mode)
    assert picture.mode == mode
    path = saved(tmp_path, picture, "a.tiff")
    assert (read_digit(path) == prepare_digit(levels(drawn()))).all()


@pytest.mark.parametrize("ink", [0, 255])
def test_ink_on_nothing_is_found_whatever_its_colour(tmp_path, ink):
    picture = Image.new("RGBA", (90, 120), (ink, ink, ink, 0))
    ImageDraw.Draw(picture).ellipse((30, 20, 55, 100), fill=(ink, ink, ink, 255))
    assert (read_digit(saved(tmp_path, picture)) == prepare_digit(levels(drawn()))).all()


def test_a_photo_is_turned_as_its_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    path = saved(tmp_path, drawn(ink=0, paper=255), "a.jpg", exif=exif, quality=95)
    assert box_of(read_digit(path)) == (6, 20)


def test_a_large_picture_is_made_smaller_first(tmp_path):
    large = drawn(size=(1800, 2400), box=(600, 400, 1100, 2000))
    ImageDraw.Draw(large).rectangle((500, 1800, 1300, 2000), fill=255)
    found, expected = read_digit(saved(tmp_path, large)), prepare_digit(levels(large))
    assert box_of(found) == box_of(expected)
    assert np.abs(found.astype(int) - expected).mean() < 5


def test_what_is_no_picture_is_one_line_that_names_it(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    whole = saved(tmp_path, drawn()).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    for name, reason in (
        ("text.png", "not of a format that can be read, or broken"),
        ("half.png", "not of a format that can be read, or broken"),
        ("absent.png", "No such file or directory"),
        ("", "Is a directory"),
    ):
        with pytest.raises(PictureError) as error:
            read_digit(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name}: {reason}; a picture such as a PNG or JPEG is accepted"


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (60, 40)])
def test_a_picture_without_ink_is_named(tmp_path, size):
    path = saved(tmp_path, Image.new("L", size, 255))
    with pytest.raises(PictureError, match=r"a.png: no ink was found; a digit that stands out from its paper"):
        read_digit(path)
