"""Where bytes are kept: what devices download, and what they upload."""

from ravan_server.blobs.blobs import ArtifactBlobs, Blobs, FolderBlobs
from ravan_server.blobs.bucket import Bucket
from ravan_server.blobs.s3_blobs import S3Blobs
from ravan_server.blobs.s3_update_log import S3UpdateLog
from ravan_server.blobs.update_log import FolderUpdateLog, UpdateLog

__all__ = [
    "ArtifactBlobs",
    "Blobs",
    "Bucket",
    "FolderBlobs",
    "FolderUpdateLog",
    "S3Blobs",
    "S3UpdateLog",
    "UpdateLog",
]
