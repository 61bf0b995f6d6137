use std::time::Duration;

use super::{super::unknown_fields::tests::assert_known_fields, *};
use crate::model::{CheckDescription, HttpProbe, Probe, ProbeTarget, ProbeTls};

#[test]
fn known_fields_of_a_check_are_those_of_its_messages() {
    assert_known_fields::<RecordCheck>(&CHECK_FIELDS, &[]);
    assert_known_fields::<RecordPair>(&probe::PAIR_FIELDS, &[]);
    assert_known_fields::<RecordProbeTls>(&probe::TLS_FIELDS, &[]);
    assert_known_fields::<RecordCheckDescription>(&description::DESCRIPTION_FIELDS, &[]);
}

#[test]
fn check_of_each_kind_survives_encoding() {
    let tls = ProbeTls { server_name: "db".into(), skip_verify: true };
    let target = ProbeTarget::parse("tcp", "[::1]:80").unwrap();
    let url = "https://[::1]:80/x?y";
    let probes = [
        Probe::Http(HttpProbe {
            method: "POST".into(),
            headers: [("A", "b"), ("a", "c")].map(|(name, value)| (name.into(), value.into())).into(),
            body: "{}\n\0".into(),
            disable_redirects: true,
            tls: tls.clone(),
            ..HttpProbe::get(url)
        }),
        Probe::Http(HttpProbe::get("HTTP://user:secret@h")),
        Probe::Tcp { target: target.clone(), tls: Some(tls.clone()) },
        Probe::Grpc { target, service: "s".into(), tls: None },
        Probe::Ttl,
        Probe::Static,
    ];
    let checks = probes.into_iter().enumerate().map(|(at, probe)| {
        let definition = CheckDefinition {
            notes: "line\nline".into(),
            interval: Duration::from_secs(10),
            deregister_after: Some(Duration::from_mins(2)),
            output_max_size: 64,
            separate: at % 2 == 0,
            description: (probe == Probe::Static).then(|| {
                Box::new(CheckDescription {
                    output: "slow\n".into(),
                    kind: "http".into(),
                    interval: "10s".into(),
                    timeout: "1s".into(),
                    definition: r#"{"HTTP":"http://10.0.0.1/"}"#.into(),
                })
            }),
            ..CheckDefinition::new(CheckId::parse(&at.to_string()).unwrap(), "n", probe)
        };
        let check = Check::new(definition.validated().unwrap().into(), CheckStatus::Warning);
        let definition_revision = Revision(3 + at as u64);
        Check { created: Revision(3), revision: Revision(u64::MAX), definition_revision, ..check }
    });
    let checks = InstanceChecks::new(checks.collect()).unwrap();
    let records = encode(&checks);
    assert_eq!(decode(&records), Ok(checks));
    let json = serde_json::to_string(&records).unwrap();
    assert_eq!(serde_json::from_str::<Vec<RecordCheck>>(&json).unwrap(), records);
    assert!(decode(&[RecordCheck { kind: "tcp".into(), ..RecordCheck::default() }]).is_err());
}

#[test]
fn check_of_an_earlier_version_is_decoded() {
    let old = |kind: &str, target: &str| RecordCheck {
        id: "a".into(),
        kind: kind.into(),
        target: target.into(),
        interval_ms: 10_000,
        timeout_ms: 1_000,
        status: "passing".into(),
        ..RecordCheck::default()
    };
    let decoded = |kind, target| decode(&[old(kind, target)]).unwrap().get("a").unwrap().definition.clone();
    let http = decoded("http", "http://h:99999/x");
    assert_eq!(http.probe, Probe::Http(HttpProbe::get("http://h:99999/x")));
    assert_eq!(http.output_max_size, 4_096);
    for (target, host) in [("[::1]:80", "::1"), ("[a:b]:80", "a:b"), ("user@h:80", "user@h")] {
        let Probe::Tcp { target, .. } = decoded("tcp", target).probe.clone() else { panic!("a TCP check") };
        assert_eq!((&*target.host, target.port), (host, 80));
    }
    assert!(decode(&[old("tcp", "h")]).is_err());
}

#[test]
fn stored_ttl_of_zero_becomes_the_minimum() {
    let old = RecordCheck { id: "a".into(), kind: "ttl".into(), status: "passing".into(), ..RecordCheck::default() };
    let decoded = decode(&[old]).unwrap();
    assert_eq!(decoded.get("a").unwrap().definition.interval, Duration::from_secs(1));
}
