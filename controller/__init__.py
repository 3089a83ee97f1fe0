"""The workspace controller: Workspaces in; NodeClaims, Jobs, StatefulSets and one readable status out.

    loop ──► handlers ──key──► reconcile ──► planning ──► nodes ──► tuning ──► inference ──► status      (it lives)
               which Workspace?     │           │           │           └─── pods ───┘          └─ events
                                    │           │           └─ claims, selection
                                    │           └─ options; plan ──► fit ──► sizing, catalogue/
                                    └──► release: workloads, then nodes, then the Workspace                  (it goes)

A phase begins by asking whether it is already decided, and says in the status what it waits for. `world` is all that a
phase sees and the only way in which it writes; `configs` watches the ConfigMaps that Workspaces name. Why something does
not work: `progress` asks the program in a pod, `diagnosis` puts it into the closed list of reasons, `failures` remembers it
across Jobs. Around them: `settings`, `metrics`, and `rbac`, what all this may do.

From `plan` downwards nothing knows a cluster, so `python -m controller.plan` answers on any machine. Of `runtime/` only its
contract is imported; of the provisioner nothing: NodeClaims are all that passes between the two.
"""
