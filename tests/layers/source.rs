//! Just enough of Rust to know what a file names: no expressions, no types, only paths and modules.

/// What is of interest in a file.
#[derive(Debug, Default)]
pub struct Source {
    pub named: Vec<Named>,
    /// Modules in files of their own.
    pub modules: Vec<Module>,
}

/// A path that is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub path: Vec<String>,
    pub in_tests: bool,
    /// By `use`.
    pub imported: bool,
}

/// A module in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    pub name: String,
    /// `#[path = "…"]`.
    pub path: Option<String>,
    pub is_tests: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    /// `::`
    Path,
    Mark(char),
}

impl Source {
    /// Reads a file. `depth` is how many modules it is below the crate's root; so `super` can be followed to there.
    pub fn read(text: &str, depth: usize, is_tests: bool) -> Self {
        let mut reader = Reader { tokens: tokens(text), at: 0, depth, source: Self::default() };
        reader.items(is_tests);
        reader.source
    }
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    source: Source,
}

impl Reader {
    /// Everything up to the end, or to the brace that closes what is open.
    fn items(&mut self, in_tests: bool) {
        let (mut marked, mut path) = (false, None);
        while let Some(token) = self.next() {
            match token {
                Token::Mark('}') => return,
                Token::Mark('{') => self.items(in_tests || marked),
                Token::Mark('#') => self.attribute(&mut marked, &mut path),
                Token::Word(word) if word == "use" => self.tree(&mut Vec::new(), in_tests || marked),
                Token::Word(word) if word == "mod" => self.module(path.take(), in_tests || marked),
                Token::Word(word) => {
                    if self.peek() == Some(&Token::Path) {
                        self.inline(word, in_tests || marked);
                    }
                    continue;
                }
                Token::Mark(';') => {}
                Token::Mark(_) | Token::Path | Token::Text(_) => continue,
            }
            if !matches!(self.tokens.get(self.at - 1), Some(Token::Mark(']'))) {
                (marked, path) = (false, None);
            }
        }
    }

    fn attribute(&mut self, is_tests: &mut bool, path: &mut Option<String>) {
        let mut words = Vec::new();
        while let Some(token) = self.next() {
            match token {
                Token::Mark(']') => break,
                Token::Word(word) => words.push(word),
                Token::Text(text) if words.first().is_some_and(|word| word == "path") => *path = Some(text),
                _ => {}
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        *is_tests |=
            words.starts_with(&["cfg", "test"]) || words == ["cfg", "any", "test", "fuzzing"] || words == ["test"];
    }

    fn module(&mut self, path: Option<String>, is_tests: bool) {
        let Some(Token::Word(name)) = self.next() else { return };
        match self.next() {
            Some(Token::Mark('{')) => {
                self.depth += 1;
                self.items(is_tests);
                self.depth -= 1;
            }
            _ => self.source.modules.push(Module { name, path, is_tests }),
        }
    }

    /// One branch of what `use` names, up to its comma or the end of all.
    fn tree(&mut self, stem: &mut Vec<String>, in_tests: bool) {
        let length = stem.len();
        loop {
            match self.next() {
                Some(Token::Word(word)) if word == "as" => {
                    self.next();
                }
                Some(Token::Word(word)) if word == "self" && length > 0 => {}
                Some(Token::Word(word)) => stem.push(word),
                Some(Token::Mark('*')) => stem.push("*".to_owned()),
                Some(Token::Path) => {}
                Some(Token::Mark('{')) => {
                    while self.peek().is_some_and(|token| *token != Token::Mark('}')) {
                        self.tree(stem, in_tests);
                        if self.peek() == Some(&Token::Mark(',')) {
                            self.next();
                        }
                    }
                    self.next();
                    stem.truncate(length);
                    return;
                }
                _ => break,
            }
            if matches!(self.peek(), Some(Token::Mark(',' | '}' | ';')) | None) {
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
        while self.peek() == Some(&Token::Path)
            && let Some(Token::Word(word)) = self.tokens.get(self.at + 1).cloned()
        {
            self.at += 2;
            path.push(word);
        }
        self.name(path, in_tests, false);
    }

    /// A path from `super` that leaves the room is one from `crate`.
    fn name(&mut self, mut path: Vec<String>, in_tests: bool, imported: bool) {
        let ups = path.iter().take_while(|word| *word == "super").count();
        if ups > 0 && ups >= self.depth && path.len() > ups {
            path.splice(..ups, ["crate".to_owned()]);
        }
        self.source.named.push(Named { path, in_tests, imported });
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned()
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment(rest)
        } else if let Some(length) = raw_text(rest) {
            length
        } else if first == '"' {
            let length = quoted(rest);
            tokens.push(Token::Text(rest[1..length - 1].to_owned()));
            length
        } else if first == '\'' {
            letter(rest)
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..length].to_owned()));
            length
        } else if rest.starts_with("::") {
            tokens.push(Token::Path);
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Mark(first));
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// The length of a block comment, which may hold others.
fn comment(text: &str) -> usize {
    let (mut open, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (open, at) = (open + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (open, at) = (open - 1, at + 2);
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
        if open == 0 {
            break;
        }
    }
    at
}

/// The length of `r"…"`, `r#"…"#`, with or without `b`.
fn raw_text(text: &str) -> Option<usize> {
    let raw = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    let body = raw[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end)? + end.len();
    Some(text.len() - body.len() + length)
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a letter in quotes; of the quote alone, where it begins a lifetime.
fn letter(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    match (letters.next(), letters.next()) {
        (Some((_, '\\')), _) => text[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 3),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        Source::read(text, 1, false).named.into_iter().map(|named| named.path.join("::")).collect()
    }

    #[test]
    fn every_branch_of_a_use_is_named() {
        let text =
            "pub(crate) use a::{b, c::{self, d as e}, f::*}; use g as h; fn f(x: i::J<'_, k::L>) -> char { '\"' }";
        assert_eq!(paths(text), ["a::b", "a::c", "a::c::d", "a::f::*", "g", "i::J", "k::L"]);
    }

    #[test]
    fn words_in_texts_and_comments_are_not_named() {
        let text = r##"/* a::b /* c::d */ e::f */ const A: &str = "g::h \" i::j"; // k::l
            const B: &str = r#"m::n "o::p" "#; const C: char = '\''; q::r!();"##;
        assert_eq!(paths(text), ["q::r"]);
    }

    #[test]
    fn modules_tests_and_ways_up_are_known() {
        let text =
            "#[cfg(test)]\n#[path = \"a/tests.rs\"]\nmod tests; mod b; #[cfg(test)] mod c { use super::super::d::E; }";
        let source = Source::read(text, 2, false);
        let module = |name: &str, path: Option<&str>, is_tests| Module {
            name: name.to_owned(),
            path: path.map(str::to_owned),
            is_tests,
        };
        assert_eq!(source.modules, [module("tests", Some("a/tests.rs"), true), module("b", None, false)]);
        let up = source.named[0].clone();
        assert!(up.in_tests && up.path == ["super", "super", "d", "E"], "three modules deep, two up: {up:?}");
        let out = Source::read("use super::super::d::E;", 2, false);
        assert_eq!(out.named[0].path, ["crate", "d", "E"]);
    }
}
