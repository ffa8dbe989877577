"""What a user writes in a notebook, for the type checker alone: `mypy` reads this file, and nothing runs it.

`assert_type` says what the checker must know of a result: behind an untyped function it knows nothing, and complains.
"""

from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen
from jaxgen import classifier, data, drawing, gan, images, loop, optim, turns, vae
from jaxgen.loading import Trained
from jaxgen.losses import adversarial, penalties
from jaxgen.models import cnn, dcgan, mlp
from jaxgen.run_directory import metrics_log


def a_gan() -> gan.GANState:
    generator = dcgan.Generator(image_size=28, channels=1, features=16, num_classes=10)
    discriminator = dcgan.Discriminator(features=16, num_classes=10, batch_norm=False)
    adam = optax.adam(1e-3, b1=0.0, b2=0.99)
    clipped = optax.chain(optim.clip_by_global_norm(1.0), adam)
    mnist, key = data.mnist(), jax.random.key(1)
    example = data.batch(mnist, 0, batch_size=64, seed=0, key=key)
    state = gan.init(
        jax.random.key(0),
        generator,
        discriminator,
        latent_dim=64,
        generator_optimizer=adam,
        discriminator_optimizer=clipped,
        condition=turns.told("label"),
        example=example,
    )
    train_step = gan.make_train_step(
        generator,
        discriminator,
        latent_dim=64,
        generator_optimizer=adam,
        discriminator_optimizer=clipped,
        condition=turns.told("label"),
        loss=adversarial.non_saturating,
        penalties=[penalties.r1(gamma=0.1)],
        ema_decay=0.99,
    )
    step = jax.jit(train_step)
    for i in range(2):
        batch = data.batch(mnist, i, batch_size=64, seed=0, key=key)
        state, metrics = step(state, batch, key)
    assert_type(state.step, jax.Array)
    labels = jnp.repeat(jnp.arange(10), 8)
    digits = gan.sample(generator, state.ema, jax.random.normal(jax.random.key(2), (80, 64)), labels)
    assert_type(digits, jax.Array)
    picture = images.grid(digits, columns=8, upscale=2)
    assert_type(picture, np.ndarray)
    images.save_png("digits.png", picture)
    return state


def a_vae_in_the_loop() -> None:
    encoder, decoder = mlp.Encoder(latent_dim=20), mlp.BernoulliDecoder((28, 28, 1))
    optimizer = optax.adam(1e-3)
    system = jaxgen.System(
        init=lambda key: vae.init(key, encoder, decoder, optimizer=optimizer, image_shape=(28, 28, 1)),
        train_step=vae.make_train_step(encoder, decoder, optimizer=optimizer, ema_decay=0.99),
        images_per_step=64,
        draw=lambda variables, key, n: vae.sample(decoder, variables, jax.random.normal(key, (n, 20))),
    )
    binary = data.mnist(binarise=data.binarisation.dynamic)
    result = jaxgen.train(system, binary, "runs/mine", num_steps=1000)
    assert_type(result, loop.Result)
    assert_type(result.step, int)
    run = jaxgen.load("runs/mine", system=system)
    assert_type(run, Trained)
    assert_type(run.step, int)
    assert_type(drawing.generate(run, 16, jax.random.key(0)), np.ndarray)
    images.save_png("mine.png", images.grid(run.draw(jax.random.key(0), 16)))
    assert_type(metrics_log.read_metrics("runs/mine")[-1]["loss"], float)


def the_loop_alone(key: jax.Array) -> float:
    network = cnn.CNN(10, (32, 64))
    optimizer = optax.sgd(0.1)
    state = classifier.init(key, network, optimizer=optimizer, image_shape=(28, 28, 1))
    result = loop.train(
        classifier.make_train_step(network, optimizer=optimizer),
        state,
        data.mnist(),
        directory="runs/classifier",
        num_steps=10,
        batch_size=64,
        key=key,
    )
    return result.evaluation["eval/accuracy"]
