//! Checks, of services and of nodes.

use crate::{
    app::ListedChange,
    model::{Address, CheckId, InstanceId, Listing, Metadata, ServiceName, Tags, Verdict, Weight, nodes},
    protocol::consul::{Call, Consul, Problem, body::Asked, reply::Reply},
    registry::{Command, Description, Enroll},
};

impl Consul {
    pub(super) async fn check_register(&self, body: &[u8]) -> Result<Reply, Problem> {
        let asked = Asked::read(body)?;
        if asked.name.is_empty() {
            return Err(Problem::Text("Missing check name"));
        }
        let check = asked.check(&asked.name, &asked.name)?;
        if asked.service.is_empty() {
            self.shared
                .checks
                .admit([&check.definition.probe].into_iter(), [&*self.agent.address.to_string()].into_iter())?;
            let (service, id) = (nodes(), InstanceId::of_node(""));
            self.change_own_node(Command::AddCheck { service, id, check }).await?;
            return Ok(Reply::empty());
        }
        let missing = || Problem::NotFound(format!("ServiceID {:?} does not exist", asked.service));
        let entry = self.own_by_id(&asked.service).ok_or_else(missing)?;
        let own = entry.instance.addresses.iter().map(|address| &*address.host);
        self.shared.checks.admit([&check.definition.probe].into_iter(), own)?;
        let add = ListedChange::AddCheck(check);
        let done = self.shared.commands.submit_listed(entry.instance.id.clone(), add).await?;
        done.map(|_| Reply::empty()).ok_or_else(missing)
    }

    /// Takes a check away, wherever on the node it is.
    pub(super) async fn check_deregister(&self, node: &str, check: &str) -> Result<Reply, Problem> {
        let (service, id) = self.owner(node, check)?;
        self.submit(Command::RemoveCheck { service, id, check: CheckId::parse(check)?, created: None }).await?;
        Ok(Reply::empty())
    }

    /// `pass`, `warn` and `fail`, with a note.
    pub(super) async fn fed(&self, call: &Call, verdict: Verdict) -> Result<Reply, Problem> {
        self.feed(&call.subject, verdict, call.query.get("note").unwrap_or_default()).await
    }

    pub(super) async fn feed(&self, check: &str, verdict: Verdict, output: &str) -> Result<Reply, Problem> {
        let mut owner = self.owner("", check)?;
        let id = CheckId::parse(check)?;
        loop {
            let (service, instance) = &owner;
            let reported = self.shared.checks.report(service, instance, &id, verdict, output).await;
            // Where the check went to another instance meanwhile, that one has not heard it.
            match self.owner("", check) {
                Ok(other) if other != owner => owner = other,
                Ok(_) | Err(_) => {
                    reported?;
                    return Ok(Reply::empty());
                }
            }
        }
    }

    fn owner(&self, node: &str, check: &str) -> Result<(ServiceName, InstanceId), Problem> {
        self.registry().catalog().owner_of(node, check).ok_or_else(|| Problem::unknown_check(check))
    }

    /// Registration of the local node.
    pub(super) fn own_node(&self) -> Result<Enroll, Problem> {
        let address = self.agent.address.to_string();
        Ok(Enroll {
            service: nodes(),
            id: InstanceId::of_node(""),
            description: Description {
                addresses: [Address::with_any_port(&address, 0, "")?].into(),
                tags: Tags::default(),
                metadata: Metadata::default(),
                weight: Weight::USUAL,
                locality: None,
            },
            listing: Listing { address: address.into(), ..Listing::default() },
            checks: Vec::new(),
            replace_checks: false,
        })
    }
}
