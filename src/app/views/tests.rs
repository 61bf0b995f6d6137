use std::{
    cell::Cell,
    convert::Infallible,
    io::Read as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use flate2::read::GzDecoder;
use proptest::prelude::*;

use super::*;
use crate::metrics::{Metrics, VIEW_LABELS};

const LIMIT: usize = 64 * 1024;

fn views() -> (Views, Arc<Metrics>) {
    let metrics = Metrics::new();
    (Views::with_limit(&metrics.views, LIMIT), metrics)
}

fn key(subject: &str) -> ViewKey<'_> {
    ViewKey::new(View::ConsulHealthService, subject, "")
}

fn body(text: &str, length: usize) -> Bytes {
    text.bytes().cycle().take(length).collect::<Vec<_>>().into()
}

/// Asks for a view of a revision. Returns it, and whether it was made for that.
fn ask(views: &Views, key: ViewKey<'_>, revision: u64, length: usize) -> (Bytes, bool) {
    let is_new = Cell::new(false);
    let make = || {
        is_new.set(true);
        Ok::<_, Infallible>(EncodedView::from(body(&revision.to_string(), length)))
    };
    let Ok(view) = views.at_revision(key, Revision(revision), make);
    (view.bytes.clone(), is_new.get())
}

#[test]
fn every_kind_has_its_own_label_and_index() {
    assert_eq!(View::ALL.map(View::label), VIEW_LABELS);
    assert!(View::ALL.into_iter().enumerate().all(|(index, view)| view as usize == index));
}

#[test]
fn view_is_made_once_for_each_key_and_revision() {
    let (views, metrics) = views();
    assert!(ask(&views, key("a"), 1, 10).1);
    assert!(!ask(&views, key("a"), 1, 10).1);
    assert!(ask(&views, key("b"), 1, 10).1);
    assert!(ask(&views, ViewKey::new(View::ConsulHealthChecks, "a", ""), 1, 10).1);
    assert!(ask(&views, ViewKey::new(View::ConsulHealthService, "a", "passing"), 1, 10).1);
    assert_eq!(ask(&views, key("a"), 2, 1), (body("2", 1), true));
    assert!(!ask(&views, key("a"), 2, 1).1);
    let text = metrics.to_text();
    assert!(text.contains("callboard_view_cache_hits_total{view=\"consul_health_service\"} 2"), "{text}");
    assert!(text.contains("callboard_view_cache_misses_total{view=\"consul_health_service\"} 4"), "{text}");
}

#[test]
fn expired_view_is_made_again() {
    let (views, _metrics) = views();
    let calls = Cell::new(0);
    let at = |now: u64| {
        let make = || {
            calls.set(calls.get() + 1);
            let version = ViewVersion { expires_at: Some(now + 100), ..ViewVersion::at(Revision(1)) };
            Ok::<_, Infallible>((body("x", 5_000), version))
        };
        let Ok(view) = views.encoded(key("a"), true, |version| version.is_at(Revision(1), now), make);
        assert!(view.gzip);
        calls.get()
    };
    assert_eq!([at(0), at(99), at(100), at(199), at(200)], [1, 1, 2, 2, 3]);
}

#[test]
fn error_is_returned_and_not_kept() {
    let (views, _metrics) = views();
    let failed = views.at_revision(key("a"), Revision(1), || Err::<EncodedView, _>("not now"));
    assert_eq!(failed.unwrap_err(), "not now");
    assert!(ask(&views, key("a"), 1, 10).1);
    assert!(!ask(&views, key("a"), 1, 10).1);
}

#[test]
fn compressed_copy_is_made_once_and_counted() {
    let (views, _metrics) = views();
    let calls = Cell::new(0);
    let get = |gzip: bool| {
        let make = || {
            calls.set(calls.get() + 1);
            // Mixed letters, so that the copy is not much smaller.
            let letters = (0..8_000_u32).map(|n| b'a' + (n.wrapping_mul(2_654_435_761) >> 27) as u8 % 26);
            Ok::<_, Infallible>((letters.collect::<Vec<u8>>().into(), ViewVersion::at(Revision(1))))
        };
        let Ok(view) = views.encoded(key("a"), gzip, |version| version.revision == Revision(1), make);
        view
    };
    let plain = get(false);
    let before = views.bytes();
    let compressed = get(true);
    assert_eq!((plain.gzip, compressed.gzip, calls.get()), (false, true, 1));
    assert!(compressed.bytes.len() < plain.bytes.len());
    assert_eq!(views.bytes(), before + (compressed.bytes.len() + 1 + ENTRY_BYTES) as u64);
    assert_eq!(get(true).bytes.as_ptr(), compressed.bytes.as_ptr());
}

#[test]
fn short_view_is_not_compressed() {
    let (views, _metrics) = views();
    let make = || Ok::<_, Infallible>((body("x", MIN_GZIP_BYTES - 1), ViewVersion::at(Revision(1))));
    let Ok(view) = views.encoded(key("a"), true, |version| version.revision == Revision(1), make);
    assert!(!view.gzip);
}

#[test]
fn full_cache_evicts_the_coldest_views_only() {
    let (views, metrics) = views();
    for _ in 0..3 {
        ask(&views, key("hot"), 1, 1_000);
    }
    let mut made_again = 0;
    for number in 0..1_000 {
        ask(&views, key(&number.to_string()), 1, 1_000);
        made_again += usize::from(ask(&views, key("hot"), 1, 1_000).1);
        assert!(views.bytes() <= LIMIT as u64, "{}", views.bytes());
    }
    assert_eq!(made_again, 0, "the view that is read all the time was evicted");
    assert!(views.bytes() > LIMIT as u64 / 2, "{} bytes: more was evicted than needed", views.bytes());
    assert!(metrics.views.evictions.get() >= 900, "{}", metrics.views.evictions.get());
}

#[test]
fn view_larger_than_the_cache_is_served_and_not_kept() {
    let (views, _metrics) = views();
    ask(&views, key("small"), 1, 100);
    assert_eq!(ask(&views, key("large"), 1, LIMIT), (body("1", LIMIT), true));
    assert!(ask(&views, key("large"), 1, LIMIT).1);
    assert!(!ask(&views, key("small"), 1, 100).1);
}

#[test]
fn threads_that_miss_one_view_at_once_make_it_once() {
    let (views, _metrics) = views();
    let (calls, start) = (AtomicUsize::new(0), Barrier::new(8));
    for revision in 1..50 {
        calls.store(0, Relaxed);
        let view = || {
            start.wait();
            let make = || {
                calls.fetch_add(1, Relaxed);
                thread::yield_now();
                Ok::<_, Infallible>(EncodedView::from(body("x", 100)))
            };
            let Ok(view) = views.at_revision(key("a"), Revision(revision), make);
            view
        };
        let all: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(view)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(calls.load(Relaxed), 1);
        assert!(all.iter().all(|view| Arc::ptr_eq(view, &all[0])));
    }
}

#[test]
fn maker_that_panics_lets_the_next_caller_make_the_view() {
    let (views, _metrics) = views();
    let make = || -> Result<EncodedView, Infallible> { resume_unwind(Box::new("a defect")) };
    let panicked = catch_unwind(AssertUnwindSafe(|| views.at_revision(key("a"), Revision(1), make).map(drop)));
    assert!(panicked.is_err());
    assert!(ask(&views, key("a"), 1, 10).1);
}

proptest! {
    /// Whatever is asked for in whatever order, a view is that of the key and the revision, and the limit holds.
    #[test]
    fn views_are_never_of_another_revision_and_the_limit_holds(
        operations in prop::collection::vec((0_u8..20, 0_u8..3, 1_u64..6, any::<bool>(), 0_usize..9_000), 1..300),
    ) {
        let (views, _metrics) = views();
        for (subject, query, revision, gzip, length) in operations {
            let (subject, query) = (subject.to_string(), query.to_string());
            let key = ViewKey::new(View::ConsulCatalogService, &subject, &query);
            let text = format!("{subject} {query} {revision} ");
            let make = || Ok::<_, Infallible>((body(&text, length + text.len()), ViewVersion::at(Revision(revision))));
            let Ok(view) = views.encoded(key, gzip, |version| version.revision == Revision(revision), make);
            let mut plain = Vec::new();
            if view.gzip {
                prop_assert!(gzip);
                GzDecoder::new(&*view.bytes).read_to_end(&mut plain).unwrap();
            } else {
                plain.extend_from_slice(&view.bytes);
            }
            prop_assert!(plain.starts_with(text.as_bytes()), "{text}: {}", String::from_utf8_lossy(&plain));
            prop_assert!(views.bytes() <= LIMIT as u64);
        }
    }
}
