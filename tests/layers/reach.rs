//! Which files the crate's modules reach, and which they do not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::source::{Module, Source};

/// The sources of a crate; paths are relative to `src/`.
#[derive(Debug, Default)]
pub struct House {
    pub files: BTreeMap<PathBuf, Source>,
    /// Files that no module reaches.
    pub lost: BTreeSet<PathBuf>,
}

impl House {
    /// Follows the modules from the library's and the program's roots.
    pub fn read(root: &Path) -> Self {
        let mut house = Self::default();
        for file in ["lib.rs", "main.rs"] {
            if root.join(file).exists() {
                house.follow(root, Path::new(file), Path::new(""), 0, false);
            }
        }
        let mut there = BTreeSet::new();
        list(root, root, &mut there);
        house.lost = there.into_iter().filter(|file| !house.files.contains_key(file)).collect();
        house
    }

    /// A file, and where the modules that it declares are.
    fn follow(&mut self, root: &Path, file: &Path, children: &Path, depth: usize, is_tests: bool) {
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let source = Source::read(&text, depth, is_tests);
        let modules = source.modules.clone();
        self.files.insert(file.to_owned(), source);
        for Module { name, path, is_tests } in modules {
            let beside = children.join(format!("{name}.rs"));
            let file = match path {
                Some(path) => file.parent().unwrap().join(path),
                None if root.join(&beside).exists() => beside,
                None => children.join(&name).join("mod.rs"),
            };
            self.follow(root, &file, &children.join(&name), depth + 1, is_tests);
        }
    }
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

    #[test]
    fn layers_notice_a_lost_file() {
        let root = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        put("lib.rs", "pub mod a; mod b; // mod lost;");
        put("a.rs", "mod c; #[cfg(test)] #[path = \"a/told/tests.rs\"] mod tests;");
        put("a/c.rs", "");
        put("a/told/tests.rs", "");
        put("b/mod.rs", "mod d;");
        put("b/d.rs", "");
        assert!(House::read(root.path()).lost.is_empty());
        put("lost.rs", "");
        put("a/lost.rs", "");
        let house = House::read(root.path());
        assert_eq!(house.lost, ["a/lost.rs", "lost.rs"].map(PathBuf::from).into());
        assert_eq!(house.files.len(), 6);
    }
}
