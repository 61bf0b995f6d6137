//! Schema of a kind of record: its selectors and their types.

use super::error::{FilterErrorKind, excerpt};
use super::selector_kind::SelectorKind;

/// Selector in a [`Schema`].
#[derive(Debug, Clone, Copy)]
pub struct FilterSelector<F> {
    /// Names joined by dots: `Service.ListenerConfig`. At most one name may be `*`, which stands for any key of a map: `metadata.*`,
    /// `TaggedAddresses.*.ListenerConfig`. A name that ends in `[]` is a list of records, as in `Checks[].Status`; a filter omits the
    /// brackets.
    pub path: &'static str,
    /// Type of its values.
    pub kind: SelectorKind,
    /// Field that a [`Filterable`](super::Filterable) uses for this selector.
    pub field: F,
}

/// Selectors of a kind of record, usually a constant. If several selectors fit, the first one counts.
#[derive(Debug, Clone, Copy)]
pub struct Schema<F: 'static> {
    selectors: &'static [FilterSelector<F>],
}

/// Selector that was found in a schema.
pub(super) struct Resolved<F> {
    pub(super) kind: SelectorKind,
    pub(super) field: F,
    pub(super) key: Option<Box<str>>,
}

impl<F: Copy> Schema<F> {
    /// A schema of these selectors.
    #[must_use]
    pub const fn new(selectors: &'static [FilterSelector<F>]) -> Self {
        Self { selectors }
    }

    /// Finds the selector of a path.
    pub(super) fn resolve(&self, path: &[String]) -> Option<Resolved<F>> {
        self.selectors.iter().find_map(|selector| {
            let mut key = None;
            let mut written = path.iter();
            for name in names(selector.path) {
                let segment = written.next()?;
                match name {
                    "*" => key = Some(segment.as_str().into()),
                    name if name == segment => {}
                    _ => return None,
                }
            }
            written.next().is_none().then_some(Resolved { kind: selector.kind, field: selector.field, key })
        })
    }

    /// Returns the error for a path that [`Self::resolve`] does not find.
    pub(super) fn unknown(&self, path: &[String], written: &str) -> FilterErrorKind {
        let known: Vec<_> =
            self.selectors.iter().map(|selector| selector.path.replace('*', "<key>").replace("[]", "")).collect();
        FilterErrorKind::UnknownSelector {
            selector: excerpt(written),
            suggestion: self.unquoted_key(path).or_else(|| self.nearest(path)),
            known: known.join(", "),
        }
    }

    /// Suggests a quoted key, for a key with dots: `metadata.app.kubernetes.io`.
    fn unquoted_key(&self, path: &[String]) -> Option<String> {
        self.selectors.iter().filter_map(|selector| selector.path.strip_suffix(".*")).find_map(|map| {
            let depth = map.split('.').count();
            let fits = path.len() > depth && map.split('.').eq(path.iter().take(depth).map(String::as_str));
            fits.then(|| excerpt(&format!("{map}[{:?}]", path[depth..].join("."))))
        })
    }

    /// Suggests the selector with the smallest distance, for a typing error.
    fn nearest(&self, path: &[String]) -> Option<String> {
        let written = path.join(".");
        let candidates = self.selectors.iter().filter(|selector| selector.path.split('.').count() == path.len());
        let named = candidates.map(|selector| {
            let filled = names(selector.path).zip(path);
            filled.map(|(name, key)| if name == "*" { key } else { name }).collect::<Vec<_>>().join(".")
        });
        let (distance, name) = named.map(|name| (distance(&name, &written), name)).min()?;
        (distance <= 1 + written.len() / 4).then(|| excerpt(&name))
    }
}

/// Iterates over the names of a path, as a filter writes them.
fn names(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('.').map(|name| name.trim_end_matches("[]"))
}

/// Returns the Levenshtein distance of two texts, regardless of case.
fn distance(left: &str, right: &str) -> usize {
    let right = right.to_ascii_lowercase();
    // Previous row of the table: distances from the letters of `left` read so far to each prefix of `right`.
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (read, letter) in left.to_ascii_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = read + 1;
        for (column, other) in right.chars().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.chars().count()]
}
