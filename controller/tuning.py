"""`JobStarted` and `Tuned`: a Job that trains and pushes, and what is known of it for good.

Outcomes come from the Job and the termination report; the pod's status port is asked for display alone. `Tuned`, once
True, stays, whatever becomes of the Job; only a tuning that means something else begins anew.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import msgspec

from controller import pods
from controller.diagnosis import Problem, diagnose, final_report, main_started, stage, terminal
from controller.failures import Failures
from controller.inference import Inference, owned, render_ca
from controller.plan import Refusal
from controller.planning import Decision
from controller.status import REFUSED_SECONDS, Draft, condition_of
from controller.world import BODY, NameTaken, World, digest, metadata
from kube.api import labels
from kube.api.reasons import Reason
from kube.api.workload import JOBS, Job, Pod
from kube.api.workspace import Artifact, ConditionType, TuningSpec, TuningStatus, Workspace
from kube.errors import AlreadyExists, BadRequest, Forbidden, Invalid
from kube.meta import Key
from runtime import contract

TUNING = "tuning"  # the component label of its pods
GRACE_SECONDS = 300  # a step is finished and a checkpoint pushed
BACKOFF_LIMIT = 3
VOLUME_MESSAGE = "the adapter is in the output volume"
STARTED_MESSAGE = "training has begun"


class Tuning:
    """The phase."""

    def __init__(self, world: World, inference: Inference) -> None:
        self._world = world
        self._inference = inference
        self._failures = Failures(world.clock)

    async def ensure(
        self, workspace: Workspace, spec: TuningSpec, decision: Decision, draft: Draft, *, nodes_ready: bool
    ) -> bool:
        """Bring the training about as far as possible now. Return whether its result is there and its GPUs are free."""
        inputs = result_hash(spec, decision)
        if tuned_for(workspace, inputs):
            draft.done(ConditionType.JOB_STARTED, Reason.JOB_STARTED, STARTED_MESSAGE)
            draft.done(ConditionType.TUNED, Reason.TUNED, draft.reason_of(ConditionType.TUNED)[1])
            return self._free(workspace)
        if draft.tuning is not None and draft.tuning.inputs != inputs:
            draft.tuning = None  # what is known is of another training
        try:
            job = await self._ensure_job(workspace, spec, decision, nodes_ready=nodes_ready)
        except NameTaken as taken:
            return self._refused(draft, Problem(Reason.NAME_CONFLICT, str(taken)))
        except (BadRequest, Forbidden, Invalid) as error:
            message = f"the API server refused the Job: {error.message}"
            return self._refused(draft, Problem(Reason.CONTAINER_START_ERROR, message))
        if job is None:
            message = "the Job is about to start" if nodes_ready else "waiting for nodes"
            draft.wait(ConditionType.JOB_STARTED, Reason.JOB_PENDING, message)
            self._not_tuned(draft, Problem(Reason.TUNING, message), trouble=False)
            return False
        await self._judge(workspace, spec, inputs, job, draft)
        return draft.conditions.is_true(ConditionType.TUNED) and self._free(workspace)

    def finished(self, workspace: Workspace, decision: Decision | Refusal) -> bool:
        """Whether the stored result is of what is asked for now, and no pod of it is left running."""
        if workspace.tuning is None:
            return False
        if isinstance(decision, Refusal):  # its ConfigMap may be gone: what nobody edited since asks for the same
            tuned = condition_of(workspace, ConditionType.TUNED)
            same = tuned is not None and tuned.true and tuned.observed_generation == workspace.metadata.generation
        else:
            same = tuned_for(workspace, result_hash(workspace.tuning, decision))
        return same and self._free(workspace)

    def forget(self, workspace: Workspace) -> None:
        """The Workspace is gone."""
        self._failures.forget(workspace)

    def _free(self, workspace: Workspace) -> bool:
        return all(terminal(pod) for pod in self._world.pods_of(workspace, TUNING))

    async def _ensure_job(
        self, workspace: Workspace, spec: TuningSpec, decision: Decision, *, nodes_ready: bool
    ) -> Job | None:
        """Create the Job, or replace one that was made from something else. Return it where it is as wanted."""
        job = self._world.jobs.get(workspace.metadata.key)
        inputs = job_hash(spec, decision)
        if job is not None and not owned(job, workspace):
            raise NameTaken(f"Job {workspace.metadata.name} exists and is not this Workspace's")
        outdated = job is not None and job.metadata.annotations.get(labels.INPUTS) != inputs
        if job is not None and (outdated or self._failures.due(workspace, job)):
            await self._world.delete(JOBS, job)
            return None
        if job is not None:
            return None if job.metadata.deleting else job
        if not nodes_ready or not await self._inference.remove(workspace):
            return None
        for resource, body in render_ca(workspace, self._world.settings.ca_bundle):
            await self._world.apply(workspace, resource, body)
        body = render_job(workspace, spec, decision, self._world, inputs)
        try:
            return await self._world.create(workspace, JOBS, body)
        except AlreadyExists:
            return await self._world.current(workspace, JOBS, workspace.metadata.key)

    async def _judge(self, workspace: Workspace, spec: TuningSpec, inputs: str, job: Job, draft: Draft) -> None:
        ended = {each.type: each for each in job.status.conditions if each.true and each.type in ("Complete", "Failed")}
        if "Complete" in ended:
            self._succeeded(workspace, spec, inputs, await self._last_pods(workspace, job), draft)
        elif "Failed" in ended:
            await self._gave_up(workspace, job, ended["Failed"].message, draft)
        else:
            await self._running(workspace, inputs, newest_first(self._world.pods_of(workspace, TUNING), job), draft)

    async def _last_pods(self, workspace: Workspace, job: Job) -> list[Pod]:
        """Read the pods of a Job that ended past the cache, whose watch of pods may be behind that of Jobs.

        What they say is kept for good.
        """
        return newest_first(await self._world.current_pods_of(workspace, TUNING), job)

    async def _running(self, workspace: Workspace, inputs: str, found: Sequence[Pod], draft: Draft) -> None:
        """Show progress, and what goes wrong while the program or the Job is still trying."""
        current = next((pod for pod in found if not terminal(pod)), None)
        live = await self._world.progress.read(current) if current is not None else None
        if current is not None:
            draft.look_again(self._world.progress.due(current))
        nodes = [node for name in draft.worker_nodes if (node := self._world.nodes.get(Key("", name)))]
        problem = _of_trainer(diagnose([current] if current else found[:1], nodes, live))
        if live is not None and live.total_steps:
            draft.tuning = msgspec.structs.replace(progressed(draft.tuning, live), inputs=inputs)
        if current is not None and main_started(current, workspace.metadata.name):
            draft.done(ConditionType.JOB_STARTED, Reason.JOB_STARTED, STARTED_MESSAGE)
        elif draft.conditions.is_true(ConditionType.JOB_STARTED) and (found or draft.tuning is not None):
            pass  # between two pods of a Job that goes on
        elif problem is not None:
            draft.fail(ConditionType.JOB_STARTED, problem.reason, problem.message)
        else:
            draft.wait(ConditionType.JOB_STARTED, Reason.JOB_PENDING, _doing(current, live))
        told = problem if problem and problem.reason != contract.Reason.PREEMPTED else None
        self._not_tuned(draft, told or Problem(Reason.TUNING, _doing(current, live)), trouble=told is not None)

    def _succeeded(
        self, workspace: Workspace, spec: TuningSpec, inputs: str, found: Sequence[Pod], draft: Draft
    ) -> None:
        """Keep what was made: from here on it does not depend on the Job or its pods."""
        reports = (final_report(pod, workspace.metadata.name) for pod in found if pod.status.phase == "Succeeded")
        report = next((report for report in reports if report is not None), None)
        pushed = report.artifact if report and report.artifact else contract.Artifact()
        output = spec.output.image if spec.output else ""
        artifact = Artifact(ref=pushed.ref or output, digest=pushed.digest)
        before = draft.tuning or TuningStatus()
        known = progressed(before, report) if report else before
        draft.tuning = msgspec.structs.replace(known, eta="", artifact=artifact, inputs=inputs)
        draft.done(ConditionType.JOB_STARTED, Reason.JOB_STARTED, STARTED_MESSAGE)
        draft.done(ConditionType.TUNED, Reason.TUNED, tuned_message(artifact, report))
        self._failures.forget(workspace)

    async def _gave_up(self, workspace: Workspace, job: Job, message: str, draft: Draft) -> None:
        """Say why the Job failed; what somebody may mend from outside is tried again."""
        failure = self._failures.of(workspace, job)
        if failure is None:
            found = await self._last_pods(workspace, job)
            said = next((problem for pod in found if (problem := diagnose([pod], ()))), None)
            problem = _of_trainer(said) or _said_before(draft) or Problem(Reason.TRAINER_FAILED, message)
            failure = self._failures.add(workspace, job, problem)
        if failure.moment is not None:
            draft.look_again(failure.moment - self._world.clock.monotonic())
        self._failed(draft, failure.problem)

    def _refused(self, draft: Draft, problem: Problem) -> bool:
        draft.look_again(REFUSED_SECONDS)
        return self._failed(draft, problem)

    def _failed(self, draft: Draft, problem: Problem) -> bool:
        before = condition_of(draft.workspace, ConditionType.JOB_STARTED)
        if before is None or before.reason != Reason.JOB_FAILED:
            self._world.metrics.tuning_failures.inc()
        draft.failed = True
        draft.fail(ConditionType.JOB_STARTED, Reason.JOB_FAILED, problem.message)
        self._not_tuned(draft, problem, trouble=True)
        draft.wait(ConditionType.INFERENCE_READY, problem.reason, problem.message)
        return False

    def _not_tuned(self, draft: Draft, problem: Problem, *, trouble: bool) -> None:
        say = draft.fail if trouble else draft.wait
        say(ConditionType.TUNED, problem.reason, problem.message)
        draft.wait(ConditionType.INFERENCE_READY, Reason.TUNING, "waiting for the tuned model")


def newest_first(found: Iterable[Pod], job: Job) -> list[Pod]:
    """Choose a Job's own pods: those of one that it replaced may go on for their grace period."""
    own = [pod for pod in found if (owner := pod.metadata.controller()) and owner.uid == job.metadata.uid]
    return sorted(own, key=lambda pod: pod.metadata.creation_timestamp, reverse=True)


def _of_trainer(problem: Problem | None) -> Problem | None:
    """A trainer is not restarted in place: what a server's crash loop is, is its failure."""
    if problem is not None and problem.reason == Reason.CRASH_LOOP:
        return problem._replace(reason=Reason.TRAINER_FAILED)
    return problem


def _said_before(draft: Draft) -> Problem | None:
    """Why the Job failed, as it was known while its pod was still there."""
    failed = draft.reason_of(ConditionType.JOB_STARTED)[0] == Reason.JOB_FAILED
    return Problem(*draft.reason_of(ConditionType.TUNED)) if failed else None


def tuned_for(workspace: Workspace, inputs: str) -> bool:
    """Whether the result that is there was made from these inputs."""
    condition = condition_of(workspace, ConditionType.TUNED)
    made_from = workspace.status.tuning.inputs if workspace.status.tuning else ""
    return condition is not None and condition.true and made_from == inputs


def tuned_message(artifact: Artifact, report: contract.Status | None) -> str:
    """Say where the result is and how long was trained. Training ends before its last step only where that is of use."""
    where = f"{artifact.ref} {artifact.digest}".strip() or VOLUME_MESSAGE
    if report is None or not report.step:
        return where
    if report.step < report.total_steps:
        steps = f"step {report.step} of {report.total_steps}"
        return f"{where}; stopped at {steps}: the held-out rows had stopped profiting"
    return f"{where}; {report.step} steps"


def progressed(before: TuningStatus | None, live: contract.Status) -> TuningStatus:
    """Return the status with what a program says of its progress. Steps never go back: a resumed pod counts from 0 at first."""
    known = before or TuningStatus()
    if not live.total_steps or live.step < known.step:
        return known
    return msgspec.structs.replace(
        known,
        step=live.step,
        total_steps=live.total_steps,
        loss=f"{live.loss:.4g}" if live.loss is not None else known.loss,
        eta=short(live.eta_seconds) if live.eta_seconds is not None else "",
        checkpoint=live.checkpoint_step or known.checkpoint,
    )


def short(seconds: float) -> str:
    """Format a duration as people say it: 1h5m, 12m30s, 40s."""
    left = timedelta(seconds=round(seconds))
    hours, rest = divmod(int(left.total_seconds()), 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def result_hash(spec: TuningSpec, decision: Decision) -> str:
    """Hash what the result is made from. Secrets may be rotated, and `onSuccess` says only what comes after."""
    return digest(_meaning(spec, secrets=False), decision.config_hash)


def job_hash(spec: TuningSpec, decision: Decision) -> str:
    """Hash what a Job is rendered from: the meaning, and the names of Secrets that its pod mounts."""
    return digest(_meaning(spec, secrets=True), decision.config_hash)


def _meaning(spec: TuningSpec, *, secrets: bool) -> Mapping[str, object]:
    meaning: BODY = msgspec.to_builtins(spec)
    meaning.pop("onSuccess", None)
    meaning["method"] = spec.method.lower()
    if not secrets:
        meaning.get("output", {}).pop("imagePushSecret", None)
        meaning.get("input", {}).pop("imagePullSecrets", None)
        options = meaning.get("preset", {}).get("presetOptions", {})
        options.pop("imagePullSecrets", None)
        options.pop("modelAccessSecret", None)
    return meaning


def render_job(workspace: Workspace, spec: TuningSpec, decision: Decision, world: World, inputs: str) -> BODY:
    """Render the Job. Which exit codes end it, and which say nothing about the work, is the contract's."""
    final = sorted(int(code) for code in contract.FINAL_EXITS)
    ignored = sorted(int(code) for code in contract.IGNORED_EXITS)
    template = render_pod(workspace, spec, decision, world)
    template["spec"]["restartPolicy"] = "Never"
    return {
        "metadata": metadata(workspace, workspace.metadata.name, TUNING, {labels.INPUTS: inputs}),
        "spec": {
            "backoffLimit": BACKOFF_LIMIT,
            "podReplacementPolicy": "Failed",  # never two trainers on one GPU
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": final}},
                    {"action": "Ignore", "onExitCodes": {"operator": "In", "values": ignored}},
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": template,
        },
    }


def render_pod(workspace: Workspace, spec: TuningSpec, decision: Decision, world: World) -> BODY:
    """Render a trainer's pod: weights and data are fetched first, then `runtime.tune` runs."""
    parts = pods.common_parts(workspace, decision, world.settings)
    parts.init.append(pods.fetch_weights(parts, decision))
    _input(parts, spec)
    _output(parts, spec)
    main = {
        "command": ["python", "-m", "runtime.tune"],
        "ports": [{"name": "status", "containerPort": contract.STATUS_PORT, "protocol": "TCP"}],
    }
    return pods.pod(
        workspace,
        decision,
        world.settings,
        parts,
        main,
        component=TUNING,
        grace_seconds=GRACE_SECONDS,
        plan=_tune_plan(spec, decision),
        annotations={labels.DO_NOT_DISRUPT: "true"},
    )


def _tune_plan(spec: TuningSpec, decision: Decision) -> contract.TunePlan:
    """Complete the planner's part with where the result goes."""
    plan = decision.rung.plan.tune if decision.rung.plan else None
    if plan is None:
        raise ValueError("a plan without a part for tuning")  # `decide` asks for one wherever this is called
    output = spec.output
    return replace(
        plan,
        revision=decision.weights.revision,
        output_image=output.image if output else "",
        push_secret=output.image_push_secret if output else "",
    )


def _input(parts: pods.Parts, spec: TuningSpec) -> None:
    """Add what brings the training data: URLs, an image, or a volume as it is."""
    given = spec.input
    if given is None:
        return
    if given.volume_source is not None:
        parts.volume("data-volume", dict(given.volume_source), contract.DATA_DIR, read_only=True)
        return
    parts.volume("data-volume", {"emptyDir": {}}, contract.DATA_DIR)
    source = ["--image", given.image] if given.image else ["--url", *given.urls]
    words = ["data", *source, "--to", contract.DATA_DIR, *parts.auth(given.image_pull_secrets)]
    parts.init.append(pods.init_container("fetch-data", words))


def _output(parts: pods.Parts, spec: TuningSpec) -> None:
    """Add where the result is put, and the Secret that pushes it."""
    given = spec.output
    volume = dict(given.volume_source) if given and given.volume_source is not None else {"emptyDir": {}}
    parts.volume("results-volume", volume, contract.RESULTS_DIR)
    if given and given.image_push_secret:
        parts.secret(given.image_push_secret)


def _doing(pod: Pod | None, live: contract.Status | None) -> str:
    """Say what a training is doing."""
    if pod is None:
        return "waiting for the Job's pod"
    if live is None:
        return stage(pod)
    if live.total_steps:
        loss = f", loss {live.loss:.4g}" if live.loss is not None else ""
        return f"{live.phase}: step {live.step} of {live.total_steps}{loss}"
    amount = f" {live.bytes_done >> 20} of {live.bytes_total >> 20} MiB" if live.bytes_total else ""
    return f"{live.phase}{amount}"
