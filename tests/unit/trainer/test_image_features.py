"""Pictures: encoded once, cut ahead of need, and on the host when the device has no room."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from contract.skills import Pixels
from tests.micro import features_of, micro_model, pictures
from trainer import image_features as module
from trainer.counters import Counters
from trainer.image_features import MAX_PREPARED, ImageFeatures

MODEL = micro_model()
ONE = features_of(MODEL)[pictures()[0].digest].nbytes


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads in which pictures are cut."""
    found: list[str] = []
    real = module.make_crops

    def counting(pixels_HWC, config):
        found.append(threading.current_thread().name)
        return real(pixels_HWC, config)

    monkeypatch.setattr(module, "make_crops", counting)
    return found


def test_a_picture_is_encoded_once_whoever_asks(cuts):
    counters = Counters()
    features = ImageFeatures(MODEL, counters=counters)
    first = features.of([*pictures(), pictures()[0]])
    second = features.of([pictures()[0]])
    assert len(cuts) == 2
    for image in pictures():
        assert torch.equal(first[image.digest], features_of(MODEL)[image.digest])
    assert second[pictures()[0].digest] is first[pictures()[0].digest]
    assert counters.value("moontune_cache_misses_total", "image_features") == 2
    assert counters.value("moontune_cache_hits_total", "image_features") == 1


def test_a_picture_is_cut_ahead_of_need_in_another_thread(cuts):
    features = ImageFeatures(MODEL)
    features.prepare(pictures()[0])
    features.prepare(pictures()[0])
    found = features.of([pictures()[0]])
    assert len(cuts) == 1
    assert cuts[0].startswith("tile")
    assert torch.equal(*(f[pictures()[0].digest] for f in (found, features_of(MODEL))))
    features.prepare(pictures()[0])
    assert len(cuts) == 1


def test_of_many_pictures_those_that_come_first_are_cut_first_and_the_rest_as_they_are_used(cuts):
    features = ImageFeatures(MODEL)
    images = [replace(pictures()[0], digest=str(number)) for number in range(2 * MAX_PREPARED)]
    for image in images:
        features.prepare(image)
    assert list(features._prepared) == [str(number) for number in range(MAX_PREPARED)]
    for image in images:
        features.of([image])
    assert len(cuts) == len(images)
    assert all(name.startswith("tile") for name in cuts)


def test_a_picture_that_is_not_asked_for_after_all_leaves_nothing_behind(cuts):
    features = ImageFeatures(MODEL)
    features.prepare(pictures()[0])
    features.forget(pictures()[0])
    assert not features._prepared
    assert not features._to_prepare
    features.of([pictures()[0]])
    assert cuts[-1] == "MainThread"


def test_a_picture_that_cannot_be_cut_fails_whoever_asks_and_nobody_else():
    broken = Pixels(height=9, width=9, digest="broken", data=b"short")
    features = ImageFeatures(MODEL)
    features.prepare(broken)
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot reshape"):
            features.of([broken])
    assert set(features.of([pictures()[0]])) == {pictures()[0].digest}


def test_what_the_device_has_no_room_for_comes_back_from_the_host(cuts):
    counters = Counters()
    features = ImageFeatures(
        MODEL, device_bytes=ONE, host_bytes=ONE, has_host_tier=True, counters=counters
    )
    for index in (0, 1, 0, 1):
        image = pictures()[index]
        assert torch.equal(features.of([image])[image.digest], features_of(MODEL)[image.digest])
    assert len(cuts) == 2
    assert counters.value("moontune_cache_hits_total", "image_features_host") == 2
    assert counters.value("moontune_cache_evictions_total", "image_features") == 3


def test_without_a_host_tier_it_is_encoded_again(cuts):
    features = ImageFeatures(MODEL, device_bytes=ONE)
    for index in (0, 1, 0):
        features.of([pictures()[index]])
    assert len(cuts) == 3


def test_what_is_given_up_is_encoded_again(cuts):
    features = ImageFeatures(MODEL)
    features.of(pictures())
    features.give_up()
    features.of(pictures())
    assert len(cuts) == 4
