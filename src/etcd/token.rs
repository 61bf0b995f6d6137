//! Token of the user, which etcd gives for a password.

use http::HeaderValue;
use tokio::time::timeout;

use crate::pb::etcdserverpb::{AuthenticateRequest, auth_client::AuthClient};

use super::{
    connection::{Member, MemberChannel, RequestMetadata},
    error::{EtcdError, EtcdErrorKind, EtcdOutcome},
    options::EtcdCredentials,
};

/// Result of an authentication, shared by all requests until etcd rejects it.
#[derive(Debug, Clone)]
pub(super) struct AuthToken {
    /// Token; `None` if etcd requires none.
    pub(super) value: Option<HeaderValue>,
    /// Number of the authentication; 0 without a user.
    number: u64,
}

/// Newest token of the user.
#[derive(Debug)]
pub(super) struct TokenCell {
    credentials: Option<EtcdCredentials>,
    /// Locked during an authentication, so that there is one at a time.
    token: tokio::sync::Mutex<Option<AuthToken>>,
}

impl TokenCell {
    pub(super) fn new(credentials: Option<EtcdCredentials>) -> Self {
        Self { credentials, token: tokio::sync::Mutex::default() }
    }

    /// Returns a token that is newer than the one that etcd rejected. Authenticates at this member if there is none.
    pub(super) async fn token(
        &self,
        member: &Member,
        request_timeout: std::time::Duration,
        rejected: Option<&AuthToken>,
    ) -> Result<AuthToken, EtcdError> {
        let Some(credentials) = &self.credentials else {
            return match rejected {
                None => Ok(AuthToken { value: None, number: 0 }),
                Some(_) => Err(EtcdError::new(
                    EtcdErrorKind::AuthenticationFailed,
                    EtcdOutcome::NotExecuted,
                    member.url(),
                    "etcd requires a user, and none is configured",
                )),
            };
        };
        let mut newest = self.token.lock().await;
        if let Some(token) = &*newest
            && rejected.is_none_or(|rejected| rejected.number != token.number)
        {
            return Ok(token.clone());
        }
        let number = newest.as_ref().map_or(0, |token| token.number) + 1;
        let authenticated = timeout(request_timeout, authenticate(member, credentials)).await;
        let late = |_| EtcdError::new(EtcdErrorKind::TimedOut, EtcdOutcome::NotExecuted, member.url(), "no token");
        let value = authenticated.map_err(late)?.map_err(EtcdError::before_request)?;
        Ok(newest.insert(AuthToken { value, number }).clone())
    }
}

/// Returns a token, or `None` if etcd requires none.
async fn authenticate(member: &Member, credentials: &EtcdCredentials) -> Result<Option<HeaderValue>, EtcdError> {
    let connection = member.connection().await?;
    let metadata = RequestMetadata { token: None, require_leader: true };
    let request = AuthenticateRequest { name: credentials.user.clone(), password: credentials.password.clone() };
    match AuthClient::new(MemberChannel { connection, metadata }).authenticate(request).await {
        Ok(response) => {
            let mut token = HeaderValue::try_from(response.into_inner().token).map_err(|error| {
                let reason = format!("the token is no header value: {error}");
                EtcdError::new(EtcdErrorKind::InvalidAnswer, EtcdOutcome::NotExecuted, member.url(), reason)
            })?;
            token.set_sensitive(true);
            Ok(Some(token))
        }
        Err(status) if status.message().contains("authentication is not enabled") => Ok(None),
        Err(status) => Err(EtcdError::of_status(member.url(), &status)),
    }
}
