"""The AKS side of `provisioner.cloud`: agent pools of one managed cluster through Azure Resource Manager.

`auth` chooses the credential, `budget` keeps us within the documented request rates, `render` writes the body of an agent
pool, `errors` says what an answer means, `agentpools` sends the requests. Nothing outside this folder imports azure.*.
"""
