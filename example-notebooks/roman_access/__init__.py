"""Data where they lie: files and Parquet in the cloud, MAST's holdings, and tables behind TAP services.

What the synthetic data stand for. Needs s3fs, astroquery and pyvo, which the pipeline image has, and only when called
for what they do: local paths need none of them. What a service refuses or does not answer is an error that says what
to do about it.
"""

from roman_access.files import local_copy, open_dataset
from roman_access.mast import MastFile, find_mast_files
from roman_access.tables import query_region

__all__ = ["MastFile", "find_mast_files", "local_copy", "open_dataset", "query_region"]
