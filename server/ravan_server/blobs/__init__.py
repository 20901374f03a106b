"""Where bytes are kept: what devices download, and what they upload."""

from ravan_server.blobs.blobs import ArtifactBlobs, Blobs, FolderBlobs
from ravan_server.blobs.update_log import FolderUpdateLog, UpdateLog

__all__ = ["ArtifactBlobs", "Blobs", "FolderBlobs", "FolderUpdateLog", "UpdateLog"]
