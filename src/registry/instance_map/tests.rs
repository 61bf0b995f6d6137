use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::registry::test_support::entry;

/// Operation of a script: puts or removes the instance with this number, or has a reader hold a snapshot.
#[derive(Debug, Clone)]
enum MapOperation {
    Put(u16, u16),
    Remove(u16),
    Hold,
}

fn operations() -> impl Strategy<Value = Vec<MapOperation>> {
    let id = 0..900_u16;
    let operation = prop_oneof![
        6 => (id.clone(), 1..9_u16).prop_map(|(id, weight)| MapOperation::Put(id, weight)),
        5 => id.prop_map(MapOperation::Remove),
        1 => Just(MapOperation::Hold),
    ];
    prop::collection::vec(operation, 0..1_500)
}

fn contents(chunks: &Chunks) -> Vec<(String, u16)> {
    let entries = chunks.iter().flat_map(|chunk| chunk.entries());
    entries.map(|entry| (entry.instance.id.to_string(), entry.instance.weight.get())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The map is sorted by id, and a snapshot that a reader holds never changes.
    #[test]
    fn map_is_sorted_and_its_snapshots_never_change(operations in operations()) {
        let mut map = InstanceMap::default();
        let mut model: BTreeMap<String, u16> = BTreeMap::new();
        let mut held: Vec<(Chunks, Vec<(String, u16)>)> = Vec::new();
        for operation in operations {
            match operation {
                MapOperation::Put(id, weight) => {
                    let id = format!("i{id}");
                    let before = map.put(entry("web", &id, weight)).map(|entry| entry.instance.weight.get());
                    prop_assert_eq!(before, model.insert(id, weight));
                }
                MapOperation::Remove(id) => {
                    let id = format!("i{id}");
                    let before = map.remove(&id).map(|entry| entry.instance.weight.get());
                    prop_assert_eq!(before, model.remove(&id));
                }
                MapOperation::Hold => {
                    let chunks = map.chunks();
                    let now = contents(&chunks);
                    held.push((chunks, now));
                }
            }
        }
        let expected: Vec<_> = model.clone().into_iter().collect();
        prop_assert_eq!(contents(&map.chunks()), expected);
        prop_assert_eq!(map.len(), model.len());
        prop_assert_eq!(map.available(), model.len());
        for (chunks, as_taken) in held {
            prop_assert_eq!(contents(&chunks), as_taken);
        }
        for chunk in map.chunks().iter() {
            prop_assert!((1..=MAX_CHUNK_ENTRIES).contains(&chunk.entries().len()));
        }
    }
}

#[test]
fn pages_come_in_order_of_ids() {
    let mut map = InstanceMap::default();
    for n in (0..1_000).rev() {
        map.put(entry("web", &format!("{n:04}"), 1));
    }
    let mut after = String::new();
    let mut read = 0;
    loop {
        let page = map.page(&after, 77);
        let Some(last) = page.last() else { break };
        assert!(page.iter().enumerate().all(|(at, entry)| entry.instance.id.as_str() == format!("{:04}", read + at)));
        read += page.len();
        after = last.instance.id.to_string();
    }
    assert_eq!(read, 1_000);
}

#[test]
fn change_drops_attachment_of_one_chunk() {
    let mut map = InstanceMap::default();
    for n in 0..1_000 {
        map.put(entry("web", &format!("{n:04}"), 1));
    }
    let before = map.chunks();
    for chunk in before.iter() {
        chunk.attachment.get_or_init(|| ());
    }
    map.put(entry("web", "0500", 9));
    let kept = map.chunks().iter().filter(|chunk| chunk.attachment.get::<()>().is_some()).count();
    assert_eq!(kept, before.len() - 1);
}
