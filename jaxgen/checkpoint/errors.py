"""What can go wrong with a checkpoint."""


class CheckpointError(RuntimeError):
    """Base of the errors below."""


class SaveFailed(CheckpointError):
    """A checkpoint could not be written; the earlier ones are untouched."""


class CheckpointDamaged(CheckpointError):
    """What was read is not what was saved: missing, cut, unreadable or changed files."""


class CheckpointMismatch(CheckpointError):
    """The checkpoint is whole and belongs to another state: other leaves, shapes or dtypes, or a newer format."""
