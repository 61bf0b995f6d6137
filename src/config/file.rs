//! The configuration file: a flat TOML table of [`SettingKey`]s.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::key::{SettingKey, SettingOrigin};
use super::raw_settings::RawSettings;

/// How alike a key must be to be what somebody meant.
const ALIKE: f64 = 0.8;

/// Reads `text`, which is what `path` has in it.
pub(super) fn parse(path: &Path, text: &str) -> Result<RawSettings, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line(text, error.span().map_or(0, |span| span.start)),
        problem: error.message().lines().collect::<Vec<_>>().join(", "),
    })?;
    let mut written = RawSettings::default();
    // By place, not by name: the first mistake in the file is the one to be told of.
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in entries {
        let origin = SettingOrigin::File {
            path: path.to_owned(),
            line: line(text, name.span().start),
            key: name.get_ref().to_string(),
        };
        let Some(key) = SettingKey::in_file().find(|key| key.name() == name.get_ref()) else {
            return Err(ConfigError::UnknownKey { origin, remedy: remedy(name.get_ref()) });
        };
        // As it stands in the file, so that whoever refuses it quotes what its author wrote.
        let text = match value.get_ref() {
            DeValue::String(value) => value.to_string(),
            DeValue::Integer(value) if value.radix() == 10 => value.as_str().to_owned(),
            DeValue::Boolean(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => text.get(value.span()).unwrap_or_default().to_owned(),
        };
        written.put(key, text, origin);
    }
    Ok(written)
}

/// The line, counted from 1, of the byte at `offset`.
fn line(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// What whoever wrote `unknown` should write.
fn remedy(unknown: &str) -> String {
    let nearest = SettingKey::in_file()
        .map(|key| (strsim::jaro_winkler(unknown, key.name()), key.name()))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    match nearest {
        Some((_, key)) => format!("write {key}"),
        None => format!("known are {}", SettingKey::in_file().map(SettingKey::name).collect::<Vec<_>>().join(", ")),
    }
}
