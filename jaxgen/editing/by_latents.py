"""Actions of runs that decode latents: completion, inversion, walks and mixtures, of pictures of the run's size."""

import functools
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import compilation, files, images, interpolation
from jaxgen.editing import directions as walks
from jaxgen.editing import files as picture_files
from jaxgen.editing import page, tuning
from jaxgen.editing.decoder import Decoder
from jaxgen.editing.files import Picture
from jaxgen.editing.session import Holes, Session
from jaxgen.names import show
from jaxgen.pages import pictures

AT_ONCE = 16  # pictures that descend beside each other
DRAWN = 4  # latents that a walk begins at without pictures
STEPS = 11  # of a walk, and between two pictures
SECONDS = 4.0  # of a film, there and back


class Inverted(NamedTuple):
    """A picture and its latents.

    picture: at the run's size, and as it was read.
    name: of the file that is written.
    latents: leaves [1, ...].
    told: {"label": [1]} of a class-conditional run, or None.
    image: [1, H, W, C] that the latents are decoded to.
    hole: [H, W, 1], where one was to be filled.
    loss: the objective, in nats.
    """

    picture: Picture
    name: str
    latents: Any
    told: Any
    image: np.ndarray
    hole: np.ndarray | None
    loss: float


def complete(session: Session, *, mask: Path | None = None, hole: str | None = None, **settings: Any) -> None:
    """Fills the hole of each picture with what latents say that fit the rest, which stays as it is, to the bit.

    Args:
      session: what is edited.
      mask, hole: one of them: see `Holes`.
      settings: see `inverted`.
    """
    del hole  # the box, where there is no mask
    _refuse_tiles(session, settings)
    for found in inverted(session, holes=Holes(mask), **settings):
        assert found.hole is not None
        edited = _drawn(session, found)
        known = found.hole[..., 0] <= 0
        edited.levels[known] = found.picture.levels[known]
        psnr = _psnr(session, found, known)
        missing = float(found.hole.mean())
        session.write(
            edited, found.picture, found.name, f"known pixels: {psnr:.2f} dB", missing_share=missing, psnr=psnr
        )


def _refuse_tiles(session, settings):
    if settings.pop("tile", None) is not None:
        raise ValueError(
            f"--tile is for runs that translate, and {session.trained.system.name} draws pictures of one size"
        )


def invert(session: Session, *, tuning_steps: int | None = None, **settings: Any) -> None:
    """Finds latents of each picture, writes what they are decoded to, and all latents as latents.npz.

    Args:
      session: what is edited.
      tuning_steps: then the decoder is tuned to each picture by itself (`tuning.pivotal_tuning`); that is not kept.
      settings: see `inverted`.
    """
    kept: dict[str, Any] = {}
    tune = None
    for found in inverted(session, **settings):
        if tuning_steps:
            tune = tune or _tuner(session, found, tuning_steps, settings)
            target = _pixels(session, found.picture)[None]
            found = found._replace(image=np.asarray(tune(session.trained.variables, found.latents, found.told, target)))
        psnr = _psnr(session, found, None)
        session.write(_drawn(session, found), found.picture, found.name, f"{psnr:.2f} dB", psnr=psnr, loss=found.loss)
        kept[found.name] = (found.latents, found.told)
    _keep_latents(session.folder / "latents.npz", kept)


def _tuner(session, found, num_steps, settings) -> Callable[..., jax.Array]:
    decoder = _decoder(session, settings)

    def tuned(variables, latents, told, target):
        return tuning.pivotal_tuning(
            lambda variables, z: decoder.decode(variables, z, told), variables, latents, target, num_steps=num_steps
        ).images

    return compilation.jit(tuned)


def _keep_latents(path: Path, kept: dict[str, Any]) -> None:
    """Arrays: `name` [N] of pictures, `latents` [N, ...] (`latents_0`, ... of a tree), and `label` [N]."""
    if not kept:
        return
    latents = [jax.tree.leaves(own) for own, _ in kept.values()]
    arrays = {f"latents_{i}": np.concatenate(leaves) for i, leaves in enumerate(zip(*latents, strict=True))}
    if len(arrays) == 1:
        arrays = {"latents": arrays["latents_0"]}
    arrays["name"] = np.array(list(kept))
    labels = [told["label"] for _, told in kept.values() if told is not None]
    arrays |= {"label": np.concatenate(labels)} if labels else {}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    files.write_atomically(path, file.getvalue())


def _decoder(session, settings) -> Decoder:
    space, labels = settings.get("space"), tuple(settings.get("labels", ()))
    return Decoder.of(session.trained, space=space or "z", label=labels, who=session.who)


def inverted(
    session: Session,
    *,
    holes: Holes | None = None,
    labels: Sequence[int] = (),
    space: str | None = None,
    resize: bool = False,
    num_starts: int | None = None,
    num_steps: int | None = None,
    noise: float | None = None,
) -> Iterator[Inverted]:
    """Latents of each picture, up to 16 of them at once.

    Args:
      session: what is edited.
      holes: whose pixels are not known.
      labels: of a class-conditional run: which classes are tried.
      space: of latents.
      resize: bring pictures of another size to the run's.
      num_starts, num_steps, noise: see `Decoder.invert` and `inversion.invert`.

    Raises:
      MissingCapability: for a run that does not decode.
      ValueError: for a space or labels that the run does not have, or codes.
    """
    decoder = _decoder(session, {"space": space, "labels": labels})
    if labels and not decoder.num_labels:
        raise ValueError(f"{session.trained.system.name} draws images of no chosen class: leave --label out")
    height, width, _ = session.trained.image_shape
    options = {"num_starts": num_starts, "num_steps": num_steps, "noise": noise}
    options = {name: value for name, value in options.items() if value is not None}
    at_once, key = min(AT_ONCE, max(1, len(session.found.named))), jax.random.key(session.seed)
    waiting: list[tuple[Picture, str, np.ndarray | None]] = []

    def flush():
        padded = [waiting[min(i, len(waiting) - 1)] for i in range(at_once)]  # one program for all groups
        batch = np.stack([_pixels(session, picture) for picture, _, _ in padded])
        mask = None if holes is None else np.stack([hole for _, _, hole in padded])
        found, told = decoder.invert(batch, key, mask=mask, **options)
        found = jax.device_get(found)
        for i, (picture, name, hole) in enumerate(waiting):
            one = slice(i, i + 1)
            yield Inverted(
                picture,
                name,
                jax.tree.map(lambda z, one=one: z[one], found.latents),
                jax.tree.map(lambda x, one=one: x[one], told),
                found.images[one],
                hole,
                float(found.losses[i, found.best[i]]),
            )
        waiting.clear()

    for picture, name in session.pictures():
        try:
            hole = None if holes is None else holes.of(picture, name, (height, width) if resize else None)
            if picture.size != (height, width):
                if not resize:
                    raise ValueError(
                        f"has {picture.size[1]}x{picture.size[0]} pixels, and the run draws {width}x{height}: --resize "
                        "brings its middle to that size"
                    )
                picture = picture_files.resized(picture, (height, width))
        except ValueError as error:
            session.fail(picture.path, error)
            continue
        waiting.append((picture, name, hole))
        if len(waiting) == at_once:
            yield from flush()
    if waiting:
        yield from flush()


def _pixels(session, picture) -> np.ndarray:
    channels = session.trained.image_shape[2]
    return picture.pixels(channels=channels, background=session.background_of(picture))


def _drawn(session, found: Inverted) -> Picture:
    edited, everything = found.picture.blank(), slice(None)
    background = session.background_of(found.picture)
    edited.draw(everything, everything, found.image[0], background=background, source=found.picture)
    return edited


def _psnr(session, found: Inverted, known: np.ndarray | None) -> float:
    """Of what is decoded, in 256 levels, on known pixels or all; infinite for equal ones."""
    target, made = _pixels(session, found.picture), found.image[0]
    levels = [images.to_uint8(x).astype(float) for x in (target, made)]
    error = (levels[0] - levels[1]) ** 2
    mean = float(np.mean(error if known is None else error[known]))
    return float(10 * np.log10(255**2 / mean)) if mean > 0 else float("inf")


# Walks and mixtures ---------------------------------------------------------------------------------------------------


def walk(
    session: Session,
    *,
    by: str | None = None,
    num_directions: int | None = None,
    strength: float | None = None,
    film: bool = False,
    **settings: Any,
) -> None:
    """From each picture, or from latents that are drawn, along directions: a row for each, which begins in the middle.

    Args:
      session: what is edited; without pictures four latents are drawn.
      by, num_directions: see `Decoder.directions`.
      strength: how far, to both sides; in a space of styles or by variances of latents in units of what is drawn.
      film: a film of all directions side by side, in the place of a picture.
      settings: see `inverted`.
    """
    decoder, key = _decoder(session, settings), jax.random.key(session.seed)
    found = decoder.directions(jax.random.fold_in(key, 1), by=by, num=num_directions or min(5, _numbers(decoder)))
    strengths = np.linspace(-1, 1, STEPS) * (3.0 if strength is None else strength)
    strengths[STEPS // 2] = 0.0
    scale = (
        np.sqrt(np.asarray(found.strengths)) if decoder.space != "z" and by != "weights" else np.ones(len(found.rows))
    )
    for begin in _begins(session, decoder, key, settings):
        name, latents, told = begin
        decode = functools.partial(_decoded, decoder, told)
        rows = [
            walks.walk(decode, latents, row * size, strengths.tolist())[:, 0]
            for row, size in zip(found.rows, scale, strict=True)
        ]
        _write_rows(
            session, name, np.stack(rows), "walk", film, f"{len(rows)} directions, {strengths[-1]:g} to each side"
        )


def _decoded(decoder, told, latents):
    return decoder.decoded(latents, told)


def _numbers(decoder) -> int:
    shapes = jax.eval_shape(lambda v: decoder.draw(v, jax.random.key(0), 1, decoder.told(1)), decoder.trained.variables)
    return sum(int(np.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(shapes))


def _begins(session, decoder, key, settings) -> Iterator[tuple[str, Any, Any]]:
    """(name, latents, told) of pictures, or of latents that are drawn."""
    if session.found.named:
        for found in inverted(session, **settings):
            yield found.name, found.latents, found.told
        return
    told = decoder.told(DRAWN)
    drawn = decoder.draw(session.trained.variables, key, DRAWN, told)
    for i in range(DRAWN):
        yield f"drawn_{i}", *(jax.tree.map(lambda z, i=i: z[i : i + 1], tree) for tree in (drawn, told))


def mix(session: Session, *, film: bool = False, **settings: Any) -> None:
    """What lies between two pictures; of a system with styles also those of the first up to a layer, then the second's.

    Between latents z the way is on the great circle (`interpolation.slerp`), or the system's own; styles go straight.

    Args:
      session: what is edited: two pictures.
      film: of the way there and back, in the place of pictures.
      settings: see `inverted`.

    Raises:
      ValueError: for another number of pictures.
    """
    if len(session.found.named) != 2:
        raise ValueError(f"two pictures are mixed, not {len(session.found.named)}")
    decoder, choices = _decoder(session, settings), session.trained.system.choices
    pair = list(inverted(session, **settings))
    if len(pair) != 2:
        return  # the other one has failed
    (a, b), rows = pair, []
    told = [found.told for found in pair]
    shares = np.linspace(0, 1, STEPS)
    way = []
    for share in shares:
        own, other = (a.latents, b.latents)
        if decoder.space == "z" and "toward" in choices:
            chosen = {"toward": other, "share": float(share), **(told[0] or {})}
            way.append(decoder.decoded(own, chosen))
        else:
            between = _lerp if decoder.space != "z" else _slerp
            z = jax.tree.map(lambda x, y, share=share, between=between: between(x, y, share), own, other)
            way.append(decoder.decoded(z, told[int(share >= 0.5)]))
    rows.append(np.concatenate(way))
    styles = _mixed_styles(decoder, choices, a, b)
    names = "_".join(re.sub(r"[^\w.-]+", "-", Path(found.name).stem) for found in pair)
    _write_rows(session, names, np.stack(rows), "mix", film, "from the first to the second")
    if styles is not None:
        caption = "styles of the first picture up to a layer, one more in each image; the others are the second's"
        _write_rows(session, names, styles[None], "styles", film, caption)


def _lerp(a, b, share):
    return interpolation.lerp(a, b, jnp.full(a.shape[:-1], share))


def _slerp(a, b, share):
    flat = interpolation.slerp(a.reshape(len(a), -1), b.reshape(len(b), -1), share)
    return flat.reshape(a.shape)


def _mixed_styles(decoder, choices, a: Inverted, b: Inverted) -> np.ndarray | None:
    """[layers + 1, H, W, C]: with styles of a in 0, 1, ..., all layers, the others being b's; None without styles."""
    if decoder.space == "w+":
        layers = np.arange(a.latents.shape[1])[:, None]
        mixed = [np.where(layers < k, a.latents, b.latents) for k in range(len(layers) + 1)]
        return np.concatenate([decoder.decoded(z, b.told) for z in mixed])
    if decoder.space == "z" and "mixing" in choices and "fine" in choices:
        told = a.told or {}
        mixed = [{"mixing": k, "fine": b.latents, **told} for k in range(choices["mixing"])]
        return np.concatenate([decoder.decoded(a.latents, one) for one in mixed])
    return None


def _write_rows(session, name, rows: np.ndarray, suffix: str, film: bool, caption: str) -> None:
    """Writes images [K, S, H, W, C] as a picture with K rows, or as a film of K beside each other, there and back."""
    stem = f"{str(Path(name).with_suffix('')).replace('/', '_')}_{suffix}"
    if any(Path(entry["output"]).stem == stem for entry in session.written):  # a.png and a.jpg
        stem = f"{name.replace('/', '_')}_{suffix}"
    num = rows.shape[1]
    table = images.grid(rows.reshape(-1, *rows.shape[2:]), columns=num, upscale=None)
    if film:
        frames = np.moveaxis(np.concatenate([rows, rows[:, -2:0:-1]], axis=1), 0, 1)
        path = images.save_film(session.folder / f"{stem}.webp", frames, seconds=SECONDS)
    else:
        path = images.save_png(session.folder / f"{stem}.png", table)
    session.written.append({"source": name, "output": str(path)})
    if session.page and len(session.views) < page.MOST:
        shown = pictures.Picture.of(images.png_bytes(table))
        session.views.append(page.View(show(f"{name} {suffix}"), shown, caption=caption))
