"""The programs that are measured, each a process of its own: a task as JSON in argv, one line of JSON on stdout.

Peers live in an environment of their own (hack/bench/requirements.txt), so nothing here but ours.py, floor.py, queue.py,
outage.py and election.py may import the project.
"""
