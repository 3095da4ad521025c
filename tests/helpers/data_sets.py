"""Forged data sets for the tests: small files of the official formats, folders of images, archives.

Read next: tests/data/test_data.py.
"""

import dataclasses
import gzip
import hashlib
import io
import struct
import tarfile

import numpy as np
import pooch
from PIL import Image

from engine.data import cifar, mnist

RANDOM = np.random.default_rng(5)
SMALL10 = dataclasses.replace(
    cifar.CIFAR10,
    train=tuple((f"data_batch_{i}.bin", 20) for i in range(1, 6)),
    test=(("test_batch.bin", 20),),
)
SMALL100 = dataclasses.replace(
    cifar.CIFAR100, train=(("train.bin", 200),), test=(("test.bin", 100),)
)
SMALL_MNIST = dataclasses.replace(mnist.MNIST, counts=(30, 20))


def cifar_rows(layout, rows):
    data = RANDOM.integers(0, 256, (rows, len(layout.labels) + 3072)).astype(np.uint8)
    for column, classes in enumerate(layout.labels):
        data[:, column] = np.arange(rows) % classes
    return data


def forge_cifar(root, layout):
    home = root / layout.folder
    home.mkdir(parents=True)
    for name, rows in layout.train + layout.test:
        cifar_rows(layout, rows).tofile(home / name)
    return home


def idx(array):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def mnist_arrays():
    return {
        name: RANDOM.integers(0, 256, SMALL_MNIST.shape(name))
        if "images" in name
        else np.arange(*SMALL_MNIST.shape(name)) % 10
        for name in SMALL_MNIST.md5
    }


def forge_mnist(root, packed=()):
    home = root / "mnist"
    home.mkdir(parents=True)
    arrays = mnist_arrays()
    for name, array in arrays.items():
        if name in packed:
            (home / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (home / name).write_bytes(idx(array))
    return home, arrays


def forge_folder(root, classes=("cat", "dog"), count=3, size=(32, 32), test=2):
    for split, number in (("train", count), ("test", test)):
        for name in classes:
            home = root / split / name
            home.mkdir(parents=True)
            for i in range(number):
                pixels = RANDOM.integers(0, 256, (*size, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(home / f"img{i}.png")
    return root


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def pack(members):
    """A .tar.gz of (name, bytes) pairs."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


CIFAR10 = dataclasses.replace(
    cifar.CIFAR10, train=(("data_batch_1.bin", 11),), test=(("test_batch.bin", 10),)
)
CIFAR100 = dataclasses.replace(
    cifar.CIFAR100, train=(("train.bin", 200),), test=(("test.bin", 200),)
)


def serve(monkeypatch, files):
    """A pooch.retrieve that writes what `files` has for an address and checks the hash."""

    def retrieve(address, known_hash, fname, path, downloader, processor):
        if address not in files:
            raise ConnectionError(address)
        data = files[address]
        if known_hash and known_hash != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise ValueError(f"SHA256 hash of downloaded file ({fname}) does not match")
        (path / fname).write_bytes(data)
        if processor is not None:
            processor(str(path / fname), "download", None)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
