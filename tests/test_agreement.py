"""What hosts must have in common: hosts are threads here, whose words go through a table as through the coordinator."""

import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import data, hosts, sharding
from jaxgen.loop import agreement, first_batch
from jaxgen.loop import hosts as loop_hosts


@pytest.fixture
def on_hosts(monkeypatch):
    """`on_hosts(function, n)` calls `function(i)` on each of n hosts; what each returned or raised."""
    here = threading.local()
    table, lock = {}, threading.Condition()

    def exchange(value):
        turn, here.turn = here.turn, here.turn + 1
        with lock:
            table[turn, here.index] = value
            lock.notify_all()
            assert lock.wait_for(lambda: all((turn, i) in table for i in range(here.count)), 30), "a host never came"
        return [table[turn, i] for i in range(here.count)]

    monkeypatch.setattr(hosts, "exchange", exchange)
    monkeypatch.setattr(hosts, "index", lambda: here.index)
    monkeypatch.setattr(hosts, "count", lambda: here.count)

    def run(function, count=2):
        ends = [None] * count
        table.clear()

        def host(i):
            here.index, here.count, here.turn = i, count, 0
            try:
                ends[i] = function(i)
            except Exception as error:
                ends[i] = error

        threads = [threading.Thread(target=host, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ends

    return run


def sentence(ends) -> str:
    """What all hosts ended with: the same."""
    assert all(isinstance(end, agreement.HostsDisagree) for end in ends), ends
    (text,) = {str(end) for end in ends}
    return text


def test_hosts_with_the_same_facts_agree(on_hosts):
    facts = {agreement.SAME_COMMAND: {"--seed": 0, "--widths": (4, 4), "--rate": float("nan")}}
    assert on_hosts(lambda i: agreement.check(facts), 3) == [None] * 3


def test_what_differs_is_named_with_both_values_and_the_hosts(on_hosts):
    def check(i):
        agreement.check(
            {
                agreement.SAME_COMMAND: {"--batch-size": 64 if i == 1 else 32, "--seed": 0},
                agreement.SAME_VERSIONS: {"jax": "0.9.2" if i else "0.10.2"},
            }
        )

    text = sentence(on_hosts(check, 3))
    assert "host 1 has --batch-size 64, host 0 has 32: give all hosts the same command" in text
    assert "hosts 1 and 2 have jax 0.9.2, host 0 has 0.10.2: install the same versions on all hosts" in text
    assert "seed" not in text


def test_a_setting_that_a_host_lacks_is_a_difference_and_true_is_not_one(on_hosts):
    assert "host 1 has --x nothing, host 0 has 1" in sentence(
        on_hosts(lambda i: agreement.check({"mend it": {} if i else {"--x": 1}}))
    )
    assert "host 1 has --x true, host 0 has 1" in sentence(
        on_hosts(lambda i: agreement.check({"mend it": {"--x": True if i else 1}}))
    )


def test_of_many_differences_some_are_named_and_the_rest_counted(on_hosts):
    text = sentence(on_hosts(lambda i: agreement.check({"mend it": {f"--x{j}": i for j in range(10)}})))
    assert "--x3" in text and "--x4" not in text and "and 6 more differences: mend it" in text


def digits(seed=0):
    return data.from_arrays("mine", image=np.random.RandomState(seed).randint(0, 256, (8, 4, 4, 1)).astype(np.uint8))


@pytest.mark.parametrize(
    "changed, named",
    [
        ({"dataset": digits(1)}, "host 1 has the fingerprint of the data"),
        ({"config": {"images": {"held_out_fingerprint": "ab"}}}, "host 1 has the fingerprint of the held-out data ab"),
        ({"key": jax.random.key(7)}, "host 1 has the key [0, 7], host 0 has [0, 0]: build it on all hosts"),
        ({"numbers": {"num_steps": 20}}, "host 1 has num_steps 20, host 0 has 10"),
        ({"config": {"optimizer": {"rate": 2.0}}}, "host 1 has optimizer.rate 2.0, host 0 has 1.0"),
        ({"directory": "runs/b"}, "runs/b, host 0 has"),
    ],
)
def test_a_training_is_compared_in_all_that_it_is_made_of(on_hosts, changed, named):
    same = {
        "config": {"optimizer": {"rate": 1.0}, "data": {"path": "/mine"}},
        "directory": "runs/a",
        "numbers": {"num_steps": 10},
        "dataset": digits(),
        "key": jax.random.key(0),
    }
    facts = [agreement.of_training(**same), agreement.of_training(**same | changed)]
    assert named in sentence(on_hosts(lambda i: agreement.check(facts[i])))
    same["config"] = {"optimizer": {"rate": 1.0}, "data": {"path": "/elsewhere"}, "images": {"class_names": ["x"]}}
    facts[1] = agreement.of_training(**same)
    assert on_hosts(lambda i: agreement.check(facts[i])) == [None, None]  # the same data at another place


@pytest.mark.parametrize("other", [jnp.ones(3).at[1].set(2), jnp.ones(4), jnp.ones(3, jnp.int32)])
def test_states_that_differ_are_named_before_the_first_step(on_hosts, other):
    facts = [agreement.of_state({"w": w}) for w in (jnp.ones(3), other)]
    assert "host 1 has the initial state" in sentence(on_hosts(lambda i: agreement.check(facts[i])))
    assert on_hosts(lambda i: agreement.check(facts[0])) == [None, None]


def test_a_directory_that_all_see_is_made_and_left_empty(on_hosts, tmp_path):
    run = tmp_path / "runs" / "first"
    assert on_hosts(lambda i: agreement.check_shared(run), 3) == [None] * 3
    assert run.is_dir() and not list(run.iterdir())


@pytest.mark.parametrize("there", [False, True])
def test_a_directory_of_each_host_is_noticed_and_what_was_made_is_removed(on_hosts, tmp_path, monkeypatch, there):
    monkeypatch.setattr(agreement, "SECONDS_TO_SEE_A_FILE", 0.3)
    places = [tmp_path / f"disk{i}" for i in range(3)]
    for place in places:
        place.mkdir()
        if there:  # of an earlier trial
            (place / "runs" / "first").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    ends = on_hosts(lambda i: agreement.check_shared(places[min(i, 1)] / "runs" / "first"), 3)
    assert all("hosts 1 and 2 do not see there what host 0 writes. Give all hosts a directory" in str(e) for e in ends)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_directory_that_cannot_be_written_ends_all_hosts(on_hosts, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    ends = on_hosts(lambda i: agreement.check_shared(tmp_path / "file" / "run"))
    assert all(isinstance(end, OSError) and "host 0: could not make the run directory" in str(end) for end in ends)


def test_a_slow_disk_is_waited_for(on_hosts, tmp_path, monkeypatch):
    listed, real = [], agreement.os.listdir

    def late(path):
        listed.append(path)
        return real(path) if len(listed) > 6 else []

    monkeypatch.setattr(agreement.os, "listdir", late)
    assert on_hosts(lambda i: agreement.check_shared(tmp_path / "run")) == [None, None]
    assert len(listed) > 6


def test_what_fails_on_one_host_fails_on_all_with_its_words(on_hosts):
    def start(i):
        with loop_hosts.on_all_hosts():
            if i == 1:
                raise ValueError("the disk is full")

    ends = on_hosts(start, 3)
    assert type(ends[1]) is ValueError
    assert [str(ends[i]) for i in (0, 2)] == ["host 1 could not start: the disk is full"] * 2


def test_a_process_alone_has_nobody_to_ask(tmp_path):
    assert hosts.exchange("here") == ["here"] and hosts.count() == 1 and hosts.index() == 0
    agreement.check({"mend it": {"--x": 1}})
    agreement.check_shared(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_steps_that_close_over_other_numbers_are_warned_of_and_the_same_are_not(on_hosts):
    def step_of(rate):
        def train_step(state, batch, key):
            moved = state["w"] - rate * jax.nn.relu(batch["image"].mean()) * jax.random.normal(key, (3,))
            return {"w": moved}, {"loss": moved.sum()}

        return train_step

    dataset, state, key = digits(), {"w": jnp.ones(3)}, jax.random.key(0)
    texts = [
        first_batch.program_of(step_of(rate), dataset, 4, state, key, sharding.make_mesh(2)) for rate in (0.1, 0.1, 0.2)
    ]
    assert texts[0] == texts[1] != texts[2]
    with pytest.warns(UserWarning, match="the train step of host 2 is another program than that of host 0"):
        assert on_hosts(lambda i: agreement.warn_of_unlike_programs(texts[i]), 3) == [None] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert on_hosts(lambda i: agreement.warn_of_unlike_programs(texts[i]), 2) == [None] * 2
