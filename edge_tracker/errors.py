"""The errors that edge-tracker raises for problems that a user can fix.

Each message is one line that names the object, the value and the fix. The command line prints it and exits with 2.
"""


class EdgeTrackerError(Exception):
    """Base of all errors of edge-tracker: catch this to catch them all."""


class ConfigError(EdgeTrackerError):
    """A configuration that cannot be read or is not valid."""


class InputError(EdgeTrackerError, ValueError):
    """Detections, features, masks or frames that the tracker cannot use. The tracker's state is unchanged."""


class ModelError(EdgeTrackerError):
    """A model or engine that is missing, corrupt, or of the wrong kind."""


class DeviceError(EdgeTrackerError):
    """A requested GPU or execution provider that cannot be used."""


class ServerError(EdgeTrackerError):
    """A model server that cannot be reached, or does not answer in time."""


class SourceError(EdgeTrackerError):
    """A video, camera or image folder that cannot be opened or read."""


class OutputError(EdgeTrackerError):
    """A result that cannot be written."""
