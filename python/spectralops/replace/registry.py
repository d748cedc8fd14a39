"""The matchers of every package that `replace` knows, in the order in which they are asked."""

from __future__ import annotations

from .afno import AFNO
from .cheby_kan import ChebyKAN
from .compressed_tensors import CompressedTensorsHadamard
from .efficient_kan import EfficientKAN
from .fast_kan import FastKAN
from .faster_kan import FasterKAN
from .fla import FLAImplicitLongConvolution, FLALongConvolution
from .flash_fft_conv import FlashFFTConv
from .fnet import FNet
from .fourier_kan import FourierKAN
from .gfnet import GlobalFilter
from .hyena import Hyena
from .kat_rational import KATRational
from .matcher import Matcher
from .neuraloperator import NeuralOperatorSpectralConv
from .peft import PEFTC3A, PEFTFourierFT, PEFTWaveFT
from .pykan import Pykan, PykanLayer
from .rational_activations import RationalActivations
from .s4 import S4DMinimal, S4FFTConv
from .vocos import TransformersISTFTHead, VocosIMDCT, VocosISTFT, VocosISTFTHead
from .wav_kan import WavKAN

MATCHERS: list[Matcher] = [
    RationalActivations(), KATRational(), CompressedTensorsHadamard(), Pykan(), PykanLayer(), EfficientKAN(), FastKAN(),
    FasterKAN(), ChebyKAN(), FourierKAN(), WavKAN(), FLALongConvolution(), FLAImplicitLongConvolution(), S4DMinimal(),
    S4FFTConv(), Hyena(), FlashFFTConv(), NeuralOperatorSpectralConv(), FNet(), GlobalFilter(), AFNO(), PEFTFourierFT(),
    PEFTWaveFT(), PEFTC3A(), VocosISTFTHead(), VocosISTFT(), VocosIMDCT(), TransformersISTFTHead(),
]  # fmt: skip
