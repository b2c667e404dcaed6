"""Mixup and CutMix, as a pure function of a batch and one seed per image."""

from __future__ import annotations

import tensorflow as tf

from keras_resnet.data.augment.colour import paste, to_uint8


def mix(
    images: tf.Tensor,
    labels: tf.Tensor,
    seeds: tf.Tensor,
    classes: int,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    repeats: int = 1,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each image of a batch with one other, and their labels in the same proportion.

    The share of the image itself is drawn from Beta(a, a), from its own seed. Mixup (Zhang et al.
    2018) adds the two images up with these shares, rounded. CutMix (Yun et al. 2019) pastes a
    rectangle of the other image over the same place. Each of its sides is the image's times the
    root of 1 minus the drawn share, less the fraction; its centre is uniform; what lies outside is
    cut off, and the labels' shares are those of the pixels in the end.

    Groups of `repeats` neighbours swap: the first with the second, the third with the fourth, and
    so on, so that copies of an image that stand side by side never mix with each other. A slice of
    a batch that starts and ends at multiples of `2 * repeats` is mixed just as in the whole batch.
    An image at the end that has no partner stays as it is.

    Args:
        images: `(batch, height, width, 3)`, uint8.
        labels: `(batch,)`, integers in [0, classes).
        seeds: `(batch, 2)`, int32 or int64.
        classes: how many there are.
        mixup: a of Beta(a, a) for mixup; 0 for none.
        cutmix: the same for CutMix. With both, each image draws which, with equal probability. With
            neither, only the labels change their form.
        repeats: size of the groups.

    Returns:
        Images, `(batch, height, width, 3)`, uint8, and labels, `(batch, classes)`, float32, whose
        sums are 1.
    """
    one_hot = tf.one_hot(labels, classes)
    if mixup <= 0 and cutmix <= 0:
        return images, one_hot
    partners = partners_of(tf.shape(images)[0], repeats)

    # One by one: a batch of floats would need several times the memory, and each image has a seed.
    def mix_one(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cond(
            partners[index] == index,
            lambda: (images[index], tf.ones(())),
            lambda: _mix_pair(images[index], images[partners[index]], seeds[index], mixup, cutmix),
        )

    mixed, shares = tf.map_fn(
        mix_one,
        tf.range(tf.shape(images)[0]),
        fn_output_signature=(
            tf.TensorSpec(images.shape[1:], tf.uint8),
            tf.TensorSpec((), tf.float32),
        ),
    )
    mixed = tf.ensure_shape(mixed, images.shape)
    shares = shares[:, tf.newaxis]
    return mixed, shares * one_hot + (1 - shares) * tf.gather(one_hot, partners)


def partners_of(count: tf.Tensor, repeats: int) -> tf.Tensor:
    """The index of each image's partner, `(count,)`, int32; its own if there is none."""
    indices = tf.range(count)
    first = indices // repeats % 2 == 0
    partners = tf.where(first, indices + repeats, indices - repeats)
    return tf.where(partners < count, partners, indices)


def beta(seed: tf.Tensor, a: float) -> tf.Tensor:
    """Draws a float32 scalar from Beta(a, a), for any a > 0.

    The quotient of two Gamma draws, by their logarithms: for a small a, such as 0.1, the draws
    themselves would sooner or later both be 0. Gamma(a) is Gamma(a + 1) times U^(1/a).
    """
    gamma, uniform = tf.unstack(tf.random.split(seed, num=2))
    draws = tf.random.stateless_gamma((2,), gamma, a + 1.0)
    # In (0, 1], as the logarithm of 0 is no number.
    uniforms = 1 - tf.random.stateless_uniform((2,), uniform)
    logarithms = tf.math.log(draws) + tf.math.log(uniforms) / a
    return tf.sigmoid(logarithms[0] - logarithms[1])


def _mix_pair(
    image: tf.Tensor, other: tf.Tensor, seed: tf.Tensor, mixup: float, cutmix: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """The mixed image, and the share of the first."""
    choice, share, place = tf.unstack(tf.random.split(seed, num=3))
    if cutmix <= 0:
        return _blend(image, other, beta(share, mixup))
    if mixup <= 0:
        return _paste(image, other, beta(share, cutmix), place)
    return tf.cond(
        tf.random.stateless_uniform((), choice) < 0.5,
        lambda: _blend(image, other, beta(share, mixup)),
        lambda: _paste(image, other, beta(share, cutmix), place),
    )


def _blend(image: tf.Tensor, other: tf.Tensor, share: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    blended = share * tf.cast(image, tf.float32) + (1 - share) * tf.cast(other, tf.float32)
    return to_uint8(blended), share


def _paste(
    image: tf.Tensor, other: tf.Tensor, share: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    size = tf.shape(image)[:2]
    sides = tf.cast(tf.cast(size, tf.float32) * tf.sqrt(1 - share), tf.int32)
    centre = tf.random.stateless_uniform((2,), seed) * tf.cast(size, tf.float32)
    start = tf.cast(centre, tf.int32) - sides // 2
    end = tf.minimum(start + sides, size)
    start = tf.maximum(start, 0)
    pasted = paste(image, other[start[0] : end[0], start[1] : end[1]], start)
    area = tf.cast(tf.reduce_prod(end - start), tf.float32)
    return pasted, 1 - area / tf.cast(tf.reduce_prod(size), tf.float32)
