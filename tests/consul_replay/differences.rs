//! Differences between Callboard and Consul, with reasons.
//!
//! The test fails for a difference that is not listed here, and for one that is listed but does not occur.

use super::compare::Found;

/// Difference with its reason.
#[derive(Debug)]
pub struct Difference {
    /// Numbers of the exchanges in the recording. Empty: all.
    pub exchanges: &'static [usize],
    /// Place in the answer. A `*` matches any text.
    pub at: &'static str,
    /// Reason, as the end of a sentence that begins with "which".
    pub why: &'static str,
}

const BEFORE: &str =
    "is the index of the node, which is older than that of the service: every write has its own revision";
const WHOLE: &str = "is complete from the start: Consul's agent writes its node some time after the server starts";

const NAME: &str =
    "is a 400 with the allowed characters: the recorded build answers 500, and other builds accept the name";

pub const NOSNIFF: &str = "forbids browsers to guess the type of the answer";

pub const DIFFERENCES: &[Difference] = &[
    Difference { exchanges: &[], at: "header X-Content-Type-Options", why: NOSNIFF },
    Difference { exchanges: &[0, 1], at: "body*", why: "is the address of the server itself" },
    Difference { exchanges: &[3], at: "body[0].*", why: WHOLE },
    Difference { exchanges: &[3], at: "header X-Consul-Index", why: WHOLE },
    Difference { exchanges: &[55, 57], at: "body.Services*.Port", why: "is the port of the service `consul` itself" },
    Difference {
        exchanges: &[55, 57],
        at: "body.Services*.Meta*",
        why: "describes Raft and Serf, which Callboard does not have",
    },
    Difference { exchanges: &[144], at: "body.Services.db.*Index", why: BEFORE },
    Difference { exchanges: &[144], at: "header X-Consul-Index", why: BEFORE },
    Difference { exchanges: &[141, 143], at: "body*.Node.*Index", why: BEFORE },
    Difference { exchanges: &[60, 156], at: "header X-Consul-Contenthash", why: "is a hash of another encoding" },
    Difference { exchanges: &[60, 156], at: "body.ContentHash", why: "is a hash of another encoding" },
    Difference { exchanges: &[29], at: "body", why: "names the rules of Consul's parser" },
    Difference { exchanges: &[111], at: "status", why: NAME },
    Difference { exchanges: &[111], at: "body", why: NAME },
    Difference { exchanges: &[114], at: "body", why: "names the fields of a Go struct" },
];

impl Difference {
    pub fn place(&self) -> String {
        format!("{} of {:?}", self.at, self.exchanges)
    }

    pub fn covers(&self, exchange: usize, found: &Found) -> bool {
        let meant = self.exchanges.is_empty() || self.exchanges.contains(&exchange);
        meant && matches(self.at, &found.at)
    }
}

/// Returns whether a pattern matches a place. `*` matches any text.
fn matches(pattern: &str, at: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == at,
        Some((before, rest)) => {
            let Some(after) = at.strip_prefix(before) else { return false };
            (0..=after.len()).filter(|cut| after.is_char_boundary(*cut)).any(|cut| matches(rest, &after[cut..]))
        }
    }
}

#[test]
fn star_matches_any_text() {
    for (pattern, at, meant) in [
        ("body*", "body[0].Node", true),
        ("body.*.Port", "body.Services.consul.Port", true),
        ("body.*.Port", "body.Services.consul.Ports", false),
        ("body", "body.Meta", false),
        ("*", "", true),
    ] {
        assert_eq!(matches(pattern, at), meant, "{pattern} {at}");
    }
}
