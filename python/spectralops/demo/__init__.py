"""`python -m spectralops.demo`: the main job on models that other people wrote.

Six networks are trained on data that ships with scikit-learn: one with units of rational-activations, one with an online
Hadamard rotation of compressed-tensors, and KANs of pykan and efficient-kan on digits and on diabetes. Each is built twice
from one seed; `spectralops.replace` is run on one of the two; then outputs, gradients and a training run are compared
and both are timed side by side. A photograph is fitted by two implicit representations whose first layer is
`kan_linear`, and by the same formula in plain PyTorch. Two functions on bits are asked for their sparse Walsh-Hadamard
transforms, and what was found is held against what they were made from.

    base.py       data, and how a model is built twice and in float64
    networks.py   the models; kan_networks.py those that are KANs, images.py those of the photograph
    proof.py      outputs and gradients against float64, the training runs, the verdict; fit.py that of the photograph
    spectra.py    the transforms, also `python -m spectralops.demo.spectra`: boosted_trees.py features that a boosted model
                  weighs together, noisy_cut.py a graph from noisy cuts
    timing.py     interleaved medians, in a process of its own for each allocator mode
    page.py       report.html, plots.py its drawings, style.py its style sheet, text.py what the terminal says too;
                  progress.py the bar
"""
