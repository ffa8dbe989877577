"""A run that decodes latents, as an inverter: `Decoder.of(run).invert(images, key)`; directions of its latents."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import compilation
from jaxgen.arguments import check_key
from jaxgen.editing import inversion
from jaxgen.editing.directions import Directions, ganspace, principal, sefa
from jaxgen.editing.latents import check_real, rows_of
from jaxgen.loading import Trained
from jaxgen.system import MissingCapability

NUM_STARTS = 4
DRAWN = 512  # latents whose images tell directions
MEAN_OF = 1000  # latents, by which a space's mean and deviations are estimated


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A run that decodes latents of some space.

    Attributes:
      trained: the run.
      space: "z" for the latents of `System.latents`, or a name in `System.spaces`.
      label: of a class-conditional run: what is drawn; None: the class that fits best.
    """

    trained: Trained
    space: str = "z"
    label: tuple[int, ...] = ()

    @classmethod
    def of(cls, trained: Trained, *, space: str = "z", label: tuple[int, ...] = (), who: str = "editing") -> "Decoder":
        """The decoder of a run.

        Raises:
          MissingCapability: for a run that does not decode.
          ValueError: for a space that it does not have.
        """
        trained.system.need("decode", who)
        spaces = ("z", *trained.system.spaces)
        if space not in spaces:
            raise ValueError(f"{trained.system.name} has no latents {space!r}; it has {', '.join(spaces)}")
        return cls(trained, space, tuple(label))

    @property
    def num_labels(self) -> int:
        """Of a class-conditional run; 0 of another."""
        return self.trained.system.choices.get("label", 0)

    def decode(self, variables: Any, latents: Any, told: Any = None) -> jax.Array:
        """Images of latents in this space: pure; `told` is {"label": [n]} of a class-conditional run."""
        system = self.trained.system
        function = system.decode if self.space == "z" else system.spaces[self.space].decode
        assert function is not None  # `of` has looked
        return function(variables, latents, **(told or {}))

    def draw(self, variables: Any, key: jax.Array, num: int, told: Any = None) -> Any:
        """Latents of new images, leaves [num, ...].

        Raises:
          MissingCapability: for a run that has none.
        """
        system = self.trained.system
        if system.latents is None:
            raise MissingCapability(f"{system.name} has no latents to begin with")
        z = system.latents(key, num)
        return z if self.space == "z" else system.spaces[self.space].of(variables, z, **(told or {}))

    @functools.cached_property
    def decoded(self) -> Callable[..., jax.Array]:
        """(latents, told) -> images, compiled, with the run's variables."""
        compiled = compilation.jit(self.decode)
        return functools.partial(compiled, self.trained.variables)

    @functools.cached_property
    def _programs(self) -> dict[Any, Callable]:
        return {}

    def labels(self, num: int, num_starts: int) -> Any:
        """{"label": int32 [num, num_starts]}, the classes in turns; None of a run that is told none."""
        if not self.num_labels:
            return None
        names = np.asarray(self.label or range(self.num_labels), np.int32)
        return {"label": np.broadcast_to(np.resize(names, num_starts), (num, num_starts))}

    def told(self, num: int) -> Any:
        """{"label": int32 [num]}, the classes in turns; None of a run that is told none."""
        found = self.labels(1, num)
        return None if found is None else {name: jnp.asarray(x[0]) for name, x in found.items()}

    @functools.cached_property
    def num_starts(self) -> int:
        """By default: four, or one for each class that is asked for, where these are up to 32."""
        return max(NUM_STARTS, min(32, len(self.label) or self.num_labels))

    def invert(
        self,
        images: np.ndarray,
        key: jax.Array,
        *,
        mask: np.ndarray | None = None,
        num_starts: int | None = None,
        noise: float = 0.1,
        **settings: Any,
    ) -> tuple[inversion.Inversion, Any]:
        """Latents of images, or of what is known of them.

        Starts are drawn like latents of new images, the same for all images, so that none depends on its neighbours;
        the first is what the run's encoder says, where there is one, and in spaces of styles their mean. The prior is
        that of the latents: standard normal, of styles a normal distribution with their means and deviations; where
        none is known (a learned prior), there is none. Codes, to which no gradient leads, are the encoder's.

        Args:
          images: [B, H, W, C] in [-1, 1], of the run's size.
          key: of the starts.
          mask: [B, H, W, 1], 1 where an image is missing.
          num_starts: for each image; of a class-conditional run without a label at least one for each class (up to 32).
          noise: standard deviation of a pixel, in units of [-1, 1].
          settings: what else `inversion.invert` takes: num_steps, optimizer, rows_at_once (by default 64 of 64 pixels,
            fewer of larger images).

        Returns:
          The inversion, and what `decode` is told with its latents: {"label": [B]}, or None.

        Raises:
          ValueError: for images of another shape; for codes without an encoder, or a hole to be filled by them.
          MissingCapability: for a run without latents and encoder.
        """
        check_key(key)
        if images.shape[1:] != self.trained.image_shape:
            raise ValueError(
                f"images of {list(images.shape[1:])} are not of the run's shape {list(self.trained.image_shape)}"
            )
        if mask is None and self._has_codes():
            return self._encoded(images, noise), None
        starts = self.num_starts if num_starts is None else num_starts
        told = self.labels(len(images), starts)
        known = None if mask is None else 1 - jnp.asarray(mask, jnp.float32)
        target = jnp.asarray(images) if known is None else known * images
        height, width = images.shape[1:3]
        settings.setdefault("rows_at_once", max(1, min(64, 64 * 64 * 64 // (height * width))))
        settings |= {"num_starts": starts, "noise": noise}
        asked = tuple(sorted(settings.items()))
        if asked not in self._programs:
            self._programs[asked] = compilation.jit(functools.partial(self._inverted, **settings))
        found = self._programs[asked](self.trained.variables, target, known, told, key)
        chosen = None
        if told is not None:
            chosen = {"label": np.asarray(told["label"])[np.arange(len(images)), np.asarray(found.best)]}
        return found, chosen

    def _has_codes(self) -> bool:
        system, example = self.trained.system, self.trained.spec.example(1)
        if self.space != "z" or system.encode is None:
            return False
        encoded = jax.eval_shape(system.encode, self.trained.variables, example)
        return any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(encoded))

    def _encoded(self, images: np.ndarray, noise: float) -> inversion.Inversion:
        """What the encoder says of images."""

        def run(variables, images):
            assert self.trained.system.encode is not None
            codes = self.trained.system.encode(variables, {"image": images})
            drawn = self.decode(variables, codes)
            losses = jnp.sum((drawn - images) ** 2, axis=(1, 2, 3))[:, None] / (2 * noise**2)
            return inversion.Inversion(codes, drawn, losses, jnp.zeros(len(images), jnp.int32))

        return compilation.jit(run)(self.trained.variables, jnp.asarray(images))

    def _inverted(self, variables, target, known, told, key, *, num_starts, noise, **settings):
        starts, prior = self._starts(variables, target, told, key, num_starts)
        return inversion.invert(
            lambda latents, told=None: self.decode(variables, latents, told),
            target,
            starts,
            measure=inversion.whole if known is None else inversion.masked,
            given=known,
            told=told,
            noise=noise,
            prior=prior,
            **settings,
        )

    def _starts(self, variables, target, told, key, num_starts):
        """Starts [B, R, ...] and the prior."""
        num, system = len(target), self.trained.system
        of_one = None if told is None else {name: x[0] for name, x in told.items()}

        def shared(drawn):
            return jax.tree.map(lambda z: jnp.broadcast_to(z[None], (num, *z.shape)), drawn)

        if self.space != "z":
            starts = shared(self.draw(variables, key, num_starts, of_one))
            many = self.draw(variables, jax.random.fold_in(key, 1), MEAN_OF, self.told(MEAN_OF))
            mean, deviation = jnp.mean(many, axis=0), jnp.std(many, axis=0)
            deviation = jnp.maximum(deviation, 0.03 * jnp.sqrt(jnp.mean(deviation**2)) + 1e-6)
            return starts.at[:, 0].set(mean), inversion.diagonal_normal(mean, deviation)
        encoded = None
        if system.encode is not None:
            batch = {"image": target} | ({} if told is None else {"label": told["label"][:, 0]})
            encoded = system.encode(variables, batch)
            check_real(encoded)
        if system.latents is None:
            if encoded is None:
                raise MissingCapability(f"{system.name} has no latents to begin with, and no encoder")

            def near(z):
                noise = jax.random.normal(key, (num_starts, *z.shape[1:])).at[0].set(0.0)
                return z[:, None] + 0.1 * noise

            return jax.tree.map(near, encoded), None
        starts = shared(self.draw(variables, key, num_starts))
        check_real(starts)
        if encoded is not None:
            starts = jax.tree.map(lambda z, own: z.at[:, 0].set(own), starts, encoded)
        return starts, inversion.standard_normal

    def directions(self, key: jax.Array, *, by: str | None = None, num: int = 5) -> Directions:
        """Directions of these latents, as rows.

        Args:
          key: of the latents that are drawn.
          by: "images": those of the largest variance of images (`directions.ganspace`), reduced to 32 pixels; "weights"
            of the layer that latents enter (`directions.sefa`); "styles", of a space of styles: those of their largest
            variance. By default images, and styles in a space of styles.
          num: how many.

        Raises:
          ValueError: for weights or styles of a run whose are not known, or more directions than latents have numbers.
          MissingCapability: for a run without latents.
        """
        by = by or ("images" if self.space == "z" else "styles")
        variables = self.trained.variables
        if by == "weights":
            return sefa(self._kernels(), num)
        if by == "styles" and self.space == "z":
            raise ValueError("directions by styles are of a space of styles: give --space w")
        drawn = DRAWN if by == "images" else 10 * DRAWN
        told = self.told(drawn)
        latents = self.draw(variables, key, drawn, told)
        rows, _ = rows_of(latents)
        if not 1 <= num <= min(rows.shape[1], drawn - 1):
            raise ValueError(f"latents of {rows.shape[1]} numbers have no {num} directions")
        if by == "styles":
            return principal(rows, num)
        shape = self.trained.image_shape
        small = (min(32, shape[0]), min(32, shape[1]), shape[2])

        def reduced(variables, latents, told):
            def of_chunk(rows):
                images = self.decode(variables, *rows)
                return jax.image.resize(images, (len(images), *small), "linear")

            return inversion.in_chunks(of_chunk, (latents, told), 64)

        return ganspace(rows, compilation.jit(reduced)(variables, latents, told), num)

    def _kernels(self):
        """[D, F] of the layers that latents enter."""
        system, variables = self.trained.system, self.trained.variables
        if self.space != "z":
            kernels = system.spaces[self.space].kernels
            if kernels is None:
                raise ValueError(f"the layers that latents {self.space} of {system.name} enter are not known")
            return kernels(variables)
        size = rows_of(self.draw(variables, jax.random.key(0), 1))[0].shape[1]
        leaves = jax.tree_util.tree_leaves_with_path(variables)
        found = {
            jax.tree_util.keystr(path): leaf
            for path, leaf in leaves
            if "kernel" in jax.tree_util.keystr(path[-1:]) and leaf.ndim == 2 and leaf.shape[0] == size
        }
        if len(found) != 1:
            there = ", ".join(found) or "none"
            raise ValueError(
                f"which layer the {size} numbers of a latent enter is told by its kernel, and {system.name} has "
                f"{there} of that width: give other directions than by weights"
            )
        return list(found.values())
