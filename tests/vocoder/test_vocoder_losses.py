"""Losses of the vocoder: zero where they should be, finite gradients, and hand-made values."""

from __future__ import annotations

import pytest
import torch

from gslm.vocoder.discriminators import DiscriminatorConfig, Discriminators
from gslm.vocoder.losses import (
    adversarial_loss,
    discriminator_loss,
    feature_distance,
    mel_distance,
    spectral_distance,
)


@pytest.mark.parametrize("distance", [mel_distance, spectral_distance])
def test_distances_are_zero_for_equal_sound_and_grow_with_the_difference(distance):
    torch.manual_seed(0)
    real = 0.1 * torch.randn(2, 8000)
    other = 0.1 * torch.randn(2, 8000)
    assert float(distance(real, real)) == pytest.approx(0, abs=1e-6)
    steps = [float(distance(real + x * other, real)) for x in (0.01, 0.1, 1.0)]
    assert 0 < steps[0] < steps[1] < steps[2]


@pytest.mark.parametrize("distance", [mel_distance, spectral_distance])
@pytest.mark.parametrize("level", [0.0, 1e-6, 0.1])
def test_gradients_are_finite_even_on_silence(distance, level):
    torch.manual_seed(0)
    made = (level * torch.randn(2, 8000)).requires_grad_()
    for real in (torch.zeros(2, 8000), 0.1 * torch.randn(2, 8000)):
        loss = distance(made, real)
        (gradient,) = torch.autograd.grad(loss, made)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_doubling_the_sound_is_the_logarithm_of_two():
    torch.manual_seed(0)
    real = 0.2 * torch.randn(1, 16_000)
    assert float(mel_distance(2 * real, real)) == pytest.approx(0.693, abs=0.01)
    # The relative linear part of a doubled sound is exactly one.
    assert float(spectral_distance(2 * real, real)) == pytest.approx(1.693, abs=0.01)


def test_adversarial_losses_are_hinges():
    def judged(*scores: float) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        return [(torch.tensor([score]), [torch.tensor([score])]) for score in scores]

    assert float(discriminator_loss(judged(2.0, 0.5), judged(-3.0, 0.25))) == pytest.approx(
        (0 + 0 + 0.5 + 1.25) / 2
    )
    assert float(adversarial_loss(judged(2.0, -1.0))) == pytest.approx((0 + 2) / 2)
    assert float(feature_distance(judged(2.0, 4.0), judged(1.0, 5.0))) == pytest.approx(
        (1 / 2 + 1 / 4) / 2
    )


def test_discriminators_judge_at_every_resolution_and_bear_silence():
    torch.manual_seed(0)
    discriminators = Discriminators(DiscriminatorConfig(n_ffts=(512, 256), channels=4))
    sound = torch.zeros(2, 4000, requires_grad=True)
    judged = discriminators(sound)
    assert [len(features) for _, features in judged] == [5, 5]
    adversarial_loss(judged).backward()
    assert torch.isfinite(sound.grad).all()
    silent_like_itself = feature_distance(judged, discriminators(sound))
    assert float(silent_like_itself.detach()) == 0
