"""Vectors become codes and come back: quantisers, each with a straight-through gradient.

    found = VectorQuantiser(512, 64)(z, train=True)    # z [B, h, w, 64]
    found.codes                                        # whole numbers [B, h, w]
    found.vectors                                      # [B, h, w, 64]: in value embed(codes), in gradient z

| quantiser | codes are | learns by |
| --- | --- | --- |
| `VectorQuantiser` | the nearest of learned vectors | the gradient of a codebook term |
| `EMAVectorQuantiser` | the nearest of moving averages | averages; its codebook is state and not parameters |
| `FiniteScalarQuantiser` | the rounded numbers of a bounded vector | nothing of its own |
| `LookupFreeQuantiser` | the signs of a vector | entropy terms |
| `GumbelQuantiser` | a draw of a softmax | the bound itself; its vectors are relaxed one-hot vectors |

Each has `num_codes`, the `dim` of z that it takes, and `embed(codes) -> vectors`. Distances and everything after them
are float32, whatever z is. `axis_name` is for the per-device view: statistics of a batch are those of all devices.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jaxgen import sharding
from jaxgen.arguments import check_key
from jaxgen.models.batch_norm import rows_of

FLOAT = jnp.float32
COLLECTION = "code_averages"  # of a codebook of moving averages
HIGHEST = lax.Precision.HIGHEST  # a product in half precision is off by a percent: another code would be the nearest


class Quantised(NamedTuple):
    """What a quantiser makes of z [B, h, w, dim]."""

    codes: jax.Array  # int32 [B, h, w], from 0 to num_codes - 1
    vectors: jax.Array  # float32 [B, h, w, dim], for the decoder
    loss: jax.Array  # a scalar, weights included, to be added to the distortion
    metrics: dict[str, jax.Array]  # scalars to log


@jax.custom_jvp
def straight_through(z: jax.Array, q: jax.Array) -> jax.Array:
    """q with the gradient of z: bit for bit q, where z + stop_gradient(q - z) is off by a rounding."""
    return q


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    return primals[1], tangents[0].astype(primals[1].dtype)


def nearest(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """argmin_k |z - e_k|^2, the first of equals: z [..., D], e [K, D] -> int32 [...]."""
    middle = jnp.mean(codebook.astype(FLOAT), axis=0)  # taken away from both, it leaves more digits to the differences
    z, e = z.astype(FLOAT) - middle, codebook.astype(FLOAT) - middle
    # |z|^2 is the same for all codes.
    distances = jnp.sum(jnp.square(e), axis=1) - 2 * jnp.matmul(z, e.T, precision=HIGHEST)
    return jnp.argmin(distances, axis=-1).astype(jnp.int32)


def usage(codes: jax.Array, num_codes: int, axis_name: str | None = None) -> dict[str, jax.Array]:
    """How a batch uses its codes: `perplexity`, exp of the entropy of their shares, and `used_share` of all codes.

    Of n codes neither can be more than n and n / num_codes: what a small batch shows is less than what a data set shows
    (`metrics.codes`).
    """
    shares = jnp.bincount(codes.reshape(-1), length=num_codes).astype(FLOAT) / codes.size
    shares = _mean(shares, axis_name)
    return {"perplexity": jnp.exp(_entropy(shares)), "used_share": jnp.mean((shares > 0).astype(FLOAT))}


def _entropy(p):
    """-sum p log p in nats, with the derivative 0 where p is 0."""
    return -jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1.0)))


def _mean(x, axis_name):
    return x if axis_name is None else lax.pmean(x, axis_name)


def _sum(x, axis_name):
    return x if axis_name is None else lax.psum(x, axis_name)


def _vectors(z, dim, name):
    """z as float32, its last axis checked."""
    if z.shape[-1] != dim:
        raise ValueError(
            f"{name} takes vectors of {dim} numbers, and the encoder returns {z.shape[-1]}: let its last layer have "
            "the quantiser's dim"
        )
    return z.astype(FLOAT)


def uniform_codes(key: jax.Array, shape: tuple[int, ...], num_codes: int) -> jax.Array:
    """Codes that are all alike, each by itself: int32 of a shape, divided over devices as images are.

    Raises:
      TypeError: for what is no key.
    """
    return sharding.draw(lambda key, shape: jax.random.randint(key, shape, 0, num_codes, jnp.int32), key, shape)


def check_codes(codes: jax.Array, num_codes: int) -> jax.Array:
    """Whole numbers as int32.

    Args:
      codes: [...].
      num_codes: of the codebook.

    Raises:
      TypeError: for others than whole numbers.
      ValueError: outside of jit, where the values are known, for codes that the codebook does not have.
    """
    codes = jnp.asarray(codes)
    if not jnp.issubdtype(codes.dtype, jnp.integer):
        raise TypeError(f"codes must be whole numbers, not {codes.dtype}")
    if not isinstance(codes, jax.core.Tracer) and codes.size:
        least, most = int(codes.min()), int(codes.max())
        if least < 0 or most >= num_codes:
            raise ValueError(f"codes are from 0 to {num_codes - 1}, and these go from {least} to {most}")
    return codes.astype(jnp.int32)


def _only_known(vectors, codes, num_codes):
    """NaN for codes that there are not, as the rows of a table have it inside of jit."""
    return jnp.where(((codes >= 0) & (codes < num_codes))[..., None], vectors, jnp.nan).astype(FLOAT)


# Learned vectors ------------------------------------------------------------------------------------------------------

_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform", in_axis=-1, out_axis=-2)  # variance 1 / dim


class VectorQuantiser(nn.Module):
    """The nearest of K learned vectors e_k (van den Oord, Vinyals and Kavukcuoglu 2017, eq. 3).

    loss = mean |stop(z) - e|^2 + beta mean |z - stop(e)|^2, means over batch, positions and channels: the codebook term
    moves the codes to the vectors, the commitment, which alone has beta, the vectors to the codes.
    """

    num_codes: int = 512
    dim: int = 64
    beta: float = 0.25
    axis_name: str | None = None

    def setup(self) -> None:
        """The codebook is a parameter."""
        self.codebook = self.param("codebook", _uniform, (self.num_codes, self.dim), FLOAT)

    def __call__(self, z: jax.Array, *, train: bool) -> Quantised:
        z = _vectors(z, self.dim, "the codebook")
        codes = nearest(z, self.codebook)
        e = jnp.take(self.codebook, codes, axis=0)
        codebook_term = jnp.mean(jnp.square(lax.stop_gradient(z) - e))
        commitment = jnp.mean(jnp.square(z - lax.stop_gradient(e)))
        metrics = {"commitment": commitment, **usage(codes, self.num_codes, self.axis_name)}
        return Quantised(codes, straight_through(z, e), codebook_term + self.beta * commitment, metrics)

    def embed(self, codes: jax.Array) -> jax.Array:
        """The vectors of codes: [...] -> [..., dim]."""
        return rows_of(self.codebook, check_codes(codes, self.num_codes))


class EMAVectorQuantiser(nn.Module):
    """The nearest of K moving averages (van den Oord et al. 2017, appendix A.1).

    For n_k vectors z of a batch that chose code k, with N = 1 and m = e at the beginning,

        N_k <- decay N_k + (1 - decay) n_k
        m_k <- decay m_k + (1 - decay) sum of those z
        e_k <- m_k / N'_k,    N'_k = (N_k + epsilon) / (sum N + K epsilon) sum N.

    Without a choice N and m shrink alike, and e_k stays bit for bit what it is: it is not divided anew, since epsilon
    would pull what nobody chooses for long to 0. loss = beta mean |z - stop(e)|^2. A batch is that of all devices.

    A code whose N falls below `restart_below` begins anew as a vector of the batch, with N = 1 and m = e. With
    `k_means`, the first batch's vectors are clustered, and the codes begin there.

    The collection "code_averages" holds `count` N [K], `sum` m [K, dim], `vectors` e [K, dim] and how many `batches`.

    Raises:
      ValueError: at trace time, for k-means of fewer vectors than codes.
    """

    num_codes: int = 512
    dim: int = 64
    beta: float = 0.25
    decay: float = 0.99
    epsilon: float = 1e-5
    restart_below: float = 0.0  # 0: never
    k_means: bool = False
    axis_name: str | None = None

    def setup(self) -> None:
        """The codebook is a collection."""
        shape = (self.num_codes, self.dim)
        self.vectors = self.variable(COLLECTION, "vectors", lambda: _uniform(self.make_rng("params"), shape, FLOAT))
        self.sum = self.variable(COLLECTION, "sum", lambda: jnp.array(self.vectors.value))
        self.count = self.variable(COLLECTION, "count", jnp.ones, self.num_codes, FLOAT)
        self.batches = self.variable(COLLECTION, "batches", jnp.zeros, (), FLOAT)

    def __call__(self, z: jax.Array, *, train: bool) -> Quantised:
        z = _vectors(z, self.dim, "the codebook")
        learning = train and not self.is_initializing()
        if learning and self.k_means:
            self._start(lax.stop_gradient(z).reshape(-1, self.dim))
        vectors = self.vectors.value
        codes = nearest(z, vectors)
        e = jnp.take(vectors, codes, axis=0)
        commitment = jnp.mean(jnp.square(z - lax.stop_gradient(e)))
        metrics = {"commitment": commitment, **usage(codes, self.num_codes, self.axis_name)}
        if learning:
            metrics["dead_codes"] = self._follow(lax.stop_gradient(z).reshape(-1, self.dim), codes.reshape(-1))
        return Quantised(codes, straight_through(z, e), self.beta * commitment, metrics)

    def _start(self, z):
        """Codes at the centres of the first batch's vectors."""
        key = self.make_rng("codebook")
        vectors = lax.cond(
            self.batches.value == 0,
            lambda: k_means(key, z, self.num_codes, axis_name=self.axis_name),
            lambda: self.vectors.value,
        )
        self.sum.value = jnp.where(self.batches.value == 0, vectors, self.sum.value)
        self.vectors.value = vectors

    def _follow(self, z, codes):
        """Averages of the vectors that chose each code; returns how many codes were dead."""
        chosen, total = _chosen(z, codes, self.num_codes, self.axis_name)
        count = self.decay * self.count.value + (1 - self.decay) * chosen
        sums = self.decay * self.sum.value + (1 - self.decay) * total
        size = jnp.sum(count)
        smoothed = (count + self.epsilon) / (size + self.num_codes * self.epsilon) * size
        vectors = jnp.where((chosen > 0)[:, None], sums / smoothed[:, None], self.vectors.value)
        dead = count < (self.restart_below or DEAD)
        if self.restart_below > 0:
            fresh = some_of(self.make_rng("codebook"), z, self.num_codes, axis_name=self.axis_name)
            count = jnp.where(dead, 1.0, count)
            sums, vectors = (jnp.where(dead[:, None], fresh, old) for old in (sums, vectors))
        self.count.value, self.sum.value, self.vectors.value = count, sums, vectors
        self.batches.value = self.batches.value + 1
        return jnp.sum(dead).astype(FLOAT)

    def embed(self, codes: jax.Array) -> jax.Array:
        """The vectors of codes: [...] -> [..., dim]."""
        return rows_of(self.vectors.value, check_codes(codes, self.num_codes))


DEAD = 0.01  # vectors of a batch, on average, below which a code counts as dead where none begins anew


def _chosen(z, codes, num_codes, axis_name):
    """(n [K], sum of z [K, D]) of the vectors that chose each code, over all devices."""
    one_hot = jax.nn.one_hot(codes, num_codes, dtype=z.dtype)
    return _sum((jnp.sum(one_hot, axis=0), jnp.matmul(one_hot.T, z, precision=HIGHEST)), axis_name)


def some_of(key: jax.Array, z: jax.Array, num: int, *, axis_name: str | None = None) -> jax.Array:
    """`num` random vectors of a batch z [N, D], each as often as any other: [num, D]. Of all devices' vectors."""
    check_key(key)
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    order = jax.random.permutation(key, devices * len(z))
    rows = jnp.resize(order, (num,))  # from the first again, where there are fewer
    if axis_name is None:
        return z[rows]
    rows = rows - lax.axis_index(axis_name) * len(z)
    own = (rows >= 0) & (rows < len(z))
    return lax.psum(jnp.where(own[:, None], z[jnp.clip(rows, 0, len(z) - 1)], 0.0), axis_name)


def k_means(
    key: jax.Array, z: jax.Array, num_codes: int, *, iterations: int = 10, axis_name: str | None = None
) -> jax.Array:
    """Centres of clusters by Lloyd's iterations, which begin at random vectors: z [N, D] -> [num_codes, D].

    A centre that no vector is nearest to stays where it is.

    Raises:
      ValueError: for fewer vectors than centres.
    """
    check_key(key)
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    if devices * len(z) < num_codes:
        raise ValueError(
            f"k-means cannot make {num_codes} codes of the {devices * len(z)} vectors of a batch: take larger batches "
            "or fewer codes, or begin without it"
        )

    def iteration(_, centres):
        n, total = _chosen(z, nearest(z, centres), num_codes, axis_name)
        return jnp.where((n > 0)[:, None], total / jnp.maximum(n, 1)[:, None], centres)

    return lax.fori_loop(0, iterations, iteration, some_of(key, z, num_codes, axis_name=axis_name))


# Without a codebook ---------------------------------------------------------------------------------------------------


class FiniteScalarQuantiser(nn.Module):
    """Each number rounded to one of a few levels (Mentzer, Minnen, Agustsson and Tschannen 2023, section 3).

    For a number with L levels: round(f(z)) / floor(L / 2), f(z) = tanh(z + s) h - o, h = (L - 1)(1 - 0.001) / 2, with
    o = 1/2 and s = tan(o / h) for even L, which has no level in the middle, and 0 for odd. Codes count the first number
    fastest. The gradient is that of f: rounding has the gradient 1. There is no loss.
    """

    levels: tuple[int, ...] = (8, 6, 5)  # of each number
    axis_name: str | None = None

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return len(self.levels)

    @property
    def num_codes(self) -> int:
        """The product of the levels."""
        return math.prod(self.levels)

    def __call__(self, z: jax.Array, *, train: bool) -> Quantised:
        z = _vectors(z, self.dim, "finite scalar quantisation")
        half = (np.array(self.levels) - 1) * (1 - 1e-3) / 2
        offset = np.where(np.array(self.levels) % 2 == 0, 0.5, 0.0)
        bounded = jnp.tanh(z + np.tan(offset / half).astype(np.float32)) * half.astype(np.float32)
        bounded = bounded - offset.astype(np.float32)
        whole = jnp.round(bounded).astype(jnp.int32)  # of which there is one zero
        codes = jnp.sum((whole + self._middle) * self._places, axis=-1, dtype=jnp.int32)
        vectors = straight_through(bounded, whole.astype(FLOAT)) / self._middle.astype(np.float32)
        return Quantised(codes, vectors, jnp.zeros((), FLOAT), usage(codes, self.num_codes, self.axis_name))

    def embed(self, codes: jax.Array) -> jax.Array:
        """The vectors of codes: [...] -> [..., dim]."""
        codes = check_codes(codes, self.num_codes)
        whole = codes[..., None] // self._places % np.array(self.levels, np.int32) - self._middle
        return _only_known(whole / self._middle.astype(np.float32), codes, self.num_codes)

    @property
    def _middle(self):
        return np.array(self.levels, np.int32) // 2

    @property
    def _places(self):
        return np.cumprod([1, *self.levels[:-1]]).astype(np.int32)


class LookupFreeQuantiser(nn.Module):
    """The signs of a vector, 1 where a number is above 0 and -1 elsewhere (Yu et al. 2023, section 3.1).

    A code is the number whose bits these are, the first the highest. With p(c|z), a softmax of -|z - c|^2 / temperature
    over all codes but for a factor 2 (bit by bit sigmoid(4 z / temperature)),

        loss = entropy_weight (E H(p(c|z)) - diversity H(E p(c|z))) + beta mean |z - stop(q)|^2:

    each vector shall be sure of its code, and the codes be used alike. Both entropies are exact, in nats, and of all
    devices. The first is a sum over bits. The second is not, and is of 2^bits numbers.

    With `normalise`, z is divided by its root mean square first, as the signs' is 1; no sign changes.
    """

    bits: int = 10
    beta: float = 0.25
    entropy_weight: float = 0.1
    diversity: float = 1.0
    temperature: float = 0.01
    normalise: bool = True
    axis_name: str | None = None

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.bits

    @property
    def num_codes(self) -> int:
        """2^bits."""
        return 2**self.bits

    def __call__(self, z: jax.Array, *, train: bool) -> Quantised:
        z = _vectors(z, self.bits, "lookup-free quantisation")
        if self.normalise:
            z = z * lax.rsqrt(jnp.mean(jnp.square(z), axis=-1, keepdims=True) + 1e-6)
        q = jnp.where(z > 0, 1.0, -1.0).astype(FLOAT)
        codes = jnp.sum(jnp.where(z > 0, self._places, 0), axis=-1, dtype=jnp.int32)
        logits = (4 / self.temperature) * z.reshape(-1, self.bits)
        of_sample = jnp.mean(jnp.sum(jax.nn.softplus(logits) - logits * jax.nn.sigmoid(logits), axis=-1))
        of_batch = _entropy(_mean(self._probabilities(logits), self.axis_name))
        commitment = jnp.mean(jnp.square(z - q))
        loss = self.entropy_weight * (of_sample - self.diversity * of_batch) + self.beta * commitment
        metrics = {"commitment": commitment, "sample_entropy": of_sample, "batch_entropy": of_batch}
        metrics |= usage(codes, self.num_codes, self.axis_name)
        return Quantised(codes, straight_through(z, q), loss, metrics)

    def _probabilities(self, logits):
        """The mean of p(c|z) over vectors, of all codes, as a product of those of the first bits and of the others."""

        def of_bits(logits):
            p = jnp.ones((len(logits), 1), FLOAT)
            for i in range(logits.shape[1]):
                bit = jnp.stack([jax.nn.sigmoid(-logits[:, i]), jax.nn.sigmoid(logits[:, i])], axis=1)
                p = (p[:, :, None] * bit[:, None]).reshape(len(logits), -1)
            return p

        first, others = (of_bits(part) for part in jnp.split(logits, [self.bits // 2], axis=1))
        return (jnp.matmul(first.T, others, precision=HIGHEST) / len(logits)).reshape(-1)

    def embed(self, codes: jax.Array) -> jax.Array:
        """The vectors of codes: [...] -> [..., bits]."""
        codes = check_codes(codes, self.num_codes)
        return _only_known(
            jnp.where(codes[..., None] & self._places > 0, 1.0, -1.0).astype(FLOAT), codes, self.num_codes
        )

    @property
    def _places(self):
        return 2 ** np.arange(self.bits - 1, -1, -1, dtype=np.int32)


# Drawn codes ----------------------------------------------------------------------------------------------------------


class GumbelQuantiser(nn.Module):
    """A draw of softmax(z), relaxed (Jang, Gu and Poole 2017; Maddison, Mnih and Teh 2017): z are logits [B, h, w, K].

    In training `vectors` are softmax((z + g) / temperature), g of the Gumbel distribution, and `codes` its largest,
    an exact draw of softmax(z) at every temperature. Otherwise they are one-hot vectors of the largest logits.

    loss = the rate, KL(softmax(z) || uniform) in nats, summed over positions, the mean over images.
    """

    num_codes: int = 8192
    axis_name: str | None = None

    @property
    def dim(self) -> int:
        """Numbers in a vector: as many as codes."""
        return self.num_codes

    @nn.compact
    def __call__(self, z: jax.Array, temperature: Any = 1.0, *, train: bool) -> Quantised:
        z = _vectors(z, self.num_codes, "the softmax over codes")
        rate = jnp.mean(rate_to_uniform(z))
        if train:
            noise = sharding.draw(jax.random.gumbel, self.make_rng("gumbel"), z.shape, axis_name=self.axis_name)
            vectors = relaxed(z, noise, temperature)
            codes = jnp.argmax(z + noise, axis=-1).astype(jnp.int32)
        else:
            codes = jnp.argmax(z, axis=-1).astype(jnp.int32)
            vectors = jax.nn.one_hot(codes, self.num_codes, dtype=FLOAT)
        return Quantised(codes, vectors, rate, {"rate": rate, **usage(codes, self.num_codes, self.axis_name)})

    def embed(self, codes: jax.Array) -> jax.Array:
        """One-hot vectors of codes: [...] -> [..., num_codes]."""
        codes = check_codes(codes, self.num_codes)
        return _only_known(jax.nn.one_hot(codes, self.num_codes, dtype=FLOAT), codes, self.num_codes)


def relaxed(logits: jax.Array, noise: jax.Array, temperature: Any) -> jax.Array:
    """softmax((logits + noise) / temperature) over the last axis; one-hot in the limit of temperature 0."""
    return jax.nn.softmax((logits + noise) / temperature, axis=-1)


def rate_to_uniform(logits: jax.Array) -> jax.Array:
    """KL(softmax(logits) || uniform) in nats, summed over positions: [B, ..., K] -> [B], at most positions times ln K.

    At each position it is ln K - H(softmax(logits)).
    """
    log_q = jax.nn.log_softmax(logits, axis=-1)
    per_position = jnp.sum(jnp.exp(log_q) * (log_q + math.log(logits.shape[-1])), axis=-1)
    return jnp.sum(per_position, axis=range(1, per_position.ndim))
