"""Pictures that are read ahead, and the memory that they take."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from detect.score.reading import Room


@pytest.mark.parametrize("workers", [1, 3])
def test_pictures_wait_until_there_is_room(workers: int) -> None:
    sizes = [5, 5, 90, 5, 300, 5, 5, 95, 50, 50, 50]
    held: dict[int, int] = {}
    most: list[int] = []

    def read(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        if number == 3:
            return number  # it cannot be read, and never asks
        room.take(number, sizes[number])
        held[number] = sizes[number]
        most.append(sum(held.values()))
        return number

    with ThreadPoolExecutor(workers) as pool, Room(100) as room:
        waiting = [pool.submit(read, number) for number in range(len(sizes))]
        for number, future in enumerate(waiting):
            future.add_done_callback(partial(room.settle, number))
        for number, future in enumerate(waiting):
            assert future.result(timeout=10) == number
            held.pop(number, None)
            room.leave(number)
    assert max(m for m in most if m != 300) <= 100
    assert max(most) == 300  # larger than the room: held alone


def test_nobody_waits_for_ever_when_the_rest_is_left() -> None:
    with ThreadPoolExecutor(2) as pool, Room(10) as room:
        waiting = [pool.submit(room.take, number, 8) for number in range(6)]
    assert all(future.done() for future in waiting)
