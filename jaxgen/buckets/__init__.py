"""Run directories in buckets: `gs://BUCKET/RUN` and `s3://BUCKET/RUN` wherever a run is named.

A run in a bucket is trained in a copy on the local disk, which a thread mirrors to the bucket: after each checkpoint,
and in between whatever has changed. To resume or read it, it is copied back first. The other way, to write each file
straight to the bucket, was weighed and not taken: objects cannot be appended to (the log, TensorBoard's events),
renamed (how files and checkpoints are replaced as a whole) or locked, so log, lock, records and checkpoints would each
need a second mechanism, and training would wait for a network. What it costs: room on the local disk for the
checkpoints that are kept; a copy on every host when several resume; and what a killed machine had not yet copied is
lost, which is at most what it did since the last checkpoint in the bucket.

What lies in the bucket is what lies in a local run, file by file, so a run can also be copied there and back by any
other program. Of a checkpoint the file that Orbax itself writes last is copied last and deleted first: a checkpoint
with it is whole, and one without it is none, whenever the copying was killed.

`store` talks to the bucket, `lock` keeps a second training out, `mirror` copies. This needs `fsspec` with a driver for
the kind of bucket: the extra `buckets`.
"""

from jaxgen.buckets.local_copy import each_host_for_itself, in_local_copy, is_bucket, reading, shown, training
from jaxgen.buckets.lock import BucketLocked

__all__ = [
    "BucketLocked",
    "each_host_for_itself",
    "in_local_copy",
    "is_bucket",
    "reading",
    "shown",
    "training",
]
