"""What a preset needs on devices that are not there: its programs, compiled for them on this machine.

`targets` says which devices there are, `programs` what a training runs, `compiling` compiles it in a process of its
own, `reading` reads what was compiled (whose text `hlo` takes apart), `fitting` finds the largest batch, `comparing`
what would save memory; `answering` makes a plan of all that, `telling` puts it into words. Nothing here computes a
number of a model, and nothing here is a time.
"""
