//! Which part of the shell may import which, as in `docs/architecture.md`.
//!
//! Apart from the rule that holds it, because whoever adds a part reads and changes only this.

/// What a part of the shell may import: other parts of the shell, then modules of the core.
pub(super) struct Arrow {
    pub(super) part: &'static str,
    pub(super) shell: &'static [&'static str],
    pub(super) core: &'static [&'static str],
}

/// The arrows between the parts, from the command line inwards. `*` stands for every module.
pub(super) const ARROWS: [Arrow; 17] = [
    arrow("main", &["cli"], &[]),
    arrow("lib", &[], &[]),
    arrow(
        "cli",
        &[
            "audit",
            "process",
            "checkpoint",
            "cluster",
            "config",
            "connectors",
            "demo",
            "error",
            "failure",
            "generate",
            "telemetry",
        ],
        &["dataflow", "ports"],
    ),
    // Nothing of the operators: an audit must not share the job's mistakes. Of bindings and
    // checkpoints it reads what the job has bound, and no keys.
    arrow(
        "audit",
        &[
            "bindings",
            "checkpoint",
            "codec",
            "config",
            "connectors",
            "failure",
        ],
        &["batch", "bindings", "ports", "queue", "schema"],
    ),
    arrow(
        "process",
        &[
            "bindings",
            "checkpoint",
            "cluster",
            "codec",
            "config",
            "connectors",
            "error",
            "failure",
            "fault_point",
            "telemetry",
        ],
        &["*"],
    ),
    arrow(
        "connectors",
        &["bindings", "codec", "config", "fault_point", "s3"],
        &["batch", "bindings", "key", "ports", "queue", "schema"],
    ),
    arrow(
        "bindings",
        &["codec", "error", "fault_point"],
        &["batch", "bindings", "ports", "queue", "schema"],
    ),
    arrow(
        "checkpoint",
        &["bindings", "codec", "config", "error", "fault_point", "s3"],
        &["batch", "checkpoint", "key", "ports", "schema", "state"],
    ),
    arrow("cluster", &["error"], &["ports"]),
    arrow("telemetry", &["config", "error"], &["ports"]),
    arrow("codec", &[], &["batch", "ports", "schema"]),
    arrow("config", &[], &["schema"]),
    arrow(
        "failure",
        &["bindings", "checkpoint", "cluster", "connectors", "error"],
        &[],
    ),
    arrow("error", &[], &[]),
    arrow("s3", &[], &[]),
    arrow("fault_point", &[], &[]),
    // Of the connectors only what keeps a client of Kafka alive.
    arrow("generate", &["codec", "config", "connectors"], &["ports"]),
];

const fn arrow(
    part: &'static str,
    shell: &'static [&'static str],
    core: &'static [&'static str],
) -> Arrow {
    Arrow { part, shell, core }
}
