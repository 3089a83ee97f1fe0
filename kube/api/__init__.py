"""The kinds that we read, as data: no I/O, no behaviour beyond what the fields say."""
