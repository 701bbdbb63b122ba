"""BusyAPI: an ingest API that acknowledges an event only once it is on disk."""

__version__ = "0.1.0"
