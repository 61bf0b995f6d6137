//! Policies through restarts, kills, exports and earlier formats.

mod records;

use redb::{Database, TableDefinition};

use super::{
    backend::{self, load},
    *,
};
use crate::{
    engine::disk::export,
    model::{PolicyScope, ServicePolicy},
    registry::{PolicyCommand, PolicyError, PolicyOutcome, PolicyRevision},
};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Returns the scope of a service; of the defaults for an empty name.
fn scope(service: &str) -> PolicyScope {
    if service.is_empty() { PolicyScope::Defaults } else { PolicyScope::Service(name(service)) }
}

pub fn policy(service: &str, document: &str) -> ServicePolicy {
    ServicePolicy::from_document(&scope(service), &serde_json::from_str(document).unwrap()).unwrap()
}

fn command(service: &str, document: &str) -> PolicyCommand {
    PolicyCommand { scope: scope(service), policy: policy(service, document), expected_revision: None }
}

fn send(engine: &dyn Engine, command: PolicyCommand) -> PendingCommand<PolicyOutcome> {
    engine.submit_policy(command, ServerActor::InProcess.caller(), at(0))
}

fn set(engine: &dyn Engine, service: &str, document: &str) -> Revision {
    send(engine, command(service, document)).wait().unwrap().newest.unwrap().revision
}

fn revisions(engine: &dyn Engine, service: &str) -> Vec<Arc<PolicyRevision>> {
    engine.registry().policies().revisions(&scope(service))
}

fn timeout(seconds: u64) -> String {
    format!(r#"{{"timeout":"{seconds}s"}}"#)
}

fn memory() -> Memory {
    // Revisions of both engines start at 0.
    Memory::new(INCARNATION, ClockReading { wall: crate::model::UnixMillis(0), ..at(0) }, Arc::new(NoListener))
}

#[test]
fn restart_loads_all_policies_and_their_revisions() {
    let directory = TempDir::new().unwrap();
    let first = open(directory.path(), Durability::Durable);
    set(&first, "", r#"{"lb":"least_request"}"#);
    for seconds in 1..=25 {
        set(&first, "web", &timeout(seconds));
    }
    set(&first, "gone", &timeout(1));
    let newest = set(&first, "gone", "{}");
    let before = ["", "web", "gone"].map(|service| revisions(&first, service));
    assert_eq!(before.each_ref().map(Vec::len), [1, 20, 2]);
    let effective = first.registry().policies().effective(&name("web"));
    first.close();
    drop(first);

    let second = open(directory.path(), Durability::Durable);
    assert_eq!(["", "web", "gone"].map(|service| revisions(&second, service)), before);
    let policies = second.registry().policies();
    assert_eq!((policies.revision(), second.registry().applied(), policies.len()), (newest, newest, 2));
    assert_eq!(policies.effective(&name("web")), effective);
    assert!(!send(&second, command("web", &timeout(25))).wait().unwrap().changed);
    assert_eq!(set(&second, "web", &timeout(1)), newest.next());
    second.close();
}

#[test]
fn policy_that_was_answered_survives_a_kill() {
    let (backend, store) = backend::store();
    let disk = Disk::start(store, LoadedRecords::default(), Durability::Durable, dependencies(), never_fails());
    let disk = disk.unwrap();
    for seconds in 1..=5 {
        let revision = set(&disk, "web", &timeout(seconds));
        let (_, found) = load(backend.synced()).unwrap();
        let newest = found.policies[0].revisions.last().unwrap();
        assert_eq!((newest.revision, &newest.policy), (revision, &policy("web", &timeout(seconds))));
        assert_eq!((found.policies[0].revisions.len() as u64, found.revision), (seconds, revision));
    }
    disk.close();
}

#[test]
fn commands_and_policies_have_one_order() {
    let directory = TempDir::new().unwrap();
    let disk = open(directory.path(), Durability::Durable);
    let (mut policies, mut commands) = (Vec::new(), Vec::new());
    for seconds in 1..=30 {
        let id = format!("i{seconds}");
        let register = Command::Register(register("web", &id, "boot", seconds.into()));
        commands.push(disk.submit(register, ServerActor::InProcess.caller(), at(0)));
        policies.push(send(&disk, command(if seconds % 2 == 0 { "web" } else { "" }, &timeout(seconds))));
    }
    let mut all: Vec<_> = commands.into_iter().map(|sent| sent.wait().unwrap().revision.0).collect();
    let of_policies: Vec<_> =
        policies.into_iter().map(|sent| sent.wait().unwrap().newest.unwrap().revision.0).collect();
    assert!(of_policies.is_sorted(), "{of_policies:?}");
    all.extend(of_policies);
    all.sort_unstable();
    assert_eq!(all, (1..=60).collect::<Vec<_>>());
    assert_eq!(disk.queues.waiting.load(Ordering::Relaxed), 0);
    disk.close();
    assert!(matches!(send(&disk, command("web", "{}")).wait(), Err(EngineError::Stopped)));
}

#[test]
fn one_of_two_changes_of_the_same_revision_wins() {
    let directory = TempDir::new().unwrap();
    let (memory, disk) = (memory(), open(directory.path(), Durability::Durable));
    for engine in [&memory as &dyn Engine, &disk] {
        for round in 1..=20 {
            let present = engine.registry().policies().newest(&scope("web")).map_or(Revision(0), |it| it.revision);
            let change = |seconds: u64| {
                let command = PolicyCommand { expected_revision: Some(present), ..command("web", &timeout(seconds)) };
                send(engine, command).wait()
            };
            let outcomes = thread::scope(|scope| {
                let others = [2, 3].map(|other| scope.spawn(move || change(round * 10 + other)));
                others.map(|other| other.join().unwrap())
            });
            let [won, lost] = &outcomes.map(|outcome| outcome.map_err(|error| error.to_string()));
            let (won, lost) = if won.is_ok() { (won, lost) } else { (lost, won) };
            let newest = won.as_ref().unwrap().newest.as_ref().unwrap();
            assert_eq!(revisions(engine, "web")[0], *newest);
            let error = lost.as_ref().unwrap_err();
            let expected = format!("has revision {}, not {present}: ", newest.revision);
            assert!(error.contains(&expected), "{error} without {expected}");
        }
    }
    disk.close();
}

#[test]
fn policy_whose_caller_no_longer_waits_is_set_and_wakes_readers() {
    #[derive(Debug, Default)]
    struct Changed(Mutex<Vec<PolicyScope>>);
    impl ChangeListener for Changed {
        fn changed(&self, _: &crate::registry::Event) {}

        fn policy_changed(&self, scope: &PolicyScope) {
            self.0.lock().push(scope.clone());
        }
    }
    let (directory, changed) = (TempDir::new().unwrap(), Arc::<Changed>::default());
    let listener = Arc::clone(&changed) as Arc<dyn ChangeListener>;
    let dependencies = DiskDependencies { listener, ..dependencies() };
    let disk = Disk::open(directory.path(), Durability::Durable, dependencies, never_fails()).unwrap();
    drop(send(&disk, command("web", &timeout(1))));
    drop(send(&disk, command("", &timeout(2))));
    drop(send(&disk, command("web", &timeout(1))));
    disk.close();
    assert_eq!(*changed.0.lock(), [scope("web"), scope("")]);
    drop(disk);
    assert_eq!(Store::read(directory.path()).unwrap().policies.len(), 2);
}

fn format(directory: &Path) -> u32 {
    let database = Database::open(directory.join("registry.redb")).unwrap();
    let transaction = redb::ReadableDatabase::begin_read(&database).unwrap();
    let format = transaction.open_table(META).unwrap().get("format").unwrap().unwrap();
    u32::from_be_bytes(format.value().try_into().unwrap())
}

#[test]
fn store_has_a_format_that_earlier_versions_reject_only_once_it_has_policies() {
    let directory = TempDir::new().unwrap();
    let disk = open(directory.path(), Durability::Durable);
    register_instance(&disk, "web", "a", 1);
    disk.close();
    drop(disk);
    assert_eq!(format(directory.path()), 3);
    // Without the table of policies, it is a store of an earlier version.
    let disk = open(directory.path(), Durability::Durable);
    set(&disk, "web", &timeout(1));
    disk.close();
    drop(disk);
    assert_eq!(format(directory.path()), 4);
    let disk = open(directory.path(), Durability::Durable);
    assert_eq!((contents(&disk).len(), disk.registry().policies().len()), (1, 1));
    disk.close();
    drop(disk);
    assert_eq!(format(directory.path()), 4);
}

#[test]
fn imported_policies_are_the_exported_ones() {
    let directory = TempDir::new().unwrap();
    let disk = open(directory.path(), Durability::Durable);
    register_instance(&disk, "web", "a", 1);
    set(&disk, "", r#"{"retry":{"attempts":2},"max_requests":7}"#);
    set(&disk, "web", &timeout(1));
    let subsets =
        r#"{"subsets":{"v2":"\"v2\" in tags"},"default":{"v2":100},"fallback":["dr"],"route":[{"method":"/a.B/*"}]}"#;
    set(&disk, "web", subsets);
    set(&disk, "gone", &timeout(1));
    set(&disk, "gone", "{}");
    let client = |identity: Option<&str>| {
        let (protocol, peer) = (crate::model::CallerProtocol::Grpc, "[::1]:99".parse().unwrap());
        Arc::new(Caller::Client { protocol, peer, identity: identity.map(Arc::from) })
    };
    for (seconds, identity) in [(2, None), (3, Some("spiffe://a/b"))] {
        disk.submit_policy(command("api", &timeout(seconds)), &client(identity), at(0)).wait().unwrap();
    }
    disk.close();
    drop(disk);
    let exported = Store::read(directory.path()).unwrap();
    assert_eq!(exported.policies.len(), 4);
    let mut lines = Vec::new();
    export::write(&exported, &mut lines, || {}).unwrap();
    let text = String::from_utf8(lines).unwrap();
    assert!(text.starts_with(&format!(
        "{{\"callboard_export\":2,\"revision\":{},\"instances\":1,\"policies\":4}}\n{{\"policy_of\":\"\",",
        exported.revision
    )));
    let read = export::read(text.as_bytes(), |_| {}).unwrap();
    assert_eq!(read, exported);
    // The order of the lines does not matter.
    let (header, lines) = text.split_once('\n').unwrap();
    let reversed: Vec<_> = [header].into_iter().chain(lines.lines().rev()).collect();
    assert_eq!(export::read(reversed.join("\n").as_bytes(), |_| {}).unwrap(), exported);
    let elsewhere = TempDir::new().unwrap();
    import(elsewhere.path(), &read, at(0)).unwrap();
    assert_eq!(format(elsewhere.path()), 4);
    let imported = open(elsewhere.path(), Durability::Durable);
    let policies = imported.registry().policies();
    assert_eq!(
        (policies.len(), policies.revisions(&scope("api"))),
        (3, exported.policies[1].revisions.iter().rev().cloned().collect())
    );
    assert!(imported.registry().applied() >= exported.revision);
    imported.close();
}

#[test]
fn export_with_invalid_policies_is_rejected_with_the_reason() {
    let line = |service: &str, revision: u64, document: &str| {
        format!(
            "{{\"policy_of\":\"{service}\",\"revisions\":[{{\"revision\":{revision},\"time\":\"2026-01-31T12:00:00Z\",\
             \"caller\":{{\"kind\":\"in_process\"}},\"policy\":{document}}}]}}"
        )
    };
    let error = |policies: usize, lines: &[String]| {
        let header = format!("{{\"callboard_export\":2,\"revision\":9,\"instances\":0,\"policies\":{policies}}}");
        let text = [&[header], lines].concat().join("\n");
        export::read(text.as_bytes(), |_| {}).unwrap_err().to_string()
    };
    let cases = [
        (error(2, &[line("a", 1, "{}")]), "the export has 1 policies, but its first line says 2"),
        (error(2, &[line("a", 1, "{}"), line("a", 2, "{}")]), "line 3: the policy of service \"a\" occurs twice"),
        (error(1, &[line("a b", 1, "{}")]), "line 2: service \"a b\" contains an invalid character"),
        (error(1, &[line("a", 1, "{\"timeout\":\"soon\"}")]), "line 2: revisions[0].policy.timeout \"soon\""),
        (error(1, &[line("a", u64::MAX, "{}")]), "line 2: revision 18446744073709551615 is larger"),
        (
            error(1, &[line("a", 1, "{}").replace("in_process", "nobody")]),
            "line 2: revisions[0].caller.kind \"nobody\"",
        ),
        (error(1, &["{\"policy_of\":\"a\",\"revisions\":[]}".to_owned()]), "line 2: revisions has 0 entries"),
        (error(1, &["{\"policy_of\":\"a\",\"revi".to_owned()]), "line 2: EOF while parsing a string at column"),
        (
            error(1, &["{\"policy_of\":null,\"revisions\":[]}".to_owned()]),
            "line 2: invalid type: null, expected a string at column",
        ),
        (error(1, &[line("a", 1, "{\"timeout\":\"5s\",\"timeout\":\"6s\"}")]), "\"timeout\" occurs twice: remove one"),
        (
            error(2, &[line("a", 1, "{\"fallback\":[\"b\"]}"), line("b", 2, "{\"fallback\":[\"a\"]}")]),
            "the policy of service \"a\": fallback \"b\" leads back",
        ),
        (
            error(2, &[line("", 1, "{\"lb\":\"ring_hash\"}"), line("b", 2, "{\"slow_start\":\"60s\"}")]),
            "the policy of service \"b\": slow_start",
        ),
    ];
    for (error, expected) in cases {
        assert!(error.contains(expected), "{error} without {expected}");
    }
}

#[test]
fn import_skips_earlier_revisions_that_are_invalid_and_keeps_the_present_policy() {
    let revision = |revision: u64, document: &str| {
        format!(
            "{{\"revision\":{revision},\"time\":\"2026-01-31T12:00:00Z\",\"caller\":{{\"kind\":\"in_process\"}},\
             \"policy\":{document}}}"
        )
    };
    let header = "{\"callboard_export\":2,\"revision\":9,\"instances\":0,\"policies\":1}";
    let read = |revisions: [&str; 3]| {
        let line = format!("{header}\n{{\"policy_of\":\"a\",\"revisions\":[{}]}}", revisions.join(","));
        export::read(line.as_bytes(), |_| {})
    };
    let (valid, invalid) = (|at| revision(at, &timeout(at)), |at| revision(at, "{\"timeout\":\"soon\"}"));
    let records = read([&valid(2), &invalid(4), &valid(7)]).unwrap();
    let kept: Vec<_> = records.policies[0].revisions.iter().map(|revision| revision.revision.0).collect();
    assert_eq!((kept, records.policies[0].unknown_until()), (vec![2, 7], Revision(6)));
    let skipped: Vec<_> = records.skipped_revisions().map(ToString::to_string).collect();
    let reason =
        "revision 4 of the policy of service \"a\" is left out of its history: revisions[1].policy.timeout \"soon\"";
    assert!(skipped.len() == 1 && skipped[0].starts_with(reason), "{skipped:?}");
    let error = read([&valid(2), &valid(4), &invalid(7)]).unwrap_err().to_string();
    assert!(error.starts_with("line 2: revisions[2].policy.timeout \"soon\""), "{error}");
    let error = read([&valid(2), &invalid(2), &valid(7)]).unwrap_err().to_string();
    assert!(error.starts_with("line 2: revisions[1].revision \"2\" is not above the one before"), "{error}");
}

#[test]
fn export_with_a_very_long_chain_of_fallbacks_is_rejected() {
    const SERVICES: usize = 9_999;
    let mut lines = vec![format!("{{\"callboard_export\":2,\"revision\":9,\"instances\":0,\"policies\":{SERVICES}}}")];
    lines.extend((0..SERVICES).map(|at| {
        format!(
            "{{\"policy_of\":\"s{at}\",\"revisions\":[{{\"revision\":1,\"time\":\"2026-01-31T12:00:00Z\",\
             \"caller\":{{\"kind\":\"in_process\"}},\"policy\":{{\"fallback\":[\"s{}\"]}}}}]}}",
            at + 1
        )
    }));
    // A function that calls itself for each fallback needs more stack than this.
    let import = thread::Builder::new().stack_size(256 * 1024);
    let import = import.spawn(move || export::read(lines.join("\n").as_bytes(), |_| {}).unwrap_err().to_string());
    let error = import.unwrap().join().unwrap();
    assert!(error.contains("fallback makes a chain of 5 fallbacks (s0 -> s1 -> "), "{error}");
}

#[test]
fn policy_that_is_forgotten_leaves_the_store() {
    let (backend, mut store) = backend::store();
    let revision = |number| {
        let (time, caller) = (crate::model::UnixMillis(0), Arc::clone(ServerActor::InProcess.caller()));
        [Arc::new(PolicyRevision { revision: Revision(number), time, caller, policy: policy("a", &timeout(1)) })]
    };
    let (a, b) = (scope("a"), scope("b"));
    store.write([RecordChange::Policy(&a, &revision(1))].into_iter(), Revision(1), true).unwrap();
    let changes = [RecordChange::Policy(&a, &[]), RecordChange::Policy(&b, &revision(2))];
    store.write(changes.into_iter(), Revision(2), true).unwrap();
    let (_, found) = load(backend.synced()).unwrap();
    assert_eq!(found.policies.iter().map(|stored| &stored.scope).collect::<Vec<_>>(), [&b]);
    assert_eq!(found.forgotten_policies, Revision(2));
    let disk = Disk::start(store, found, Durability::Durable, dependencies(), never_fails()).unwrap();
    assert_eq!(
        disk.registry().policies().effective(&name("a")).revision,
        Revision(2),
        "not 0, as before the first policy"
    );
    disk.close();
}

#[test]
fn rejected_policy_changes_nothing_in_either_engine() {
    let directory = TempDir::new().unwrap();
    let (memory, disk) = (memory(), open(directory.path(), Durability::Durable));
    for engine in [&memory as &dyn Engine, &disk] {
        set(engine, "b", r#"{"fallback":["a"]}"#);
        let before = engine.registry().applied();
        let error = send(engine, command("a", r#"{"fallback":["b"]}"#)).wait().unwrap_err();
        assert!(matches!(error, EngineError::PolicyRejected(PolicyError::Invalid(_))), "{error}");
        assert_eq!((engine.registry().applied(), revisions(engine, "a").len()), (before, 0));
        let absent = send(engine, command("a", "{}")).wait().unwrap();
        assert!(!absent.changed && absent.newest.is_none(), "an absent policy stays absent");
    }
    disk.close();
}
