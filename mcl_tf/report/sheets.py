"""Contact sheets: images with their names, scores, p-values and, with a local score, heat maps."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
from PIL import Image

from mcl_tf.explanation import explain_images
from mcl_tf.heat_maps import overlay
from mcl_tf.report.markup import name, text

COUNT = 8  # images of a sheet
_THUMBNAIL = 160  # pixels of the longer side
_SMALL = 64  # pixels up to which an image is stored without loss, and shown with visible pixels
_QUALITY = 85  # of JPEG


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image of a sheet.

    Attributes:
      name: of the file or example.
      label: the name of its class.
      score: float.
      p_value: float, see `calibration.p_values`.
      image: uint8 [s, s, 3].
      heat: float32 [s, s], higher for more anomalous places; None without a local score.
    """

    name: str
    label: str
    score: float
    p_value: float
    image: np.ndarray
    heat: np.ndarray | None = None


def sheet_indices(is_anomaly, scores, count: int = COUNT) -> dict[str, np.ndarray]:
    """Select the images of the sheets.

    Args:
      is_anomaly: bool [n].
      scores: float [n].
      count: the maximum number of images per sheet.

    Returns:
      {title: int indices}, the most telling image first.
    """
    order = np.argsort(scores, kind="stable")
    anomalous = np.asarray(is_anomaly, bool)[order]
    normal = order[~anomalous]
    if not anomalous.any():
        return {"Normal images scored highest": normal[::-1][:count], "Normal images scored lowest": normal[:count]}
    return {
        "Normal images scored highest": normal[::-1][:count],
        "Anomalies scored lowest": order[anomalous][:count],
        "Anomalies scored highest": order[anomalous][::-1][:count],
    }


def heat_maps(scorer, images: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Compute the heat maps of images.

    Args:
      scorer: a fitted `SelfEnsembleScorer`.
      images: {index: uint8 [s, s, 3]}.

    Returns:
      {index: float32 [s, s]}; empty without a local score.
    """
    if scorer.texture is None or not images:
        return {}
    maps = explain_images(scorer, np.stack(list(images.values())), visible=False)["heat_map"]
    return dict(zip(images, maps, strict=True))


def heat_range(entries) -> tuple[float, float] | None:
    """Return the range of heat that the colours of a page span, from its median to its 99.5th percentile.

    Args:
      entries: all of a page; None is returned if none has a heat map.
    """
    maps = [entry.heat for entry in entries if entry.heat is not None]
    if not maps:
        return None
    low, high = np.quantile(np.stack(maps), (0.5, 0.995))
    return float(low), float(max(high, low + 1e-6))


def sheet(entries: list[Entry], span: tuple[float, float] | None, threshold: float) -> str:
    """Return one sheet as HTML.

    Args:
      entries: its images.
      span: see `heat_range`.
      threshold: the score above which an image counts as flagged; `page.js` moves it.
    """
    kind = "sheet" if span is None else "sheet pairs"
    return f'<div class="{kind}">{"".join(_figure(entry, span, threshold) for entry in entries)}</div>'


def heat_legend(span: tuple[float, float] | None) -> str:
    """Return the legend of the colours as HTML; empty without heat maps."""
    if span is None:
        return ""
    low, high = (round(end, 1) + 0.0 for end in span)  # no negative zero
    ramp = np.linspace(0.0, 1.0, 128)[None].repeat(8, axis=0)
    bar = data_uri(overlay(np.full((8, 128, 3), 128, np.uint8), ramp, (0.0, 1.0)))
    return (
        f'<p class="legend">Heat maps, in standard deviations of normal images: {low} '
        f'<img class="ramp" src="{bar}" alt="from transparent to bright"> {high} and above.</p>'
    )


def data_uri(image) -> str:
    """Return a thumbnail as a data URI: PNG for small images, JPEG for others.

    Args:
      image: uint8 [h, w, 3].
    """
    picture, file = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    kind = "png" if max(image.shape[:2]) <= _SMALL else "jpeg"
    picture.save(file, kind, optimize=True, quality=_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _figure(entry: Entry, span, threshold: float) -> str:
    pixels = ' class="pixels"' if max(entry.image.shape[:2]) <= _SMALL else ""
    described = f"{entry.name}, class {entry.label}, score {entry.score:.4g}"
    pictures = f'<img{pixels} src="{data_uri(entry.image)}" alt="{text(described)}">'
    if entry.heat is not None:
        heat = data_uri(overlay(entry.image, entry.heat, span))
        pictures += f'<img{pixels} src="{heat}" alt="{text(f"Heat map of {entry.name}")}">'
    verdict = "flagged" if entry.score > threshold else "passed"
    caption = (
        f'{name(entry.name)}<br><span class="class">class {name(entry.label)}</span><br>'
        f"<span>score {entry.score:.4g},</span> <span>p {entry.p_value:.2g}:</span> <b>{verdict}</b>"
    )
    return (
        f'<figure class="{verdict}" data-score="{entry.score!r}">'
        f'<div class="pictures">{pictures}</div><figcaption>{caption}</figcaption></figure>'
    )
