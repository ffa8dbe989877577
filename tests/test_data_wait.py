"""What the log says of a training that waits for its data."""

import itertools

import pytest

from jaxgen import console, data, sharding


@pytest.fixture
def clock(monkeypatch):
    """A second passes at each look."""
    ticks = itertools.count()
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(ticks)))


def test_the_share_of_waiting_is_of_the_steps_and_not_of_the_compilation(clock):
    waits = [100.0, 0.5, 7.0]
    pace = console.Pace(sharding.make_mesh(1), 8, 1, lambda: waits.pop(0))
    pace.finished(1)  # compilation, whose wait counts nowhere
    assert pace.rates() == {}
    pace.finished(1)
    pace.finished(1)
    assert pace.rates() == {"images_per_second": 8.0, "data_wait": 0.25}
    pace.finished(1)
    assert pace.rates()["data_wait"] == 1.0  # never more than all


def test_of_data_in_memory_nothing_is_said(clock):
    pace = console.Pace(sharding.make_mesh(1), 8, 1)
    pace.finished(1)
    pace.finished(1)
    assert pace.rates() == {"images_per_second": 8.0}


def test_a_long_wait_is_shown_and_once_what_to_do(tmp_path, capsys):
    with console.Display(100, 0, sharding.make_mesh(1), tmp_path, data.mnist("test"), show=True) as display:
        for step, share in ((10, 0.04), (20, 0.3), (30, 0.2)):
            display.show(step, {"loss": 1.0, "images_per_second": 50.0, "data_wait": share})
    told = capsys.readouterr().err
    assert "with 10,000 images of 28x28 pixels, in" in told
    assert "data_wait 0.04" not in told and "data_wait 0.3" in told and "data_wait 0.2" in told
    assert told.count("30% of the time goes into waiting for data: --data.workers N") == 1
    assert told.count("jaxgen convert") == 1
