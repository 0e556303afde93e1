"""TitanS3: S3-compatible object storage.

The version below is the only place a version number is written; packaging reads it from here.
"""

__version__ = "0.1.0"
