"""The lab's own small programs, where no packaged one does it; run with `python -m`."""
