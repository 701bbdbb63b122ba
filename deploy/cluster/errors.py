"""The one exception of the cluster tool."""

from __future__ import annotations


class ClusterError(Exception):
    """The cluster cannot do what it was asked; the text is for the person who asked."""
