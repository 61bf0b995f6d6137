//! Reader of a table of a document. Its errors name the place of a field in the document.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    PolicyName,
    document::{DocumentTable, DocumentValue, whole},
};
use crate::model::FieldError;

/// Similarity from which on a name is suggested.
const MIN_SIMILARITY: f64 = 0.8;
/// Maximum length of a name in the place of a field, in characters.
const MAX_NAME_CHARS: usize = 64;

/// Range of a duration.
#[derive(Debug)]
pub(super) struct DurationRange {
    /// Set if zero is valid, too.
    pub(super) or_zero: bool,
    pub(super) min: Duration,
    pub(super) max: Duration,
}

impl DurationRange {
    fn hint(&self) -> String {
        let zero = if self.or_zero { "\"0s\", or " } else { "" };
        let [min, max] = [self.min, self.max].map(humantime::format_duration);
        format!("write {zero}\"{min}\" to \"{max}\" in whole milliseconds, such as \"5s\"")
    }
}

/// Table of a document with its place.
#[derive(Debug, Clone)]
pub(super) struct TableReader<'a> {
    /// Place with a dot after it; empty for the document itself.
    prefix: String,
    table: &'a DocumentTable,
}

impl<'a> TableReader<'a> {
    /// A reader of a whole document.
    pub(super) fn of_document(table: &'a DocumentTable) -> Self {
        Self { prefix: String::new(), table }
    }

    /// Place of a field of the table in the document: `route[2].timeout`. Names that are not plain are quoted and shortened.
    pub(super) fn place(&self, name: &str) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if (1..=MAX_NAME_CHARS).contains(&name.len()) && name.bytes().all(plain) {
            format!("{}{name}", self.prefix)
        } else {
            let short: String = name.chars().take(MAX_NAME_CHARS).collect();
            format!("{}{short:?}", self.prefix)
        }
    }

    /// Names in the table.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.table.keys().map(String::as_str)
    }

    /// Returns an error if the table has other fields than these.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), FieldError> {
        let Some(unknown) = self.names().find(|name| !known.contains(name)) else { return Ok(()) };
        let hint = match nearest(unknown, known.iter().copied()) {
            Some(name) => format!("write {name}"),
            None => format!("the fields are {}", known.join(", ")),
        };
        Err(FieldError::without_value(self.place(unknown), "is not a field of a policy", hint))
    }

    /// Returns an error that shows the value of a field.
    pub(super) fn error(&self, name: &str, problem: impl Into<String>, hint: impl Into<String>) -> FieldError {
        let (place, problem, hint) = (self.place(name), problem.into(), hint.into());
        match self.table.get(name).and_then(DocumentValue::shown) {
            Some(value) => FieldError::new(place, &value, problem, hint),
            None => FieldError::without_value(place, problem, hint),
        }
    }

    fn wrong_kind(&self, name: &str, value: &DocumentValue, expected: &str, hint: impl Into<String>) -> FieldError {
        if *value == DocumentValue::Null {
            return self.error(name, "is no value", "leave the field out, or give it a value");
        }
        self.error(name, format!("is {}, not {expected}", value.kind()), hint)
    }

    /// Returns a text. `hint`: what to write.
    pub(super) fn text(&self, name: &str, hint: &str) -> Result<Option<&'a str>, FieldError> {
        match self.table.get(name) {
            None => Ok(None),
            Some(DocumentValue::Text(text)) => Ok(Some(text)),
            Some(value) => Err(self.wrong_kind(name, value, "a text", hint)),
        }
    }

    /// Returns a value that is one of several names.
    pub(super) fn choice<T: PolicyName>(&self, name: &str) -> Result<Option<T>, FieldError> {
        let names = || T::ALL.iter().map(|choice| choice.as_str());
        let all = || format!("write one of {}", names().collect::<Vec<_>>().join(", "));
        let Some(text) = self.text(name, &all())? else { return Ok(None) };
        let found = T::ALL.iter().find(|choice| choice.as_str() == text);
        found.copied().map(Some).ok_or_else(|| {
            let hint = nearest(text, names()).map_or_else(all, |name| format!("write {name}"));
            self.error(name, "is not a value of this field", hint)
        })
    }

    /// Returns whether a field is the number 0.
    pub(super) fn is_zero(&self, name: &str) -> bool {
        self.table.get(name) == Some(&DocumentValue::Number(0.0))
    }

    /// Returns a whole number within a range.
    pub(super) fn whole(&self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, FieldError> {
        let Some(value) = self.table.get(name) else { return Ok(None) };
        let hint = format!("write {} to {}", range.start(), range.end());
        let DocumentValue::Number(number) = *value else {
            return Err(self.wrong_kind(name, value, "a number", hint));
        };
        if number.fract() != 0.0 {
            return Err(self.error(name, "is not a whole number", hint));
        }
        let number = whole(number).and_then(|number| u32::try_from(number).ok());
        number
            .filter(|number| range.contains(number))
            .map(Some)
            .ok_or_else(|| self.error(name, "is out of range", hint))
    }

    /// Returns a whole number within a range of at most 100.
    pub(super) fn percent(&self, name: &str, range: RangeInclusive<u8>) -> Result<Option<u8>, FieldError> {
        let number = self.whole(name, u32::from(*range.start())..=u32::from(*range.end()))?;
        Ok(number.and_then(|number| u8::try_from(number).ok()))
    }

    /// Returns a duration within a range.
    pub(super) fn duration(&self, name: &str, range: &DurationRange) -> Result<Option<Duration>, FieldError> {
        let Some(text) = self.text(name, &range.hint())? else { return Ok(None) };
        let Ok(duration) = humantime::parse_duration(text) else {
            return Err(self.error(name, "is not a duration", range.hint()));
        };
        if duration.subsec_nanos() % 1_000_000 != 0 {
            return Err(self.error(name, "has a fraction of a millisecond", range.hint()));
        }
        if !(duration.is_zero() && range.or_zero || (range.min..=range.max).contains(&duration)) {
            return Err(self.error(name, "is out of range", range.hint()));
        }
        Ok(Some(duration))
    }

    /// Returns the places and the values of a list. `hint`: what to write.
    pub(super) fn list(&self, name: &str, hint: &str) -> Result<Option<ListReader<'a>>, FieldError> {
        match self.table.get(name) {
            None => Ok(None),
            Some(DocumentValue::List(items)) => Ok(Some(ListReader { place: self.place(name), items })),
            Some(value) => Err(self.wrong_kind(name, value, "a list", hint)),
        }
    }

    /// Returns a table. `hint`: what to write.
    pub(super) fn table(&self, name: &str, hint: &str) -> Result<Option<Self>, FieldError> {
        match self.table.get(name) {
            None => Ok(None),
            Some(DocumentValue::Table(table)) => Ok(Some(Self { prefix: format!("{}.", self.place(name)), table })),
            Some(value) => Err(self.wrong_kind(name, value, "a table", hint)),
        }
    }
}

/// List of a document with its place.
#[derive(Debug)]
pub(super) struct ListReader<'a> {
    place: String,
    items: &'a [DocumentValue],
}

impl<'a> ListReader<'a> {
    /// Number of items.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Returns an error about the list.
    pub(super) fn error(&self, problem: impl Into<String>, hint: impl Into<String>) -> FieldError {
        FieldError::without_value(self.place.clone(), problem.into(), hint.into())
    }

    /// Iterates over the items, which must be texts, with their places.
    pub(super) fn texts(&self, hint: &'static str) -> impl Iterator<Item = Result<(String, &'a str), FieldError>> {
        self.items.iter().enumerate().map(move |(at, item)| match item {
            DocumentValue::Text(text) => Ok((self.place_of(at), text.as_str())),
            other => Err(self.wrong_item(at, other, "a text", hint)),
        })
    }

    /// Iterates over the items, which must be tables.
    pub(super) fn tables(&self, hint: &'static str) -> impl Iterator<Item = Result<TableReader<'a>, FieldError>> {
        self.items.iter().enumerate().map(move |(at, item)| match item {
            DocumentValue::Table(table) => Ok(TableReader { prefix: format!("{}.", self.place_of(at)), table }),
            other => Err(self.wrong_item(at, other, "a table", hint)),
        })
    }

    /// Place of an item: `route[2]`.
    pub(super) fn place_of(&self, at: usize) -> String {
        format!("{}[{at}]", self.place)
    }

    fn wrong_item(&self, at: usize, item: &DocumentValue, expected: &str, hint: &'static str) -> FieldError {
        let problem = format!("is {}, not {expected}", item.kind());
        match item.shown() {
            Some(value) => FieldError::new(self.place_of(at), &value, problem, hint),
            None => FieldError::without_value(self.place_of(at), problem, hint),
        }
    }
}

/// Returns the name that was probably meant.
pub(super) fn nearest<'n>(unknown: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if unknown.len() > MAX_NAME_CHARS {
        return None;
    }
    let similar = names.map(|name| (strsim::jaro_winkler(unknown, name), name));
    let similar = similar.filter(|(similarity, _)| *similarity >= MIN_SIMILARITY);
    similar.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, name)| name)
}
