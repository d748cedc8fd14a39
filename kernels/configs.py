"""Launch tables: plain data, one row a choice.  Nothing is tuned at run time; a change here shows
in a diff.

Sizes never depend on the GPU, so the order of every sum, and with it every bit of the results, is
the same on all of them.
"""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    elements: int  # of x, in one step of a program; a power of two
    vector: int  # contiguous elements a thread loads at once: 16 bytes, where registers allow
    warps: int


# rational, by (kernel, bytes an element).  `wide`: a program stays in one group, coefficients are
# scalars.  `narrow`: groups are so small that a tile spans several; coefficients and their partial
# sums are one a column, so a thread holds fewer elements.
RATIONAL = {
    ("forward", "wide", 2): Tile(2048, 8, 4),
    ("forward", "wide", 4): Tile(1024, 4, 4),
    ("forward", "wide", 8): Tile(512, 2, 4),
    ("forward", "narrow", 2): Tile(1024, 8, 4),
    ("forward", "narrow", 4): Tile(512, 4, 4),
    ("forward", "narrow", 8): Tile(256, 2, 4),
    ("backward", "wide", 2): Tile(1024, 8, 4),
    ("backward", "wide", 4): Tile(1024, 4, 4),
    ("backward", "wide", 8): Tile(512, 2, 4),
    ("backward", "narrow", 2): Tile(512, 4, 4),
    ("backward", "narrow", 4): Tile(512, 4, 4),
    ("backward", "narrow", 8): Tile(256, 2, 4),
    ("double_backward", "wide", 2): Tile(512, 4, 4),
    ("double_backward", "wide", 4): Tile(512, 4, 4),
    ("double_backward", "wide", 8): Tile(256, 2, 4),
    ("double_backward", "narrow", 2): Tile(256, 2, 4),
    ("double_backward", "narrow", 4): Tile(256, 2, 4),
    ("double_backward", "narrow", 8): Tile(128, 1, 4),
}
RATIONAL_NARROW_BELOW = 16  # columns of a group from which a program stays inside one group
RATIONAL_MAX_COLUMNS = 256  # of a tile
# Programs of a gradient kernel: enough to fill a GPU, each taking at least some steps so that its
# last reduction is paid for, and more of them when the data is large, so that the last wave of
# programs is short.
RATIONAL_PROGRAMS = 2048
RATIONAL_STEPS = (4, 32)
RATIONAL_MAX_PROGRAMS = 16384
RATIONAL_REDUCE_BLOCK = 1024  # partial sums a step of the second stage
RATIONAL_MAX_DEGREE = 32


class Rows(NamedTuple):
    log2: int  # transforms of up to 2^log2 points ...
    tile: int  # ... as tiles of 2^tile elements, one or more rows a program
    warps: int


# The rows kernel, by bytes of the arithmetic type.  One warp up to 2^11 points: every exchange is a
# shuffle and there is no barrier.
HADAMARD_ROWS = {
    4: (Rows(10, 10, 1), Rows(11, 11, 1), Rows(12, 12, 4), Rows(13, 13, 8), Rows(14, 14, 16)),
    8: (Rows(9, 9, 1), Rows(10, 10, 1), Rows(11, 11, 4), Rows(12, 12, 8), Rows(13, 13, 16)),
}


class Strided(NamedTuple):
    bits: int  # butterflies along a strided axis: at most 2^bits points a pass
    tile: int  # log2 of the elements of a program
    loose: int  # the same where its columns do not divide the contiguous length: an address each
    warps: int


# The strided kernel, by bytes of the arithmetic type.
HADAMARD_STRIDED = {
    4: (Strided(3, 11, 10, 4), Strided(5, 12, 11, 4), Strided(7, 13, 12, 8)),
    8: (Strided(3, 10, 9, 4), Strided(5, 11, 10, 4), Strided(7, 12, 11, 8)),
}


class Base(NamedTuple):
    size: int  # base Hadamard matrices of up to this many rows
    rows: int  # rows of the result a program holds
    columns: int
    warps: int


HADAMARD_BASE = (Base(16, 16, 128, 4), Base(32, 32, 64, 4), Base(64, 64, 32, 4), Base(256, 64, 32, 4))


class Quantize(NamedTuple):
    log2: int  # units (the larger of block and group) of up to 2^log2 elements
    tile: int
    warps: int


HADAMARD_QUANTIZE = (
    Quantize(10, 10, 1),
    Quantize(11, 11, 2),
    Quantize(12, 12, 4),
    Quantize(13, 13, 8),
    Quantize(14, 14, 16),
)
QUANTIZE_LOOP = 4096  # elements a step where one group is longer than a program holds
SRHT_ROWS = 1024  # rows gathered a step


class Matrix(NamedTuple):
    rows: int  # of the tile a program holds
    columns: int
    warps: int


# wavelet, by (kernel, bytes of the arithmetic type).
WAVELET = {
    ("value", 4): Matrix(32, 64, 4),
    ("value", 8): Matrix(32, 32, 4),
    ("dx", 4): Matrix(64, 32, 4),
    ("dx", 8): Matrix(32, 32, 4),
    ("sums", 4): Matrix(32, 32, 4),
    ("sums", 8): Matrix(16, 32, 4),
}
WAVELET_STEP = 128  # rows a sum takes before it is added to its chunk's
WAVELET_PROGRAMS = 1024  # of the kernel that sums over rows, as far as there are rows for them
WAVELET_REDUCE_BLOCK = 256
# activations, by (kernel, bytes an element).  A tile is as wide as its group allows, up to all of it.
ACTIVATION = {
    ("forward", 2): Tile(2048, 8, 4),
    ("forward", 4): Tile(512, 4, 4),
    ("forward", 8): Tile(512, 2, 4),
    ("backward", 2): Tile(1024, 8, 4),
    ("backward", 4): Tile(512, 4, 4),
    ("backward", 8): Tile(256, 2, 4),
    ("double_backward", 2): Tile(512, 4, 4),
    ("double_backward", 4): Tile(512, 4, 4),
    ("double_backward", 8): Tile(256, 2, 4),
}
# The same where an element is a pair, as in `wire`.
ACTIVATION_PAIRS = {
    ("forward", 2): Tile(1024, 4, 4),
    ("forward", 4): Tile(256, 2, 4),
    ("forward", 8): Tile(256, 1, 4),
    ("backward", 2): Tile(512, 4, 4),
    ("backward", 4): Tile(256, 2, 4),
    ("backward", 8): Tile(128, 1, 4),
    ("double_backward", 2): Tile(128, 2, 2),
    ("double_backward", 4): Tile(256, 2, 2),
    ("double_backward", 8): Tile(128, 1, 4),
}
ACTIVATION_NARROW_BELOW = 64  # columns of a group from which a program stays inside one group
ACTIVATION_COLUMNS = 128  # of a tile where there are rows enough to fill it
ACTIVATION_PROGRAMS = 2048  # of a gradient kernel, and so on as for rational
ACTIVATION_STEPS = (4, 32)
ACTIVATION_MAX_PROGRAMS = 16384
ACTIVATION_REDUCE_BLOCK = 1024
ACTIVATION_MAX_PARAMETERS = 16

# poly_norm, by (kernel, bytes an element).  A tile holds whole rows, or a row goes by in tiles.
POLY_NORM = {
    ("forward", 2): Tile(2048, 8, 8),
    ("forward", 4): Tile(2048, 4, 8),
    ("forward", 8): Tile(1024, 2, 8),
    ("backward", 2): Tile(2048, 8, 8),
    ("backward", 4): Tile(2048, 4, 8),
    ("backward", 8): Tile(1024, 2, 8),
    ("double_backward", 2): Tile(1024, 8, 8),
    ("double_backward", 4): Tile(1024, 4, 8),
    ("double_backward", 8): Tile(512, 2, 8),
}
POLY_NORM_PROGRAMS = 4096  # of a gradient kernel at most
POLY_NORM_MAX_DEGREE = 8

# fan, by (kernel, bytes an element).
FAN = {
    ("forward", 2): Tile(1024, 8, 4),
    ("forward", 4): Tile(512, 4, 4),
    ("forward", 8): Tile(512, 2, 4),
    ("backward", 2): Tile(1024, 8, 4),
    ("backward", 4): Tile(512, 4, 4),
    ("backward", 8): Tile(256, 2, 4),
    ("double_backward", 2): Tile(512, 4, 4),
    ("double_backward", 4): Tile(512, 4, 4),
    ("double_backward", 8): Tile(256, 2, 4),
}
FAN_COLUMNS = 128  # of a tile at most
class KanTile(NamedTuple):
    rows: int  # of x
    inputs: int
    outputs: int
    warps: int
    stages: int  # of slabs in flight
    state: int  # registers a thread spares for the basis; where it wants more, inputs and rows are halved
    functions: int = 1  # sums a program of dcoeff keeps


# kan, by (kernel, bytes an element).  `narrow`: few outputs.
KAN = {
    ("forward", "wide", 2): KanTile(128, 16, 128, 8, 3, 72),
    ("forward", "wide", 4): KanTile(64, 16, 64, 4, 2, 72),
    ("forward", "wide", 8): KanTile(32, 16, 32, 4, 2, 64),
    ("forward", "narrow", 2): KanTile(64, 32, 32, 4, 3, 72),
    ("forward", "narrow", 4): KanTile(64, 16, 32, 4, 2, 72),
    ("forward", "narrow", 8): KanTile(32, 16, 32, 4, 2, 64),
    ("dx", "wide", 2): KanTile(128, 64, 64, 8, 3, 72),
    ("dx", "wide", 4): KanTile(64, 64, 32, 4, 2, 64),
    ("dx", "wide", 8): KanTile(32, 32, 16, 4, 2, 64),
    ("dx", "narrow", 2): KanTile(128, 64, 32, 8, 3, 72),
    ("dx", "narrow", 4): KanTile(64, 64, 32, 4, 2, 64),
    ("dx", "narrow", 8): KanTile(32, 32, 16, 4, 2, 64),
    ("dcoeff", "wide", 2): KanTile(16, 64, 64, 8, 3, 60, 4),
    ("dcoeff", "wide", 4): KanTile(16, 64, 64, 8, 2, 72, 2),
    ("dcoeff", "wide", 8): KanTile(16, 32, 32, 4, 2, 64, 2),
    ("dcoeff", "narrow", 2): KanTile(16, 64, 32, 4, 3, 72, 4),
    ("dcoeff", "narrow", 4): KanTile(16, 64, 32, 4, 2, 72, 2),
    ("dcoeff", "narrow", 8): KanTile(16, 32, 32, 4, 2, 64, 2),
}
KAN_NARROW = 32  # outputs
# Splines of so many functions, or with so few outputs, gather p + 1 coefficients in place of K products.
KAN_SPARSE_FUNCTIONS = 100
KAN_SPARSE_OUTPUTS = 16
KAN_SPARSE = {
    ("forward", 4): KanTile(8, 4, 64, 4, 1, 20),
    ("forward", 8): KanTile(4, 4, 64, 4, 1, 20),
    ("dx", 4): KanTile(8, 4, 64, 4, 1, 20),
    ("dx", 8): KanTile(4, 4, 64, 4, 1, 20),
}
# Chunks of rows of dcoeff: enough programs to fill a GPU, each with some steps, and no more partial sums than this.
KAN_PROGRAMS = 1024
KAN_STEPS = 8
KAN_WORKSPACE = 1 << 26  # elements
KAN_REDUCE_BLOCK = 1024


class Fft(NamedTuple):
    n1: int
    n2: int
    n3: int  # 1: two levels
    pairs: int  # 2 where n1 is 8, so that every product has 16 rows or more
    channels: int  # a program
    warps: int


# fft_conv, by complex points N = n1 n2 n3; shorter rows are padded to 256, the least that two products of 16 rows make.
FFT_CONV = {
    256: Fft(16, 16, 1, 1, 4, 4),
    512: Fft(2, 16, 16, 8, 2, 4),
    1024: Fft(4, 16, 16, 4, 1, 4),
    2048: Fft(8, 16, 16, 2, 1, 8),
    4096: Fft(16, 16, 16, 1, 1, 8),
}
FFT_CONV_WHOLE = (2048, 4096)  # points up to which a program holds a row: with three products for one, with one
FFT_CONV_OUTER = 16  # rows of that length longer ones are cut into, ...
FFT_CONV_COLUMNS = 64  # ... columns of these a program takes
FFT_CONV_COLUMN_WARPS = 4
FFT_CONV_PROGRAMS = 1024  # of the kernel that sums over rows, as far as there are rows for them
FFT_CONV_SLAB = 4096  # points from which on a gradient's sum is kept in memory between rows
FFT_CONV_WORKSPACE = 1 << 27  # elements of its partial sums


class Filter(NamedTuple):
    channels: int  # a program
    warps: int


# spectral_filter on grids that a program holds, by the sides P2 and P3 rounded up to powers of two of at least 16, and B
# likewise of the half spectrum, at least 8: with three products for one, with one, and a gradient, which holds a sum and two
# transforms.
SPECTRAL_FILTER = {
    (16, 16, 8): {"three": Filter(16, 4), "one": Filter(16, 4), "gradient": Filter(16, 8)},
    (32, 16, 8): {"three": Filter(16, 8), "one": Filter(16, 8), "gradient": Filter(16, 8)},
    (16, 16, 16): {"three": Filter(16, 8), "one": Filter(16, 8), "gradient": Filter(8, 8)},
    (32, 16, 16): {"three": Filter(8, 8), "one": Filter(16, 8), "gradient": Filter(8, 8)},
    (16, 32, 16): {"three": Filter(16, 8), "one": Filter(16, 8), "gradient": Filter(8, 8)},
    (32, 32, 16): {"three": Filter(8, 8), "one": Filter(16, 8), "gradient": Filter(8, 8)},
    (16, 32, 32): {"three": Filter(8, 8), "one": Filter(16, 8), "gradient": Filter(4, 8)},
    (32, 32, 32): {"three": Filter(4, 8), "one": Filter(8, 8), "gradient": Filter(4, 8)},
}
SPECTRAL_FILTER_LONGEST = 256  # a side; beyond, dense products lose to an FFT
SPECTRAL_FILTER_MOMENTS = Matrix(4, 512, 4)  # points and channels of the layer norm's tile
SPECTRAL_FILTER_TERMS = 32  # of a sum over samples before it is added to others
SPECTRAL_FILTER_PROGRAMS = 512  # of a gradient, as far as there are samples for them
SPECTRAL_FILTER_SUM = Tile(128, 4, 4)


class Passes(NamedTuple):
    rows: int  # of a tile of the result, or 32
    columns: int
    depth: int  # points a step of a product
    warps: int
    stages: int


# spectral_filter on other grids: a product a dimension and direction, ...
SPECTRAL_FILTER_PASSES = Passes(64, 64, 32, 8, 2)
# ... and columns there and back, by points rounded up; `channels` are columns.
SPECTRAL_FILTER_COLUMNS = {16: Filter(128, 4), 32: Filter(64, 8), 64: Filter(32, 8)}
SPECTRAL_FILTER_WORKSPACE = 1 << 27  # elements of half spectra in memory at a time


class ModesTile(NamedTuple):
    modes: int  # of the result's dimension that is transformed
    depth: int  # of the sum, a step
    others: int  # rows, or columns, beside each other
    warps: int
    stages: int


# The truncated transforms, by (kernel, products for one).
MODES = {
    ("rows", 1): ModesTile(64, 32, 128, 8, 3),
    ("rows", 2): ModesTile(64, 32, 128, 8, 3),
    ("rows", 3): ModesTile(64, 32, 64, 8, 3),
    ("columns", 1): ModesTile(64, 16, 64, 8, 2),
    ("columns", 2): ModesTile(64, 16, 64, 8, 2),
    ("columns", 3): ModesTile(64, 16, 32, 8, 2),
}
MODES_PLANE = {  # of planes of modes: `others` are rows of the grid, depth its last dimension
    ("dft", "split"): ModesTile(64, 32, 16, 8, 2),
    ("dft", "exact"): ModesTile(64, 32, 16, 8, 2),
    ("idft", "tf32"): ModesTile(64, 32, 64, 8, 2),
    ("idft", "exact"): ModesTile(64, 16, 64, 8, 1),
}
MODES_CHAIN = 256  # terms of a sum before it is added to the whole
MODES_TABLE = 1 << 24  # factors of a table


class MixTile(NamedTuple):
    first: int  # rows (of a gradient, inputs)
    second: int  # outputs
    modes: int
    warps: int


# mode_mix by rows up to ...: each weight is read once for as many; its gradient.
MODE_MIX = {1: MixTile(1, 16, 32, 4), 4: MixTile(4, 16, 16, 4), 8: MixTile(8, 8, 16, 4), 16: MixTile(16, 8, 16, 8)}
MODE_MIX_GRADIENT = MixTile(8, 8, 16, 4)
MODE_MIX_CHAIN = 32

FOURIER_MIX = (2048, 8)  # complex numbers and warps of a program; AMD's warps are twice as wide and half as many
FOURIER_MIX_FACTOR = 32  # rows of a table, which all warps hold
FOURIER_MIX_MOST = 4096  # points of a side
FOURIER_MIX_CHAIN = 64  # terms of a sum of a size that has no factors, before it is added to the whole


class MlpTile(NamedTuple):
    modes: int
    inputs: int  # a step
    hidden: int  # channels of a step, on chip
    outputs: int
    warps: int
    stages: int


SPECTRAL_MLP = MlpTile(32, 16, 16, 128, 8, 1)


class Bins(NamedTuple):
    samples: int  # of a bin, up to ... (the last row: more by steps of so many)
    bins: int  # of a group, a program at a time
    cells: int  # of a scan over all bins
    list: int  # keys at a time, ...
    known: int  # ... against so many that are known
    warps: int


SPARSE_WHT = (Bins(32, 16, 256, 32, 32, 4), Bins(64, 8, 256, 32, 32, 4), Bins(128, 8, 512, 32, 32, 4))
SPARSE_WHT_BCH = Bins(64, 8, 256, 32, 32, 8)  # with offsets="bch", where a bin has polynomials too
SPARSE_WHT_WHOLE = 1 << 17  # samples of a problem up to which one program does all of it; beyond, ...
SPARSE_WHT_ROUNDS = 6  # ... so many rounds, in which most keys are found, take a program for every few bins
SPARSE_WHT_REPEATS = 64
WALSH_SUM = Matrix(64, 64, 4)  # points and keys
