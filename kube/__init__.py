"""Talking to Kubernetes as a controller does.

The modules in the order in which an event travels through them:

    client ──► stream ──► watch ──► store, informer ──► (a controller's handlers) ──► queue ──► worker ──►
    (a controller's reconcile) ──► conditions, events ──► client

`meta` has the shapes that every kind shares, `delta` what can happen to an object, `errors` what an API server can answer,
`clock` the only source of time, `auth` who we are to it, `codec` JSON to structs, `garbage` when the collector runs,
`backoff` the delays of queue and watch, `lease` leader election, `metrics` and `health` what a cluster scrapes and probes,
`log` what it logs, `options` a program's settings, `process` what is around a controller's loop in its process.
`kube.api` has the kinds themselves, as data; beside it only `lease` and `events` name a kind, the one that each of them
writes. Nothing here knows a controller.
"""
