"""The images and which of them are normal."""

from flags.define import define
from mcl_tf.config import DataConfig

define(
    DataConfig,
    dataset="Source of the images: `digits` (embedded in scikit-learn), a folder with train/<class>/ and "
    "test/<class>/ (JPEG, PNG, BMP, GIF), or the name of an image-classification dataset of TensorFlow Datasets "
    "(cifar10, cifar100, mnist, fashion_mnist, svhn_cropped, ...).",
    normal="Comma-separated normal classes, by number or name; `all` for every class (needs --anomaly_dataset).",
    labelled="Train with the labels of the normal classes; otherwise they count as one class.",
    anomaly_dataset="Another dataset, of any of these kinds, whose test split is added as anomalies.",
    image_size="Side in pixels that images are resized to; 0 keeps their own, limited to 16 to 224.",
    detail_size="Side in pixels, at least 16, at which --score=local and both see images; 0 keeps their own, limited "
    "to 16 to 256.",
    calibration_fraction="Share of the normal training images that is held out to set the threshold; more, up to half, "
    "if the pass rate needs them.",
    seed="Seed of weights, order, augmentation, partners and the held-out share.",
)
