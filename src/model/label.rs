//! Labels of an instance: tags without a value, metadata with one.

use super::Invalid;

/// Most tags, and most entries of metadata.
const MOST: usize = 64;
/// Longest tag, in bytes. Programs written for Consul put rules of routers and packed descriptions of endpoints into tags.
const LONGEST_TAG: usize = 4 * 1024;
/// Most bytes of tags together.
const MOST_TAG_BYTES: usize = 16 * 1024;
/// Longest key of metadata, in bytes.
const LONGEST_KEY: usize = 128;
/// Most bytes of metadata, keys and values together.
const MOST_BYTES: usize = 8 * 1024;

/// Tags, in the order given, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags(Box<[Box<str>]>);

impl Tags {
    /// Takes tags as given; a repeated one counts once.
    ///
    /// # Errors
    ///
    /// When there are more than 64 or 16 KiB, or one is empty, longer than 4 KiB, or has a control character.
    pub fn parse(given: &[impl AsRef<str>]) -> Result<Self, Invalid> {
        let mut tags: Vec<Box<str>> = Vec::with_capacity(given.len().min(MOST));
        let mut bytes = 0;
        for (at, tag) in given.iter().enumerate() {
            let tag = tag.as_ref();
            text("tags", tag, LONGEST_TAG).map_err(|invalid| invalid.of(format!("tags[{at}]")))?;
            if !tags.iter().any(|known| **known == *tag) {
                if tags.len() == MOST {
                    return Err(Invalid::unshown("tags", format!("are {}", given.len()), "give at most 64"));
                }
                bytes += tag.len();
                tags.push(tag.into());
            }
        }
        if bytes > MOST_TAG_BYTES {
            let remedy = "keep them within 16384 bytes; what is bigger belongs elsewhere, with its address here";
            return Err(Invalid::unshown("tags", format!("have {bytes} bytes"), remedy));
        }
        Ok(Self(tags.into()))
    }

    /// The tags.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|tag| &**tag)
    }

    /// The tags, as stored.
    #[must_use]
    pub fn as_slice(&self) -> &[Box<str>] {
        &self.0
    }
}

/// Metadata, sorted by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(Box<[(Box<str>, Box<str>)]>);

impl Metadata {
    /// Takes metadata as given.
    ///
    /// # Errors
    ///
    /// When there are more than 64 entries or 8 KiB, a key is empty, longer than 128 bytes or has a control character,
    /// or a value has a NUL.
    pub fn parse<'a, T: AsRef<str> + 'a>(
        given: impl ExactSizeIterator<Item = (&'a T, &'a T)>,
    ) -> Result<Self, Invalid> {
        if given.len() > MOST {
            return Err(Invalid::unshown("metadata", format!("has {} entries", given.len()), "give at most 64"));
        }
        let mut entries: Vec<(Box<str>, Box<str>)> = Vec::with_capacity(given.len());
        let mut bytes = 0;
        for (key, value) in given {
            let (key, value) = (key.as_ref(), value.as_ref());
            text("metadata", key, LONGEST_KEY)?;
            if value.contains('\0') {
                let field = format!("metadata[{key:?}]");
                return Err(Invalid::new(field, value, "has a NUL", "use text"));
            }
            bytes += key.len() + value.len();
            entries.push((key.into(), value.into()));
        }
        if bytes > MOST_BYTES {
            let remedy = "keep it within 8192 bytes; what is bigger belongs elsewhere, with its address here";
            return Err(Invalid::unshown("metadata", format!("has {bytes} bytes"), remedy));
        }
        entries.sort_unstable();
        Ok(Self(entries.into()))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// All entries, by key.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

/// Refuses what is empty, too long, or holds a control character.
pub(super) fn text(field: &str, text: &str, longest: usize) -> Result<(), Invalid> {
    let problem = if text.is_empty() {
        "is empty"
    } else if text.len() > longest {
        "is too long"
    } else if has_control(text) {
        "has a control character"
    } else {
        return Ok(());
    };
    Err(Invalid::new(field.to_owned(), text, problem, format!("use 1 to {longest} bytes of printable text")))
}

fn has_control(text: &str) -> bool {
    if text.is_ascii() { text.bytes().any(|byte| byte.is_ascii_control()) } else { text.chars().any(char::is_control) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn tags(given: &[&str]) -> Result<Tags, Invalid> {
        Tags::parse(&given.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn tags_keep_their_order_and_count_once() {
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
    fn metadata_is_bounded_and_found_by_key() {
        let parse = |entries: &[(&str, &str)]| {
            let map: BTreeMap<String, String> = entries.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            Metadata::parse(map.iter())
        };
        let metadata = parse(&[("team", "checkout"), ("az", "1")]).unwrap();
        assert_eq!(metadata.get("team"), Some("checkout"));
        assert_eq!(metadata.get("none"), None);
        assert!(parse(&[("", "x")]).is_err());
        assert!(parse(&[("k", "\0")]).is_err());
        assert!(parse(&[("k", &"x".repeat(MOST_BYTES))]).is_err());
        assert!(parse(&[("k", &"x".repeat(MOST_BYTES - 1))]).is_ok());
    }
}
