//! Types of the values of selectors.

use std::fmt;

/// Type of the values of a selector. It decides which operators fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectorKind {
    /// Text: `==`, `!=`, `in` and `contains` for a part of it, `is empty`, `matches`.
    Text,
    /// Whole number: `==` and `!=`.
    Number,
    /// Boolean: `==` and `!=`.
    Boolean,
    /// List of texts: `in` and `contains` for an element, `is empty`.
    List,
    /// Map with text keys: `in` and `contains` for a key, `is empty`. Its values have selectors of their own.
    Map,
    /// List of records: `is empty`. Their fields have selectors of their own.
    Records,
}

impl SelectorKind {
    /// Operators that fit, for error messages.
    pub(super) fn operators(self) -> &'static str {
        match self {
            Self::Text => "`==`, `!=`, `in`, `contains`, `is empty` or `matches`",
            Self::Number | Self::Boolean => "`==` or `!=`",
            Self::List | Self::Map => "`in`, `contains` or `is empty`",
            Self::Records => "`is empty`",
        }
    }

    /// Example of a value, for error messages.
    pub(super) fn example(self) -> &'static str {
        match self {
            Self::Number => "one such as `80`",
            Self::Boolean => "`true` or `false`",
            Self::Text | Self::List | Self::Map | Self::Records => "a text in quotes",
        }
    }
}

impl fmt::Display for SelectorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Number => "whole number",
            Self::Boolean => "boolean",
            Self::List => "list of texts",
            Self::Map => "map",
            Self::Records => "list of records",
        })
    }
}
