"""What workers of a test do, in processes of their own: end, wait or fail."""

import os
import time


def first_kills(job, config):
    """A job whose first worker dies under it."""
    mark = config.folder / job.cell.method
    if not mark.exists():
        mark.touch()
        os._exit(9)
    return job.cell.key


def company_kills(job, config):
    """A job that dies where another one is under way, as where memory is for one alone."""
    mark = config.folder / str(os.getpid())
    mark.touch()
    time.sleep(0.5)
    if any(other != mark and _lives(int(other.name)) for other in config.folder.iterdir()):
        os._exit(9)
    mark.unlink()
    return job.cell.key


def _lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def deadly_kills(job, config):
    """One job that ends each of its workers, while others take their time."""
    if job.cell.method == "deadly":
        time.sleep(0.2)
        os._exit(9)
    time.sleep(1)
    return job.cell.key


def waits(*given):
    """For an end from outside."""
    time.sleep(300)


def second_fails(rank, *given):
    """The second of several processes, which the others wait for."""
    if rank == 1:
        raise ValueError("the second")
    waits()
