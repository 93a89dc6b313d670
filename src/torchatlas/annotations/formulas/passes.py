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
    "distance backward": 4,  # subtract, two products, sum
    "logcumsumexp": 4,  # maximum, subtract, exp, sum
    "cosine similarity": 6,  # three products, each summed
    # backward of normalisation: two sums over the row (product and gradient), then three terms
    "normalise backward": 8,
    "normalise backward with given statistics": 1,  # multiply
    "rms_norm backward": 5,  # product, its sum, multiply, subtract, scale
    "weight backward": 2,  # multiply, sum
    "weight_norm backward": 5,  # product, its sum, multiply, subtract, scale
    # the same in two steps, for statistics over several devices: 3 + 5 are the 8 of one step
    "normalise backward, sums": 3,  # product, two sums
    "normalise backward, terms": 5,  # centre, two products, subtract, scale
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
    "hinge_embedding_loss": 4,  # subtract from the margin, maximum, compare, choose
    "margin_ranking_loss": 4,  # subtract, multiply, add the margin, maximum
    "multi_margin_loss backward": 4,  # subtract, add the margin, compare, scale
    # per pair of a label that holds and a class: subtract, add the margin, maximum, sum
    "multilabel_margin_loss": 4,
    # per state and step: maximum of three 2, subtract 3, exp 3, sum 2, log, two sums
    "ctc_loss": 13,
    # recurrent cells, per hidden unit and step, after the products
    "lstm": 13,  # 4 sums of two products, 4 gates, f*c + i*g 3, tanh, o*tanh 1
    "gru": 11,  # 3 sums, 3 gates, r*h 1, (1 - z)*n + z*h 4
    "rnn": 2,  # one sum, one activation
}
"""Operations per element.

The rule behind each number: a fused op costs as many passes over its elements as the formula of
its textbook has elementwise and reducing steps, each 1 per element, so that it costs what the
same formula costs when a model writes it out. Terms per row or per channel are left out, and an
operation on complex numbers is one, whatever it takes in real ones.
"""
