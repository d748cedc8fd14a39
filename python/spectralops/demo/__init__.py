"""`python -m spectralops.demo`: the main job on models that other people wrote.

Two networks are trained on scikit-learn's handwritten digits, one with units of rational-activations,
one with an online Hadamard rotation of compressed-tensors. Each is built twice from one seed;
`spectralops.replace` is run on one of the two; then outputs, gradients and a training run are compared
and both are timed side by side.

    networks.py   the two models, their data, and what they need installed
    proof.py      outputs and gradients against float64, the training runs, the verdict
    timing.py     interleaved medians, in a process of its own for each allocator mode
    page.py       report.html, plots.py its drawings; progress.py the bar
"""
