"""Which pictures, and which of them are normal."""

from flags.define import define
from mcl_tf.config import DataConfig

define(
    DataConfig,
    dataset="Where pictures come from: `digits` (scikit-learn's, embedded), a folder with train/<class>/ and "
    "test/<class>/ (JPEG, PNG, BMP, GIF), or the name of an image-classification set of TensorFlow Datasets "
    "(cifar10, cifar100, mnist, fashion_mnist, svhn_cropped, ...).",
    normal="Normal classes by number or name, with commas; `all` for every class (needs --anomaly_dataset).",
    labelled="Train with the labels of the normal classes; otherwise they count as one class.",
    anomaly_dataset="Another dataset, of any of these kinds, whose test split is added as anomalies.",
    image_size="Side in pixels that pictures are resized to; 0 takes their own, held between 16 and 224.",
    calibration_fraction="Share of the training normals that is held out and sets the threshold.",
    seed="Seed of weights, order, augmentation, partners and the held-out share.",
)
