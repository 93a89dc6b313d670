"""How many operations per element an op outside the contractions takes: the one table."""

from __future__ import annotations

PASSES: dict[str, int] = {
    # normalisation: mean 1, centre 1, square 1, sum 1, scale 1; weight and bias are added below
    "normalise": 5,
    # with given statistics everything folds into one multiply and one add per channel
    "normalise with given statistics": 2,
    "rms_norm": 3,  # square, sum, scale
    "weight": 1,
    "bias": 1,
    "weight_norm": 3,  # square, sum, scale
    # rows of probabilities
    "softmax": 5,  # maximum, subtract, exp, sum, divide
    "log_softmax": 5,  # maximum, subtract, exp, sum, subtract
    "softmax backward": 4,  # multiply, sum, subtract, multiply
    "logsumexp": 4,  # maximum, subtract, exp, sum
    # reductions and scans, per element read
    "reduction": 1,
    "variance": 4,  # mean, centre, square, sum
    "vector norm": 2,  # power, sum
    "distance": 3,  # subtract, power, sum
    "cosine similarity": 6,  # three products, each summed
    # backward of normalisation: two sums over the row (product and gradient), then three terms
    "normalise backward": 8,
    "weight backward": 2,  # multiply, sum
    # losses, per element of the prediction
    "cross entropy with probabilities": 2,  # multiply, sum
    "mse_loss": 2,  # subtract, square
    "l1_loss": 2,  # subtract, absolute value
    "smooth_l1_loss": 5,  # subtract, absolute value, compare, square, scale
    "kl_div": 3,  # log, subtract, multiply
    # two logs, two complements, two products, one sum
    "binary_cross_entropy": 7,
    # as above through max(x, 0) - x*y + log(1 + exp(-|x|))
    "binary_cross_entropy_with_logits": 8,
    # recurrent cells, per hidden unit and step, after the products
    "lstm": 13,  # 4 sums of two products, 4 gates, f*c + i*g 3, tanh, o*tanh 1
    "gru": 11,  # 3 sums, 3 gates, r*h 1, (1 - z)*n + z*h 4
    "rnn": 2,  # one sum, one activation
}
"""Operations per element.

The rule behind each number: a fused op costs as many passes over its elements as the formula of
its textbook has elementwise and reducing steps, each 1 per element, so that it costs what the
same formula costs when a model writes it out. Terms per row or per channel are left out.
"""
