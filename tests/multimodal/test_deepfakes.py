"""The deepfake lab's helpers: manipulations, traces, a detector, and what happens to a picture on its way."""

import hashlib
import hmac
import json

import pytest
import torch
from lessons import written_in

from course_utils.multimodal import deepfakes


@pytest.fixture(scope="module")
def photos():
    return deepfakes.photos(160, seed=0)


def test_photos_come_from_their_seed(photos):
    assert photos.shape == (160, 3, 64, 64) and photos.min() >= 0 and photos.max() <= 1
    assert torch.equal(photos[:4], deepfakes.photos(160, seed=0)[:4])
    assert not torch.equal(photos[:4], deepfakes.photos(160, seed=1)[:4])


@pytest.mark.parametrize("kind", deepfakes.EDITS)
def test_a_manipulation_changes_a_part_of_the_picture(photos, kind):
    fake = deepfakes.manipulate(photos, kind, seed=0)
    assert torch.equal(fake, deepfakes.manipulate(photos, kind, seed=0))
    changed = (fake - photos).abs().amax(1) > 8 / 255
    assert 0.03 < changed.float().mean() < 0.6
    assert torch.allclose(fake * 255, (fake * 255).round(), atol=1e-3) and fake.min() >= 0 and fake.max() <= 1


def test_editing_keeps_the_light_and_an_unknown_kind_is_refused(photos):
    angle = torch.full((160,), 2.0)
    turned = deepfakes.with_other_hue(photos, angle)
    assert torch.allclose(turned.mean(1), photos.mean(1), atol=1e-5)  # the grey axis stays
    assert torch.allclose(deepfakes.with_other_hue(photos, angle * 0), photos, atol=1e-5)
    with pytest.raises(ValueError, match="replacement"):
        deepfakes.manipulate(photos, "magic", seed=0)


def test_traces_ignore_content_and_place(photos):
    smooth = torch.linspace(0, 1, 64).expand(2, 3, 64, 64)
    inner = deepfakes.traces(smooth)
    assert inner.shape == (2, 64 * 6)
    grain = 0.05 * torch.randn(1, 3, 64, 64)
    one = deepfakes.traces(0.5 + grain)
    other = deepfakes.traces(0.5 + grain.roll(8, 3))
    assert (one - other).abs().mean() < 0.1


def test_a_detector_learns_what_it_was_shown(photos):
    real, other = deepfakes.photos(300, seed=2), deepfakes.photos(300, seed=3)
    fake = deepfakes.manipulate(other, "editing", seed=0)
    drawn = torch.random.get_rng_state()
    detector = deepfakes.Detector(real, fake, steps=150)
    assert torch.equal(torch.random.get_rng_state(), drawn)  # nobody else's draws change
    known = torch.cat([detector(real) < 0, detector(fake) > 0]).float().mean()
    assert known > 0.8
    assert (detector(deepfakes.manipulate(photos, "editing", seed=1)) - detector(photos)).mean() > 0.3


def test_jpeg_loses_more_at_lower_quality_and_crops_keep_the_size(photos):
    good, bad = (deepfakes.psnr(photos, deepfakes.jpeg(photos, quality)) for quality in (95, 20))
    assert good > bad + 3 and bad > 15
    assert deepfakes.cropped(photos, 4).shape == photos.shape
    assert torch.allclose(deepfakes.cropped(photos, 0), photos, atol=1e-6)
    for border in (32, -1):
        with pytest.raises(ValueError, match="leave no picture"):
            deepfakes.cropped(photos, border)
    assert deepfakes.psnr(photos, photos + 0.1) == pytest.approx(20, abs=0.01)


def test_noise_has_the_spread_asked_for_and_comes_from_its_generator():
    grey = torch.full((2, 3, 64, 64), 0.5)
    first, again = (deepfakes.noisy(grey, 0.1, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again) and 0.095 < first.std() < 0.105
    loud = deepfakes.noisy(grey, 5.0, torch.Generator().manual_seed(0))
    assert loud.min() == 0 and loud.max() == 1


def test_the_cosine_matrix_is_orthonormal_and_finds_a_wave():
    matrix = deepfakes.cosines(16)
    assert torch.allclose(matrix @ matrix.T, torch.eye(16), atol=1e-5)
    spectrum = matrix @ matrix[3]
    assert spectrum.argmax() == 3 and spectrum[3] == pytest.approx(1, abs=1e-5)


# --- the lesson's own code


@pytest.fixture(scope="module")
def taught() -> dict:
    imports = {"torch": torch, "Tensor": torch.Tensor, "deepfakes": deepfakes, "hashlib": hashlib, "hmac": hmac}
    return written_in("7.1_lab_deepfakes", "WIDE", "WAVES", "ring", "BAND", json=json, **imports)


def test_a_mark_is_faint_and_found_with_its_key_only(taught):
    clean = deepfakes.photos(24, seed=5, side=taught["WIDE"])
    ours = taught["marked"](clean, 2026)
    assert torch.equal(ours * 255, (ours * 255).round()) and deepfakes.psnr(ours, clean) > 40
    assert (taught["evidence"](ours, 2026) > 8).all()
    for other in (taught["evidence"](clean, 2026), taught["evidence"](ours, 2027)):
        assert other.abs().max() < 4 and other.std() > 0.5  # chance: about one standard deviation
    assert not taught["pattern"](1)[~taught["BAND"]].any()


def test_a_manifest_says_what_is_signed_and_nothing_more(taught, photos):
    sign, verify, picture, secret = taught["sign"], taught["verify"], photos[0], b"a secret"
    manifest = sign(picture, ["photographed", "cropped"], secret)
    assert verify(picture, manifest, secret) == "as signed: photographed, cropped"
    changed = picture.clone()
    changed[0, 0, 0] = 1 - changed[0, 0, 0].round()
    assert verify(changed, manifest, secret) == "the picture was changed"
    for forged in (manifest | {"actions": []}, manifest | {"sha256": taught["digest"](changed)}):
        assert verify(changed, forged, secret) == "the manifest was changed"
    assert verify(picture, sign(picture, [], b"another"), secret) == "the manifest was changed"
    assert verify(picture, None, secret) == "no manifest: nothing is known"
