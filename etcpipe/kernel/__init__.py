"""The kernel side, driven from user space: load, attach, read, take down.

`tap` is the whole of it for callers. Below it: `bpf` (the bpf(2) system call), `programs`
(two loaders, one result), `hooks` and `links` (what is attached, what is made), `journal`
(what must be undone) and `netns`.
"""
