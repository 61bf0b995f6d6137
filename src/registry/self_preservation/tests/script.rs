//! Scripts of operations on leases, run on the registry and on the naive model side by side.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;

use super::naive::{Expected, Key, NaiveLease, NaiveSelfPreservation};
use crate::{
    engine::Memory,
    model::{Incarnation, LeaseTerms, ServerActor},
    registry::{
        Command, HeartbeatStreamId, Register,
        test_support::{NoListener, at, deregister, name, register},
    },
};

const SERVICES: [&str; 5] = ["web", "api", "db", "jobs", "solo"];
const TTLS: [u64; 4] = [1_000, 1_500, 3_000, 9_000];
const GRACE: u64 = 400;

/// Operation of a script.
#[derive(Debug, Clone)]
enum ScriptStep {
    /// Instances of a service register, or register again. `replace`: as another boot.
    Register {
        service: usize,
        first: usize,
        many: usize,
        ttl: usize,
        replace: bool,
    },
    /// All but one of each `live + 1` instances send a heartbeat.
    Heartbeat {
        live: usize,
    },
    /// The instances of one service send a heartbeat.
    HeartbeatOfService {
        service: usize,
    },
    /// The streams of some instances break.
    BreakStreams {
        service: usize,
        one_in: usize,
    },
    /// Some instances are deregistered.
    Deregister {
        service: usize,
        first: usize,
        many: usize,
    },
    /// Time passes, with a sweep every 100 ms.
    Wait {
        ticks: u64,
    },
    /// Time passes, with one sweep at the end.
    WaitWithoutSweeps {
        ticks: u64,
    },
    /// Time passes while, of each `live + 1` instances, all but one send heartbeats.
    WaitWithHeartbeats {
        ticks: u64,
        live: usize,
    },
    Reset {
        service: Option<usize>,
    },
}

fn operations() -> impl Strategy<Value = Vec<ScriptStep>> {
    use ScriptStep::{
        BreakStreams, Deregister, Heartbeat, HeartbeatOfService, Register, Reset, Wait, WaitWithHeartbeats,
        WaitWithoutSweeps,
    };
    let service = || 0..SERVICES.len();
    let operation = prop_oneof![
        4 => (service(), 0..8_usize, 1..8_usize, 0..TTLS.len(), any::<bool>())
            .prop_map(|(service, first, many, ttl, replace)| Register { service, first, many, ttl, replace }),
        3 => (1..7_usize).prop_map(|live| Heartbeat { live }),
        2 => service().prop_map(|service| HeartbeatOfService { service }),
        2 => (service(), 1..4_usize).prop_map(|(service, one_in)| BreakStreams { service, one_in }),
        1 => (service(), 0..8_usize, 1..6_usize).prop_map(|(service, first, many)| Deregister { service, first, many }),
        4 => (1..40_u64).prop_map(|ticks| Wait { ticks }),
        1 => (100..400_u64).prop_map(|ticks| Wait { ticks }),
        1 => (1..200_u64).prop_map(|ticks| WaitWithoutSweeps { ticks }),
        4 => (1..60_u64, 1..9_usize).prop_map(|(ticks, live)| WaitWithHeartbeats { ticks, live }),
        1 => prop::option::of(service()).prop_map(|service| Reset { service }),
    ];
    prop::collection::vec(operation, 1..60)
}

struct ScriptRun {
    engine: Memory,
    naive: NaiveSelfPreservation,
    now: u64,
    leases: u128,
    /// Number of the last boot of each instance.
    boots: BTreeMap<Key, u64>,
    /// For each service, the instances that expired since its last other change: time, TTL and key.
    lost: Vec<Vec<(u64, u64, Key)>>,
}

impl ScriptRun {
    fn new() -> Self {
        let engine = Memory::new(Incarnation(7), at(0), Arc::new(NoListener));
        let lost = vec![Vec::new(); SERVICES.len()];
        let mut run =
            Self { engine, naive: NaiveSelfPreservation::default(), now: 0, leases: 0, boots: BTreeMap::new(), lost };
        for service in 0..SERVICES.len() {
            run.act(&ScriptStep::Register { service, first: 0, many: 6, ttl: service % TTLS.len(), replace: false });
        }
        run
    }

    fn act(&mut self, operation: &ScriptStep) {
        match *operation {
            ScriptStep::Register { service, first, many, ttl, replace } => {
                (first..first + many).for_each(|number| self.register(service, number, TTLS[ttl], replace));
            }
            ScriptStep::Heartbeat { live } => self.send_heartbeats(|number, _| number % (live + 1) != 0),
            ScriptStep::HeartbeatOfService { service } => self.send_heartbeats(|_, key| key.0 == SERVICES[service]),
            ScriptStep::BreakStreams { service, one_in } => self.break_streams(service, one_in),
            ScriptStep::Deregister { service, first, many } => {
                for number in first..first + many {
                    let key = (SERVICES[service].to_owned(), format!("i{number}"));
                    let there = self.engine.submit(deregister(&key.0, &key.1, None), at(self.now)).is_ok();
                    assert_eq!(there, self.naive.leases.remove(&key).is_some(), "{key:?}");
                    self.lost[service].clear();
                }
            }
            ScriptStep::Wait { ticks } => (0..ticks).for_each(|_| self.sweep(100)),
            ScriptStep::WaitWithoutSweeps { ticks } => self.sweep(ticks * 100),
            ScriptStep::WaitWithHeartbeats { ticks, live } => {
                for tick in 0..ticks {
                    if tick % 3 == 0 {
                        self.send_heartbeats(|number, _| number % (live + 1) != 0);
                    }
                    self.sweep(100);
                }
            }
            ScriptStep::Reset { service } => {
                // The sweeps see all that happened before.
                (0..2).for_each(|_| self.sweep(100));
                let service = service.map(|service| SERVICES[service]);
                self.engine.registry().reset_self_preservation(
                    service.map(name).as_ref(),
                    ServerActor::InProcess.caller(),
                    at(self.now),
                );
                self.naive.reset(service, self.now);
                self.lost.iter_mut().for_each(Vec::clear);
            }
        }
    }

    fn register(&mut self, service: usize, number: usize, ttl: u64, replace: bool) {
        self.leases += 1;
        let key = (SERVICES[service].to_owned(), format!("i{number}"));
        let boot = self.boots.entry(key.clone()).or_default();
        *boot += u64::from(replace);
        let boot = format!("boot{boot}");
        let terms = LeaseTerms::grant(Some(Duration::from_millis(ttl)), Some(Duration::from_millis(GRACE)));
        let request = Register { terms, replace, ..register(&key.0, &key.1, &boot, self.leases) };
        let entry = self.engine.submit(Command::Register(request), at(self.now)).unwrap().entry.unwrap();
        entry.lease.as_ref().unwrap().renew(self.now, Some(HeartbeatStreamId::numbered(1))).unwrap();
        let known = self.naive.leases.entry(key).or_default();
        if replace {
            *known = NaiveLease::default();
        }
        (known.ttl, known.deadline, known.mark) = (ttl, self.now + ttl, false);
        self.lost[service].clear();
    }

    fn send_heartbeats(&mut self, is_live: impl Fn(usize, &Key) -> bool) {
        for (number, (key, lease)) in self.naive.leases.iter_mut().enumerate() {
            if !is_live(number, key) {
                continue;
            }
            let entry = self.engine.registry().get(&name(&key.0), &key.1).unwrap();
            entry.lease.as_ref().unwrap().renew(self.now, Some(HeartbeatStreamId::numbered(1))).unwrap();
            lease.deadline = self.now + lease.ttl;
        }
    }

    fn break_streams(&mut self, service: usize, one_in: usize) {
        let of_service = self.naive.leases.iter_mut().filter(|(key, _)| key.0 == SERVICES[service]);
        for (key, lease) in of_service.step_by(one_in) {
            let registry = self.engine.registry();
            let entry = registry.get(&name(&key.0), &key.1).unwrap();
            let held = entry.lease.as_ref().unwrap();
            registry.leases().stream_broken(held, HeartbeatStreamId::numbered(1), self.now);
            lease.deadline = held.deadline(self.now);
        }
    }

    fn sweep(&mut self, ms: u64) {
        self.now += ms;
        let now = self.now;
        let mut expected = self.naive.sweep(now);
        let commands = self.engine.registry().sweep(at(now));
        let mut done = Expected::default();
        for command in commands {
            let (service, id) = command.target();
            let key = (service.to_string(), id.to_string());
            match &command {
                Command::Expire(_) => self.expired(key, &mut expected, &mut done),
                Command::Suspect(_) => assert!(done.suspect.insert(key)),
                Command::Recover(_) => assert!(done.recover.insert(key)),
                other => panic!("{other:?}"),
            }
            self.engine.submit(command, at(now)).unwrap();
        }
        for key in std::mem::take(&mut expected.releasable) {
            assert!(!self.naive.permits_release(&key, now), "{key:?} may be released at {now}");
            if !self.naive.leases[&key].suspect {
                expected.suspect.insert(key);
            }
        }
        assert_eq!(done, expected, "at {now}");
        for key in &done.suspect {
            let lease = self.naive.leases.get_mut(key).unwrap();
            (lease.suspect, lease.mark) = (true, true);
        }
        self.naive.close(now);
        self.compare();
    }

    fn expired(&mut self, key: Key, expected: &mut Expected, done: &mut Expected) {
        let now = self.now;
        if expected.releasable.remove(&key) {
            assert!(self.naive.permits_release(&key, now), "{key:?} was released too soon, at {now}");
            expected.expire.insert(key.clone());
        }
        let (ttl, inferred) = self.naive.leases.get(&key).map(|lease| (lease.ttl, !lease.released)).unwrap();
        self.naive.removed_instance(&key, now);
        let service = SERVICES.iter().position(|service| *service == key.0).unwrap();
        if inferred {
            self.lost[service].push((now, ttl, key.clone()));
        } else {
            self.lost[service].clear();
        }
        if self.naive.leases.keys().all(|(of, _)| *of != key.0) {
            let in_time: BTreeSet<_> = self.lost[service]
                .iter()
                .filter(|(at, ..)| *at >= now.saturating_sub(ttl))
                .map(|(.., key)| key)
                .collect();
            assert!(in_time.len() < 3, "{in_time:?} emptied {} in {ttl} ms", key.0);
        }
        assert!(done.expire.insert(key));
    }

    fn compare(&self) {
        let registry = self.engine.registry();
        for service in SERVICES {
            for entry in registry.page(&name(service), "", 99) {
                let lease = &self.naive.leases[&(service.to_owned(), entry.instance.id.to_string())];
                assert_eq!(
                    entry.instance.conditions.suspect, lease.mark,
                    "{service}/{} at {}",
                    entry.instance.id, self.now
                );
            }
        }
        assert_eq!(registry.instance_count(), self.naive.leases.len());
        let mut preserved: Vec<_> = registry
            .preserved_services("", 99, self.now)
            .into_iter()
            .filter_map(|of| of.service)
            .map(|of| of.to_string())
            .collect();
        preserved.sort();
        assert_eq!(preserved, self.naive.preserved_services(), "at {}", self.now);
        assert_eq!(
            registry.self_preservation(self.now).0.since.is_some(),
            self.naive.is_registry_preserved(),
            "at {}",
            self.now
        );
    }
}

/// Removals count within the TTL of the lease that is decided, even if that was granted after them.
#[test]
fn longer_ttl_counts_older_removals() {
    let mut run = ScriptRun::new();
    let wait = |ticks| ScriptStep::Wait { ticks };
    let register = ScriptStep::Register { service: 1, first: 0, many: 1, ttl: 3, replace: false };
    for operation in [wait(279), register, ScriptStep::BreakStreams { service: 1, one_in: 1 }, wait(100)] {
        run.act(&operation);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Each sweep does what the naive model expects, a service of three or more is never emptied within a TTL, and silent instances
    /// are removed in the end.
    #[test]
    fn sweeps_agree_with_the_naive_model(script in operations()) {
        let mut run = ScriptRun::new();
        for operation in &script {
            run.act(operation);
        }
        let most = 11 + 4 + 2 * run.naive.leases.len() as u64;
        for _ in 0..most * 9_000 / 500 {
            run.now += 500;
            run.engine.expire(at(run.now));
        }
        prop_assert_eq!(run.engine.registry().instance_count(), 0, "some instances are never removed");
    }
}
