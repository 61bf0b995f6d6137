//! A registry whose changes come from several replicas: only the holder of an entry ends its lease.

use std::time::Duration;

use super::super::{
    test_support::{NoListener, at, description, id, name, register},
    *,
};
use crate::{
    engine::Memory,
    model::{
        BootId, CheckDefinition, CheckId, CheckStatus, ConsulRegistration, Incarnation, LeaseId, LeaseTerms, Probe,
        ServerActor,
    },
};

const HERE: SessionEpoch = SessionEpoch(7);
const ELSEWHERE: SessionEpoch = SessionEpoch(8);
/// TTL of [`register`], in milliseconds.
const TTL: u64 = 3_000;

/// Registry of the replica with session [`HERE`].
struct Replica(Registry);

impl Replica {
    fn new() -> Self {
        let registry = Registry::new(Incarnation(1), Revision(100), at(0), Arc::new(NoListener));
        registry.order().set_session(HERE);
        Self(registry)
    }

    /// Applies the state of an instance that a replica has written, as every replica does.
    fn put(&self, instance: &str, lease: u128, holder: SessionEpoch, now: u64) -> Arc<Entry> {
        let present = self.get(instance);
        let mut guard = self.0.order();
        let command = Command::Register(register("web", instance, "boot", lease));
        let proposed = match &present {
            Some(present) => ProposedChange::Put {
                instance: present.instance.clone(),
                lease: Some(Arc::new(new_lease(instance, lease))),
                is_new: false,
                terms: None,
                end_reason: EndReason::Superseded,
            },
            None => match guard.decide(command, at(now)).unwrap().0 {
                Decision::Apply(proposed) => proposed,
                Decision::NoOp => panic!("nothing to apply"),
            },
        };
        let revision = self.0.applied().next();
        let StampedChange::Put { instance, lease, end_reason, terms, visible, .. } =
            proposed.at(revision, present.as_ref())
        else {
            panic!("not a put");
        };
        let change = StampedChange::Put { instance, lease, end_reason, terms, visible, holder };
        guard.apply(change, present, revision, at(now), ServerActor::InProcess.caller()).0.unwrap()
    }

    fn remove(&self, instance: &str, reason: RemovalReason, now: u64) {
        let change = StampedChange::Remove { reason, end_reason: EndReason::Expired };
        let revision = self.0.applied().next();
        let caller = ServerActor::Expiry.caller();
        self.0.order().apply(change, self.get(instance), revision, at(now), caller);
    }

    fn get(&self, instance: &str) -> Option<Arc<Entry>> {
        self.0.get(&name("web"), instance)
    }

    /// Returns the commands of all sweeps until `until`.
    fn sweep(&self, from: u64, until: u64) -> Vec<Command> {
        (from..=until).step_by(100).flat_map(|now| self.0.sweep(at(now))).collect()
    }
}

fn new_lease(instance: &str, lease: u128) -> Lease {
    let terms = LeaseTerms::grant(Some(Duration::from_millis(TTL)), None);
    Lease::new(LeaseId(lease), name("web"), id(instance), BootId::parse("boot").unwrap(), terms, 0)
}

fn is_expire(command: &Command) -> bool {
    matches!(command, Command::Expire(_))
}

#[test]
fn lease_that_another_replica_holds_does_not_expire_here() {
    let replica = Replica::new();
    let entry = replica.put("a", 1, ELSEWHERE, 0);
    assert!(!replica.0.holds(&entry));
    assert!(replica.sweep(100, 20 * TTL).is_empty());
    assert!(entry.lease_is_alive());
    assert!(replica.0.leases().get(LeaseId(1)).is_some(), "any replica finds it for a heartbeat");
}

#[test]
fn lease_that_moves_here_gets_its_full_ttl() {
    let replica = Replica::new();
    let before = replica.put("a", 1, ELSEWHERE, 0);
    let after = replica.put("a", 1, HERE, 10_000);
    assert!(Arc::ptr_eq(before.lease.as_ref().unwrap(), after.lease.as_ref().unwrap()));
    assert!(replica.sweep(10_100, 10_000 + TTL).is_empty());
    assert_eq!(replica.sweep(10_100 + TTL, 10_300 + TTL).iter().filter(|command| is_expire(command)).count(), 1);
}

#[test]
fn lease_that_moves_away_does_not_expire_here() {
    let replica = Replica::new();
    replica.put("a", 1, HERE, 0);
    assert!(replica.sweep(100, TTL - 100).is_empty(), "it is expiring by now");
    replica.put("a", 1, ELSEWHERE, TTL - 100);
    assert!(replica.sweep(TTL, 20 * TTL).is_empty());
    let status = replica.0.self_preservation_of(&name("web"), 20 * TTL);
    assert_eq!(status.input.expiring, 0);
}

#[test]
fn lease_that_ended_here_and_is_claimed_elsewhere_accepts_heartbeats() {
    let replica = Replica::new();
    let before = replica.put("a", 1, HERE, 0);
    assert!(replica.sweep(100, TTL + 300).iter().any(is_expire));
    assert!(!before.lease_is_alive(), "its removal is under way");
    let after = replica.put("a", 1, ELSEWHERE, TTL + 400);
    assert!(after.lease_is_alive());
    let found = replica.0.leases().get(LeaseId(1)).unwrap();
    assert!(Arc::ptr_eq(&found, after.lease.as_ref().unwrap()) && found.renew(TTL + 500, None).is_ok());
}

#[test]
fn entry_whose_holder_is_gone_expires_here_after_ttl_and_delay() {
    let replica = Replica::new();
    let entry = replica.put("a", 1, ELSEWHERE, 0);
    replica.0.order().expire_here(&entry, Duration::from_secs(5), at(1_000));
    assert!(replica.sweep(1_100, 1_000 + TTL + 5_000).is_empty());
    assert!(!entry.lease.as_ref().unwrap().is_held_here(), "a heartbeat makes this replica claim it");
    let commands = replica.sweep(9_100, 9_300);
    assert!(matches!(&commands[..], [Command::Expire(lease)] if lease.id == LeaseId(1)));
}

#[test]
fn orphan_that_a_live_replica_claims_does_not_expire_here() {
    let replica = Replica::new();
    let entry = replica.put("a", 1, ELSEWHERE, 0);
    replica.0.order().expire_here(&entry, Duration::ZERO, at(0));
    replica.put("a", 1, SessionEpoch(9), 1_000);
    assert!(replica.sweep(1_100, 20 * TTL).is_empty());
}

#[test]
fn orphan_that_changes_is_still_an_orphan() {
    let replica = Replica::new();
    let entry = replica.put("a", 1, ELSEWHERE, 0);
    replica.0.order().expire_here(&entry, Duration::ZERO, at(0));
    // Such as the mark that its heartbeats are missing, or a drain.
    replica.put("a", 1, ELSEWHERE, 1_000);
    assert!(replica.sweep(1_100, TTL + 300).iter().any(is_expire));
}

#[test]
fn lease_that_an_earlier_session_holds_is_an_orphan_until_it_is_claimed() {
    let replica = Replica::new();
    let entry = replica.put("a", 1, HERE, 0);
    let lease = entry.lease.clone().unwrap();
    let (next, later) = (SessionEpoch(9), SessionEpoch(10));
    replica.0.order().set_session(next);
    replica.0.order().expire_here(&entry, Duration::ZERO, at(1_000));
    assert!(lease.expires_here() && !lease.is_held_here(), "a heartbeat makes this replica claim it");
    replica.put("a", 1, next, 2_000);
    assert!(lease.is_held_here());
    replica.0.order().set_session(later);
    replica.0.order().expire_here(&replica.get("a").unwrap(), Duration::ZERO, at(3_000));
    assert!(replica.sweep(3_100, 3_000 + TTL).is_empty());
    assert!(replica.sweep(3_100 + TTL, 3_300 + TTL).iter().any(is_expire));
}

#[test]
fn revived_lease_has_its_full_ttl_and_accepts_heartbeats() {
    let replica = Replica::new();
    replica.put("a", 1, HERE, 0);
    assert!(replica.sweep(100, TTL + 300).iter().any(is_expire));
    replica.0.order().revive(&replica.get("a").unwrap(), at(10_000));
    let lease = replica.get("a").unwrap().lease.clone().unwrap();
    assert!(Arc::ptr_eq(&lease, &replica.0.leases().get(LeaseId(1)).unwrap()) && lease.is_held_here());
    assert!(replica.sweep(10_100, 10_000 + TTL).is_empty());
    assert!(replica.sweep(10_100 + TTL, 10_300 + TTL).iter().any(is_expire));
}

#[test]
fn revived_lease_whose_holder_is_gone_still_expires_here() {
    let replica = Replica::new();
    let entry = replica.put("a", 1, ELSEWHERE, 0);
    replica.0.order().expire_here(&entry, Duration::ZERO, at(0));
    assert!(replica.sweep(100, TTL + 300).iter().any(is_expire));
    replica.0.order().revive(&replica.get("a").unwrap(), at(10_000));
    assert!(replica.sweep(10_100, 10_000 + TTL).is_empty());
    assert!(replica.sweep(10_100 + TTL, 10_300 + TTL).iter().any(is_expire));
}

#[test]
fn renewing_all_leases_postpones_those_that_expire_here() {
    let replica = Replica::new();
    replica.put("a", 1, HERE, 0);
    assert!(replica.sweep(100, TTL - 100).is_empty());
    let lease = replica.get("a").unwrap().lease.clone().unwrap();
    lease.renew(TTL - 100, None).unwrap();
    replica.0.order().renew_all_leases(at(TTL));
    assert!(replica.sweep(TTL + 100, 2 * TTL).is_empty());
    assert!(replica.sweep(2 * TTL + 100, 2 * TTL + 300).iter().any(is_expire));
}

#[test]
fn renewing_all_leases_gives_two_ttls_to_those_without_heartbeats_here() {
    let replica = Replica::new();
    replica.put("silent", 1, HERE, 0);
    let orphan = replica.put("orphan", 2, ELSEWHERE, 0);
    replica.0.order().expire_here(&orphan, Duration::ZERO, at(TTL - 100));
    replica.0.order().renew_all_leases(at(TTL - 100));
    assert!(replica.sweep(TTL, 3 * TTL - 200).is_empty());
    let expired = replica.sweep(3 * TTL - 100, 3 * TTL + 200);
    assert_eq!(expired.iter().filter(|command| is_expire(command)).count(), 2, "{expired:?}");
}

#[test]
fn expirations_elsewhere_count_in_self_preservation() {
    let replica = Replica::new();
    for number in 0..10 {
        replica.put(&format!("i{number}"), number, if number < 8 { ELSEWHERE } else { HERE }, 0);
    }
    replica.remove("i0", RemovalReason::Expired, 100);
    replica.remove("i1", RemovalReason::Deregistered, 100);
    let status = replica.0.self_preservation_of(&name("web"), 200);
    assert_eq!((status.input.instances, status.input.recent_expirations), (8, 1));
    let commands = replica.sweep(200, TTL + 500);
    assert!(!commands.iter().any(is_expire), "two more would be three of nine, more than a fifth: {commands:?}");
}

#[test]
fn other_boot_cannot_take_over_lease_that_another_replica_holds() {
    let replica = Replica::new();
    replica.put("a", 1, ELSEWHERE, 0);
    let command = |replace| Command::Register(Register { replace, ..register("web", "a", "other", 2) });
    let rejected = replica.0.order().decide(command(false), at(60_000)).unwrap_err();
    assert!(matches!(rejected, CommandError::HeldByOther { retry, .. } if retry == Duration::from_millis(TTL / 2)));
    assert!(replica.0.order().decide(command(true), at(60_000)).is_ok());
}

#[test]
fn claim_applies_to_the_registration_with_the_lease_only() {
    let replica = Replica::new();
    replica.put("a", 1, ELSEWHERE, 0);
    let claim = |instance: &str, lease, from| {
        let command = Command::Claim { service: name("web"), id: id(instance), lease, from };
        replica.0.order().decide(command, at(0)).unwrap().0
    };
    let first = Some(LeaseId(1));
    assert!(matches!(claim("a", first, ELSEWHERE), Decision::Apply(ProposedChange::Put { is_new: false, .. })));
    assert!(matches!(claim("a", Some(LeaseId(2)), ELSEWHERE), Decision::NoOp));
    assert!(matches!(claim("a", None, ELSEWHERE), Decision::NoOp));
    assert!(matches!(claim("b", None, ELSEWHERE), Decision::NoOp));
    assert!(matches!(claim("a", first, SessionEpoch(9)), Decision::NoOp), "a further replica has claimed it");
}

#[test]
fn instance_is_released_only_once_its_stream_is_broken() {
    let replica = Replica::new();
    let lease = replica.put("a", 1, HERE, 0).lease.clone().unwrap();
    let release = || {
        let command = Command::Release { service: name("web"), id: id("a"), to: ELSEWHERE };
        replica.0.order().decide(command, at(100)).unwrap().0
    };
    let stream = replica.0.leases().new_stream_id();
    lease.renew(100, Some(stream)).unwrap();
    assert!(matches!(release(), Decision::NoOp));
    lease.stream_broken(stream, 100);
    assert!(matches!(release(), Decision::Apply(ProposedChange::Put { is_new: false, .. })));
}

#[test]
fn released_instance_is_taken_over_unless_a_heartbeat_arrives() {
    let replica = Replica::new();
    let register = || {
        let command = Command::Register(register("web", "a", "other", 2));
        replica.0.order().decide(command, at(100)).map(drop)
    };
    replica.put("a", 1, ELSEWHERE, 0);
    let lease = replica.put("a", 1, HERE, 100).lease.clone().unwrap();
    assert!(register().is_err(), "this replica does not know that the stream is broken");
    lease.stream_broke_elsewhere();
    assert!(register().is_ok());
    lease.renew(100, Some(replica.0.leases().new_stream_id())).unwrap();
    lease.stream_broke_elsewhere();
    assert!(register().is_err(), "the old boot is alive");
}

#[test]
fn orphan_is_taken_over_after_half_of_its_ttl_without_a_heartbeat() {
    let replica = Replica::new();
    let entry = replica.put("a", 1, ELSEWHERE, 0);
    let lease = entry.lease.clone().unwrap();
    // Its program was here before, and went to the other replica.
    let stream = replica.0.leases().new_stream_id();
    lease.renew(0, Some(stream)).unwrap();
    lease.stream_broken(stream, 0);
    replica.0.order().expire_here(&entry, Duration::from_secs(12), at(1_000));
    assert_eq!(lease.can_be_taken_over(1_000), Err(Duration::from_millis(TTL / 2)));
    assert_eq!(lease.can_be_taken_over(1_000 + TTL / 2), Ok(()));
    lease.renew(1_000 + TTL / 2, Some(replica.0.leases().new_stream_id())).unwrap();
    assert_eq!(lease.can_be_taken_over(1_000 + TTL / 2), Err(Duration::from_millis(TTL / 2)), "it has come back");
}

#[test]
fn entry_has_revision_of_last_change_that_no_reader_sees() {
    let replica = Replica::new();
    let first = replica.put("a", 1, ELSEWHERE, 0);
    let second = replica.put("a", 1, HERE, 0);
    assert_eq!(second.instance.revision, first.instance.revision);
    assert_eq!(second.modified, replica.0.applied());
    assert!(second.modified > first.modified);
}

#[test]
fn announced_report_is_seen_by_readers_only_if_it_changes_the_status() {
    let engine = Memory::new(Incarnation(1), at(0), Arc::new(NoListener));
    let check = || CheckId::parse("c").unwrap();
    let definition = CheckDefinition::new(check(), "c", Probe::Ttl);
    let registration = RegisterWithoutLease {
        service: name("web"),
        id: id("a"),
        description: description(&[], 1),
        consul_registration: ConsulRegistration { id: "a".into(), ..ConsulRegistration::default() },
        checks: vec![NewCheck { definition: definition.into(), status: CheckStatus::Passing }],
        replace_checks: true,
    };
    engine.submit(Command::RegisterWithoutLease(Box::new(registration)), at(0)).unwrap();
    let seen = || {
        let registry = engine.registry();
        let events = registry.events(None, Revision(u64::MAX), 10).len();
        (events, registry.consul_index().checks_changed(), registry.view_revision(&name("web")))
    };
    let announce = |status| {
        let command = Command::AnnounceReport { service: name("web"), id: id("a"), check: check(), status };
        engine.submit(command, at(0)).unwrap().entry.unwrap()
    };
    let before = seen();
    let entry = announce(None);
    assert_eq!(entry.instance.checks.get("c").unwrap().announced_reports, 1);
    assert!(entry.modified > entry.instance.revision);
    assert_eq!(seen(), before);
    let entry = announce(Some(CheckStatus::Critical));
    let known = entry.instance.checks.get("c").unwrap();
    assert_eq!((known.status, known.announced_reports, seen().0), (CheckStatus::Critical, 2, before.0 + 1));
}

#[test]
fn expiration_that_did_not_know_of_one_elsewhere_is_judged_again() {
    let replica = Replica::new();
    for (number, instance) in (1..=20).map(|number| (number, format!("i{number:02}"))) {
        // Two here fall silent, and three elsewhere: each is less than a fifth, and both together are more.
        let holder = if number <= 2 { HERE } else { ELSEWHERE };
        replica.put(&instance, number, holder, 0);
    }
    let expired = replica.sweep(100, TTL + 100);
    assert!(expired.iter().all(is_expire) && expired.len() == 2, "{expired:?}");
    let leases: Vec<_> = expired
        .iter()
        .map(|command| match command {
            Command::Expire(lease) => Arc::clone(lease),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(leases.iter().all(|lease| !replica.0.is_outdated_expiration(lease)));
    // Another replica expires three at the same moment, and its batch is first.
    for instance in ["i03", "i04", "i05"] {
        replica.remove(instance, RemovalReason::Expired, TTL + 110);
    }
    for lease in &leases {
        assert!(replica.0.is_outdated_expiration(lease));
        let entry = replica.get(lease.instance.as_str()).unwrap();
        replica.0.order().judge_again(&entry, at(TTL + 120));
    }
    let status = replica.0.self_preservation_of(&name("web"), TTL + 120);
    assert_eq!(status.input.recent_expirations, 3, "those here were not carried out");
    let judged = replica.sweep(TTL + 200, TTL + 400);
    assert_eq!(judged.iter().filter(|command| matches!(command, Command::Suspect(_))).count(), 2, "{judged:?}");
    assert!(!judged.iter().any(is_expire), "{judged:?}");
}
