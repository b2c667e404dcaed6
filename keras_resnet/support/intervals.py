"""Confidence intervals of accuracies."""

from __future__ import annotations

#: With fewer images, the 95 % interval of an accuracy near 50 % is wider than ±10 points.
FEW_IMAGES = 100


def wilson_interval(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion, such as an accuracy, in [0, 1]."""
    import scipy.stats  # type: ignore[import-untyped]

    found = scipy.stats.binomtest(hits, total).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def margin_of(images: int) -> float:
    """Return half the width of the 95 % interval of an accuracy near 50 %, in [0, 0.5]."""
    low, high = wilson_interval(images // 2, images)
    return (high - low) / 2


def accuracy_in_words(accuracy: float, images: int) -> str:
    """Format an accuracy in [0, 1] in percent; with its 95 % interval if there are few images."""
    text = f"{accuracy:.2%}"
    if images >= FEW_IMAGES:
        return text
    low, high = wilson_interval(round(accuracy * images), images)
    return f"{text} (of {images} images: 95% interval {low:.0%} to {high:.0%})"
