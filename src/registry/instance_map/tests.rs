use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::registry::test_support::entry;

/// A step of a script: put or remove the instance with this number, or have a reader hold on to a snapshot.
#[derive(Debug, Clone)]
enum Step {
    Put(u16, u16),
    Remove(u16),
    Hold,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0..900_u16;
    let step = prop_oneof![
        6 => (id.clone(), 1..9_u16).prop_map(|(id, weight)| Step::Put(id, weight)),
        5 => id.prop_map(Step::Remove),
        1 => Just(Step::Hold),
    ];
    prop::collection::vec(step, 0..1_500)
}

fn contents(blocks: &Chunks) -> Vec<(String, u16)> {
    let entries = blocks.iter().flat_map(|block| block.entries());
    entries.map(|entry| (entry.instance.id.to_string(), entry.instance.weight.get())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The roster is a sorted map, and what a reader holds never changes.
    #[test]
    fn is_a_sorted_map_with_snapshots(steps in steps()) {
        let mut roster = InstanceMap::default();
        let mut model: BTreeMap<String, u16> = BTreeMap::new();
        let mut held: Vec<(Chunks, Vec<(String, u16)>)> = Vec::new();
        for step in steps {
            match step {
                Step::Put(id, weight) => {
                    let id = format!("i{id}");
                    let before = roster.put(entry("web", &id, weight)).map(|entry| entry.instance.weight.get());
                    prop_assert_eq!(before, model.insert(id, weight));
                }
                Step::Remove(id) => {
                    let id = format!("i{id}");
                    let before = roster.remove(&id).map(|entry| entry.instance.weight.get());
                    prop_assert_eq!(before, model.remove(&id));
                }
                Step::Hold => {
                    let blocks = roster.blocks();
                    let now = contents(&blocks);
                    held.push((blocks, now));
                }
            }
        }
        let expected: Vec<_> = model.clone().into_iter().collect();
        prop_assert_eq!(contents(&roster.blocks()), expected);
        prop_assert_eq!(roster.len(), model.len());
        prop_assert_eq!(roster.available(), model.len());
        for (blocks, as_taken) in held {
            prop_assert_eq!(contents(&blocks), as_taken);
        }
        for block in roster.blocks().iter() {
            prop_assert!(!block.entries().is_empty() && block.entries().len() <= FULL);
        }
    }
}

#[test]
fn pages_in_order() {
    let mut roster = InstanceMap::default();
    for n in (0..1_000).rev() {
        roster.put(entry("web", &format!("{n:04}"), 1));
    }
    let mut after = String::new();
    let mut seen = 0;
    loop {
        let page = roster.page(&after, 77);
        let Some(last) = page.last() else { break };
        assert!(page.iter().enumerate().all(|(at, entry)| entry.instance.id.as_str() == format!("{:04}", seen + at)));
        seen += page.len();
        after = last.instance.id.to_string();
    }
    assert_eq!(seen, 1_000);
}

#[test]
fn one_change_touches_one_block() {
    let mut roster = InstanceMap::default();
    for n in 0..1_000 {
        roster.put(entry("web", &format!("{n:04}"), 1));
    }
    let before = roster.blocks();
    for block in before.iter() {
        block.attachment.get_or_init(|| ());
    }
    roster.put(entry("web", "0500", 9));
    let kept = roster.blocks().iter().filter(|block| block.attachment.get::<()>().is_some()).count();
    assert_eq!(kept, before.len() - 1);
}
