"""Work that several processes share, on the devices of this machine or on a cluster.

- parcel: what every worker needs, its large arrays in one file that all of them map
- crew: workers and what is heard of them, whatever they run on
- processes: workers of this machine, a process each
- cluster: a Ray cluster, and what it has room for
- actors: workers of a cluster, an actor each

A worker that is lost takes nothing with it but what it was at work on, which is done again.
"""
