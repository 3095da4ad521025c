"""A folder of images as files that a program can map: decoded and resized once, as Caffe did.

    python -m engine.data.prepare ILSVRC2012 imagenet     # train/CLASS/*.JPEG and val/CLASS/*.JPEG
    python -m engine.data.prepare FOLDER DEST --size 128 --workers 4

The folder is read by the rules of `engine.train --data FOLDER`. DEST will hold

    train.npy, test.npy    uint8 (M, size, size, 3), class by class, for np.load(…, mmap_mode="r")
    mean.npy               float64 (size, size, 3), the mean of the training images
    prepared.json          classes, images of each, SHA-256 of mean.npy and of each 64 images

A picture is squashed to size x size by OpenCV's bilinear formula, as Caffe's convert_imageset does.
The files have the same bytes for any number of workers. A preparation that was killed, or whose
pictures have changed since, goes on when the command is given again: what stands in DEST is read,
and made anew where it is not what was written. prepared.json is written last: with it all is whole.

Read next: engine/data/synthetic.py, the set that needs no files.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from engine.cli.command import Parser, run_command
from engine.cli.messages import print_line
from engine.data import folder, pictures
from engine.data.pictures import Unusable, bilinear, read_picture
from engine.errors import InputError, RunError
from engine.run.files import FULL, NoRoom, contents, parse, sweep, write_atomic, write_json

RECORD, MEAN, JOURNAL, LOCK = "prepared.json", "mean.npy", "prepare.journal", "prepare.lock"
PARTS = ("train", "test")
IMAGES = 64  # in a block: the sum of its values fits into 16 bits
START = 128  # bytes of the header of an .npy file
SMALLEST, LARGEST = 8, 2_048  # pixels a side
LONGEST = 1 << 30  # bytes of a journal or a record
EVERY = 10  # seconds between lines on how far it is


@dataclass
class Block:
    """Up to IMAGES pictures that lie one after another, for a worker. file: where to, from picture
    `first` on. key: a hash of what they are made of. sha256: of their pixels, where they have been
    written, else None."""

    file: Path
    first: int
    paths: list[Path]
    size: int
    key: str
    sha256: str | None = None


@dataclass
class Done:
    """What a worker has to say of a block. sha256, total (size, size, 3) uint16: the hash and the
    sum of its pixels. changes: counts of what was done to pictures, None where all of them stood
    there. problems: what Unusable takes, of each picture that can't be used."""

    sha256: str
    total: np.ndarray
    changes: Counter[str] | None
    problems: list[tuple[Path, str, str]]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="engine.data.prepare", description=__doc__.split("\n\nRead next")[0])
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="train/CLASS/* and test/CLASS/*, or CLASS/*")
    add("dest", metavar="DEST", help="a folder, made if there is none")
    add("--size", type=int, default=256, metavar="PIXELS", help="of a side (default: 256)")
    add("--workers", type=int, metavar="N", help="processes (default: one a CPU)")
    add("--follow-links", action="store_true", help="out of the folder of images")
    args = parser.parse_args(argv)
    if not SMALLEST <= args.size <= LARGEST:
        raise InputError(f"--size {args.size}: expected {SMALLEST} to {LARGEST:,} pixels")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers {args.workers}: expected 1 or more")
    root, dest = (Path(os.path.expanduser(name)).resolve() for name in (args.folder, args.dest))
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a folder of images")
    if dest.is_relative_to(root) or root.is_relative_to(dest):
        raise InputError(f"{dest}: one of DEST and FOLDER lies in the other; give another DEST")
    if dest.exists() and not dest.is_dir():
        raise InputError(f"{dest}: not a folder; give another DEST")
    found = folder.find(root, None, args.follow_links)
    dest.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(dest / LOCK, timeout=0, fallback_to_soft=False):
            prepare(root, found, dest, args.size, args.workers or os.cpu_count() or 1)
    except Timeout:
        raise InputError(f"{dest}: another process prepares it; wait for it or stop it") from None
    return 0


def prepare(root: Path, found: folder.Found, dest: Path, size: int, workers: int) -> None:
    """Fill DEST; a line to standard output on what is done, and how far it is."""
    for note in found.notes:
        print_line(f"data {root.name}/: {note}")
    decoder = "simplejpeg" if pictures.simplejpeg else "Pillow"
    count = sum(map(len, found.paths))
    gigabytes = count * size * size * 3 / 1e9
    print_line(f"{count:,} images, {gigabytes:.1f} GB  workers {workers}  JPEGs by {decoder}")
    sweep(dest)
    (dest / RECORD).unlink(missing_ok=True)
    blocks = {part: list(split(root, dest / f"{part}.npy", paths, size))
              for part, paths in zip(PARTS, found.paths, strict=True)}  # fmt: skip
    every = [block for part in PARTS for block in blocks[part]]
    before = recall(dest, every)
    lines = [line(block, before[block.file.name, block.first]) for block in every if block.sha256]
    write_atomic(dest / JOURNAL, b"".join(lines))  # and nothing of blocks that are written over
    for part, paths in zip(PARTS, found.paths, strict=True):
        lay_out(dest / f"{part}.npy", (len(paths), size, size, 3))
    changes: Counter[str] = Counter()
    total = np.zeros((size, size, 3), np.int64)  # whole numbers: the order makes no difference
    problems: list[Unusable] = []
    begun = said = time.monotonic()
    over = redone = 0
    with open(dest / JOURNAL, "ab") as journal:
        for block, done in finished(every, workers):
            problems += [Unusable(*problem) for problem in done.problems]
            over += len(block.paths)
            if block.file.stem == PARTS[0]:
                total += done.total
            if done.changes is None:
                done.changes = before[block.file.name, block.first]
            elif not done.problems:
                redone += block.sha256 is not None
                block.sha256 = done.sha256
                write(journal, line(block, done.changes))
            changes.update(done.changes)
            if (now := time.monotonic()) - said > EVERY:
                said = now
                print_line(f"{over:,} of {count:,} images  {over / (now - begun):,.0f} images/s")
    folder.refuse(root, sorted(problems, key=lambda problem: folder.natural(str(problem.path))))
    mean, mean_image = BytesIO(), total / len(found.paths[0])
    np.lib.format.write_array_header_1_0(mean, np.lib.format.header_data_from_array_1_0(mean_image))
    mean.write(mean_image.tobytes())
    write_atomic(dest / MEAN, mean.getvalue())
    record = {
        "size": size,
        "classes": found.classes,
        "images": {part: np.bincount(labels, minlength=len(found.classes))
                   for part, labels in zip(PARTS, found.labels, strict=True)},
        "mean": hashlib.sha256(mean.getvalue()).hexdigest(),
        "block": IMAGES,
        "blocks": {part: [block.sha256 for block in blocks[part]] for part in PARTS},
    }  # fmt: skip
    write_json(dest / RECORD, record, LONGEST)
    for note in folder.change_notes(changes, count) + [
        folder.class_sizes(found.labels, len(found.classes)),
        *([f"{redone:,} blocks in {dest} were not what was written; made anew"] if redone else []),
    ]:
        print_line(f"data {root.name}/: {note}")
    seconds = time.monotonic() - begun
    print_line(f"wrote {dest}, {count:,} images, {count / seconds:,.0f} images/s")


def split(root: Path, file: Path, paths: list[Path], size: int) -> Iterator[Block]:
    """The blocks of one file. Their keys name the pictures, and when and how large they are."""
    for first in range(0, len(paths), IMAGES):
        mine = paths[first : first + IMAGES]
        key = hashlib.sha256(f"{size}".encode())
        for path in mine:
            about = path.stat()
            key.update(os.fsencode(path.relative_to(root)))
            key.update(f"\0{about.st_size} {about.st_mtime_ns}\0".encode())
        yield Block(file, first, mine, size, key.hexdigest())


def line(block: Block, changes: Counter[str]) -> bytes:
    """Of the journal: that a block has been written."""
    values = [block.file.name, block.first, block.key, block.sha256, changes]
    return json.dumps(values).encode() + b"\n"


def recall(dest: Path, blocks: list[Block]) -> dict[tuple[str, int], Counter[str]]:
    """Give the blocks that the journal has, made of the same pictures, their hash; by file and
    first picture the changes that it has for them. What is no line of a journal is passed over: the
    end of one may be cut off, and a block without a line is made anew."""
    written, before = {}, {}
    try:
        content = contents(dest / JOURNAL, LONGEST)
    except (FileNotFoundError, ValueError):
        return {}
    for text in content.splitlines():
        try:
            name, first, key, sha256, changes = parse(text)
            before[name, first] = Counter({str(k): int(n) for k, n in changes.items()})
            written[name, first] = str(key), str(sha256)
        except (ValueError, TypeError, AttributeError):
            continue
    for block in blocks:
        key, sha256 = written.get((block.file.name, block.first), ("", None))
        block.sha256 = sha256 if key == block.key else None
    return before


def write(file, data: bytes | memoryview) -> None:
    """Onto the disk, before it returns. NoRoom where it is full."""
    try:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        kind = NoRoom if error.errno in FULL else RunError
        raise kind(
            f"cannot write {file.name}: {error.strerror}; make room, and give the command again"
        ) from None


def lay_out(path: Path, shape: tuple[int, ...]) -> None:
    """An .npy file of uint8 of this shape; what it held stays where it was."""
    with open(path, "ab"):
        pass
    with open(path, "r+b") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        assert file.tell() == START
        file.truncate(START + int(np.prod(shape, dtype=np.int64)))


def finished(blocks: list[Block], workers: int) -> Iterator[tuple[Block, Done]]:
    """Each block with what its worker says, in the order in which they are done. RunError where a
    worker ends on the way."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(blocks)), context, begin)
    try:
        waiting = {pool.submit(make, block): block for block in blocks}
        for future in as_completed(waiting):
            yield waiting.pop(future), future.result()
    except BrokenProcessPool:
        raise RunError(
            "a worker was killed, perhaps for lack of memory; give fewer --workers, and the "
            "command again: it goes on"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def begin() -> None:
    """A worker's: Ctrl-C is for the process that has made it, and it ends when that does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    maker = multiprocessing.parent_process()
    assert maker is not None

    def end() -> None:
        maker.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def make(block: Block) -> Done:
    """Decode, resize and write a block, unless what was written of it stands there."""
    shape = (len(block.paths), block.size, block.size, 3)
    images = np.zeros(shape, np.uint8)
    changes: Counter[str] | None = None
    problems = []
    with open(block.file, "r+b") as file:
        file.seek(START + block.first * images[0].size)
        if block.sha256 is not None:
            file.readinto(images.data)
        if block.sha256 != hashlib.sha256(images.data).hexdigest():
            changes = Counter()
            for place, path in enumerate(block.paths):
                try:
                    picture = read_picture(path, *shape[1:], resize=bilinear)
                    images[place] = picture.pixels
                    changes.update(picture.changes)
                except Unusable as error:
                    problems.append((error.path, error.reason, error.remedy))
            if not problems:
                file.seek(START + block.first * images[0].size)
                write(file, images.data)
    total = images.sum(axis=0, dtype=np.uint16)
    return Done(hashlib.sha256(images.data).hexdigest(), total, changes, problems)


if __name__ == "__main__":
    sys.exit(run_command("engine.data.prepare", main))
