//! Documents: their links lead to files and headings that exist, the paths that they name exist, and the book lists all its pages.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
    process::Command,
};

/// Documents outside of the book.
const DOCUMENTS: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "deploy/README.md",
    "deploy/systemd/README.md",
    "tests/interop/README.md",
];
/// Links to files of the repository from pages of the book.
const REPOSITORY: &str = "https://github.com/callboard/callboard/tree/main/";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the documents and the pages of the book, relative to the repository.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = DOCUMENTS.iter().map(PathBuf::from).collect();
    for folder in ["docs/src", "docs/src/languages", "docs/src/reference"] {
        let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let pages = entries.map(|name| Path::new(folder).join(name));
        found.extend(pages.filter(|page| page.extension().is_some_and(|ending| ending == "md")));
    }
    found
}

/// Returns the lines outside of code blocks.
fn text_lines(document: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    document.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

/// Returns the targets of Markdown links in a line, without those in code.
fn links(line: &str) -> Vec<String> {
    let text: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
    let targets = text.match_indices("](").filter_map(|(at, _)| {
        let target = &text[at + 2..];
        target.find(')').map(|end| target[..end].to_owned())
    });
    targets.collect()
}

/// Returns the anchor of a heading, as mdbook and GitHub make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn anchors(document: &str) -> BTreeSet<String> {
    let headings = text_lines(document).filter_map(|line| line.strip_prefix('#'));
    headings.map(|heading| anchor(heading.trim_start_matches('#'))).collect()
}

/// Joins a relative target to the folder of a document, without `..`.
fn join(folder: &Path, target: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in folder.join(target).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

/// Returns why a link of a document leads nowhere, if it does.
fn broken(document: &Path, own: &str, link: &str) -> Option<String> {
    let (target, fragment) = link.split_once('#').map_or((link, None), |(target, fragment)| (target, Some(fragment)));
    let path = match target.strip_prefix(REPOSITORY) {
        Some(path) => PathBuf::from(path),
        None if target.contains("://") => return None,
        None => join(document.parent().unwrap(), target),
    };
    let linked = if target.is_empty() {
        own.to_owned()
    } else if root().join(&path).is_dir() {
        String::new()
    } else {
        match fs::read_to_string(root().join(&path)) {
            Ok(text) => text,
            Err(_) => return Some(format!("{}: `{link}`: {} does not exist", document.display(), path.display())),
        }
    };
    let fragment = fragment.filter(|fragment| !anchors(&linked).contains(*fragment))?;
    Some(format!("{}: `{link}`: there is no heading `{fragment}`", document.display()))
}

#[test]
fn links_of_documents_lead_to_files_and_headings() {
    let mut found = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(root().join(&document)).unwrap();
        let links: Vec<String> = text_lines(&text).flat_map(links).collect();
        found.extend(links.iter().filter_map(|link| broken(&document, &text, link)));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn summary_of_book_lists_every_page_once() {
    let summary = fs::read_to_string(root().join("docs/src/SUMMARY.md")).unwrap();
    let listed: Vec<PathBuf> = summary.lines().flat_map(links).map(|link| Path::new("docs/src").join(link)).collect();
    let pages: BTreeSet<PathBuf> =
        documents().into_iter().filter(|page| page.starts_with("docs") && !page.ends_with("SUMMARY.md")).collect();
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), pages);
    assert_eq!(listed.len(), pages.len(), "a page is listed twice");
}

/// Returns the words in backticks of a line that look like a file: with a slash and an ending.
fn named_files(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|word| {
        let is_path = word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '.'));
        is_path && word.contains('/') && [".rs", ".md", ".proto", ".toml"].iter().any(|ending| word.ends_with(ending))
    })
}

#[test]
fn files_named_by_architecture_and_contributing_exist() {
    let mut missing = Vec::new();
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let files = text_lines(&text).flat_map(named_files);
        let lost = files.filter(|file| !root().join(file).exists() && !root().join("src").join(file).exists());
        missing.extend(lost.map(|file| format!("{document}: `{file}`")));
    }
    assert!(missing.is_empty(), "no such files: {missing:?}");
}

/// Returns the long flags that a text names.
fn flags(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').filter(|word| word.starts_with("--"));
    words.filter(|word| word[2..].starts_with(|c: char| c.is_ascii_lowercase())).collect()
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_callboard")).args(arguments).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Flags of other programs that the documents name.
const OTHER_FLAGS: &[&str] = &[
    "--auto-compaction-mode",
    "--auto-compaction-retention",
    "--bind",
    "--build",
    "--bump-revision",
    "--check",
    "--endpoints",
    "--example",
    "--full",
    "--ignored",
    "--initial-advertise-peer-urls",
    "--initial-cluster",
    "--instances",
    "--mark-compacted",
    "--name",
    "--now",
    "--only",
    "--prefix",
    "--profile",
    "--python",
    "--quota-backend-bytes",
    "--release",
    "--test",
];

#[test]
fn flags_named_by_documents_exist() {
    let verbs = help(&[]);
    let verbs = verbs.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut helps: Vec<String> = verbs.map(|line| help(&[line.trim().split(' ').next().unwrap()])).collect();
    helps.extend(["events", "reset"].map(|verb| help(&["self-preservation", verb])));
    helps.extend(["bootstrap", "explain"].map(|verb| help(&["xds", verb])));
    helps.extend(["set", "apply", "get", "diff"].map(|verb| help(&["policy", verb])));
    helps.push(help(&["subset", "set"]));
    helps.extend(["set", "add"].map(|verb| help(&["route", verb])));
    let mut known: BTreeSet<&str> = helps.iter().flat_map(|help| flags(help)).collect();
    assert!(known.contains("--data-dir"), "no flags were found");
    known.extend(OTHER_FLAGS);
    let mut unknown = Vec::new();
    for document in documents().iter().filter(|document| !document.starts_with("tests")) {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let missing = flags(&text).into_iter().filter(|flag| !known.contains(flag));
        unknown.extend(missing.map(|flag| format!("{}: {flag}", document.display())));
    }
    assert!(unknown.is_empty(), "no such flags: {unknown:#?}");
}

#[test]
fn readme_has_at_most_150_lines() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.lines().count() <= 150, "{} lines: move details to docs/src", readme.lines().count());
}

#[test]
fn broken_links_are_noticed() {
    let document = Path::new("docs/src/concepts.md");
    let own = "# Concepts\n\n## What Callboard guarantees\n\n```sh\n# not a heading\n```\n";
    assert_eq!(links("a [b](c.md#d) and `[e](f)` and [g](h.md)"), ["c.md#d", "h.md"]);
    for (link, is_broken) in [
        ("#what-callboard-guarantees", false),
        ("#not-a-heading", true),
        ("grpc.md", false),
        ("grpc.md#filters", false),
        ("grpc.md#no-such-heading", true),
        ("no-such-page.md", true),
        ("../../README.md", false),
        ("https://github.com/callboard/callboard/tree/main/deploy/systemd", false),
        ("https://github.com/callboard/callboard/tree/main/no/such/folder", true),
        ("https://semver.org", false),
    ] {
        assert_eq!(broken(document, own, link).is_some(), is_broken, "{link}");
    }
}
