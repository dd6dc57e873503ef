"""Files that others publish under a name: fetched once into a cache, whole, and never run.

- download: an address to a file, of the length and digest that its publisher states
- hub: a repository of Hugging Face's, in the cache that its own library has
- places: where caches are
"""

from robustkit.fetching.download import Progress, Remote, download
from robustkit.fetching.hub import Repository, commit_in_cache, fetch_repository
from robustkit.fetching.places import own_cache, torch_cache

__all__ = [
    "Progress",
    "Remote",
    "Repository",
    "commit_in_cache",
    "download",
    "fetch_repository",
    "own_cache",
    "torch_cache",
]
