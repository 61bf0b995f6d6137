//! Type names that more than one file defines.

use std::collections::BTreeMap;

use crate::lexer::lex_shipped;

/// Returns the names of the structs, enums and traits that a file defines outside of its tests.
fn types(text: &str) -> Vec<String> {
    let tokens = lex_shipped(text);
    let pairs = tokens.windows(2).filter(|pair| matches!(pair[0].word(), Some("struct" | "enum" | "trait")));
    pairs.filter_map(|pair| pair[1].word().map(str::to_owned)).collect()
}

/// Returns the types that several files define, with the files.
pub fn duplicates<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, Vec<&'a str>> {
    let mut found = BTreeMap::<String, Vec<&str>>::new();
    for (file, text) in files {
        for name in types(text) {
            let files = found.entry(name).or_default();
            if files.last() != Some(&file) {
                files.push(file);
            }
        }
    }
    found.retain(|_, files| files.len() > 1);
    found
}

mod tests {
    use super::duplicates;

    #[test]
    fn type_defined_in_two_files_is_found() {
        let files = [
            ("a.rs", "pub struct State; struct A; mod tests { struct B; } struct C;"),
            ("b.rs", "enum State {} /* struct A; */ const D: &str = \"struct A;\"; struct B; trait E { type A; }"),
            ("c.rs", "struct B; struct B2;"),
        ];
        let found = duplicates(files.into_iter());
        let expected = [("B", vec!["b.rs", "c.rs"]), ("State", vec!["a.rs", "b.rs"])];
        assert_eq!(found, expected.map(|(name, files)| (name.to_owned(), files)).into());
    }
}
