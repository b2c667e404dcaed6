"""Mixup and CutMix, as pure functions of a batch and one seed per image."""

from __future__ import annotations

import tensorflow as tf

from keras_resnet.data.augment.color import paste, to_uint8


def mix(
    images: tf.Tensor,
    labels: tf.Tensor,
    seeds: tf.Tensor,
    classes: int,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    repeats: int = 1,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each image of a batch with a partner, and their labels in the same proportion.

    The weight of an image is drawn from Beta(a, a), by a seed of its own; its partner has the rest.
    Mixup (Zhang et al. 2018) adds the two images with these weights and rounds the sum. CutMix (Yun
    et al. 2019) replaces a rectangle of the image by the same rectangle of its partner. The sides
    of the rectangle are those of the image times `sqrt(1 - weight)`, truncated, and its center is
    uniform; the rectangle is clipped to the image, and the weights of the labels are the shares of
    the pixels after that.

    Partners are in consecutive groups of `repeats` images: the first group and the second are
    partners, the third and the fourth, and so on. So the consecutive copies of an image are never
    mixed with each other, and a slice of a batch that starts and ends at multiples of `2 * repeats`
    is mixed exactly as in the whole batch. An image without a partner at the end of the batch does
    not change.

    Args:
        images: `(batch, height, width, 3)`, uint8.
        labels: `(batch,)`, integers in [0, classes).
        seeds: `(batch, 2)`, int32 or int64.
        classes: number of classes.
        mixup: the parameter a of mixup; 0 turns mixup off.
        cutmix: the parameter a of CutMix; 0 turns CutMix off. If both are on, each image uses one
            of them with equal probability. If both are off, labels become one-hot.
        repeats: size of the groups.

    Returns:
        Images, `(batch, height, width, 3)`, uint8, and labels, `(batch, classes)`, float32, each of
        which sums to 1.
    """
    one_hot = tf.one_hot(labels, classes)
    if mixup <= 0 and cutmix <= 0:
        return images, one_hot
    partners = partners_of(tf.shape(images)[0], repeats)

    # Image by image: each has its own seed, and a batch of floats would need far more memory.
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
    """Return the index of each image's partner, `(count,)`, int32; its own if it has none."""
    indices = tf.range(count)
    first = indices // repeats % 2 == 0
    partners = tf.where(first, indices + repeats, indices - repeats)
    return tf.where(partners < count, partners, indices)


def beta(seed: tf.Tensor, a: float) -> tf.Tensor:
    """Draw a float32 scalar from Beta(a, a), for any a > 0.

    A Beta(a, a) variable is x / (x + y) for two Gamma(a) variables, and a Gamma(a) variable is a
    Gamma(a + 1) variable times U^(1/a). The function computes with logarithms, as for a small a,
    such as 0.1, both x and y may underflow to 0.
    """
    gamma, uniform = tf.unstack(tf.random.split(seed, num=2))
    draws = tf.random.stateless_gamma((2,), gamma, a + 1.0)
    # In (0, 1], to avoid the logarithm of 0.
    uniforms = 1 - tf.random.stateless_uniform((2,), uniform)
    logarithms = tf.math.log(draws) + tf.math.log(uniforms) / a
    return tf.sigmoid(logarithms[0] - logarithms[1])


def _mix_pair(
    image: tf.Tensor, other: tf.Tensor, seed: tf.Tensor, mixup: float, cutmix: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the mixed image, and the weight of the first image."""
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
    center = tf.random.stateless_uniform((2,), seed) * tf.cast(size, tf.float32)
    start = tf.cast(center, tf.int32) - sides // 2
    end = tf.minimum(start + sides, size)
    start = tf.maximum(start, 0)
    pasted = paste(image, other[start[0] : end[0], start[1] : end[1]], start)
    area = tf.cast(tf.reduce_prod(end - start), tf.float32)
    return pasted, 1 - area / tf.cast(tf.reduce_prod(size), tf.float32)
