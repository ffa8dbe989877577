"""Editing: images in, images out, by any trained system.

    inversion    latents whose image agrees with what was measured of one: inversion, completion, deblurring, and draws
    tuning       a decoder that is tuned to one image
    encoder      an encoder that is trained for a frozen decoder
    directions   of latents, in which something changes; walks along them
    tiling       a translation of images of any size in tiles, with the overlap that makes it the same
    files        pictures read from files, and written as the same kind of file
    translator   a run that translates, as an editor of pictures
    decoder      a run that decodes, as an inverter of images
    session      folders of pictures in, folders of pictures out; `by_translation` and `by_latents` are the actions

`jaxgen edit` calls these.
"""
