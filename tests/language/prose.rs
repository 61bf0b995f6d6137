//! Extracts the prose of a file: comments and strings of Rust, comments of the other languages, the text of Markdown.

use crate::lexer::{Token, TokenKind, lex};

/// A line of prose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prose {
    /// Line in the file, counted from 1.
    pub line: usize,
    pub kind: ProseKind,
    pub text: String,
}

/// Kind of a line of prose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProseKind {
    /// First line of a doc comment.
    DocOpening,
    /// Everything else.
    Other,
}

/// Strings of one word, or shorter than this, are data rather than prose.
const SHORTEST_STRING: usize = 12;

/// Returns the prose of a file, by the ending of its name.
pub fn prose(file: &str, text: &str) -> Vec<Prose> {
    match file.rsplit_once('.').map(|(_, ending)| ending) {
        Some("rs") => rust(&lex(text)),
        Some("proto") => proto(text),
        Some("md") => markdown(text),
        _ => hash_comments(text),
    }
}

/// Returns the names in a Rust file with the lines on which they are.
pub fn names(text: &str) -> Vec<(usize, String)> {
    let words = lex(text).into_iter().filter(|token| token.kind == TokenKind::Word);
    words.map(|token| (token.line, token.text)).collect()
}

fn rust(tokens: &[Token]) -> Vec<Prose> {
    let mut found: Vec<Prose> = Vec::new();
    // Line and opening of the latest doc comment: one that goes on there has no opening of its own.
    let mut doc = (0, "");
    for token in tokens {
        match token.kind {
            TokenKind::Comment => {
                let text = &*token.text;
                let marker = ["////", "///", "//!", "/**", "/*!"].into_iter().find(|marker| text.starts_with(marker));
                let marker = marker.filter(|marker| *marker != "////" && text != "/**/");
                for (number, line) in text.lines().enumerate() {
                    let at = token.line + number;
                    let opens = number == 0 && marker.is_some_and(|marker| doc != (at - 1, marker));
                    let kind = if opens { ProseKind::DocOpening } else { ProseKind::Other };
                    let line = line.trim().trim_start_matches(['/', '*', '!']).trim_end_matches("*/").trim();
                    found.push(Prose { line: at, kind, text: line.to_owned() });
                }
                if let Some(marker) = marker {
                    doc = (token.line, marker);
                }
            }
            TokenKind::Str if token.text.contains(' ') && token.text.len() > SHORTEST_STRING => {
                for (number, line) in token.text.lines().enumerate() {
                    found.push(Prose { line: token.line + number, kind: ProseKind::Other, text: line.to_owned() });
                }
            }
            _ => {}
        }
    }
    found
}

fn proto(text: &str) -> Vec<Prose> {
    let mut found = Vec::new();
    let mut in_comment = false;
    for (number, line) in text.lines().enumerate() {
        let comment = line.trim_start().strip_prefix("//");
        if let Some(comment) = comment {
            let kind = if in_comment { ProseKind::Other } else { ProseKind::DocOpening };
            found.push(Prose { line: number + 1, kind, text: comment.trim().to_owned() });
        }
        in_comment = comment.is_some();
    }
    found
}

fn markdown(text: &str) -> Vec<Prose> {
    let mut in_code = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code && !line.trim().is_empty() {
            found.push(Prose { line: number + 1, kind: ProseKind::Other, text: line.to_owned() });
        }
    }
    found
}

fn hash_comments(text: &str) -> Vec<Prose> {
    let comments = text.lines().enumerate().filter_map(|(number, line)| {
        let comment =
            line.trim_start().strip_prefix('#').or_else(|| line.split_once(" # ").map(|(_, comment)| comment));
        Some(Prose { line: number + 1, kind: ProseKind::Other, text: comment?.trim().to_owned() })
    });
    comments.collect()
}

mod tests {
    use super::{ProseKind, prose};

    fn read(file: &str, text: &str) -> Vec<(usize, bool, String)> {
        let lines = prose(file, text).into_iter();
        lines.map(|line| (line.line, line.kind == ProseKind::DocOpening, line.text)).collect()
    }

    fn line(number: usize, opens: bool, text: &str) -> (usize, bool, String) {
        (number, opens, text.to_owned())
    }

    #[test]
    fn prose_of_rust_is_its_comments_and_long_strings() {
        let text = "//! A module.\n//! It has two lines.\n\n/// A type.\n#[derive(Debug)]\n/// Still opens one.\nstruct A; // why\n\
            const B: &str = r#\"a string // of words\"#;\n/* a block /* in a block */\nof two lines */ const C: &str = \"short\";";
        let expected = [
            line(1, true, "A module."),
            line(2, false, "It has two lines."),
            line(4, true, "A type."),
            line(6, true, "Still opens one."),
            line(7, false, "why"),
            line(8, false, "a string // of words"),
            line(9, false, "a block /* in a block"),
            line(10, false, "of two lines"),
        ];
        assert_eq!(read("a.rs", text), expected);
    }

    #[test]
    fn prose_of_other_files_is_their_comments_or_text() {
        let proto = "// A service.\n// Its second line.\nservice A {\n  // A method.\n  rpc B(C) returns (D);\n}";
        let expected = [line(1, true, "A service."), line(2, false, "Its second line."), line(4, true, "A method.")];
        assert_eq!(read("a.proto", proto), expected);
        let markdown = "# Title\n\n```sh\n# not prose\n```\nText.";
        assert_eq!(read("a.md", markdown), [line(1, false, "# Title"), line(6, false, "Text.")]);
        let shell = "# why\nrun this # and this\necho '#'";
        assert_eq!(read("run", shell), [line(1, false, "why"), line(2, false, "and this")]);
    }
}
