"""Data where they lie: files and Parquet in the cloud, MAST's holdings, and tables behind TAP services.

What the synthetic data stand for. Needs s3fs, astroquery and pyvo, which the pipeline image has, and only when called
for what they do: local paths need none of them.
"""

from roman_access.archives import MastFile, find_mast_files, query_region
from roman_access.files import local_copy, open_dataset

__all__ = ["MastFile", "find_mast_files", "local_copy", "open_dataset", "query_region"]
