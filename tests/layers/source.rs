//! Paths and modules that a file of Rust names; expressions and types are not parsed.

use crate::lexer::{Token, TokenKind, lex};

/// Paths and modules of a file.
#[derive(Debug, Default)]
pub struct Source {
    pub named: Vec<Named>,
    /// Modules in files of their own.
    pub modules: Vec<Module>,
    /// Compiled for tests only.
    pub is_tests: bool,
}

/// A path that a file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its words; the first is `crate` for a path that is written from `crate`, `self` or `super`.
    pub path: Vec<String>,
    /// Path of the module that names it, without `crate`.
    pub module: Vec<String>,
    pub in_tests: bool,
    /// Named by `use`.
    pub imported: bool,
}

/// A module in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    pub name: String,
    /// Path in its `#[path = "…"]`.
    pub path: Option<String>,
    pub is_tests: bool,
}

impl Source {
    /// Reads the file of a module, which is given by its path below the crate.
    pub fn read(text: &str, module: &[String], is_tests: bool) -> Self {
        let tokens = lex(text).into_iter().filter(|token| token.kind != TokenKind::Comment).collect();
        let mut reader =
            Reader { tokens, at: 0, module: module.to_vec(), source: Self { is_tests, ..Self::default() } };
        reader.items(is_tests);
        reader.source
    }
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    /// Path of the module that is being read, inline modules included.
    module: Vec<String>,
    source: Source,
}

impl Reader {
    /// Reads everything up to the end, or to the brace that closes what is open.
    fn items(&mut self, in_tests: bool) {
        let (mut marked, mut path) = (false, None);
        while let Some(token) = self.next() {
            if token.is('}') {
                return;
            } else if token.is('{') {
                self.items(in_tests || marked);
            } else if token.is('#') {
                self.attribute(&mut marked, &mut path);
            } else if token.word() == Some("use") {
                self.tree(&mut Vec::new(), in_tests || marked);
            } else if token.word() == Some("mod") {
                self.module(path.take(), in_tests || marked);
            } else {
                if token.kind == TokenKind::Word && self.peek_is_path() {
                    self.inline(token.text, in_tests || marked);
                } else if token.is(';') {
                    (marked, path) = (false, None);
                }
                continue;
            }
            // An attribute belongs to the item behind it.
            if !self.tokens.get(self.at - 1).is_some_and(|token| token.is(']')) {
                (marked, path) = (false, None);
            }
        }
    }

    fn attribute(&mut self, is_tests: &mut bool, path: &mut Option<String>) {
        let mut words = Vec::new();
        while let Some(token) = self.next() {
            match token.kind {
                _ if token.is(']') => break,
                TokenKind::Word => words.push(token.text),
                TokenKind::Str if words.first().is_some_and(|word| word == "path") => *path = Some(token.text),
                _ => {}
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        *is_tests |=
            words.starts_with(&["cfg", "test"]) || words == ["cfg", "any", "test", "fuzzing"] || words == ["test"];
    }

    fn module(&mut self, path: Option<String>, is_tests: bool) {
        let Some(name) = self.next().filter(|token| token.kind == TokenKind::Word) else { return };
        if self.next().is_some_and(|token| token.is('{')) {
            self.module.push(name.text);
            self.items(is_tests);
            self.module.pop();
        } else {
            self.source.modules.push(Module { name: name.text, path, is_tests });
        }
    }

    /// Reads one branch of what `use` names, up to its comma or the end of all.
    fn tree(&mut self, stem: &mut Vec<String>, in_tests: bool) {
        let length = stem.len();
        while let Some(token) = self.next() {
            match token.word() {
                Some("as") => {
                    self.next();
                }
                Some("self") if length > 0 => {}
                Some(word) => stem.push(word.to_owned()),
                None if token.is('*') => stem.push("*".to_owned()),
                None if token.kind == TokenKind::PathSeparator => {}
                None if token.is('{') => {
                    while self.peek().is_some_and(|token| !token.is('}')) {
                        self.tree(stem, in_tests);
                        if self.peek().is_some_and(|token| token.is(',')) {
                            self.next();
                        }
                    }
                    self.next();
                    stem.truncate(length);
                    return;
                }
                None => break,
            }
            if self.peek().is_none_or(|token| token.is(',') || token.is('}') || token.is(';')) {
                break;
            }
        }
        if stem.len() > length || length > 0 {
            self.name(stem.clone(), in_tests, true);
        }
        stem.truncate(length);
    }

    fn inline(&mut self, first: String, in_tests: bool) {
        let mut path = vec![first];
        while self.peek_is_path()
            && let Some(word) = self.tokens.get(self.at + 1).and_then(Token::word).map(str::to_owned)
        {
            self.at += 2;
            path.push(word);
        }
        self.name(path, in_tests, false);
    }

    /// Records a path; one that begins with `self` or `super` becomes one that begins with `crate`.
    fn name(&mut self, mut path: Vec<String>, in_tests: bool, imported: bool) {
        let own = usize::from(path.first().is_some_and(|word| word == "self"));
        let ups = path[own..].iter().take_while(|word| *word == "super").count();
        if own + ups > 0 {
            let parent = self.module.iter().take(self.module.len().saturating_sub(ups)).cloned();
            path.splice(..own + ups, ["crate".to_owned()].into_iter().chain(parent));
        }
        let module = self.module.clone();
        self.source.named.push(Named { path, module, in_tests, imported });
    }

    fn peek_is_path(&self) -> bool {
        self.peek().is_some_and(|token| token.kind == TokenKind::PathSeparator)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned()
    }
}

mod tests {
    use super::*;

    fn read(text: &str, module: &[&str]) -> Source {
        Source::read(text, &module.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), false)
    }

    fn paths(source: &Source) -> Vec<String> {
        source.named.iter().map(|named| named.path.join("::")).collect()
    }

    #[test]
    fn use_tree_names_every_branch() {
        let text =
            "pub(crate) use a::{b, c::{self, d as e}, f::*}; use g as h; fn f(x: i::J<'_, k::L>) -> char { '\"' }";
        assert_eq!(paths(&read(text, &["m"])), ["a::b", "a::c", "a::c::d", "a::f::*", "g", "i::J", "k::L"]);
    }

    #[test]
    fn strings_and_comments_name_nothing() {
        let text = r##"/* a::b /* c::d */ e::f */ const A: &str = "g::h \" i::j"; // k::l
            const B: &str = r#"m::n "o::p" "#; const C: char = '\''; q::r!();"##;
        assert_eq!(paths(&read(text, &["m"])), ["q::r"]);
    }

    #[test]
    fn modules_and_tests_are_known() {
        let text = "#[cfg(test)]\n#[path = \"a/tests.rs\"]\nmod tests; mod b; #[cfg(test)] mod c { use d::E; }";
        let source = read(text, &["m"]);
        let module = |name: &str, path: Option<&str>, is_tests| Module {
            name: name.to_owned(),
            path: path.map(str::to_owned),
            is_tests,
        };
        assert_eq!(source.modules, [module("tests", Some("a/tests.rs"), true), module("b", None, false)]);
        assert!(source.named[0].in_tests && source.named[0].module == ["m", "c"]);
    }

    #[test]
    fn self_and_super_are_resolved() {
        let text = "use super::super::d::E; use self::f::G; mod c { use super::super::H; fn i() { super::j::k() } }";
        let expected = ["crate::d::E", "crate::a::b::f::G", "crate::a::H", "crate::a::b::j::k"];
        assert_eq!(paths(&read(text, &["a", "b"])), expected);
    }
}
