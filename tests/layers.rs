//! Layers of the crate: which folder may use which. `tests/layers/rules.rs` has the rules, ARCHITECTURE.md the same table with
//! the reasons. `just layers` prints the dependencies.

mod modules;
mod rules;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use modules::Modules;
use rules::{RULES, Rule};
use source::{Named, Source};

use crate::lexer::lex_shipped;

impl Rule {
    fn of(layer: &str) -> Option<&'static Self> {
        RULES.iter().find(|rule| rule.layer == layer)
    }

    /// Returns why the layer may not use a path, if it may not.
    fn forbids(&self, named: &Named) -> Option<String> {
        let path = named.path.join("::");
        if let [first, rest @ ..] = &*named.path
            && first == "crate"
            && let Some(used) = layer(rest)
        {
            let used = used.as_str();
            let allowed =
                used == self.layer || self.uses.contains(&used) || named.in_tests && self.tests_use.contains(&used);
            // A first word that is no layer is an item of the crate's root, such as a macro.
            return (!allowed && Self::of(used).is_some()).then(|| format!("`{}` may not use `{path}`", self.layer));
        }
        if named.in_tests {
            return None;
        }
        let mut never = self.never.iter().flat_map(|(group, paths)| paths.iter().map(move |path| (group, path)));
        let (group, forbidden) = never.find(|(_, forbidden)| is_within(named, forbidden))?;
        Some(format!("`{}` may not use `{forbidden}` ({group}), but names `{path}`", self.layer))
    }
}

/// Returns whether a path is a forbidden one, leads into it, or imports the module that contains it.
fn is_within(named: &Named, forbidden: &str) -> bool {
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

/// Returns the path of a file's module, without `#[path]`.
fn module(file: &Path) -> Vec<String> {
    file.iter().map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned()).collect()
}

/// Returns the layer of a file; the roots of the crate are in none.
fn layer_of(file: &Path) -> Option<String> {
    layer(&module(file)).filter(|layer| !matches!(&**layer, "lib" | "main" | "protocol"))
}

fn violations(file: &Path, source: &Source) -> Vec<String> {
    let Some(layer) = layer_of(file) else { return Vec::new() };
    let Some(rule) = Rule::of(&layer) else {
        return vec![format!("{}: layer `{layer}` has no rule: add one to tests/layers/rules.rs", file.display())];
    };
    let forbidden: BTreeSet<_> = source.named.iter().filter_map(|named| rule.forbids(named)).collect();
    forbidden.into_iter().map(|violation| format!("{}: {violation}", file.display())).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the layers that each layer uses outside of tests, with the number of its modules that do.
fn dependencies(modules: &Modules) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut found = BTreeMap::<String, BTreeMap<String, usize>>::new();
    for (user, used) in modules.uses() {
        if let (Some(user), Some(used)) = (layer(&user), layer(&used))
            && user != used
        {
            *found.entry(user).or_default().entry(used).or_default() += 1;
        }
    }
    found
}

#[test]
fn layers_hold() {
    let modules = Modules::read(&root().join("src"));
    let found: Vec<String> = modules.files.iter().flat_map(|(file, source)| violations(file, source)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    let layers: BTreeSet<_> = modules.files.keys().filter_map(|file| layer_of(file)).collect();
    let ruled: BTreeSet<_> = RULES.iter().map(|rule| rule.layer.to_owned()).collect();
    assert_eq!(layers, ruled, "every rule has a layer, and every layer a rule");
}

#[test]
fn layers_depend_on_each_other_without_cycle() {
    let mut left: BTreeSet<&str> = RULES.iter().map(|rule| rule.layer).collect();
    while let Some(free) =
        RULES.iter().find(|rule| left.contains(rule.layer) && rule.uses.iter().all(|used| !left.contains(used)))
    {
        left.remove(free.layer);
    }
    assert!(left.is_empty(), "the rules allow a cycle between {left:?}");
}

#[test]
fn layers_use_what_their_rules_allow() {
    let dependencies = dependencies(&Modules::read(&root().join("src")));
    let unused = RULES.iter().flat_map(|rule| {
        let used = dependencies.get(rule.layer).cloned().unwrap_or_default();
        rule.uses.iter().filter(move |allowed| !used.contains_key(**allowed)).map(move |allowed| (rule.layer, *allowed))
    });
    let unused: Vec<_> = unused.collect();
    assert!(unused.is_empty(), "allowed but not used; remove from the rules: {unused:?}");
}

#[test]
fn layers_are_those_of_architecture_md() {
    let document = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows =
        document.lines().skip_while(|line| *line != "## Layers").skip(1).take_while(|line| !line.starts_with("## "));
    let documented: BTreeMap<&str, String> = rows.filter_map(documented_rule).collect();
    let list = |words: &mut dyn Iterator<Item = &str>| {
        words.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
    };
    let enforced = RULES.iter().map(|rule| {
        let uses = list(&mut rule.uses.iter().copied());
        (rule.layer, format!("{uses} | {}", list(&mut rule.never.iter().map(|(group, _)| *group))))
    });
    assert_eq!(documented, enforced.collect(), "ARCHITECTURE.md, then tests/layers/rules.rs");
}

/// Returns the layer of a row of the table, and its sorted second and third columns.
fn documented_rule(row: &str) -> Option<(&str, String)> {
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let [layer, _, uses, never] = *cells else { return None };
    let layer = layer.strip_prefix('`')?.strip_suffix('`')?;
    let sorted = |cell: &str| {
        let words = cell.split(", ").map(|word| word.trim_matches('`').to_owned()).filter(|word| !word.is_empty());
        words.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
    };
    Some((layer, format!("{} | {}", sorted(uses), sorted(never))))
}

#[test]
fn layers_have_no_file_that_no_module_reaches() {
    let modules = Modules::read(&root().join("src"));
    assert!(modules.files.len() > 50, "only {} files were reached", modules.files.len());
    assert!(modules.unreached.is_empty(), "no module reaches {:?}", modules.unreached);
}

#[test]
fn layers_have_no_cycle_between_sibling_files() {
    let cycles = Modules::read(&root().join("src")).cycles();
    assert!(cycles.is_empty(), "sibling files use each other: {cycles:#?}");
}

/// Returns whether a file submits a command to the engine.
fn submits_to_engine(text: &str) -> bool {
    lex_shipped(text).windows(3).any(|three| {
        let [receiver, dot, method] = three else { return false };
        receiver.word() == Some("engine") && dot.is('.') && matches!(method.word(), Some("submit" | "submit_together"))
    })
}

#[test]
fn writes_enter_through_commands_only() {
    let root = root().join("src");
    let modules = Modules::read(&root);
    let shipped = modules.files.iter().filter(|(file, source)| {
        let layer = layer_of(file).unwrap_or_default();
        !source.is_tests && !["app", "engine", "fuzz"].contains(&&*layer)
    });
    let found = shipped
        .filter(|(file, _)| submits_to_engine(&fs::read_to_string(root.join(file)).unwrap()))
        .map(|(file, _)| file);
    let found: Vec<_> = found.collect();
    assert!(found.is_empty(), "these files write without `app::Commands`: {found:?}");
    assert!(submits_to_engine("fn f() { self.context.engine.submit(command, caller, now); }"));
    assert!(!submits_to_engine("fn f() { self.commands.submit(command); } // engine.submit(command)"));
}

/// Prints the dependencies: `just layers`.
#[test]
fn layers_print_dependencies() {
    let modules = Modules::read(&root().join("src"));
    for (user, used) in dependencies(&modules) {
        let used: Vec<String> = used.into_iter().map(|(used, count)| format!("{used} ({count})")).collect();
        println!("{user:<18} -> {}", used.join(", "));
    }
    for cycle in modules.cycles() {
        println!("cycle: {}", cycle.join(" <-> "));
        let member = |module: &[String]| {
            let path = module.join("/");
            cycle.iter().find(|name| path == **name || path.starts_with(&format!("{name}/"))).cloned()
        };
        let uses = modules.uses().into_iter().filter_map(|(user, used)| Some((member(&user)?, member(&used)?)));
        for (user, used) in uses.filter(|(user, used)| user != used).collect::<BTreeSet<_>>() {
            println!("    {user} uses {used}");
        }
    }
}

fn found(file: &str, text: &str) -> Vec<String> {
    violations(Path::new(file), &Source::read(text, &module(Path::new(file)), false))
}

#[test]
fn layers_reject_forbidden_layer() {
    for (file, text) in [
        ("model/name.rs", "use crate::registry::Registry;"),
        ("model/name.rs", "use crate::{clock::Clock, model::FieldError};"),
        ("registry/apply.rs", "fn f() { crate::engine::Memory::new() }"),
        ("registry/apply.rs", "use crate::model::{self, Revision}; use super::super::transport::Notifier;"),
        ("engine/memory.rs", "pub use crate::pb::callboard;"),
        ("transport/wake.rs", "use crate::{\n    clock,\n    protocol::grpc::{Api},\n};"),
        ("protocol/http.rs", "use crate::cli;"),
        ("protocol/dns/answer.rs", "use crate::protocol::consul;"),
        ("client/watch.rs", "use crate::model::Revision;"),
        ("config.rs", "use crate::server;"),
        ("unknown/file.rs", "fn f() {}"),
    ] {
        assert_eq!(found(file, text).len(), 1, "{file}: {text}");
    }
}

#[test]
fn layers_reject_forbidden_crates() {
    for (file, text) in [
        ("model/name.rs", "use tokio::sync::Mutex;"),
        ("model/name.rs", "use std::{fmt, time::{Duration, SystemTime}};"),
        ("model/name.rs", "use std::time;"),
        ("model/name.rs", "use std::net::*;"),
        ("model/name.rs", "use dashmap::DashMap;"),
        ("registry/event_log.rs", "fn f() { let now = std::time::Instant::now(); }"),
        ("registry/event_log.rs", "use prost::Message as _;"),
        ("registry/event_log.rs", "mod inner { use tonic::Status; }"),
    ] {
        assert_eq!(found(file, text).len(), 1, "{file}: {text}");
    }
}

#[test]
fn layers_accept_what_is_allowed() {
    for (file, text) in [
        ("model/name.rs", "use std::{fmt, net::IpAddr, time::Duration}; use crate::model::FieldError;"),
        ("model/name.rs", "// use tokio::sync;\nconst A: &str = \"crate::engine::Memory\"; /* use tonic::Status; */"),
        ("registry/event_log.rs", "#[cfg(test)]\nmod tests { use crate::engine::Memory; use std::time::Instant; }"),
        ("registry/lease.rs", "#[cfg(test)] mod tests { use super::super::lease::HeartbeatStreamId; }"),
        ("protocol/grpc/watch.rs", "use crate::{model::Revision, transport::Notifier, pb::callboard};"),
        ("lib.rs", "pub mod clock;"),
    ] {
        assert_eq!(found(file, text), [""; 0], "{file}: {text}");
    }
}
