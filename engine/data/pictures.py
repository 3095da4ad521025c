"""One picture of a folder: its file as a viewer shows it, in the size that a net wants.

Turned as its EXIF orientation says, over white where it is transparent, grey of 16 bits scaled to
8. A JPEG may lack the marker of its end; a very large one is decoded at a part of its size. A file
that claims to be a picture of more pixels than its bytes can hold is refused.

Read next: engine/data/prepare.py, a folder of them as files to be mapped.
"""

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError

from engine.errors import InputError
from engine.run.files import open_regular

try:
    import simplejpeg  # an extra: the pixels that Pillow has
except ImportError:
    simplejpeg = None

# Pillow reads more, but hands EPS to another program, and decodes some formats in Python.
FORMATS = ("PNG", "JPEG", "JPEG2000", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO")
LARGE = 1 << 21  # pixels that any file may claim to have: up to 40 MB of memory
DENSEST = 1_032  # pixels of a larger image to a byte of its file: PNG packs 1,032 bytes into one
WEIGHT = 1 << 11  # OpenCV's weights of pixels are whole numbers of 2,048ths
BILEVEL = ("1", "P")  # a byte may have eight pixels
DEEP = ("I", "F")  # more than eight bits a value: Pillow would clip them without a word
JPEG, END = b"\xff\xd8\xff", b"\xff\xd9"  # how one begins, and the marker of its end
OTHERS = bytes(range(0x55, 0xFF)), bytes(range(0xAA, 0xFF))  # data of a picture, 01… and 10…
# What makes a picture upright, by its EXIF orientation; 1 is upright.
Turn = Image.Transpose
TURNS = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
Result = TypeVar("Result")


class Unusable(InputError):
    """An entry of the folder that can't be used: its path, why, and the remedy."""

    def __init__(self, path: Path, reason: str, remedy: str):
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path, self.reason, self.remedy = path, reason, remedy


class Picture(NamedTuple):
    """pixels: (height, width, channels) uint8. changes: what was done besides decoding it. size:
    (height, width) that it had."""

    pixels: np.ndarray
    changes: list[str]
    size: tuple[int, int]


def open_picture(
    path: Path, use: Callable[[Image.Image], Result], enough: int | None = None
) -> Result:
    """use(image) of an opened file. Whatever a damaged file makes Pillow raise names the file: its
    format readers raise many kinds of exception, SyntaxError and struct.error among them.

    enough: what height and width suffice of a picture that is too large to be decoded whole."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that does not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_regular(path) as file:
                try:
                    return opened(path, file, use, enough)
                except OSError as error:
                    if not str(error).startswith("image file is truncated"):
                        raise
                    return use(ended(file, error))
    except InputError:
        raise
    except UnidentifiedImageError:
        reason = f"none of {', '.join(formats())}"
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = reason.splitlines()[0]
    raise Unusable(path, f"not a readable image ({reason})", "repair or remove it")


def opened(
    path: Path, file: BinaryIO, use: Callable[[Image.Image], Result], enough: int | None
) -> Result:
    """use(image) of a file whose size and kind are in order; Unusable names what is not."""
    try:
        image: Image.Image = Image.open(file, formats=formats())
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        image = reduced(file, enough, error)
    with image:
        height, width = size_of(image)
        size = os.fstat(file.fileno()).st_size
        if height * width > max(LARGE, DENSEST * size * (8 if image.mode in BILEVEL else 1)):
            raise Unusable(
                path,
                f"{height:,}x{width:,} pixels in a file of {size:,} bytes",
                "save a smaller image",
            )
        if image.mode.split(";")[0] in DEEP and not sixteen_bits(image):
            raise Unusable(path, f"more than 8 bits a value (mode {image.mode})", "save it with 8")
        return use(image)


def reduced(file: BinaryIO, enough: int | None, error: Exception) -> Image.Image:
    """A JPEG that Pillow takes for too large, to be decoded to half, a quarter or an eighth of its
    height and width: at least twice `enough`. Where that is too large too, `error` is raised, and
    for a progressive one, all of which would have to be kept in memory."""
    file.seek(0)
    if enough is None or file.read(3) != JPEG:
        raise error
    file.seek(0)
    image = JpegImagePlugin.JpegImageFile(file)
    whole = image.size
    image.draft(image.mode, (2 * enough, 2 * enough))
    if "progressive" in image.info or image.width * image.height > (Image.MAX_IMAGE_PIXELS or 0):
        raise error
    image.info["whole"] = whole
    return image


def size_of(image: Image.Image) -> tuple[int, int]:
    """The height and width that it is stored with."""
    width, height = image.info.get("whole", image.size)
    return height, width


def sixteen_bits(image: Image.Image) -> bool:
    """Whether its values are grey in 16 bits; as 32, mode I, Pillow gives what PNG and PPM hold."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def ended(file: BinaryIO, error: OSError) -> Image.Image:
    """A JPEG that lacks no more than the marker of its end. Where some of the picture is lost too
    the decoder fills in zeros, and other bytes make another picture: then `error` is raised."""
    file.seek(0)
    content = file.read().rstrip(b"\xff")
    if not content.startswith(JPEG):
        raise error
    image, *others = (
        Image.open(BytesIO(content + more + END), formats=["JPEG"]) for more in (b"", *OTHERS)
    )
    pixels = image.tobytes()
    if any(other.tobytes() != pixels for other in others):
        raise error
    image.info["ended"] = True
    return image


def formats() -> list[str]:
    """Those of FORMATS that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture as a viewer shows it, and whether that is not as it is stored."""
    if image.format == "PNG":
        image.load()  # its EXIF may lie behind the pixels
    turn = None
    with suppress(Exception):  # damaged EXIF says nothing, and its readers raise many kinds
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    tiff = image.format == "TIFF"  # which Pillow turns as it loads it
    image = decoded(image)
    if turn is not None and not tiff:
        image = image.transpose(turn)
    return image, turn is not None


def decoded(image: Image.Image) -> Image.Image:
    """The picture with its pixels: those of a JPEG in colours or grey by simplejpeg, where that is
    installed; whatever it objects to, Pillow reads or refuses."""
    file = image.fp if isinstance(image, JpegImagePlugin.JpegImageFile) else None
    whole = image.format == "JPEG" and not {"whole", "ended"} & image.info.keys()
    if simplejpeg is not None and file is not None and whole and image.mode in ("L", "RGB"):
        with suppress(ValueError):
            file.seek(0)
            data = file.read()
            *_, stored, _ = simplejpeg.decode_jpeg_header(data)
            if stored in ("Gray", "YCbCr"):  # what else is RGB has been converted otherwise
                wanted = "GRAY" if image.mode == "L" else "RGB"
                pixels = simplejpeg.decode_jpeg(data, wanted, fastdct=False, fastupsample=False)
                return Image.fromarray(pixels.squeeze())
    image.load()
    return image


def lanczos(image: Image.Image, height: int, width: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.LANCZOS)


def bilinear(image: Image.Image, height: int, width: int) -> Image.Image:
    """As OpenCV's INTER_LINEAR makes it of 8 bits, bit for bit: between the four nearest pixels,
    whatever the scale, in whole numbers. Caffe's convert_imageset resizes so. Grey or RGB."""
    pixels = np.asarray(image)
    pixels = pixels.reshape(*pixels.shape[:2], -1)  # (H, W, C)
    above, below, *down = _between(pixels.shape[0], height)
    left, right, *across = _between(pixels.shape[1], width)
    outside = left == right  # beside the picture; above and below it both weights are used
    across[0][outside], across[1][outside] = WEIGHT, 0
    first, last = above[0], below[-1] + 1
    columns = np.ascontiguousarray(pixels[first:last].swapaxes(0, 1))
    x = columns[left] * across[0]  # (width, H, C)
    x += columns[right] * across[1]
    x >>= 4
    x = np.ascontiguousarray(x.astype(np.uint16).swapaxes(0, 1))  # half the bytes to turn round
    y, more = x[above - first] * down[0], x[below - first] * down[1]
    y >>= 16
    more >>= 16
    y += more
    y += 2
    y >>= 2
    return Image.fromarray(y.astype(np.uint8).squeeze(2 if y.shape[2] == 1 else ()))


def _between(size: int, wanted: int) -> tuple[np.ndarray, ...]:
    """Of each of `wanted` pixels the two, of `size`, that it lies between, and their weights."""
    place = ((np.arange(wanted) + 0.5) * (size / wanted) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    part = (place - first).astype(np.float32)
    weights = (np.rint(w * WEIGHT).astype(np.int32)[:, None, None] for w in (1 - part, part))
    return (*(np.clip(at, 0, size - 1) for at in (first, first + 1)), *weights)


def eight_bits(image: Image.Image) -> Image.Image:
    """Of grey in 16 bits: 0 to 65,535 become 0 to 255."""
    values = np.asarray(image).astype(np.int64)
    grey = Image.fromarray(((values * 255 + 32_767) // 65_535).astype(np.uint8))
    if "transparency" in image.info:  # one value is
        opaque = values != image.info["transparency"]
        grey.putalpha(Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8)))
    return grey


def read_picture(
    path: Path, height: int, width: int, channels: int, *, resize: Callable = lanczos
) -> Picture:
    """A picture of that height and width; resize: `lanczos` or `bilinear`."""

    def picture(image: Image.Image) -> Picture:
        stored, changes = size_of(image), []
        if "whole" in image.info:
            changes.append("decoded at a part of their size, since they are very large")
        if "ended" in image.info:
            changes.append("read without the end marker that a JPEG has")
        image, turned = upright(image)
        if turned:
            changes.append("turned upright, as their EXIF orientation says")
        if sixteen_bits(image):
            changes.append("scaled from 16 bits a value to 8")
            image = eight_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema()[0] != 255:
                changes.append("laid over white where they are transparent")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            changes.append(f"resized to {height}x{width}")
            image = resize(image, height, width)
        pixels = np.asarray(image, np.uint8).reshape(height, width, channels)
        return Picture(pixels, changes, stored)

    return open_picture(path, picture, enough=max(height, width))
