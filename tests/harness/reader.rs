//! A watch that keeps a record.

use callboard::pb::callboard::v1::{WatchRequest, WatchResponse};
use tonic::{Status, Streaming};

use super::{Filter, Heard, Record, Scope, TestClient, View, What, wall, within};

/// Watch with a record of its messages and the view that follows from them.
#[derive(Debug)]
pub struct Reader {
    peer: TestClient,
    pub record: Record,
    pub view: View,
    stream: Option<Streaming<WatchResponse>>,
}

impl Reader {
    pub async fn open(peer: &TestClient, reader: &str, scope: Scope, filter: Filter) -> Self {
        let record = Record::new(reader, scope, filter);
        let mut reader = Self { peer: peer.clone(), record, view: View::default(), stream: None };
        reader.reopen().await.unwrap();
        reader
    }

    /// Watches these services.
    pub async fn of(peer: &TestClient, services: &[&str]) -> Self {
        Self::open(peer, &services.join("+"), Scope::names(services), Filter::NONE).await
    }

    /// Watches these services, up to its first snapshot.
    pub async fn synced(peer: &TestClient, services: &[&str]) -> Self {
        let mut reader = Self::of(peer, services).await;
        reader.until("synced", |view| view.revision > 0).await;
        reader
    }

    /// Opens a stream anew, from the place where the last one ended.
    pub async fn reopen(&mut self) -> Result<(), Status> {
        self.drop_stream();
        let request = WatchRequest {
            filter: self.record.filter.text.to_owned(),
            resume_token: self.view.token.clone(),
            ..self.record.scope.request()
        };
        let resumes = !request.resume_token.is_empty();
        let stream = within("Watch", self.peer.discovery.clone().watch(request)).await?;
        self.note(What::Opened { resumes });
        self.view.open();
        self.stream = Some(stream.into_inner());
        Ok(())
    }

    /// From now on over another connection.
    pub fn move_to(&mut self, peer: &TestClient) {
        self.drop_stream();
        self.peer = peer.clone();
    }

    /// One message further. May be dropped; nothing is lost then.
    pub async fn message(&mut self) -> Result<WatchResponse, Status> {
        let stream = self.stream.as_mut().expect("the stream is open");
        let said = match stream.message().await {
            Ok(Some(message)) => {
                self.view.hear(&message);
                self.note(What::Message(message.clone()));
                return Ok(message);
            }
            Ok(None) => Status::ok("ended"),
            Err(status) => status,
        };
        self.stream = None;
        // What the registry says has no source; a connection that broke is one.
        let broke = std::error::Error::source(&said).is_some();
        self.note(What::Ended((!broke).then_some(said.code())));
        Err(said)
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
        self.record.heard.push(Heard { at: wall(), what });
    }
}
