//! The rules of the house: which room may know which, and that every source file belongs to one. ARCHITECTURE.md has
//! the reasons.

mod reach;
mod source;

use std::{collections::BTreeSet, path::Path};

use source::{Named, Source};

/// What a room may not know.
#[derive(Debug)]
struct Rule {
    /// A file or a folder of `src/`.
    room: &'static str,
    /// The rooms that it may name, besides itself.
    knows: &'static [&'static str],
    /// Those that only its tests may name.
    tests_know: &'static [&'static str],
    /// What it may not name of other crates, outside its tests.
    never: &'static [&'static str],
}

/// No time, no IO, no runtime, no wire format.
const PURE: &[&str] = &[
    "tokio",
    "tokio_stream",
    "tonic",
    "tonic_prost",
    "tonic_types",
    "prost",
    "prost_types",
    "hyper",
    "http",
    "axum",
    "socket2",
    "getrandom",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::fs",
    "std::thread::sleep",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
];
/// Nor any state that is shared.
const VALUES: &[&str] = &["dashmap", "parking_lot", "std::sync::Mutex", "std::sync::RwLock", "std::sync::atomic"];
/// Rooms that everybody may stand on.
const GROUND: &[&str] = &["app", "clock", "engine", "metrics", "model", "random", "registry", "sync"];

const RULES: &[Rule] = &[
    Rule { room: "model", knows: &[], tests_know: &["registry"], never: VALUES },
    Rule { room: "registry", knows: &["model", "sync"], tests_know: &["engine"], never: &["bytes"] },
    Rule {
        room: "engine",
        knows: &["clock", "metrics", "model", "random", "registry"],
        tests_know: &[],
        never: &["tonic", "axum"],
    },
    Rule { room: "clock", knows: &["model", "registry"], tests_know: &[], never: &[] },
    Rule { room: "random", knows: &[], tests_know: &[], never: &[] },
    Rule { room: "sync", knows: &[], tests_know: &[], never: &["tokio", "tonic", "prost", "axum"] },
    Rule { room: "metrics", knows: &[], tests_know: &[], never: &["tonic", "prost", "axum"] },
    Rule {
        room: "transport",
        knows: &["clock", "engine", "metrics", "model", "random", "registry", "sync"],
        tests_know: &[],
        never: &["axum"],
    },
    Rule { room: "pb", knows: &[], tests_know: &[], never: &[] },
    Rule {
        room: "app",
        knows: &["clock", "engine", "metrics", "model", "random", "registry", "transport"],
        tests_know: &[],
        never: &["tonic", "prost", "axum", "http"],
    },
    Rule {
        room: "health_check",
        knows: &["app", "clock", "engine", "model", "random", "registry"],
        tests_know: &[],
        never: &["axum", "prost"],
    },
    Rule {
        room: "protocol/consul",
        knows: &["health_check", "transport"],
        tests_know: &[],
        never: &["tonic", "prost"],
    },
    Rule {
        room: "protocol/dns",
        knows: &["health_check", "transport"],
        tests_know: &[],
        never: &["tonic", "prost", "axum"],
    },
    Rule { room: "protocol/grpc", knows: &["health_check", "transport", "pb"], tests_know: &[], never: &[] },
    Rule {
        room: "protocol/http",
        knows: &["protocol/consul", "transport"],
        tests_know: &[],
        never: &["tonic", "prost"],
    },
    Rule { room: "client", knows: &["pb"], tests_know: &[], never: &["axum", "dashmap"] },
    Rule { room: "telemetry", knows: &[], tests_know: &[], never: &["tonic", "prost", "axum"] },
    Rule {
        room: "config",
        knows: &["engine", "model", "telemetry"],
        tests_know: &[],
        never: &["tokio", "tonic", "prost", "axum"],
    },
    Rule {
        room: "server",
        knows: &[
            "protocol/grpc",
            "health_check",
            "config",
            "protocol/consul",
            "protocol/dns",
            "transport",
            "protocol/http",
        ],
        tests_know: &[],
        never: &["prost", "axum"],
    },
    Rule {
        room: "fuzz",
        knows: &[
            "protocol/grpc",
            "health_check",
            "client",
            "config",
            "protocol/consul",
            "protocol/dns",
            "transport",
            "pb",
            "protocol/http",
        ],
        tests_know: &[],
        never: &[],
    },
    Rule {
        room: "cli",
        knows: &["client", "clock", "config", "engine", "pb", "server", "telemetry"],
        tests_know: &[],
        never: &["axum"],
    },
];

/// Rooms that stand on the ground.
const ON_THE_GROUND: &[&str] = &["protocol/grpc", "protocol/consul", "protocol/dns", "fuzz", "protocol/http", "server"];
/// Rooms without IO.
const PURE_ROOMS: &[&str] = &["model", "registry"];

impl Rule {
    fn of(room: &str) -> Option<&'static Self> {
        RULES.iter().find(|rule| rule.room == room)
    }

    /// Why it may not name that, if it may not.
    fn forbids(&self, named: &Named) -> Option<String> {
        let path = named.path.join("::");
        if let [first, rest @ ..] = &*named.path
            && first == "crate"
            && let Some(other) = layer(rest)
        {
            let other = other.as_str();
            let on_ground = ON_THE_GROUND.contains(&self.room) && GROUND.contains(&other);
            let may = other == self.room
                || self.knows.contains(&other)
                || on_ground
                || named.in_tests && self.tests_know.contains(&other);
            // What is no room is a name that the crate's root gives out, such as a macro.
            return (!may && Self::of(other).is_some()).then(|| format!("`{}` may not know `{path}`", self.room));
        }
        if named.in_tests {
            return None;
        }
        let pure = if PURE_ROOMS.contains(&self.room) { PURE } else { &[] };
        let never = self.never.iter().chain(pure);
        never
            .copied()
            .find(|never| names(named, never))
            .map(|never| format!("`{}` may not know `{never}`: it names `{path}`", self.room))
    }
}

/// Whether a path is a forbidden one, leads into it, or, imported whole, opens the way to it.
fn names(named: &Named, forbidden: &str) -> bool {
    let forbidden: Vec<&str> = forbidden.split("::").collect();
    let path: Vec<&str> = named.path.iter().map(String::as_str).collect();
    path.starts_with(&forbidden)
        || named.imported && path.len() > 1 && forbidden.starts_with(path.strip_suffix(&["*"]).unwrap_or(&path))
}

/// Returns the layer that a path below the crate's root leads to: its first module, or below `protocol` the first two.
fn layer(path: &[String]) -> Option<String> {
    match path {
        [first, second, ..] if first == "protocol" => Some(format!("protocol/{second}")),
        [first, ..] => Some(first.clone()),
        [] => None,
    }
}

/// The room that a file is in; the crate's roots are in none.
fn room(file: &Path) -> Option<String> {
    let path: Vec<String> = file.iter().map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned()).collect();
    layer(&path).filter(|layer| !matches!(&**layer, "lib" | "main" | "protocol"))
}

fn breaches(file: &Path, source: &Source) -> Vec<String> {
    let Some(room) = room(file) else { return Vec::new() };
    let Some(rule) = Rule::of(&room) else {
        return vec![format!("{}: room `{room}` has no rule: give it one in tests/layers.rs", file.display())];
    };
    let forbidden = source.named.iter().filter_map(|named| rule.forbids(named));
    forbidden.collect::<BTreeSet<_>>().into_iter().map(|breach| format!("{}: {breach}", file.display())).collect()
}

#[test]
fn layers_hold() {
    let house = reach::House::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let found: Vec<String> = house.files.iter().flat_map(|(file, source)| breaches(file, source)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    let rooms: BTreeSet<_> = house.files.keys().filter_map(|file| room(file)).collect();
    let ruled: BTreeSet<_> = RULES.iter().map(|rule| rule.room.to_owned()).collect();
    assert_eq!(rooms, ruled, "every rule has a room, and every room a rule");
}

#[test]
fn layers_have_no_file_that_no_module_reaches() {
    let house = reach::House::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(house.files.len() > 50, "only {} files were reached", house.files.len());
    assert!(house.lost.is_empty(), "no module reaches {:?}", house.lost);
}

fn found(file: &str, text: &str) -> Vec<String> {
    breaches(Path::new(file), &Source::read(text, 0, false))
}

#[test]
fn layers_notice_a_forbidden_room() {
    for (file, text) in [
        ("model/name.rs", "use crate::registry::Registry;"),
        ("model/name.rs", "use crate::{clock::Clock, model::Invalid};"),
        ("registry/write.rs", "fn f() { crate::engine::Memory::new() }"),
        ("registry/write.rs", "use crate::model::{self, Revision}; use super::super::transport::Hubs;"),
        ("engine/memory.rs", "pub use crate::pb::callboard;"),
        ("transport/hub.rs", "use crate::{\n    clock,\n    protocol::grpc::{Api},\n};"),
        ("protocol/http.rs", "use crate::cli;"),
        ("client/watch.rs", "use crate::model::Revision;"),
        ("config.rs", "use crate::server;"),
        ("garden/rose.rs", "fn f() {}"),
    ] {
        assert_eq!(found(file, text).len(), 1, "{file}: {text}");
    }
}

#[test]
fn layers_notice_forbidden_crates() {
    for (file, text) in [
        ("model/name.rs", "use tokio::sync::Mutex;"),
        ("model/name.rs", "use std::{fmt, time::{Duration, SystemTime}};"),
        ("model/name.rs", "use std::time;"),
        ("model/name.rs", "use std::net::*;"),
        ("model/name.rs", "use dashmap::DashMap;"),
        ("registry/ring.rs", "fn f() { let now = std::time::Instant::now(); }"),
        ("registry/ring.rs", "use prost::Message as _;"),
        ("registry/ring.rs", "mod inner { use tonic::Status; }"),
    ] {
        assert_eq!(found(file, text).len(), 1, "{file}: {text}");
    }
}

#[test]
fn layers_let_pass_what_is_allowed() {
    for (file, text) in [
        ("model/name.rs", "use std::{fmt, net::IpAddr, time::Duration}; use crate::model::Invalid;"),
        ("model/name.rs", "// use tokio::sync;\nconst A: &str = \"crate::engine::Memory\"; /* use tonic::Status; */"),
        ("registry/ring.rs", "#[cfg(test)]\nmod tests { use crate::engine::Memory; use std::time::Instant; }"),
        ("registry/lease.rs", "#[cfg(test)] mod tests { use super::super::lease::Carrier; }"),
        ("protocol/grpc/watch.rs", "use crate::{model::Revision, transport::Hubs, pb::callboard};"),
        ("lib.rs", "pub mod clock;"),
    ] {
        assert_eq!(found(file, text), [""; 0], "{file}: {text}");
    }
}
