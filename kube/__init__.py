"""Talking to Kubernetes as a controller does.

The modules in the order in which an event travels through them:

    client ──► watch ──► store ──► queue ──► (a controller's own loop) ──► conditions, events ──► client

`meta` has the shapes that every kind shares, `errors` what an API server can answer, `clock` the only source of time,
`auth` who we are to it, `codec` JSON to structs, `backoff` the delays of queue and watch, `lease` leader election, `metrics` and `health` what a cluster scrapes and probes.
`kube.api` has the kinds themselves, as data; nothing beside it names a kind. Nothing here knows a controller.
"""
