"""A run that ends without an error and is not well: its state is looked at before it is saved, its log at the end."""

import json
import signal

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import checkpoint, data, loop, report, run_directory, sharding
from jaxgen.loop import health

pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr(report, "write", lambda directory: None)


@flax.struct.dataclass
class State:
    step: jax.Array
    weights: jax.Array
    moments: dict
    best: jax.Array  # infinite at first, by design
    key: jax.Array


def fresh() -> State:
    return State(jnp.zeros((), jnp.int32), jnp.zeros(3), {"nu": jnp.zeros(3)}, jnp.asarray(jnp.inf), jax.random.key(0))


def step_of(*, infinite_at=None, only_with=None, **metrics):
    """A step whose second moments overflow at one step, as with gradients above 1e19, while its loss is fine."""

    def train_step(state, batch, key):
        bad = state.step == (-1 if infinite_at is None else infinite_at)
        if only_with is not None:
            bad &= jnp.all(jax.random.key_data(key) == only_with)
        moments = jnp.where(bad, jnp.inf, state.moments["nu"] + 1)
        new = state.replace(step=state.step + 1, weights=state.weights + 1, moments={"nu": moments})
        return new, {"loss": jnp.ones(()), "update_norm": jnp.ones(())} | {
            name: jnp.asarray(value(state.step) if callable(value) else value, jnp.float32)
            for name, value in metrics.items()
        }

    return train_step


DATA = data.from_arrays("rows", np.zeros((16, 4, 4, 1), np.uint8))
KEY = jax.random.key(5)


def train(directory, train_step, **options):
    defaults = {"num_steps": 20, "batch_size": 8, "key": KEY, "num_devices": 1, "log_every": 5, "checkpoint_every": 5}
    quiet = {"progress": False, "tensorboard": False, "config": {}}
    return loop.train(train_step, fresh(), DATA, directory=directory, **defaults | quiet | options)


def status(directory) -> dict:
    return json.loads((directory / "status.json").read_text())


def steps_of(directory):
    return checkpoint.all_steps(directory / "checkpoints")


# The state ------------------------------------------------------------------------------------------------------------


def test_what_is_not_finite_is_named_and_what_was_so_from_the_beginning_is_not():
    mesh, begun = sharding.make_mesh(1), fresh()

    def found(**changes):
        return health.not_finite(mesh, sharding.replicate(mesh, begun.replace(**changes)), begun)

    assert found() == ""
    assert found(moments={"nu": jnp.array([1.0, jnp.inf, 1.0])}) == "moments['nu']"
    assert found(weights=jnp.full(3, jnp.nan), best=jnp.zeros(())) == "weights"
    many = {name: jnp.full(1, -jnp.inf, jnp.bfloat16) for name in "abcde"}
    assert found(moments=many).endswith("and 2 more arrays")
    assert health.not_finite(mesh, {"step": jnp.ones((), jnp.int32)}, {}) == ""


def test_a_state_that_is_not_finite_is_never_saved_although_its_losses_are(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(loop.NonFiniteLoss, match=r"After step 10 the state is not finite.*: moments\['nu'\]") as raised:
        train(run, step_of(infinite_at=7))
    assert steps_of(run) == [5] and f"last good checkpoint is {run / 'checkpoints' / '5'}" in str(raised.value)
    assert status(run)["status"] == "non-finite" and status(run)["step"] == 10
    assert train(run, step_of()).step == 20  # mended


def test_a_state_that_is_not_finite_goes_back_as_a_loss_does(tmp_path):
    first = jax.random.key_data(jax.random.split(KEY)[1])
    with pytest.warns(UserWarning, match=r"is not finite.*Going back \(1 of 1 times\)"):
        result = train(tmp_path / "run", step_of(infinite_at=7, only_with=first), max_rollbacks=1)
    assert result.step == 20 and np.isfinite(result.state.moments["nu"]).all()


def test_neither_a_signal_nor_an_evaluation_saves_a_state_that_is_not_finite(tmp_path):
    def signalled(state):
        if int(state.step) == 8:
            signal.raise_signal(signal.SIGTERM)
        return {}

    with pytest.raises(loop.NonFiniteLoss, match="After step 8 the state"):
        train(tmp_path / "a", step_of(infinite_at=6), sample=signalled, sample_every=4)
    assert steps_of(tmp_path / "a") == [5]
    evaluated = []
    with pytest.raises(loop.NonFiniteLoss, match="After step 8 the state"):
        train(tmp_path / "b", step_of(infinite_at=6), evaluate=lambda s: evaluated.append(s) or {}, evaluate_every=4)
    assert len(evaluated) == 1 and steps_of(tmp_path / "b") == [5]  # nothing was measured of it


# The log --------------------------------------------------------------------------------------------------------------


def lines(*values, name="generator/skipped", every=100):
    return [{"step": every * (i + 1), name: value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    "records, said",
    [
        (lines(1, 1, 1), "the generator skipped every update (skip_norm), and"),
        (lines(0, 0.5, 1, 1), "the generator skipped every update after step 200 (skip_norm)"),
        (lines(1, 1, name="skipped"), "the network skipped every update"),
        (lines(0.9, 0.8, 0.9), "the generator skipped 87% of its updates"),
        (lines(1e8, 1e8, name="discriminator/loss"), "the discriminator loss has grown to 1e+08"),
        (lines(0.7, 2, 1e4, name="loss"), "its loss has grown to 1e+04"),
        (lines(-500.0, -1e9, name="elbo"), "the elbo has grown to 1e+09"),
    ],
)
def test_a_run_that_hardly_trained_is_told_of(records, said):
    text = health.doubts(records, (28, 28, 1))
    assert text.startswith("This run is not well: ") and said in text and text.endswith("in a new run.")


@pytest.mark.parametrize(
    "records",
    [
        [],
        lines(0, 0, 0),
        lines(0.4, 0.1, 0.2),
        lines(*[0.0] * 20, 1),  # a last line of skips is no run of them
        lines(-3e4, -2e4, name="elbo"),
        lines(0.7, 1.2, 40, name="generator/loss"),
        lines(1, 1e6, 1.0, name="loss"),  # it came back
        lines(1, 1e6, name="eval/loss"),
        lines(float("nan"), float("nan"), name="generator/loss"),
    ],
)
def test_a_run_that_trained_is_not(records):
    assert health.doubts(records, (28, 28, 1)) == ""


def test_a_player_that_skips_every_update_is_said_once_at_the_end_and_kept_in_the_status(tmp_path):
    train_step = step_of(**{"generator/skipped": 1.0, "generator/loss": 0.5})
    with pytest.warns(UserWarning) as told:
        assert train(tmp_path / "run", train_step).step == 20
    said = [str(w.message) for w in told if "not well" in str(w.message)]
    assert len(said) == 1 and "the generator skipped every update" in said[0]
    assert status(tmp_path / "run")["status"] == "finished" and status(tmp_path / "run")["message"] == said[0]
    train(tmp_path / "run", train_step)  # finished already: the status keeps it
    assert status(tmp_path / "run")["message"] == said[0]


# How it failed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("the drive is gone"), ValueError("no"), KeyboardInterrupt()])
def test_a_run_that_failed_is_not_running(tmp_path, error):
    def fails(state):
        raise error

    with pytest.raises(type(error)):
        train(tmp_path / "run", step_of(), sample=fails, sample_every=12)
    found = status(tmp_path / "run")
    assert found["status"] == "failed" and found["step"] == 10
    assert found["message"] == (str(error) or "it was ended at once (KeyboardInterrupt)")
    assert train(tmp_path / "run", step_of()).step == 20 and status(tmp_path / "run")["status"] == "finished"


def test_a_finished_run_that_is_asked_what_cannot_be_stays_finished(tmp_path):
    train(tmp_path / "run", step_of())
    with pytest.raises(ValueError, match="is at step 20 already"):
        train(tmp_path / "run", step_of(), num_steps=10)
    assert status(tmp_path / "run")["status"] == "finished"


def test_a_save_that_failed_is_told_by_the_status(tmp_path, monkeypatch):
    def full(manager, step, *arguments, **options):
        raise checkpoint.SaveFailed("the disk is full")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(checkpoint.SaveFailed):
        train(tmp_path / "run", step_of())
    assert status(tmp_path / "run") | {"time": 0} == {
        "status": "failed",
        "step": 0,
        "message": "the disk is full",
        "time": 0,
    }
    assert "failed" in run_directory.STATUSES
