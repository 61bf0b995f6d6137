//! Pages of lists, for every protocol that has pages.

use crate::model::FieldError;

/// Maximum number of entries of a page.
const MAX_PAGE_SIZE: u32 = 1_000;
/// Encoded bytes after which a page ends. A page of this size delays the other tasks of its thread by a fraction of a millisecond,
/// and unread pages take little memory.
pub const PAGE_BYTES: usize = 30 * 1024;

/// Returns the number of entries of a page. `default`: the size if the request gives none.
#[must_use]
pub fn page_size(request: u32, default: u32) -> usize {
    let size = if request == 0 { default } else { request.min(MAX_PAGE_SIZE) };
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// Parses the position at which the previous page ended. `None`: the first page.
///
/// # Errors
///
/// When the token is none of this list.
pub fn page_after<P>(token: &str, parse: impl FnOnce(&str) -> Option<P>) -> Result<Option<P>, FieldError> {
    if token.is_empty() {
        return Ok(None);
    }
    parse(token).map(Some).ok_or_else(|| {
        let hint = "send next_page_token of the previous page, or nothing for the first page";
        FieldError::new("page_token", token, "is not a token of this list", hint)
    })
}
