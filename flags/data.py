"""The images and which of them are normal."""

from absl import flags

from flags.define import define
from mcl_tf.config import DataConfig
from mcl_tf.data.paths import is_table

define(
    DataConfig,
    dataset="Source of the images: `digits` (embedded in scikit-learn); a folder of images (JPEG, PNG, BMP, GIF, "
    "WebP, TIFF) with train/<class>/ and test/<class>/, with train/<class>/ or <class>/ alone, or of normal images "
    "(see also --manifest); or the name of an image-classification dataset of TensorFlow Datasets "
    "(cifar10, cifar100, mnist, fashion_mnist, svhn_cropped, ...).",
    normal="Comma-separated normal classes, by number or name; `all` for every class (needs --anomaly_dataset, "
    "but for folders); `each` for a table of every class by itself (see also --seeds). Images that lie in no folder of "
    "a class have the class `good`.",
    labelled="Train with the labels of the normal classes; otherwise they count as one class.",
    anomaly_dataset="Another dataset, of any of these kinds, whose test split is added as anomalies; or several, "
    "separated by commas, for a table of them. `uniform`, `gaussian`, `blobs`, `permuted` and `interp` need no "
    "download. NAME+unresized takes the central part of every image at its own resolution.",
    image_size="Side in pixels that images are resized to; 0 keeps their own, limited to 16 to 224.",
    detail_size="Side in pixels, at least 16, at which --score=local and both see images; 0 keeps their own, limited "
    "to 16 to 256.",
    resize="What becomes of images that are not square: `squeeze` stretches them, `pad` keeps their aspect ratio and "
    "mirrors them beyond their edges, `crop` takes their central square.",
    max_unreadable="Share of the images of a folder that may be unreadable; they are named and left out. With more, "
    "the run ends before the training.",
    calibration_fraction="Share of the normal training images that is held out to set the threshold; more, up to half, "
    "if the pass rate needs them.",
    seed="Seed of weights, order, augmentation, partners and the held-out share.",
)
flags.DEFINE_string(
    "manifest",
    None,
    "A table of images, in the place of --dataset: FILE.csv with the column path, relative to the table, and, if they "
    "are needed, label and split (train or test).",
)
flags.register_validator("manifest", lambda value: value is None or is_table(value), "must be a file FILE.csv")
