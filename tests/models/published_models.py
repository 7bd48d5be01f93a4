"""Published models, accelerated: the same output through the interpreter as torch gives.

`make test-models` installs their packages in an environment of its own and runs this file, in a process that
interprets kernels. The weights are random; inputs are short, since the interpreter takes some 5 ms a block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn

import autoconv
from autoconv import serving
from autoconv.dispatch.launchers import ByTorch
from autoconv.kernels.interpreter import interpreting

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other packages

Made = tuple[nn.Module, Callable[[nn.Module], torch.Tensor]]


def whisper_encoder() -> Made:
    """openai-whisper: two convolutions, the second of stride 2, in front of a transformer."""
    from whisper.model import AudioEncoder

    mels = torch.randn(1, 80, 60)
    return AudioEncoder(n_mels=80, n_ctx=30, n_state=384, n_head=6, n_layer=1), lambda model: model(mels)


def encodec() -> Made:
    """Strided, causal, with a weight norm; the decoder is transposed."""
    from transformers import EncodecConfig, EncodecModel

    wave = torch.randn(1, 1, 960)
    return EncodecModel(EncodecConfig(num_filters=8)), lambda model: model(wave).audio_values


def dac() -> Made:
    """Dilated residual units between strided and transposed convolutions."""
    from transformers import DacConfig, DacModel

    wave = torch.randn(1, 1, 1024)
    config = DacConfig(encoder_hidden_size=8, decoder_hidden_size=64)
    return DacModel(config), lambda model: model(wave).audio_values


def hifi_gan() -> Made:
    """A vocoder: transposed by 4, four times, and dilated residual blocks."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    mels = torch.randn(4, 80)
    return SpeechT5HifiGan(SpeechT5HifiGanConfig(upsample_initial_channel=64)), lambda model: model(mels)


def wav2vec2() -> Made:
    """A waveform's feature extractor, and a grouped positional convolution of 128 taps with a weight norm."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    wave = torch.randn(1, 1600)
    config = Wav2Vec2Config(conv_dim=(64,) * 7, hidden_size=128, num_attention_heads=4, num_hidden_layers=1)
    return Wav2Vec2Model(config), lambda model: model(wave).last_hidden_state


def conformer() -> Made:
    """Depthwise convolutions of 31 taps between pointwise ones."""
    from transformers import Wav2Vec2ConformerConfig, Wav2Vec2ConformerModel

    wave = torch.randn(1, 1600)
    config = Wav2Vec2ConformerConfig(
        conv_dim=(32,) * 7, hidden_size=64, num_attention_heads=2, num_hidden_layers=1
    )
    return Wav2Vec2ConformerModel(config), lambda model: model(wave).last_hidden_state


def conv_tasnet() -> Made:
    """asteroid: a learned filterbank both ways, pointwise and dilated depthwise convolutions."""
    from asteroid.models import ConvTasNet

    wave = torch.randn(1, 800)
    return ConvTasNet(2, n_repeats=1, n_blocks=3), lambda model: model(wave)


@pytest.mark.parametrize(
    ("made", "least"),
    [
        (whisper_encoder, 2),
        (encodec, 20),
        (dac, 70),
        (hifi_gan, 70),
        (wav2vec2, 8),
        (conformer, 11),
        (conv_tasnet, 10),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_accelerated_model_computes_the_same(made, least, monkeypatch, capsys):
    assert interpreting(), "run it by `make test-models`"
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    torch.manual_seed(0)
    model, run = made()
    model.eval()
    with torch.no_grad():
        expected = run(model)
        report = autoconv.accelerate(model)
        assert len(report.swapped) >= least, str(report)
        with autoconv.interpreted("rtx4090"):
            y = run(model)
            launchers = serving.current.launchers
    served = Counter("torch" if isinstance(launch, ByTorch) else "autoconv" for launch in launchers)
    error = ((y - expected).norm() / expected.norm()).item()
    with capsys.disabled():
        print(
            f"\n{made.__name__}: {len(report.swapped)} swapped, {served['autoconv']} plans, error {error:.1e}"
        )
        for name, why in report.left:
            print(f"  left alone: {name}: {why}")
    assert served["autoconv"] and not served["torch"]
    assert error < 1e-4
