//! The paths of the recorded target that have an answer of their own.

use crate::harness::PageAnswer;

pub fn answer(path: &str) -> Option<PageAnswer> {
    let (status, headers, body) = match path {
        "/302" => ("302 Found", vec![("Location".to_owned(), "/ok".to_owned())], String::new()),
        "/headers" => {
            ("200 OK", (0..150).map(|number| (format!("X-{number}"), "1".to_owned())).collect(), "ok".to_owned())
        }
        "/long" => ("200 OK", Vec::new(), "hello ".repeat(2_000)),
        _ => return None,
    };
    Some(PageAnswer { status, headers, body })
}
