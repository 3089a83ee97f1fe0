"""An emulator of the agent-pool part of Azure Resource Manager. Imports nothing of the product that it tests.

    model       the shapes of the emulated world
    lifecycle   how pools, machines and the cluster move from state to state (pure)
    cloud       which request is allowed at a moment, and the faults that were injected
    body        validation, defaults and rendering of an agent pool; skus, nodes, errors: Azure's facts as data
    arm         the HTTP side of Resource Manager, with wire (URLs, bodies) and budget (throttling)
    admin       the endpoint for faults, log and state: documented there, and AdminClient
    journal     what outlives the process
    server      all of it as one server; `running` for tests
    boot        real nodes for pools, with `python -m hack.local.aks --mode boot`

Pure mode has no machines: tests create the Node objects, which /admin/nodes describes.
"""
