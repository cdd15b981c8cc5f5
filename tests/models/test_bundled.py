import hashlib

import pytest

from course_utils.models import bundled


@pytest.fixture
def models(monkeypatch, tmp_path):
    """A models folder with weights for prisma-lm and a record of their checksum."""
    monkeypatch.setattr(bundled, "MODELS", tmp_path)
    (tmp_path / "prisma-lm").mkdir()
    (tmp_path / "prisma-lm/model.safetensors").write_bytes(b"weights")
    bundled.write_sums(tmp_path)
    return tmp_path


def test_intact_weights_pass(models):
    assert bundled.verify("prisma-lm") == models / "prisma-lm"
    assert bundled.verify(models / "prisma-lm") == models / "prisma-lm"


def test_the_record_is_what_sha256sum_writes(models):
    digest = hashlib.sha256(b"weights").hexdigest()
    assert (models / "SHA256SUMS").read_text() == f"{digest}  prisma-lm/model.safetensors\n"
    assert bundled.sums(models) == {"prisma-lm/model.safetensors": digest}


def test_changed_weights_are_refused_with_a_cure(models):
    (models / "prisma-lm/model.safetensors").write_bytes(b"Weights")
    with pytest.raises(bundled.BundledModelError, match="git checkout -- data/models/prisma-lm"):
        bundled.verify("prisma-lm")


def test_unrecorded_weights_are_refused(models):
    (models / "prisma-lm/more.safetensors").write_bytes(b"extra")
    with pytest.raises(bundled.BundledModelError, match="more.safetensors differs"):
        bundled.verify("prisma-lm")


def test_missing_record_is_refused(models):
    (models / "SHA256SUMS").unlink()
    with pytest.raises(bundled.BundledModelError, match="recorded checksum"):
        bundled.verify("prisma-lm")


def test_missing_weights_are_refused(models):
    with pytest.raises(bundled.BundledModelError, match="prisma-clip has no weights"):
        bundled.verify("prisma-clip")


def test_a_training_checkpoint_elsewhere_has_no_record(models, tmp_path):
    own = tmp_path / "build" / "train" / "prisma-lm"
    own.mkdir(parents=True)
    (own / "model.safetensors").write_bytes(b"mine")
    assert bundled.verify(own) == own


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="Bundled are prisma-clip, prisma-whisper, prisma-lm"):
        bundled.verify("prisma-gpt")
