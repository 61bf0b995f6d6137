//! `callboard policy set`: changes fields of a policy, or replaces it by a file.

use std::process::ExitCode;

use super::{
    PolicyTargetArgs,
    change::{ChangeArgs, edit, replace},
    fields::PolicyFields,
    text::{PolicyFile, inline},
};
use crate::cli::{
    error::CliError,
    terminal::{escape, print_stderr},
};
use clap::Args;

#[derive(Debug, Args)]
#[command(
    after_help = "Flags change their fields and keep the others. --file replaces the whole policy; `callboard policy get` \
                  prints such a file. Fields that have no flag: use --file, `callboard subset` or `callboard route`."
)]
pub(super) struct SetArgs {
    #[command(flatten)]
    target: PolicyTargetArgs,
    /// Replace the policy by this TOML or JSON file; -: standard input
    #[arg(long, value_name = "FILE", conflicts_with = "FieldArgs")]
    file: Option<String>,
    #[command(flatten)]
    fields: FieldArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Fields of a policy. The server validates them.
#[derive(Debug, Default, Args)]
#[group(multiple = true)]
#[expect(clippy::doc_markdown, reason = "the comments are help texts, which are plain text")]
pub(super) struct FieldArgs {
    /// Balancing of calls: round_robin, least_request, ring_hash, or weighted (by loads that instances report to clients)
    #[arg(long, value_name = "POLICY")]
    lb: Option<String>,
    /// Maximum time of a call, for example 5s; 0s: the caller's deadline only
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    timeout: Option<String>,
    /// Maximum number of open calls of each client process; 0: unlimited
    #[arg(long, value_name = "N")]
    max_requests: Option<u32>,
    /// Number of further attempts after a failed call, 0 to 4
    #[arg(long, value_name = "N")]
    retries: Option<u8>,
    /// Status codes after which a call is retried, for example unavailable,cancelled
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    retry_on: Vec<String>,
    /// Delay before the first retry, which doubles with each further one
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    backoff: Option<String>,
    /// Maximum delay before a retry
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    max_backoff: Option<String>,
    /// Detection of instances that fail more often than others: off, or default for the built-in thresholds
    #[arg(long, value_parser = ["off", "default"])]
    outlier: Option<String>,
    /// Source of the weights: configured or response_time
    #[arg(long, value_name = "SOURCE")]
    weights: Option<String>,
    /// Time in which the weight of a new instance rises to its full value; 0s: at once
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    slow_start: Option<String>,
    /// Preference for instances in the client's zone: off or prefer
    #[arg(long, value_name = "MODE")]
    zone: Option<String>,
    /// Percentage of calls that clients drop, 0 to 100
    #[arg(long, value_name = "PERCENT")]
    shed: Option<u8>,
    /// Services that take the calls once this one has no routable instance, in this order
    #[arg(long, value_name = "SERVICE", value_delimiter = ',', value_parser = fallback_name)]
    fallback: Vec<String>,
}

impl FieldArgs {
    /// Sets the fields of the flags that are given.
    fn apply(&self, document: &mut PolicyFields) {
        let texts = [
            ("lb", &self.lb),
            ("timeout", &self.timeout),
            ("retry.backoff", &self.backoff),
            ("retry.max_backoff", &self.max_backoff),
            ("weights", &self.weights),
            ("slow_start", &self.slow_start),
            ("zone", &self.zone),
        ];
        for (path, value) in texts {
            if let Some(value) = value {
                document.set(path, value.clone());
            }
        }
        let numbers = [
            ("max_requests", self.max_requests),
            ("retry.attempts", self.retries.map(u32::from)),
            ("shed", self.shed.map(u32::from)),
        ];
        for (path, value) in numbers {
            if let Some(value) = value {
                document.set(path, value);
            }
        }
        for (path, values) in [("retry.on", &self.retry_on), ("fallback", &self.fallback)] {
            if !values.is_empty() {
                document.set(path, values.clone());
            }
        }
        if let Some(value) = self.outlier.as_deref() {
            document.set("outlier", value);
        }
    }

    /// Returns a note on thresholds of outlier detection that are lost.
    fn note(&self, before: &PolicyFields) -> Option<String> {
        let thresholds = before.get("outlier").filter(|value| value.is_object())?;
        let value = self.outlier.as_deref()?;
        Some(format!("note: outlier = \"{value}\" replaces the thresholds {}", inline(thresholds)))
    }

    fn is_empty(&self) -> bool {
        let mut document = PolicyFields::default();
        self.apply(&mut document);
        document.is_empty()
    }
}

pub(super) async fn run(args: SetArgs) -> Result<ExitCode, CliError> {
    let target = args.target.target();
    if let Some(file) = args.file {
        let document = PolicyFile::read(&file)?.one(&target)?;
        return replace(&target, &args.change, &document).await;
    }
    if args.fields.is_empty() {
        return Err(CliError::Usage(
            "no field is given; set one with a flag, for example --timeout 5s, or replace the policy with --file"
                .into(),
        ));
    }
    let (fields, mut note) = (args.fields, None);
    let set = |document: &mut PolicyFields| {
        note = fields.note(document);
        fields.apply(document);
        Ok(())
    };
    let code = edit(target, args.change, set).await?;
    if let Some(note) = note {
        print_stderr(&escape(&note));
    }
    Ok(code)
}

/// Parses the name of a fallback.
fn fallback_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("it is empty: name a service, or remove the fallbacks with `callboard policy unset SERVICE fallback`"
            .to_owned())
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cli::policy::tests::fields;

    #[derive(Debug, Parser)]
    struct TestCommand {
        #[command(flatten)]
        args: SetArgs,
    }

    fn parse(line: &str) -> Result<SetArgs, clap::Error> {
        TestCommand::try_parse_from(["set"].into_iter().chain(line.split(' '))).map(|command| command.args)
    }

    fn applied(line: &str, mut document: PolicyFields) -> PolicyFields {
        parse(line).unwrap().fields.apply(&mut document);
        document
    }

    #[test]
    fn every_flag_sets_its_field() {
        let line = "payments --lb least_request --timeout 5s --max-requests 100 --retries 2 --retry-on unavailable,cancelled \
                    --backoff 25ms --max-backoff 1s --outlier off --weights response_time --slow-start 60s --zone prefer \
                    --shed 20 --fallback a,b";
        let expected = json!({
            "lb": "least_request", "timeout": "5s", "max_requests": 100,
            "retry": {"attempts": 2, "on": ["unavailable", "cancelled"], "backoff": "25ms", "max_backoff": "1s"},
            "outlier": "off", "weights": "response_time", "slow_start": "60s", "zone": "prefer", "shed": 20,
            "fallback": ["a", "b"],
        });
        assert_eq!(applied(line, PolicyFields::default()), fields(expected));
    }

    #[test]
    fn flags_keep_the_fields_that_they_do_not_name() {
        let before = fields(json!({"timeout": "5s", "outlier": "off", "retry": {"attempts": 1, "on": ["internal"]}}));
        let expected = json!({"timeout": "5s", "outlier": "default", "retry": {"attempts": 0, "on": ["internal"]}});
        assert_eq!(applied("payments --retries 0 --outlier default", before), fields(expected));
    }

    #[test]
    fn thresholds_that_a_flag_replaces_are_named() {
        let note = |line: &str, before| parse(line).unwrap().fields.note(&fields(before));
        let before = json!({"outlier": {"hosts": 5}});
        let expected = "note: outlier = \"default\" replaces the thresholds { hosts = 5 }";
        assert_eq!(note("payments --outlier default", before.clone()).as_deref(), Some(expected));
        assert_eq!(note("payments --shed 1", before), None);
        assert_eq!(note("payments --outlier off", json!({"outlier": "default"})), None);
    }

    #[test]
    fn value_that_the_registry_would_misunderstand_is_rejected() {
        let error = parse("payments --fallback a,").unwrap_err().to_string();
        assert!(error.contains("callboard policy unset SERVICE fallback"), "{error}");
        let error = TestCommand::try_parse_from(["set", "", "--shed", "100"]).unwrap_err();
        assert!(error.to_string().contains("the service name is empty: name a service, or use --defaults"), "{error}");
        assert_eq!(parse("payments --timeout -5s").unwrap().fields.timeout.as_deref(), Some("-5s"));
    }

    #[test]
    fn service_or_defaults_and_file_or_flags() {
        assert!(parse("payments").unwrap().fields.is_empty());
        assert!(parse("--defaults --file -").is_ok());
        assert!(parse("payments --file a.toml --if-revision 7 --wait").is_ok());
        for wrong in [
            "--lb round_robin",
            "payments --defaults --lb round_robin",
            "payments --file a.toml --lb round_robin",
            "payments --outlier on",
            "payments --shed 1 --dry-run --wait",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wait_has_a_default() {
        let wait = |line: &str| parse(line).unwrap().change.options.wait.map(|limit| limit.as_secs());
        assert_eq!(wait("payments --shed 1"), None);
        assert_eq!(wait("payments --shed 1 --wait"), Some(30));
        assert_eq!(wait("payments --shed 1 --wait=2m"), Some(120));
        assert_eq!(wait("--wait payments --shed 1"), Some(30));
    }
}
