//! Tags and metadata of an instance.
//!
//! The native API has lower limits than the Consul API: `parse` applies those of the native API, and `parse_stored` those of the
//! Consul API and the store.

use std::collections::HashSet;

use super::FieldError;

/// Maximum number of tags in the native API, and of metadata entries in both APIs.
const MAX_LABELS: usize = 64;
/// Maximum number of stored tags.
const MAX_STORED_TAGS: usize = 1_024;
/// Maximum length of a tag in bytes. Programs for Consul put routing rules and encoded endpoints into tags.
const MAX_TAG_BYTES: usize = 4 * 1024;
/// Maximum length of all tags together in bytes.
const MAX_TAGS_BYTES: usize = 16 * 1024;
/// Maximum length of a metadata key in bytes.
const MAX_KEY_BYTES: usize = 128;
/// Maximum length of all metadata keys and values together in the native API, in bytes.
const MAX_METADATA_BYTES: usize = 8 * 1024;
/// Maximum length of stored metadata in bytes: 64 keys of 128 bytes with values of 512 bytes, as Consul allows them.
const MAX_STORED_METADATA_BYTES: usize = MAX_LABELS * (MAX_KEY_BYTES + 512);
/// Maximum number of tags that are compared one by one instead of hashed.
const MAX_COMPARED_TAGS: usize = 16;

/// Tags in the order given, without repetitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags(Box<[Box<str>]>);

impl Tags {
    /// Parses the tags of the native API. Drops repeated ones.
    ///
    /// # Errors
    ///
    /// When there are more than 64 tags or 16 KiB, or a tag is empty, longer than 4 KiB, or contains a control character.
    pub fn parse(given: &[impl AsRef<str>]) -> Result<Self, FieldError> {
        if let Some(at) = given.iter().position(|tag| tag.as_ref().is_empty()) {
            validate_text("tags", "", MAX_TAG_BYTES).map_err(|error| error.with_field(format!("tags[{at}]")))?;
        }
        let tags = Self::parse_stored(given)?;
        if tags.0.len() > MAX_LABELS {
            return Err(FieldError::without_value("tags", format!("have {} entries", given.len()), "give at most 64"));
        }
        Ok(tags)
    }

    /// Parses the tags of the store and the Consul API: a tag may be empty, and there may be 1,024.
    ///
    /// # Errors
    ///
    /// When there are more than 1,024 tags or 16 KiB, or a tag is longer than 4 KiB or contains a control character.
    pub fn parse_stored(given: &[impl AsRef<str>]) -> Result<Self, FieldError> {
        let mut tags: Vec<Box<str>> = Vec::with_capacity(given.len().min(MAX_STORED_TAGS));
        let mut known = HashSet::new();
        for (at, tag) in given.iter().enumerate() {
            let tag = tag.as_ref();
            if !tag.is_empty() {
                validate_text("tags", tag, MAX_TAG_BYTES).map_err(|error| error.with_field(format!("tags[{at}]")))?;
            }
            let compare = given.len() <= MAX_COMPARED_TAGS;
            let is_new = if compare { !tags.iter().any(|known| **known == *tag) } else { known.insert(tag) };
            if is_new {
                tags.push(tag.into());
            }
        }
        if tags.len() > MAX_STORED_TAGS {
            return Err(FieldError::without_value("tags", format!("have {} entries", tags.len()), "give at most 1024"));
        }
        let bytes: usize = tags.iter().map(|tag| tag.len()).sum();
        if bytes > MAX_TAGS_BYTES {
            let hint = "keep them within 16384 bytes; store larger data elsewhere, and its address here";
            return Err(FieldError::without_value("tags", format!("have {bytes} bytes"), hint));
        }
        Ok(Self(tags.into()))
    }

    /// Iterates over the tags.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|tag| &**tag)
    }

    /// Tags as a slice.
    #[must_use]
    pub fn as_slice(&self) -> &[Box<str>] {
        &self.0
    }
}

/// Metadata, sorted by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(Box<[(Box<str>, Box<str>)]>);

impl Metadata {
    /// Parses the metadata of the native API.
    ///
    /// # Errors
    ///
    /// When there are more than 64 entries or 8 KiB, a key is empty, longer than 128 bytes or contains a control character, or a
    /// value contains a NUL character.
    pub fn parse<'a, T: AsRef<str> + 'a>(
        given: impl ExactSizeIterator<Item = (&'a T, &'a T)>,
    ) -> Result<Self, FieldError> {
        Self::parse_within(given, MAX_METADATA_BYTES)
    }

    /// Parses the metadata of the store and the Consul API, which may have 40 KiB.
    ///
    /// # Errors
    ///
    /// The errors of [`Metadata::parse`], except for the size.
    pub fn parse_stored<'a, T: AsRef<str> + 'a>(
        given: impl ExactSizeIterator<Item = (&'a T, &'a T)>,
    ) -> Result<Self, FieldError> {
        Self::parse_within(given, MAX_STORED_METADATA_BYTES)
    }

    fn parse_within<'a, T: AsRef<str> + 'a>(
        given: impl ExactSizeIterator<Item = (&'a T, &'a T)>,
        max_bytes: usize,
    ) -> Result<Self, FieldError> {
        if given.len() > MAX_LABELS {
            return Err(FieldError::without_value(
                "metadata",
                format!("has {} entries", given.len()),
                "give at most 64",
            ));
        }
        let mut entries: Vec<(Box<str>, Box<str>)> = Vec::with_capacity(given.len());
        let mut bytes = 0;
        for (key, value) in given {
            let (key, value) = (key.as_ref(), value.as_ref());
            validate_text("metadata", key, MAX_KEY_BYTES)?;
            if value.contains('\0') {
                let field = format!("metadata[{key:?}]");
                return Err(FieldError::new(field, value, "has a NUL character", "remove it"));
            }
            bytes += key.len() + value.len();
            entries.push((key.into(), value.into()));
        }
        if bytes > max_bytes {
            let hint = format!("keep it within {max_bytes} bytes; store larger data elsewhere, and its address here");
            return Err(FieldError::without_value("metadata", format!("has {bytes} bytes"), hint));
        }
        entries.sort_unstable();
        Ok(Self(entries.into()))
    }

    /// Returns the value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// Iterates over all entries, sorted by key.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

/// Returns an error if a text is empty, too long, or contains a control character.
pub(super) fn validate_text(field: &str, text: &str, max_bytes: usize) -> Result<(), FieldError> {
    let problem = if text.is_empty() {
        "is empty"
    } else if text.len() > max_bytes {
        "is too long"
    } else if has_control(text) {
        "has a control character"
    } else {
        return Ok(());
    };
    Err(FieldError::new(field.to_owned(), text, problem, format!("use 1 to {max_bytes} bytes of printable text")))
}

fn has_control(text: &str) -> bool {
    if text.is_ascii() { text.bytes().any(|byte| byte.is_ascii_control()) } else { text.chars().any(char::is_control) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn tags(given: &[&str]) -> Result<Tags, FieldError> {
        Tags::parse(&given.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn tags_keep_their_order_without_repetitions_and_are_limited() {
        assert_eq!(tags(&["v2", "blue", "v2"]).unwrap().iter().collect::<Vec<_>>(), ["v2", "blue"]);
        assert_eq!(tags(&["ok", ""]).unwrap_err().field, "tags[1]");
        assert!(tags(&["a\nb"]).is_err());
        let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
        assert!(Tags::parse(&many[..64]).is_ok());
        assert_eq!(Tags::parse(&many).unwrap_err().field, "tags");
        let long = |count: usize, bytes: usize| -> Vec<String> { (0..count).map(|n| format!("{n:0bytes$}")).collect() };
        assert!(Tags::parse(&long(4, 4_096)).is_ok());
        assert_eq!(Tags::parse(&long(1, 4_097)).unwrap_err().field, "tags[0]");
        assert_eq!(Tags::parse(&long(5, 4_000)).unwrap_err().field, "tags");
    }

    #[test]
    fn stored_tags_may_be_empty_and_more() {
        let many: Vec<String> = (0..1_024).map(|n| n.to_string()).chain([String::new()]).collect();
        assert_eq!(Tags::parse_stored(&many[1..]).unwrap().iter().last(), Some(""));
        assert_eq!(Tags::parse_stored(&many).unwrap_err().to_string(), "tags have 1025 entries: give at most 1024");
        let repeated: Vec<&String> = many[1..].iter().chain(&many[1..]).collect();
        assert_eq!(Tags::parse_stored(&repeated).unwrap().iter().len(), 1_024, "repeated tags are dropped");
        assert!(Tags::parse_stored(&["a\nb"]).is_err() && Tags::parse_stored(&["x".repeat(4_097)]).is_err());
        assert!(Tags::parse_stored(&(0..5).map(|n| format!("{n:04000}")).collect::<Vec<_>>()).is_err());
    }

    #[test]
    fn stored_metadata_may_be_as_long_as_in_consul() {
        let entries = |value: usize| -> BTreeMap<String, String> {
            (0..64).map(|n| (format!("{n:0128}"), "v".repeat(value))).collect()
        };
        assert!(Metadata::parse_stored(entries(512).iter()).is_ok());
        assert!(Metadata::parse(entries(512).iter()).is_err());
        let error = Metadata::parse_stored(entries(513).iter()).unwrap_err().to_string();
        assert!(error.contains("has 41024 bytes: keep it within 40960 bytes"), "{error}");
    }

    #[test]
    fn metadata_is_limited_and_found_by_key() {
        let parse = |entries: &[(&str, &str)]| {
            let map: BTreeMap<String, String> = entries.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            Metadata::parse(map.iter())
        };
        let metadata = parse(&[("team", "checkout"), ("az", "1")]).unwrap();
        assert_eq!(metadata.get("team"), Some("checkout"));
        assert_eq!(metadata.get("none"), None);
        assert!(parse(&[("", "x")]).is_err());
        assert!(parse(&[("k", "\0")]).is_err());
        assert!(parse(&[("k", &"x".repeat(MAX_METADATA_BYTES))]).is_err());
        assert!(parse(&[("k", &"x".repeat(MAX_METADATA_BYTES - 1))]).is_ok());
    }
}
