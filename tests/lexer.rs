//! Lexer of Rust for the tests that read the sources: words, paths, strings and comments, with their lines.

/// A token of a Rust file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    /// Text of the token; of a string or a character, what is between the quotes, escapes included; of a comment, all of it.
    pub text: String,
    /// Line of its first character, counted from 1.
    pub line: usize,
}

/// Kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Identifier, keyword or number.
    Word,
    /// String literal of any kind.
    Str,
    /// Character literal, or the quote that begins a lifetime.
    Char,
    /// Line comment, or block comment with the comments inside.
    Comment,
    /// `::`
    PathSeparator,
    /// Any other character.
    Punctuation,
}

impl Token {
    /// Returns whether this is that one character of punctuation.
    pub fn is(&self, mark: char) -> bool {
        self.kind == TokenKind::Punctuation && self.text.starts_with(mark)
    }

    /// Returns the word, if the token is one.
    pub fn word(&self) -> Option<&str> {
        (self.kind == TokenKind::Word).then_some(&*self.text)
    }
}

/// Splits a file into tokens; white space is left out.
pub fn lex(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let (kind, length, quotes) = next(rest, first);
        if !first.is_whitespace() {
            let text = rest[quotes.0..length - quotes.1].to_owned();
            tokens.push(Token { kind, text, line });
        }
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// Splits a file into the tokens before its unit tests, which are its last item, without comments.
pub fn lex_shipped(text: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = lex(text).into_iter().filter(|token| token.kind != TokenKind::Comment).collect();
    let tests = tokens.windows(3).position(|three| {
        let is_tests = three[1].word().is_some_and(|name| name.ends_with("tests"));
        three[0].word() == Some("mod") && is_tests && three[2].is('{')
    });
    tokens.truncate(tests.unwrap_or(tokens.len()));
    tokens
}

/// Returns the kind of the first token, its length in bytes, and the lengths of its opening and its closing quotes.
fn next(rest: &str, first: char) -> (TokenKind, usize, (usize, usize)) {
    if rest.starts_with("//") {
        (TokenKind::Comment, rest.find('\n').unwrap_or(rest.len()), (0, 0))
    } else if rest.starts_with("/*") {
        (TokenKind::Comment, block_comment(rest), (0, 0))
    } else if let Some((length, open, close)) = raw_string(rest) {
        (TokenKind::Str, length, (open, close))
    } else if first == '"' {
        let length = quoted(rest);
        (TokenKind::Str, length, (1, usize::from(length > 1 && rest[..length].ends_with('"'))))
    } else if first == '\'' {
        (TokenKind::Char, character(rest), (0, 0))
    } else if first.is_alphanumeric() || first == '_' {
        let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        (TokenKind::Word, length, (0, 0))
    } else if rest.starts_with("::") {
        (TokenKind::PathSeparator, 2, (0, 0))
    } else {
        (TokenKind::Punctuation, first.len_utf8(), (0, 0))
    }
}

/// Returns the length of a block comment, which may contain others.
fn block_comment(text: &str) -> usize {
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

/// Returns the length of `r"…"` or `r#"…"#`, with or without `b` or `c`, and those of its opening and its closing.
fn raw_string(text: &str) -> Option<(usize, usize, usize)> {
    let raw = ["br", "cr", "r"].iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    let body = raw[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close)?;
    let open = text.len() - body.len();
    Some((open + end + close.len(), open, close.len()))
}

/// Returns the length of a string literal, its quotes included.
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

/// Returns the length of a character literal, or of the quote alone where it begins a lifetime.
fn character(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    match (letters.next(), letters.next()) {
        (Some((_, '\\')), _) => text[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 3),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

mod tests {
    use super::{Token, TokenKind, lex, lex_shipped};

    #[test]
    fn lexer_stops_before_unit_tests() {
        let words = |text| lex_shipped(text).iter().filter_map(Token::word).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            words("mod a; // mod tests {\nmod tests; b!() #[cfg(test)] mod more_tests { c }"),
            ["mod", "a", "mod", "tests", "b", "cfg", "test"]
        );
    }

    #[test]
    fn lexer_reads_strings_comments_and_lines() {
        let text = "/* a /* b */ c */ d\n\"e \\\" f\" r#\"g \"h\" \n\"# 'i' '\\'' 'j k // l\nbr\"m\" n::o";
        let found: Vec<_> = lex(text).into_iter().map(|token| (token.kind, token.text, token.line)).collect();
        let expected = [
            (TokenKind::Comment, "/* a /* b */ c */", 1),
            (TokenKind::Word, "d", 1),
            (TokenKind::Str, "e \\\" f", 2),
            (TokenKind::Str, "g \"h\" \n", 2),
            (TokenKind::Char, "'i'", 3),
            (TokenKind::Char, "'\\''", 3),
            (TokenKind::Char, "'", 3),
            (TokenKind::Word, "j", 3),
            (TokenKind::Word, "k", 3),
            (TokenKind::Comment, "// l", 3),
            (TokenKind::Str, "m", 4),
            (TokenKind::Word, "n", 4),
            (TokenKind::PathSeparator, "::", 4),
            (TokenKind::Word, "o", 4),
        ];
        assert_eq!(found, expected.map(|(kind, text, line)| (kind, text.to_owned(), line)));
    }
}
