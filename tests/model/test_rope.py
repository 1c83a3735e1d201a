"""Rotation of queries and keys."""

import dataclasses
import math

import torch

from llama_cli.checkpoint.rope_settings import read_rope_scaling
from llama_cli.model.args import ModelArgs, RopeScaling
from llama_cli.model.rope import rope_table, rotate, scale_frequencies

ARGS = ModelArgs(dim=32, n_layers=1, n_heads=2, n_kv_heads=2, vocab_size=8, rope_theta=10000.0)


def turned(x, position):
    """x (heads, head_dim) at one position."""
    return rotate(x[None], rope_table(ARGS, position + 1)[position : position + 1, None])[0]


def test_complex_rotation_is_the_real_form():
    """(a, b) turned by t is (a cos t - b sin t, a sin t + b cos t), pair by neighbouring pair."""
    x = torch.randn(2, ARGS.head_dim, generator=torch.Generator().manual_seed(1))
    position = 13
    got = turned(x, position)
    for pair in range(ARGS.head_dim // 2):
        angle = position / ARGS.rope_theta ** (2 * pair / ARGS.head_dim)
        a, b = x[:, 2 * pair], x[:, 2 * pair + 1]
        torch.testing.assert_close(got[:, 2 * pair], a * math.cos(angle) - b * math.sin(angle), atol=1e-5, rtol=0)
        torch.testing.assert_close(got[:, 2 * pair + 1], a * math.sin(angle) + b * math.cos(angle), atol=1e-5, rtol=0)


def test_scores_depend_on_the_distance_alone():
    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 2, ARGS.head_dim, generator=generator)
    scores = [(turned(q, at + 5) * turned(k, at)).sum(-1) for at in (0, 1, 40, 200)]
    for score in scores[1:]:
        torch.testing.assert_close(score, scores[0], atol=1e-4, rtol=0)
    assert not torch.allclose((turned(q, 6) * turned(k, 0)).sum(-1), scores[0], atol=1e-2)


def test_scaling_keeps_short_waves_and_stretches_long_ones():
    """Against the rule spelt out for one frequency at a time."""
    scaling = RopeScaling(factor=8.0)
    frequencies = 1.0 / 500000.0 ** (torch.arange(0, 128, 2) / 128)
    scaled = scale_frequencies(frequencies, scaling)
    kinds = set()
    for before, after in zip(frequencies.tolist(), scaled.tolist(), strict=True):
        wavelength = 2 * math.pi / before
        if wavelength < 8192 / 4:
            kind, want = "kept", before
        elif wavelength > 8192:
            kind, want = "stretched", before / 8
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            kind, want = "blended", (1 - smooth) * before / 8 + smooth * before
        kinds.add(kind)
        assert math.isclose(after, want, rel_tol=1e-5)
    assert kinds == {"kept", "blended", "stretched"}


def test_linear_scaling_puts_positions_closer():
    """Position 4 n of a model stretched by 4 is position n of the one it was made from."""
    linear = read_rope_scaling({"type": "linear", "factor": 4}, "params.json", untyped="llama3")
    stretched = rope_table(dataclasses.replace(ARGS, rope_scaling=linear), 400)
    torch.testing.assert_close(stretched[::4], rope_table(ARGS, 100), atol=2e-5, rtol=0)


def test_with_equal_bounds_nothing_is_blended():
    """Llama 4's; the slope between the bounds was a division by zero."""
    scaling = RopeScaling(factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0)
    frequencies = torch.tensor([1.0, 2 * math.pi / 8192, 1e-5])
    assert torch.equal(scale_frequencies(frequencies, scaling)[::2], torch.tensor([1.0, 1e-5 / 16]))
    assert not scale_frequencies(frequencies, scaling).isnan().any()


def test_half_precision_turns_in_float32():
    x = torch.randn(2, ARGS.head_dim, generator=torch.Generator().manual_seed(3)).bfloat16()
    assert turned(x, 100).dtype == torch.bfloat16
    torch.testing.assert_close(turned(x, 100), turned(x.float(), 100).bfloat16())
