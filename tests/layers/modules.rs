//! Modules of the crate: the files that they reach, the names that they import, and the cycles between siblings.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::source::{Module, Named, Source};

/// Path of a module below the crate.
pub type ModulePath = Vec<String>;

/// Import chains longer than this are not followed.
const MAX_IMPORTS: usize = 16;

/// Sources of a crate; paths of files are relative to `src/`.
#[derive(Debug, Default)]
pub struct Modules {
    pub files: BTreeMap<PathBuf, Source>,
    /// Files that no module reaches.
    pub unreached: BTreeSet<PathBuf>,
    /// All modules, those for tests included.
    all: BTreeSet<ModulePath>,
    /// What each module imports: the name, and the path that it stands for.
    imports: BTreeMap<(ModulePath, String), Vec<String>>,
}

impl Modules {
    /// Follows the modules from the roots of the library and of the program.
    pub fn read(root: &Path) -> Self {
        let mut modules = Self::default();
        for file in ["lib.rs", "main.rs"] {
            if root.join(file).exists() {
                modules.follow(root, Path::new(file), &[], false);
            }
        }
        let mut existing = BTreeSet::new();
        list(root, root, &mut existing);
        modules.unreached = existing.into_iter().filter(|file| !modules.files.contains_key(file)).collect();
        modules.index_imports();
        modules
    }

    /// Reads a file, and the files of the modules that it declares.
    fn follow(&mut self, root: &Path, file: &Path, module: &[String], is_tests: bool) {
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let source = Source::read(&text, module, is_tests);
        let children = source.modules.clone();
        self.files.insert(file.to_owned(), source);
        self.all.insert(module.to_vec());
        let folder: PathBuf = module.iter().collect();
        for Module { name, path, is_tests } in children {
            let beside = folder.join(format!("{name}.rs"));
            let child = match path {
                Some(path) => file.parent().unwrap().join(path),
                None if root.join(&beside).exists() => beside,
                None => folder.join(&name).join("mod.rs"),
            };
            let mut module = module.to_vec();
            module.push(name);
            self.follow(root, &child, &module, is_tests);
        }
    }

    fn index_imports(&mut self) {
        let imported = self.files.values().flat_map(|source| &source.named).filter(|named| named.imported);
        let imports = imported.filter_map(|named| {
            let name = named.path.last()?.clone();
            Some(((named.module.clone(), name), self.absolute(named)?))
        });
        self.imports = imports.collect();
    }

    /// Returns a path below the crate; `None` for one that leads out of it.
    fn absolute(&self, named: &Named) -> Option<Vec<String>> {
        let first = named.path.first()?;
        if first == "crate" {
            return Some(named.path[1..].to_vec());
        }
        let mut child = named.module.clone();
        child.push(first.clone());
        self.all.contains(&child).then(|| [&*named.module, &*named.path].concat())
    }

    /// Returns the module in which the item is defined that a path leads to, imports followed.
    fn defining_module(&self, mut path: Vec<String>) -> ModulePath {
        for _ in 0..MAX_IMPORTS {
            let length = (0..=path.len()).rev().find(|length| self.all.contains(&path[..*length])).unwrap_or(0);
            let import = path.get(length).and_then(|name| self.imports.get(&(path[..length].to_vec(), name.clone())));
            match import {
                Some(import) if path[..=length] != **import => {
                    path = [&**import, &path[length + 1..]].concat();
                }
                _ => {
                    path.truncate(length);
                    break;
                }
            }
        }
        path
    }

    /// Returns what files outside of tests use: pairs of the using and the used module.
    pub fn uses(&self) -> BTreeSet<(ModulePath, ModulePath)> {
        let named = self.files.values().flat_map(|source| &source.named).filter(|named| !named.in_tests);
        let uses = named.filter_map(|named| {
            let used = self.defining_module(self.absolute(named)?);
            Some((named.module.clone(), used))
        });
        uses.collect()
    }

    /// Returns the groups of sibling modules that use each other in a cycle, each as a sorted list of paths.
    pub fn cycles(&self) -> BTreeSet<Vec<String>> {
        let mut siblings = BTreeMap::<ModulePath, BTreeSet<(String, String)>>::new();
        for (user, used) in self.uses() {
            let common = user.iter().zip(&used).take_while(|(a, b)| a == b).count();
            if let (Some(from), Some(to)) = (user.get(common), used.get(common)) {
                siblings.entry(user[..common].to_vec()).or_default().insert((from.clone(), to.clone()));
            }
        }
        let mut found = BTreeSet::new();
        for (folder, edges) in siblings {
            let names: BTreeSet<&String> = edges.iter().map(|(from, _)| from).collect();
            let reachable: BTreeMap<_, _> = names.iter().map(|name| (*name, reachable(name, &edges))).collect();
            for (name, reached) in &reachable {
                let mutual = |other: &&&String| reached.contains(**other) && reachable[**other].contains(*name);
                let group: Vec<_> = names.iter().filter(mutual).collect();
                if group.len() > 1 {
                    found.insert(
                        group.into_iter().map(|name| [&*folder, &[(*name).clone()]].concat().join("/")).collect(),
                    );
                }
            }
        }
        found
    }
}

/// Returns what a module uses, directly or by way of others.
fn reachable(from: &str, edges: &BTreeSet<(String, String)>) -> BTreeSet<String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(next) = open.pop() {
        for (_, to) in edges.iter().filter(|(from, _)| *from == next) {
            if found.insert(to.clone()) {
                open.push(to.clone());
            }
        }
    }
    found
}

fn list(root: &Path, folder: &Path, files: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.insert(path.strip_prefix(root).unwrap().to_owned());
        }
    }
}

mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
    }

    #[test]
    fn layers_report_file_that_no_module_reaches() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("lib.rs", "pub mod a; mod b; // mod unreached;"),
            ("a.rs", "mod c; #[cfg(test)] #[path = \"a/other/tests.rs\"] mod tests;"),
            ("a/c.rs", ""),
            ("a/other/tests.rs", ""),
            ("b/mod.rs", "mod d;"),
            ("b/d.rs", ""),
        ];
        write(root.path(), &files);
        assert!(Modules::read(root.path()).unreached.is_empty());
        write(root.path(), &[("unreached.rs", ""), ("a/unreached.rs", "")]);
        let modules = Modules::read(root.path());
        assert_eq!(modules.unreached, ["a/unreached.rs", "unreached.rs"].map(PathBuf::from).into());
        assert_eq!(modules.files.len(), 6);
    }

    #[test]
    fn layers_report_cycle_between_siblings_through_imports_of_parent() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("lib.rs", "mod a; mod e;"),
            ("a.rs", "mod b; mod c; mod d; pub use b::B; pub use self::c::C;"),
            ("a/b.rs", "use super::C; pub struct B; #[cfg(test)] mod tests { use super::super::d::D; }"),
            ("a/c.rs", "use crate::a::{B, d::D}; pub struct C;"),
            ("a/d.rs", "use super::A; pub struct D;"),
            ("e.rs", "use crate::a::B;"),
        ];
        write(root.path(), &files);
        let modules = Modules::read(root.path());
        assert_eq!(modules.cycles(), [["a/b", "a/c"].map(str::to_owned).to_vec()].into());
        let path = |path: &[&str]| path.iter().map(|word| (*word).to_owned()).collect::<ModulePath>();
        assert!(modules.uses().contains(&(path(&["e"]), path(&["a", "b"]))), "{:?}", modules.uses());
    }
}
