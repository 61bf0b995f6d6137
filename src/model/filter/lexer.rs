//! Lexer of filters. The parser decides by its position whether a word is an operator.

use std::ops::Range;

use winnow::ascii::{digit0, digit1, multispace0};
use winnow::combinator::{alt, delimited, dispatch, empty, eof, fail, not, opt, peek, preceded, repeat, terminated};
use winnow::error::{ErrMode, ParserError};
use winnow::stream::{AsChar, Location, Stream};
use winnow::token::{any, one_of, take, take_till, take_while};
use winnow::{LocatingSlice, ModalResult, Parser};

use super::error::{FilterErrorAt, excerpt};

/// Token, with its range of bytes in the text.
#[derive(Debug)]
pub(super) struct FilterToken {
    pub(super) lexeme: Lexeme,
    pub(super) span: Range<usize>,
}

/// Kind and value of a token.
#[derive(Debug, Clone)]
pub(super) enum Lexeme {
    /// Names and keys: a selector, a bare value, or an operator in letters.
    Path(Vec<String>),
    /// Text in quotes or backticks.
    Text(String),
    /// Number, of which only the shape is validated.
    Number,
    /// Operator of punctuation, or a parenthesis.
    Symbol,
}

type Input<'a> = LocatingSlice<&'a str>;
type Lexed<T> = ModalResult<T, FilterErrorAt>;

/// Splits a text into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<FilterToken>, FilterErrorAt> {
    let token = lexeme.with_span().map(|(lexeme, span)| FilterToken { lexeme, span });
    let mut tokens = delimited(multispace0, repeat(0.., (token, multispace0).map(|(token, _)| token)), end);
    tokens.parse_next(&mut LocatingSlice::new(text)).map_err(|error| match error {
        ErrMode::Backtrack(error) | ErrMode::Cut(error) => error,
        // The input is complete, so winnow never requests more of it.
        ErrMode::Incomplete(_) => FilterErrorAt::syntax(text.len(), "the end of the filter", "more"),
    })
}

/// Accepts the end of the text; otherwise fails with the error of the next lexeme.
fn end(input: &mut Input<'_>) -> Lexed<()> {
    alt((eof.void(), lexeme.void())).parse_next(input)
}

fn lexeme(input: &mut Input<'_>) -> Lexed<Lexeme> {
    dispatch! { peek(any);
        '(' | ')' => any.value(Lexeme::Symbol),
        '=' => "==".value(Lexeme::Symbol),
        '!' => "!=".value(Lexeme::Symbol),
        '"' | '`' => text.map(Lexeme::Text),
        '-' | '0'..='9' => alt((terminated(number, boundary).value(Lexeme::Number), needs_quotes)),
        letter if letter.is_ascii_alphabetic() => alt((terminated(path, boundary).map(Lexeme::Path), needs_quotes)),
        _ => fail,
    }
    .parse_next(input)
}

/// Returns whether a character ends a bare word or number.
fn is_boundary(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '(' | ')' | '=' | '!')
}

fn boundary(input: &mut Input<'_>) -> Lexed<()> {
    peek(alt((eof.void(), one_of(is_boundary).void()))).parse_next(input)
}

/// Fails with a hint for a bare word with characters that need quotes: `eu-west`, `10.0.0.1`.
fn needs_quotes(input: &mut Input<'_>) -> Lexed<Lexeme> {
    let at = input.current_token_start();
    let word = take_till(1.., is_boundary).parse_next(input)?;
    Err(ErrMode::Cut(FilterErrorAt::syntax(
        at,
        format!("`{}`", excerpt(word)),
        "a name of letters, digits, `_` and `/` (quote any other value, and a map key as in name[\"key\"])",
    )))
}

/// Number: an optional `-`, digits without a leading zero, an optional fraction.
fn number(input: &mut Input<'_>) -> Lexed<()> {
    let integer = alt(('0'.void(), (one_of('1'..='9'), digit0).void()));
    (opt('-'), integer, opt(('.', digit1))).void().parse_next(input)
}

/// Names joined by dots, with keys in brackets.
fn path(input: &mut Input<'_>) -> Lexed<Vec<String>> {
    let first = name.map(str::to_owned);
    let further = alt((preceded('.', alt((name, digit1))).map(str::to_owned), key));
    (first, repeat(0.., further))
        .map(|(first, further): (String, Vec<String>)| {
            let mut path = vec![first];
            path.extend(further);
            path
        })
        .parse_next(input)
}

fn name<'a>(input: &mut Input<'a>) -> Lexed<&'a str> {
    (one_of(AsChar::is_alpha), take_while(0.., (AsChar::is_alphanum, '_', '/'))).take().parse_next(input)
}

/// Key in brackets and quotes: `["key"]`.
fn key(input: &mut Input<'_>) -> Lexed<String> {
    let at = input.current_token_start();
    '['.parse_next(input)?;
    match delimited(multispace0, text, (multispace0, ']')).parse_next(input) {
        Err(ErrMode::Backtrack(_)) => {
            Err(ErrMode::Cut(FilterErrorAt::syntax(at, "`[`", "a key in quotes and `]` after it, as in name[\"key\"]")))
        }
        parsed => parsed,
    }
}

/// Text in double quotes, with escapes, or in backticks, without escapes.
fn text(input: &mut Input<'_>) -> Lexed<String> {
    let at = input.current_token_start();
    let quote = one_of(['"', '`']).parse_next(input)?;
    let text = if quote == '"' {
        let plain = take_while(1.., |letter| letter != '"' && letter != '\\').map(str::to_owned);
        let fragments: Vec<String> = repeat(0.., alt((plain, escape.map(String::from)))).parse_next(input)?;
        fragments.concat()
    } else {
        take_till(0.., '`').parse_next(input)?.to_owned()
    };
    let closed: Lexed<char> = one_of(quote).parse_next(input);
    let expected = if quote == '"' { "a closing `\"` after it" } else { "a closing backtick after it" };
    closed.map(|_| text).map_err(|_| ErrMode::Cut(FilterErrorAt::syntax(at, "a text without an end", expected)))
}

/// Escape of Go for a character. Escapes for single bytes are invalid.
fn escape(input: &mut Input<'_>) -> Lexed<char> {
    let at = input.current_token_start();
    '\\'.parse_next(input)?;
    // At the end of the filter, the error of the missing quote is more helpful.
    not(eof).parse_next(input)?;
    let start = input.checkpoint();
    let escaped: Lexed<char> = dispatch! { any;
        '"' => empty.value('"'),
        '\\' => empty.value('\\'),
        'n' => empty.value('\n'),
        'r' => empty.value('\r'),
        't' => empty.value('\t'),
        'a' => empty.value('\u{7}'),
        'b' => empty.value('\u{8}'),
        'f' => empty.value('\u{c}'),
        'v' => empty.value('\u{b}'),
        'x' => hexadecimal(2).verify(char::is_ascii),
        'u' => hexadecimal(4),
        'U' => hexadecimal(8),
        _ => fail,
    }
    .parse_next(input);
    escaped.or_else(|_| {
        input.reset(&start);
        let letter: &str = take(1_usize).parse_next(input)?;
        Err(ErrMode::Cut(FilterErrorAt::syntax(
            at,
            format!("`\\{}`", excerpt(letter)),
            "an escape such as `\\n`, `\\\\` or `\\u00e9` (or put the text in backticks, which have no escapes)",
        )))
    })
}

/// Character with this number of hexadecimal digits.
fn hexadecimal<'a>(digits: usize) -> impl Parser<Input<'a>, char, ErrMode<FilterErrorAt>> {
    take_while(digits..=digits, AsChar::is_hex_digit)
        .verify_map(|code: &str| u32::from_str_radix(code, 16).ok().and_then(char::from_u32))
}

/// Error of a character that starts no token, with the token that was probably meant.
impl ParserError<Input<'_>> for FilterErrorAt {
    type Inner = Self;

    fn from_input(input: &Input<'_>) -> Self {
        let at = input.current_token_start();
        let Some(letter) = input.chars().next() else {
            return Self::syntax(at, "the end of the filter", "a clause");
        };
        let expected = match letter {
            '=' => "`==`",
            '!' => "`!=` or `not`",
            '&' => "`and`",
            '|' => "`or`",
            '<' | '>' => "`==` or `!=`, as values have no order",
            '\'' => "double quotes or backticks",
            _ => "a name, a number, or a text in double quotes or backticks",
        };
        Self::syntax(at, format!("`{}`", excerpt(letter.encode_utf8(&mut [0; 4]))), expected)
    }

    fn into_inner(self) -> Result<Self::Inner, Self> {
        Ok(self)
    }
}
