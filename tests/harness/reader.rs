//! A watch that keeps a record.

use callboard::pb::callboard::v1::{WatchRequest, WatchResponse};
use tonic::{Status, Streaming};

use super::{Filter, Observation, Record, Scope, TestClient, View, What, wall, within};

/// Watch with a record of its messages and the view that follows from them.
#[derive(Debug)]
pub struct Reader {
    client: TestClient,
    pub record: Record,
    pub view: View,
    stream: Option<Streaming<WatchResponse>>,
}

impl Reader {
    pub async fn open(client: &TestClient, reader: &str, scope: Scope, filter: Filter) -> Self {
        let record = Record::new(reader, scope, filter);
        let mut reader = Self { client: client.clone(), record, view: View::default(), stream: None };
        reader.reopen().await.unwrap();
        reader
    }

    /// Watches these services.
    pub async fn of(client: &TestClient, services: &[&str]) -> Self {
        Self::open(client, &services.join("+"), Scope::names(services), Filter::NONE).await
    }

    /// Watches these services, up to its first snapshot.
    pub async fn synced(client: &TestClient, services: &[&str]) -> Self {
        let mut reader = Self::of(client, services).await;
        reader.until("synced", |view| view.revision > 0).await;
        reader
    }

    /// Opens a new stream from the token of the last one.
    pub async fn reopen(&mut self) -> Result<(), Status> {
        self.drop_stream();
        let request = WatchRequest {
            filter: self.record.filter.text.to_owned(),
            resume_token: self.view.token.clone(),
            ..self.record.scope.request()
        };
        let resumes = !request.resume_token.is_empty();
        let stream = within("Watch", self.client.discovery.clone().watch(request)).await?;
        self.note(What::Opened { resumes });
        self.view.open();
        self.stream = Some(stream.into_inner());
        Ok(())
    }

    /// Moves the reader to another connection; its stream ends.
    pub fn move_to(&mut self, client: &TestClient) {
        self.drop_stream();
        self.client = client.clone();
    }

    /// Receives one message. Cancel-safe.
    pub async fn message(&mut self) -> Result<WatchResponse, Status> {
        let stream = self.stream.as_mut().expect("the stream is open");
        let status = match stream.message().await {
            Ok(Some(message)) => {
                self.view.receive(&message);
                self.note(What::Message(message.clone()));
                return Ok(message);
            }
            Ok(None) => Status::ok("ended"),
            Err(status) => status,
        };
        self.stream = None;
        // What the registry says has no source; a connection that broke is one.
        let broke = std::error::Error::source(&status).is_some();
        self.note(What::Ended((!broke).then_some(status.code())));
        Err(status)
    }

    /// Reads until its view is as wanted.
    pub async fn until(&mut self, what: &str, believed: impl Fn(&View) -> bool) {
        let name = self.record.reader.clone();
        let reading = async {
            while !believed(&self.view) {
                self.message().await.unwrap_or_else(|status| panic!("{name}, {what}: {status}"));
            }
        };
        within(&format!("{name}: {what}"), reading).await;
    }

    /// Reads until the stream ends, and says with what.
    pub async fn read_to_the_end(&mut self) -> Status {
        within("the end of the stream", async {
            loop {
                if let Err(status) = self.message().await {
                    return status;
                }
            }
        })
        .await
    }

    fn drop_stream(&mut self) {
        if self.stream.take().is_some() {
            self.note(What::Ended(None));
        }
    }

    fn note(&mut self, what: What) {
        self.record.observations.push(Observation { at: wall(), what });
    }
}
