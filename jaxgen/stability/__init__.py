"""The stability laboratory: games with closed forms, update rules, spectra and verdicts.

    from jaxgen.losses import penalties
    from jaxgen.stability import games, updates

    game = games.dirac(penalties=[penalties.r1(gamma=0.5)])
    rule = updates.alternating(rates=0.1)
    trajectory = updates.run(rule, games.field(game), game.start, num_steps=1000)

Sign convention: v = (-dL/dtheta, +dL/dpsi) is the direction in which the players move, w' = w + h v and J = dv/dw. An
equilibrium is stable in continuous time if all eigenvalues of J have a negative real part, and under an update rule if
the Jacobian of one whole step, state included, has a spectral radius below 1.

Closed forms (`oracles`) are NumPy in double precision. Games and updates follow the precision of their arguments: run
theory under `with jax.enable_x64(True):`.
"""
