"""Every telemetry name that zupa emits, in one place, each with its source.

Where OpenTelemetry has a convention, its name is used unchanged; everything else is below ``zupa.*``. The Python
constants for ``gen_ai.*`` upstream are marked deprecated since the conventions moved to their own repository, so the
strings are kept here.

Sources:
    GENAI: open-telemetry/semantic-conventions-genai, model/gen-ai/spans.yaml (development).
    SEMC: open-telemetry/semantic-conventions v1.44, docs/general and docs/exceptions.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
SCOPE_NAME: Final = "zupa"

# -- GENAI ---------------------------------------------------------------------------------------------------------
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_WORKFLOW_NAME: Final = "gen_ai.workflow.name"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"

OPERATION_INVOKE_WORKFLOW: Final = "invoke_workflow"
OPERATION_INVOKE_AGENT: Final = "invoke_agent"
OPERATION_EXECUTE_TOOL: Final = "execute_tool"

# -- SEMC ----------------------------------------------------------------------------------------------------------
ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

# -- zupa: spans ---------------------------------------------------------------------------------------------------
# No convention exists for nodes, super-steps, interrupts and checkpoints (semantic-conventions-genai PR 188, 445 and
# 483 are open proposals); when one lands, only this block changes.
ENGINE: Final = "zupa.engine"
GRAPH: Final = "zupa.graph"
KIND: Final = "zupa.kind"
OUTCOME: Final = "zupa.outcome"
RUN_ID: Final = "zupa.run.id"
EXEC_ID: Final = "zupa.exec.id"
NODE: Final = "zupa.node.name"
NODE_KIND: Final = "zupa.node.kind"
STEP: Final = "zupa.step"
ATTEMPT: Final = "zupa.attempt"
MAX_ATTEMPTS: Final = "zupa.attempt.max"
RETRY_DELAY: Final = "zupa.retry.delay"
PARENT_EXEC_ID: Final = "zupa.parent.exec.id"
NAMESPACE: Final = "zupa.namespace"
SOURCES: Final = "zupa.node.sources"
TRIGGERS: Final = "zupa.node.triggers"
GOTO: Final = "zupa.node.goto"
WRITES: Final = "zupa.node.writes"
TASKS: Final = "zupa.step.tasks"
INTERRUPT_REASON: Final = "zupa.interrupt.reason"
INTERRUPT_IDS: Final = "zupa.interrupt.ids"
CHECKPOINT_ID: Final = "zupa.checkpoint.id"
CHECKPOINT_PARENT_ID: Final = "zupa.checkpoint.parent_id"
CHECKPOINT_SOURCE: Final = "zupa.checkpoint.source"
LINK_KIND: Final = "zupa.link.kind"
LINK_EDGE: Final = "edge"
LINK_RESUME: Final = "resume"
LINK_USER: Final = "user"

# -- zupa: events and the bus --------------------------------------------------------------------------------------
EVENT_ID: Final = "zupa.event.id"
EVENT_SEQ: Final = "zupa.event.seq"
EVENT_CHANNEL: Final = "zupa.event.channel"
EVENT_DEGRADED: Final = "zupa.event.degraded"

ENGINE_CHANNEL: Final = "engine"
AGENT_CHANNEL: Final = "agent"
BUS_CHANNEL: Final = "bus"

CHECKPOINT_TRACEPARENT: Final = "zupa.traceparent"
"""Key in a checkpoint's metadata under which the W3C traceparent of the run that wrote it is kept."""
CHECKPOINT_NODE_SPANS: Final = "zupa.node_spans"
"""Key in a checkpoint's metadata: node name to the traceparent of its newest span, so that edges cross a resume."""
