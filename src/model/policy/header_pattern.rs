//! Regular expressions for header values: the part of the language that means the same to all clients.
//!
//! C++, Python, Ruby, PHP, Node and Envoy match with RE2, Go and Rust with libraries like it, Java with `java.util.regex`. A pattern
//! matches the whole value, and values are printable ASCII. The permitted expressions are:
//!
//! | expression | matches |
//! |---|---|
//! | letters, digits, space and the other ASCII characters without a meaning | themselves |
//! | `\.` and other punctuation after `\`, except `\<`, `\>` and `\_` | the punctuation |
//! | `.` | any character |
//! | `\d` `\D` `\w` `\W` `\s` `\S` | the usual classes |
//! | `[a-z0-9_]`, `[^,]` | classes of characters, of ranges and of the classes above |
//! | `(…)`, `(?:…)`, `(…\|…)` | groups, and alternatives in groups, none of which is empty |
//! | `*` `+` `?` `{2}` `{2,}` `{2,5}` | repetitions of the expression before; at most 100 when nested ones are multiplied |
//! | `^` `$` | start and end, which a match of the whole value has anyway |
//!
//! Not permitted are, among others: lazy and possessive repetitions, flags such as `(?i)`, named groups, look-around,
//! back-references, `\b`, `\p{…}`, `\Q…\E`, POSIX classes, nested classes and their operations (`&&`, `--`, `~~`). Alternatives need a
//! group, because Node puts `^` before the pattern and `$` after it, which in `a|b` belong to one alternative each.

/// Maximum length of a pattern in bytes.
const MAX_PATTERN_BYTES: usize = 128;
/// Maximum number of copies of an expression that nested counted repetitions make.
const MAX_REPEATS: u32 = 100;
/// Maximum size of a compiled pattern in bytes.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// Problem of a pattern and its remedy.
type PatternProblem = (String, String);

/// Validates a pattern.
pub(super) fn validate(pattern: &str) -> Result<(), PatternProblem> {
    if pattern.is_empty() {
        return Err(("has no pattern".to_owned(), "write a regular expression after ~".to_owned()));
    }
    if pattern.len() > MAX_PATTERN_BYTES {
        let problem = format!("has a pattern of {} bytes", pattern.len());
        return Err((problem, format!("shorten it to {MAX_PATTERN_BYTES} bytes")));
    }
    if let Some(other) = pattern.chars().find(|letter| !(' '..='~').contains(letter)) {
        let problem = format!("has {other:?}, which no value of a header has");
        return Err((problem, "use printable ASCII characters".to_owned()));
    }
    let mut parser = PatternParser { pattern: pattern.as_bytes(), at: 0 };
    parser.sequence()?;
    match parser.peek() {
        None => {}
        Some(b'|') => return Err(parser.error("alternatives without a group", "write (a|b)")),
        Some(_) => return Err(parser.error("a ) without a (", "write \\) for the character")),
    }
    compile(pattern).map(drop).map_err(|_| ("has a pattern that is too large".to_owned(), "repeat less".to_owned()))
}

/// Compiles a pattern to one that matches whole values.
pub(super) fn compile(pattern: &str) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(MAX_COMPILED_BYTES).build()
}

/// Parser that accepts the permitted expressions only. Its functions return the number of copies that repetitions make.
struct PatternParser<'a> {
    pattern: &'a [u8],
    at: usize,
}

impl PatternParser<'_> {
    fn peek(&self) -> Option<u8> {
        self.pattern.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn error(&self, found: &str, hint: &str) -> PatternProblem {
        let problem = format!("has {found} at column {} of the pattern", self.at + 1);
        (problem, hint.to_owned())
    }

    fn alternatives(&mut self) -> Result<u32, PatternProblem> {
        let mut repeats = self.sequence()?;
        while self.take(b'|') {
            repeats = repeats.max(self.sequence()?);
        }
        Ok(repeats)
    }

    fn sequence(&mut self) -> Result<u32, PatternProblem> {
        let (start, mut repeats) = (self.at, 1);
        while let Some(next) = self.peek().filter(|next| !b"|)".contains(next)) {
            let anchor = b"^$".contains(&next);
            let inner = self.expression(next)?;
            if anchor && self.peek().is_some_and(|next| b"*+?{".contains(&next)) {
                return Err(self.error("a repetition of an anchor", "write the anchor alone"));
            }
            repeats = repeats.max(self.repetition(inner)?);
        }
        if self.at == start {
            return Err(self.error("an empty alternative", "write (…)? for an optional part"));
        }
        Ok(repeats)
    }

    fn expression(&mut self, first: u8) -> Result<u32, PatternProblem> {
        match first {
            b'(' => return self.group(),
            b'[' => self.class()?,
            b'\\' => self.escape()?,
            b'*' | b'+' | b'?' => return Err(self.error("a repetition of nothing", "write \\ before the character")),
            b'{' | b'}' | b']' => {
                return Err(self.error("a bracket without its counterpart", "write \\ before the character"));
            }
            _ => self.at += 1,
        }
        Ok(1)
    }

    fn group(&mut self) -> Result<u32, PatternProblem> {
        if self.pattern[self.at..].starts_with(b"(?") && !self.pattern[self.at..].starts_with(b"(?:") {
            return Err(self.error("a special group", "write (…) or (?:…)"));
        }
        self.at += if self.pattern[self.at..].starts_with(b"(?:") { 3 } else { 1 };
        let repeats = self.alternatives()?;
        if self.take(b')') { Ok(repeats) } else { Err(self.error("the end of a group without )", "write )")) }
    }

    fn repetition(&mut self, inner: u32) -> Result<u32, PatternProblem> {
        let mut copies = 1;
        if self.take(b'{') {
            copies = self.count()?;
        } else if !(self.take(b'*') || self.take(b'+') || self.take(b'?')) {
            return Ok(inner);
        }
        if self.peek().is_some_and(|next| b"*+?{".contains(&next)) {
            return Err(self.error("a repetition of a repetition", "write one"));
        }
        match inner.checked_mul(copies.max(1)) {
            Some(repeats) if repeats <= MAX_REPEATS => Ok(repeats),
            _ => Err(self.error("more than 100 repetitions", "repeat less, or write * or +")),
        }
    }

    /// Parses a count after its `{`, and returns its larger number.
    fn count(&mut self) -> Result<u32, PatternProblem> {
        let min = self.number();
        let max = if self.take(b',') && self.peek() != Some(b'}') { self.number() } else { min };
        match (min, max) {
            (Some(min), Some(max)) if min <= max && self.take(b'}') => Ok(max),
            _ => Err(self.error("an invalid count", "write {2}, {2,} or {2,5}, or \\{ for the character")),
        }
    }

    fn number(&mut self) -> Option<u32> {
        let start = self.at;
        while self.peek().is_some_and(|next| next.is_ascii_digit()) {
            self.at += 1;
        }
        std::str::from_utf8(&self.pattern[start..self.at]).ok()?.parse().ok()
    }

    fn escape(&mut self) -> Result<(), PatternProblem> {
        match self.pattern.get(self.at + 1) {
            Some(b'd' | b'D' | b'w' | b'W' | b's' | b'S') => {}
            Some(next) if next.is_ascii_punctuation() && !b"<>_".contains(next) => {}
            Some(_) | None => {
                let hint = "write \\d, \\w, \\s, \\D, \\W or \\S, or \\ before punctuation";
                return Err(self.error("an escape", hint));
            }
        }
        self.at += 2;
        Ok(())
    }

    fn class(&mut self) -> Result<(), PatternProblem> {
        self.at += 1;
        self.take(b'^');
        let start = self.at;
        while let Some(next) = self.peek() {
            if next == b']' && self.at > start {
                self.at += 1;
                return Ok(());
            }
            let from = self.class_item(start)?;
            // Two hyphens are the end of a range to some clients, and an operation on classes to others.
            if self.pattern[self.at - 1..].starts_with(b"--") || self.pattern[self.at..].starts_with(b"--") {
                return Err(self.error("a hyphen in a class", "write \\- for the character"));
            }
            let is_range = self.peek() == Some(b'-') && self.pattern.get(self.at + 1).is_some_and(|next| *next != b']');
            if !is_range {
                continue;
            }
            self.at += 1;
            let to = self.class_item(start)?;
            if !matches!((from, to), (Some(from), Some(to)) if from <= to) {
                return Err(self.error("an invalid range", "write the smaller character first, or \\- for a hyphen"));
            }
        }
        Err(self.error("the end of a class without ]", "write ]"))
    }

    /// Parses an item of a class, and returns the character that it stands for, if it is one.
    fn class_item(&mut self, start: usize) -> Result<Option<u8>, PatternProblem> {
        let Some(next) = self.peek() else { return Ok(None) };
        match next {
            b'\\' => {
                let escaped = self.pattern.get(self.at + 1).copied();
                self.escape()?;
                return Ok(escaped.filter(u8::is_ascii_punctuation));
            }
            b'-' if self.at != start && self.pattern.get(self.at + 1) != Some(&b']') => {
                return Err(self.error("a hyphen in a class", "write \\- for the character"));
            }
            b'[' | b']' | b'&' | b'~' | b'^' => {
                return Err(self.error("an operator in a class", "write \\ before the character"));
            }
            _ => self.at += 1,
        }
        Ok(Some(next))
    }
}
