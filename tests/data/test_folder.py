"""Pictures as a viewer shows them, what is passed over, and errors that name everything at once.

Read next: tests/data/test_preprocessing.py.
"""

import numpy as np
import pytest
from PIL import ExifTags, Image

from engine.data import folder, load
from engine.errors import InputError
from helpers.data_sets import RANDOM, forge_folder

# Two quarters of a picture as it is seen: which corner is where tells all eight orientations apart.
SEEN = np.zeros((24, 32, 3), np.uint8)
SEEN[:12, :16], SEEN[12:, :16] = (255, 0, 0), (0, 0, 255)
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


def exif(turn: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = turn
    return tags


def stored(turn: int) -> Image.Image:
    """A picture that is seen as SEEN where its EXIF orientation is obeyed."""
    return Image.fromarray(np.ascontiguousarray(STORED[turn](SEEN)))


@pytest.mark.parametrize("turn", STORED)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_pictures_are_upright(tmp_path, form, turn):
    if form not in folder.formats():
        pytest.skip(f"Pillow is built without {form}")
    path = tmp_path / "picture"
    stored(turn).save(path, form, exif=exif(turn), **({} if form == "PNG" else {"quality": 95}))
    pixels, changes = folder.read_picture(path, 24, 32, 3)
    assert np.abs(pixels.astype(int) - SEEN).mean() < 8
    assert changes == ([] if turn == 1 else ["turned upright, as their EXIF orientation says"])
    assert folder.common_size(tmp_path, [path]) == (24, 32)


def test_an_orientation_behind_the_pixels_of_a_png_counts(tmp_path):
    path = tmp_path / "picture.png"
    stored(6).save(path, exif=exif(6))
    content = path.read_bytes()
    at = content.index(b"eXIf") - 4
    length = int.from_bytes(content[at : at + 4], "big") + 12
    end = content.index(b"IEND") - 4
    path.write_bytes(
        content[:at] + content[at + length : end] + content[at : at + length] + content[end:]
    )
    assert (folder.read_picture(path, 24, 32, 3)[0] == SEEN).all()


@pytest.mark.parametrize(
    "data",
    [
        b"Exif\0\0rubbish",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(40),
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_turns_nothing(tmp_path, form, data):
    path = tmp_path / "picture"
    stored(1).save(path, form, exif=data, **({} if form == "PNG" else {"quality": 95}))
    pixels, changes = folder.read_picture(path, 24, 32, 3)
    assert np.abs(pixels.astype(int) - SEEN).mean() < 8 and not changes


def transparent(mode: str) -> Image.Image:
    """A black square of 8 x 8 on nothing, or half-transparent where the mode can be."""
    alpha = np.zeros((16, 16), np.uint8)
    alpha[4:12, 4:12] = 255
    if mode in ("RGBA", "LA"):
        image = Image.new(mode[:-1], (16, 16), 0)
        image.putalpha(Image.fromarray(alpha))
        return image
    indices = Image.fromarray((alpha == 0).astype(np.uint8))
    if mode == "L":
        return indices
    image = Image.new("P", (16, 16))
    image.putpalette([0, 0, 0, 9, 200, 90])
    image.paste(indices)
    if mode == "PA":
        image = image.convert("PA")
        image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize(
    "mode, form, options",
    [
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": 1}),
        ("P", "PNG", {"transparency": b"\xff\x00"}),
        ("P", "GIF", {"transparency": 1}),
        ("L", "PNG", {"transparency": 1}),
        ("RGBA", "TIFF", {}),
        ("LA", "TIFF", {}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("RGBA", "ICO", {"sizes": [(16, 16)]}),
        ("RGBA", "TGA", {}),
        ("PA", "TIFF", {}),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_lies_over_white(tmp_path, mode, form, options, channels):
    path = tmp_path / "picture"
    try:
        transparent(mode).save(path, form, **options)
    except OSError as error:
        pytest.skip(f"Pillow does not write it: {error}")
    pixels, changes = folder.read_picture(path, 16, 16, channels)
    want = np.full((16, 16, channels), 255)
    want[4:12, 4:12] = 0
    assert (pixels == want).all() and changes == ["laid over white where they are transparent"]


def test_half_transparent_is_half_white_and_opaque_is_no_change(tmp_path):
    path = tmp_path / "picture.png"
    for alpha, grey, changed in ((0, 255, True), (51, 204, True), (204, 51, True), (255, 0, False)):
        Image.new("RGBA", (4, 4), (0, 0, 0, alpha)).save(path)
        pixels, changes = folder.read_picture(path, 4, 4, 3)
        assert (pixels == grey).all() and bool(changes) == changed


def test_notes_count_what_was_turned_and_blended(tmp_path):
    root = forge_folder(tmp_path / "pets")
    for number in range(3):
        stored(6).save(root / "train" / "cat" / f"photo{number}.jpg", exif=exif(6))
    Image.new("RGBA", (32, 32)).save(root / "test" / "dog" / "logo.png")
    notes = "\n".join(load(root, size=(24, 32, 3)).notes)
    assert "data pets/: 3 of 14 images turned upright, as their EXIF orientation says" in notes
    assert "data pets/: 1 of 14 images laid over white where they are transparent" in notes
    assert "data pets/: 11 of 14 images resized to 24x32" in notes  # not the photos


FILES = [
    "Thumbs.db",
    "desktop.ini",
    "ehthumbs.db",
    "DESKTOP.INI",
    ".DS_Store",
    "._img0.png",
    "Icon\r",
    ".picasa.ini",
    "Picasa.ini",
    "img0.png:Zone.Identifier",
    "img0.png@SynoEAStream",
    ".directory",
]
FOLDERS = [
    "__MACOSX",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "lost+found",
    ".Trashes",
    "System Volume Information",
    "@Recycle",
    "@Recently-Snapshot",
    ".ipynb_checkpoints",
]


def test_litter_is_passed_over_and_counted(tmp_path):
    clean = load(forge_folder(tmp_path / "pets"))
    assert not clean.notes
    for place in ("train", "train/cat", "test/dog"):
        for name in FILES:
            (tmp_path / "pets" / place / name).write_bytes(b"no picture")
        for name in FOLDERS:
            (tmp_path / "pets" / place / name).mkdir()
            (tmp_path / "pets" / place / name / "img1.png").write_bytes(b"no picture")
    data = load(tmp_path / "pets")
    assert data.fingerprint == clean.fingerprint and data.classes == ["cat", "dog"]
    assert data.notes == [
        "data pets/: 66 entries that are no pictures of yours passed over "
        "(#recycle, $RECYCLE.BIN, .DS_Store, .Trashes, ._img0.png and 17 more)"
    ]
    assert not any(map(folder.litter, ("recycle", "cat", "thumbs", "lost and found", "eaDir")))


def test_all_that_can_not_be_read_is_named_at_once(tmp_path):
    root = forge_folder(tmp_path / "pets", count=9)
    for number in range(7):
        (root / "train" / "cat" / f"img{number}.png").write_bytes(b"no picture")
    Image.new("I;16", (32, 32)).save(root / "test" / "dog" / "img0.png")
    for size in (None, (32, 32)):
        with pytest.raises(InputError) as error:
            load(root, size=size)
        text = str(error.value)
        assert text.startswith(f"{root}: 8 entries can't be used: train/cat/img0.png (not a readab")
        assert text.count("train/cat/img") == 5 and "\n" not in text
        assert text.endswith("and 3 more; repair, move or remove them")


def test_all_that_is_in_the_wrong_place_is_named_at_once(tmp_path):
    root = forge_folder(tmp_path / "pets")
    (root / "train" / "labels.csv").touch()
    (root / "train" / "cat" / "deeper").mkdir()
    (root / "test" / "bird").mkdir()
    (root / "test" / "cat" / "away.png").symlink_to("/etc/passwd")
    with pytest.raises(InputError) as error:
        load(root)
    assert str(error.value) == (
        f"{root}: 4 entries can't be used: train/cat/deeper (not a file), train/labels.csv (a file "
        "beside the class folders), test/bird (no images of this class), test/cat/away.png (a link "
        f"that leads out of {root}); repair, move or remove them"
    )


def test_classes_of_one_split_are_all_named(tmp_path):
    root = forge_folder(tmp_path / "pets", classes=("ant", "bee", "cat"))
    for split, name in (("test", "ant"), ("train", "bee")):
        (root / split / name).rename(tmp_path / name)
    with pytest.raises(InputError, match="different classes .'ant' only in train, 'bee' only in"):
        load(root)


def test_grey_pictures_stay_what_they_were(tmp_path):
    path = tmp_path / "grey.png"
    grey = RANDOM.integers(0, 256, (9, 11)).astype(np.uint8)
    Image.fromarray(grey).save(path)
    assert (folder.read_picture(path, 9, 11, 1)[0][..., 0] == grey).all()
    assert (folder.read_picture(path, 9, 11, 3)[0] == grey[..., None]).all()
