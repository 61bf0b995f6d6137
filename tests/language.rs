//! The language of the sources: doc comments name their subject, programs are not people, each concept has one word.
//!
//! `just language` prints the figures; `CALLBOARD_TEST_LANGUAGE=src/registry just language` also prints the lines below that
//! path which break a rule.

mod prose;
mod types;
mod words;

use std::{
    collections::BTreeMap,
    env, fmt,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use prose::{ProseKind, names, prose};
use words::{ALLOWED, RETIRED, RETIRED_NAMES, VAGUE_OPENINGS, WHO};

/// Upper limits for one part of the repository.
#[derive(Debug)]
struct Limit {
    /// Files and folders at the top of the repository.
    paths: &'static [&'static str],
    /// Vague openings for a thousand doc comments.
    vague_permille: usize,
    /// Lines with "who" for a thousand lines of prose.
    who_permille: usize,
    /// Lines with a retired word.
    retired: usize,
    /// Retired names, each counted once for a file.
    names: usize,
}

const LIMITS: &[Limit] = &[
    Limit { paths: &["src"], vague_permille: 10, who_permille: 3, retired: 20, names: 5 },
    Limit { paths: &["tests"], vague_permille: 10, who_permille: 5, retired: 10, names: 8 },
    Limit { paths: &["benches", "examples", "fuzz"], vague_permille: 10, who_permille: 3, retired: 0, names: 0 },
    Limit { paths: &["proto"], vague_permille: 10, who_permille: 3, retired: 0, names: 0 },
    Limit {
        paths: &[
            ".ci",
            "ARCHITECTURE.md",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "Cargo.toml",
            "README.md",
            "build.rs",
            "buf.yaml",
            "clippy.toml",
            "deny.toml",
            "deploy",
            "docs",
            "justfile",
        ],
        vague_permille: 10,
        who_permille: 5,
        retired: 0,
        names: 0,
    },
];

/// Endings of the files that have prose; files without an ending are scripts.
const ENDINGS: &[&str] = &[
    "rs", "proto", "md", "sh", "toml", "yaml", "yml", "service", "socket", "py", "go", "java", "rb", "js", "mjs", "cfg",
];
/// Files that are not read: they are word for word from elsewhere, or hold the words that are looked for.
const NOT_READ: &[&str] =
    &["proto/grpc", "tests/language/words.rs", "docs/book.toml", "fuzz/seeds", "target", "node_modules"];

/// Figures of a folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Figures {
    openings: usize,
    vague: usize,
    lines: usize,
    who: usize,
    retired: usize,
    names: usize,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.openings += other.openings;
        self.vague += other.vague;
        self.lines += other.lines;
        self.who += other.who;
        self.retired += other.retired;
        self.names += other.names;
    }

    fn exceeds(&self, limit: &Limit) -> bool {
        self.vague * 1000 > limit.vague_permille * self.openings
            || self.who * 1000 > limit.who_permille * self.lines
            || self.retired > limit.retired
            || self.names > limit.names
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |part: usize, whole: usize| {
            let tenths = (part * 1000).checked_div(whole).unwrap_or_default();
            format!("{}.{} %", tenths / 10, tenths % 10)
        };
        let Self { openings, vague, lines, who, retired, names } = *self;
        let (vague, who) = (percent(vague, openings), percent(who, lines));
        write!(formatter, "{openings:>9} {vague:>8} {lines:>7} {who:>7} {retired:>8} {names:>6}")
    }
}

/// Splits text into words in lower case; code in backticks and links are one word each, without meaning.
fn words_of(text: &str) -> Vec<String> {
    let prose: String =
        text.split('`').enumerate().map(|(number, part)| if number % 2 == 0 { part } else { " x " }).collect();
    let prose = prose.replace('’', "'").to_lowercase();
    let words =
        prose.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '-' && c != '_' && c != '/' && c != '.');
    let words = words.map(|word| word.trim_matches(['\'', '-', '.', '/', '_'])).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// Returns the first of the phrases that the words contain, outside of what is allowed.
fn find<'a>(words: &[String], phrases: &[&'a str]) -> Option<&'a str> {
    let text = format!(" {} ", words.join(" "));
    let text = ALLOWED.iter().fold(text, |text, allowed| text.replace(&format!(" {allowed} "), " x "));
    phrases.iter().copied().find(|phrase| text.contains(&format!(" {phrase} ")))
}

fn is_vague(words: &[String]) -> bool {
    let text = format!("{} ", words.join(" "));
    VAGUE_OPENINGS.iter().any(|opening| text.starts_with(&format!("{opening} ")))
}

/// Returns the retired part of a name: `open_door` and `OpenDoor` have `door`.
fn retired_name(name: &str) -> Option<&'static str> {
    let mut parts = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() {
            parts.push('_');
        }
        parts.extend(letter.to_lowercase());
    }
    RETIRED_NAMES.iter().copied().find(|retired| parts.split('_').any(|part| part == *retired))
}

/// Counts what a file has, and writes each line that breaks a rule.
fn measure(file: &str, text: &str, broken: &mut String) -> Figures {
    let mut figures = Figures::default();
    for line in prose(file, text) {
        let words = words_of(&line.text);
        let vague = line.kind == ProseKind::DocOpening && is_vague(&words);
        let (who, retired) = (find(&words, WHO), find(&words, RETIRED));
        figures.lines += 1;
        figures.openings += usize::from(line.kind == ProseKind::DocOpening);
        figures.vague += usize::from(vague);
        figures.who += usize::from(who.is_some());
        figures.retired += usize::from(retired.is_some());
        for rule in [vague.then_some("vague"), who, retired].into_iter().flatten() {
            let _ = writeln!(broken, "{file}:{}: [{rule}] {}", line.line, line.text);
        }
    }
    if Path::new(file).extension().is_some_and(|ending| ending == "rs") {
        let mut seen = BTreeMap::new();
        for (line, name) in names(text) {
            if let Some(retired) = retired_name(&name) {
                seen.entry(name).or_insert((line, retired));
            }
        }
        figures.names = seen.len();
        for (name, (line, retired)) in seen {
            let _ = writeln!(broken, "{file}:{line}: [name: {retired}] {name}");
        }
    }
    figures
}

/// Lists the files below a path that have prose, relative to the repository's root.
fn files(root: &Path, path: &Path, found: &mut Vec<PathBuf>) {
    let name = path.to_string_lossy();
    if NOT_READ.iter().any(|excluded| name == *excluded || path.ends_with(excluded)) {
        return;
    }
    let absolute = root.join(path);
    if absolute.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(absolute).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        entries.sort();
        for entry in entries {
            files(root, &path.join(entry), found);
        }
    } else if absolute.is_file() {
        let is_read = match path.extension() {
            Some(ending) => ENDINGS.iter().any(|known| ending == *known),
            None => true,
        };
        if is_read {
            found.push(path.to_owned());
        }
    }
}

/// Returns the folder by which figures are shown: two names deep in `src`, one elsewhere.
fn folder(file: &Path) -> String {
    let depth = match file.iter().next() {
        Some(top) if top == "src" && file.starts_with("src/protocol") => 3,
        Some(top) if top == "src" => 2,
        _ => 1,
    };
    let parts: Vec<_> = file.iter().take(depth).map(|part| part.to_string_lossy()).collect();
    parts.join("/").trim_end_matches(".rs").to_owned()
}

#[test]
fn language_stays_within_its_limits() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shown = env::var("CALLBOARD_TEST_LANGUAGE").ok();
    let mut table = format!("{:<24} openings    vague   lines     who  retired  names\n", "folder");
    let mut exceeded = String::new();
    for limit in LIMITS {
        let (mut found, mut broken) = (Vec::new(), String::new());
        limit.paths.iter().for_each(|path| files(root, Path::new(path), &mut found));
        let (mut total, mut folders) = (Figures::default(), BTreeMap::<String, Figures>::new());
        for file in found {
            let Ok(text) = fs::read_to_string(root.join(&file)) else { continue };
            let figures = measure(&file.to_string_lossy(), &text, &mut broken);
            total.add(figures);
            folders.entry(folder(&file)).or_default().add(figures);
        }
        for (folder, figures) in folders.iter().filter(|_| folders.len() > 1) {
            let _ = writeln!(table, "  {folder:<22} {figures}");
        }
        let _ = writeln!(table, "{:<24} {total}", limit.paths[0]);
        for line in broken.lines().filter(|line| shown.as_ref().is_some_and(|path| line.starts_with(path))) {
            println!("{line}");
        }
        if total.exceeds(limit) {
            let _ = write!(exceeded, "{limit:?} is exceeded:\n{total}\n{broken}");
        }
    }
    println!("{table}");
    assert!(exceeded.is_empty(), "{exceeded}");
}

#[test]
fn type_names_are_unique() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    files(root, Path::new("src"), &mut paths);
    // Files that are compiled for tests and fuzzing only.
    paths.retain(|path| {
        let is_tests =
            path.components().any(|part| part.as_os_str().to_string_lossy().trim_end_matches(".rs").ends_with("tests"));
        !is_tests && !path.starts_with("src/fuzz") && !path.ends_with("test_support.rs") && !path.ends_with("models.rs")
    });
    let sources: Vec<(String, String)> = paths
        .iter()
        .map(|path| (path.to_string_lossy().into_owned(), fs::read_to_string(root.join(path)).unwrap()))
        .collect();
    let found = types::duplicates(sources.iter().map(|(path, text)| (&**path, &**text)));
    assert!(found.is_empty(), "types with the same name: {found:#?}");
}

#[test]
fn language_notices_what_breaks_its_rules() {
    let mut broken = String::new();
    let text = "/// Whether the door is open.\nfn open_door() {} // whoever comes\n/// Returns a room.\n/// Number of `who`.\nstruct Hub;";
    let figures = measure("src/a.rs", text, &mut broken);
    assert_eq!(figures, Figures { openings: 2, vague: 1, lines: 4, who: 1, retired: 2, names: 2 });
    assert!(broken.contains("src/a.rs:2: [whoever] whoever comes\n"), "{broken}");
    let limit = Limit { paths: &["src"], vague_permille: 499, who_permille: 250, retired: 2, names: 2 };
    assert!(figures.exceeds(&limit));
    assert!(!figures.exceeds(&Limit { vague_permille: 500, ..limit }));
}

#[test]
fn language_accepts_plain_text_and_allowed_phrases() {
    let mut broken = String::new();
    let text =
        "/// Number of open streams, with room for more.\nfn forwarded() {} // a github page, \"x\"\nstruct Gateway;";
    let figures = measure("src/a.rs", text, &mut broken);
    assert_eq!((broken.as_str(), figures.lines, figures.names), ("", 2, 0));
}
