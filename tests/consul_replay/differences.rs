//! Where Callboard answers otherwise than Consul did, and why that is right.
//!
//! Each is needed: one that nothing differs by fails the test, as does a difference that is not here.

use super::compare::Found;

/// A difference with a reason.
#[derive(Debug)]
pub struct Difference {
    /// Numbers in the recording. Empty: all of them.
    pub exchanges: &'static [usize],
    /// The place, where a `*` stands for anything.
    pub at: &'static str,
    /// In words that go on after "which".
    pub why: &'static str,
}

const BEFORE: &str = "is that of the node, which was there before the service: each has a revision of its own";
const WHOLE: &str = "Consul's agent has not written yet when a server starts; ours is always whole";

const NAME: &str =
    "is a peculiarity of the recorded build, which answers 500: a refusal is a 400 that tells what is allowed";

pub const NOSNIFF: &str = "forbids browsers to guess the type of the answer";

pub const DIFFERENCES: &[Difference] = &[
    Difference { exchanges: &[], at: "header X-Content-Type-Options", why: NOSNIFF },
    Difference { exchanges: &[0, 1], at: "body*", why: "is the address of the server itself" },
    Difference { exchanges: &[3], at: "body[0].*", why: WHOLE },
    Difference { exchanges: &[3], at: "header X-Consul-Index", why: WHOLE },
    Difference { exchanges: &[55, 57], at: "body.Services*.Port", why: "is the port of the service `consul` itself" },
    Difference { exchanges: &[55, 57], at: "body.Services*.Meta*", why: "tells of Raft and Serf, which are not here" },
    Difference { exchanges: &[144], at: "body.Services.db.*Index", why: BEFORE },
    Difference { exchanges: &[144], at: "header X-Consul-Index", why: BEFORE },
    Difference { exchanges: &[141, 143], at: "body*.Node.*Index", why: BEFORE },
    Difference { exchanges: &[60, 156], at: "header X-Consul-Contenthash", why: "is a hash of Go's struct" },
    Difference { exchanges: &[60, 156], at: "body.ContentHash", why: "is a hash of Go's struct" },
    Difference { exchanges: &[29], at: "body", why: "tells the rules of a Go parser" },
    Difference { exchanges: &[111], at: "status", why: NAME },
    Difference { exchanges: &[111], at: "body", why: NAME },
    Difference { exchanges: &[114], at: "body", why: "tells the fields of a Go struct" },
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

/// Whether a place is meant. `*` stands for anything.
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
fn a_star_stands_for_anything() {
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
