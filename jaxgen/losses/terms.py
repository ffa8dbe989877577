"""Terms of well-known methods, for the lists of terms that `gan.make_train_step` takes.

    terms = [terms.lecam(0.3)]
    step = gan.make_train_step(..., discriminator_terms=terms)
    state = gan.init(..., discriminator_terms=terms)  # a term with state is given to both

Each says whose objective it is added to. All are minimised and are means over the batch; where a picture has several
logits, D is their mean, and scales add up. `weight` is a number or a schedule step -> number, and `turns.term` makes a
term of any function of the turn: these here are for reading, too.

In the per-device view of `pmap` or `shard_map` a term that draws takes the `axis_name`, as a penalty does.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import network, sharding, turns
from jaxgen.losses import penalties
from jaxgen.turns import Term, Turn

Weight = float | Callable[[jax.Array], jax.Array]


def lecam(weight: Weight, decay: float = 0.99) -> Term:
    """weight * (E_real (D(x) - a_fake)^2 + E_fake (D(G(z)) - a_real)^2), of the discriminator.

    a_real and a_fake are running means of the logits, a <- decay a + (1 - decay) E D, from 0: its state. Constants to
    differentiation, and in the formula those of before the step. Tseng et al. 2021; the authors' code counts a
    real logit only above a_fake, and a fake one only below a_real.
    """

    def value(turn, state):
        real, fake = turns.per_picture(turn.real_logits), turns.per_picture(turn.fake_logits)
        penalty = jnp.square(real - state["fake"]) + jnp.square(fake - state["real"])
        new = {"real": jnp.mean(real), "fake": jnp.mean(fake)}
        return penalty, jax.tree.map(lambda a, x: decay * a + (1 - decay) * jax.lax.stop_gradient(x), state, new)

    return Term("lecam", value, lambda players: dict.fromkeys(("real", "fake"), jnp.zeros((), jnp.float32)), weight)


def drift(weight: Weight = 1e-3) -> Term:
    """weight * E_real D(x)^2, of the discriminator: keeps logits near 0, which a Wasserstein loss does not.

    Karras et al. 2018, appendix A.1.
    """
    return turns.term(lambda turn: jnp.square(turns.per_picture(turn.real_logits)), name="drift", weight=weight)


def gradient_penalty_of_enlarged(
    weight: float, target: float, times: Callable[[jax.Array], jax.Array], *, axis_name: str | None = None
) -> Term:
    """The WGAN-GP penalty of D as a function of small pictures, whose pixels stand n x n times in what D sees.

    The gradient of the same function is n times shorter in the enlarged picture. Of the discriminator:

        weight E (n |grad_x D| - target)^2 = weight n^2 E (|grad_x D| - target / n)^2

    Args:
      weight, target, axis_name: of `penalties.gradient_penalty`.
      times: step -> n.
    """

    def value(turn, state):
        n = times(turn.step)
        penalty = penalties.gradient_penalty(weight * n**2, target / n, axis_name)
        return penalty(turn.as_real, turn.real, turn.fake, turn.key), state

    return Term("gradient_penalty", value, prefix="penalty")


def path_length(
    weight: Weight = 2.0,
    decay: float = 0.01,
    every: int = 4,
    *,
    mapping: str | Callable = "mapping",
    synthesis: str | Callable = "synthesis",
    batch_shrink: int = 2,
    axis_name: str | None = None,
) -> Term:
    """weight * E (|J' y| - a)^2 with J = d image / d w and y ~ N(0, 1) / sqrt(H W) for each number, of the generator.

    a, its state, is the running mean of the lengths, a <- a + decay (E |J' y| - a), from 0; a constant, and in the
    formula that of before the step, so that neither slices nor devices need each other's lengths (the authors' code
    takes the one after it, and differentiates it). A lazy term: computed every 4 steps, and weighs 4 times as much.

    Args:
      weight: before that factor.
      decay: how fast a moves; other averages' 1 - decay.
      every: how often.
      mapping: of the generator: a method `(z, [condition], train=) -> w` by its name, or a function
        `(turn, z, [condition]) -> w`. w is [B, features], or [B, layers, features]: then |J' y|^2 is the mean over
        layers of each layer's own, so that it is another number than for one w that all layers share.
      synthesis: a method `(w, train=) -> images`, or a function `(turn, w) -> images`. Both may draw
        (style mixing, noise), with the turn's key.
      batch_shrink: takes every second, third, ... latent, to save memory.
      axis_name: of the per-device view.

    Karras et al. 2020, section 3.2.
    """

    def run(turn, which, *inputs):
        output = turn.generator(*inputs, method=which) if isinstance(which, str) else which(turn, *inputs)
        return network.split_output(output)[0]

    def value(turn, state):
        w = run(turn, mapping, *jax.tree.map(lambda x: x[::batch_shrink], turn.inputs))

        def projected(w):
            image = run(turn, synthesis, w)
            y = sharding.draw(jax.random.normal, turn.key, image.shape, axis_name=axis_name)
            return jnp.sum(image * y.astype(image.dtype)) / np.sqrt(np.prod(image.shape[1:-1]))

        squared = jnp.sum(jnp.square(jax.grad(projected)(w)), axis=-1)
        squared = jnp.mean(squared, axis=tuple(range(1, squared.ndim)))
        positive = squared > 0  # a root at 0 has no derivative: here it is 0
        lengths = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
        new = state + decay * (jax.lax.stop_gradient(jnp.mean(lengths)) - state)
        return jnp.mean(jnp.square(lengths - state)), new

    return Term("path_length", value, lambda players: jnp.zeros((), jnp.float32), weight, every)


def l1(fake: jax.Array, target: jax.Array) -> jax.Array:
    """|fake - target|, for each pixel."""
    return jnp.abs(fake - target)


def l2(fake: jax.Array, target: jax.Array) -> jax.Array:
    """(fake - target)^2, for each pixel."""
    return jnp.square(fake - target)


def reconstruction(
    weight: Weight, distance: Callable = l1, target: str = "image", *, name: str = "reconstruction"
) -> Term:
    """weight * E distance(G(.), batch[target]), of the generator; pixels are averaged, not summed.

    Args:
      weight: 100 in pix2pix.
      distance: `(fake, target) -> ` one number, or one or many for each image, which are averaged.
      target: its name in the batch.
      name: under which it is reported, where there are several.

    Isola et al. 2017, eq. 3.
    """
    if not callable(distance):
        raise TypeError(f"distance must be a function such as terms.l1, not {distance!r}")

    def value(turn):
        if target not in turn.batch:
            raise ValueError(f"the term {name!r} needs {target!r}, but the batch has only {', '.join(turn.batch)}")
        if turn.fake.shape != turn.batch[target].shape:  # would broadcast, without an error
            raise ValueError(
                f"the term {name!r} compares images of shape {turn.fake.shape[1:]} with a {target} of shape "
                f"{turn.batch[target].shape[1:]}"
            )
        return turns.per_picture(distance(turn.fake, turn.batch[target]))

    return turns.term(value, name=name, weight=weight)


def all_of_it(aux: Any) -> Any:
    """What the discriminator returns beside its logits, as it is."""
    return aux


def feature_matching(weight: Weight = 10.0, features: Callable[[Any], Any] = all_of_it) -> Term:
    """weight * sum_i E mean |f_i(x) - f_i(G(z))|, of the generator, which does not move the discriminator's features.

    Image i of the real batch goes with image i of the fake batch: for pairs. The mean is over a feature map's own
    numbers. Wang et al. 2018; their code weighs a discriminator's map by 4 / (number of its layers + 1) and a
    scale by 1 / (number of scales).

    Args:
      weight: of the sum.
      features: from what the discriminator returns beside its logits (`network.Output`) to the maps [B, ...], a tree.
    """

    def feature_matching(turn):
        real, fake = features(_aux(turn.real_aux, "feature_matching")), features(turn.fake_aux)
        return turns.per_picture(jax.tree.map(l1, fake, real))

    return turns.term(feature_matching, weight=weight)


def labels_of(turn: Turn) -> tuple[Any, Any]:
    """Labels of the real images, and of the fake ones: batch["label"], and what the generator is told."""
    return turn.batch["label"], turn.condition.generator


def auxiliary_classifier(
    weight: Weight = 1.0,
    *,
    sides: tuple[str, ...] = ("real", "fake"),
    logits: Callable[[Any], jax.Array] = all_of_it,
    labels: Callable[[Turn], tuple[Any, Any]] = labels_of,
) -> Term:
    """weight * (E_real -log C(c | x) + E_fake -log C(c | G(z, c))) in nats, for either player, or for both.

    C = softmax of the class logits that the discriminator returns beside its own: `network.Output(logits, classes)`.
    In the generator's turn only fake images count: it has no part in the rest. Odena et al. 2017, eq. 3, whose
    discriminator is not told labels: `condition` returns `Conditions(generator=labels)`.

    Args:
      weight: of the sum.
      sides: ("real",) for the discriminator of StarGAN, which learns classes of real images alone.
      logits: from what the discriminator returns beside its logits to [B, num_classes].
      labels: the turn -> (labels of the real images, of the fake ones), [B] whole numbers; by default batch["label"]
        and what the generator is told.

    A label outside of 0..num_classes - 1 makes the term NaN.
    """
    if not set(sides) <= {"real", "fake"} or not sides:
        raise ValueError(f"sides are of 'real' and 'fake', not {sides!r}")

    def cross_entropy(aux, label):
        found = logits(aux)
        label = jnp.where(label < 0, found.shape[-1], label)  # negative ones would count from the end
        return optax.losses.softmax_cross_entropy_with_integer_labels(found, label)

    def auxiliary_classifier(turn):
        _aux(turn.real_aux, "auxiliary_classifier")
        real_label, fake_label = labels(turn)
        total = 0.0
        if "fake" in sides:
            total += cross_entropy(turn.fake_aux, fake_label)
        if "real" in sides and turn.gradient is None:  # the discriminator's turn
            total += cross_entropy(turn.real_aux, real_label)
        return total

    return turns.term(auxiliary_classifier, weight=weight)


def _aux(aux, name):
    if aux is None:
        raise ValueError(
            f"the term {name!r} is of what the discriminator returns beside its logits, and it returns nothing else: "
            "let it return network.Output(logits, aux)"
        )
    return aux


def consistency(weight: Weight, transform: Callable, side: str = "real", *, axis_name: str | None = None) -> Term:
    """weight * E (D(x) - D(T(x)))^2, of the discriminator: it should not care about T. Reported as consistency_`side`.

    Both D(x) and D(T(x)) learn. Zhang et al. 2020, with weight 10; balanced consistency (bCR, Zhao et al. 2021) is
    this term of the real images and another of the fake ones, and `latent_consistency` is their zCR.

    Args:
      weight: of the mean.
      transform: T, `(key, images) -> images`: a random flip and shift in the paper.
      side: "real" or "fake": x, and how it is judged.
      axis_name: of the per-device view, in which each device transforms for itself.
    """
    if side not in ("real", "fake"):
        raise ValueError(f"side is 'real' or 'fake', not {side!r}")

    def value(turn):
        judge, x, logits = (
            (turn.as_real, turn.real, turn.real_logits)
            if side == "real"
            else (turn.as_fake, turn.fake, turn.fake_logits)
        )
        transformed = judge(transform(sharding.per_device_key(turn.key, axis_name), x))
        return jnp.square(turns.per_picture(logits) - transformed)

    return turns.term(value, name=f"consistency_{side}", weight=weight)


def latent_consistency(weight: Weight, deviation: float = 0.03, *, axis_name: str | None = None) -> Term:
    """weight * E (D(G(z)) - D(G(z + deviation e)))^2, e ~ N(0, 1), of the discriminator: near latents, near logits.

    Both logits learn, as fake ones. The two pictures differ in nothing else: what the generator draws is the same.
    Zhao et al. 2021 (zCR), of the discriminator; with `latent_diversity`, of the generator.

    Args:
      weight: of the mean.
      deviation: of the step from z.
      axis_name: of the per-device view.
    """

    def latent_consistency(turn):
        near, other = _neighbours(turn, deviation, "latent_consistency", axis_name)
        return jnp.square(turn.as_fake(near) - turn.as_fake(other))

    return turns.term(latent_consistency, weight=weight)


def latent_diversity(weight: Weight, deviation: float = 0.03, *, axis_name: str | None = None) -> Term:
    """-weight * E mean (G(z) - G(z + deviation e))^2, e ~ N(0, 1), of the generator: near latents, other pictures.

    The mean is over a picture's numbers; where the paper means their sum, the weight is as many times as large. What
    the generator draws beside latents is the same in both. Zhao et al. 2021 (zCR), of the generator.

    Args:
      weight: of the mean; what is added is negative.
      deviation: of the step from z.
      axis_name: of the per-device view.
    """

    def latent_diversity(turn):
        near, other = _neighbours(turn, deviation, "latent_diversity", axis_name)
        return -turns.per_picture(l2(near, other))

    return turns.term(latent_diversity, weight=weight)


def _neighbours(turn, deviation, name, axis_name):
    """Pictures of the turn's latents, and of latents beside them."""
    if len(turn.inputs) == (turn.condition.generator is not None):
        raise ValueError(f"the term {name!r} moves latents, and this generator has none (latent_dim=None)")
    z, *told = turn.inputs
    step = deviation * sharding.draw(jax.random.normal, turn.key, z.shape, axis_name=axis_name)
    return [network.split_output(turn.generator(x, *told))[0] for x in (z, z + step)]


def turned(weight: Weight, side: str, *, axis_name: str | None = None) -> Term:
    """weight * E -log P(k | x turned by k quarters) in nats, for the player whose `side` it is. Reported as turned.

    Image i of the batch is turned by i mod 4 quarters, counterclockwise, and the discriminator's head says by how many:
    it returns `network.Output(logits, [B, 4])`. The discriminator learns it of real images ("real"), the generator
    makes fake ones of which it can be told ("fake"). Chen et al. 2019, "Self-Supervised GANs via Auxiliary Rotation
    Loss", with weights 1 and 0.2.

    Args:
      weight: of the mean.
      side: "real" for the discriminator's term, "fake" for the generator's.
      axis_name: of the per-device view, in which i counts over all devices.
    """
    if side not in ("real", "fake"):
        raise ValueError(f"side is 'real' or 'fake', not {side!r}")

    def value(turn):
        images = turn.real if side == "real" else turn.fake
        quarters = sharding.draw(
            lambda key, shape: jnp.arange(*shape) % 4, turn.key, images.shape[:1], axis_name=axis_name
        )
        _, logits = network.split_output(turn.discriminator(turned_by(images, quarters)))
        found = _aux(logits, "turned")
        return optax.losses.softmax_cross_entropy_with_integer_labels(found, quarters)

    return turns.term(value, name="turned", weight=weight)


def turned_by(images: jax.Array, quarters: jax.Array) -> jax.Array:
    """Square images [B, H, H, C], each turned counterclockwise by its number of quarters [B].

    Raises:
      ValueError: for images that are not square.
    """
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"only square images can be turned by a quarter, not {images.shape[1]}x{images.shape[2]}")
    choices = [jnp.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return jnp.select([(quarters == k)[:, None, None, None] for k in range(4)], choices)


def is_kernel(path: tuple[str, ...]) -> bool:
    """Whether a parameter is called "kernel"."""
    return path[-1] == "kernel"


def orthogonal(weight: Weight = 1e-4, which: Callable[[tuple[str, ...]], bool] = is_kernel) -> Term:
    """weight * sum over kernels |W' W * (1 - I)|_F^2: directions of filters, not their lengths; of either player.

    W [n, O] is a kernel with all axes but the last flattened. Brock et al. 2019, eq. 3. No mean is taken: the term
    does not depend on the batch.

    Args:
      weight: 1e-4 in the paper, for the generator.
      which: of the parameters, by their names from the outermost module on: those called "kernel", which embeddings,
        biases and normalisation are not.
    """

    def orthogonal(turn):
        params = turn.discriminator_params if turn.gradient is None else turn.generator_params
        total = 0.0
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if which(tuple(str(part.key) for part in path)):
                w = leaf.reshape(-1, leaf.shape[-1])
                total += jnp.sum(jnp.square((w.T @ w) * (1 - jnp.eye(w.shape[-1], dtype=w.dtype))))
        return total

    return turns.term(orthogonal, weight=weight)


def adaptive_weight(
    reconstruction: Callable[[Turn, Any], jax.Array],
    layer: tuple[str, ...],
    *,
    factor: float = 0.8,
    epsilon: float = 1e-4,
    most: float = 1e4,
) -> Callable[[Turn], jax.Array]:
    """factor min(|grad reconstruction| / (|grad adversarial loss| + epsilon), most), for `adversarial_weight`.

    Both gradients are at one layer of the generator, the decoder's last. The weight is a constant to differentiation.

    Args:
      reconstruction: (turn, what the generator returned) -> a number.
      layer: the names of a parameter from the outermost module on, such as ("decoder", "output", "kernel").
      factor, epsilon, most: 0.8, 1e-4 and 1e4 in the authors' code.

    Esser et al. 2021, eq. 7.
    """

    def adaptive_weight(turn):
        def norm(gradient):
            for name in layer:
                gradient = gradient[name]
            return jnp.sqrt(jnp.sum(jnp.square(gradient)))

        of_reconstruction = norm(turn.gradient(lambda output: reconstruction(turn, output)))
        return factor * jnp.clip(of_reconstruction / (norm(turn.gradient(turn.adversarial)) + epsilon), 0.0, most)

    return adaptive_weight
