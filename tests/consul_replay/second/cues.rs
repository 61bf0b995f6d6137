//! Actions of the recorder beside its requests.

use std::time::Duration;

/// Something to be done before an entry, or while its request waits.
#[derive(Debug, Clone, Copy)]
pub enum Cue {
    /// Wait until each of these checks has been made.
    Probed(&'static [&'static str]),
    /// Deregister these instances.
    Deregister(&'static [&'static str]),
    /// Register 40 instances of `big`.
    RegisterMany,
    /// The time of a report begins now.
    Reported,
    /// Wait until this long after the report.
    SinceReport(Duration),
    /// Stop the registry and start it again.
    Restart,
    /// This request is made while the entry's own waits.
    Later { path: &'static str, body: &'static str },
}

const PROBES: &[&str] = &[
    "service:h1",
    "service:h2",
    "service:h3",
    "service:h4",
    "service:h5",
    "service:h6",
    "service:h7",
    "service:h8",
    "service:h9",
    "service:v6",
];
const SIDECAR: &str = "service:sc-sidecar-proxy:1";

const CATALOG: &str = "/v1/catalog/register";
const AGENT: &str = "/v1/agent/service/register";

/// A change of a node, made while a query waits.
const fn node(body: &'static str) -> Cue {
    Cue::Later { path: CATALOG, body }
}

const CUES: &[(usize, &[Cue])] = &[
    (98, &[Cue::Probed(PROBES)]),
    (99, &[Cue::Deregister(&["h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8", "h9", "v6"])]),
    (102, &[node(r#"{"Node":"w1","Address":"198.51.100.21","NodeMeta":{"rack":"b"}}"#)]),
    (103, &[node(r#"{"Node":"w1","Address":"198.51.100.21","NodeMeta":{"rack":"c"}}"#)]),
    (104, &[node(r#"{"Node":"w1","Address":"198.51.100.21","NodeMeta":{"rack":"z"}}"#)]),
    (105, &[node(r#"{"Node":"w1","Address":"198.51.100.29","NodeMeta":{"rack":"z"}}"#)]),
    (
        106,
        &[node(
            r#"{"Node":"w1","Address":"198.51.100.29","NodeMeta":{"rack":"z"},"Check":{"CheckID":"load","Name":"load","Status":"passing"}}"#,
        )],
    ),
    (107, &[node(r#"{"Node":"w2","Address":"198.51.100.22","NodeMeta":{"q":"1"}}"#)]),
    (108, &[node(r#"{"Node":"w3","Address":"198.51.100.23"}"#)]),
    (109, &[Cue::Later { path: AGENT, body: r#"{"ID":"c1","Name":"cache","Port":1,"Tags":["new"]}"# }]),
    (110, &[Cue::Later { path: AGENT, body: r#"{"ID":"c3","Name":"cache","Port":3,"Tags":["new"]}"# }]),
    // The recorded list is that of a catalog that has not heard of the sidecar's first probe.
    (
        111,
        &[
            Cue::Probed(&[SIDECAR]),
            Cue::Later { path: AGENT, body: r#"{"ID":"k","Name":"k","Check":{"TTL":"1h","Status":"critical"}}"# },
        ],
    ),
    (176, &[Cue::RegisterMany]),
    (184, &[Cue::Reported, Cue::Restart, Cue::SinceReport(Duration::from_secs(1))]),
    (185, &[Cue::SinceReport(Duration::from_secs(10))]),
];

/// Returns the cues of an entry.
pub fn of(entry: usize) -> &'static [Cue] {
    CUES.iter().find(|(at, _)| *at == entry).map_or(&[], |(_, cues)| cues)
}
