//! Actions of the recorder between its requests, and conditions that it waited for.

/// Something to be done before a request, or while it waits.
#[derive(Debug, Clone, Copy)]
pub enum Cue {
    /// Wait until a check says so.
    Await { check: &'static str, status: &'static str },
    /// The target begins to answer so.
    Answer(u16),
    /// The target's other port opens.
    OpenPort,
    /// The check at this path of the target had not been made up to here. When it is made first is chance: where it was made,
    /// all is played again.
    NotYet(&'static str),
    /// Another client sends this request a second after the recorded one.
    Later { path: &'static str, body: &'static str },
}

const CUES: &[(usize, &[Cue])] = &[
    (
        14,
        &[
            Cue::Await { check: "service:web1", status: "passing" },
            Cue::OpenPort,
            Cue::Await { check: "service:web2:2", status: "passing" },
        ],
    ),
    (49, &[Cue::NotYet("/health")]),
    (62, &[Cue::Await { check: "service:my-service-id", status: "passing" }]),
    (151, &[Cue::Later { path: "/v1/agent/service/register", body: r#"{"Name":"other"}"# }]),
    (152, &[Cue::Later { path: "/v1/agent/check/fail/service:web2:1", body: "" }]),
    (157, &[Cue::Answer(500), Cue::Await { check: "service:web1", status: "critical" }]),
    (159, &[Cue::Answer(429), Cue::Await { check: "service:web1", status: "warning" }]),
];

/// Returns the cues of an exchange.
pub fn of(exchange: usize) -> &'static [Cue] {
    CUES.iter().find(|(at, _)| *at == exchange).map_or(&[], |(_, cues)| cues)
}
