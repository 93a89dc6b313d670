"""Multiply-adds of networks, derived by hand from their sizes.

Only arithmetic: nothing here looks at a model, at torch or at torchatlas. Each function gives the
multiply-adds of the contractions (matrix products, convolutions, attention) of one forward pass,
padding included, and nothing of biases, norms, activations or pooling.
"""

from __future__ import annotations

from math import ceil

# -- layers ------------------------------------------------------------------------------------


def conv2d(side: int, inputs: int, outputs: int, kernel: int, groups: int = 1) -> int:
    """Return the products of a convolution whose output is `side` by `side`, for one image."""
    return side * side * outputs * (inputs // groups) * kernel * kernel


def attention(batch: int, queries: int, keys: int, width: int) -> int:
    """Return the products of queries with keys, and of weights with values, over all heads."""
    return 2 * batch * queries * keys * width


def multihead(batch: int, length: int, width: int) -> int:
    """Return those of self-attention between its four projections."""
    return 4 * batch * length * width * width + attention(batch, length, length, width)


def recurrent(
    gates: int,
    tokens: int,
    inputs: int,
    hidden: int,
    layers: int = 1,
    directions: int = 1,
) -> int:
    """Return those of an RNN (1 gate), a GRU (3) or an LSTM (4) over time steps times batch."""
    first = inputs + hidden
    further = directions * hidden + hidden
    return tokens * directions * gates * hidden * (first + (layers - 1) * further)


# -- convolutional networks --------------------------------------------------------------------


def resnet50_stages(size: int) -> list[tuple[int, int, int]]:
    """Return, for each stage of a ResNet-50, its products, channels and side; the stem is first."""
    side = ceil(size / 2)
    stages = [(conv2d(side, 3, 64, 7), 64, side)]
    side, inputs = ceil(side / 2), 64
    for index, blocks in enumerate((3, 4, 6, 3)):
        middle = 64 << index
        outputs, before = 4 * middle, side
        side = ceil(side / 2) if index else side
        reduce = conv2d(before, inputs, middle, 1)  # the stride is in the middle convolution
        rest = conv2d(side, middle, middle, 3) + conv2d(side, middle, outputs, 1)
        shortcut = conv2d(side, inputs, outputs, 1)
        further = conv2d(side, outputs, middle, 1) + rest
        stages.append((reduce + rest + shortcut + (blocks - 1) * further, outputs, side))
        inputs = outputs
    return stages


def resnet50(size: int = 224) -> int:
    """Return those of a ResNet-50 for one image.

    >>> resnet50()
    4089184256
    """
    return sum(macs for macs, _, _ in resnet50_stages(size)) + 2048 * 1000


def resnet50_fpn(size: int) -> int:
    """Return those of a ResNet-50 without its head, and of a pyramid of four levels of 256."""
    stages = resnet50_stages(size)
    pyramid = (
        conv2d(side, channels, 256, 1) + conv2d(side, 256, 256, 3)
        for _, channels, side in stages[1:]
    )
    return sum(macs for macs, _, _ in stages) + sum(pyramid)


MOBILENET_V3_LARGE = (
    # kernel, expanded, outputs, squeezed (0: no squeeze and excitation), stride
    (3, 16, 16, 0, 1),
    (3, 64, 24, 0, 2),
    (3, 72, 24, 0, 1),
    (5, 72, 40, 24, 2),
    (5, 120, 40, 32, 1),
    (5, 120, 40, 32, 1),
    (3, 240, 80, 0, 2),
    (3, 200, 80, 0, 1),
    (3, 184, 80, 0, 1),
    (3, 184, 80, 0, 1),
    (3, 480, 112, 120, 1),
    (3, 672, 112, 168, 1),
    (5, 672, 160, 168, 2),
    (5, 960, 160, 240, 1),
    (5, 960, 160, 240, 1),
)
"""Table 1 of Howard et al., "Searching for MobileNetV3"; squeezed: a quarter, in eights."""


def mobilenet_v3_large(size: int = 224) -> int:
    """Return those of a MobileNetV3-Large for one image.

    >>> mobilenet_v3_large()
    216589760
    """
    side, inputs = ceil(size / 2), 16
    total = conv2d(side, 3, inputs, 3)
    for kernel, expanded, outputs, squeezed, stride in MOBILENET_V3_LARGE:
        total += conv2d(side, inputs, expanded, 1) if expanded != inputs else 0
        side = ceil(side / stride)
        total += conv2d(side, expanded, expanded, kernel, groups=expanded)
        total += 2 * expanded * squeezed
        total += conv2d(side, expanded, outputs, 1)
        inputs = outputs
    return total + conv2d(side, 160, 960, 1) + 960 * 1280 + 1280 * 1000


def convnextv2_tiny(size: int = 224) -> int:
    """Return those of a ConvNeXt V2 Tiny for one image; `size` is a multiple of 32."""
    side, inputs, total = size // 4, 96, conv2d(size // 4, 3, 96, 4)
    for depth, width in zip((3, 3, 9, 3), (96, 192, 384, 768), strict=True):
        if width != inputs:
            side //= 2
            total += conv2d(side, inputs, width, 2)
        mixing = conv2d(side, width, width, 7, groups=width)
        total += depth * (mixing + 2 * side * side * width * 4 * width)
        inputs = width
    return total + 768 * 1000


# -- vision transformers -----------------------------------------------------------------------


def vit_b_16(size: int = 224) -> int:
    """Return those of a ViT-B/16 for one image."""
    side, width = size // 16, 768
    tokens = side * side + 1  # and the class
    layer = multihead(1, tokens, width) + 2 * tokens * width * 4 * width
    return conv2d(side, 3, width, 16) + 12 * layer + width * 1000


def swin_t(size: int = 224) -> int:
    """Return those of a Swin-T for one image.

    Its windows are of 7 by 7, shifted or not, so that attention works on an image padded to a
    multiple of 7; the MLP works on the image itself.
    """
    side, total = size // 4, conv2d(size // 4, 3, 96, 4)
    for index, depth in enumerate((2, 2, 6, 2)):
        width = 96 << index
        if index:
            side = ceil(side / 2)
            total += side * side * (2 * width) * width  # four neighbours of half the width
        padded = ceil(side / 7) ** 2 * 49
        own = 4 * padded * width * width + attention(1, padded, 49, width)
        total += depth * (own + 2 * side * side * width * 4 * width)
    return total + 768 * 1000


# -- language models ---------------------------------------------------------------------------


def bert(batch: int, length: int, width: int, inner: int, layers: int) -> int:
    """Return those of a BERT with its pooler."""
    tokens = batch * length
    layer = multihead(batch, length, width) + 2 * tokens * width * inner
    return layers * layer + batch * width * width


def gpt2(batch: int, length: int, width: int, layers: int, words: int = 0) -> int:
    """Return those of a GPT-2, and of its output over `words`."""
    tokens = batch * length
    layer = multihead(batch, length, width) + 2 * tokens * width * 4 * width
    return layers * layer + tokens * width * words


def llama(
    batch: int,
    length: int,
    width: int,
    inner: int,
    layers: int,
    *,
    heads: int,
    shared: int,
    words: int = 0,
) -> int:
    """Return those of a Llama with `shared` heads for keys and values, and over `words`."""
    tokens = batch * length
    projections = 2 * tokens * width * (width + width * shared // heads)
    mixing = attention(batch, length, length, width)
    layer = projections + mixing + 3 * tokens * width * inner
    return layers * layer + tokens * width * words


def mixtral(
    batch: int,
    length: int,
    width: int,
    inner: int,
    layers: int,
    *,
    heads: int,
    shared: int,
    experts: int,
    chosen: int,
    words: int = 0,
) -> int:
    """Return those of a Mixtral: a Llama whose tokens go to `chosen` of its `experts`."""
    tokens = batch * length
    routed = tokens * width * experts + tokens * chosen * 3 * width * inner
    rest = llama(batch, length, width, 0, layers, heads=heads, shared=shared, words=words)
    return rest + layers * routed


def t5(
    batch: int,
    source: int,
    target: int,
    width: int,
    inner: int,
    layers: int,
    *,
    projected: int,
    words: int = 0,
) -> int:
    """Return those of a T5 with `layers` on both sides; `projected` is heads times their width."""

    def attend(queries: int, keys: int) -> int:
        projections = 2 * batch * (queries + keys) * width * projected
        return projections + attention(batch, queries, keys, projected)

    def forward(length: int) -> int:
        return 2 * batch * length * width * inner

    encoder = attend(source, source) + forward(source)
    decoder = attend(target, target) + attend(target, source) + forward(target)
    return layers * (encoder + decoder) + batch * target * width * words


# -- the other direction -----------------------------------------------------------------------


def backward(forward: int, first: int) -> int:
    """Return those of the backward pass: a gradient of each operand of every contraction.

    Nobody asks for the gradient of an image, so the `first` layer has only that of its weight.
    """
    return 2 * forward - first
