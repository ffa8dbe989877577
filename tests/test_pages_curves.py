import re

import numpy as np
from a_run import read

from jaxgen.pages import curves
from jaxgen.run_directory import metrics_log


def test_related_metrics_share_a_panel():
    names = ["generator/loss", "discriminator/loss", "discriminator/real_logits", "discriminator/fake_logits"]
    names += ["discriminator/grad_norm", "units/kl_0", "units/kl_1", "rate", "eval/fid", "eval/fid_std", "eval/kid_std"]
    assert curves.panels(names) == [
        ("eval", ["eval/fid"]),
        ("eval", ["eval/kid_std"]),
        ("generator and discriminator", ["generator/loss", "discriminator/loss"]),
        ("discriminator", ["discriminator/real_logits", "discriminator/fake_logits"]),
        ("discriminator", ["discriminator/grad_norm"]),
        ("other", ["units/kl_0", "units/kl_1"]),
        ("other", ["rate"]),
    ]


def test_no_panel_has_more_curves_than_colours_and_none_is_lost():
    names = [f"units/kl_{index}" for index in range(20)]
    arranged = curves.panels(names)
    assert [len(members) for _, members in arranged] == [8, 8, 4]
    assert [name for _, members in arranged for name in members] == names
    assert curves.MAX_CURVES <= len(curves.COLOURS)


def test_norms_over_orders_of_magnitude_get_a_logarithmic_axis(tmp_path):
    with metrics_log.open_metrics(tmp_path, tensorboard=False) as log:
        for step in range(50):
            log.write(step, {"generator/grad_norm": 10.0 ** (step / 20), "rate": 1.0 + step / 10, "loss": step - 10.0})
    text = read(tmp_path)[0].replace("<wbr>", "")
    figures = {name: "log scale" in f for f in text.split("<figure")[1:] for name in re.findall(r"</i>(\S+) <b>", f)}
    assert figures == {"generator/grad_norm": True, "rate": False, "loss": False}


def test_thinning_keeps_the_extremes_and_smoothing_keeps_the_mean():
    steps = np.arange(10_000)
    values = np.sin(steps / 500.0)
    values[4321], values[7777] = 50.0, -50.0
    values[100:400] = np.nan
    thin_steps, thin_values = curves._thinned(steps, values)
    assert len(thin_steps) <= 1000 and (np.diff(thin_steps) > 0).all()
    assert thin_values[thin_steps == 4321] == 50.0 and thin_values[thin_steps == 7777] == -50.0
    assert np.isnan(thin_values).any()
    smooth_steps, smooth_values = curves._smoothed(steps, np.where(steps == 3000, 1e30, 0.999))
    assert len(smooth_steps) <= 1000 and smooth_steps[0] == 0 and smooth_steps[-1] == 9999
    far = np.abs(smooth_steps - 3000) > 200
    np.testing.assert_allclose(smooth_values[far], 0.999, rtol=1e-12)


def test_what_is_measured_in_training_and_in_evaluation_has_one_section():
    names = ["elbo", "rate", "grad_norm", "eval/elbo", "eval/rate"]
    assert curves.panels(names) == [
        ("training and eval", ["elbo", "eval/elbo"]),
        ("training and eval", ["rate", "eval/rate"]),
        ("other", ["grad_norm"]),
    ]
