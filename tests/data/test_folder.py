"""Pictures as a viewer shows them, what is passed over, and errors that name everything at once.

Read next: tests/data/test_prepare.py.
"""

import numpy as np
import pytest
from PIL import ExifTags, Image

from engine.data import folder, load, pictures
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
    if form not in pictures.formats():
        pytest.skip(f"Pillow is built without {form}")
    path = tmp_path / "picture"
    stored(turn).save(path, form, exif=exif(turn), **({} if form == "PNG" else {"quality": 95}))
    pixels, changes, _ = pictures.read_picture(path, 24, 32, 3)
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
    assert (pictures.read_picture(path, 24, 32, 3)[0] == SEEN).all()


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
    pixels, changes, _ = pictures.read_picture(path, 24, 32, 3)
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
    pixels, changes, _ = pictures.read_picture(path, 16, 16, channels)
    want = np.full((16, 16, channels), 255)
    want[4:12, 4:12] = 0
    assert (pixels == want).all() and changes == ["laid over white where they are transparent"]


def test_half_transparent_is_half_white_and_opaque_is_no_change(tmp_path):
    path = tmp_path / "picture.png"
    for alpha, grey, changed in ((0, 255, True), (51, 204, True), (204, 51, True), (255, 0, False)):
        Image.new("RGBA", (4, 4), (0, 0, 0, alpha)).save(path)
        pixels, changes, _ = pictures.read_picture(path, 4, 4, 3)
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
    assert clean.notes == ["data pets/: a class has 3 training and 2 test images"]
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
        "(#recycle, $RECYCLE.BIN, .DS_Store, .Trashes, ._img0.png and 17 more)",
        *clean.notes,
    ]
    assert not any(map(folder.litter, ("recycle", "cat", "thumbs", "lost and found", "eaDir")))


def test_all_that_can_not_be_read_is_named_at_once(tmp_path):
    root = forge_folder(tmp_path / "pets", count=9)
    for number in range(7):
        (root / "train" / "cat" / f"img{number}.png").write_bytes(b"no picture")
    Image.new("F", (32, 32)).save(root / "test" / "dog" / "img0.png", "TIFF")
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
    (root / "train" / "bird").mkdir()
    (root / "test" / "cat" / "away.png").symlink_to("/etc/passwd")
    with pytest.raises(InputError) as error:
        load(root)
    assert str(error.value) == (
        f"{root}: 4 entries can't be used: train/bird (no images of this class), train/cat/deeper "
        "(not a file), train/labels.csv (a file beside the class folders), test/cat/away.png (a "
        f"link that leads out of {root}); repair, move or remove them"
    )


def test_classes_for_testing_alone_are_all_named(tmp_path):
    root = forge_folder(tmp_path / "pets", classes=("ant", "bee", "cat", "dog"))
    for name in ("ant", "dog"):
        (root / "train" / name).rename(tmp_path / name)
    with pytest.raises(InputError, match="class folders for testing alone .'ant', 'dog'.; give"):
        load(root)


@pytest.mark.parametrize("emptied", [True, False])
def test_a_class_may_lack_test_images(tmp_path, emptied):
    root = forge_folder(tmp_path / "pets", classes=("ant", "bee", "cat"))
    for path in (root / "test" / "bee").iterdir():
        path.unlink()
    if not emptied:
        (root / "test" / "bee").rmdir()
    data = load(root)
    assert (data.classes, data.test.labels.tolist()) == (["ant", "bee", "cat"], [0, 0, 2, 2])
    assert data.notes == [
        "data pets/: no test images of 1 classes ('bee')",
        "data pets/: a class has 3 training and 0 to 2 test images",
    ]
    for name in ("ant", "cat"):
        for path in (root / "test" / name).iterdir():
            path.unlink()
    with pytest.raises(InputError, match="pets: no test images; add some"):
        load(root)


@pytest.mark.parametrize("train, test", [("train", "val"), ("TRAIN", "Validation")])
def test_folders_by_other_names(tmp_path, train, test):
    root = forge_folder(tmp_path / "pets")
    want = load(root)
    (root / "train").rename(root / train)
    (root / "test").rename(root / test)
    assert load(root).fingerprint == want.fingerprint and load(root).notes == want.notes
    (root / "Test").mkdir()  # as ImageNet's is, whose images have no classes
    Image.new("RGB", (8, 8)).save(root / "Test" / "img0.png")
    assert load(root).fingerprint == want.fingerprint
    assert f"data pets/: {test}/ is for testing; Test/ not read" in load(root).notes
    (root / "test").mkdir(exist_ok=True)
    if len(list(root.iterdir())) == 4:  # where case matters
        with pytest.raises(InputError, match="pets: Test and test differ only in case; leave one"):
            load(root)


def test_what_can_be_no_training_folder(tmp_path):
    root = forge_folder(tmp_path / "pets")
    (root / "test").rename(root / "tset")
    with pytest.raises(InputError, match="no folder 'test' beside 'train', but 'tset'; expected"):
        load(root)
    (root / "tset").rename(root / "valid")
    (root / "train").rename(root / "trian")
    with pytest.raises(InputError, match="no folder 'train' beside 'valid'; expected train/CLASS"):
        load(root)


def class_folders(root, **counts):
    """Images of one colour each, so that they are told apart."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for place in range(count):
            Image.new("RGB", (8, 8), (number, place, 0)).save(root / name / f"img{place}.png")
    return root


def test_class_folders_alone_are_split_by_the_names_of_the_images(tmp_path):
    root = class_folders(tmp_path / "pets", ant=30, bee=2, cat=1, train=12)
    data = load(root)
    assert data.classes == ["ant", "bee", "cat", "train"]
    assert np.bincount(data.train.labels).tolist() == [27, 1, 1, 11]
    assert np.bincount(data.test.labels).tolist() == [3, 1, 0, 1]
    both = np.concatenate([data.train.images, data.test.images])[:, 0, 0, :2]
    assert len(set(map(tuple, both))) == 45  # each is in one of the two
    assert data.notes == [
        "data pets/: no folder for testing, so one in 10 images of a class is, by the hash of its "
        "name: 5 of 45",
        "data pets/: no test images of 1 classes ('cat')",
        "data pets/: a class has 1 to 27 training and 0 to 3 test images",
    ]
    chosen = data.test.images[data.test.labels == 0][:, 0, 0, 1].tolist()
    assert chosen == [0, 7, 20]  # pinned: on every machine these
    (root / "ant" / f"img{chosen[0]}.png").unlink()
    now = load(root).test
    left = set(now.images[now.labels == 0][:, 0, 0, 1].tolist())
    assert set(chosen[1:]) <= left and len(left) == 2  # of 29
    (tmp_path / "home").mkdir()
    root.rename(tmp_path / "home" / "train")
    assert load(tmp_path / "home").classes == data.classes  # a training folder alone


def test_links_are_followed_where_that_is_asked_for(tmp_path):
    root, other = forge_folder(tmp_path / "pets"), forge_folder(tmp_path / "others")
    (root / "train" / "cat" / "img9.png").symlink_to(other / "train" / "cat" / "img0.png")
    (root / "train" / "dog").rename(tmp_path / "dogs")
    (root / "train" / "dog").symlink_to(tmp_path / "dogs")
    with pytest.raises(InputError, match="copy the file instead, or give --follow-links|2 entries"):
        load(root)
    data = load(root, follow_links=True)
    assert np.bincount(data.train.labels).tolist() == [4, 3]
    assert (data.train.images[3] == load(other).train.images[0]).all()
    (root / "train" / "dog" / "round").symlink_to(root)
    (root / "train" / "dog" / "self").symlink_to("self")
    with pytest.raises(
        InputError, match=r"dog/round \(not a file\), train/dog/self \(not a file\)"
    ):
        load(root, follow_links=True)


def test_grey_pictures_stay_what_they_were(tmp_path):
    path = tmp_path / "grey.png"
    grey = RANDOM.integers(0, 256, (9, 11)).astype(np.uint8)
    Image.fromarray(grey).save(path)
    assert (pictures.read_picture(path, 9, 11, 1)[0][..., 0] == grey).all()
    assert (pictures.read_picture(path, 9, 11, 3)[0] == grey[..., None]).all()


@pytest.mark.parametrize("form, mode", [("PNG", "I;16"), ("TIFF", "I;16"), ("PPM", "I;16")])
def test_sixteen_bits_of_grey_are_scaled(tmp_path, form, mode):
    path = tmp_path / "grey"
    deep = np.array([[0, 128, 129, 257, 32_767, 32_768, 65_406, 65_407, 65_535]], np.uint16)
    Image.fromarray(deep).save(path, form)
    for channels in (1, 3):
        pixels, changes, size = pictures.read_picture(path, 1, 9, channels)
        assert pixels[0, :, 0].tolist() == np.rint(deep[0] / 257).tolist()
        assert changes == ["scaled from 16 bits a value to 8"] and size == (1, 9)


def test_one_value_of_sixteen_bits_may_be_transparent(tmp_path):
    path = tmp_path / "grey.png"
    deep = np.array([[0, 999, 257 * 7]], np.uint16)
    Image.fromarray(deep).save(path, transparency=999)
    assert pictures.read_picture(path, 1, 3, 1).pixels[0, :, 0].tolist() == [0, 255, 7]


def photo(size=(64, 48)) -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 256, (*size[::-1], 3)).astype(np.uint8))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_a_jpeg_may_lack_its_end_marker_and_nothing_else(tmp_path, options):
    path = tmp_path / "picture.jpg"
    photo().save(path, **options)
    content, want = path.read_bytes(), np.asarray(Image.open(path))
    assert content.endswith(pictures.END)
    for cut in (content[:-2], content[:-1]):
        path.write_bytes(cut)
        pixels, changes, _ = pictures.read_picture(path, 48, 64, 3)
        assert (pixels == want).all()
        assert changes == ["read without the end marker that a JPEG has"]
        assert folder.common_size(tmp_path, [path]) == (48, 64)
    refused = set()
    for length in (*range(3, 12), 40, 400, len(content) // 2):
        path.write_bytes(content[:-length])
        try:  # of the last few bits none may matter
            assert (pictures.read_picture(path, 48, 64, 3).pixels == want).all()
        except InputError as error:
            assert "picture.jpg: not a readable image (image file is trunc" in str(error)
            refused.add(length)
    assert refused >= {*range(5, 12), 40, 400, len(content) // 2}


def test_a_very_large_jpeg_is_decoded_at_a_part_of_its_size(tmp_path, monkeypatch):
    path = tmp_path / "picture.jpg"
    image = Image.fromarray(SEEN).resize((1280, 960))
    image.save(path, quality=95)
    want = pictures.read_picture(path, 24, 32, 3).pixels
    for limit in (1_000_000, 500_000):  # Pillow warns, and refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        pixels, changes, size = pictures.read_picture(path, 24, 32, 3)
        assert np.abs(pixels.astype(int) - want).mean() < 2 and size == (960, 1280)
        assert changes == [
            "decoded at a part of their size, since they are very large",
            "resized to 24x32",
        ]
    with pytest.raises(InputError, match="not a readable image .Image size"):
        pictures.read_picture(path, 960, 1280, 3)  # all of it is wanted
    image.save(path, progressive=True)
    with pytest.raises(InputError, match="not a readable image .Image size"):
        pictures.read_picture(path, 24, 32, 3)


def test_notes_say_how_large_pictures_are(tmp_path):
    root = forge_folder(tmp_path / "pets")
    Image.new("RGB", (7, 90)).save(root / "train" / "cat" / "img3.png")
    Image.new("RGB", (5, 4)).save(root / "test" / "cat" / "img3.png")
    notes = load(root, size=(32, 32)).notes
    assert "data pets/: pictures of 4x5 to 32x32 pixels" in notes
    assert "data pets/: a class has 3 to 4 training and 2 to 3 test images" in notes
