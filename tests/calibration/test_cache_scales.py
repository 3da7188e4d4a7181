"""Scales of a quantized cache, free on layers without rotation and shared by pairs on rotary ones."""

from __future__ import annotations

import pytest
import torch

from exaone_export.calibration.cache_scales import cache_scale
from exaone_export.calibration.number_formats import FORMATS
from exaone_export.errors import CalibrationError

MAXIMUM = torch.tensor([[1.0, 2.0, 3.0, 0.5], [8.0, 0.25, 4.0, 6.0]])


@pytest.mark.parametrize("name", ["int8", "int4", "float8_e4m3fn"])
def test_each_channel_has_its_own_scale_where_nothing_is_rotated(name: str) -> None:
    found = cache_scale(MAXIMUM, FORMATS[name], rotary=False)
    assert torch.equal(found, MAXIMUM / FORMATS[name].largest)
    assert found.dtype == torch.float32


def test_the_two_channels_of_a_rotated_pair_share_the_larger() -> None:
    found = cache_scale(MAXIMUM, FORMATS["int8"], rotary=True) * 127
    torch.testing.assert_close(found, torch.tensor([[3.0, 2.0, 3.0, 2.0], [8.0, 6.0, 8.0, 6.0]]))


def test_keys_at_positions_that_were_not_seen_fit_scales_of_pairs(generator: torch.Generator) -> None:
    """Half of a slow turn is seen; over the other half the channels of a pair change places."""
    key, angle = torch.tensor([3.0, 0.1]), torch.linspace(0, torch.pi / 2, 50)
    turned = torch.stack((key[0] * angle.cos() - key[1] * angle.sin(), key[1] * angle.cos() + key[0] * angle.sin()), 1)
    seen = turned[:10].abs().amax(0)[None]
    apart, shared = (cache_scale(seen, FORMATS["int8"], rotary=rotary) * 127 for rotary in (False, True))
    assert (turned.abs().amax(0) > 3 * apart[0]).any()
    assert (turned.abs().amax(0) < 1.02 * shared[0]).all()


def test_a_channel_that_stayed_at_zero_has_room_for_what_its_head_holds() -> None:
    maximum = MAXIMUM.clone()
    maximum[1, 1] = maximum[0, 0] = 0
    found = cache_scale(maximum, FORMATS["int8"], rotary=False) * 127
    torch.testing.assert_close(found, torch.tensor([[3.0, 2.0, 3.0, 0.5], [8.0, 8.0, 4.0, 6.0]]))
    found = cache_scale(maximum, FORMATS["int8"], rotary=True) * 127
    torch.testing.assert_close(found[0], torch.tensor([3.0, 2.0, 3.0, 2.0]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
def test_what_cannot_have_been_observed_is_refused(bad: float) -> None:
    maximum = MAXIMUM.clone()
    maximum[0, 2] = bad
    with pytest.raises(CalibrationError, match="what the cache held is not finite"):
        cache_scale(maximum, FORMATS["int8"], rotary=False)


def test_a_head_that_held_nothing_is_refused() -> None:
    maximum = MAXIMUM.clone()
    maximum[1] = 0
    with pytest.raises(CalibrationError, match="key-value head 1 held nothing but zeros"):
        cache_scale(maximum, FORMATS["int8"], rotary=True)
