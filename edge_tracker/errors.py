"""The errors edge-tracker raises for what a user can put right.

Every message is one line that names the thing, the value and the fix. The command line prints it and exits with 2.
"""


class EdgeTrackerError(Exception):
    """Base of all errors below: catch this to catch them all."""


class ConfigError(EdgeTrackerError):
    """A configuration that cannot be read or is not valid."""


class InputError(EdgeTrackerError, ValueError):
    """Detections, features, masks or frames that the tracker cannot take. The tracker's state is unchanged."""


class ModelError(EdgeTrackerError):
    """A model or engine that is missing, corrupt, or not what it was used as."""


class DeviceError(EdgeTrackerError):
    """A GPU or an execution provider that was asked for and cannot be used."""


class ServerError(EdgeTrackerError):
    """A model server that cannot be reached, or does not answer in time."""


class SourceError(EdgeTrackerError):
    """A video, camera or image folder that cannot be opened or read."""


class OutputError(EdgeTrackerError):
    """A result that cannot be written."""
