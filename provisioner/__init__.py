"""The Karpenter-compatible node provisioner: NodeClaims in, one AKS agent pool and one Node per claim out.

    loop ──claim name──► reconcile ──► launch ──► registration ──► initialization          (a claim that lives)
      ▲                     │             │
      │                     │             └─ offerings: which size, zone, capacity type    cloud: what a provider must do
      │                     └──► termination ──► drain                                     (a claim that goes)
      └── inventory: the last known agent pools, one shared LIST        orphans, repair    (what nobody asked for any more)

Nothing passes between this and the workspace controller but NodeClaims: either may be replaced by another implementation.
The name of a claim is the name of its agent pool, and that is the idempotency key: whatever crashes, a second request for
the same name cannot make a second machine.
"""
