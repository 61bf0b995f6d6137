use bytes::Bytes;
use clap::Parser;
use tonic::Status;

use super::*;
use crate::client::ClientError;

#[derive(Debug, Parser)]
struct TestLine {
    #[command(flatten)]
    announce: InstanceArgs,
}

fn parse(arguments: &str) -> Result<RegisterRequest, clap::Error> {
    let line = TestLine::try_parse_from(format!("register {arguments}").split_whitespace())?;
    Ok(line.announce.request("web".to_owned(), address("127.0.0.1:9001").unwrap(), false))
}

fn announcer() -> RegistrationPrinter {
    RegistrationPrinter::new("127.0.0.1:1".to_owned(), &parse("--id a").unwrap())
}

#[test]
fn what_is_not_said_is_left_to_the_registry() {
    let request = parse("").unwrap();
    assert_eq!(request.id, "127.0.0.1-9001");
    assert_eq!((request.weight, request.ttl, request.disconnect_grace), (None, None, None));
    assert!(request.locality.is_none() && request.tags.is_empty() && !request.replace && !request.starting);
}

#[test]
fn every_option_reaches_the_request() {
    let request = parse(
        "--id a --ttl 5s --disconnect-grace 1s --tag v2 --tag blue --meta team=checkout --meta eq=a=b --weight 3 \
         --zone eu-1a --region eu --sub-zone rack --replace",
    );
    let request = request.unwrap();
    let seconds = |duration: prost_types::Duration| duration.seconds;
    assert_eq!((request.ttl.map(seconds), request.disconnect_grace.map(seconds)), (Some(5), Some(1)));
    assert_eq!(request.tags, ["v2", "blue"]);
    assert_eq!(request.metadata["team"], "checkout");
    assert_eq!(request.metadata["eq"], "a=b");
    let locality = request.locality.unwrap();
    assert_eq!((locality.region.as_str(), locality.zone.as_str(), locality.sub_zone.as_str()), ("eu", "eu-1a", "rack"));
    assert_eq!((request.id.as_str(), request.weight, request.replace), ("a", Some(3), true));
}

#[test]
fn bad_values_are_usage_errors_that_say_what_to_write() {
    for (arguments, remedy) in [
        ("--weight 0", "1..=65535"),
        ("--weight 65536", "1..=65535"),
        ("--meta novalue", "KEY=VALUE"),
        ("--meta =x", "KEY=VALUE"),
        ("--ttl soon", "number"),
    ] {
        let error = parse(arguments).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{arguments}");
        assert!(error.to_string().contains(remedy), "{error}");
    }
}

#[test]
fn addresses_are_host_and_port() {
    for (text, host, port) in
        [("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:80", "::1", 80), ("web-1.internal:65535", "web-1.internal", 65_535)]
    {
        let parsed = address(text).unwrap();
        assert_eq!((parsed.host.as_str(), parsed.port), (host, port), "{text}");
    }
    for (text, remedy) in [
        ("localhost", "HOST:PORT"),
        (":80", "HOST:PORT"),
        ("[]:80", "HOST:PORT"),
        ("::1:80", "[::1]:9001"),
        ("host:0", "1 to 65535"),
        ("host:", "1 to 65535"),
        ("host:70000", "1 to 65535"),
    ] {
        let error = address(text).unwrap_err();
        assert!(error.contains(remedy), "{text}: {error}");
    }
}

#[test]
fn an_event_is_one_object_with_the_lease_in_hexadecimal() {
    let event = RegistrationEvent::Registered {
        lease_id: Bytes::from_static(&[0, 0xab]),
        ttl: Duration::from_secs(5),
        revision: 7,
        again: false,
    };
    let json = serde_json::to_value(announcer().announcement(&event)).unwrap();
    let expected = serde_json::json!({
        "type": "registered", "service": "web", "id": "a",
        "lease_id": "00ab", "ttl_seconds": 5.0, "revision": 7, "again": false,
    });
    assert_eq!(json, expected);
    let text = announcer().success(&event).unwrap();
    assert_eq!(text, "registered web/a at 127.0.0.1:9001 (ttl 5s, revision 7)");
}

#[test]
fn the_same_trouble_is_told_once_until_it_ends() {
    let down = RegistrationEvent::Interrupted {
        error: ClientError::Transport("connection refused".to_owned()),
        retry_in: Duration::from_secs(1),
    };
    let mut announcer = announcer();
    announcer.trouble(&down);
    let told = announcer.told.clone().unwrap();
    assert!(told.contains("127.0.0.1:1: connection refused"), "{told}");
    announcer.trouble(&down);
    assert_eq!(announcer.told.as_ref(), Some(&told));
    announcer.trouble(&RegistrationEvent::Resumed { time_left: Duration::ZERO });
    assert_eq!(announcer.told, None);
}

#[test]
fn the_end_decides_the_exit_code() {
    let refused = |status| RegistrationEnd::Refused(ClientError::Refused(status));
    for (departure, code) in [
        (RegistrationEnd::Deregistered { removed: true }, 0),
        (RegistrationEnd::Superseded, 1),
        (RegistrationEnd::Removed, 1),
        (refused(Status::invalid_argument("service")), 2),
        (refused(Status::permission_denied("no")), 5),
        (RegistrationEnd::Unanswered(ClientError::Silent(Duration::from_secs(2))), 4),
    ] {
        assert_eq!(departure_exit_code(&departure), code, "{departure:?}");
    }
}
