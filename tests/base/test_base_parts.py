"""The registries of parts: names are taken once, values are imported late, and a missed name says the nearest."""

import pytest

from moezoo.errors import RegistrationError, UnknownModelError
from moezoo.parts import Registry


def test_a_registry_hands_out_what_was_added_and_imports_late():
    parts: Registry = Registry("router")
    parts.add("b10", 1)
    parts.add("b2", "math:pi")

    @parts.register("fn")
    def fn():
        return 3

    assert parts.get("b10") == 1
    assert parts.get("b2") == pytest.approx(3.14159, abs=1e-4)
    assert parts.get("fn") is fn
    assert list(parts) == ["b2", "b10", "fn"]
    assert "b2" in parts
    assert "b3" not in parts


def test_a_name_is_taken_once_and_must_be_a_word():
    parts: Registry = Registry("router")
    parts.add("topk", 1)
    with pytest.raises(RegistrationError, match="router 'topk' is already registered"):
        parts.add("topk", 2)
    assert parts.get("topk") == 1
    for bad in ("", "a b", "a/b", "../x", 3):
        with pytest.raises(RegistrationError, match="must be letters"):
            parts.add(bad, 1)
    with pytest.raises(UnknownModelError, match=r"unknown router 'topkk'\. Did you mean: topk\? Known: topk"):
        parts.get("topkk")
    with pytest.raises(UnknownModelError, match="unknown router"):
        parts.get(["topk"])
