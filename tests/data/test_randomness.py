import numpy as np
import numpy.typing as npt
import pytest

from layergraft.data.randomness import Randomness, philox


def _words(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)[:, None]


def test_philox_known_answers() -> None:
    """The vectors that Random123 publishes for philox4x32-10."""
    cases = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, expected in cases:
        assert tuple(philox(_words(*counter), key)[:, 0].tolist()) == expected


def test_numbers_belong_to_the_sample() -> None:
    random = Randomness(seed=3, scope="mae")
    together = random.uniform("crop", [5, 9, 2**40], 7, 6)
    assert np.array_equal(together[1:2], random.uniform("crop", [9], 7, 6))
    assert np.array_equal(together[:, :3], random.uniform("crop", [5, 9, 2**40], 7, 3))
    for other in (
        random.uniform("mask", [9], 7, 6),
        random.uniform("crop", [9], 8, 6),
        Randomness(seed=4, scope="mae").uniform("crop", [9], 7, 6),
    ):
        assert not np.array_equal(together[1:2], other)


def test_uniform_and_permutation() -> None:
    random = Randomness(seed=0, scope="x")
    values = random.uniform("a", np.arange(20000), 0, 4)
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.005
    assert abs(values.std() - 12**-0.5) < 0.003
    assert np.array_equal(np.sort(random.permutation("order", np.arange(1000), 0)), np.arange(1000))


class FewWords(Randomness):
    """Random words of 12 bits, so that many are equal, where the others are compared last and where they are first."""

    def words(self, purpose: str, keys: npt.ArrayLike, epoch: int, count: int) -> npt.NDArray[np.uint64]:
        return super().words(purpose, keys, epoch, count) & np.array([0xFF000000, 0xF] * 2, dtype=np.uint64)[:count]


@pytest.mark.parametrize("kind", [Randomness, FewWords])
@pytest.mark.parametrize("count", [0, 1, 2, 300, 5000])
def test_a_permutation_sorts_by_words_and_then_by_keys(kind: type[Randomness], count: int) -> None:
    random = kind(seed=1, scope="x")
    keys = np.random.default_rng(count).permutation(3 * count + 1)[:count]
    words = random.words("order", keys, 2, 2).tolist()
    expected = sorted(range(count), key=lambda place: (*words[place], int(keys[place])))
    assert random.permutation("order", keys, 2).tolist() == expected
    for first in (0, 1, count // 3, count + 1):
        assert random.permutation("order", keys, 2, first=first).tolist() == expected[:first]
