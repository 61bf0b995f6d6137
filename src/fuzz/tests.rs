//! Runs of each target on its seeds and on random mutations of them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::{FuzzTarget, TARGETS};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = folder().join("seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Mutation of an input at a position.
#[derive(Debug, Clone)]
enum InputMutation {
    Put(prop::sample::Index, Vec<u8>),
    Flip(prop::sample::Index, u8),
    Drop(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
}

fn mutation() -> impl Strategy<Value = InputMutation> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| InputMutation::Put(at, bytes)),
        (at(), 0..8_u8).prop_map(|(at, bit)| InputMutation::Flip(at, bit)),
        (at(), 1..16_usize).prop_map(|(at, length)| InputMutation::Drop(at, length)),
        (at(), 1..64_usize).prop_map(|(at, length)| InputMutation::Repeat(at, length)),
    ]
}

impl InputMutation {
    fn apply(&self, input: &mut Vec<u8>) {
        let end = |at: usize, length: usize| (at + length).min(input.len());
        match self {
            Self::Put(at, bytes) => {
                let at = at.index(input.len() + 1);
                input.splice(at..at, bytes.iter().copied());
            }
            _ if input.is_empty() => {}
            Self::Flip(at, bit) => {
                let at = at.index(input.len());
                input[at] ^= 1 << bit;
            }
            Self::Drop(at, length) => {
                let at = at.index(input.len());
                input.drain(at..end(at, *length));
            }
            Self::Repeat(at, length) => {
                let at = at.index(input.len());
                input.extend_from_within(at..end(at, *length));
            }
        }
    }
}

/// Strategy of inputs: mostly mutated seeds, sometimes any bytes.
fn input(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changed = (prop::sample::select(seeds), vec(mutation(), 0..8)).prop_map(|(mut seed, mutations)| {
        for mutation in mutations {
            mutation.apply(&mut seed);
        }
        seed
    });
    prop_oneof![6 => changed, 1 => vec(any::<u8>(), 0..300)]
}

fn run_target(name: &str) {
    let target = *TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = seeds(name);
    for seed in &seeds {
        (target.run)(seed);
    }
    let mut runner = TestRunner::new(Config { cases: target.inputs, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&input(seeds), |input| {
        (target.run)(&input);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

macro_rules! targets {
    ($($name:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                run_target(stringify!($name));
            }
        )*
    };
}

targets!(filter token messages xds client config policy registry record etcd import http2 http1 dns);

/// A target needs an entry in `TARGETS`, a test in this file, a program for cargo-fuzz and seeds.
#[test]
fn every_target_has_a_test_a_program_and_seeds() {
    let names: BTreeSet<_> = TARGETS.iter().map(|FuzzTarget { name, .. }| (*name).to_owned()).collect();
    assert_eq!(names, TESTED.iter().map(|name| (*name).to_owned()).collect());
    let manifest: toml::Table = fs::read_to_string(folder().join("Cargo.toml")).unwrap().parse().unwrap();
    let programs = manifest["bin"].as_array().unwrap().iter();
    assert_eq!(names, programs.map(|program| program["name"].as_str().unwrap().to_owned()).collect());
    let seeded = fs::read_dir(folder().join("seeds")).unwrap();
    assert_eq!(names, seeded.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect());
}
